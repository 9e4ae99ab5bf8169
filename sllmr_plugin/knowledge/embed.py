"""EmbedAdaptor: vectors of items and users through perceptrons, as dense inputs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import VectorsError
from ..scores.ids import IdIndex
from .adaptor import Adaptor, by_distinct, seeded
from .histories import HistoryVectors
from .id_vectors import Vectors, VectorSource
from .vectors import EncodedTexts, directions

USERS = ("auto", "vectors", "history", "none")


class EmbedAdaptor(Adaptor):
    """Fills the dense columns ``embed_item`` and, unless users have no vectors, ``embed_user``, each by a perceptron.

    The vectors stay as they are; two layers that are trained with the model bring them into the recommender's space, as
    in AlphaRec (Sheng et al., "Language Representations Can be What Recommenders Need", ICLR 2025, arXiv:2407.05441).
    Of a vector only the direction from the items' mean counts. Items and users without a vector share one that is
    learned and starts as zeros.

    Unlike `initialise` and the regularizer this changes inference: the columns have to be computed, by the model while
    it is augmented, or beforehand with `sllmr_plugin.serving_table`.

    Parameters
    ----------
    vectors : path, pandas.DataFrame, mapping or Vectors
        As `Vectors.read` takes them: a text table, a table with titles, or vectors of your own, by raw id.
    user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
        Raw id -> code in the model's input. Default: the ids are the codes.
    users : {"auto", "vectors", "history", "none"}, default="auto"
        Where the vectors of users come from: their own in `vectors`, the mean over the items that they took in training
        (without the item of the row, see `HistoryVectors`), or nowhere. ``auto`` is ``vectors`` where users have some,
        else ``history`` where `x` and `y` are given, else ``none``.
    x, y : mapping of str to array, and array, optional
        Who took what: the training rows' columns `user` and `item`, as codes, and labels. Only for ``history``.
    user, item : str, default="user_id" and "item_id"
        Names of these columns.
    dim : int, default=32
        Dimension of each column.
    hidden : int, default=128
        Width of the hidden layers.
    seed : int, default=0
        Of the initial weights.
    **options
        Of `Vectors.read`: ``titles``, ``encoder``.

    Raises
    ------
    VectorsError
        If there are no vectors, an argument makes no sense, or no id has a code.
    """

    def __init__(
        self,
        vectors: VectorSource,
        *,
        user_index: IdIndex | None = None,
        item_index: IdIndex | None = None,
        users: str = "auto",
        x: Mapping[str, np.ndarray] | None = None,
        y: np.ndarray | None = None,
        user: str = "user_id",
        item: str = "item_id",
        dim: int = 32,
        hidden: int = 128,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if users not in USERS or dim < 1 or hidden < 1:
            raise VectorsError(
                f"users={users!r} must be one of {USERS}, dim={dim!r} and hidden={hidden!r} at least 1. Change them."
            )
        read = Vectors.read(vectors, **options)
        if users == "auto":
            users = "vectors" if read.users is not None else "history" if x is not None and y is not None else "none"
        if users == "vectors" and read.users is None:
            raise VectorsError(
                f"users='vectors', and {read.source} has none of users. Use users='history' with x and y, or 'none'."
            )
        if users == "history" and (x is None or y is None):
            raise VectorsError("users='history' needs x and y: the id columns and the labels of the training rows.")
        encoded = _encoded(read, users == "vectors", user_index, item_index)
        super().__init__(encoded)
        self.histories: HistoryVectors | None = None
        if users == "history":
            assert x is not None
            self.histories = HistoryVectors(self.items, _taken(x[user], x[item], y))
            self._lookups["user"] = "histories"
        kinds = [kind for kind in ("item", "user") if kind in self._lookups]
        self.widths = {f"embed_{kind}": dim for kind in kinds}
        self.sides = {f"embed_{kind}": kind for kind in kinds}
        with seeded(seed):
            self.item_side = _perceptron(encoded.dim, hidden, dim)
            self.user_side = _perceptron(encoded.dim, hidden, dim) if "user" in self._lookups else None

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the columns of (n,) int64 codes side by side, (n, dim) each: the item's, then the user's."""
        columns = [by_distinct(lambda codes: self.item_side(self.items(codes)), items)]
        side = self.user_side
        if side is not None and self.histories is not None and torch.is_grad_enabled():
            row = self.items.rows(items)
            own = row, self.items.vectors[row]
            columns.append(side(self.histories(users, without=own)))  # a row that trains must not find its item there
        elif side is not None:
            vectors = self.users if self.histories is None else self.histories
            columns.append(by_distinct(lambda codes: side(vectors(codes)), users))
        return torch.cat(columns, dim=1)


def _perceptron(dim_in: int, hidden: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim_in, hidden), nn.ReLU(), nn.Linear(hidden, dim))


def _taken(users: Any, items: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return user and item codes of the positive rows."""
    positive = np.ravel(y) > 0.5
    columns = np.ravel(users), np.ravel(items)
    if {len(column) for column in columns} != {len(positive)}:
        raise VectorsError(
            f"x has {len(columns[0])} users and {len(columns[1])} items, y {len(positive)} labels. Give a label a row."
        )
    return columns[0][positive], columns[1][positive]


def _encoded(read: Vectors, with_users: bool, user_index: IdIndex | None, item_index: IdIndex | None) -> EncodedTexts:
    """Return vectors by code, each a direction from the items' mean, of root mean square 1."""
    centre = read.items.matrix.mean(axis=0, dtype=np.float64)
    codes, vectors = {}, {}
    for kind, of_kind, index in (("item", read.items, item_index), ("user", read.users, user_index)):
        if of_kind is None or (kind == "user" and not with_users):
            continue
        codes[kind], matrix = of_kind.by_code(index, sys.maxsize, what=f"{kind}s")
        if len(codes[kind]) == 0:
            raise VectorsError(
                f"{read.source}: none of the {len(of_kind)} {kind}s has a code (the first is {of_kind.ids.iloc[0]!r}). "
                f"Pass {kind}_index=, which says what code each raw id has."
            )
        vectors[kind] = directions(matrix, centre).astype(np.float32)
    return EncodedTexts(codes, vectors)
