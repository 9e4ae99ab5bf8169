"""Which items are like those a user has taken, by the words of their texts: TF-IDF cosines, nothing trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .interactions import Interactions

if TYPE_CHECKING:  # the command line's help, and workers of scoring, do without SciPy
    from scipy import sparse

POPULARITY_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0)
"""What w of ``content+popularity``, z + w log(1 + popularity), is chosen among."""

_BLOCK = 256  # users whose similarities to the whole catalogue are held at a time


@dataclass(frozen=True, eq=False)
class Content:
    """TF-IDF vectors of items and of users, whose is the mean of their training items.

    Attributes
    ----------
    users, items : scipy.sparse.csr_matrix
        (n_users + 1, n_words) and (n_items + 1, n_words), by code, of unit length; zeros where there is no text, and
        for users without a training positive that has one.
    """

    users: sparse.csr_matrix
    items: sparse.csr_matrix

    @classmethod
    def of(cls, data: Interactions, texts: Sequence[str]) -> Content:
        """Compute the vectors.

        Parameters
        ----------
        data : Interactions
            Its training positives make the users' vectors; nothing that is held out is looked at.
        texts : sequence of str
            (n_items,) text of each item in the order of the codes, "" where there is none.

        Raises
        ------
        DataError
            If there are not as many texts as items, or no word in any of them.
        """
        from scipy import sparse
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.preprocessing import normalize

        if len(texts) != data.n_items:
            raise DataError(f"{len(texts)} texts for {data.n_items} items. Give one an item, '' where there is none.")
        try:
            vectors = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit_transform(texts)
        except ValueError:  # an empty vocabulary
            raise DataError("the items' texts hold no words to compare. Check them.") from None
        padding = sparse.csr_matrix((1, vectors.shape[1]), dtype=np.float32)
        items = sparse.vstack([padding, vectors], format="csr")
        taken = data.train[data.train["label"] == 1]
        pairs = (np.ones(len(taken), dtype=np.float32), (taken["user"].to_numpy(), taken["item"].to_numpy()))
        users = normalize(sparse.csr_matrix(pairs, shape=(data.n_users + 1, data.n_items + 1)) @ items)
        return cls(users, items)

    @cached_property
    def _catalogue(self) -> sparse.csr_matrix:
        """(n_words, n_items), in the form that a product is quick with."""
        return self.items[1:].T.tocsr()

    def blocks(self, users: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (k,) users of (n,) codes and their similarities to the catalogue, (k, n_items), item code 1 first."""
        for start in range(0, len(users), _BLOCK):
            part = users[start : start + _BLOCK]
            yield part, (self.users[part] @ self._catalogue).toarray()

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation (1 where it is 0) of each user's similarities to the catalogue, (n_users + 1,)."""
        mean, spread = (np.zeros(self.users.shape[0], dtype=np.float32) for _ in range(2))
        for part, similarity in self.blocks(np.arange(self.users.shape[0])):
            mean[part], spread[part] = similarity.mean(axis=1), similarity.std(axis=1)
        return mean, np.where(spread > 0, spread, np.float32(1))

    def standardised(self, users: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield users and z, their similarities in standard deviations from their mean; shapes as of `blocks`."""
        for part, similarity in self.blocks(users):
            spread = similarity.std(axis=1, keepdims=True)
            yield part, (similarity - similarity.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
