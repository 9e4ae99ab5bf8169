"""DeepCTR-Torch's L2 penalty, the same bits with fewer passes over the embedding tables.

``BaseModel.get_regularization_loss`` writes ``sum(l2 * square(w))`` for every embedding table, each step. Forward and
backward make six new tensors of the size of the table, which is a third of a step at the paper's sizes. The value
and the gradient ``2 * l2 * w`` need one scratch tensor for the whole training and one new tensor, the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

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
