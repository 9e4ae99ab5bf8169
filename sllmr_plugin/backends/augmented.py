"""What every augmented model has in common, whatever its library: the adaptor in copies, weights and optimizer."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import AdaptorWarning, SLLMRError
from ..knowledge.adaptor import Adaptor
from .optimizer import leave_group, sync_group

_GROUP_MARK = "sllmr_adaptor"
_METADATA_KEY = "sllmr_adaptor"
_FILE = "adaptor.safetensors"

_Base: Any = object  # the real base, a model class, is put behind the mixin when a model is augmented


class Augmentation:
    """What an augmented model carries as ``model.augmentation``, outside the module tree.

    Users do not build one; `augment` does.

    Parameters
    ----------
    adaptor : Adaptor
        Fills the columns.
    user, item : str
        Id features.
    """

    def __init__(self, adaptor: Adaptor, user: str, item: str) -> None:
        self.adaptor = adaptor
        self.user = user
        self.item = item

    def columns(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the dense columns of (n_rows,) int64 codes by name: (n_rows, width) each."""
        widths = self.adaptor.widths
        together = self.adaptor(users, items).split(list(widths.values()), dim=1)
        return dict(zip(widths, together, strict=True))

    def backbone_items(self, users: Tensor, items: Tensor) -> Tensor | None:
        """Return the item codes that the model gets in place of those of the rows, (n_rows,) each; None if the same."""
        return self.adaptor.backbone_items(users, items) if self.adaptor.replaces_items else None

    def next_step(self) -> None:
        """Tell the adaptor that a training step is over; outside of training nothing is."""
        if torch.is_grad_enabled():
            self.adaptor.next_step()

    def inputs(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return dense columns, (n_rows, width) each, under the names of the model's own inputs."""
        return dict(columns)

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
    """Put before a model class by a library's own mixin, which fills the columns; needs an `Augmentation`.

    `augment` builds the combined class and swaps it in; there is no need to inherit from this by hand.
    """

    optimizer_name: ClassVar[str]
    """Attribute under which the library's models keep their optimizer."""

    augmentation: Augmentation

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
        """Pickle and copy by mixin and plain class, since the combined one is made at run time."""
        _, _, *rest = super().__reduce_ex__(protocol)
        return (new_augmented, (augment_mixin(type(self)), unaugmented_class(type(self))), *rest)


@functools.cache
def augmented_class(mixin: type, plain: type) -> type:
    """Return the class that puts a library's mixin before a model class, the same one every time."""
    members: dict[str, Any] = {"__module__": plain.__module__, "__doc__": plain.__doc__}
    return type(f"Augmented{plain.__name__}", (mixin, plain), members)


def unaugmented_class(cls: type) -> type:
    """Return the class behind `AugmentMixin`; a class without it as it is."""
    ancestors = cls.__mro__
    return ancestors[ancestors.index(AugmentMixin) + 1] if AugmentMixin in ancestors else cls


def augment_mixin(cls: type) -> type | None:
    """Return the library's mixin of an augmented class; None of one without."""
    ancestors = cls.__mro__
    return ancestors[ancestors.index(AugmentMixin) - 1] if AugmentMixin in ancestors else None


def new_augmented(mixin: type, plain: type) -> nn.Module:
    """Return an empty instance of a model class with a library's mixin before it."""
    instance: nn.Module = object.__new__(augmented_class(mixin, plain))
    return instance


def sync_adaptor(model: Any) -> None:
    """Give the adaptor's parameters to the optimizer, as a group of their own; see `sync_group`."""
    sync_group(model, _GROUP_MARK, model.augmentation.adaptor.parameters())


def adaptor_leaves_optimizer(model: Any) -> None:
    """Take the adaptor's parameters, and what was learnt of them, out of the optimizer."""
    leave_group(model, _GROUP_MARK)
