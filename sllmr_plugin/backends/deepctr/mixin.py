"""The mixin and the callback that put the regularizer into DeepCTR-Torch's own `fit`.

`BaseModel.fit` calls ``self(x)`` and ``self.get_regularization_loss()`` once a step; these two are the seams.
The forward pass is given the extra rows behind the batch's and returns the batch's outputs only; the
regularization loss hands out what was made of the rest.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...config import SelectiveConfig
from ...errors import HookNeverFiredError, InactiveWarning, UnsupportedModelError
from ...knowledge.adaptor import Adaptor
from ...parallel.ranks import Ranks
from ...training.probes import JudgedPairs
from ...training.rows import ArrayRows, Features
from ..augmented import AugmentMixin, unaugmented_class
from ..base import Backend
from ..optimizer import sync_optimizer
from ..processes import Processes, check_processes
from ..wrapped import WrappedMixin, held, new_instance, plain_class, warn_if_only_warm_up
from . import ImportFirst
from .augmented import DeepCTRAugmentMixin, MatrixAugmentation, complete
from .checks import (
    augment_problems,
    embeddings_of,
    find_problems,
    prediction_head,
    require_arrays,
    require_compiled,
    shares_forward,
)
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
        if self.verbose and account["sllmr_pairs"] and handle.session.ranks.rank == 0:
            print("sllmr - " + " - ".join(f"{key[6:]}: {value:.4g}" for key, value in account.items()))


class SLLMRMixin(WrappedMixin):
    """Put before a DeepCTR-Torch model class, adds the regularizer to `fit`; needs a `Handle` in `sllmr`.

    `wrap` builds the combined class and swaps it in; there is no need to inherit from this by hand.
    """

    optimizer_name = "optim"
    _sllmr_penalty: LeanL2 | None = None

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the plain model does, with the regularizer added; takes and returns the same.

        Raises
        ------
        CoverageError
            If nothing of the score table can be used with these training rows.
        NoPairsError, HookNeverFiredError
            After an epoch in which the regularizer did nothing.
        ProcessesError
            Where torch.distributed has several processes that cannot train this together.
        DataError
            If `x` or `y` is of a form that DeepCTR-Torch cannot train on, or ids are no codes.
        SLLMRError
            If the model has not been compiled.
        """
        ranks = Ranks.here(self.device)
        if ranks.world == 1:
            return self._fit(*args, **kwargs)
        arguments = _fit_arguments(super().fit, args, kwargs)
        check_processes(self, self.sllmr, ranks, arguments, issubclass(plain_class(self), AugmentMixin))
        with held(self, "_sllmr_processes", Processes(self, ranks, self._forward_here)):
            return self._fit(**arguments)

    def _fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train in this process, which may be one of several."""
        plain: Any = unaugmented_class(plain_class(self))
        if plain.fit.__module__.startswith("deepctr_torch."):  # of a fit of the user's own nothing is known
            given = _fit_arguments(super().fit, args, kwargs)
            require_compiled(self)
            require_arrays(self, complete(self, given["x"]), given["y"])
        handle = self.sllmr
        if not handle.enabled or not handle.config.active:
            handle.training, handle.epochs = {}, []
            return self._plain_fit(*args, **kwargs)
        arguments = _fit_arguments(super().fit, args, kwargs)
        if arguments.get("epochs", 1) <= arguments.get("initial_epoch", 0):
            warnings.warn(
                f"fit(epochs={arguments.get('epochs', 1)}, initial_epoch={arguments.get('initial_epoch', 0)}) trains "
                "nothing: epochs is the number of the last epoch, counted on from initial_epoch. Raise epochs.",
                InactiveWarning,
                stacklevel=3,
            )
            return self._plain_fit(*args, **kwargs)
        warn_if_only_warm_up(
            handle,
            arguments.get("epochs", 1),
            "; a loop over fit(epochs=1) has to pass initial_epoch=k, epochs=k + 1",
        )
        sync_optimizer(self)
        handle.epochs = []
        callbacks = list(arguments["callbacks"] or [])
        if not any(isinstance(callback, SLLMRCallback) for callback in callbacks):
            callbacks.insert(0, SLLMRCallback(verbose=arguments.get("verbose", 1)))
        arguments["callbacks"] = callbacks
        with self._training(arguments) as session:
            result = self._plain_fit(**arguments)
        if not session.began:
            raise HookNeverFiredError(
                f"{type(self).__name__}.fit trained without the callbacks it was given, so the regularizer never "
                "started. Pass `callbacks` on to super().fit."
            )
        return result

    def _plain_fit(self, *args: Any, **kwargs: Any) -> Any:
        """Run the plain model's `fit`, with a loader and an L2 penalty that give the same bits in less time."""
        handle, processes = self.sllmr, self._sllmr_processes
        penalty = LeanL2(self, super().get_regularization_loss) if handle.lean_l2 else None
        with ExitStack() as stack:
            stack.enter_context(held(self, "_sllmr_penalty", penalty))
            use = stack.enter_context(whole_batches(handle.whole_batches, processes and processes.batches))
            if processes is not None:
                kwargs = stack.enter_context(processes.taking_part(kwargs))
            try:
                return super().fit(*args, **kwargs)
            finally:
                handle.loader = str(use)
                handle.l2 = str(penalty or "the model's own")

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as the plain model does; `fit` with several processes gives all the same statistics before."""
        if self._sllmr_processes is not None:
            self._sllmr_processes.before_evaluation()
        return super().evaluate(*args, **kwargs)

    def judge_probes(self, x: Any, y: Any) -> JudgedPairs:
        """Score the table's probes and the candidates beside them with the model as it is.

        Parameters
        ----------
        x, y : as `fit` takes them
            The training rows.
        """
        require_arrays(self, complete(self, x), np.asarray(y))
        return self._judge({"x": x, "y": y})

    def get_regularization_loss(self) -> Tensor:
        """Return the plain model's regularization loss plus, once a training step, the weighted LLM loss."""
        penalty = self._sllmr_penalty
        loss = super().get_regularization_loss() if penalty is None else penalty()
        if self._sllmr_processes is not None:  # their gradients are added up, and this one is the same in all
            loss = loss / self._sllmr_processes.ranks.world
        session = self.sllmr.session
        if session is None:
            if torch.is_grad_enabled():
                self._warn_of_own_loop()
            return loss
        extra = session.take_loss()
        return loss if extra is None else loss + extra

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickle and copy by mixins and plain class, which the library is imported quietly for."""
        _, classes, *rest = super().__reduce_ex__(protocol)
        return (_new_instance, (ImportFirst(), *classes), *rest)


def _new_instance(_: object, *classes: Any) -> nn.Module:
    return new_instance(*classes)


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


class DeepCTRBackend(Backend):
    """DeepCTR-Torch: a model's input is a matrix of rows, and so is its output."""

    mixin = SLLMRMixin
    augment_mixin = DeepCTRAugmentMixin

    def find_problems(
        self,
        model: Any,
        user: str,
        item: str,
        item_features: Sequence[str] | None,
        task: int | None,
        config: SelectiveConfig,
    ) -> tuple[list[str], Features | None]:
        """Return everything that speaks against wrapping, and the `Features`, None when there is something."""
        return find_problems(model, user, item, item_features, task, config)

    def embeddings(self, model: Any, feature: str) -> list[nn.Embedding]:
        """Return the embedding modules that the feature's ids are looked up in."""
        return embeddings_of(model, feature)

    def augmentation(
        self, model: Any, adaptor: Adaptor, user: str, item: str
    ) -> tuple[list[str], MatrixAugmentation | None]:
        """Return everything that speaks against an adaptor, and the `Augmentation`, None when there is something."""
        problems = augment_problems(model, user, item, adaptor.widths)
        return problems, None if problems else MatrixAugmentation(adaptor, user, item, model.feature_index)

    def training_rows(self, model: Any, arguments: dict[str, Any]) -> ArrayRows:
        """Return the training rows, without those that `fit` splits off for validation."""
        x, y = complete(model, arguments["x"]), arguments["y"]
        if isinstance(x, dict):
            x = [x[feature] for feature in model.feature_index]
        n_rows = len(y)
        split = arguments.get("validation_split")
        if not arguments.get("validation_data") and split and 0.0 < split < 1.0:
            n_rows = int(len(x[0]) * (1.0 - split))  # as BaseModel.fit cuts it
        features = model.sllmr.features
        return ArrayRows(x, y, features.layout, n_rows, model.sllmr.task, all_positive=features.regression)

    def rows(self, model: Any, inputs: Tensor) -> Tensor:
        """Return the rows: the input itself."""
        return inputs

    def inputs(self, model: Any, rows: Tensor) -> Tensor:
        """Return the input: the rows themselves."""
        return rows

    def joined(self, model: Any, inputs: Tensor, rows: Tensor) -> Tensor:
        """Return an input with rows behind it."""
        return torch.cat([inputs, rows])

    def outputs(self, model: Any, output: Tensor) -> Tensor:
        """Return the outputs of all tasks, (n_rows, n_outputs).

        Raises
        ------
        UnsupportedModelError
            If the forward of a user's own returns something else than a row for each row.
        """
        if not isinstance(output, Tensor) or output.dim() == 0:
            what = "one number" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise UnsupportedModelError(
                [
                    f"{plain_class(model).__name__}.forward returns {what}. Return a tensor with a row for each row of "
                    "its input."
                ]
            )
        return output.reshape(output.shape[0], -1)

    def first(self, output: Tensor, n: int) -> Tensor:
        """Return the first n rows of an output."""
        return output[:n]

    def head(self, model: Any, task: int) -> nn.Module | None:
        """Return ``model.out``, or the task's part of it."""
        return prediction_head(model, task)

    def shares_forward(self, model: Any, has_batch_norm: bool) -> bool:
        """Whether the library's own models may: all but DIEN. Others get a pass with the batch beside the rows.

        DIEN cannot run rows whose histories are all empty, so the batch goes along once more.
        """
        return shares_forward(unaugmented_class(plain_class(model)), model, has_batch_norm)

    @contextmanager
    def untouched(self, model: Any) -> Iterator[None]:
        """Undo what a forward pass writes to `aux_loss` (DIEN's), which `fit` adds to the loss of the batch."""
        before = model.aux_loss
        try:
            yield
        finally:
            model.aux_loss = before


BACKEND = SLLMRMixin._sllmr_backend = DeepCTRBackend()
