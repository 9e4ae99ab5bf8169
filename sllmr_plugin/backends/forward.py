"""A wrapped model's forward passes: with extra rows, with other weights, repeatedly, and none of it leaves a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd

from ..errors import UnsupportedModelError
from ..regularizer.losses import RankNet
from ..regularizer.uncertainty import UNCERTAINTIES, variance_share
from ..training.session import StepPlan, TrainingSession
from .base import Backend
from .first_rows import batch_norms, dropout_of_first, statistics_of_first


@contextmanager
def training_mode(modules: Sequence[nn.Module], mode: bool) -> Iterator[None]:
    """Set single modules to training or evaluation mode for a while."""
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.training = mode
        yield
    finally:
        for module, was in zip(modules, before, strict=True):
            module.training = was


@contextmanager
def captured_input(module: nn.Module | None) -> Iterator[list[Tensor]]:
    """Collect the inputs that a module is called with, in order; nothing for None."""
    seen: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])

    if module is None:
        yield seen
        return
    handle = module.register_forward_pre_hook(record)
    try:
        yield seen
    finally:
        handle.remove()


def call_with(model: nn.Module, tensors: Mapping[str, Tensor], inputs: Any) -> Any:
    """Call a model as if its parameters and buffers were these, and leave its own in place.

    `functional_call` alone does not: of a module that is registered under two names, an embedding that two features
    share, it leaves the other weights behind. So every place is named once here.

    Parameters
    ----------
    model : Module
        Called with `inputs`.
    tensors : mapping of str to Tensor
        By any of the names that `named_parameters`, `named_buffers` or `state_dict` give; others stay as they are.
    inputs : Any
        What the forward takes.
    """
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    instead = {id(own[name]): tensor for name, tensor in tensors.items() if name in own}
    places = {
        f"{path}.{name}" if path else name: instead[id(tensor)]
        for path, module in model.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if id(tensor) in instead
    }
    return functional_call(model, places, (inputs,), tie_weights=False)


_SCORING_ROWS = 1024  # larger blocks outgrow the cache of a CPU
_ROUNDING = 1e-4  # a weighted sum of probabilities may be a little above 1
# Length of the step along the gradient. DARTS (Liu et al., 2019) takes 0.01, which here carries too many pairs over a
# kink of a ReLU; a tenth of it is still far from the rounding of float32.
_LOOK_AHEAD = 0.001


class Passes:
    """Forward passes of a wrapped model, for one call of `fit`: what does not change in between is looked up once.

    Parameters
    ----------
    model : wrapped model
        Its handle says which task, and which uncertainty is asked for.
    backend : Backend
        Of the model's library.
    forward : callable
        The plain model's bound ``forward``.
    label_variance : float
        Of the training labels; a regression's uncertainty is compared with it.

    Attributes
    ----------
    shares : bool or None
        Whether extra rows go through the batch's own forward pass; None until the first step has tried it out.
    """

    def __init__(self, model: Any, backend: Backend, forward: Callable[..., Any], label_variance: float) -> None:
        handle = model.sllmr
        self.model = model
        self.backend = backend
        self._forward = forward
        self._handle = handle
        self._task, self._regression = handle.task, handle.features.regression
        self._measure = UNCERTAINTIES.make(handle.config.uncertainty)
        self._mc_samples = handle.config.mc_samples
        self._label_variance = label_variance
        self._head = backend.head(model, handle.task)
        self._modules = list(model.modules())
        self._norms = batch_norms(model)
        self.shares = backend.shares_forward(model, bool(self._norms))
        self._outputs_checked = False

    def step(
        self, session: TrainingSession, plan: StepPlan, inputs: Any, batch: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """Run a training step's forward pass with the plan's rows, give the session their scores.

        Parameters
        ----------
        session : TrainingSession
            Takes the scores.
        plan : StepPlan
            Of this step.
        inputs : Any
            What the library gave the model's forward; further arguments follow.
        batch : Tensor
            (n_rows, width) the rows in it.

        Returns
        -------
        Any
            The output for the batch alone.
        """
        output, logit, probability = self._with_rows(session, inputs, batch, plan.rows, *args, **kwargs)
        if not self._outputs_checked:
            self._check_outputs(output, probability.detach())
            self._outputs_checked = True
        uncertainty = None
        if session.gate.uses_uncertainty and len(plan.source):
            if self._measure.source == "probability":
                uncertainty = self._measure(probability.detach()[plan.source])
            else:
                uncertainty = self._sampled_uncertainty(torch.cat([batch, plan.rows])[plan.source])
        if session.gate.looks_ahead:
            self._look_ahead(session, batch, plan, uncertainty)
        session.add(plan, logit[plan.source], probability[plan.source], uncertainty, batch.shape[0])
        return output

    @torch.no_grad()
    def score_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score rows in evaluation mode, in blocks: logit, probability and uncertainty, (n_rows,) each."""
        logits, probabilities, uncertainties = [], [], []
        for block in rows.split(_SCORING_ROWS):
            block = block.to(self.model.device)
            with training_mode(self._modules, False), self.backend.untouched(self.model):
                _, logit, probability = self._plain(self.backend.inputs(self.model, block))
            logits.append(logit)
            probabilities.append(probability)
            if self._measure.source != "probability":
                uncertainties.append(self._sampled_uncertainty(block))
            elif self._regression:  # a gate that asks for none, see `check_gate`
                uncertainties.append(torch.zeros_like(probability))
            else:
                uncertainties.append(self._measure(probability))
        return torch.cat(logits), torch.cat(probabilities), torch.cat(uncertainties)

    def _plain(self, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Any, Tensor, Tensor]:
        """Run the plain forward pass: output, and logit and probability (n_rows,) of the task."""
        with captured_input(self._head) as seen:
            output = self._forward(inputs, *args, **kwargs)
        probability = self._probability(output)
        # DeepCTR-Torch's layer adds its bias in place, so what it was given is the logit. Some models never call the
        # layer (MLR) or call it for factors of the output (ESMM): there the logit is recovered from the probability.
        logit = seen[0].reshape(-1) if len(seen) == 1 else self._logit_of(probability)
        return output, logit, probability

    def _probability(self, output: Any) -> Tensor:
        """Return the task's probability, (n_rows,); its score in a regression."""
        return self.backend.outputs(self.model, output)[:, self._task]

    def _logit_of(self, probability: Tensor) -> Tensor:
        """Return logits of probabilities; scores of a regression stay what they are."""
        return probability if self._regression else torch.logit(probability, eps=1e-6)

    def _dropouts(self) -> list[_DropoutNd]:
        return [module for module in self._modules if isinstance(module, _DropoutNd) and module.p > 0]

    def _with_rows(
        self, session: TrainingSession, inputs: Any, batch: Tensor, rows: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Tensor, Tensor]:
        """Return the output of `inputs`, and logit and probability of it and `rows` together, (n_all,) each."""
        n, n_all = len(batch), len(batch) + len(rows)
        if n == n_all:  # models cannot run on no rows
            return self._plain(inputs, *args, **kwargs)
        if self.shares is None:
            self.shares = self.backend.finds_row_wise(self.model, batch, rows, self._head)
        if self.shares:
            with ExitStack() as stack:
                stack.enter_context(statistics_of_first(self._norms, n, n_all))
                if self.backend.draws_apart:
                    stack.enter_context(dropout_of_first(self._dropouts(), n, n_all, session.draws_on))
                both = self.backend.joined(self.model, inputs, rows)
                output, logit, probability = self._plain(both, *args, **kwargs)
            return self.backend.first(output, n), logit, probability
        output, logit, probability = self._plain(inputs, *args, **kwargs)
        apart = rows if self.backend.rows_run_alone else torch.cat([batch, rows])
        with self.backend.untouched(self.model), training_mode(self._norms, False):
            _, more_logit, more_probability = self._plain(self.backend.inputs(self.model, apart), *args, **kwargs)
        logit = torch.cat([logit, more_logit[-len(rows) :]])
        return output, logit, torch.cat([probability, more_probability[-len(rows) :]])

    def _check_outputs(self, output: Any, probability: Tensor) -> None:
        """Look at the first step's outputs: the regularizer needs one probability a row, or one score in a regression.

        Raises
        ------
        UnsupportedModelError
            If there are more outputs than tasks, or probabilities outside [0, 1].
        """
        width = self.backend.outputs(self.model, output).shape[1]
        expected = getattr(self.model, "num_tasks", 1)
        if width != expected:
            raise UnsupportedModelError(
                [
                    f"the model gives {width} outputs a row for {expected} task(s), so it is unclear which one scores "
                    "an item (a softmax over two classes?). Give it one sigmoid output."
                ]
            )
        least, greatest = (float(end) for end in probability.aminmax())
        if not self._regression and (least < -_ROUNDING or greatest > 1 + _ROUNDING):
            raise UnsupportedModelError(
                [
                    f"the model's outputs lie between {least:.3g} and {greatest:.3g} in the first step, outside [0, 1] "
                    "(logits with a loss that takes logits?). Let its forward end in a sigmoid and train with "
                    "binary_crossentropy, or build a DeepCTR-Torch model with task='regression'."
                ]
            )

    def _look_ahead(self, session: TrainingSession, batch: Tensor, plan: StepPlan, uncertainty: Tensor | None) -> None:
        """Find how each pair's loss moves with the held-out loss, for a gate that needs it.

        The inner product of the two gradients is the derivative of the pair's loss along the held-out
        loss's gradient: a central difference gives it for all pairs at the price of two forward passes.
        """
        held_out = session.held_out()
        if held_out is None or len(plan.pairs) == 0:
            return
        names, parameters = zip(*((n, p) for n, p in self.model.named_parameters() if p.requires_grad), strict=True)
        with training_mode(self._modules, False), self.backend.untouched(self.model):
            held_out_rows = torch.cat([held_out.taken, held_out.other]).to(batch.device)
            _, logit, _ = self._plain(self.backend.inputs(self.model, held_out_rows))
            taken, other = logit.chunk(2)
            gradient = torch.autograd.grad(RankNet()(taken - other, 0.0).mean(), parameters, allow_unused=True)
            moved = [(n, p, g) for n, p, g in zip(names, parameters, gradient, strict=True) if g is not None]
            length = torch.stack([g.square().sum() for _, _, g in moved]).sum().sqrt()
            step = float(_LOOK_AHEAD / length.clamp_min(1e-12))
            entries = self.backend.inputs(self.model, torch.cat([batch, plan.rows])[plan.source])
            losses = []
            with torch.no_grad():
                for sign in (1, -1):
                    there = {n: p + sign * step * g for n, p, g in moved}
                    probability = self._probability(call_with(self.model, there, entries))
                    logit = self._logit_of(probability)
                    losses.append(session.selective.pair_losses(logit, probability, plan.pairs))
        session.look_ahead(plan, (losses[0] - losses[1]) / (2 * step), uncertainty)

    @torch.no_grad()
    def _sampled_uncertainty(self, rows: Tensor) -> Tensor:
        """Return q of rows, (n_rows,), from several predictions for each: by MC-dropout or by checkpoints."""
        if len(rows) == 0:  # a step without a pair, which models cannot run
            return rows.new_zeros(0)
        with training_mode(self._modules, False), self.backend.untouched(self.model):
            if self._measure.source == "checkpoints":
                inputs = self.backend.inputs(self.model, rows)
                checkpoints = self._handle.checkpoints
                opinions = torch.stack(
                    [self._probability(call_with(self.model, checkpoint, inputs)) for checkpoint in checkpoints]
                )
            else:
                repeated = self.backend.inputs(self.model, rows.repeat(self._mc_samples, 1))
                with training_mode(self._dropouts(), True):
                    _, _, probability = self._plain(repeated)
                opinions = probability.view(self._mc_samples, -1)
        return variance_share(opinions, self._label_variance) if self._regression else self._measure(opinions)
