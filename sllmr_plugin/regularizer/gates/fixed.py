"""Gates without anything to learn."""

from __future__ import annotations

import torch
from torch import Tensor

from ..signals import PairSignals
from .base import Gate


class OpenGate(Gate, name="none"):
    """alpha = 1: the paper's "global" ablation (Table 3)."""

    def forward(self, signals: PairSignals) -> Tensor:
        """Return ones, (n_pairs,)."""
        return torch.ones_like(signals.gap)


class FixedGate(Gate, name="fixed"):
    """alpha_i = 1 for a cold user or a long-tail item, else 0; a pair takes the mean of its two."""

    needs_regions = True
    collapse_remedy = "hardly any pair has a cold user or a long-tail item. Raise cold_threshold or tail_quantile."

    def forward(self, signals: PairSignals) -> Tensor:
        """Return the weights of pairs, as `Gate.forward`."""
        return (signals.preferred[:, :2].amax(dim=1) + signals.other[:, :2].amax(dim=1)) / 2

    def shut(self, signals: PairSignals) -> Tensor:
        """Return the pairs of two items that are outside of both regions, as `Gate.shut`."""
        return self(signals) == 0
