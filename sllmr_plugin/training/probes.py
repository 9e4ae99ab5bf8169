"""Probes, held-out interactions that the LLM scored: pairs whose right order is known, and the gate fitted on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CoverageWarning, GateCollapsedWarning
from ..regularizer.gates import Gate
from ..regularizer.pairs import OrderedPairs
from ..regularizer.signals import Entries, PairSignals
from .match import CandidateMatch
from .view import Usable

# Scores rows without gradients: (n, width) -> logit (n,), probability (n,), uncertainty (n,).
ScoreRows = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class ProbePairs:
    """Every probe beside every candidate of its user that is not a training positive of the user.

    Of two items that the user both likes, the LLM cannot be wrong about either.

    Attributes
    ----------
    rows : Tensor
        (n_entries, width) input rows: the probes', then the candidates'.
    entries : Entries
        LLM score and regions of these rows.
    probe, candidate : Tensor
        (n_pairs,) int64 positions in the entries.
    user : Tensor
        (n_pairs,) int64 user codes.
    keys : Tensor
        (n_pairs, 3) int64 codes of user, probe and candidate.
    match : CandidateMatch or None
        How the candidates compare with the catalogue; None without pairs.
    importance : Tensor
        (n_pairs,) float64 weights that make up for it, of mean 1.
    """

    rows: Tensor
    entries: Entries
    probe: Tensor
    candidate: Tensor
    user: Tensor
    keys: Tensor
    match: CandidateMatch | None
    importance: Tensor

    @classmethod
    def of(cls, usable: Usable) -> ProbePairs:
        """Build the pairs of all users that have both probes and candidates."""
        probes, table = usable.probes, usable.candidates
        owner = probes.user_of_entry
        home = torch.searchsorted(table.users, probes.users).clamp_max(len(table.users) - 1)
        has_candidates = table.users[home] == probes.users
        probe = torch.nonzero(has_candidates[owner]).squeeze(1)
        entry, valid = table.block(home[owner[probe]])
        valid &= ~torch.isin(entry, usable.positive)
        number, _ = torch.nonzero(valid, as_tuple=True)
        entry = entry[valid]
        home = home[owner[probe]][number]
        user = probes.users[owner[probe]]
        items = torch.cat([probes.items[probe], table.items[entry]])
        popularity = usable.popularity[table.items[entry]]
        student = [part for part in (usable.student(probes, probe), usable.student(table, entry)) if part is not None]
        match = CandidateMatch.of(usable.popularity[usable.popularity >= 0], popularity) if len(entry) else None
        return cls(
            rows=torch.cat(
                [
                    usable.probe_rows.rows(owner[probe], probes.items[probe]),
                    usable.candidate_rows.rows(home, table.items[entry]),
                ]
            ),
            entries=Entries(
                torch.cat([probes.scores[probe], table.scores[entry]]),
                usable.cold[torch.cat([user, user[number]])],
                usable.tail[items],
                student=torch.cat(student) if student else None,
            ),
            probe=number,
            candidate=len(probe) + torch.arange(len(entry)),
            user=user[number],
            keys=torch.stack([user[number], probes.items[probe][number], table.items[entry]], dim=1),
            match=match,
            importance=torch.empty(0, dtype=torch.float64) if match is None else match.weights(popularity),
        )

    def __len__(self) -> int:
        return self.user.shape[0]

    def judge(self, score_rows: ScoreRows) -> JudgedPairs:
        """Score the pairs with the backbone as it is now."""
        if len(self) == 0:  # models cannot run on no rows
            return JudgedPairs(self, torch.empty(0), torch.empty(0))
        logit, _, uncertainty = (tensor.cpu() for tensor in score_rows(self.rows))
        return JudgedPairs(self, logit[self.probe] - logit[self.candidate], uncertainty)


@dataclass(frozen=True)
class JudgedPairs:
    """Probe pairs with the backbone's opinion.

    Attributes
    ----------
    pairs : ProbePairs
        The pairs.
    model_gap : Tensor
        (n_pairs,) the backbone's logit of the probe minus that of the candidate: above 0 it is right.
    uncertainty : Tensor
        (n_entries,) q of the entries.
    """

    pairs: ProbePairs
    model_gap: Tensor
    uncertainty: Tensor

    @property
    def llm_gap(self) -> Tensor:
        """(n_pairs,) LLM score of the probe minus that of the candidate: above 0 it is right."""
        llm = self.pairs.entries.llm
        return llm[self.pairs.probe] - llm[self.pairs.candidate]

    @property
    def disagree(self) -> Tensor:
        """(n_pairs,) bool: the LLM has an opinion that the backbone does not share.

        A backbone without an opinion counts: at its start it can give all items the same score.
        """
        return (self.llm_gap != 0) & (self.llm_gap * self.model_gap <= 0)

    def evidence(self, which: Tensor) -> tuple[PairSignals, Tensor, Tensor]:
        """Return what a gate is fitted on for the pairs in a (n_pairs,) mask, none of them an LLM tie.

        Returns
        -------
        signals : PairSignals
            With the LLM's preferred item first, and how much each pair counts.
        llm_right : Tensor
            (n,) bool: the LLM prefers the probe.
        user : Tensor
            (n,) int64.
        """
        pairs = self.pairs
        right = self.llm_gap[which] > 0
        probe, candidate = pairs.probe[which], pairs.candidate[which]
        ordered = OrderedPairs(torch.where(right, probe, candidate), torch.where(right, candidate, probe))
        signals = PairSignals.of(pairs.entries, self.uncertainty, ordered, like=self.uncertainty)
        return replace(signals, importance=pairs.importance[which]), right, pairs.user[which]


_HELD_OUT_PAIRS = 64


@dataclass(frozen=True)
class HeldOutPairs:
    """Rows of probes, and of a candidate of the same user for each.

    Attributes
    ----------
    taken, other : Tensor
        (n, width) input rows.
    """

    taken: Tensor
    other: Tensor


@dataclass
class DisagreementMemory:
    """Which probe pairs the LLM and the backbone have ever disagreed about.

    Attributes
    ----------
    keys : Tensor
        (n_pairs, 3) user, probe and candidate codes.
    seen : Tensor
        (n_pairs,) bool.
    """

    keys: Tensor = field(default_factory=lambda: torch.empty((0, 3), dtype=torch.int64))
    seen: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))

    def begin(self, keys: Tensor) -> None:
        """Go on with these pairs; what is remembered of other ones is dropped.

        New training rows can make a few more pairs usable, or fewer: those in common stay remembered.
        """
        if torch.equal(keys, self.keys):
            return
        unique, number = torch.cat([self.keys, keys]).unique(dim=0, return_inverse=True)
        seen = torch.zeros(len(unique), dtype=torch.bool)
        seen[number[: len(self.keys)]] = self.seen
        self.keys, self.seen = keys, seen[number[len(self.keys) :]]


class GateFitter:
    """Fits a gate on the probes of a training.

    Parameters
    ----------
    usable : Usable
        The probes and candidates of the training.
    score_rows : ScoreRows
        Scores rows with the backbone as it is at that moment.
    memory : DisagreementMemory, optional
        Of earlier trainings with the same gate; added to.
    weighed : bool, default=True
        Whether pairs count as their candidates are common in the catalogue.
    """

    def __init__(
        self, usable: Usable, score_rows: ScoreRows, memory: DisagreementMemory | None = None, *, weighed: bool = True
    ) -> None:
        self._weighed = weighed
        self._pairs = ProbePairs.of(usable)
        self._score_rows = score_rows
        self._memory = memory if memory is not None else DisagreementMemory()
        self._memory.begin(self._pairs.keys)

    @property
    def seen(self) -> Tensor:
        """(n_pairs,) bool, which pairs have ever been disagreed about; changes to it are remembered."""
        return self._memory.seen

    def refit(self, gate: Any) -> None:
        """Fit the gate on the pairs about which the LLM and the backbone disagree, or have disagreed before.

        A pair stays evidence once they have disagreed. Where the regularizer has taught the backbone what the LLM
        knows, they agree by now, and the disagreements that are left are those where the LLM is wrong: a gate fitted
        on these alone would close on its own success.
        """
        if len(self._pairs) == 0:
            return
        judged = self._pairs.judge(self._score_rows)
        self._memory.seen |= judged.disagree
        signals, llm_right, user = judged.evidence(self._memory.seen)
        if not self._weighed:
            signals = replace(signals, importance=None)
        device = next((tensor.device for tensor in (*gate.buffers(), *gate.parameters())), torch.device("cpu"))
        gate.fit(signals.to(device), llm_right.to(device), user.to(device))

    def draw(self, generator: torch.Generator) -> HeldOutPairs | None:
        """Draw pairs for a look at the held-out loss; None if there are none."""
        if len(self._pairs) == 0:
            return None
        chosen = torch.randint(len(self._pairs), (_HELD_OUT_PAIRS,), generator=generator)
        rows = self._pairs.rows
        return HeldOutPairs(rows[self._pairs.probe[chosen]], rows[self._pairs.candidate[chosen]])


COLLAPSED_BELOW = 0.02


def warn_of_gate(gate: Gate, mean_alpha: float) -> None:
    """Warn at the end of an epoch of a gate that had nothing to learn from, or has closed, and say why."""
    if gate.looks_ahead and not gate.calibrated:
        warnings.warn(
            "no probe belongs to a user with a training row and candidates, so the gate has nothing to learn from "
            "and weighs all pairs alike. Score candidates for the users of the probes too, or use gate='fixed'.",
            CoverageWarning,
            stacklevel=3,
        )
    if mean_alpha >= COLLAPSED_BELOW:
        return
    warnings.warn(
        f"the gate has collapsed (mean alpha {mean_alpha:.4f}): {gate.collapse_remedy}",
        GateCollapsedWarning,
        stacklevel=3,
    )
