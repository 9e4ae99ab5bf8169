"""Users who took similar items, by a factor model of the training interactions alone."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ..datasets.interactions import Interactions

_BLOCK = 1024  # users whose similarities to all others are held at a time


def nearest_users(
    data: Interactions, users: np.ndarray, among: np.ndarray, count: int, *, dim: int = 32, seed: int = 0
) -> np.ndarray:
    """Find the users of the highest cosine similarity.

    RecLM (Sec. 2.3.2) takes user embeddings of a LightGCN; here they are the left singular vectors of the matrix of
    training positives, scaled by the singular values.

    Parameters
    ----------
    data : Interactions
    users : ndarray of int
        (n,) codes whose neighbours are wanted.
    among : ndarray of int
        (m,) codes that may be neighbours; a user is not a neighbour of itself.
    count : int
        Neighbours of each; `among` needs more users than that.
    dim : int, default=32
        Dimension of the factors, at most.
    seed : int, default=0
        Of the randomised decomposition.

    Returns
    -------
    ndarray of int
        (n, count) codes, the nearest first.
    """
    from sklearn.decomposition import TruncatedSVD  # takes a second to import

    train = data.train[data.train["label"] == 1]
    rows, columns = train["user"].to_numpy(), train["item"].to_numpy()
    shape = (data.n_users + 1, data.n_items + 1)
    taken = sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    factors = TruncatedSVD(min(dim, min(shape) - 1), random_state=seed).fit_transform(taken)
    factors /= np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1e-12)
    found = np.empty((len(users), count), dtype=np.int64)
    for start in range(0, len(users), _BLOCK):
        block = users[start : start + _BLOCK]
        cosine = factors[block] @ factors[among].T  # (block, m)
        cosine[block[:, None] == among[None, :]] = -np.inf
        found[start : start + _BLOCK] = among[np.argsort(-cosine, axis=1, kind="stable")[:, :count]]
    return found
