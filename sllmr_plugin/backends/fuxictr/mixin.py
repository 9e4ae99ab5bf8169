"""The mixin that puts the regularizer into FuxiCTR's own `fit`, and what this package asks of its models.

FuxiCTR's losses are means over the rows of a batch, DeepCTR-Torch's are sums: what is added is divided by the rows,
so that a weight means the same in both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...config import SelectiveConfig
from ...errors import HookNeverFiredError, ProcessesError, SLLMRError
from ...knowledge.adaptor import Adaptor
from ...parallel.ranks import Ranks
from ...scores.ids import IdIndex
from ...training.probes import JudgedPairs
from ...training.rows import Features
from ..base import Backend
from ..optimizer import sync_optimizer
from ..random_state import random_state_kept
from ..wrapped import WrappedMixin, warn_if_only_warm_up
from .augmented import BatchAugmentation, FuxiCTRAugmentMixin, build_augmentation
from .checks import find_problems, id_index, is_row_wise, prediction_head, seam_problem
from .data import RowScorer, StreamedRows, fed_layout, to_batch, to_rows, training_pieces, with_rows
from .losses import FuxiCTRLossMixin

_TRIED_ROWS = (8, 64, 512)  # more where the model fails on fewer; the whole batch comes last

Batch = Mapping[str, Tensor]


class FuxiCTRMixin(WrappedMixin, FuxiCTRLossMixin):
    """Put before a FuxiCTR model class, adds the regularizer to `fit`; needs a `Handle` in `sllmr`."""

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the plain model does, with the regularizer added; takes and returns the same.

        Before the first epoch the training generator's rows are read once, without a trace in its order.

        Raises
        ------
        CoverageError
            If nothing of the score table can be used with these training rows.
        NoPairsError, HookNeverFiredError
            After an epoch in which the regularizer did nothing.
        ProcessesError
            If torch.distributed has several processes.
        """
        world = Ranks.here(self.device).world
        if world > 1:
            raise ProcessesError(
                f"FuxiCTR's fit knows nothing of the other {world - 1} process(es), so each would train a model of its "
                "own on all rows. Train in one process; several can train a DeepCTR-Torch model."
            )
        handle = self.sllmr
        handle.training, handle.epochs = {}, []
        if not handle.enabled or not handle.config.active:
            return super().fit(*args, **kwargs)
        given = dict(zip(("data_generator", "epochs"), args, strict=False)) | kwargs
        if "data_generator" not in given:
            raise HookNeverFiredError(
                "fit was given no data_generator, so the regularizer cannot see the training rows. Pass it first, or "
                "by this name."
            )
        epochs = given.get("epochs", 1)
        warn_if_only_warm_up(handle, epochs)
        sync_optimizer(self)
        with self._training(given) as session:
            result = super().fit(*args, **kwargs)
        if not session.began and epochs > 0:
            raise HookNeverFiredError(
                f"{type(self).__name__}.fit trained without calling self.train_epoch, so the regularizer never "
                "started. An overriding fit has to call it, or super().fit."
            )
        return result

    def _n_epochs(self) -> int:
        """Return how many epochs of this call of `fit` are over."""
        return len(self.sllmr.epochs) if self.sllmr.session is not None else super()._n_epochs()

    def judge_probes(self, x: Any, y: None = None) -> JudgedPairs:
        """Score the table's probes and the candidates beside them with the model as it is.

        Parameters
        ----------
        x : data generator
            Of the training rows, as `fit` takes it; it holds the labels, so there is no `y`.
        """
        return self._judge({"data_generator": x})


class FuxiCTRBackend(Backend):
    """FuxiCTR: a model's input is a batch of named tensors, its output a dict."""

    mixin = FuxiCTRMixin
    augment_mixin = FuxiCTRAugmentMixin
    loss_mixin = FuxiCTRLossMixin
    draws_apart = True
    rows_run_alone = True
    inputs_hold_labels = True

    def training_problems(self, model: Any) -> list[str]:
        """Say why nothing can be added to the model's training."""
        return [problem for problem in (seam_problem(model),) if problem]

    def codes(self, model: Any, inputs: Batch, feature: str) -> Tensor:
        """Return a feature's codes, (n_rows,) int64, of what the model's forward takes."""
        return inputs[feature].detach().reshape(len(inputs[feature]), -1)[:, 0].to(model.device, torch.int64)

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

    def id_index(self, model: Any, feature: str) -> IdIndex | None:
        """Return the vocabulary of a feature, if FuxiCTR's file of it is in the folder of the data set."""
        return id_index(model, feature)

    def augmentation(
        self, model: Any, adaptor: Adaptor, user: str, item: str
    ) -> tuple[list[str], BatchAugmentation | None]:
        """Return everything that speaks against an adaptor, and the `Augmentation`, None when there is something."""
        return build_augmentation(model, adaptor, user, item)

    def row_model(self, model: Any) -> RowScorer:
        """Return the model as one of rows, (n_rows, width)."""
        return RowScorer(model)

    def training_rows(self, model: Any, arguments: dict[str, Any]) -> StreamedRows:
        """Return the rows behind the training generator, read once without a trace in its order."""
        features, table = model.sllmr.features, model.sllmr.table
        wanted = {
            features.user: np.union1d(table.candidates.users.numpy(), table.probes.users.numpy()),
            features.item: np.flatnonzero(
                (table.candidates.items_seen(features.n_items) | table.probes.items_seen(features.n_items)).numpy()
            ),
        }
        return self.rows_behind(model, arguments, features, model.sllmr.task, wanted)

    def rows_behind(
        self,
        model: Any,
        arguments: Mapping[str, Any],
        features: Features,
        task: int,
        wanted: Mapping[str, np.ndarray],
    ) -> StreamedRows:
        """Return the same of a model that need not be wrapped."""
        label = model.feature_map.labels[task]
        with random_state_kept():
            pieces = training_pieces(arguments["data_generator"], model.feature_map, features.layout, label)
            return StreamedRows(pieces, features.layout, wanted, features.regression)

    def batches(self, model: Any, x: Any, batch_size: int) -> tuple[Callable[[], Iterator[Batch]], int | None]:
        """Return what goes over a generator, whose batches are as large as it says."""
        try:
            n_batches = len(x)
        except TypeError:  # a generator of blocks does not know
            n_batches = None
        return lambda: iter(x), n_batches

    def taken(self, model: Any, x: Any, y: Any, user: str, item: str) -> tuple[np.ndarray, np.ndarray]:
        """Return user and item codes of the positive rows behind a generator."""
        layout, label = fed_layout(model), model.feature_map.labels[0]
        found: list[np.ndarray] = []
        for rows, labels in training_pieces(x, model.feature_map, layout, label):
            places = [layout[name][0] for name in (user, item)]
            found.append(rows[labels > 0][:, places].astype(np.int64))
        users, items = np.concatenate(found).T
        return users, items

    def rows(self, model: Any, inputs: Batch) -> Tensor:
        """Return the rows of a batch, (n_rows, width)."""
        return to_rows(inputs, model.sllmr.features.layout, model.device)

    def inputs(self, model: Any, rows: Tensor) -> Batch:
        """Return a batch of rows."""
        layout = model.sllmr.features.layout if isinstance(model, FuxiCTRMixin) else fed_layout(model)
        return to_batch(rows, layout, model.feature_map)

    def joined(self, model: Any, inputs: Batch, rows: Tensor) -> Batch:
        """Return a batch with rows behind it."""
        return with_rows(inputs, rows, model.sllmr.features.layout)

    def outputs(self, model: Any, output: Batch) -> Tensor:
        """Return the outputs of all tasks, (n_rows, n_outputs)."""
        # MultiTaskModel names its outputs by their labels.
        names = ["y_pred"] if "y_pred" in output else [f"{label}_pred" for label in model.feature_map.labels]
        return torch.cat([output[name].reshape(len(output[name]), -1) for name in names], dim=1)

    def first(self, output: Mapping[str, Any], n: int) -> Mapping[str, Any]:
        """Return the first n rows of every output."""
        return {name: None if values is None else values[:n] for name, values in output.items()}

    def head(self, model: Any, task: int) -> nn.Module | None:
        """Return the model's output activation, or the task's."""
        return prediction_head(model, task)

    def shares_forward(self, model: Any, has_batch_norm: bool) -> None:
        """Return None: every model has a forward of its own, so the first step tries it out."""
        return None

    def finds_row_wise(self, model: Any, batch: Tensor, rows: Tensor, head: nn.Module | None) -> bool:
        """Try out on rows of a batch, and extra rows behind them, whether the extra rows may share its pass.

        Rows of the batch come first, since the model trains on them; it may fail on candidates alone, for instance on
        users without a history. It may also fail on a few rows of the batch: then more of them are taken.
        """
        for size in sorted({min(size, len(batch)) for size in (*_TRIED_ROWS, len(batch))}):
            first = batch[:size]
            others = rows[torch.linspace(0, len(rows) - 1, max(len(first), 2), device=rows.device).long()]
            try:
                return is_row_wise(
                    model, functools.partial(self.inputs, model), torch.cat([first, others]), len(first), head
                )
            except KeyError as error:
                raise SLLMRError(
                    f"{type(model).__name__}.forward reads {error} from the batch, which rows of candidates lack: they "
                    "have the features of feature_map, but no meta features and no labels. Read labels in "
                    "add_loss instead."
                ) from error
            except (RuntimeError, ValueError, IndexError):
                continue
        return False

    @contextmanager
    def untouched(self, model: Any) -> Iterator[None]:
        """Restore the random state after an extra pass: the order of later epochs depends on it."""
        try:
            with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
                yield
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, (SLLMRError, torch.OutOfMemoryError)):
                raise
            raise SLLMRError(
                f"{type(model).__name__}.forward failed on rows of scored users and items without others beside them: "
                f"{error}. If it needs rows with a history, score users who have one; with gate='none', or "
                "uncertainty='entropy' and gate='joint', a model that treats rows one by one needs no such pass."
            ) from error


BACKEND = FuxiCTRBackend()
