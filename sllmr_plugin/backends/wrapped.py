"""What the wrapped models of all libraries have in common: a step, the session, copies and devices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InactiveWarning, SLLMRError
from ..handle import Handle, require_sampled_uncertainty
from ..parallel.ranks import Ranks
from ..regularizer.uncertainty import UNCERTAINTIES
from ..training.probes import JudgedPairs, ProbePairs
from ..training.session import TrainingSession
from ..training.view import Usable
from .forward import Passes
from .optimizer import sync_optimizer
from .step_losses import StepLossMixin, plain_class

OWN_LOOP = "sllmr_plugin.SelectiveLoss takes the model's scores, the LLM's and whose they are"


class WrappedMixin(StepLossMixin):
    """Put before a model class by a library's own mixin, which adds the seams of its `fit`."""

    sllmr: Handle
    _sllmr_passes: Passes | None = None
    _sllmr_processes: Any = None

    def forward(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the plain model's output; inside a training step the extra rows are scored too."""
        if self._sllmr_processes is not None and torch.is_grad_enabled():
            return self._sllmr_processes.forward(inputs, *args, **kwargs)
        return self._forward_here(inputs, *args, **kwargs)

    def _forward_here(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass of this process."""
        session, passes = (self.sllmr.session, self._sllmr_passes) if self.sllmr.enabled else (None, None)
        # Not `self.training`: DeepCTR-Torch's fit leaves the model in eval mode after the first validation.
        if session is None or passes is None or not torch.is_grad_enabled():
            return self._watched(super().forward(inputs, *args, **kwargs))
        batch = passes.backend.rows(self, inputs)
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
        with self._losses_watch(inputs, plan.rows):
            return passes.step(session, plan, inputs, batch, *args, **kwargs)

    def _watched(self, output: Any) -> Any:
        """Return an output made outside of `fit`; a backward pass from it, by another training loop, warns."""
        handle = self.sllmr
        watch = handle.enabled and handle.config.active and not handle.told_of_own_loop
        if watch and self.training and torch.is_grad_enabled():
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

    def _usable(self, arguments: dict[str, Any]) -> Usable:
        """Return what of the table can be used with the training rows in the arguments of `fit`."""
        return self.sllmr.usable(self._sllmr_backend.training_rows(self, arguments))

    def _passes(self, label_variance: float) -> Passes:
        # Beneath the step losses, which are shown the rows of a step and not those of other passes.
        return Passes(self, self._sllmr_backend, super(StepLossMixin, self).forward, label_variance)

    @property
    def _adds(self) -> bool:
        """Whether this call of `fit` adds anything to the library's loss."""
        return self.sllmr.session is not None or super()._adds

    def _with_added(self, loss: Any) -> Any:
        """Return the library's loss plus, once a training step, what is added to it, the LLM's loss last."""
        if self._sllmr_runs:
            loss = super()._with_added(loss)
        session = self.sllmr.session
        extra = None if session is None else session.take_loss(mean=self.loss_is_mean)
        return loss if extra is None else loss + extra

    def _begin_epoch(self, epoch: int) -> None:
        super()._begin_epoch(epoch)
        if self.sllmr.session is not None:
            self.sllmr.session.begin_epoch(epoch)

    def _end_epoch(self) -> dict[str, float]:
        account = super()._end_epoch()
        if self.sllmr.session is None:
            return account
        own = self.sllmr.session.end_epoch()
        self.sllmr.epochs.append(own)
        return own | account

    def _judge(self, arguments: dict[str, Any]) -> JudgedPairs:
        """Score the table's probes and the candidates beside them with the model as it is."""
        self._require_uncertainty()
        usable = self._usable(arguments)
        return ProbePairs.of(usable).judge(self._passes(usable.label_variance).score_rows)

    @contextmanager
    def _training(self, arguments: dict[str, Any]) -> Iterator[TrainingSession]:
        """Hold a session, and the passes that it needs, during a call of `fit` with these arguments."""
        handle = self.sllmr
        try:
            handle.session = session = self._open_session(arguments)
            yield session
            if handle.budget is not None:
                handle.budget.warn_if_open()
        finally:
            handle.session = None
            self.__dict__.pop("_sllmr_passes", None)

    def _open_session(self, arguments: dict[str, Any]) -> TrainingSession:
        """Return a session; the passes that go with it are kept on the model."""
        handle = self.sllmr
        if handle.gate.uses_uncertainty:
            self._require_uncertainty()
        seed = handle.config.seed if handle.config.seed is not None else torch.initial_seed()
        # Another call of fit goes on with other draws: training epoch by epoch must not repeat the first.
        handle.n_fits += 1
        ranks = self._sllmr_processes.ranks if self._sllmr_processes is not None else Ranks()
        seed = int(ranks.of_first(torch.tensor((seed + handle.n_fits - 1) % 2**63)))
        usable = self._usable(arguments)
        self._sllmr_passes = passes = self._passes(usable.label_variance)
        return TrainingSession(
            handle.config,
            handle.gate,
            usable,
            user_column=handle.features.layout[handle.features.user][0],
            item_column=handle.features.layout[handle.features.item][0],
            score_rows=passes.score_rows,
            seed=seed,
            memory=handle.disagreements,
            ranks=ranks,
            budget=handle.budget,
        )

    def _require_uncertainty(self) -> None:
        """Raise `SLLMRError` if the uncertainty that the settings name cannot be computed."""
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


def warn_if_only_warm_up(handle: Handle, n_epochs: int, remedy: str = "") -> None:
    """Warn of a `fit` that ends before the warm-up does."""
    if handle.config.weight_at(n_epochs - 1) == 0:
        warnings.warn(
            f"warmup_epochs={handle.config.warmup_epochs} leaves no epoch of this fit (epochs={n_epochs}) for the "
            f"regularizer, so it trains the plain model. Lower warmup_epochs, or train for more epochs{remedy}.",
            InactiveWarning,
            stacklevel=3,
        )
