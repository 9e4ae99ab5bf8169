"""`add_synthetic`: each training step also learns from some synthetic interactions, at a weight of their own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import SelectiveConfig
from ..datasets.negatives import UnseenItems
from ..datasets.synthetic import SyntheticInteractions
from ..errors import ConfigError, CoverageError, CoverageWarning, DataError, UnsupportedModelError, WrapError
from ..scores.ids import IdIndex
from ..training.rows import Features, encode_item_table, item_columns, known_item_values
from ..training.sampler import RowBuilder
from .base import Backend
from .first_rows import batch_norms
from .forward import training_mode
from .step_losses import LossRun, StepLoss, StepLossMixin, add_loss, check_addable, remove_loss

NAME = "synthetic"
"""Of the loss on the model, and its account: ``sllmr_synthetic``, ``sllmr_synthetic_rows``."""

DEFAULT_WEIGHT = 0.1
DEFAULT_ROWS = 32


class SyntheticLoss(StepLoss):
    """Weighted cross-entropy of synthetic positives, and of a uniform negative for each.

    Parameters
    ----------
    synthetic : SyntheticInteractions
        By the model's codes.
    features : Features
        How the model's rows are laid out.
    task : int
        Output that is trained.
    item_values : (ndarray, ndarray) or None
        Codes and input columns of items, as `encode_item_table` returns them.
    never : (ndarray, ndarray)
        (n,) user and item codes of pairs that are no negatives.
    weight : float
        Of the mean loss.
    most : int
        Synthetic positives of a step.
    seed : int
        Of the draws.
    """

    def __init__(
        self,
        synthetic: SyntheticInteractions,
        features: Features,
        task: int,
        item_values: tuple[np.ndarray, np.ndarray] | None,
        never: tuple[np.ndarray, np.ndarray],
        weight: float,
        most: int,
        seed: int,
    ) -> None:
        super().__init__(NAME, weight)
        self.synthetic, self.features, self.task = synthetic, features, task
        self.item_values, self.never = item_values, never
        self.most, self.seed = most, seed
        self.n_fits = 0

    def open_for(self, model: Any, arguments: Mapping[str, Any]) -> LossRun:
        """Return what a call of `fit` holds: the rows that can be built from its training rows."""
        self.n_fits += 1  # another call of fit goes on with other draws
        backend = model._sllmr_backend
        features, synthetic = self.features, self.synthetic
        wanted = {features.user: np.unique(synthetic.users), features.item: np.arange(features.n_items)}
        training = backend.rows_behind(model, arguments, features, self.task, wanted)
        found, templates = training.latest_rows(features.user, wanted[features.user])
        templated = wanted[features.user][found]
        users, items = (training.column(name).astype(np.int64) for name in (features.user, features.item))
        catalogue = [items, synthetic.items, *([] if self.item_values is None else [self.item_values[0]])]
        known, values = known_item_values(training, features, np.unique(np.concatenate(catalogue)), self.item_values)
        usable = np.isin(synthetic.users, templated) & np.isin(synthetic.items, known)
        rows = synthetic.kept(usable)
        # Codes of both kinds as places, which count from 1 here.
        user_place, item_place = pd.Index(templated), pd.Index(known)
        positive = training.positive
        never = [
            np.concatenate(parts)
            for parts in zip((users[positive], items[positive]), (rows.users, rows.items), self.never, strict=True)
        ]
        seen = user_place.get_indexer(pd.Index(never[0])), item_place.get_indexer(pd.Index(never[1]))
        both = (seen[0] >= 0) & (seen[1] >= 0)
        unseen = UnseenItems(seen[0][both] + 1, seen[1][both] + 1, n_users=len(templated), n_items=len(known))
        owner = user_place.get_indexer(pd.Index(rows.users))
        has_negative = unseen.count[owner + 1] > 0
        rows, owner = rows.kept(has_negative), owner[has_negative]
        self._check(len(rows), len(synthetic))
        builder = RowBuilder(
            torch.from_numpy(templates),
            torch.from_numpy(item_columns(features.layout, features.item_features)),
            torch.from_numpy(known),
            torch.from_numpy(values),
        )
        return _SyntheticRun(self, model, backend, _Drawer(rows, owner, builder, unseen, known, self._generator()))

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed % 2**63, self.n_fits])

    def _check(self, n_usable: int, n_rows: int) -> None:
        if n_usable == 0:
            raise CoverageError(
                f"none of {n_rows} rows of {self.synthetic.source} can be trained on: their users have no training "
                "row, or their items no item-side columns. Check the ids and indexes, or pass item_table."
            )
        if 2 * n_usable < n_rows and self.n_fits == 1:
            warnings.warn(
                f"{n_usable} of {n_rows} rows of {self.synthetic.source} can be trained on; of the others the users "
                "have no training row, or the items no item-side columns. Check the ids, or pass item_table.",
                CoverageWarning,
                stacklevel=2,
            )


@dataclass(frozen=True, eq=False)
class _Drawer:
    """Draws input rows: synthetic positives, each with a negative.

    Attributes
    ----------
    rows : SyntheticInteractions
        What is drawn from.
    owner : ndarray
        (n,) place of each row's user among the builder's templates.
    builder : RowBuilder
        Makes input rows.
    unseen : UnseenItems
        What may be a negative, by places counted from 1.
    items : ndarray
        (n_items,) codes by place.
    generator : numpy.random.Generator
        Of the draws.
    """

    rows: SyntheticInteractions
    owner: np.ndarray
    builder: RowBuilder
    unseen: UnseenItems
    items: np.ndarray
    generator: np.random.Generator

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Return (2 n, width) rows, the positives first and their negatives in the same order, and (n,) weights."""
        place = self.generator.integers(len(self.rows), size=n)
        owner = self.owner[place]
        negatives = self.items[self.unseen.draw(owner + 1, 1, self.generator)[:, 0] - 1]
        users = torch.from_numpy(np.concatenate([owner, owner]))
        items = torch.from_numpy(np.concatenate([self.rows.items[place], negatives]))
        return self.builder.rows(users, items), torch.from_numpy(self.rows.weights[place])


class _SyntheticRun(LossRun):
    """A `SyntheticLoss` during one call of `fit`."""

    terms = "rows"

    def __init__(self, loss: SyntheticLoss, model: Any, backend: Backend, drawer: _Drawer) -> None:
        super().__init__(loss.name, loss.weight, (loss.features.user,))
        self._model, self._backend, self._drawer = model, backend, drawer
        self._n = min(loss.most, len(drawer.rows))
        self._task = loss.task
        self._norms = batch_norms(model)
        # Beneath the losses, which see the rows of the batch and none of these.
        plain: Any = super(StepLossMixin, model)
        self._forward: Callable[..., Any] = plain.forward

    def compute(self, codes: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Return the mean over the drawn rows, and how many these are; the batch's codes do not matter."""
        rows, weights = self._drawer.draw(self._n)
        rows, weights = rows.to(self._model.device), weights.to(self._model.device)
        # A pass of its own, which leaves batch statistics and, where the library needs it, random numbers alone.
        with self._backend.untouched(self._model), training_mode(self._norms, False):
            output = self._forward(self._backend.inputs(self._model, rows))
        probability = self._backend.outputs(self._model, output)[:, self._task]
        return synthetic_loss(probability, weights), len(rows)


def synthetic_loss(probability: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over rows of the weighted cross-entropy.

    Parameters
    ----------
    probability : Tensor
        (2 n,) of the positives, then of their negatives in the same order.
    weights : Tensor
        (n,) of a positive and its negative.
    """
    positive, negative = probability.chunk(2)
    both = F.binary_cross_entropy(positive, torch.ones_like(positive), reduction="none")
    both = both + F.binary_cross_entropy(negative, torch.zeros_like(negative), reduction="none")
    return (weights.to(both.dtype) * both).mean() / 2


@dataclass(frozen=True, eq=False)
class SyntheticTraining:
    """What `add_synthetic` has done; print it. `undo` takes the loss off again.

    Attributes
    ----------
    synthetic : SyntheticInteractions
        By the model's codes.
    weight : float
        Of the loss; 0 leaves the model as it is.
    rows_per_step : int
        Synthetic positives of a step.
    """

    synthetic: SyntheticInteractions
    weight: float
    rows_per_step: int

    def undo(self, model: nn.Module) -> None:
        """Give a model back without the loss; what it has learnt stays."""
        remove_loss(model, NAME)

    def __str__(self) -> str:
        if self.weight == 0:
            return "no synthetic rows: weight 0 leaves the model as it is"
        return (
            f"training on {len(self.synthetic)} synthetic interactions of {self.synthetic.source}, "
            f"{self.rows_per_step} a step and a negative for each, weight {self.weight:g}"
        )


def add_synthetic(
    model: Any,
    synthetic: str | os.PathLike[str] | pd.DataFrame | SyntheticInteractions,
    *,
    user: str,
    item: str,
    weight: float = DEFAULT_WEIGHT,
    rows_per_step: int = DEFAULT_ROWS,
    item_features: Sequence[str] | None = None,
    item_table: pd.DataFrame | None = None,
    user_index: IdIndex | None = None,
    item_index: IdIndex | None = None,
    never: tuple[np.ndarray, np.ndarray] | None = None,
    task: int | None = None,
    seed: int = 0,
) -> SyntheticTraining:
    """Let `model.fit` learn from synthetic interactions beside the real ones; before or after `compile`.

    Each step adds the cross-entropy of some synthetic positives, and of a negative for each, drawn uniformly from the
    items that the user has no positive with, real or synthetic. A row is the user's latest training row with the
    item-side columns of the item. The model is changed in place; its ``state_dict`` keys and predictions stay the plain
    model's, and it goes with `wrap`, `align` and `initialise` in any order.

    Nothing is known here of what is held out: give a file that `synthesize_interactions` has made from the same
    interactions and split. `sllmr_plugin.compare` checks that.

    Parameters
    ----------
    model : deepctr_torch or fuxictr.pytorch model
        Plain, augmented or wrapped.
    synthetic : path, pandas.DataFrame or SyntheticInteractions
        ``user_id, item_id[, weight]`` by raw id; a `SyntheticInteractions` has the model's codes.
    user, item : str
        The model's features that carry the ids.
    weight : float, default=0.1
        Of the mean over the step's synthetic rows, each of which counts by its own weight. Beside DeepCTR-Torch's loss,
        a sum over rows, it is multiplied by the rows of the batch, so that it means the same beside either library. 0
        leaves the model as it is.
    rows_per_step : int, default=32
        Synthetic positives that a step draws, with replacement.
    item_features, item_table, task
        As of `wrap`.
    user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
        Raw id -> code, as of `wrap`.
    never : (ndarray, ndarray), optional
        (n,) codes of users and items: further pairs that are no negatives, such as validation interactions.
    seed : int, default=0
        Of the draws. The order of batches is the plain model's; where the model has dropout, the extra pass of a
        DeepCTR-Torch model draws from the same random numbers.

    Returns
    -------
    SyntheticTraining
        What is added.

    Raises
    ------
    ConfigError
        If an argument makes no sense.
    DataError, CoverageError
        If the file cannot be used, or no row belongs to a user and an item of the model; in `fit`, if no row can be
        built.
    UnsupportedModelError, WrapError
        If the model is of neither library, predicts no click, or lacks the features.
    AlreadyWrappedError
        If it trains on synthetic rows already.

    Warns
    -----
    CoverageWarning
        In `fit`, if fewer than half of the rows can be built.

    Examples
    --------
    >>> done = add_synthetic(model, "synthetic.parquet", user="user_id", item="item_id")  # doctest: +SKIP
    >>> model.fit(x, y, batch_size=256, epochs=3)  # doctest: +SKIP
    >>> done.undo(model)  # doctest: +SKIP
    """
    backend = check_addable(model, NAME)
    if not np.isfinite(weight) or weight < 0 or rows_per_step < 1:
        raise ConfigError(
            f"weight={weight!r} must be a number of at least 0, and rows_per_step={rows_per_step!r} at least 1."
        )
    problems, features = backend.find_problems(model, user, item, item_features, task, SelectiveConfig(weight=0.0))
    if problems:
        raise WrapError(problems)
    assert features is not None
    if features.regression:
        raise UnsupportedModelError(["the model predicts ratings; a synthetic interaction is a click and has none."])
    if not isinstance(synthetic, SyntheticInteractions):
        user_index = backend.id_index(model, user) if user_index is None else user_index
        item_index = backend.id_index(model, item) if item_index is None else item_index
        synthetic = SyntheticInteractions.read(synthetic, user_index=user_index, item_index=item_index)
    outside = (synthetic.users >= features.n_users) | (synthetic.items >= features.n_items)
    if outside.any():
        raise DataError(
            f"{synthetic.source}: {outside.sum()} of {len(synthetic)} rows have codes that the model has no embedding "
            f"of ({features.n_users} users, {features.n_items} items). Check user_index and item_index."
        )
    item_values = None if item_table is None else encode_item_table(item_table, features, item_index)
    if weight > 0:
        none = np.empty(0, dtype=np.int64)
        loss = SyntheticLoss(
            synthetic, features, task or 0, item_values, never or (none, none), weight, rows_per_step, seed
        )
        add_loss(model, loss)
    return SyntheticTraining(synthetic, weight, rows_per_step)
