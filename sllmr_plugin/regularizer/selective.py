"""`SelectiveRegularizer`: model scores, LLM scores, pairs and gate in; the loss and its statistics out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import SelectiveConfig
from .gate import Gate
from .losses import PAIR_LOSSES, pointwise_bce, pointwise_mse
from .pairs import OrderedPairs

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


@dataclass(frozen=True)
class StepResult:
    """What a step adds to the training loss.

    Attributes
    ----------
    mean_loss : Tensor
        () gated loss averaged over the terms; keeps the graph alive even when there is no term.
    n_terms : int
        Pairs, or entries in the pointwise modes.
    gate_sums, gate_counts : Tensor
        (4,) sum of alpha and number of pairs in `REGIONS`: all, cold user, an item of the long tail, neither.
    """

    mean_loss: Tensor
    n_terms: int
    gate_sums: Tensor
    gate_counts: Tensor


class SelectiveRegularizer:
    """The gated LLM loss of a step (paper Sec. 3.2-3.4), without any knowledge of a CTR library.

    Parameters
    ----------
    config : SelectiveConfig
        Mode, loss, score space and margin are read from it.
    gate : Gate
        Weighs the pairs.
    """

    def __init__(self, config: SelectiveConfig, gate: Gate) -> None:
        self.config = config
        self.gate = gate

    def __call__(
        self, logit: Tensor, probability: Tensor, uncertainty: Tensor | None, entries: Entries, pairs: OrderedPairs
    ) -> StepResult:
        """Compute the loss.

        Parameters
        ----------
        logit, probability : Tensor
            (n,) the model's scores of the entries, attached to the graph.
        uncertainty : Tensor or None
            (n,) q in [0, 1], detached; None where the gate does not use it.
        entries : Entries
            What the LLM says of them and where they lie.
        pairs : OrderedPairs
            Positions into the entries. Ignored by the pointwise modes.
        """
        if not self.config.pairwise:
            return self._pointwise(logit, probability, entries)
        n_pairs = len(pairs)
        if n_pairs == 0:
            return StepResult(logit.sum() * 0.0, 0, logit.new_zeros(4), logit.new_zeros(4))
        score = logit if self.config.score_space == "logit" else probability
        difference = score[pairs.preferred] - score[pairs.other]
        loss = PAIR_LOSSES[self.config.loss](difference, self.config.resolved_margin)
        alpha = self.gate(*pair_signals(entries, uncertainty, pairs, like=logit))
        regions = pair_regions(entries, pairs).to(alpha.dtype)  # (4, n_pairs)
        return StepResult((alpha * loss).mean(), n_pairs, regions @ alpha.detach(), regions.sum(dim=1))

    def _pointwise(self, logit: Tensor, probability: Tensor, entries: Entries) -> StepResult:
        n = logit.shape[0]
        if self.config.mode == "pointwise_mse":
            loss = pointwise_mse(probability, entries.llm)
        else:
            loss = pointwise_bce(logit, entries.llm)
        mean = loss.mean() if n else logit.sum() * 0.0
        return StepResult(mean, n, logit.new_zeros(4), logit.new_zeros(4))


def pair_signals(
    entries: Entries, uncertainty: Tensor | None, pairs: OrderedPairs, *, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Return z = [cold, tail, q] of the preferred and of the other entries, (n_pairs, 3) each."""
    q = torch.zeros_like(like) if uncertainty is None else uncertainty
    z = torch.stack([entries.cold.to(like.dtype), entries.tail.to(like.dtype), q], dim=1)  # (n, 3)
    return z[pairs.preferred], z[pairs.other]


def pair_regions(entries: Entries, pairs: OrderedPairs) -> Tensor:
    """Return a (4, n_pairs) bool mask: all, cold user, at least one long-tail item, neither."""
    cold = entries.cold[pairs.preferred]
    tail = entries.tail[pairs.preferred] | entries.tail[pairs.other]
    return torch.stack([torch.ones_like(cold), cold, tail, ~(cold | tail)])
