"""The mixin that fills dense columns of a DeepCTR-Torch model's input from an adaptor, in training and prediction."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from ...errors import AdaptorWarning, SLLMRError
from ...knowledge.adaptor import Adaptor
from ..optimizer import leave_group, sync_group
from . import ImportFirst

_GROUP_MARK = "sllmr_adaptor"
_METADATA_KEY = "sllmr_adaptor"
_FILE = "adaptor.safetensors"

if TYPE_CHECKING:  # the real base is put behind the mixin when a model is augmented
    from deepctr_torch.models.basemodel import BaseModel as _Base
else:
    _Base = object


class Augmentation:
    """What an augmented model carries as ``model.augmentation``, outside the module tree.

    Users do not build one; `augment` does.

    Parameters
    ----------
    adaptor : Adaptor
        Fills the columns.
    user, item : str
        Id features.
    layout : mapping of str to (int, int)
        Feature name -> first input column and one past the last.
    """

    def __init__(self, adaptor: Adaptor, user: str, item: str, layout: Mapping[str, tuple[int, int]]) -> None:
        self.adaptor = adaptor
        self.user = user
        self.item = item
        self._ids = layout[user][0], layout[item][0]
        self._spans = [tuple(layout[name]) for name in adaptor.widths]

    def columns(self, X: Tensor) -> list[Tensor]:
        """Return the dense columns of the rows of an input matrix: (n_rows, width) each, by `Adaptor.widths`."""
        users, items = (X[:, column].detach().long() for column in self._ids)
        return list(self.adaptor(users, items).split(list(self.adaptor.widths.values()), dim=1))

    def fill(self, X: Tensor) -> Tensor:
        """Return an input matrix with its dense columns filled in; what stood there does not matter."""
        filled = X.clone()
        for (first, end), column in zip(self._spans, self.columns(X), strict=True):
            filled[:, first:end] = column
        return filled

    def save(self, directory: str | Path) -> None:
        """Write the adaptor's weights (safetensors) into a folder, to stand beside the model's."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in _distinct_state(self.adaptor).items()}
        safetensors.torch.save_file(state, folder / _FILE)

    def load(self, directory: str | Path) -> None:
        """Read the adaptor's weights back from a folder written by `save`.

        Raises
        ------
        SLLMRError
            If the file is missing or holds the weights of another adaptor.
        """
        path = Path(directory) / _FILE
        if not path.exists():
            raise SLLMRError(f"{path}: no such file. Give a folder written by model.augmentation.save().")
        self.load_state(safetensors.torch.load_file(path), str(path))

    def load_state(self, state: Mapping[str, Tensor], source: str) -> None:
        """Put weights into the adaptor; `SLLMRError` names `source` if they are another adaptor's."""
        own = _distinct_state(self.adaptor)
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in state.items()}:
            raise SLLMRError(
                f"{source} holds the weights of another adaptor than this {type(self.adaptor).__name__}. Build it with "
                "the same arguments and encoder."
            )
        with torch.no_grad():
            for name, tensor in state.items():
                own[name].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the adaptor's weights."""
        return {name: tensor.detach().clone() for name, tensor in _distinct_state(self.adaptor).items()}


def _distinct_state(adaptor: Adaptor) -> dict[str, Tensor]:
    """Return the adaptor's parameters, shared ones under their first name only."""
    return dict(adaptor.named_parameters())


class AugmentMixin(_Base):
    """Put before a DeepCTR-Torch model class, fills its dense columns; needs an `Augmentation` in `augmentation`.

    `augment` builds the combined class and swaps it in; there is no need to inherit from this by hand.
    """

    optimizer_name = "optim"
    augmentation: Augmentation

    def forward(self, X: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the plain model's output of `X` with the adaptor's columns filled in."""
        return super().forward(self.augmentation.fill(X), *args, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the plain model does; inputs given as a dictionary may lack the adaptor's columns.

        Raises
        ------
        CoverageError
            If there is no text of any user, or of any item, of the training rows.
        """
        args, kwargs = _completed_arguments(self, args, kwargs)
        x = kwargs["x"] if "x" in kwargs else args[0] if args else None
        if x is not None:
            users, items = (_column(self, x, name) for name in (self.augmentation.user, self.augmentation.item))
            self.augmentation.adaptor.check_coverage(users, items)
        sync_adaptor(self)
        return super().fit(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict as the plain model does; inputs given as a dictionary may lack the adaptor's columns."""
        args, kwargs = _completed_arguments(self, args, kwargs)
        return super().predict(*args, **kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Configure as the plain model does; the adaptor joins the optimizer."""
        super().compile(*args, **kwargs)
        sync_adaptor(self)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the plain model's ``state_dict``, key by key; the adaptor's weights travel in its metadata.

        So callbacks that keep and restore the best weights keep the adaptor's too.
        """
        state = super().state_dict(*args, **kwargs)
        state._metadata[_METADATA_KEY] = self.augmentation.state()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load what `state_dict` returned.

        Warns
        -----
        AdaptorWarning
            If it carries no weights of an adaptor.
        """
        result = super().load_state_dict(state_dict, *args, **kwargs)
        state = getattr(state_dict, "_metadata", {}).get(_METADATA_KEY)
        if state is None:
            warnings.warn(
                "these weights carry none of the adaptor's, which stays as it is. Save and load the adaptor with "
                "model.augmentation.save() and load().",
                AdaptorWarning,
                stacklevel=2,
            )
        else:
            self.augmentation.load_state(state, "the state_dict")
        return result

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        """Move the adaptor along with `to`, `cuda` and `cpu`."""
        self.augmentation.adaptor._apply(fn)
        return super()._apply(fn, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickle and copy by the plain class, imported quietly: the combined one is made at run time."""
        _, _, *rest = super().__reduce_ex__(protocol)
        return (_new_instance, (ImportFirst(), unaugmented_class(type(self))), *rest)


@functools.cache
def augmented_class(plain: type) -> type:
    """Return the class that puts `AugmentMixin` before a model class, the same one every time."""
    members: dict[str, Any] = {"__module__": plain.__module__, "__doc__": plain.__doc__}
    return type(f"Augmented{plain.__name__}", (AugmentMixin, plain), members)


def unaugmented_class(cls: type) -> type:
    """Return the class behind `AugmentMixin`; a class without it as it is."""
    ancestors = cls.__mro__
    return ancestors[ancestors.index(AugmentMixin) + 1] if AugmentMixin in ancestors else cls


def _new_instance(_: object, plain: type) -> nn.Module:
    instance: nn.Module = object.__new__(augmented_class(plain))
    return instance


def sync_adaptor(model: Any) -> None:
    """Give the adaptor's parameters to the optimizer, as a group of their own; see `sync_group`."""
    sync_group(model, _GROUP_MARK, model.augmentation.adaptor.parameters())


def adaptor_leaves_optimizer(model: Any) -> None:
    """Take the adaptor's parameters, and what was learnt of them, out of the optimizer."""
    leave_group(model, _GROUP_MARK)


def complete(model: Any, x: Any) -> Any:
    """Return inputs with room for the adaptor's columns, if they are a mapping that lacks them.

    Parameters
    ----------
    model : BaseModel
        Augmented or not; if not, the inputs are returned as they are.
    x : mapping of str to ndarray, or anything else
        Input columns by name, of N rows each. Other forms are returned as they are.

    Returns
    -------
    mapping or the input
        With an (N, width) float32 array of zeros for each column that is missing.
    """
    augmentation = getattr(model, "augmentation", None)
    if augmentation is None or not isinstance(x, Mapping) or augmentation.user not in x:
        return x
    n_rows = len(x[augmentation.user])
    widths = augmentation.adaptor.widths.items()
    return {**x, **{name: np.zeros((n_rows, width), np.float32) for name, width in widths if name not in x}}


def _completed_arguments(model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Complete the inputs wherever they stand in a call: as they are, or first in a tuple of validation data."""

    def completed(value: Any) -> Any:
        if isinstance(value, tuple) and value and isinstance(value[0], Mapping):
            return (complete(model, value[0]), *value[1:])
        return complete(model, value)

    return tuple(completed(value) for value in args), {name: completed(value) for name, value in kwargs.items()}


def _column(model: Any, x: Any, feature: str) -> np.ndarray:
    """Return a feature of inputs that are a mapping, or a list in the order of the model's features."""
    values = x[feature] if isinstance(x, Mapping) else x[list(model.feature_index).index(feature)]
    return np.ravel(values)
