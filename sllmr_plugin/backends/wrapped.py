"""What every wrapped model has in common, whatever its library: steps, scores of rows, session, copies, devices."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import InactiveWarning, SLLMRError, UnsupportedModelError
from ..handle import Handle, require_sampled_uncertainty
from ..parallel.ranks import Ranks
from ..regularizer.losses import RankNet
from ..regularizer.uncertainty import UNCERTAINTIES, Uncertainty, variance_share
from ..training.session import StepPlan, TrainingSession
from ..training.view import Usable
from .forward import batch_norms, call_with, captured_input, dropouts, training_mode
from .optimizer import sync_optimizer

_SCORING_ROWS = 1024  # larger blocks outgrow the cache of a CPU
# Length of the step along the gradient. DARTS (Liu et al., 2019) takes 0.01, which here carries too many pairs over a
# kink of a ReLU; a tenth of it is still far from the rounding of float32.
_LOOK_AHEAD = 0.001

_Base: Any = object  # the real base, a model class, is put behind the mixin when a model is wrapped


@dataclass(frozen=True, eq=False)
class Constants:
    """What does not change during a training, found out once.

    Attributes
    ----------
    head : nn.Module or None
        The layer whose input is the task's logit.
    norms : list of batch normalisations
        The modules that keep batch statistics.
    uncertainty : Uncertainty
        As the settings choose it.
    shares_forward : bool
        Whether extra rows may ride in the batch's own forward pass, as far as the model's class says.
    """

    head: nn.Module | None
    norms: list[_BatchNorm]
    uncertainty: Uncertainty
    shares_forward: bool


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

    def _shares_forward(self, norms: list[_BatchNorm]) -> bool:
        """Return whether the model's class lets extra rows ride in the batch's own forward pass."""
        raise NotImplementedError

    def _constants(self) -> Constants:
        """Return what was found out for the training at hand; outside of one, find it out."""
        session = self.sllmr.session
        if session is not None and session.constants is not None:
            found: Constants = session.constants
            return found
        norms = batch_norms(self)
        uncertainty = UNCERTAINTIES.make(self.sllmr.config.uncertainty)
        return Constants(self._head(), norms, uncertainty, self._shares_forward(norms))

    def _untouched(self) -> AbstractContextManager[None]:
        """Undo, on leaving, what a forward pass writes to the model beside its output."""
        return nullcontext()

    def _plain(self, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Any, Tensor, Tensor]:
        """Run the plain forward pass: output, and logit and probability (n_rows,) of the task."""
        with captured_input(self._constants().head) as seen:
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
        measure = self._constants().uncertainty
        if measure.source == "probability":
            return measure(probability.detach()[plan.source])
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
            gradient = torch.autograd.grad(RankNet()(taken - other, 0.0).mean(), parameters, allow_unused=True)
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
                    losses.append(session.selective.pair_losses(logit, probability, plan.pairs))
        session.look_ahead(plan, (losses[0] - losses[1]) / (2 * step), uncertainty)

    @torch.no_grad()
    def _sampled_uncertainty(self, rows: Tensor) -> Tensor:
        """Return q of rows, (n_rows,), from several opinions about each: by MC-dropout or by checkpoints."""
        if len(rows) == 0:  # a step without a pair, which models cannot run
            return rows.new_zeros(0)
        with training_mode(list(self.modules()), False), self._untouched():
            if self._constants().uncertainty.source == "checkpoints":
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
        if self.sllmr.features.regression:
            return variance_share(opinions)
        return self._constants().uncertainty(opinions)

    @torch.no_grad()
    def _score_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score rows in evaluation mode, in blocks: logit, probability and uncertainty, (n_rows,) each."""
        measure = self._constants().uncertainty
        logits, probabilities, uncertainties = [], [], []
        for block in rows.split(_SCORING_ROWS):
            block = block.to(self.device)
            with training_mode(list(self.modules()), False), self._untouched():
                _, logit, probability = self._plain(self._inputs(block))
            logits.append(logit)
            probabilities.append(probability)
            if measure.source != "probability":
                uncertainties.append(self._sampled_uncertainty(block))
            elif self.sllmr.features.regression:  # a gate that asks for none, see `check_gate`
                uncertainties.append(torch.zeros_like(probability))
            else:
                uncertainties.append(measure(probability))
        return torch.cat(logits), torch.cat(probabilities), torch.cat(uncertainties)


def plain_class(model: nn.Module) -> type:
    """Return the class that a wrapped model had before; that of an augmented model is not the library's own."""
    ancestors = type(model).__mro__
    return ancestors[ancestors.index(ScoresMixin) + 1]


OWN_LOOP = "sllmr_plugin.SelectiveLoss takes the model's scores, the LLM's and whose they are"
_ROUNDING = 1e-4  # a weighted sum of probabilities may be a little above 1


class WrappedMixin(ScoresMixin):
    """Put before a model class by a library's own mixin, which adds the seams of its `fit`."""

    optimizer_name: ClassVar[str]
    """Attribute under which the library's models keep their optimizer."""

    def _prepare(self, arguments: dict[str, Any]) -> Usable:
        """Find out what the training rows in the arguments of a call of `fit` allow to use."""
        raise NotImplementedError

    def _forward_with(
        self, inputs: Any, batch: Tensor, rows: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Tensor, Tensor]:
        """Return the output of `inputs`, and logit and probability of it and `rows` together, (n_all,) each."""
        raise NotImplementedError

    def forward(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the plain model's output; inside a training step the extra rows ride along."""
        if self.sllmr.processes is not None and torch.is_grad_enabled():
            return self.sllmr.processes.forward(inputs, *args, **kwargs)
        return self._forward_here(inputs, *args, **kwargs)

    def _forward_here(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass of this process."""
        session = self.sllmr.session if self.sllmr.enabled else None
        # Not `self.training`: DeepCTR-Torch's fit leaves the model in eval mode after the first validation.
        if session is None or not torch.is_grad_enabled():
            return self._watched(super().forward(inputs, *args, **kwargs))
        batch = self._rows(inputs)
        plan = session.plan(batch)
        if plan is None:
            return super().forward(inputs, *args, **kwargs)
        by_row = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim()]
        if by_row:
            raise SLLMRError(
                f"a training step calls {plain_class(self).__name__}.forward with {len(by_row)} more tensor(s) than "
                "its input, which the rows of candidates do not have. Make them features of the model, or let "
                "forward do without them."
            )
        output, logit, probability = self._forward_with(inputs, batch, plan.rows, *args, **kwargs)
        if not session.outputs_checked:
            self._check_outputs(output, probability.detach())
            session.outputs_checked = True
        uncertainty = self._uncertainty(batch, plan, probability) if session.gate.uses_uncertainty else None
        self._look_ahead(session, batch, plan, uncertainty)
        session.add(plan, logit[plan.source], probability[plan.source], uncertainty, batch.shape[0])
        return output

    def _check_outputs(self, output: Any, probability: Tensor) -> None:
        """Look at the first step's outputs: the regularizer needs one probability a row, or one score in a regression.

        Raises
        ------
        UnsupportedModelError
            If there are more outputs than tasks, or probabilities outside [0, 1].
        """
        width, expected = self._outputs(output).shape[1], getattr(self, "num_tasks", 1)
        if width != expected:
            raise UnsupportedModelError(
                [
                    f"the model gives {width} outputs a row for {expected} task(s), so which is the score of an item "
                    "cannot be told (a softmax over two classes?). Give it one sigmoid output."
                ]
            )
        least, greatest = (float(end) for end in probability.aminmax())
        if not self.sllmr.features.regression and (least < -_ROUNDING or greatest > 1 + _ROUNDING):
            raise UnsupportedModelError(
                [
                    f"the model's outputs lie between {least:.3g} and {greatest:.3g} in the first step, outside [0, 1] "
                    "(logits with a loss that takes logits?). Let its forward end in a sigmoid and train with "
                    "binary_crossentropy, or build a DeepCTR-Torch model with task='regression'."
                ]
            )

    def _watched(self, output: Any) -> Any:
        """Return an output of a pass outside of `fit`; its backward pass is a training loop other than `fit`."""
        handle = self.sllmr
        watched = handle.enabled and handle.config.active and not handle.told_of_own_loop
        if watched and self.training and torch.is_grad_enabled():
            for tensor in output.values() if isinstance(output, Mapping) else [output]:
                if isinstance(tensor, Tensor) and tensor.requires_grad:
                    tensor.register_hook(lambda _: self._warn_of_own_loop())
        return output

    def _warn_of_own_loop(self) -> None:
        """Say once that a training loop other than `fit` gets no regularizer."""
        handle = self.sllmr
        if handle.told_of_own_loop or handle.session is not None or not (handle.enabled and handle.config.active):
            return
        handle.told_of_own_loop = True
        warnings.warn(
            "a training step was made outside model.fit, so it is the plain model's and the LLM's scores add nothing. "
            f"Train with model.fit, or put the pair loss into your own loop: {OWN_LOOP}.",
            InactiveWarning,
            stacklevel=3,
        )

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Configure as the plain model does; a gate that is trained by descent joins the optimizer."""
        super().compile(*args, **kwargs)
        sync_optimizer(self)

    def _open_session(self, arguments: dict[str, Any]) -> TrainingSession:
        handle = self.sllmr
        if handle.gate.uses_uncertainty:
            self._require_uncertainty()
        seed = handle.config.seed if handle.config.seed is not None else torch.initial_seed()
        # Another call of fit goes on with other draws: training epoch by epoch must not repeat the first.
        handle.n_fits += 1
        ranks = handle.processes.ranks if handle.processes is not None else Ranks()
        seed = int(ranks.of_first(torch.tensor((seed + handle.n_fits - 1) % 2**63)))
        session = TrainingSession(
            handle.config,
            handle.gate,
            self._prepare(arguments),
            user_column=handle.features.layout[handle.features.user][0],
            item_column=handle.features.layout[handle.features.item][0],
            score_rows=self._score_rows,
            seed=seed,
            memory=handle.disagreements,
            ranks=ranks,
        )
        session.constants = self._constants()
        return session

    def _require_uncertainty(self) -> None:
        """Raise `SLLMRError` if the uncertainty that the settings name cannot be had."""
        if self.sllmr.features.regression:
            require_sampled_uncertainty(self.sllmr.config)
        config = self.sllmr.config
        if UNCERTAINTIES.class_of(config.uncertainty).source == "checkpoints" and not self.sllmr.checkpoints:
            raise SLLMRError(
                f"uncertainty={config.uncertainty!r} has no checkpoints to compare. Call "
                "model.sllmr.set_ensemble([...]) first."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        """Move the gate along with `to`, `cuda` and `cpu`."""
        self.sllmr.to_device(fn)
        return super()._apply(fn, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickle and copy by mixin and plain class, since the combined one is made at run time."""
        _, _, *rest = super().__reduce_ex__(protocol)
        ancestors = type(self).__mro__
        return (_new_instance, (ancestors[ancestors.index(WrappedMixin) - 1], plain_class(self)), *rest)


@functools.cache
def wrapped_class(mixin: type, plain: type) -> type:
    """Return the class that puts a library's mixin before a model class, the same one every time."""
    members: dict[str, Any] = {"__module__": plain.__module__, "__doc__": plain.__doc__}
    return type(f"SLLMR{plain.__name__}", (mixin, plain), members)


def _new_instance(mixin: type, plain: type) -> nn.Module:
    cls = wrapped_class(mixin, plain)
    instance: nn.Module = object.__new__(cls)
    return instance


def warn_if_only_warm_up(handle: Handle, n_epochs: int, remedy: str = "") -> None:
    """Warn of a `fit` that ends before the warm-up does."""
    if handle.config.weight_at(n_epochs - 1) == 0:
        warnings.warn(
            f"warmup_epochs={handle.config.warmup_epochs} leaves no epoch of this fit (epochs={n_epochs}) for the "
            f"regularizer, so it trains the plain model. Lower warmup_epochs, or train for more epochs{remedy}.",
            InactiveWarning,
            stacklevel=3,
        )
