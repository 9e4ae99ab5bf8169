"""Losses beside the library's own: whatever adds one to the training steps of a live model does it through these.

A `StepLoss` stays on the model between calls of `fit`, outside the module tree, so that ``state_dict`` keys are the
plain model's. For a call of `fit` it opens a `LossRun`, which sees the codes of each step's rows and hands out its loss
where the library asks for its own. A `TrainingSession`, the regularizer of
`wrap`, hands out its own in the same way.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import AlreadyWrappedError, CoverageError, HookNeverFiredError, ProcessesError, UnsupportedModelError
from ..parallel.ranks import Ranks
from .augmented import augment_mixin, augmented_class, unaugmented_class
from .base import Backend, backend_of
from .embeddings import StepLookups
from .optimizer import leave_group, sync_group

_Base: Any = object  # the real base, a model class, is put behind the mixin when a loss is added

# Attributes of a model during one call of `fit`, left out of copies and pickles.
FIT_ONLY = ("_sllmr_passes", "_sllmr_processes", "_sllmr_penalty", "_sllmr_runs")
LOSSES = "sllmr_losses"
"""Attribute of a model: its step losses by name."""

_GROUP_MARK = "sllmr_losses"


class LossRun:
    """A step loss during one call of `fit`.

    Parameters
    ----------
    name : str
        Its account is ``sllmr_{name}``.
    weight : float
        The step's mean loss is multiplied with this and, beside a library's sum over rows, with the rows of the batch.
    features : tuple of str
        Whose codes it is shown.
    tables : sequence of torch.nn.Embedding, default=()
        Whose outputs of the step's forward pass it reads.

    Attributes
    ----------
    terms : str
        What the loss is a mean over, as its account counts it.
    lookups : StepLookups
        What the step's forward pass has found in the tables.
    """

    terms = "ids"

    def __init__(
        self, name: str, weight: float, features: tuple[str, ...], tables: Sequence[nn.Embedding] = ()
    ) -> None:
        self.name = name
        self.weight = weight
        self.features = features
        self.lookups = StepLookups(tables)
        self.began = False
        self._seen: tuple[Mapping[str, Tensor], int] | None = None
        self._reset_account()

    def _reset_account(self) -> None:
        self._n_seen = self._n_taken = self._n_terms = self._n_losses = 0
        self._sum: Tensor | float = 0.0

    def compute(self, codes: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Return the mean loss, (), and the number of terms, from the codes of the step's rows by feature."""
        raise NotImplementedError

    def see(self, codes: Mapping[str, Tensor], n_batch: int) -> None:
        """Take the codes of a step's rows: `n_batch` of the batch and, behind them, of candidates."""
        self._seen = (codes, n_batch)
        self._n_seen += 1
        self.lookups.clear(max(len(rows) for rows in codes.values()))

    def begin_epoch(self, epoch: int) -> None:
        """Start the account of an epoch."""
        self.began = True
        self._reset_account()

    def take_loss(self, *, mean: bool = False) -> Tensor | None:
        """Hand out the step's weighted loss, once; None where there is none."""
        if self._seen is None:
            return None
        (codes, n_batch), self._seen = self._seen, None
        self._n_taken += 1
        loss, n_terms = self.compute(codes)
        self.lookups.clear()
        if n_terms == 0:
            return None
        self._n_terms += n_terms
        self._n_losses += 1
        self._sum = self._sum + loss.detach()  # stays where the model is: reading it out would make a GPU wait
        return (self.weight if mean else self.weight * n_batch) * loss

    def end_epoch(self) -> dict[str, float]:
        """Close the account.

        Returns
        -------
        dict of str to float
            ``sllmr_{name}``, the mean loss of the steps that had one, and ``sllmr_{name}_ids``, how many ids it was of
            (`terms` says what is counted).

        Raises
        ------
        HookNeverFiredError
            If the training loop never asked for the loss.
        CoverageError
            If no step had an id that there is something known of.
        """
        self._seen = None
        self.lookups.clear()
        if self._n_taken == 0:
            raise HookNeverFiredError(
                f"the epoch made {self._n_seen} forward passes that {self.name} saw and never asked for its loss. The "
                "model must call its own forward and get_regularization_loss (FuxiCTR: compute_loss) once a step; an "
                "overriding fit, train_step or loss has to call super()."
            )
        if self._n_terms == 0:
            raise CoverageError(
                f"no row of the epoch has an id that {self.name} has a vector of. Pass vectors of ids that occur in "
                f"training, or take the loss off again ({self.name}: undo)."
            )
        mean = float(self._sum) / self._n_losses if self._n_losses else math.nan
        return {f"sllmr_{self.name}": mean, f"sllmr_{self.name}_{self.terms}": float(self._n_terms)}

    def close(self) -> None:
        """Leave the model as it was before this call of `fit`."""


class StepLoss(nn.Module):
    """A loss beside the library's own, which stays on a model from one `fit` to the next; see `add_loss`.

    Its parameters are trained by the model's optimizer, in a group of their own.

    Parameters
    ----------
    name : str
        A model has at most one of a name.
    weight : float
        Above 0.

    Attributes
    ----------
    epochs : list of dict of str to float
        What `LossRun.end_epoch` gave in the epochs of the latest `fit`.
    """

    def __init__(self, name: str, weight: float) -> None:
        super().__init__()
        self.name = name
        self.weight = weight
        self.epochs: list[dict[str, float]] = []

    def open(self, model: Any) -> LossRun:
        """Return what a call of `fit` holds."""
        raise NotImplementedError

    def open_for(self, model: Any, arguments: Mapping[str, Any]) -> LossRun:
        """Return the same for a call of `fit` with these arguments, for a loss that reads its training rows."""
        return self.open(model)


class StepLossMixin(_Base):
    """Put before a model class by a library's own mixin, which adds the seams of its `fit`."""

    optimizer_name: ClassVar[str]
    """Attribute under which the library's models keep their optimizer."""
    loss_is_mean: ClassVar[bool]
    """Whether the library's own loss is a mean over the rows of a batch, and not a sum."""

    device: Any
    _sllmr_runs: tuple[LossRun, ...] = ()

    @property
    def _sllmr_backend(self) -> Backend:
        """The library's answers."""
        backend = backend_of(self)
        assert backend is not None
        return backend

    def forward(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the plain model's output; the step's losses see the ids of its input."""
        # Not `self.training`: DeepCTR-Torch's fit leaves the model in eval mode after the first validation.
        if not torch.is_grad_enabled():
            return super().forward(inputs, *args, **kwargs)
        with self._losses_watch(inputs):
            return super().forward(inputs, *args, **kwargs)

    @contextmanager
    def _losses_watch(self, inputs: Any, rows: Tensor | None = None) -> Iterator[None]:
        """Show the losses a step's input, rows of candidates that go with it, and what it looks up in embeddings."""
        if not self._sllmr_runs:
            yield
            return
        backend = self._sllmr_backend
        more = None if rows is None or len(rows) == 0 else backend.inputs(self, rows)
        with ExitStack() as stack:
            for run in self._sllmr_runs:
                own = {name: backend.codes(self, inputs, name) for name in run.features}
                n_batch = len(next(iter(own.values())))
                if more is not None:
                    own = {name: torch.cat([codes, backend.codes(self, more, name)]) for name, codes in own.items()}
                run.see(own, n_batch)
                stack.enter_context(run.lookups.watching())
            yield

    @property
    def _adds(self) -> bool:
        """Whether this call of `fit` adds anything to the library's loss."""
        return bool(self._sllmr_runs)

    def _with_added(self, loss: Any) -> Any:
        """Return the library's loss plus, once a training step, what is added to it."""
        for run in self._sllmr_runs:
            extra = run.take_loss(mean=self.loss_is_mean)
            if extra is not None:
                loss = loss + extra
        return loss

    def _begin_epoch(self, epoch: int) -> None:
        for run in self._sllmr_runs:
            run.begin_epoch(epoch)

    def _end_epoch(self) -> dict[str, float]:
        """Return the epoch's account for the history; empty where nothing is added."""
        accounts = {run.name: run.end_epoch() for run in self._sllmr_runs}
        for name, account in accounts.items():
            step_losses(self)[name].epochs.append(account)
        return {key: value for account in accounts.values() for key, value in account.items()}

    @contextmanager
    def _losses_open(self, arguments: Mapping[str, Any]) -> Iterator[tuple[LossRun, ...]]:
        """Hold the runs of a call of `fit` with these arguments."""
        world = Ranks.here(self.device).world
        if world > 1:
            raise ProcessesError(
                f"the losses {', '.join(step_losses(self))} compare the ids of one process's rows, and there are "
                f"{world} processes. Take them off (undo), or train in one process."
            )
        sync_losses(self)
        with ExitStack() as stack:
            runs = []
            for loss in step_losses(self).values():
                loss.epochs = []
                runs.append(loss.open_for(self, arguments))
                stack.callback(runs[-1].close)
            stack.enter_context(held(self, "_sllmr_runs", tuple(runs)))
            yield tuple(runs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Configure as the plain model does; what the losses train joins the optimizer."""
        super().compile(*args, **kwargs)
        sync_losses(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        """Move the losses along with `to`, `cuda` and `cpu`."""
        for loss in step_losses(self).values():
            loss._apply(fn)
        return super()._apply(fn, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickle and copy by mixins and the library's class, since the combined ones are made at run time."""
        _, _, state, *rest = super().__reduce_ex__(protocol)
        if isinstance(state, dict):
            state = {name: value for name, value in state.items() if name not in FIT_ONLY}
        mixin, plain = type(self).__bases__
        return (new_instance, (mixin, augment_mixin(plain), unaugmented_class(plain)), state, *rest)


@contextmanager
def held(model: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Keep what belongs to one call of `fit` on a model, under one of the names in `FIT_ONLY`."""
    model.__dict__[name] = value
    try:
        yield
    finally:
        model.__dict__.pop(name, None)


@functools.cache
def mixed_class(mixin: type, plain: type) -> type:
    """Return the class that puts a library's mixin before a model class, the same one every time."""
    members: dict[str, Any] = {"__module__": plain.__module__, "__doc__": plain.__doc__}
    return type(f"SLLMR{plain.__name__}", (mixin, plain), members)


def new_instance(mixin: type, augmentation: type | None, plain: type) -> nn.Module:
    """Return an empty instance of a library's class with its mixins before it."""
    cls = plain if augmentation is None else augmented_class(augmentation, plain)
    instance: nn.Module = object.__new__(mixed_class(mixin, cls))
    return instance


def plain_class(model: object) -> type:
    """Return the class that a model had before a mixin was put in front; that of an augmented one is not the library's.

    A model that has none is of its plain class already.
    """
    ancestors = type(model).__mro__
    return ancestors[ancestors.index(StepLossMixin) + 1] if StepLossMixin in ancestors else type(model)


def unmixed_class(model: Any) -> type:
    """Return the class that a model has without the regularizer: its plain one, with a mixin where it has losses."""
    plain = plain_class(model)
    return mixed_class(model._sllmr_backend.loss_mixin, plain) if step_losses(model) else plain


def step_losses(model: Any) -> dict[str, StepLoss]:
    """Return the losses that were added to a model, by name."""
    found: dict[str, StepLoss] = model.__dict__.get(LOSSES, {})
    return found


def check_addable(model: Any, name: str) -> Backend:
    """Return the backend of a model that a loss can be added to under a name.

    Raises
    ------
    UnsupportedModelError
        If the model is of neither library, or its `fit` cannot be reached.
    AlreadyWrappedError
        If it has a loss of that name.
    """
    backend = backend_of(model)
    if backend is None:
        raise UnsupportedModelError([f"a {type(model).__name__} is neither a DeepCTR-Torch nor a FuxiCTR model."])
    problems = backend.training_problems(model)
    if problems:
        raise UnsupportedModelError(problems)
    if name in step_losses(model):
        raise AlreadyWrappedError([f"the model has a loss named {name!r} already. Take it off first (undo)."])
    return backend


def add_loss(model: Any, loss: StepLoss) -> None:
    """Let a model train with a loss beside its own, from the next `fit` on; before or after `compile` and `wrap`.

    Raises what `check_addable` does.
    """
    backend = check_addable(model, loss.name)
    model.__dict__.setdefault(LOSSES, {})[loss.name] = loss.to(model.device)
    if not isinstance(model, StepLossMixin):
        model.__class__ = mixed_class(backend.loss_mixin, plain_class(model))
    sync_losses(model)


def remove_loss(model: Any, name: str) -> None:
    """Take a loss off a model: with the last one, its class is what it was before. What it has learnt stays."""
    losses = step_losses(model)
    if losses.pop(name, None) is None:
        return
    if losses:
        sync_losses(model)
        return
    leave_group(model, _GROUP_MARK)
    del model.__dict__[LOSSES]
    if type(model).__bases__[0] is model._sllmr_backend.loss_mixin:
        model.__class__ = plain_class(model)


def sync_losses(model: Any) -> None:
    """Give what the losses train to the optimizer, as a group of its own; see `sync_group`."""
    parameters = [parameter for loss in step_losses(model).values() for parameter in loss.parameters()]
    sync_group(model, _GROUP_MARK, parameters)
