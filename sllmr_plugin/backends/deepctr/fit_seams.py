"""Three names that DeepCTR-Torch's `fit` looks up, replaced while it runs: its loader, its L2 penalty, its prints."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

# Takes rows, batch size and whether to shuffle; returns the batches of a training as lists of rows.
TrainingBatches = Callable[[int, int, bool], Sampler[list[int]]]

_KNOWN_OPTIONS = {"dataset", "batch_size", "shuffle"}  # what BaseModel passes


class LoaderUse:
    """Counts the loaders that a training has built.

    Parameters
    ----------
    batches : callable, optional
        Chooses the rows of the training's batches in place of torch.

    Attributes
    ----------
    whole, by_row : int
        Loaders that slice whole batches, and others.
    """

    def __init__(self, batches: TrainingBatches | None = None) -> None:
        self.whole = self.by_row = 0
        self.batches = batches

    def __str__(self) -> str:
        if not self.whole:
            return "the model's own"
        rest = f", {self.by_row} of {self.whole + self.by_row} loaders row by row" if self.by_row else ""
        return f"batches sliced whole{rest}"


_current: ContextVar[LoaderUse | None] = ContextVar("sllmr_loader_use", default=None)
_loader_lock = threading.Lock()
_loaders_open = 0  # trainings, in all threads, that want the name replaced


class _WholeBatches(Dataset):
    """The tensors of a data set; torch's fetcher asks `__getitems__` for all rows of a batch at once."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self._tensors = tensors

    def __len__(self) -> int:
        return self._tensors[0].shape[0]

    def __getitems__(self, rows: list[int]) -> list[Tensor]:
        index = torch.tensor(rows)
        return [tensor.index_select(0, index) for tensor in self._tensors]


def _as_it_is(batch: list[Tensor]) -> list[Tensor]:
    return batch


def _loader(*args: Any, **options: Any) -> DataLoader:
    """Stand in for ``DataLoader`` in DeepCTR-Torch's module."""
    use = _current.get()
    if use is None:
        return DataLoader(*args, **options)
    data = options.get("dataset")
    if args or options.keys() != _KNOWN_OPTIONS or type(data) is not TensorDataset:
        use.by_row += 1
        return DataLoader(*args, **options)
    use.whole += 1
    whole = _WholeBatches(data.tensors)
    if use.batches is not None and len(data.tensors) == 2:  # with labels: `predict` has none
        batches = use.batches(len(whole), options["batch_size"], options["shuffle"])
        return DataLoader(whole, batch_sampler=batches, collate_fn=_as_it_is)
    return DataLoader(**{**options, "dataset": whole, "collate_fn": _as_it_is})


@contextmanager
def whole_batches(enabled: bool = True, batches: TrainingBatches | None = None) -> Iterator[LoaderUse]:
    """Let DeepCTR-Torch slice whole batches in this thread, within the context.

    Parameters
    ----------
    enabled : bool, default=True
        False gives this thread DeepCTR-Torch's own loader, even within a training that has the other.
    batches : callable, optional
        Chooses the rows of the training's batches in place of torch, from their number, the batch size and whether to
        shuffle. The loader of `predict` is not asked for.

    Yields
    ------
    LoaderUse
        Counts what is built.
    """
    use = LoaderUse(batches)
    token = _current.set(use if enabled else None)
    try:
        with _name_replaced():
            yield use
    finally:
        _current.reset(token)


@contextmanager
def _name_replaced() -> Iterator[None]:
    global _loaders_open
    from deepctr_torch.models import basemodel

    with _loader_lock:
        _loaders_open += 1
        if basemodel.DataLoader is DataLoader:  # another class there is somebody's choice, and stays
            basemodel.DataLoader = _loader
    try:
        yield
    finally:
        with _loader_lock:
            _loaders_open -= 1
            if _loaders_open == 0 and basemodel.DataLoader is _loader:
                basemodel.DataLoader = DataLoader


_OWN = ("deepctr_torch.models.basemodel", "BaseModel.get_regularization_loss")


class _SumOfSquares(torch.autograd.Function):
    """``sum(l2 * square(w))``, rounded as torch rounds the single operations."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, l2: float, scratch: Tensor) -> Tensor:
        ctx.save_for_backward(w)
        ctx.l2 = l2
        squares = scratch[: w.numel()].view(w.shape)
        torch.mul(w, w, out=squares)
        return squares.mul_(l2).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (w,) = ctx.saved_tensors
        # autograd would multiply (gradient * l2) by (2 * w); doubling is exact, so it may be done to either.
        return w * (gradients[0] * ctx.l2 * 2), None, None


class LeanL2:
    """Computes a model's penalty during one call of `fit`.

    At the first step the library's own penalty is computed as well. Unless both agree in every bit of value and
    gradients, the library's own is used throughout.

    Parameters
    ----------
    model : BaseModel
        The model that trains.
    own : callable
        The plain class's bound ``get_regularization_loss``. One that a subclass has written is always used as it is.
    """

    def __init__(self, model: Any, own: Callable[[], Tensor]) -> None:
        self._model = model
        self._own = own
        self._scratch: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._agrees: bool | None = None
        function = getattr(own, "__func__", None)
        if (getattr(function, "__module__", None), getattr(function, "__qualname__", None)) != _OWN:
            self._agrees = False

    def __str__(self) -> str:
        if self._agrees is None:
            return "not computed"
        return "one pass over each table" if self._agrees else "the model's own"

    def __call__(self) -> Tensor:
        """Return the penalty, (1,)."""
        if not torch.is_grad_enabled():
            return self._own()
        if self._agrees is None:
            self._agrees = self._same_bits()
        return self._lean() if self._agrees else self._own()

    def _terms(self) -> Iterator[tuple[Tensor, float, float]]:
        for weights, l1, l2 in self._model.regularization_weight:
            for weight in weights:
                yield (weight[1] if isinstance(weight, tuple) else weight), l1, l2

    def _lean(self) -> Tensor:
        total = torch.zeros((1,), device=self._model.device)
        for w, l1, l2 in self._terms():
            if l1 > 0:
                total += torch.sum(l1 * torch.abs(w))
            if l2 > 0:
                total += _SumOfSquares.apply(w, l2, self._scratch_of(w))
        return total

    def _scratch_of(self, w: Tensor) -> Tensor:
        key = (w.device, w.dtype)
        if key not in self._scratch:
            sizes = [w.numel() for w, _, _ in self._terms() if (w.device, w.dtype) == key]
            self._scratch[key] = torch.empty(max(sizes), device=w.device, dtype=w.dtype)
        return self._scratch[key]

    def _same_bits(self) -> bool:
        weights = list({id(w): w for w, _, _ in self._terms() if w.requires_grad}.values())
        if any(not w.is_contiguous() for w, _, _ in self._terms()):  # a sum takes its numbers in the order of memory
            return False
        results = []
        for penalty in (self._own, self._lean):
            value = penalty()
            gradients = torch.autograd.grad(value.sum(), weights, allow_unused=True) if value.requires_grad else ()
            results.append((value, *gradients))
        return all(_equal_bits(one, other) for one, other in zip(*results, strict=True))


def _equal_bits(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one.detach().contiguous().view(torch.uint8), other.detach().contiguous().view(torch.uint8))


_wanted: ContextVar[Callable[[str], bool] | None] = ContextVar("sllmr_wanted_prints", default=None)
_print_lock = threading.Lock()
_prints_open = 0


def _print(*values: Any, **options: Any) -> None:
    """Stand in for ``print`` in DeepCTR-Torch's module."""
    wanted = _wanted.get()
    if wanted is None or wanted(" ".join(map(str, values))):
        print(*values, **options)


@contextmanager
def library_prints(wanted: Callable[[str], bool]) -> Iterator[None]:
    """Let DeepCTR-Torch's training loop print, in this thread, only the lines that a function wants."""
    global _prints_open
    from deepctr_torch.models import basemodel

    token = _wanted.set(wanted)
    with _print_lock:
        _prints_open += 1
        basemodel.print = _print
    try:
        yield
    finally:
        _wanted.reset(token)
        with _print_lock:
            _prints_open -= 1
            if _prints_open == 0:
                del basemodel.print
