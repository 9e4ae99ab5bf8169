"""The mixin that puts the regularizer into DeepCTR-Torch's own `fit`, and what this package asks of its models.

`BaseModel.fit` calls ``self(x)`` and ``self.get_regularization_loss()`` once a step; these two are the seams.
The forward pass is given the extra rows behind the batch's and returns the batch's outputs only; the
regularization loss adds the pair loss of the rest.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from ..step_losses import StepLossMixin, held, plain_class
from ..wrapped import WrappedMixin, warn_if_only_warm_up
from .augmented import DeepCTRAugmentMixin, MatrixAugmentation, complete
from .checks import (
    augment_problems,
    embeddings_of,
    find_problems,
    prediction_head,
    require_arrays,
    require_compiled,
    shares_forward,
    training_problems,
)
from .fit_seams import LeanL2, whole_batches
from .losses import DeepCTRLossMixin, SLLMRCallback, fit_arguments


class SLLMRMixin(WrappedMixin, DeepCTRLossMixin):
    """Put before a DeepCTR-Torch model class, adds the regularizer to `fit`; needs a `Handle` in `sllmr`.

    `wrap` builds the combined class and swaps it in; there is no need to inherit from this by hand.
    """

    @property
    def _library(self) -> Any:
        """The plain model's own methods."""
        return super(StepLossMixin, self)

    @property
    def _speaks(self) -> bool:  # type: ignore[override]
        """Whether this process tells of its epochs."""
        return self._sllmr_processes is None or self._sllmr_processes.ranks.rank == 0

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the plain model does, with the regularizer added; takes and returns the same.

        Raises
        ------
        CoverageError
            If nothing of the score table can be used with these training rows.
        NoPairsError, HookNeverFiredError
            After an epoch in which the regularizer did nothing.
        ProcessesError
            If torch.distributed has several processes that cannot train this together.
        DataError
            If `x` or `y` is of a form that DeepCTR-Torch cannot train on, or ids are not codes.
        SLLMRError
            If the model has not been compiled.
        """
        ranks = Ranks.here(self.device)
        if ranks.world == 1:
            return self._fit(*args, **kwargs)
        arguments = fit_arguments(self._library.fit, args, kwargs)
        check_processes(self, self.sllmr, ranks, arguments, issubclass(plain_class(self), AugmentMixin))
        with held(self, "_sllmr_processes", Processes(self, ranks, self._forward_here)):
            return self._fit(**arguments)

    def _fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train in this process, which may be one of several."""
        plain: Any = unaugmented_class(plain_class(self))
        if plain.fit.__module__.startswith("deepctr_torch."):  # nothing is known of a fit that a user has written
            given = fit_arguments(self._library.fit, args, kwargs)
            require_compiled(self)
            require_arrays(self, complete(self, given["x"]), given["y"])
        handle = self.sllmr
        if not handle.enabled or not handle.config.active:
            handle.training, handle.epochs = {}, []
            return self._plain_fit(*args, **kwargs)
        arguments = fit_arguments(self._library.fit, args, kwargs)
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
        penalty = LeanL2(self, self._library.get_regularization_loss) if handle.lean_l2 else None
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
        """Evaluate as the plain model does; within `fit`, several processes share their statistics first."""
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
        loss = self._library.get_regularization_loss() if self._sllmr_penalty is None else self._sllmr_penalty()
        if self._sllmr_processes is not None:  # their gradients are added up, and this one is the same in all
            loss = loss / self._sllmr_processes.ranks.world
        if self.sllmr.session is None and torch.is_grad_enabled():
            self._warn_of_own_loop()
        total: Tensor = self._with_added(loss)
        return total


class DeepCTRBackend(Backend):
    """DeepCTR-Torch: a model's input is a matrix of rows, and so is its output."""

    mixin = SLLMRMixin
    augment_mixin = DeepCTRAugmentMixin
    loss_mixin = DeepCTRLossMixin

    def training_problems(self, model: Any) -> list[str]:
        """Say why nothing can be added to the model's training."""
        return training_problems(model)

    def codes(self, model: Any, inputs: Tensor, feature: str) -> Tensor:
        """Return a feature's codes, (n_rows,) int64, of what the model's forward takes."""
        return inputs[:, model.feature_index[feature][0]].detach().long()

    def find_problems(
        self,
        model: Any,
        user: str,
        item: str,
        item_features: Sequence[str] | None,
        task: int | None,
        config: SelectiveConfig,
    ) -> tuple[list[str], Features | None]:
        """Return the reasons why the model cannot be wrapped, and its `Features`, None if there are reasons."""
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
        return self.rows_behind(model, arguments, model.sllmr.features, model.sllmr.task)

    def rows_behind(
        self,
        model: Any,
        arguments: Mapping[str, Any],
        features: Features,
        task: int,
        wanted: Mapping[str, np.ndarray] | None = None,
    ) -> ArrayRows:
        """Return the training rows of a model that need not be wrapped; all of their codes can be asked for."""
        x, y = complete(model, arguments["x"]), arguments["y"]
        if isinstance(x, dict):
            x = [x[feature] for feature in model.feature_index]
        n_rows = len(y)
        split = arguments.get("validation_split")
        if not arguments.get("validation_data") and split and 0.0 < split < 1.0:
            n_rows = int(len(x[0]) * (1.0 - split))  # as BaseModel.fit cuts it
        return ArrayRows(x, y, features.layout, n_rows, task, all_positive=features.regression)

    def batches(self, model: Any, x: Any, batch_size: int) -> tuple[Callable[[], Iterator[Tensor]], int]:
        """Return what goes over input columns in another order each time."""
        x = complete(model, x)
        require_arrays(model, x, np.empty(0))
        columns = [x[name] for name in model.feature_index] if isinstance(x, Mapping) else list(x)
        parts = [np.asarray(values).reshape(len(columns[0]), -1) for values in columns]
        rows = torch.from_numpy(np.concatenate(parts, axis=1)).float()

        def shuffled() -> Iterator[Tensor]:
            for chosen in torch.randperm(len(rows)).split(batch_size):
                yield rows[chosen].to(model.device)

        return shuffled, -(-len(rows) // batch_size)

    def taken(self, model: Any, x: Any, y: Any, user: str, item: str) -> tuple[np.ndarray, np.ndarray]:
        """Return user and item codes of the positive rows."""
        columns = x if isinstance(x, Mapping) else dict(zip(model.feature_index, x, strict=True))
        positive = (np.asarray(y).reshape(len(y), -1) > 0).any(axis=1)
        users, items = (np.ravel(columns[name]).astype(np.int64)[positive] for name in (user, item))
        return users, items

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
            If a forward that a user has written does not return one row for each row.
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


BACKEND = DeepCTRBackend()
