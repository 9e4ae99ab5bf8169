"""Cold users and long-tail items, counted on the training positives alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..datasets.interactions import Interactions
from ..regularizer.signals import RegionSignals


@dataclass(frozen=True)
class Strata:
    """Which users are cold and which items are long-tail, by code.

    Attributes
    ----------
    cold : ndarray
        (n_users + 1,) bool: fewer training positives than the threshold. Code 0 is no user: False.
    tail : ndarray
        (n_items + 1,) bool: at most `tail_popularity` training positives. Code 0 is no item: False.
    tail_popularity : int
        The smallest popularity v such that items of popularity <= v make up at least the asked share of the
        catalogue. Ties are all in, so the share of long-tail items can exceed it.
    """

    cold: np.ndarray
    tail: np.ndarray
    tail_popularity: int


def stratify(data: Interactions, *, cold_threshold: int = 3, tail_quantile: float = 0.2) -> Strata:
    """Find the cold users and long-tail items (S-LLMR paper, Sec. 4.5).

    Parameters
    ----------
    data : Interactions
        Only its training positives are counted; items without any are part of the catalogue.
    cold_threshold : int, default=3
        A user with fewer training positives is cold.
    tail_quantile : float, default=0.2
        Share of the catalogue, from its least popular end, that is long-tail.

    Returns
    -------
    Strata
    """
    in_catalogue = torch.arange(data.n_items + 1) > 0
    signals = RegionSignals.from_counts(
        torch.from_numpy(np.asarray(data.history_length)),
        torch.from_numpy(np.asarray(data.popularity)),
        in_catalogue=in_catalogue,
        cold_threshold=cold_threshold,
        tail_quantile=tail_quantile,
    )
    cold = signals.cold.numpy()
    cold[0] = False
    return Strata(cold, signals.tail.numpy(), signals.tail_popularity)
