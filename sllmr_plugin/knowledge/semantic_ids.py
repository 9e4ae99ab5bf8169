"""Semantic ids: vectors of items as a few codes each, for models that read ids only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from ..errors import VectorsError
from .id_vectors import Vectors, VectorSource
from .vectors import directions


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """Codebooks of a residual k-means; fit them on the catalogue's vectors, and assign codes to any items.

    The vectors are clustered, then what is left of each after taking its centre away, and so on: an item's codes are
    its clusters, from coarse to fine (residual k-means as in QARM, Luo et al., 2024, arXiv:2411.11739; TIGER, Rajput et
    al., NeurIPS 2023, arXiv:2305.05065, learns the codebooks by an autoencoder). Of a vector only the direction from
    the items' mean counts. Several items may share all their codes.

    Attributes
    ----------
    centre : numpy.ndarray
        (d,) mean of the vectors that the codebooks were fitted on.
    codebooks : tuple of numpy.ndarray
        (n_codes, d) float64 centres of each level.

    Examples
    --------
    >>> vectors = Vectors.read("llm_texts.parquet", titles="items.csv")  # doctest: +SKIP
    >>> ids = SemanticIds.fit(vectors)  # doctest: +SKIP
    >>> table = ids.assign(vectors)  # item_id, sid_0, sid_1, sid_2  # doctest: +SKIP
    """

    centre: np.ndarray
    codebooks: tuple[np.ndarray, ...]

    @classmethod
    def fit(
        cls, vectors: VectorSource, *, levels: int = 3, codes: int = 64, seed: int = 0, **options: Any
    ) -> SemanticIds:
        """Cluster the items' vectors.

        Parameters
        ----------
        vectors : path, pandas.DataFrame, mapping or Vectors
            As `Vectors.read` takes them.
        levels : int, default=3
            Codes of an item.
        codes : int, default=64
            Clusters of a level; as many as there are different vectors where these are fewer.
        seed : int, default=0
            Of the k-means.
        **options
            Of `Vectors.read`: ``titles``, ``encoder``.

        Raises
        ------
        VectorsError
            If there are no vectors, or a number is below its least value.
        """
        from sklearn.cluster import KMeans  # a second's work to import, that only those who fit should wait for

        if levels < 1 or codes < 2:
            raise VectorsError(f"levels={levels!r} must be at least 1 and codes={codes!r} at least 2. Change them.")
        matrix = Vectors.read(vectors, **options).items.matrix
        centre = matrix.mean(axis=0, dtype=np.float64)
        left, codebooks = directions(matrix, centre), []
        for _ in range(levels):
            n_clusters = min(codes, len(np.unique(left.round(6), axis=0)))  # what is left of equal vectors is rounding
            codebook = KMeans(n_clusters, n_init=1, random_state=seed).fit(left).cluster_centers_
            codebooks.append(codebook)
            left = left - codebook[_nearest(left, codebook)]
        return cls(centre, tuple(codebooks))

    @property
    def vocabularies(self) -> dict[str, range]:
        """Name of each column -> its codes, which count from 1; `ItemFeatures.of` takes them."""
        return {f"sid_{level}": range(1, len(codebook) + 1) for level, codebook in enumerate(self.codebooks)}

    def assign(self, vectors: VectorSource, *, item: str = "item_id", **options: Any) -> pd.DataFrame:
        """Give items their codes, those that were fitted on or others whose vectors lie in the same space.

        Parameters
        ----------
        vectors : path, pandas.DataFrame, mapping or Vectors
            Of items. Texts of later items need the encoder of the first ones: pass ``first.more(texts)``.
        item : str, default="item_id"
            Name of the column of ids.
        **options
            Of `Vectors.read`.

        Returns
        -------
        pandas.DataFrame
            Raw ids and a column a level, ``sid_0`` and so on: int64 codes from 1.

        Raises
        ------
        VectorsError
            If the vectors are of another length than those that were fitted on.
        """
        read = Vectors.read(vectors, **options)
        if read.items.matrix.shape[1] != len(self.centre):
            raise VectorsError(
                f"{read.source}: vectors of {read.items.matrix.shape[1]} numbers, and the codebooks are of "
                f"{len(self.centre)}. Take vectors of the same encoder (Vectors.more)."
            )
        left, columns = directions(read.items.matrix, self.centre), {item: read.items.ids.reset_index(drop=True)}
        for name, codebook in zip(self.vocabularies, self.codebooks, strict=True):
            nearest = _nearest(left, codebook)
            columns[name] = pd.Series(1 + nearest)
            left = left - codebook[nearest]
        return pd.DataFrame(columns)

    def save(self, path: str | Path) -> None:
        """Write the codebooks to an ``.npz`` file."""
        sizes = [len(codebook) for codebook in self.codebooks]
        np.savez(path, centre=self.centre, sizes=np.array(sizes), codebooks=np.concatenate(self.codebooks))

    @classmethod
    def load(cls, path: str | Path) -> SemanticIds:
        """Read the codebooks that `save` wrote.

        Raises
        ------
        VectorsError
            If the file is missing or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                codebooks = np.split(file["codebooks"], np.cumsum(file["sizes"])[:-1])
                return cls(file["centre"], tuple(codebooks))
        except (OSError, KeyError, ValueError, TypeError, AttributeError, BadZipFile) as error:
            raise VectorsError(
                f"{path} holds no codebooks ({error}). Give a file that SemanticIds.save wrote."
            ) from None

    def __repr__(self) -> str:
        return f"SemanticIds({', '.join(f'{name}: {len(codes)}' for name, codes in self.vocabularies.items())} codes)"


def _nearest(rows: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Return the (n,) numbers of the nearest centres; of equally near ones the first."""
    # |r - c|^2 without |r|^2, which is the same for all centres.
    distance = np.square(codebook).sum(axis=1) - 2 * rows @ codebook.T
    nearest: np.ndarray = distance.argmin(axis=1)
    return nearest
