"""Random draws that depend on a seed and the ids alone: more users or more draws leave the earlier ones as they were.

Each (user, item) gets a pseudo-random key, a hash; a draw without replacement takes the items of lowest key. What one
user draws does not depend on who else draws, so a larger run repeats the smaller one and adds to it, and answers that
were paid for can be used again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

_CHUNK = 2_000_000  # keys held at a time


def id_keys(ids: pd.Index, *, seed: int, purpose: int) -> np.ndarray:
    """Hash raw ids to keys, the same on every machine.

    Parameters
    ----------
    ids : pandas.Index
        (n,) whole numbers or text.
    seed, purpose : int
        Keys of another seed or purpose have nothing to do with these.

    Returns
    -------
    ndarray
        (n,) uint64.
    """
    raw = ids.to_numpy()
    raw = raw if raw.dtype.kind in "iu" else raw.astype(object)
    # Arrays of one: numpy warns when a scalar wraps around, which is what is meant here.
    salt = mix(mix(np.array([seed], dtype=np.uint64)) ^ np.array([purpose], dtype=np.uint64))
    return mix(pd.util.hash_array(raw, categorize=False) ^ salt)


def mix(values: np.ndarray) -> np.ndarray:
    """Scatter uint64 values over all of uint64, one to one (the finaliser of splitmix64; Steele et al., 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def pair_keys(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Key of every (row, column): (n_rows, n_columns) uint64."""
    return mix(rows[:, None] ^ columns[None, :])


def uniform(keys: np.ndarray) -> np.ndarray:
    """Turn keys into float64 numbers in [0, 1)."""
    return (keys >> np.uint64(11)) * 2.0**-53


def chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Cut rows into slices whose (rows, columns) matrix of keys stays small."""
    step = max(1, _CHUNK // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def lowest(keys: np.ndarray, count: int) -> np.ndarray:
    """Columns of the `count` lowest keys of each row, lowest first: (n_rows, count) int64."""
    if count < keys.shape[1]:
        columns = np.argpartition(keys, count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(keys, columns, axis=1), axis=1)
        return np.take_along_axis(columns, order, axis=1)
    return np.argsort(keys, axis=1)


def deal(n_items: int, n_hands: int, size: int, *, seed: int | list[int]) -> np.ndarray:
    """Deal items to hands in turn from a shuffled pack, shuffled anew whenever it is used up.

    Every item is dealt ``n_hands * size / n_items`` times, rounded up or down; more hands leave the first ones as
    they were.

    Returns
    -------
    ndarray
        (n_hands, size) int64 item numbers. A hand can hold an item twice where two packs meet in it. Without items
        the hands are empty.
    """
    n_packs = -(-n_hands * size // n_items) if n_items else 0
    packs = np.random.default_rng(seed).random((n_packs, n_items)).argsort(axis=1)
    return packs.ravel()[: n_hands * size].reshape(n_hands, size if n_items else 0)
