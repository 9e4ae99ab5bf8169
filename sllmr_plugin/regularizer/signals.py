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
STUDENT_SIGNALS = ("student", "spread")
"""What a gate may see besides, where scores of the table are a student's (`student_signals`)."""
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
    student : Tensor or None, default=None
        (n, 2) `student_signals`; None where all scores are the LLM's own.
    """

    llm: Tensor
    cold: Tensor
    tail: Tensor
    user: Tensor | None = None
    student: Tensor | None = None

    def to(self, device: torch.device) -> Entries:
        """Move to a device."""
        user, student = (None if part is None else part.to(device) for part in (self.user, self.student))
        return Entries(self.llm.to(device), self.cold.to(device), self.tail.to(device), user, student)


def student_signals(spread: Tensor, usual: float) -> Tensor:
    """Return `STUDENT_SIGNALS` of scores.

    Parameters
    ----------
    spread : Tensor
        (n,) of a student's scores the standard deviation over the students of all folds, NaN of the LLM's own.
    usual : float
        Mean spread of the table's candidates that a student has scored, above 0.

    Returns
    -------
    Tensor
        (n, 2) of the dtype of `spread`: 1 for a student's score and ``spread / (spread + usual)``, which is in [0, 1)
        as the other signals are and 1/2 where the students differ as usual; zeros for the LLM's own.
    """
    of_student = ~spread.isnan()
    known = torch.where(of_student, spread, 0)
    return torch.stack([of_student.to(spread.dtype), known / (known + usual)], dim=1)


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
    student : Tensor or None, default=None
        (n_pairs, 2) `STUDENT_SIGNALS`, means of the two items; None where all scores are the LLM's own.
    """

    preferred: Tensor
    other: Tensor
    gap: Tensor
    importance: Tensor | None = None
    student: Tensor | None = None

    @classmethod
    def of(cls, entries: Entries, uncertainty: Tensor | None, pairs: OrderedPairs, *, like: Tensor) -> PairSignals:
        """Collect the signals of `pairs`; without `uncertainty`, (n,), q is 0. `like` gives the number type."""
        q = torch.zeros_like(entries.llm) if uncertainty is None else uncertainty
        z = torch.stack([entries.cold, entries.tail, q], dim=1).to(like.dtype)  # (n, 3)
        gap = (entries.llm[pairs.preferred] - entries.llm[pairs.other]).to(like.dtype)
        student = entries.student
        if student is not None:
            student = ((student[pairs.preferred] + student[pairs.other]) / 2).to(like.dtype)
        return cls(z[pairs.preferred], z[pairs.other], gap, student=student)

    def design(self, *, student: bool = False) -> Tensor:
        """Return `PAIR_SIGNALS` of each pair, (n_pairs, 4): the mean of the two items' z, and the gap.

        With `student`, `STUDENT_SIGNALS` follow, (n_pairs, 6): zeros where all scores are the LLM's own.
        """
        design = torch.cat([(self.preferred + self.other) / 2, self.gap.unsqueeze(1)], dim=1)
        if not student:
            return design
        return torch.cat([design, design.new_zeros(len(design), 2) if self.student is None else self.student], dim=1)

    def to(self, device: torch.device) -> PairSignals:
        """Move to a device."""
        more = (None if part is None else part.to(device) for part in (self.importance, self.student))
        return PairSignals(self.preferred.to(device), self.other.to(device), self.gap.to(device), *more)


def pair_regions(entries: Entries, pairs: OrderedPairs) -> Tensor:
    """Return a (4, n_pairs) bool mask: all, cold user, at least one long-tail item, neither."""
    cold = entries.cold[pairs.preferred]
    tail = entries.tail[pairs.preferred] | entries.tail[pairs.other]
    return torch.stack([torch.ones_like(cold), cold, tail, ~(cold | tail)])
