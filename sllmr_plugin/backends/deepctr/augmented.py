"""The mixin that fills dense columns of a DeepCTR-Torch model's input from an adaptor, in training and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...knowledge.adaptor import Adaptor
from ..augmented import Augmentation, AugmentMixin, new_augmented, sync_adaptor
from . import ImportFirst


class MatrixAugmentation(Augmentation):
    """An `Augmentation` of a model whose input is one matrix.

    Parameters
    ----------
    adaptor, user, item
        As of `Augmentation`.
    layout : mapping of str to (int, int)
        Feature name -> first input column and one past the last.
    """

    def __init__(self, adaptor: Adaptor, user: str, item: str, layout: Mapping[str, tuple[int, int]]) -> None:
        super().__init__(adaptor, user, item)
        self._ids = layout[user][0], layout[item][0]
        self._spans = [tuple(layout[name]) for name in adaptor.widths]

    def fill(self, X: Tensor) -> Tensor:
        """Return an input matrix with its dense columns filled in; what stood there does not matter."""
        users, items = (X[:, column].detach().long() for column in self._ids)
        filled = X.clone()
        for (first, end), column in zip(self._spans, self.columns(users, items).values(), strict=True):
            filled[:, first:end] = column
        instead = self.backbone_items(users, items)
        if instead is not None:
            filled[:, self._ids[1]] = instead.to(filled.dtype)
        return filled


class DeepCTRAugmentMixin(AugmentMixin):
    """Put before a DeepCTR-Torch model class, fills its dense columns; needs a `MatrixAugmentation`."""

    optimizer_name = "optim"
    augmentation: MatrixAugmentation

    def get_regularization_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the plain model's, which `fit` asks for once a step."""
        self.augmentation.next_step()
        return super().get_regularization_loss(*args, **kwargs)

    def forward(self, X: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the plain model's output of `X` with the adaptor's columns filled in."""
        output: Tensor = super().forward(self.augmentation.fill(X), *args, **kwargs)
        return output

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

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickle and copy by mixin and plain class, which the library is imported quietly for."""
        _, classes, *rest = super().__reduce_ex__(protocol)
        return (_new_instance, (ImportFirst(), *classes), *rest)


def _new_instance(_: object, mixin: type, plain: type) -> torch.nn.Module:
    return new_augmented(mixin, plain)


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
    """Complete the inputs in the arguments of a call: as they are, or first in a tuple of validation data."""

    def completed(value: Any) -> Any:
        if isinstance(value, tuple) and value and isinstance(value[0], Mapping):
            return (complete(model, value[0]), *value[1:])
        return complete(model, value)

    return tuple(completed(value) for value in args), {name: completed(value) for name, value in kwargs.items()}


def _column(model: Any, x: Any, feature: str) -> np.ndarray:
    """Return a feature of inputs that are a mapping, or a list in the order of the model's features."""
    values = x[feature] if isinstance(x, Mapping) else x[list(model.feature_index).index(feature)]
    return np.ravel(values)
