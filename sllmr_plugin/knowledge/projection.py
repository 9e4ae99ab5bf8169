"""Vectors of items, or of users in the same space, as rows as short as an embedding's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

_RIDGE = 1.0  # of the mean eigenvalue of the vectors' scatter matrix: half of a typical direction's weight


@dataclass(frozen=True, eq=False)
class Projection:
    """Takes vectors of items, or of users in the same space, to rows of an embedding table.

    Of a vector only the direction counts, seen from the items' mean: every row has a root mean square of 1.

    Attributes
    ----------
    centre : numpy.ndarray
        (d,) mean of the items' vectors.
    directions : numpy.ndarray
        (d, k) what they are multiplied with, k at most the size of the embedding.
    """

    centre: np.ndarray
    directions: np.ndarray

    @classmethod
    def fit(cls, matrix: np.ndarray, size: int, method: str = "svd", seed: int = 0) -> Projection:
        """Fit on the items' vectors, (n, d).

        ``svd`` takes the leading principal components; ``random`` a Gaussian random projection, which keeps distances
        up to noise (Johnson and Lindenstrauss, 1984).
        """
        matrix = matrix.astype(np.float64)
        centre = matrix.mean(axis=0)
        if method == "random":
            return cls(centre, np.random.default_rng(seed).standard_normal((matrix.shape[1], size)))
        _, values, right = np.linalg.svd(matrix - centre, full_matrices=False)
        rank = int((values > 1e-6 * max(values.max(initial=0.0), 1e-12)).sum())
        return cls(centre, right[: min(size, rank)].T)

    @classmethod
    def onto(cls, matrix: np.ndarray, factors: np.ndarray) -> Projection:
        """Fit on the items' vectors, (n, d), by ridge regression of their factors, (n, k).

        A linear map from attributes to factors (Gantner et al., ICDM 2010, Sec. 4): of what the texts say it keeps what
        tells apart what the same users take.
        """
        matrix = matrix.astype(np.float64)
        centre = matrix.mean(axis=0)
        centred = matrix - centre
        scatter = centred.T @ centred
        penalty = _RIDGE * np.trace(scatter) / len(scatter) + 1e-12
        return cls(centre, np.linalg.solve(scatter + penalty * np.eye(len(scatter)), centred.T @ factors))

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        """Return (n, k) float64 rows of (n, d) vectors; zeros of a vector that is the mean."""
        rows = (matrix - self.centre) @ self.directions
        size = np.sqrt(np.square(rows).mean(axis=1, keepdims=True)) if rows.shape[1] else np.ones((len(rows), 1))
        scaled: np.ndarray = rows / np.where(size > 1e-9, size, 1.0)
        return scaled


def item_factors(users: np.ndarray, items: np.ndarray, n_items: int, size: int, seed: int) -> np.ndarray:
    """Return the leading factors of items, (n_items, k), of the matrix of who took what (Deerwester et al., 1990).

    Parameters
    ----------
    users, items : numpy.ndarray
        (n,) codes of the training positives; repeated ones count once.
    n_items : int
        Codes of items; those without a positive have zeros.
    size : int
        k, fewer where the matrix has a smaller side.
    seed : int
        Of the randomised SVD.
    """
    from sklearn.utils.extmath import randomized_svd

    distinct, row = np.unique(users, return_inverse=True)
    taken = sparse.csr_matrix((np.ones(len(row)), (row, items)), shape=(len(distinct), n_items))
    taken.data[:] = 1.0
    _, values, right = randomized_svd(taken, min(size, *taken.shape), random_state=seed)
    factors: np.ndarray = right.T * values
    return factors
