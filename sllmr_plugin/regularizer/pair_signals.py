"""What a gate sees of an ordered pair: the paper's signals of both items, and how far apart the LLM puts them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .pairs import OrderedPairs

ENTRY_SIGNALS = ("cold", "tail", "uncertainty")
PAIR_SIGNALS = (*ENTRY_SIGNALS, "gap")
REGIONS = ("all", "cold", "tail", "neither")


@dataclass(frozen=True)
class Entries:
    """Scored (user, item) entries of a step.

    Attributes
    ----------
    llm : Tensor
        (n,) LLM scores in [0, 1].
    cold, tail : Tensor
        (n,) bool region indicators.
    """

    llm: Tensor
    cold: Tensor
    tail: Tensor

    def to(self, device: torch.device) -> Entries:
        """Move to a device."""
        return Entries(*(part.to(device) for part in (self.llm, self.cold, self.tail)))


@dataclass(frozen=True)
class PairSignals:
    """Signals of ordered pairs.

    Attributes
    ----------
    preferred, other : Tensor
        (n_pairs, 3) z = [cold, tail, q] (paper Sec. 3.3) of the item that the LLM puts first and of the other.
    gap : Tensor
        (n_pairs,) LLM score of the first minus that of the second, in (0, 1].
    """

    preferred: Tensor
    other: Tensor
    gap: Tensor

    @classmethod
    def of(cls, entries: Entries, uncertainty: Tensor | None, pairs: OrderedPairs, *, like: Tensor) -> PairSignals:
        """Collect the signals of `pairs`; without `uncertainty`, (n,), q is 0. `like` gives the number type."""
        q = torch.zeros_like(entries.llm) if uncertainty is None else uncertainty
        z = torch.stack([entries.cold, entries.tail, q], dim=1).to(like.dtype)  # (n, 3)
        gap = (entries.llm[pairs.preferred] - entries.llm[pairs.other]).to(like.dtype)
        return cls(z[pairs.preferred], z[pairs.other], gap)

    def design(self) -> Tensor:
        """Return `PAIR_SIGNALS` of each pair, (n_pairs, 4): the mean of the two items' z, and the gap."""
        return torch.cat([(self.preferred + self.other) / 2, self.gap.unsqueeze(1)], dim=1)

    def to(self, device: torch.device) -> PairSignals:
        """Move to a device."""
        return PairSignals(*(x.to(device) for x in (self.preferred, self.other, self.gap)))


def pair_regions(entries: Entries, pairs: OrderedPairs) -> Tensor:
    """Return a (4, n_pairs) bool mask: all, cold user, at least one long-tail item, neither."""
    cold = entries.cold[pairs.preferred]
    tail = entries.tail[pairs.preferred] | entries.tail[pairs.other]
    return torch.stack([torch.ones_like(cold), cold, tail, ~(cold | tail)])
