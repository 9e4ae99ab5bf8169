"""What every wrapped model has in common, whatever its library: steps, the session, copies and devices."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import InactiveWarning, SLLMRError, UnsupportedModelError
from ..handle import Handle, require_sampled_uncertainty
from ..ranks import Ranks
from ..session import TrainingSession
from ..usable import Usable
from .gate_optimizer import sync_optimizer
from .scores import ScoresMixin, plain_class
from .shared_forward import batch_norms

OWN_LOOP = "sllmr_plugin.regularizer.selective.SelectiveRegularizer takes logits, LLM scores and pairs"
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
        if self.training and torch.is_grad_enabled() and not self.sllmr.told_of_own_loop:
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

    def _batch_norms(self) -> list[_BatchNorm]:
        """Return the modules that keep batch statistics, looked up once a training."""
        session = self.sllmr.session
        if session is None:
            return batch_norms(self)
        if session.norms is None:
            session.norms = batch_norms(self)
        return session.norms

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
        return TrainingSession(
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

    def _require_uncertainty(self) -> None:
        """Raise `SLLMRError` if the uncertainty that the settings name cannot be had."""
        if self.sllmr.features.regression:
            require_sampled_uncertainty(self.sllmr.config)
        if self.sllmr.config.uncertainty == "ensemble" and not self.sllmr.checkpoints:
            raise SLLMRError(
                "uncertainty='ensemble' has no checkpoints to compare. Call model.sllmr.set_ensemble([...]) first."
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
