"""Cold-start and long-tail indicators from training counts (paper Sec. 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RegionSignals:
    """Which users are cold and which items are long-tail.

    Attributes
    ----------
    cold : Tensor
        (n_users,) bool: |H(u)| < tau_u.
    tail : Tensor
        (n_items,) bool: popularity within the bottom quantile.
    tail_popularity : int
        The largest popularity that still counts as long-tail.
    """

    cold: Tensor
    tail: Tensor
    tail_popularity: int

    @classmethod
    def from_counts(
        cls,
        history_length: Tensor,
        popularity: Tensor,
        *,
        in_catalogue: Tensor,
        cold_threshold: int,
        tail_quantile: float,
    ) -> RegionSignals:
        """Derive the indicators from counts of training positives.

        Parameters
        ----------
        history_length : Tensor
            (n_users,) training positives of each user.
        popularity : Tensor
            (n_items,) training positives of each item.
        in_catalogue : Tensor
            (n_items,) bool: the items over which the quantile is taken (padding ids are none).
        cold_threshold : int
            tau_u.
        tail_quantile : float
            Share of the catalogue in the long tail. Items tied with the last of them are in too, so the share
            can be larger; 0 gives none.
        """
        threshold = tail_threshold(popularity[in_catalogue], tail_quantile)
        return cls(history_length < cold_threshold, (popularity <= threshold) & in_catalogue, threshold)


def tail_threshold(popularity: Tensor, quantile: float) -> int:
    """Return the smallest popularity v such that at least `quantile` of the items have popularity <= v.

    Parameters
    ----------
    popularity : Tensor
        (n_items,) counts.
    quantile : float
        In [0, 1]; 0 means no item and gives -1.
    """
    if quantile == 0 or popularity.numel() == 0:
        return -1
    ordered = popularity.sort().values
    # round() keeps 0.07 * 100 = 7.000000000000001 from being lifted to 8 items.
    count = math.ceil(round(quantile * ordered.numel(), 9))
    return int(ordered[max(count, 1) - 1])
