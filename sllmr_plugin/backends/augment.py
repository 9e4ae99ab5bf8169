"""`augment`, `unaugment` and `materialize`: an adaptor's dense inputs on a live model, and without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import AugmentError, NotAugmentedError
from ..knowledge.adaptor import Adaptor
from ..scores.ids import IdIndex, keys_and_codes
from .augmented import (
    Augmentation,
    AugmentMixin,
    adaptor_leaves_optimizer,
    augmented_class,
    sync_adaptor,
    unaugmented_class,
)
from .base import backend_of
from .deepctr import import_deepctr_torch
from .step_losses import LossRun, StepLoss, add_loss, check_addable, remove_loss, step_losses
from .wrapped import WrappedMixin

Model = TypeVar("Model", bound=Any)  # a model of a CTR library; these have no types

_ROWS_PER_BLOCK = 4096
NAME = "adaptor"
"""Of an adaptor's loss on the model, and its account: ``sllmr_adaptor``, ``sllmr_adaptor_ids``."""


class AdaptorLoss(StepLoss):
    """The loss that an adaptor adds to training steps, where it has one; its parameters are the adaptor's."""

    def open(self, model: Any) -> LossRun:
        """Return what a call of `fit` holds."""
        return _AdaptorRun(self, model.augmentation)


class _AdaptorRun(LossRun):
    """An `AdaptorLoss` during one call of `fit`."""

    def __init__(self, loss: AdaptorLoss, augmentation: Augmentation) -> None:
        self._users, self._items = augmentation.user, augmentation.item
        super().__init__(loss.name, loss.weight, (self._users, self._items))
        self._adaptor = augmentation.adaptor

    def compute(self, codes: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Return the adaptor's mean loss of a step's rows and the number of its terms."""
        return self._adaptor.loss(codes[self._users], codes[self._items])


def dense_columns(adaptor: Adaptor) -> list[Any]:
    """Return the `DenseFeat` columns that a model must be built with to take an adaptor.

    Parameters
    ----------
    adaptor : Adaptor
        For instance an `EmbedAdaptor`.

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
    model : deepctr_torch or fuxictr.pytorch model
        Built with the columns that `dense_columns` returns, or on the feature map that `dense_features` returns.
    adaptor : Adaptor
        `EmbedAdaptor`, `KARAdaptor`, `LLMCFAdaptor`, `CURecAdaptor` or `RecLMAdaptor`.
    user, item : str
        The model's features that carry the ids.

    Returns
    -------
    model
        The same object.

    Raises
    ------
    AugmentError
        Listing every reason why this model cannot be augmented like this.
    UnsupportedModelError
        If the adaptor adds a loss, and the model's `fit` cannot be reached.

    Examples
    --------
    >>> adaptor = KARAdaptor(TextTable.read("texts.parquet"))  # doctest: +SKIP
    >>> model = DeepFM(columns + dense_columns(adaptor), columns + dense_columns(adaptor))  # doctest: +SKIP
    >>> model = augment(model, adaptor, user="user_id", item="item_id")  # doctest: +SKIP
    """
    if isinstance(model, AugmentMixin):
        raise AugmentError(["the model is augmented already. Call unaugment(model) first."])
    if isinstance(model, WrappedMixin):
        raise AugmentError(
            [
                "the model is wrapped, and the extra rows of its training need the adaptor's columns. Call "
                "unwrap(model), then augment, then wrap."
            ]
        )
    _require_no_losses(model, "augment first, then align")
    backend = backend_of(model)
    if backend is None:
        raise AugmentError(
            [
                f"a {type(model).__name__} is neither a DeepCTR-Torch nor a FuxiCTR model. Pass a deepctr_torch.models "
                "model, or one that derives from fuxictr.pytorch.models.BaseModel."
            ]
        )
    if not isinstance(adaptor, Adaptor):
        raise AugmentError(
            [
                f"a {type(adaptor).__name__} is not an adaptor. Pass an EmbedAdaptor, KARAdaptor, LLMCFAdaptor, "
                "CURecAdaptor or RecLMAdaptor."
            ]
        )
    problems, augmentation = backend.augmentation(model, adaptor, user, item)
    if problems:
        raise AugmentError(problems)
    if adaptor.loss_weight > 0:
        check_addable(model, NAME)
    adaptor.to(model.device)
    model.__dict__["augmentation"] = augmentation
    plain: type = type(model)
    model.__class__ = augmented_class(backend.augment_mixin, plain)
    sync_adaptor(model)
    if adaptor.loss_weight > 0:
        add_loss(model, AdaptorLoss(NAME, adaptor.loss_weight))
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
    if isinstance(model, WrappedMixin):
        raise AugmentError(["the model is wrapped as well. Call unwrap(model) first."])
    _require_no_losses(model, "then unaugment")
    remove_loss(model, NAME)
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
        (n_rows, width) float32 per column: ``plain.predict({**x, **columns})`` is what the augmented model predicts.
        Where the adaptor has the model do without the ids of some items (`RecLMAdaptor`), also the column of item ids,
        with the codes that it gets.

    Raises
    ------
    NotAugmentedError
        If the model is not augmented.
    """
    augmentation = _require_augmented(model, "materialize")
    ids = [torch.from_numpy(np.ravel(x[name]).astype(np.int64)) for name in (augmentation.user, augmentation.item)]
    users, items = ids
    inputs = augmentation.inputs(_columns(augmentation, users, items, model.device))
    instead = _backbone_items(augmentation, users, items, model.device)
    return inputs if instead is None else {**inputs, augmentation.item: instead}


def serving_table(model: Any, feature: str, index: IdIndex) -> pd.DataFrame:
    """Compute the adaptor's columns of every id of a feature: a plain table to serve from.

    Parameters
    ----------
    model : augmented model
        Trained.
    feature : str
        The user's or the item's feature, as `augment` was told.
    index : mapping, pandas.Series or fitted sklearn LabelEncoder
        Raw id -> code: the ids that are to be in the table.

    Returns
    -------
    pandas.DataFrame
        A row an id: the raw id under the feature's name, and each column that it decides, a float32 vector a cell. The
        numbers are what the adaptor gives for these codes in one call of it, bit for bit; calls with fewer codes may
        round the last bit otherwise, as matrix products do. Where the adaptor has the model do without the ids of some
        items, ``{feature}_code`` (int64) is the code that the model gets for each item.

    Raises
    ------
    NotAugmentedError
        If the model is not augmented.
    AugmentError
        If this feature alone decides none of the columns.
    """
    augmentation = _require_augmented(model, "serving_table")
    kind = {augmentation.user: "user", augmentation.item: "item"}.get(feature)
    names = [name for name, side in augmentation.adaptor.sides.items() if side == kind]
    if not names:
        raise AugmentError(
            [
                f"{feature!r} alone decides no column of {type(augmentation.adaptor).__name__} (there are "
                f"{', '.join(f'{name}: {side}' for name, side in augmentation.adaptor.sides.items()) or 'none'}). "
                "Compute the columns of user and item together with materialize(model, x)."
            ]
        )
    ids, codes = keys_and_codes(index, feature)
    asked = torch.from_numpy(codes)
    other = torch.zeros_like(asked)
    users, items = (asked, other) if kind == "user" else (other, asked)
    columns = _columns(augmentation, users, items, model.device)
    table = pd.DataFrame({feature: ids, **{name: list(columns[name]) for name in names}})
    instead = _backbone_items(augmentation, users, items, model.device) if kind == "item" else None
    return table if instead is None else table.assign(**{f"{feature}_code": instead})


def _backbone_items(augmentation: Augmentation, users: Tensor, items: Tensor, device: Any) -> np.ndarray | None:
    """Return the item codes, (n_rows,) int64, that the model gets in prediction; None if they are those of the rows."""
    with torch.no_grad():
        instead = augmentation.backbone_items(users.to(device), items.to(device))
    return None if instead is None else instead.cpu().numpy()


def _columns(augmentation: Augmentation, users: Tensor, items: Tensor, device: Any) -> dict[str, np.ndarray]:
    """Return the adaptor's columns of (n_rows,) int64 codes, (n_rows, width) float32 each."""
    with torch.no_grad():
        blocks = [
            augmentation.columns(some_users.to(device), some_items.to(device))
            for some_users, some_items in zip(users.split(_ROWS_PER_BLOCK), items.split(_ROWS_PER_BLOCK), strict=True)
        ]
    return {
        name: torch.cat([block[name].float().cpu() for block in blocks]).numpy() for name in augmentation.adaptor.widths
    }


def is_augmented(model: object) -> bool:
    """Whether `augment` has been called on a model and `unaugment` has not."""
    return isinstance(model, AugmentMixin)


def _require_no_losses(model: Any, then: str) -> None:
    names = ", ".join(name for name in step_losses(model) if name != NAME)
    if names:
        raise AugmentError([f"the model has losses of its own beside the library's ({names}). Undo them, {then}."])


def _require_augmented(model: Any, operation: str) -> Augmentation:
    if not isinstance(model, AugmentMixin):
        raise NotAugmentedError(
            f"{operation} needs an augmented model, got a {type(model).__name__}. Call augment first."
        )
    return model.augmentation
