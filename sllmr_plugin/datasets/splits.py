"""k-core and held-out interactions, on arrays of codes."""

from __future__ import annotations

import numpy as np

from ..errors import DataError


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Find the largest set of interactions in which every user and every item has at least k.

    Interactions of users and items with fewer are removed repeatedly until none is left to remove. The result does not
    depend on the order. Each pass counts the remaining interactions twice.

    Parameters
    ----------
    users, items : ndarray of int
        (n,) codes from 0; each pair occurs once.
    k : int
        At least 1, which removes nothing.

    Returns
    -------
    ndarray
        (m,) int64, positions of the interactions that are kept, ascending.

    Examples
    --------
    >>> k_core(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1]), 2)
    array([0, 1, 2, 3])
    """
    kept = np.arange(len(users))
    while True:
        enough = np.ones(len(kept), dtype=bool)
        for codes in (users[kept], items[kept]):
            enough &= np.bincount(codes)[codes] >= k if len(codes) else True
        if enough.all():
            return kept
        kept = kept[enough]


def leave_last_out(users: np.ndarray) -> np.ndarray:
    """Hold out the last interaction of each user for test and the one before it for validation.

    A user with two interactions has no validation one, and a single interaction is used for training.

    Parameters
    ----------
    users : ndarray of int
        (n,) codes of positives; those of a user are consecutive, in time order.

    Returns
    -------
    ndarray
        (n,) int8 splits.

    Examples
    --------
    >>> leave_last_out(np.array([3, 3, 3, 5, 5, 8]))
    array([0, 1, 2, 0, 2, 0], dtype=int8)
    """
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]][: len(users)])
    sizes = np.diff(np.r_[starts, len(users)])
    splits = np.zeros(len(users), dtype=np.int8)
    ends = starts + sizes - 1
    splits[ends[sizes >= 2]] = 2
    splits[ends[sizes >= 3] - 1] = 1
    return splits


def by_period(times: np.ndarray, *, boundary: float | None = None, valid_share: float) -> np.ndarray:
    """Hold out one period and train on the one before it, as for items that are new in the second.

    Parameters
    ----------
    times : ndarray
        (n,) numbers.
    boundary : float or None, default=None
        Where the second period begins; None is the middle between the first and the last time.
    valid_share : float
        Of the interactions of the first period, its latest, for validation; of the same time stay together.

    Returns
    -------
    ndarray
        (n,) int8 splits; 2 from the boundary on.

    Raises
    ------
    DataError
        If a split would be empty although its share is above 0.

    Examples
    --------
    >>> by_period(np.array([0, 10, 30, 40, 50, 100]), valid_share=0.2)
    array([0, 0, 0, 1, 2, 2], dtype=int8)
    """
    if boundary is None:
        boundary = (float(np.min(times)) + float(np.max(times))) / 2
    first = times < boundary
    if first.all() or not first.any():
        raise DataError(
            f"the boundary {boundary:g} leaves no interaction {'after' if first.all() else 'before'} it: times go from "
            f"{np.min(times):g} to {np.max(times):g}. Choose one in between (--boundary, boundary)"
        )
    splits = np.full(len(times), 2, dtype=np.int8)
    splits[first] = by_time(times[first], valid_share=valid_share, test_share=0.0)
    return splits


def by_time(times: np.ndarray, *, valid_share: float, test_share: float) -> np.ndarray:
    """Hold out the latest interactions of all users: after one cut in time for validation, after a second for test.

    Interactions of the same time stay together, on the later side of a cut, so a share can be larger than requested.

    Parameters
    ----------
    times : ndarray
        (n,) numbers.
    valid_share, test_share : float
        Of the interactions; together below 1.

    Returns
    -------
    ndarray
        (n,) int8 splits.

    Raises
    ------
    DataError
        If a split would be empty although its share is above 0, as when most interactions have the same time.

    Examples
    --------
    >>> by_time(np.array([50, 20, 10, 30, 40]), valid_share=0.2, test_share=0.2)
    array([2, 0, 0, 0, 1], dtype=int8)
    """
    n = len(times)
    ordered = np.sort(times)
    splits = np.zeros(n, dtype=np.int8)
    for split, held_out in ((1, valid_share + test_share), (2, test_share)):
        n_before = n - round(n * held_out)
        if n_before < n:
            splits[times >= ordered[n_before]] = split
    counts = np.bincount(splits, minlength=3)
    for split, name, wanted in ((0, "training", True), (1, "validation", valid_share), (2, "test", test_share)):
        if wanted and not counts[split]:
            raise DataError(
                f"the split by time leaves no interaction for {name}: of {n}, {np.unique(times).size} have different "
                "times. Choose other shares, or split leave-last-out"
            )
    return splits
