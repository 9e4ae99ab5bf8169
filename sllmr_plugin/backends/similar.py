"""`similar_users`: embeddings of users are pulled towards those of users who are alike; serving stays as it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CoverageWarning, VectorsError
from ..knowledge.id_vectors import Vectors, VectorSource
from ..knowledge.similar import nearest_rows
from ..regions import cold_users
from ..scores.ids import IdIndex
from .embeddings import KnownIds, tables_of, training_codes
from .known_vectors import known_items, known_users, n_codes, users_from
from .step_losses import LossRun, StepLoss, add_loss, check_addable, remove_loss

NAME = "similar"
"""Of the loss on the model, and its account: ``sllmr_similar``, ``sllmr_similar_ids``."""

GATES = (False, "cold")
DEFAULT_WEIGHT = 10.0
DEFAULT_NEIGHBOURS = 10


class _Neighbours(KnownIds):
    """Users with a loss, and the codes of the users nearest to each, (k, count)."""

    near: Tensor

    def __init__(self, feature: str, codes: np.ndarray, near: np.ndarray, size: int) -> None:
        super().__init__(feature, codes, np.empty((len(codes), 0)), size)
        self.register_buffer("near", torch.from_numpy(near), persistent=False)


class SimilarLoss(StepLoss):
    """``weight * mean((E_u - sg(mean of E_v over the neighbours v of u))^2)`` over a step's users.

    Parameters
    ----------
    side : _Neighbours
        The users that have a loss.
    weight : float
        Of the mean.
    """

    def __init__(self, side: _Neighbours, weight: float) -> None:
        super().__init__(NAME, weight)
        self.side = side

    def open(self, model: Any) -> LossRun:
        """Return what a call of `fit` holds."""
        return _SimilarRun(self, list(tables_of(model, self.side.feature).values()))


class _SimilarRun(LossRun):
    """A `SimilarLoss` during one call of `fit`, with the users' tables."""

    def __init__(self, loss: SimilarLoss, tables: list[nn.Embedding]) -> None:
        super().__init__(loss.name, loss.weight, (loss.side.feature,), tables)
        self._side, self._tables = loss.side, tables

    def compute(self, codes: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Return the mean over the step's users that have neighbours, of several tables their mean, and how many."""
        side = self._side
        rows = side.rows(codes[side.feature])
        if len(rows) == 0:
            return torch.zeros(()), 0
        losses = []
        for table in self._tables:
            wanted = table.weight.detach()[side.near[rows]].mean(dim=1)
            losses.append((side.look_up(rows, table, self.lookups) - wanted).square().mean())
        return torch.stack(losses).mean(), len(rows)


@dataclass(frozen=True, eq=False)
class SimilarUsers:
    """What `similar_users` has done; print it. `undo` takes the loss off again.

    Attributes
    ----------
    vectors : Vectors
        By which users are alike.
    users : str
        Whether by their own vectors, or by their history.
    weight : float
        Of the loss.
    neighbours : int
        Users that each is pulled towards.
    n_users : int
        Users that have a loss, of `user_rows` in all.
    user_rows : int
    """

    vectors: Vectors
    users: str
    weight: float
    neighbours: int = 0
    n_users: int = 0
    user_rows: int = 0

    def undo(self, model: nn.Module) -> None:
        """Give a model back without the loss; what it has learnt stays."""
        remove_loss(model, NAME)

    def __str__(self) -> str:
        if self.n_users == 0:
            return "no similar users: weight 0 leaves the model as it is"
        return (
            f"pulling {self.n_users} of {self.user_rows} user rows towards their {self.neighbours} nearest by "
            f"{self.users} of {self.vectors.source}, weight {self.weight:g}"
        )


def similar_users(
    model: Any,
    vectors: VectorSource,
    *,
    user: str,
    item: str,
    x: Mapping[str, Any] | None = None,
    y: Any = None,
    users: str = "auto",
    neighbours: int = DEFAULT_NEIGHBOURS,
    weight: float = DEFAULT_WEIGHT,
    gated: bool | str = False,
    cold_threshold: int = 3,
    user_index: IdIndex | None = None,
    item_index: IdIndex | None = None,
    **options: Any,
) -> SimilarUsers:
    """Let `model.fit` pull the embeddings of a step's users towards those of similar users; before or after `compile`.

    The retrieval-augmented self-distillation of LLM-ESR (Liu et al., NeurIPS 2024, arXiv:2405.20646, Sec. 3.4): users
    with few interactions learn from users whom a language model describes alike. LLM-ESR compares what a sequence
    encoder makes of a user. A CTR model has no such layer: what its last layer reads belongs to a user and an item
    together, and that of the neighbours would cost forward passes of their rows. So the representation is the
    embedding of the user's id. The neighbours' is constant in the gradient.

    The model is changed in place; its ``state_dict`` keys and predictions stay the plain model's. It works with `wrap`,
    `align` and `distill_features` in any order.

    Parameters
    ----------
    model : deepctr_torch or fuxictr.pytorch model
        Plain, augmented or wrapped.
    vectors : path, pandas.DataFrame, mapping or Vectors
        See `Vectors.read`.
    user, item : str
        The model's features that carry the ids.
    x, y : mapping of str to array, and array, optional
        The training rows' columns `user` and `item`, as codes, and labels. With them, only users with a training
        positive are neighbours: the embedding of another has learnt nothing.
    users : {"auto", "vectors", "history"}, default="auto"
        Users are alike by their own vectors, such as profiles, or by the mean over the items that they took in training
        (of `x` and `y`). ``auto`` is ``vectors`` where there are some.
    neighbours : int, default=10
        Users that each is pulled towards.
    weight : float, default=10
        Of the mean over the step's users and the numbers of an embedding. Beside DeepCTR-Torch's loss, a sum over rows,
        it is multiplied by the rows of the batch, so that it means the same beside either library. 0 leaves the model
        as it is.
    gated : bool or str, default=False
        ``"cold"``: only cold users have a loss. Needs `x` and `y`.
    cold_threshold : int, default=3
        A user with fewer positives is cold.
    user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
        Raw id -> code, as of `wrap`.
    **options
        Of `Vectors.read`: ``titles``, ``encoder``.

    Returns
    -------
    SimilarUsers
        Who is pulled.

    Raises
    ------
    VectorsError
        If no two users are known, the gate leaves none, or an argument makes no sense.
    UnsupportedModelError
        If the model is of neither library, or its `fit` cannot be reached.
    AlreadyWrappedError
        If it has this loss.

    Warns
    -----
    CoverageWarning
        If fewer than half of the user rows are known.

    Examples
    --------
    >>> done = similar_users(model, "llm_texts.parquet", user="user_id", item="item_id", x=x, y=y)  # doctest: +SKIP
    >>> model.fit(x, y, batch_size=256, epochs=3)  # doctest: +SKIP
    >>> done.undo(model)  # doctest: +SKIP
    """
    check_addable(model, NAME)
    if not np.isfinite(weight) or weight < 0 or neighbours < 1 or gated not in GATES:
        raise VectorsError(
            f"weight={weight!r} must be a number of at least 0, neighbours={neighbours!r} at least 1, gated={gated!r} "
            f"one of {', '.join(map(repr, GATES))}."
        )
    has_history = x is not None and y is not None
    if gated and not has_history:
        raise VectorsError(f"gated={gated!r} needs x and y, the id columns and the labels of the training rows.")
    read = Vectors.read(vectors, **options)
    where = users_from(users, read, has_history)
    if weight == 0:
        return SimilarUsers(read, where, 0.0)
    size = n_codes(model, user)
    owners = took = np.empty(0, dtype=np.int64)
    if x is not None and y is not None:
        owners, positive = training_codes(x, y, user, size)
        took, _ = training_codes(x, y, item, n_codes(model, item))
        owners, took = owners[positive], took[positive]
    items = known_items(model, read, item, item_index)
    codes, rows = known_users(model, read, user, user_index, where, items, lambda: (owners, took))
    counts = np.bincount(owners, minlength=size)[codes]
    among = np.flatnonzero(counts > 0) if has_history else np.arange(len(codes))
    if len(among) < 2:
        raise VectorsError(
            f"{len(among)} users have a vector in {read.source} and, in x and y, a training positive, and users are "
            "pulled towards each other. Give vectors of more users, and check user_index and the codes in x."
        )
    count = min(neighbours, len(among) - 1)
    near = codes[nearest_rows(rows, among, count)]
    is_open = cold_users(counts, cold_threshold) if gated else np.ones(len(codes), dtype=bool)
    if not is_open.any():
        raise VectorsError(
            f"gated='cold' leaves no user: each of {len(codes)} has {cold_threshold} positives or more. Raise "
            "cold_threshold, or use gated=False."
        )
    if 2 * len(codes) < size:
        warnings.warn(
            f"{len(codes)} of {size} rows of the user embedding are of users that {read.source} knows; the others are "
            "pulled nowhere. Check that ids and user_index are those of the model.",
            CoverageWarning,
            stacklevel=2,
        )
    add_loss(model, SimilarLoss(_Neighbours(user, codes[is_open], near[is_open], size), weight))
    return SimilarUsers(read, where, weight, count, int(is_open.sum()), size)
