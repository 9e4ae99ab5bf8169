"""`initialise`: the embedding tables of a model start from what is known of items and users; serving stays as it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CoverageWarning, UnsupportedModelError, VectorsError
from ..knowledge.id_vectors import Vectors, VectorSource
from ..knowledge.projection import Projection, item_factors
from ..scores.ids import IdIndex
from .anchor import NAME as ANCHOR
from .anchor import AnchorLoss
from .base import backend_of
from .embeddings import KnownIds, fill, known_rows, tables_of, training_codes
from .step_losses import add_loss, check_addable, remove_loss

METHODS = ("svd", "random", "project")
USERS = ("auto", "history", "vectors", "none")
DEFAULT_SCALE = 0.3


@dataclass(eq=False)
class Initialisation:
    """What `initialise` has done; print it. `undo` restores the tables, `embed_new` embeds items that come later.

    Attributes
    ----------
    vectors : Vectors
        What they started from.
    scale : float
        Root mean square of each item row.
    anchor : float
        Weight of the pull towards the start.
    n_items, n_users : int
        Rows that were filled, of `item_rows` and `user_rows` in all.
    tables : tuple of str
        Names of the parameters that were changed.
    """

    vectors: Vectors
    scale: float
    anchor: float = 0.0
    n_items: int = 0
    n_users: int = 0
    item_rows: int = 0
    user_rows: int = 0
    tables: tuple[str, ...] = ()
    _before: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _projections: dict[str, Projection] = field(default_factory=dict, repr=False)
    _codes: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64), repr=False)
    _item_index: IdIndex | None = field(default=None, repr=False)

    def undo(self, model: nn.Module) -> None:
        """Give the tables of a model the values that they had before, and take the anchor off.

        What an optimizer has gathered stays.
        """
        if self.anchor:
            remove_loss(model, ANCHOR)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, before in self._before.items():
                parameters[name].copy_(before)

    def embed_new(
        self, model: nn.Module, vectors: VectorSource, *, item_index: IdIndex | None = None, **options: Any
    ) -> int:
        """Give rows to items that came after training, by the projection that the others started from.

        The ids need codes within the tables, which a vocabulary with room to spare has, and no training row: the rows
        of items that were trained would be lost.

        Parameters
        ----------
        model : nn.Module
            The trained model that was initialised.
        vectors : path, pandas.DataFrame, mapping or Vectors
            Of the new items only; texts are encoded in the space of the first ones.
        item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
            Raw id -> code, with the new ones; default: the one that `initialise` was given.
        **options
            Of `Vectors.read`.

        Returns
        -------
        int
            Rows that were filled.

        Raises
        ------
        VectorsError
            If the vectors are of another length, no id has a code within a table, or one was there from the start.
        """
        read = self.vectors.more(vectors, **options)
        parameters, filled = dict(model.named_parameters()), 0
        index = item_index if item_index is not None else self._item_index
        for name, projection in self._projections.items():
            table = parameters[name]
            codes, matrix = read.items.by_code(index, table.shape[0], what="items")
            there = np.intersect1d(codes, self._codes)
            if len(there):
                raise VectorsError(
                    f"{read.source}: {len(there)} of its items had a row from the start (the first has the code "
                    f"{there[0]}), whose training would be lost. Pass the new items only."
                )
            if matrix.shape[1] != len(projection.centre):
                raise VectorsError(
                    f"{read.source}: vectors of {matrix.shape[1]} numbers, and the first ones had "
                    f"{len(projection.centre)}. Take those of the same encoder."
                )
            fill(table, codes, self.scale * projection(matrix))
            filled = max(filled, len(codes))
        if filled == 0:
            raise VectorsError(
                f"{read.source}: no item has a code within the embedding tables. Pass item_index= with the new ids, "
                "and build models with a vocabulary that has room for them."
            )
        return filled

    def __str__(self) -> str:
        if not self.tables:
            return "not initialised: scale 0 leaves the model as it is"
        return (
            f"initialised {', '.join(self.tables)} from {self.vectors.source}, scale {self.scale:g}: {self.n_items} of "
            f"{self.item_rows} item rows, {self.n_users} of {self.user_rows} user rows"
            + (f"; anchor {self.anchor:g}" if self.anchor else "")
        )


def initialise(
    model: Any,
    vectors: VectorSource,
    *,
    user: str,
    item: str,
    x: Mapping[str, Any] | None = None,
    y: Any = None,
    scale: float = DEFAULT_SCALE,
    method: str = "svd",
    users: str = "auto",
    anchor: float = 0.0,
    user_index: IdIndex | None = None,
    item_index: IdIndex | None = None,
    seed: int = 0,
    **options: Any,
) -> Initialisation:
    """Start a model's embeddings from vectors of its items: a projection of what texts say (Harte et al., RecSys 2023).

    Rows of the item's embedding tables become the vectors' leading principal components, each row scaled to a root mean
    square of `scale`. Rows of the user's tables become the mean over the items that the user has
    taken in training, or the user's own vectors. Rows without a vector keep their start, the linear part is left alone,
    and class, ``state_dict`` keys and serving stay the plain model's. Call it before `fit`, before or after `wrap`.

    Parameters
    ----------
    model : deepctr_torch or fuxictr.pytorch model
        Not trained yet.
    vectors : path, pandas.DataFrame, mapping or Vectors
        As `Vectors.read` takes them: a text table, a table with titles, or vectors of your own, by raw id.
    user, item : str
        The model's features that carry the ids.
    x, y : mapping of str to array, and array, optional
        The training rows' id columns, as codes, and labels: who took what. Without them users have no history.
    scale : float, default=0.3
        Root mean square of each item row. 0 leaves the model as it is.
    method : {"svd", "random", "project"}, default="svd"
        How vectors become as short as the embedding: their leading principal components, a random projection, or the
        linear map that comes closest to the items' factors of the matrix of who took what in training, which needs `x`
        and `y`; see `sllmr_plugin.knowledge.projection`.
    users : {"auto", "history", "vectors", "none"}, default="auto"
        Where user rows come from: the mean of the item rows of their training positives, the users' own vectors in
        `vectors`, or nowhere. ``auto`` is ``history`` where `x` and `y` are given, else ``none``.
    anchor : float, default=0
        Above 0, `fit` pulls rows towards their start: it adds this times the mean over a step's ids of
        ``||E - E0||^2`` and, beside DeepCTR-Torch's loss, a sum over rows, times the rows of the batch.
        `Initialisation.undo` ends it.
    user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
        Raw id -> code, as of `wrap`.
    seed : int, default=0
        Of ``method="random"`` and ``"project"``. The global random numbers are not touched.
    **options
        Of `Vectors.read`: ``titles``, ``encoder``.

    Returns
    -------
    Initialisation
        What was done.

    Raises
    ------
    VectorsError
        If no vector belongs to an item of the model, the model has no embedding of the item, or an argument is not
        valid.
    UnsupportedModelError
        If the model is of neither library.
    AlreadyWrappedError
        If it is anchored already.

    Warns
    -----
    CoverageWarning
        If fewer than half of the item rows get a vector.

    Examples
    --------
    >>> initialise(model, "llm_texts.parquet", user="user_id", item="item_id", x=x, y=y)  # doctest: +SKIP
    """
    backend = backend_of(model)
    if backend is None:
        raise UnsupportedModelError([f"a {type(model).__name__} is neither a DeepCTR-Torch nor a FuxiCTR model."])
    if not 0 <= scale < np.inf or not 0 <= anchor < np.inf or method not in METHODS or users not in USERS:
        raise VectorsError(
            f"scale={scale!r} and anchor={anchor!r} must be numbers of at least 0, method={method!r} one of {METHODS}, "
            f"users={users!r} one of {USERS}."
        )
    if (x is None) != (y is None) or (x is None and (users == "history" or method == "project")):
        raise VectorsError(
            "users='history' and method='project' need x and y: the id columns and the labels of the training rows."
        )
    read = Vectors.read(vectors, **options)
    if users == "vectors" and read.users is None:
        raise VectorsError(f"users='vectors', but {read.source} has none of users. Use users='history' with x and y.")
    if scale == 0:
        return Initialisation(read, 0.0)
    where = "history" if users == "auto" and x is not None else "none" if users == "auto" else users
    item_index = backend.id_index(model, item) if item_index is None else item_index
    user_index = backend.id_index(model, user) if user_index is None else user_index
    item_tables = _weights(model, item)
    user_tables = {} if where == "none" else _weights(model, user)
    taken = None
    if where == "history" or method == "project":
        sizes = (min((len(table) for table in tables.values()), default=None) for tables in (user_tables, item_tables))
        (users_of, positive), (items_of, _) = (
            training_codes(x or {}, y, name, size) for name, size in zip((user, item), sizes, strict=True)
        )
        taken = users_of[positive], items_of[positive]
    if anchor:
        check_addable(model, ANCHOR)
    done = Initialisation(read, scale, anchor, tables=tuple(item_tables), _item_index=item_index)
    starts: dict[str, KnownIds] = {}
    for name, table in item_tables.items():
        codes, matrix = known_rows(read.items, item_index, table.shape[0], "items", read.source)
        if method == "project":
            assert taken is not None
            projection = Projection.onto(matrix, item_factors(*taken, len(table), table.shape[1], seed)[codes])
        else:
            projection = Projection.fit(matrix, table.shape[1], method, seed)
        done._before[name], done._projections[name] = table.detach().clone(), projection
        starts[name] = KnownIds(item, codes, scale * projection(matrix), len(table))
        fill(table, codes, scale * projection(matrix))
        done.n_items, done.item_rows, done._codes = len(codes), table.shape[0], codes
    try:
        of_users = _initialise_users(
            done, user_tables, item_tables, read, user_index, taken if where == "history" else None
        )
    except VectorsError:
        done.undo(model)
        raise
    starts |= {name: KnownIds(user, *rows, len(user_tables[name])) for name, rows in of_users.items()}
    if anchor:
        add_loss(model, AnchorLoss(starts, anchor))
    if 2 * done.n_items < done.item_rows:
        warnings.warn(
            f"{done.n_items} of {done.item_rows} rows of the item embedding have a vector in {read.source}; the others "
            "keep their random start. Check that ids and item_index are those of the model.",
            CoverageWarning,
            stacklevel=2,
        )
    return done


def _initialise_users(
    done: Initialisation,
    user_tables: dict[str, Tensor],
    item_tables: dict[str, Tensor],
    read: Vectors,
    user_index: IdIndex | None,
    taken: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Fill user tables, each from the item table of its size: by who has taken what, else by the users' own vectors.

    Returns codes and rows, (k,) and (k, width), by table.
    """
    filled: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, table in user_tables.items():
        if name in done._before:  # a table that users and items share
            continue
        partner = next((key for key, other in item_tables.items() if other.shape[1] == table.shape[1]), None)
        if partner is None:
            warnings.warn(
                f"{name} has {table.shape[1]} numbers per row and no item table has as many, so users keep their "
                "random start. Give both embeddings one size, or pass users='none'.",
                CoverageWarning,
                stacklevel=3,
            )
            continue
        if taken is not None:
            width = done._projections[partner].directions.shape[1]
            codes, rows = _history_means(*taken, item_tables[partner][:, :width], table.shape[0])
        else:
            assert read.users is not None
            codes, matrix = known_rows(read.users, user_index, table.shape[0], "users", read.source)
            rows = done.scale * done._projections[partner](matrix)
        done._before[name] = table.detach().clone()
        done.tables += (name,)
        fill(table, codes, rows)
        filled[name] = codes, rows
        done.n_users, done.user_rows = len(codes), table.shape[0]
    return filled


def _weights(model: nn.Module, feature: str) -> dict[str, Tensor]:
    """Return a feature's embedding tables by parameter name."""
    return {name: module.weight for name, module in tables_of(model, feature).items()}


def _history_means(
    users: np.ndarray, items: np.ndarray, item_rows: Tensor, n_users: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of users who took something, and the means of their items' rows."""
    rows = item_rows.detach().cpu().double().numpy()
    sums = np.zeros((n_users, rows.shape[1]))
    np.add.at(sums, users, rows[items])
    counts = np.bincount(users, minlength=n_users)
    codes = np.flatnonzero(counts)
    return codes, sums[codes] / counts[codes, None]
