"""`PairFeatures`: numbers that say how an item fits a user's history, for models that judge pairs of both."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from .projection import Projection
from .vectors import TextEncoder, TfidfSvdEncoder, encode_finite

Matrix: TypeAlias = "np.ndarray | sparse.csr_matrix"

_ROWS = 8192  # pairs whose similarities to all items of their users' histories are held at a time
_DIM = 256  # of TF-IDF and SVD, as `find_encoder` has it
COMPONENTS = 24


def text_vectors(texts: Sequence[str], encoder: TextEncoder | None = None) -> dict[str, Matrix]:
    """Return what texts of items are compared by: their TF-IDF weights, and the vectors of an encoder.

    Parameters
    ----------
    texts : sequence of str
        (n_items,) text of each item, by code from 1; blank where there is none.
    encoder : TextEncoder, optional
        Default: SVD of the TF-IDF weights.

    Returns
    -------
    dict of str to array or sparse matrix
        ``tfidf`` and ``vectors``: (n_items + 1, d) by code, zeros where there is no text.

    Raises
    ------
    TextEncoderError
        If there is no word in any of them, or the encoder gives vectors that cannot be used.
    """
    known = np.flatnonzero([bool(text.strip()) for text in texts])
    told = [texts[int(position)] for position in known]
    words = TfidfSvdEncoder(dim=_DIM)
    vectors = encode_finite(words, told)
    if encoder is not None:
        vectors = encode_finite(encoder, told)
    placed = sparse.csr_matrix((np.ones(len(known)), (known + 1, np.arange(len(known)))), (len(texts) + 1, len(known)))
    return {"tfidf": (placed @ words.weights(told)).tocsr(), "vectors": placed @ vectors}


class PairFeatures:
    """Features of (user, item) pairs.

    Of every matrix of item vectors: the greatest cosine of the item and an item of the user's history, the cosine of
    the item and the history's mean, and that of the item and the history's last. Then popularity, the length of
    the history, and the leading components of one matrix, of the item and of the history's mean.

    Parameters
    ----------
    matrices : mapping of str to array or sparse matrix
        (n_items + 1, d) vectors by item code; zeros, also in row 0, stand for none. The last dense one is the one that
        components are taken of.
    histories : ndarray of int
        (n_users + 1, length) item codes by user code, oldest first and filled up with 0 on the right.
    popularity : ndarray
        (n_items + 1,) training positives of each item.
    history_length : ndarray
        (n_users + 1,) training positives of each user.
    components : int, default=24
        Leading components.

    Attributes
    ----------
    names : list of str
        What the columns are.
    """

    def __init__(
        self,
        matrices: Mapping[str, Matrix],
        histories: np.ndarray,
        popularity: np.ndarray,
        history_length: np.ndarray,
        *,
        components: int = COMPONENTS,
    ) -> None:
        self._items = {name: _unit(matrix) for name, matrix in matrices.items()}
        self._of_item = np.log1p(popularity)[:, None]
        self.names = [f"{name}: {what}" for name in matrices for what in ("maximum", "mean", "last")]
        self.names += ["log popularity"]
        dense = [name for name, matrix in self._items.items() if not sparse.issparse(matrix)]
        self._popularity = np.asarray(popularity)
        self._projected, parts = "", 0
        if dense:
            self._projected = dense[-1]
            self._projection = Projection.fit(self._items[dense[-1]][1:], components)
            of_item = self._projection(self._items[dense[-1]])
            self._of_item = np.hstack([self._of_item, of_item])
            parts = of_item.shape[1]
        self.names += [f"item component {part}" for part in range(parts)]
        self.names += ["history length", *(f"user component {part}" for part in range(parts))]
        self._take(histories, history_length)

    def _take(self, histories: np.ndarray, history_length: np.ndarray) -> None:
        """Keep what depends on the histories."""
        self._histories = histories.astype(np.int64)
        self._lengths = (self._histories > 0).sum(axis=1)
        rows = np.repeat(np.arange(len(histories)), self._lengths)
        shape = (len(histories), len(self._popularity))
        taken = sparse.csr_matrix((np.ones(len(rows)), (rows, self._histories[self._histories > 0])), shape)
        self._means = {name: _unit(taken @ matrix) for name, matrix in self._items.items()}
        self._of_user = np.asarray(history_length, dtype=np.float64)[:, None]
        if self._projected:
            self._of_user = np.hstack([self._of_user, self._projection(self._means[self._projected])])

    def as_if_not_taken(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return features of pairs that are in the histories as if they were not: (n, n_features) float32.

        The item is left out of the user's history, and the interaction out of popularity and history length.
        """
        found = np.empty((len(users), len(self.names)), dtype=np.float32)
        for start in range(0, len(users), _ROWS):
            user, item = users[start : start + _ROWS], items[start : start + _ROWS]
            histories = self._histories[user]
            gone = (histories == item[:, None]) | (histories == 0)
            order = np.argsort(gone, axis=1, kind="stable")  # what stays keeps its order; zeros are on the right
            histories = np.take_along_axis(np.where(gone, 0, histories), order, axis=1)
            apart = copy.copy(self)
            apart._take(histories, self._of_user[user, 0] - 1)
            block = apart(np.arange(len(user)), item)
            block[:, self.names.index("log popularity")] = np.log1p(np.maximum(self._popularity[item] - 1, 0))
            found[start : start + _ROWS] = block
        return found

    def __call__(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return (n, n_features) float32 of (n,) codes; NaN for similarities to an empty history."""
        order = np.argsort(users, kind="stable")  # pairs of a user together have most similarities in common
        features = np.empty((len(users), len(self.names)), dtype=np.float32)
        for start in range(0, len(users), _ROWS):
            rows = order[start : start + _ROWS]
            features[rows] = np.hstack(
                [self._similarities(users[rows], items[rows]), self._of_item[items[rows]], self._of_user[users[rows]]]
            )
        return features

    def _similarities(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return (n, 3 * n_matrices) similarities of a block of pairs."""
        who, user_of = np.unique(users, return_inverse=True)
        what, item_of = np.unique(items, return_inverse=True)
        past, place = np.unique(self._histories[who], return_inverse=True)
        length = self._lengths[users]
        inside = np.arange(self._histories.shape[1]) < length[:, None]
        place = place.reshape(len(who), -1)[user_of][inside]  # pairs' histories one behind the other, as rows of `past`
        candidate = np.repeat(item_of, length)
        end = np.cumsum(length)[length > 0]
        start = end - length[length > 0]
        similarities = np.full((len(users), len(self._items), 3), np.nan)
        for number, (name, matrix) in enumerate(self._items.items()):
            candidates = matrix[what].T
            of_past = _dense(matrix[past] @ candidates)[place, candidate]
            of_mean = _dense(self._means[name][who] @ candidates)[user_of, item_of]
            if len(start):
                found = np.maximum.reduceat(of_past, start), of_mean[length > 0], of_past[end - 1]
                similarities[length > 0, number] = np.stack(found, axis=1)
        return similarities.reshape(len(users), -1)


def _unit(matrix: Matrix) -> Matrix:
    """Scale rows to unit length; zeros stay."""
    from sklearn.preprocessing import normalize

    scaled: Matrix = normalize(matrix)
    return scaled


def _dense(product: Any) -> np.ndarray:
    found: np.ndarray = product.toarray() if sparse.issparse(product) else product
    return found
