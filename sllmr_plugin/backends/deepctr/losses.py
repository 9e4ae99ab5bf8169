"""The mixin and the callback that add losses to DeepCTR-Torch's own `fit`.

`BaseModel.fit` calls ``self(x)`` and ``self.get_regularization_loss()`` once a step; these two are the seams.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from ...errors import HookNeverFiredError
from ..step_losses import StepLossMixin, held, new_instance, step_losses
from . import ImportFirst
from .fit_seams import LeanL2, whole_batches

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


class SLLMRCallback:
    """Opens and closes the epochs of what is added to the loss, and puts its account into the logs.

    `fit` of a wrapped or aligned model adds one in front of the user's callbacks, so that ``sllmr_*`` stand in
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
        """Start the accounts, and set the epoch's weight."""
        if isinstance(self.model, StepLossMixin):
            self.model._begin_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Add the epoch's account to the logs.

        Raises
        ------
        NoPairsError, CoverageError, HookNeverFiredError
            If something that was to be added did nothing in this epoch.
        """
        if not isinstance(self.model, StepLossMixin):
            return
        account = self.model._end_epoch()
        if logs is not None:
            logs.update(account)
        if self.verbose and account.get("sllmr_pairs", 1) and account and self.model._speaks:
            print("sllmr - " + " - ".join(f"{key[6:]}: {value:.4g}" for key, value in account.items()))


class DeepCTRLossMixin(StepLossMixin):
    """Put before a DeepCTR-Torch model class, adds its losses to `fit`; the lower part of `SLLMRMixin`."""

    optimizer_name = "optim"
    loss_is_mean = False
    _speaks = True
    _sllmr_penalty: LeanL2 | None = None

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the plain model does, with the losses added; takes and returns the same.

        Raises
        ------
        CoverageError, HookNeverFiredError
            After an epoch in which a loss did nothing.
        ProcessesError
            Where torch.distributed has several processes.
        """
        if not step_losses(self):
            return super().fit(*args, **kwargs)
        arguments = fit_arguments(super().fit, args, kwargs)
        callbacks = list(arguments["callbacks"] or [])
        if not any(isinstance(callback, SLLMRCallback) for callback in callbacks):
            callbacks.insert(0, SLLMRCallback(verbose=arguments.get("verbose", 1)))
        arguments["callbacks"] = callbacks
        with self._losses_open(arguments) as runs, ExitStack() as stack:
            if "_sllmr_penalty" not in self.__dict__:  # as a wrapped model holds it
                stack.enter_context(held(self, "_sllmr_penalty", LeanL2(self, super().get_regularization_loss)))
                stack.enter_context(whole_batches())
            result = super().fit(**arguments)
        if arguments.get("epochs", 1) > arguments.get("initial_epoch", 0) and not all(run.began for run in runs):
            raise HookNeverFiredError(
                f"{type(self).__name__}.fit trained without the callbacks it was given, so its losses never started. "
                "Pass `callbacks` on to super().fit."
            )
        return result

    def get_regularization_loss(self) -> Tensor:
        """Return the plain model's regularization loss plus, once a training step, what is added to it."""
        # In `fit` the model's own is computed with fewer passes over the tables.
        own = super().get_regularization_loss() if self._sllmr_penalty is None else self._sllmr_penalty()
        loss: Tensor = self._with_added(own)
        return loss

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickle and copy by mixins and plain class, which the library is imported quietly for."""
        _, classes, *rest = super().__reduce_ex__(protocol)
        return (_new_instance, (ImportFirst(), *classes), *rest)


def _new_instance(_: object, *classes: Any) -> nn.Module:
    return new_instance(*classes)


def fit_arguments(fit: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
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
