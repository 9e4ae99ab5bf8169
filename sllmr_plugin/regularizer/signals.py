"""Cold-start and long-tail signals of users and items, and what a gate sees of a pair (paper Sec. 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..regions import cold_users, tail_threshold
from .pairs import OrderedPairs


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
    popularity : Tensor
        (n_items,) int64 training positives; -1 outside the catalogue.
    """

    cold: Tensor
    tail: Tensor
    tail_popularity: int
    popularity: Tensor

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
            (n_items,) bool: the items over which the quantile is taken (padding ids are not items).
        cold_threshold : int
            tau_u.
        tail_quantile : float
            Share of the catalogue in the long tail. Items tied with the last of them are included, so the
            share can be larger; 0 gives none.
        """
        threshold = tail_threshold(popularity[in_catalogue], tail_quantile)
        cold, tail = cold_users(history_length, cold_threshold), (popularity <= threshold) & in_catalogue
        return cls(cold, tail, threshold, popularity.masked_fill(~in_catalogue, -1))


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
    user : Tensor or None
        (n,) int64, whose entries they are, for losses that ask.
    """

    llm: Tensor
    cold: Tensor
    tail: Tensor
    user: Tensor | None = None

    def to(self, device: torch.device) -> Entries:
        """Move to a device."""
        user = None if self.user is None else self.user.to(device)
        return Entries(self.llm.to(device), self.cold.to(device), self.tail.to(device), user)


@dataclass(frozen=True)
class PairSignals:
    """Signals of ordered pairs.

    Attributes
    ----------
    preferred, other : Tensor
        (n_pairs, 3) z = [cold, tail, q] (paper Sec. 3.3) of the item that the LLM puts first and of the other.
    gap : Tensor
        (n_pairs,) LLM score of the first minus that of the second, in (0, 1].
    importance : Tensor or None, default=None
        (n_pairs,) how much a pair counts as evidence, of mean 1 (`CandidateMatch`); None counts all alike.
    """

    preferred: Tensor
    other: Tensor
    gap: Tensor
    importance: Tensor | None = None

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
        importance = None if self.importance is None else self.importance.to(device)
        return PairSignals(self.preferred.to(device), self.other.to(device), self.gap.to(device), importance)


def pair_regions(entries: Entries, pairs: OrderedPairs) -> Tensor:
    """Return a (4, n_pairs) bool mask: all, cold user, at least one long-tail item, neither."""
    cold = entries.cold[pairs.preferred]
    tail = entries.tail[pairs.preferred] | entries.tail[pairs.other]
    return torch.stack([torch.ones_like(cold), cold, tail, ~(cold | tail)])
