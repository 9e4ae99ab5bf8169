"""Users who are alike by their vectors (LLM-ESR: Liu et al., NeurIPS 2024, Sec. 3.4)."""

from __future__ import annotations

import numpy as np

_CELLS = 1 << 24  # similarities held at a time


def nearest_rows(rows: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Find the rows of the highest cosine.

    Parameters
    ----------
    rows : numpy.ndarray
        (n, d) directions of users.
    among : numpy.ndarray
        (m,) numbers of the rows that may be neighbours; a row is not a neighbour of itself.
    count : int
        Neighbours of each, below m.

    Returns
    -------
    numpy.ndarray
        (n, count) numbers of rows, the nearest first.

    Notes
    -----
    Every pair is compared, in blocks: 100,000 users of 256 numbers are some 5 * 10^12 operations.
    """
    unit = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    others = unit[among].T
    place = np.full(len(rows), -1)
    place[among] = np.arange(len(among))
    found = np.empty((len(rows), count), dtype=np.int64)
    size = max(1, _CELLS // len(among))
    for start in range(0, len(rows), size):
        cosine = unit[start : start + size] @ others
        own = place[start : start + size]
        has_own = np.flatnonzero(own >= 0)
        cosine[has_own, own[has_own]] = -np.inf
        best = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(cosine, best, axis=1), axis=1, kind="stable")
        found[start : start + size] = among[np.take_along_axis(best, order, axis=1)]
    return found
