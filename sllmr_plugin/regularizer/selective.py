"""`SelectiveRegularizer`: model scores, LLM scores, pairs and gate in; the loss and its statistics out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..config import SelectiveConfig
from .gates import Gate
from .losses import PAIR_LOSSES, distillation, pointwise_bce, pointwise_mse
from .pairs import OrderedPairs
from .signals import Entries, PairSignals, pair_regions


@dataclass(frozen=True)
class StepResult:
    """What a step adds to the training loss.

    Attributes
    ----------
    objective : Tensor
        () what is added to the training loss, before lambda: the mean loss and, for some gates, a term of the
        gate's own. Keeps the graph alive even when there is no term.
    mean_loss : Tensor
        () gated loss averaged over the terms, detached.
    n_terms : int
        Pairs, or entries in the pointwise modes.
    gate_sums, gate_counts : Tensor
        (4,) sum of alpha and number of pairs in `REGIONS`: all, cold user, an item of the long tail, neither.
    """

    objective: Tensor
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
            zero = logit.sum() * 0.0
            return StepResult(zero, zero.detach(), 0, logit.new_zeros(4), logit.new_zeros(4))
        loss = self.pair_losses(logit, probability, pairs)
        alpha = self.gate(PairSignals.of(entries, uncertainty, pairs, like=logit))
        regions = pair_regions(entries, pairs).to(alpha.dtype)  # (4, n_pairs)
        mean_loss, penalty = (alpha * loss).mean(), self.gate.penalty(alpha)
        objective = mean_loss if penalty is None else mean_loss + penalty
        return StepResult(objective, mean_loss.detach(), n_pairs, regions @ alpha.detach(), regions.sum(dim=1))

    def pair_losses(self, logit: Tensor, probability: Tensor, pairs: OrderedPairs) -> Tensor:
        """Return the ungated loss of each pair, (n_pairs,)."""
        score = logit if self.config.score_space == "logit" else probability
        difference = score[pairs.preferred] - score[pairs.other]
        return PAIR_LOSSES[self.config.loss](difference, self.config.resolved_margin)

    def _pointwise(self, logit: Tensor, probability: Tensor, entries: Entries) -> StepResult:
        n = logit.shape[0]
        if self.config.mode == "pointwise_mse":
            loss = pointwise_mse(probability, entries.llm)
        elif self.config.mode == "kd":
            loss = distillation(logit, entries.llm, self.config.kd_temperature)
        else:
            loss = pointwise_bce(logit, entries.llm)
        mean = loss.mean() if n else logit.sum() * 0.0
        return StepResult(mean, mean.detach(), n, logit.new_zeros(4), logit.new_zeros(4))
