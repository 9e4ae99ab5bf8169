"""`align`: embeddings are pulled towards what is known of their ids, in each training step; serving stays as it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CoverageWarning, UnsupportedModelError, VectorsError
from ..knowledge.adaptor import seeded
from ..knowledge.align import KINDS, Aligner
from ..knowledge.id_vectors import Vectors, VectorSource
from ..knowledge.vectors import directions
from ..regions import cold_users, tail_threshold
from ..scores.ids import IdIndex
from .base import backend_of
from .embeddings import KnownIds, known_rows, tables_of, training_codes
from .step_losses import LossRun, StepLoss, add_loss, remove_loss

NAME = "align"
"""Of the loss on the model, and its account: ``sllmr_align``, ``sllmr_align_ids``."""

GATES = (False, "cold", "tail", "cold,tail")
DEFAULT_WEIGHT = 1e-2
DEFAULT_TAU = 0.2
DEFAULT_IDS = 128


class _Side(KnownIds):
    """Ids of one feature with their vectors, and which of them have a loss: the others serve as negatives."""

    open: Tensor

    def __init__(self, feature: str, codes: np.ndarray, vectors: np.ndarray, n_codes: int, open: np.ndarray) -> None:
        super().__init__(feature, codes, vectors, n_codes)
        self.register_buffer("open", torch.from_numpy(open.astype(np.float32)), persistent=False)


class AlignLoss(StepLoss):
    """What `align` puts on a model: the vectors, and the projections that are trained with it.

    Parameters
    ----------
    sides : list of _Side
        Of items and, maybe, of users.
    aligners : mapping of str to Aligner
        By the size of the embeddings; the tables of a size, users' and items', share one.
    weight : float
        Of the mean loss.
    most : int
        Ids of a side that a step takes.
    seed : int
        Of draws.
    """

    def __init__(
        self, sides: list[_Side], aligners: Mapping[str, Aligner], weight: float, most: int, seed: int
    ) -> None:
        super().__init__(NAME, weight)
        self.sides = nn.ModuleList(sides)
        self.aligners = nn.ModuleDict(aligners)
        self.share = next(iter(aligners.values())).share
        self.most = most
        self.seed = seed
        self.n_fits = 0

    def open(self, model: Any) -> LossRun:
        """Return what a call of `fit` holds."""
        self.n_fits += 1  # another call of fit goes on with other draws
        sides: Any = self.sides
        return _AlignRun(self, [list(tables_of(model, side.feature).values()) for side in sides])


class _AlignRun(LossRun):
    """An `AlignLoss` during one call of `fit`, with the tables of each of its sides."""

    def __init__(self, loss: AlignLoss, tables: list[list[nn.Embedding]]) -> None:
        sides: Any = loss.sides
        features = tuple(side.feature for side in sides)
        super().__init__(loss.name, loss.weight, features, [table for of_side in tables for table in of_side])
        self._sides = list(zip(sides, tables, strict=True))
        self._aligners = loss.aligners
        self._share, self._most = loss.share, loss.most
        self._generator = torch.Generator().manual_seed((loss.seed + loss.n_fits - 1) % 2**63)

    def compute(self, codes: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Return the mean over the step's ids, added up over sides, and the number of ids that have a loss."""
        total, n_open = torch.zeros(()), 0
        for side, embeddings in self._sides:
            rows = self._drawn(side.rows(codes[side.feature]))
            if len(rows) == 0:
                continue
            losses = torch.stack([self._of_table(side, rows, embedding) for embedding in embeddings])
            total = total.to(losses.device) + losses.mean()
            n_open += int(side.open[rows].sum())
        return total, n_open

    def _drawn(self, rows: Tensor) -> Tensor:
        """Return the rows that have a loss in this step: at least two, since one alone has no negative."""
        n_drawn = min(max(2, round(self._share * len(rows))), self._most)
        if n_drawn >= len(rows):
            return rows
        return rows[torch.randperm(len(rows), generator=self._generator)[:n_drawn].to(rows.device)]

    def _of_table(self, side: _Side, rows: Tensor, table: nn.Embedding) -> Tensor:
        """Return the mean loss of ids in one of the feature's tables."""
        aligner: Any = self._aligners[str(table.embedding_dim)]
        mean: Tensor = (side.open[rows] * aligner(side.look_up(rows, table, self.lookups), side.values[rows])).mean()
        return mean


@dataclass(frozen=True, eq=False)
class Alignment:
    """What `align` has done; print it. `undo` takes the loss off again and throws the projections away.

    Attributes
    ----------
    vectors : Vectors
        What the embeddings are pulled towards.
    kind : str
        How.
    weight : float
        Of the loss.
    n_items, n_users : int
        Ids that have a loss, of `item_rows` and `user_rows` in all.
    tables : tuple of str
        Names of the parameters that are aligned.
    """

    vectors: Vectors
    kind: str
    weight: float
    n_items: int = 0
    n_users: int = 0
    item_rows: int = 0
    user_rows: int = 0
    tables: tuple[str, ...] = ()

    def undo(self, model: nn.Module) -> None:
        """Give a model back without the loss; what it has learnt stays, the projections do not."""
        remove_loss(model, NAME)

    def __str__(self) -> str:
        if not self.tables:
            return "not aligned: weight 0 leaves the model as it is"
        return (
            f"aligning {', '.join(self.tables)} with {self.vectors.source}, {self.kind}, weight {self.weight:g}: "
            f"{self.n_items} of {self.item_rows} item rows, {self.n_users} of {self.user_rows} user rows"
        )


def align(
    model: Any,
    vectors: VectorSource,
    *,
    user: str,
    item: str,
    kind: str = "contrastive",
    weight: float = DEFAULT_WEIGHT,
    tau: float = DEFAULT_TAU,
    gated: bool | str = False,
    ids_per_step: int = DEFAULT_IDS,
    x: Mapping[str, Any] | None = None,
    y: Any = None,
    cold_threshold: int = 3,
    tail_quantile: float = 0.2,
    user_index: IdIndex | None = None,
    item_index: IdIndex | None = None,
    seed: int = 0,
    **options: Any,
) -> Alignment:
    """Let `model.fit` pull the embeddings of each step's ids towards their vectors; before or after `compile`.

    The model is changed in place. Its ``state_dict`` keys and predictions stay the plain model's; the projection
    between the two spaces is trained with it, by the same optimizer, and thrown away by `Alignment.undo`. It works with
    `wrap` in either order, and then sees the ids of the candidates, too. Users are aligned where there are vectors of
    users.

    Parameters
    ----------
    model : deepctr_torch or fuxictr.pytorch model
        Plain, augmented or wrapped.
    vectors : path, pandas.DataFrame, mapping or Vectors
        See `Vectors.read`.
    user, item : str
        The model's features that carry the ids.
    kind : {"contrastive", "generative", "soft"}, default="contrastive"
        See `sllmr_plugin.knowledge.align`.
    weight : float, default=1e-2
        Of the mean loss over the step's ids, users' and items' added up. Beside DeepCTR-Torch's loss, a sum over rows,
        it is multiplied by the rows of the batch, so that it means the same beside either library. 0 leaves the model
        as it is.
    tau : float, default=0.2
        Temperature of the softmax over ids; similarities are cosines.
    gated : bool or str, default=False
        ``"cold"``, ``"tail"`` or ``"cold,tail"``: only cold users and long-tail items have a loss; the others still
        serve as negatives. Needs `x` and `y`.
    ids_per_step : int, default=128
        The most ids of a side, items or users, that a step compares; where its rows have more, they are drawn. Each is
        a negative of the others, so time grows with the square.
    x : mapping of str to ndarray, optional
        Training rows: the columns `user` and `item`, (n,) codes each.
    y : ndarray, optional
        (n,) labels.
    cold_threshold : int, default=3
        A user with fewer positives is cold.
    tail_quantile : float, default=0.2
        Share of the items that are long-tail, by positives; see `sllmr_plugin.regions`.
    user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
        Raw id -> code, as of `wrap`.
    seed : int, default=0
        Of the projection's start and of the generative loss's draws. The global random numbers are not touched.
    **options
        Of `Vectors.read`: ``titles``, ``encoder``.

    Returns
    -------
    Alignment
        What is aligned.

    Raises
    ------
    VectorsError
        If no vector belongs to an item of the model, the gate leaves none, the model has no embedding of the item, or
        an argument makes no sense.
    UnsupportedModelError
        If the model is of neither library.
    AlreadyWrappedError
        If it is aligned.

    Warns
    -----
    CoverageWarning
        If fewer than half of the item rows have a vector.

    Examples
    --------
    >>> done = align(model, "llm_texts.parquet", user="user_id", item="item_id")  # doctest: +SKIP
    >>> model.fit(x, y, batch_size=256, epochs=3)  # doctest: +SKIP
    >>> done.undo(model)  # doctest: +SKIP
    """
    backend = backend_of(model)
    if backend is None:
        raise UnsupportedModelError([f"a {type(model).__name__} is neither a DeepCTR-Torch nor a FuxiCTR model."])
    if not np.isfinite(weight) or weight < 0 or not tau > 0 or kind not in KINDS or gated not in GATES:
        raise VectorsError(
            f"weight={weight!r} must be a number of at least 0, tau={tau!r} above 0, kind={kind!r} one of "
            f"{', '.join(KINDS)}, gated={gated!r} one of {', '.join(map(repr, GATES))}."
        )
    if ids_per_step < 2:
        raise VectorsError(f"ids_per_step={ids_per_step!r}, and ids are compared with each other. Take at least 2.")
    if gated and (x is None or y is None):
        raise VectorsError(f"gated={gated!r} needs x and y, the id columns and the labels of the training rows.")
    read = Vectors.read(vectors, **options)
    if weight == 0:
        return Alignment(read, kind, 0.0)
    wanted = [(item, read.items, item_index, "items", "tail")]
    if read.users is not None:
        wanted.append((user, read.users, user_index, "users", "cold"))
    if isinstance(gated, str):
        wanted = [one for one in wanted if one[-1] in gated]
    if not wanted:
        raise VectorsError(
            f"gated='cold' leaves users only, and {read.source} has no vectors of users. Use gated='tail', or give "
            "profiles of users."
        )
    centre = read.items.matrix.mean(axis=0, dtype=np.float64)
    sides: list[_Side] = []
    tables: dict[str, nn.Embedding] = {}
    counts = {"items": (0, 0), "users": (0, 0)}
    for feature, known, index, what, region in wanted:
        found = tables_of(model, feature)
        n_codes = min(table.num_embeddings for table in found.values())
        index = backend.id_index(model, feature) if index is None else index
        codes, matrix = known_rows(known, index, n_codes, what, read.source)
        is_open = np.ones(len(codes), dtype=bool)
        if gated:
            limit = cold_threshold if region == "cold" else tail_quantile
            is_open = _in_region(region, limit, codes, *training_codes(x or {}, y, feature, n_codes), n_codes)
        sides.append(_Side(feature, codes, directions(matrix, centre), n_codes, is_open))
        tables |= found
        counts[what] = int(is_open.sum()), n_codes
    if counts["items"][0] + counts["users"][0] == 0:
        raise VectorsError(
            f"gated={gated!r} leaves no id: no cold user and no long-tail item has a vector in {read.source}. Raise "
            "cold_threshold or tail_quantile, or use gated=False."
        )
    with seeded(seed):
        aligners = {
            str(size): KINDS[kind](len(centre), size, tau)
            for size in sorted({table.embedding_dim for table in tables.values()})
        }
    add_loss(model, AlignLoss(sides, aligners, weight, ids_per_step, seed))
    (n_items, item_rows), (n_users, user_rows) = counts["items"], counts["users"]
    if not gated and 2 * n_items < item_rows:
        warnings.warn(
            f"{n_items} of {item_rows} rows of the item embedding have a vector in {read.source}; the others are not "
            "aligned. Check that ids and item_index are those of the model.",
            CoverageWarning,
            stacklevel=2,
        )
    return Alignment(read, kind, weight, n_items, n_users, item_rows, user_rows, tuple(tables))


def _in_region(
    region: str, limit: float, codes: np.ndarray, rows: np.ndarray, positive: np.ndarray, n_codes: int
) -> np.ndarray:
    """Return which of (k,) codes are cold users, or long-tail items, by their training rows."""
    counts = np.bincount(rows[positive], minlength=n_codes)
    if region == "cold":
        cold: np.ndarray = cold_users(counts[codes], int(limit))
        return cold
    catalogue = np.union1d(rows, codes)
    tail: np.ndarray = counts[codes] <= tail_threshold(counts[catalogue], limit)
    return tail
