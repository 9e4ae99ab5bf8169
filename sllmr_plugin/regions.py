"""Which users are cold and which items are long-tail: one rule each, for arrays and tensors (paper Sec. 3.3)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def cold_users(history_length: Any, threshold: int, *, inclusive: bool = False) -> Any:
    """Return which users are cold: those with fewer training positives than a threshold.

    Parameters
    ----------
    history_length : ndarray or Tensor
        (n,) training positives of each user.
    threshold : int
        tau_u.
    inclusive : bool, default=False
        A user with exactly `threshold` positives is cold, too: the rule by which the paper chooses whom to score
        (Sec. 3.1).

    Returns
    -------
    ndarray or Tensor
        (n,) bool, of the type of `history_length`.

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.array([2, 3, 4])
    >>> cold_users(counts, 3).tolist(), cold_users(counts, 3, inclusive=True).tolist()
    ([True, False, False], [True, True, False])
    """
    return history_length <= threshold if inclusive else history_length < threshold


def tail_threshold(popularity: Any, quantile: float) -> int:
    """Return the smallest popularity v such that at least `quantile` of the items have popularity <= v.

    Items tied with the last of the tail are in it, so its share of the catalogue can exceed `quantile`.

    Parameters
    ----------
    popularity : ndarray or Tensor
        (n_items,) training positives of each item.
    quantile : float
        In [0, 1]; 0 selects no item and gives -1, as an empty catalogue does.

    Returns
    -------
    int
        The largest popularity that counts as long-tail.

    Examples
    --------
    >>> import numpy as np
    >>> tail_threshold(np.array([5, 0, 1, 1, 9]), 0.4)
    1
    """
    if quantile == 0 or len(popularity) == 0:
        return -1
    # round() keeps 0.07 * 100 = 7.000000000000001 from being lifted to 8 items.
    count = math.ceil(round(quantile * len(popularity), 9))
    return int(popularity[popularity.argsort()[max(count, 1) - 1]])


def tail_by_rank(popularity: np.ndarray, share: float) -> np.ndarray:
    """Return which items are long-tail by rank: a fixed share of the catalogue, however many items tie.

    Parameters
    ----------
    popularity : ndarray
        (n_items,) training positives of each item.
    share : float
        In [0, 1]; the number of items is rounded down.

    Returns
    -------
    ndarray
        (n_items,) bool. Of items with the same popularity, those that stand first are taken.

    Examples
    --------
    >>> tail_by_rank(np.array([5, 0, 1, 1, 9]), 0.4).tolist()
    [False, True, True, False, False]
    """
    count = math.floor(round(share * len(popularity), 9))
    is_tail = np.zeros(len(popularity), dtype=bool)
    is_tail[np.argsort(popularity, kind="stable")[:count]] = True
    return is_tail
