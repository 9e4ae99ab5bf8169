"""Items that a user does not have, and negatives drawn among them."""

from __future__ import annotations

import numpy as np


class UnseenItems:
    """The items of the catalogue that each user has not seen.

    Parameters
    ----------
    users, items : ndarray of int
        (n_pairs,) seen pairs, as codes from 1; repeated pairs count once.
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
        self._pairs = pairs = np.unique(users * self._width + items)
        owners = pairs // self._width
        codes = np.arange(n_users + 1)
        self._first, last = (np.searchsorted(owners, codes, side=side) for side in ("left", "right"))
        self.count = n_items - (last - self._first)
        gaps = pairs % self._width - 1 - (np.arange(len(pairs)) - self._first[owners])
        self._keys = owners * self._width + gaps

    def draw(
        self, users: np.ndarray, n: int, generator: np.random.Generator, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Draw items with replacement, uniformly or by weight.

        Parameters
        ----------
        users : ndarray of int
            (k,) codes of users with at least one unseen item.
        n : int
            Items for each.
        generator : numpy.random.Generator
            Source of the draw.
        weights : ndarray or None, default=None
            (n_items,) weights of the items, by code from 1; None draws uniformly. An item that its user has seen is
            drawn again, up to 20 times; what is then still missing, of users who have seen nearly all items of any
            weight, is drawn uniformly.

        Returns
        -------
        ndarray
            (k, n) int64 item codes.
        """
        if weights is None:
            return self.nth(users, generator.integers(0, self.count[users][:, None], size=(len(users), n)))
        owners, cumulative = np.repeat(users, n), np.cumsum(weights)
        drawn = np.zeros(len(owners), dtype=np.int64)
        missing = np.arange(len(owners))
        for _ in range(_ROUNDS):
            at = generator.random(len(missing)) * cumulative[-1]
            proposed = np.searchsorted(cumulative, at, side="right") + 1
            seen = _among(owners[missing] * self._width + proposed, self._pairs)
            drawn[missing[~seen]] = proposed[~seen]
            missing = missing[seen]
        drawn[missing] = self.draw(owners[missing], 1, generator)[:, 0]
        return drawn.reshape(-1, n)

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


_ROUNDS = 20  # of drawing and rejecting; who is short of items by then gets the rest dealt exactly
_BLOCK = 2_000_000  # (user, item) keys held at a time when dealing


def spare_items(users: np.ndarray, items: np.ndarray, weights: np.ndarray, n_users: int) -> np.ndarray:
    """Count what can be drawn for each user: items with a weight above 0 that are not the user's.

    Parameters
    ----------
    users, items : ndarray of int
        (n,) codes from 0 of the positives; each pair once.
    weights : ndarray
        (n_items,) weights of the draw.
    n_users : int
        Codes are below it.

    Returns
    -------
    ndarray
        (n_users,) int64.
    """
    drawable = weights > 0
    return drawable.sum() - np.bincount(users[drawable[items]], minlength=n_users)


def draw_negatives(
    users: np.ndarray, items: np.ndarray, weights: np.ndarray, n: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw `n` negatives for each positive, all different within a user, and none the user's positive.

    The negatives of a user are distributed as in drawing one after the other by weight, where a positive or an item
    drawn before is drawn again. Most are drawn in this way, for all users at once. For users with nearly all items this
    would take too long: what they still lack after 20 rounds is taken from random keys of all items, the smallest of
    exponential numbers over weights, which is the same distribution (Efraimidis and Spirakis, 2006, Information
    Processing Letters 97(5)).

    Parameters
    ----------
    users, items : ndarray of int
        (n_positives,) codes from 0; each pair once. Of all splits, if a positive of any split must not be drawn.
    weights : ndarray of int
        (n_items,) at least 0: ones for a uniform draw, counts of interactions for one by popularity.
    n : int
        Negatives a positive, at least 1.
    generator : numpy.random.Generator
        Source of the draw.

    Returns
    -------
    ndarray
        (n_positives, n) int64 item codes.

    Raises
    ------
    ValueError
        If a user needs more items than there are to draw; ask `spare_items` before.
    """
    n_items, n_users = len(weights), int(users.max()) + 1
    if (np.bincount(users) * n > spare_items(users, items, weights, n_users)).any():
        raise ValueError("a user needs more negatives than there are items to draw")
    owners = np.repeat(users.astype(np.int64), n)
    drawn = np.empty(len(owners), dtype=np.int64)
    taken = np.sort(users.astype(np.int64) * n_items + items)
    cumulative = np.cumsum(weights)
    missing = np.arange(len(owners))
    for _ in range(_ROUNDS):
        if not len(missing):
            break
        proposed = np.searchsorted(cumulative, generator.integers(cumulative[-1], size=len(missing)), side="right")
        keys = owners[missing] * n_items + proposed
        fresh = np.zeros(len(missing), dtype=bool)
        fresh[np.unique(keys, return_index=True)[1]] = True
        fresh &= ~_among(keys, taken)
        drawn[missing[fresh]] = proposed[fresh]
        taken = np.sort(np.concatenate([taken, keys[fresh]]), kind="stable")
        missing = missing[~fresh]
    _deal(drawn, missing, owners, taken, weights, generator)
    return drawn.reshape(-1, n)


def _among(keys: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    places = np.searchsorted(ordered, keys)
    return ordered[np.minimum(places, len(ordered) - 1)] == keys


def _deal(
    drawn: np.ndarray,
    missing: np.ndarray,
    owners: np.ndarray,
    taken: np.ndarray,
    weights: np.ndarray,
    generator: np.random.Generator,
) -> None:
    """Fill `drawn` where it is `missing`, from keys of every item of the users concerned."""
    n_items = len(weights)
    missing = missing[np.argsort(owners[missing], kind="stable")]
    short, first, counts = np.unique(owners[missing], return_index=True, return_counts=True)
    step = max(1, _BLOCK // n_items)
    for start in range(0, len(short), step):
        block = slice(start, start + step)
        some = short[block]
        with np.errstate(divide="ignore"):
            keys = generator.exponential(size=(len(some), n_items)) / weights  # infinite without weight
        begin, end = np.searchsorted(taken, [some * n_items, (some + 1) * n_items])
        lengths = end - begin
        rows = np.repeat(np.arange(len(some)), lengths)
        places = np.repeat(begin - np.r_[0, np.cumsum(lengths)[:-1]], lengths) + np.arange(lengths.sum())
        keys[rows, taken[places] % n_items] = np.inf
        ranked = np.argsort(keys, axis=1)
        slots = missing[first[block][0] : first[block][-1] + counts[block][-1]]
        rows = np.repeat(np.arange(len(some)), counts[block])
        ranks = np.arange(len(slots)) - np.repeat(first[block] - first[block][0], counts[block])
        drawn[slots] = ranked[rows, ranks]
