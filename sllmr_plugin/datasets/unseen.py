"""Draws items that users have not interacted with."""

from __future__ import annotations

import numpy as np


class UnseenItems:
    """The catalogue without what each user has seen.

    Parameters
    ----------
    users, items : ndarray of int
        (n_pairs,) what has been seen, as codes from 1; repeated pairs count once.
    n_users, n_items : int
        Codes run from 1 to these.

    Attributes
    ----------
    count : ndarray
        (n_users + 1,) int64, unseen items of each user, by code.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, *, n_users: int, n_items: int) -> None:
        # No draw is rejected: a number below the count of unseen items is drawn and moved up past the seen ones.
        # With the seen items e_0 < e_1 < ... (from 0), the r-th unseen item is r + #{j: e_j - j <= r}, and e_j - j
        # never falls, so one binary search in the users' lists laid end to end counts for all draws at once.
        self._width = n_items + 1
        pairs = np.unique(users * self._width + items)
        owners = pairs // self._width
        codes = np.arange(n_users + 1)
        self._first, last = (np.searchsorted(owners, codes, side=side) for side in ("left", "right"))
        self.count = n_items - (last - self._first)
        gaps = pairs % self._width - 1 - (np.arange(len(pairs)) - self._first[owners])
        self._keys = owners * self._width + gaps

    def draw(self, users: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
        """Draw items uniformly, with replacement.

        Parameters
        ----------
        users : ndarray of int
            (k,) codes of users with at least one unseen item.
        n : int
            Items for each.
        generator : numpy.random.Generator
            Source of the draw.

        Returns
        -------
        ndarray
            (k, n) int64 item codes.
        """
        return self.nth(users, generator.integers(0, self.count[users][:, None], size=(len(users), n)))

    def nth(self, users: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """Return the unseen items of given ranks, counted from 0 by ascending code.

        Parameters
        ----------
        users : ndarray of int
            (k,) codes.
        rank : ndarray of int
            (k, n) below the user's `count`.

        Returns
        -------
        ndarray
            (k, n) int64 item codes.
        """
        passed = np.searchsorted(self._keys, users[:, None] * self._width + rank, side="right")
        return rank + passed - self._first[users][:, None] + 1
