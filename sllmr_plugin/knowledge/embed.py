"""EmbedAdaptor: vectors of items and users through perceptrons, as dense inputs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import VectorsError
from ..scores.ids import IdIndex
from .adaptor import Adaptor, by_distinct, seeded
from .id_vectors import Vectors, VectorSource
from .vectors import EncodedTexts, TextVectors, directions

USERS = ("auto", "vectors", "none")


class Side(nn.Module):
    """Vectors v of one side, users or items, through two layers: ``W2 relu(W1 v + b1) + b2``.

    Parameters
    ----------
    vectors : TextVectors
        (n, d).
    dim_in, hidden, dim : int
        d, the width of the hidden layer and of the output.
    """

    def __init__(self, vectors: TextVectors, dim_in: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.layers = nn.Sequential(nn.Linear(dim_in, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, codes: Tensor) -> Tensor:
        """Return (n, dim) of (n,) int64 codes."""
        output: Tensor = self.layers(self.vectors(codes))
        return output


class EmbedAdaptor(Adaptor):
    """Fills the dense column ``embed_item`` and, where users have vectors, ``embed_user``, each by a perceptron.

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
    users : {"auto", "vectors", "none"}, default="auto"
        Whether there is a column of the users' own vectors; ``auto`` is ``vectors`` where there are some.
    dim : int, default=16
        Dimension of each column.
    hidden : int, default=64
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
        dim: int = 16,
        hidden: int = 64,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if users not in USERS or dim < 1 or hidden < 1:
            raise VectorsError(
                f"users={users!r} must be one of {USERS}, dim={dim!r} and hidden={hidden!r} at least 1. Change them."
            )
        read = Vectors.read(vectors, **options)
        if users == "vectors" and read.users is None:
            raise VectorsError(
                f"users='vectors', and {read.source} has none of users. Use users='none', or give profiles as well."
            )
        encoded = _encoded(read, users != "none", user_index, item_index)
        super().__init__(encoded)
        self.widths = {f"embed_{kind}": dim for kind in encoded.codes}
        self.sides = {f"embed_{kind}": kind for kind in encoded.codes}
        with seeded(seed):
            self.item_side = Side(self.items, encoded.dim, hidden, dim)
            self.user_side = Side(self.users, encoded.dim, hidden, dim) if "user" in encoded.codes else None

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the columns of (n,) int64 codes side by side, (n, dim) each: the item's, then the user's."""
        of_items = by_distinct(self.item_side, items)
        if self.user_side is None:
            return of_items
        return torch.cat([of_items, by_distinct(self.user_side, users)], dim=1)


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
