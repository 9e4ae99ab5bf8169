"""`augment`, `unaugment` and `materialize`: an adaptor's dense inputs on a live model, and without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from ..errors import AugmentError, NotAugmentedError
from ..knowledge.adaptor import Adaptor
from .base import backend_of
from .deepctr import import_deepctr_torch
from .deepctr.augmented import (
    Augmentation,
    AugmentMixin,
    adaptor_leaves_optimizer,
    augmented_class,
    sync_adaptor,
    unaugmented_class,
)
from .deepctr.checks import augment_problems
from .deepctr.mixin import BACKEND, SLLMRMixin

Model = TypeVar("Model", bound=Any)  # a DeepCTR-Torch model; the library has no types

_ROWS_PER_BLOCK = 4096


def dense_columns(adaptor: Adaptor) -> list[Any]:
    """Return the `DenseFeat` columns that a model must be built with to take an adaptor.

    Parameters
    ----------
    adaptor : Adaptor
        For instance a `KARAdaptor`.

    Returns
    -------
    list of DenseFeat
        To be added to the feature columns of the linear and the deep part.
    """
    inputs = import_deepctr_torch().inputs
    return [inputs.DenseFeat(name, width) for name, width in adaptor.widths.items()]


def augment(model: Model, adaptor: Adaptor, *, user: str, item: str) -> Model:
    """Let an adaptor fill dense columns of a model, in training and in prediction; before or after `compile`.

    The model is changed in place: its class becomes a subclass of its own class and it gains the attribute
    `augmentation`. Its ``state_dict`` keys stay; the adaptor is trained by the same optimizer. Inputs given as
    dictionaries may leave the columns out.

    With the regularizer too, call this first and `wrap` after it.

    Parameters
    ----------
    model : deepctr_torch model
        Built with the columns that `dense_columns` returns.
    adaptor : Adaptor
        `KARAdaptor` or `LLMCFAdaptor`.
    user, item : str
        The model's features that carry the ids.

    Returns
    -------
    deepctr_torch model
        The same object.

    Raises
    ------
    AugmentError
        Listing every reason why this model cannot be augmented like this.

    Examples
    --------
    >>> adaptor = KARAdaptor(TextTable.read("texts.parquet"))  # doctest: +SKIP
    >>> model = DeepFM(columns + dense_columns(adaptor), columns + dense_columns(adaptor))  # doctest: +SKIP
    >>> model = augment(model, adaptor, user="user_id", item="item_id")  # doctest: +SKIP
    """
    if isinstance(model, AugmentMixin):
        raise AugmentError(["the model is augmented already. Call unaugment(model) first."])
    if isinstance(model, SLLMRMixin):
        raise AugmentError(
            [
                "the model is wrapped, and the extra rows of its training need the adaptor's columns. Call "
                "unwrap(model), then augment, then wrap."
            ]
        )
    if backend_of(model) is not BACKEND:
        raise AugmentError([f"a {type(model).__name__} is no DeepCTR-Torch model. Pass a deepctr_torch.models model."])
    if not isinstance(adaptor, Adaptor):
        raise AugmentError([f"a {type(adaptor).__name__} is no adaptor. Pass a KARAdaptor or LLMCFAdaptor."])
    problems = augment_problems(model, user, item, adaptor.widths)
    if problems:
        raise AugmentError(problems)
    adaptor.to(model.device)
    model.__dict__["augmentation"] = Augmentation(adaptor, user, item, model.feature_index)
    plain: type = type(model)
    model.__class__ = augmented_class(plain)
    sync_adaptor(model)
    return model


def unaugment(model: Model) -> Model:
    """Give the plain model back, in place: its own class, no `augmentation`, no adaptor in the optimizer.

    The plain model reads the dense columns from its inputs; compute them with `materialize` first.

    Parameters
    ----------
    model : augmented model
        Trained or not. What it has learnt stays.

    Returns
    -------
    model
        The same object.

    Raises
    ------
    NotAugmentedError
        If the model is not augmented.
    AugmentError
        If it is wrapped as well.
    """
    _require_augmented(model, "unaugment")
    if isinstance(model, SLLMRMixin):
        raise AugmentError(["the model is wrapped as well. Call unwrap(model) first."])
    adaptor_leaves_optimizer(model)
    model.__class__ = unaugmented_class(type(model))
    del model.__dict__["augmentation"]
    return model


def materialize(model: Any, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the adaptor's columns, so that the plain model can be served with them as ordinary inputs.

    Parameters
    ----------
    model : augmented model
        Trained.
    x : mapping of str to ndarray
        The columns of user and item ids, (n_rows,) codes each; others are ignored.

    Returns
    -------
    dict of str to ndarray
        (n_rows, width) float32 a column: ``plain.predict({**x, **columns})`` is what the augmented model predicts.

    Raises
    ------
    NotAugmentedError
        If the model is not augmented.
    """
    augmentation = _require_augmented(model, "materialize")
    ids = [torch.from_numpy(np.ravel(x[name]).astype(np.int64)) for name in (augmentation.user, augmentation.item)]
    widths = augmentation.adaptor.widths
    parts = []
    with torch.no_grad():
        for users, items in zip(*(column.split(_ROWS_PER_BLOCK) for column in ids), strict=True):
            parts.append(augmentation.adaptor(users.to(model.device), items.to(model.device)).float().cpu())
    together = torch.cat(parts).split(list(widths.values()), dim=1)
    return {name: column.numpy() for name, column in zip(widths, together, strict=True)}


def is_augmented(model: object) -> bool:
    """Whether `augment` has been called on a model and `unaugment` has not."""
    return isinstance(model, AugmentMixin)


def _require_augmented(model: Any, operation: str) -> Augmentation:
    if not isinstance(model, AugmentMixin):
        raise NotAugmentedError(
            f"{operation} needs an augmented model, got a {type(model).__name__}. Call augment first."
        )
    return model.augmentation
