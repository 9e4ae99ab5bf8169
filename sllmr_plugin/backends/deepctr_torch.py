"""The mixin and the callback that put the regularizer into DeepCTR-Torch's own `fit`.

`BaseModel.fit` calls ``self(x)`` and ``self.get_regularization_loss()`` once a step; these two are the seams.
The forward pass is given the extra rows behind the batch's and returns the batch's outputs only; the
regularization loss hands out what was made of the rest.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import HookNeverFiredError, InactiveWarning, SLLMRError
from ..handle import Handle
from ..item_rows import TrainingRows
from ..preparation import prepare
from ..regularizer.losses import ranknet
from ..regularizer.uncertainty import FROM_PROBABILITY, bernoulli_variance
from ..session import StepPlan, TrainingSession
from .deepctr_checks import prediction_head, shares_forward
from .shared_forward import batch_norms, captured_input, dropouts, statistics_of_first, training_mode

_SCORING_ROWS = 1024  # larger blocks outgrow the cache of a CPU
# Length of the step along the gradient. DARTS (Liu et al., 2019) takes 0.01, which here carries too many pairs over a
# kink of a ReLU; a tenth of it is still far from the rounding of float32.
_LOOK_AHEAD = 0.001
_GROUP_MARK = "sllmr_gate"
_FIT_ORDER = (  # of DeepCTR-Torch's own `fit`
    "x",
    "y",
    "batch_size",
    "epochs",
    "verbose",
    "initial_epoch",
    "validation_split",
    "validation_data",
    "shuffle",
    "callbacks",
)

if TYPE_CHECKING:  # the real base is put behind the mixin when a model is wrapped
    from deepctr_torch.models.basemodel import BaseModel as _Base
else:
    _Base = object


class SLLMRCallback:
    """Opens and closes the regularizer's epochs and puts its account into the logs.

    `fit` of a wrapped model adds one in front of the user's callbacks, so that ``sllmr_*`` stand in
    `model.history` and later callbacks can monitor them. Passing one's own decides where it stands instead.

    Parameters
    ----------
    verbose : int, default=0
        Above 0, print a line an epoch.
    """

    def __init__(self, verbose: int = 0) -> None:
        self.verbose = verbose
        self.model: Any = None

    def set_model(self, model: nn.Module) -> None:
        """Remember the model that trains."""
        self.model = model

    def set_params(self, params: dict) -> None:
        """Take no notice: part of DeepCTR-Torch's callback protocol."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Do nothing: `fit` has opened the session already."""

    def on_train_end(self, logs: dict | None = None) -> None:
        """Do nothing: `fit` closes the session, whatever happens."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the epoch's weight."""
        handle = getattr(self.model, "sllmr", None)
        if handle is not None and handle.session is not None:
            handle.session.begin_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Add the epoch's account to the logs.

        Raises
        ------
        NoPairsError, HookNeverFiredError
            If the regularizer did nothing in this epoch.
        """
        handle = getattr(self.model, "sllmr", None)
        if handle is None or handle.session is None:
            return
        account = handle.session.end_epoch()
        handle.epochs.append(account)
        if logs is not None:
            logs.update(account)
        if self.verbose and account["sllmr_pairs"]:
            print("sllmr - " + " - ".join(f"{key[6:]}: {value:.4g}" for key, value in account.items()))


class SLLMRMixin(_Base):
    """Put before a DeepCTR-Torch model class, adds the regularizer to `fit`; needs a `Handle` in `sllmr`.

    `wrap` builds the combined class and swaps it in; there is no need to inherit from this by hand.
    """

    sllmr: Handle

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the plain model does, with the regularizer added; takes and returns the same.

        Raises
        ------
        CoverageError
            If nothing of the score table can be used with these training rows.
        NoPairsError, HookNeverFiredError
            After an epoch in which the regularizer did nothing.
        """
        handle = self.sllmr
        if not handle.enabled or not handle.config.active:
            handle.training, handle.epochs = {}, []
            return super().fit(*args, **kwargs)
        arguments = _fit_arguments(super().fit, args, kwargs)
        _warn_if_only_warm_up(handle, arguments)
        sync_optimizer(self)
        handle.epochs = []
        callbacks = list(arguments["callbacks"] or [])
        if not any(isinstance(callback, SLLMRCallback) for callback in callbacks):
            callbacks.insert(0, SLLMRCallback(verbose=arguments.get("verbose", 1)))
        arguments["callbacks"] = callbacks
        try:
            handle.session = session = self._open_session(arguments)
            result = super().fit(**arguments)
        finally:
            handle.session = None
        if not session.began and arguments.get("epochs", 1) > arguments.get("initial_epoch", 0):
            raise HookNeverFiredError(
                f"{type(self).__name__}.fit trained without the callbacks it was given, so the regularizer never "
                "started. Pass `callbacks` on to super().fit."
            )
        return result

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Configure as the plain model does; a gate that is trained by descent joins the optimizer."""
        super().compile(*args, **kwargs)
        sync_optimizer(self)

    def _open_session(self, arguments: dict[str, Any]) -> TrainingSession:
        handle = self.sllmr
        if handle.gate.uses_uncertainty and handle.config.uncertainty == "ensemble" and not handle.checkpoints:
            raise SLLMRError(
                "uncertainty='ensemble' has no checkpoints to compare. Call model.sllmr.set_ensemble([...]) before fit."
            )
        x, y = arguments["x"], arguments["y"]
        if isinstance(x, dict):
            x = [x[feature] for feature in self.feature_index]
        n_rows = len(y)
        split = arguments.get("validation_split")
        if not arguments.get("validation_data") and split and 0.0 < split < 1.0:
            n_rows = int(len(x[0]) * (1.0 - split))  # as BaseModel.fit cuts it
        training = TrainingRows(x, y, handle.features.layout, n_rows, handle.task)
        seed = handle.config.seed if handle.config.seed is not None else torch.initial_seed()
        # Another call of fit goes on with other draws: training epoch by epoch must not repeat the first.
        handle.n_fits += 1
        return TrainingSession(
            handle.config,
            handle.gate,
            prepare(handle, training),
            user_column=handle.features.layout[handle.features.user][0],
            item_column=handle.features.layout[handle.features.item][0],
            score_rows=self._score_rows,
            seed=seed + handle.n_fits - 1,
            memory=handle.disagreements,
        )

    def forward(self, X: Tensor) -> Tensor:
        """Return the plain model's output of `X`; inside a training step the extra rows ride along."""
        session = self.sllmr.session if self.sllmr.enabled else None
        # Not `self.training`: BaseModel.fit leaves the model in eval mode after the first validation.
        plan = session.plan(X) if session is not None and torch.is_grad_enabled() else None
        if session is None or plan is None:
            return super().forward(X)
        output, logit, probability = self._forward_with(X, plan.rows)
        uncertainty = self._uncertainty(X, plan, probability) if session.gate.uses_uncertainty else None
        self._look_ahead(X, plan, uncertainty)
        session.add(plan, logit[plan.source], probability[plan.source], uncertainty, X.shape[0])
        return output

    def get_regularization_loss(self) -> Tensor:
        """Return the plain model's regularization loss plus, once a training step, the weighted LLM loss."""
        loss = super().get_regularization_loss()
        session = self.sllmr.session
        extra = None if session is None else session.take_loss()
        return loss if extra is None else loss + extra

    def _plain(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the plain forward pass: output, and logit and probability (n_rows,) of the task."""
        task = self.sllmr.task
        with captured_input(prediction_head(self, task)) as seen:
            output = super().forward(X)
        probability = output.reshape(X.shape[0], -1)[:, task]
        # The layer adds its bias in place, so what it was given is the logit. MLR never calls the layer and ESMM
        # calls it twice, for factors of the output: there the logit is recovered from the probability.
        logit = seen[0].reshape(-1) if len(seen) == 1 else torch.logit(probability, eps=1e-6)
        return output, logit, probability

    def _forward_with(self, X: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output of `X`, and logit and probability of `X` and `rows` together, (n_all,) each."""
        n = X.shape[0]
        norms = batch_norms(self)
        if shares_forward(plain_class(self), self, bool(norms)):
            both = torch.cat([X, rows])
            with statistics_of_first(norms, n, both.shape[0]):
                output, logit, probability = self._plain(both)
            return output[:n], logit, probability
        output, logit, probability = self._plain(X)
        # DIEN cannot run rows whose histories are all empty, so the batch goes along once more.
        with training_mode(norms, False), _aux_loss_kept(self):
            _, logit_both, probability_both = self._plain(torch.cat([X, rows]))
        return output, torch.cat([logit, logit_both[n:]]), torch.cat([probability, probability_both[n:]])

    def _uncertainty(self, X: Tensor, plan: StepPlan, probability: Tensor) -> Tensor:
        kind = self.sllmr.config.uncertainty
        if kind in FROM_PROBABILITY:
            return FROM_PROBABILITY[kind](probability.detach()[plan.source])
        return self._sampled_uncertainty(torch.cat([X, plan.rows])[plan.source])

    def _look_ahead(self, X: Tensor, plan: StepPlan, uncertainty: Tensor | None) -> None:
        """Find how each pair's loss moves with the held-out loss, for a gate that asks.

        The inner product of the two gradients is the derivative of the pair's loss along the held-out
        loss's gradient: a central difference gives it for all pairs at the price of two forward passes.
        """
        session = self.sllmr.session
        held_out = session.held_out() if session is not None else None
        if session is None or held_out is None or len(plan.pairs) == 0:
            return
        names, parameters = zip(*((n, p) for n, p in self.named_parameters() if p.requires_grad), strict=True)
        with training_mode(list(self.modules()), False), _aux_loss_kept(self):
            rows = torch.cat([held_out.taken, held_out.other]).to(X.device)
            _, logit, _ = self._plain(rows)
            taken, other = logit.chunk(2)
            gradient = torch.autograd.grad(ranknet(taken - other, 0.0).mean(), parameters, allow_unused=True)
            moved = [(n, p, g) for n, p, g in zip(names, parameters, gradient, strict=True) if g is not None]
            length = torch.stack([g.square().sum() for _, _, g in moved]).sum().sqrt()
            step = float(_LOOK_AHEAD / length.clamp_min(1e-12))
            entries = torch.cat([X, plan.rows])[plan.source]
            losses = []
            with torch.no_grad():
                for sign in (1, -1):
                    there = {n: p + sign * step * g for n, p, g in moved}
                    probability = functional_call(self, there, (entries,)).reshape(len(entries), -1)[:, self.sllmr.task]
                    losses.append(
                        session.regularizer.pair_losses(torch.logit(probability, eps=1e-6), probability, plan.pairs)
                    )
        session.look_ahead(plan, (losses[0] - losses[1]) / (2 * step), uncertainty)

    @torch.no_grad()
    def _sampled_uncertainty(self, rows: Tensor) -> Tensor:
        """Return q of rows, (n_rows,), from several opinions about each: by MC-dropout or by checkpoints."""
        if len(rows) == 0:  # a step without a pair, which models cannot run
            return rows.new_zeros(0)
        with training_mode(list(self.modules()), False), _aux_loss_kept(self):
            if self.sllmr.config.uncertainty == "ensemble":
                task = self.sllmr.task
                # A state_dict names shared weights (DIEN's) once for each place: every name has its value already.
                opinions = [
                    functional_call(self, checkpoint, (rows,), tie_weights=False).reshape(len(rows), -1)[:, task]
                    for checkpoint in self.sllmr.checkpoints
                ]
                return bernoulli_variance(torch.stack(opinions))
            samples = self.sllmr.config.mc_samples
            with training_mode(dropouts(self), True):
                _, _, probability = self._plain(rows.repeat(samples, 1))
            return bernoulli_variance(probability.view(samples, -1))

    @torch.no_grad()
    def _score_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score rows in evaluation mode, in blocks: logit, probability and uncertainty, (n_rows,) each."""
        kind = self.sllmr.config.uncertainty
        logits, probabilities, uncertainties = [], [], []
        for block in rows.split(_SCORING_ROWS):
            block = block.to(self.device)
            with training_mode(list(self.modules()), False), _aux_loss_kept(self):
                _, logit, probability = self._plain(block)
            logits.append(logit)
            probabilities.append(probability)
            known = kind in FROM_PROBABILITY
            uncertainties.append(FROM_PROBABILITY[kind](probability) if known else self._sampled_uncertainty(block))
        return torch.cat(logits), torch.cat(probabilities), torch.cat(uncertainties)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        """Move the gate along with `to`, `cuda` and `cpu`."""
        self.sllmr.to_device(fn)
        return super()._apply(fn, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickle and copy by the plain class, since the combined one is made at run time."""
        _, _, *rest = super().__reduce_ex__(protocol)
        return (_new_instance, (plain_class(self),), *rest)


@functools.cache
def wrapped_class(plain: type) -> type:
    """Return the class that puts `SLLMRMixin` before a model class, the same one every time."""
    members: dict[str, Any] = {"__module__": plain.__module__, "__doc__": plain.__doc__}
    return type(f"SLLMR{plain.__name__}", (SLLMRMixin, plain), members)


def plain_class(model: nn.Module) -> type:
    """Return the class that a wrapped model had before."""
    ancestors = type(model).__mro__
    return ancestors[ancestors.index(SLLMRMixin) + 1]


def _new_instance(plain: type) -> nn.Module:
    cls = wrapped_class(plain)
    instance: nn.Module = object.__new__(cls)
    return instance


def _warn_if_only_warm_up(handle: Handle, arguments: dict[str, Any]) -> None:
    last = arguments.get("epochs", 1) - 1
    if handle.config.weight_at(last) == 0:
        warnings.warn(
            f"warmup_epochs={handle.config.warmup_epochs} leaves no epoch of this fit (epochs={last + 1}) for the "
            "regularizer, so it trains the plain model. Lower warmup_epochs, or train for more epochs; a loop over "
            "fit(epochs=1) has to pass initial_epoch=k, epochs=k + 1.",
            InactiveWarning,
            stacklevel=3,
        )


@contextmanager
def _aux_loss_kept(model: Any) -> Iterator[None]:
    """Undo what a forward pass writes to `aux_loss` (DIEN's), which `fit` adds to the loss of the batch."""
    before = model.aux_loss
    try:
        yield
    finally:
        model.aux_loss = before


def sync_optimizer(model: Any) -> None:
    """Give the gate's parameters, which are none of the model's, to the optimizer, as a group of their own.

    Called whenever there may be a new optimizer or a new gate; does nothing where all is as it should be.
    """
    optim = getattr(model, "optim", None)
    if optim is None:
        return
    wanted = [parameter for parameter in model.sllmr.gate.parameters() if model.sllmr.config.active]
    present = [p for group in optim.param_groups if group.get(_GROUP_MARK) for p in group["params"]]
    if [id(parameter) for parameter in wanted] == [id(parameter) for parameter in present]:
        return
    leave_optimizer(model)
    if wanted:
        undecayed = {"weight_decay": 0.0} if "weight_decay" in optim.defaults else {}
        optim.add_param_group({"params": wanted, _GROUP_MARK: True, **undecayed})


def leave_optimizer(model: Any) -> None:
    """Take the gate's parameters, and what was learnt of them, out of the optimizer."""
    optim = getattr(model, "optim", None)
    if optim is None:
        return
    for group in [group for group in optim.param_groups if group.get(_GROUP_MARK)]:
        optim.param_groups.remove(group)
        for parameter in group["params"]:
            optim.state.pop(parameter, None)


def _fit_arguments(fit: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name the arguments of a call of `fit`, whatever signature an overriding class gave it."""
    signature = inspect.signature(fit)
    kinds = {parameter.kind: parameter.name for parameter in signature.parameters.values()}
    call = signature.bind(*args, **kwargs)
    call.apply_defaults()
    arguments = dict(call.arguments)
    rest = arguments.pop(kinds.get(inspect.Parameter.VAR_KEYWORD, ""), {})
    unnamed = arguments.pop(kinds.get(inspect.Parameter.VAR_POSITIONAL, ""), ())
    arguments |= dict(zip(_FIT_ORDER, unnamed, strict=False)) | rest
    lacking = [name for name in ("x", "y") if name not in arguments]
    if "callbacks" not in signature.parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
        lacking.append("callbacks")
    if lacking:
        raise HookNeverFiredError(
            f"an overriding fit{signature} takes no argument named {', '.join(lacking)}, so the regularizer cannot "
            "reach the training. Give it DeepCTR-Torch's names, or **kwargs, and pass them on to super().fit."
        )
    return {"callbacks": None, **arguments}
