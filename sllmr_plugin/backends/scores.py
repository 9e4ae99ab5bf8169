"""Scores of rows from a wrapped model of any library: its plain forward pass, and what else a gate asks of it.

Rows are matrices here, (n_rows, width) with a layout of columns; a library's mixin says how its models take them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..handle import Handle
from ..regularizer.losses import ranknet
from ..regularizer.uncertainty import FROM_PROBABILITY, bernoulli_variance, variance_share
from ..session import StepPlan, TrainingSession
from .other_weights import call_with
from .shared_forward import captured_input, dropouts, training_mode

_SCORING_ROWS = 1024  # larger blocks outgrow the cache of a CPU
# Length of the step along the gradient. DARTS (Liu et al., 2019) takes 0.01, which here carries too many pairs over a
# kink of a ReLU; a tenth of it is still far from the rounding of float32.
_LOOK_AHEAD = 0.001

_Base: Any = object  # the real base, a model class, is put behind the mixin when a model is wrapped


class ScoresMixin(_Base):
    """Put before a model class, scores rows without a trace in the model; needs a `Handle` in `sllmr`."""

    sllmr: Handle
    device: Any

    def _rows(self, inputs: Any) -> Tensor:
        """Return the rows of what the model's forward takes, (n_rows, width)."""
        raise NotImplementedError

    def _inputs(self, rows: Tensor) -> Any:
        """Return what the model's forward takes for rows, (n_rows, width)."""
        raise NotImplementedError

    def _outputs(self, output: Any) -> Tensor:
        """Return the outputs of all tasks, (n_rows, n_outputs), from what the model's forward gives."""
        raise NotImplementedError

    def _probability(self, output: Any) -> Tensor:
        """Return the task's probability, (n_rows,), from what the model's forward gives; its score in a regression."""
        return self._outputs(output)[:, self.sllmr.task]

    def _head(self) -> nn.Module | None:
        """Return the layer whose input is the task's logit, None where there is no such layer."""
        raise NotImplementedError

    def _untouched(self) -> AbstractContextManager[None]:
        """Undo, on leaving, what a forward pass writes to the model beside its output."""
        return nullcontext()

    def _plain(self, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Any, Tensor, Tensor]:
        """Run the plain forward pass: output, and logit and probability (n_rows,) of the task."""
        with captured_input(self._head()) as seen:
            output = super().forward(inputs, *args, **kwargs)
        probability = self._probability(output)
        # DeepCTR-Torch's layer adds its bias in place, so what it was given is the logit. Some models never call the
        # layer (MLR) or call it for factors of the output (ESMM): there the logit is recovered from the probability.
        logit = seen[0].reshape(-1) if len(seen) == 1 else self._logit_of(probability)
        return output, logit, probability

    def _logit_of(self, probability: Tensor) -> Tensor:
        """Return logits of probabilities; scores of a regression stay what they are."""
        return probability if self.sllmr.features.regression else torch.logit(probability, eps=1e-6)

    def _uncertainty(self, batch: Tensor, plan: StepPlan, probability: Tensor) -> Tensor:
        kind = self.sllmr.config.uncertainty
        if kind in FROM_PROBABILITY:
            return FROM_PROBABILITY[kind](probability.detach()[plan.source])
        return self._sampled_uncertainty(torch.cat([batch, plan.rows])[plan.source])

    def _look_ahead(self, session: TrainingSession, batch: Tensor, plan: StepPlan, uncertainty: Tensor | None) -> None:
        """Find how each pair's loss moves with the held-out loss, for a gate that asks.

        The inner product of the two gradients is the derivative of the pair's loss along the held-out
        loss's gradient: a central difference gives it for all pairs at the price of two forward passes.
        """
        held_out = session.held_out()
        if held_out is None or len(plan.pairs) == 0:
            return
        names, parameters = zip(*((n, p) for n, p in self.named_parameters() if p.requires_grad), strict=True)
        with training_mode(list(self.modules()), False), self._untouched():
            held_out_rows = torch.cat([held_out.taken, held_out.other]).to(batch.device)
            _, logit, _ = self._plain(self._inputs(held_out_rows))
            taken, other = logit.chunk(2)
            gradient = torch.autograd.grad(ranknet(taken - other, 0.0).mean(), parameters, allow_unused=True)
            moved = [(n, p, g) for n, p, g in zip(names, parameters, gradient, strict=True) if g is not None]
            length = torch.stack([g.square().sum() for _, _, g in moved]).sum().sqrt()
            step = float(_LOOK_AHEAD / length.clamp_min(1e-12))
            entries = self._inputs(torch.cat([batch, plan.rows])[plan.source])
            losses = []
            with torch.no_grad():
                for sign in (1, -1):
                    there = {n: p + sign * step * g for n, p, g in moved}
                    probability = self._probability(call_with(self, there, entries))
                    logit = self._logit_of(probability)
                    losses.append(session.regularizer.pair_losses(logit, probability, plan.pairs))
        session.look_ahead(plan, (losses[0] - losses[1]) / (2 * step), uncertainty)

    @torch.no_grad()
    def _sampled_uncertainty(self, rows: Tensor) -> Tensor:
        """Return q of rows, (n_rows,), from several opinions about each: by MC-dropout or by checkpoints."""
        if len(rows) == 0:  # a step without a pair, which models cannot run
            return rows.new_zeros(0)
        with training_mode(list(self.modules()), False), self._untouched():
            if self.sllmr.config.uncertainty == "ensemble":
                inputs = self._inputs(rows)
                opinions = [
                    self._probability(call_with(self, checkpoint, inputs)) for checkpoint in self.sllmr.checkpoints
                ]
                return self._variance(torch.stack(opinions))
            samples = self.sllmr.config.mc_samples
            with training_mode(dropouts(self), True):
                _, _, probability = self._plain(self._inputs(rows.repeat(samples, 1)))
            return self._variance(probability.view(samples, -1))

    def _variance(self, opinions: Tensor) -> Tensor:
        return variance_share(opinions) if self.sllmr.features.regression else bernoulli_variance(opinions)

    @torch.no_grad()
    def _score_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score rows in evaluation mode, in blocks: logit, probability and uncertainty, (n_rows,) each."""
        kind = self.sllmr.config.uncertainty
        logits, probabilities, uncertainties = [], [], []
        for block in rows.split(_SCORING_ROWS):
            block = block.to(self.device)
            with training_mode(list(self.modules()), False), self._untouched():
                _, logit, probability = self._plain(self._inputs(block))
            logits.append(logit)
            probabilities.append(probability)
            if kind not in FROM_PROBABILITY:
                uncertainties.append(self._sampled_uncertainty(block))
            elif self.sllmr.features.regression:  # a gate that asks for none, see `check_gate`
                uncertainties.append(torch.zeros_like(probability))
            else:
                uncertainties.append(FROM_PROBABILITY[kind](probability))
        return torch.cat(logits), torch.cat(probabilities), torch.cat(uncertainties)


def plain_class(model: nn.Module) -> type:
    """Return the class that a wrapped model had before; that of an augmented model is not the library's own."""
    ancestors = type(model).__mro__
    return ancestors[ancestors.index(ScoresMixin) + 1]
