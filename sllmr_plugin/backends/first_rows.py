"""The first rows of a forward pass are the batch's: batch statistics and dropout are theirs, whatever rides along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the modules that keep batch statistics (those inside Dice among them)."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def statistics_of_first(norms: Sequence[_BatchNorm], n_first: int, n_rows: int) -> Iterator[None]:
    """Let only the first rows of a forward pass make and update batch statistics.

    While this is active, a batch normalisation in training mode sees the first `n_first` rows only, so their
    output and the running statistics are those of a pass without the rest; the remaining rows are then
    normalised with the same mean and variance, which they do not influence. A module may be given several rows
    for each row of the input (an attention over a history), as long as they stand together.

    Parameters
    ----------
    norms : sequence of batch normalisation modules
        All of the model's.
    n_first, n_rows : int
        Rows of the batch, and rows in all.
    """
    rest: dict[nn.Module, Tensor] = {}

    def keep_first(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]
        if x.shape[0] % n_rows:
            raise RuntimeError(
                f"a batch normalisation was given {x.shape[0]} rows where the model's input has {n_rows}; rows cannot "
                "be told apart. Please report the model; wrapping a subclass of it takes the separate pass instead."
            )
        own = x.shape[0] // n_rows * n_first
        rest[module] = x[own:]
        return (x[:own],)

    def normalise_rest(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(module, _BatchNorm)
        mean, variance = _moments(args[0].detach(), output.grad_fn, module.eps)
        others = F.batch_norm(rest.pop(module), mean, variance, module.weight, module.bias, eps=module.eps)
        return torch.cat([output, others])

    with _hooked(norms, keep_first, normalise_rest):
        yield


def _moments(rows: Tensor, node: Any, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and variance that a batch normalisation has just used, by feature, in at least float32.

    Its node of the graph has kept them; without one they are computed again.
    """
    mean, inverse_deviation = (getattr(node, f"_saved_result{number}", None) for number in (1, 2))
    if mean is not None and inverse_deviation is not None and len(mean) == rows.shape[1]:
        return mean.detach(), inverse_deviation.detach().pow(-2) - eps
    # Under autocast rows can be in half precision; means and variances are in the precision of the module's own.
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    over = [dim for dim in range(rows.dim()) if dim != 1]
    mean = rows.mean(over, keepdim=True)
    return mean.flatten(), (rows - mean).square().mean(over)  # a tenth of the time that `var` takes on the first dim


@contextmanager
def dropout_of_first(
    modules: Sequence[nn.Module], n_first: int, n_rows: int, generator: Callable[[torch.device], torch.Generator]
) -> Iterator[None]:
    """Let only the first rows of a forward pass take dropout's numbers from the global generator.

    While this is active, the masks of the first rows, and the global random numbers afterwards, are those of a pass
    without the rest, whose masks come from a generator of their own.

    Parameters
    ----------
    modules : sequence of Dropout
        All of the model's with a positive rate.
    n_first, n_rows : int
        Rows of the batch, and rows in all.
    generator : callable
        Gives the generator of the other rows' masks for a device.
    """
    rest: dict[nn.Module, Tensor] = {}

    def keep_first(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        x = args[0]
        if x.shape[0] % n_rows:  # dropout of something that has no rows, weights for instance
            return None
        own = x.shape[0] // n_rows * n_first
        rest[module] = x[own:]
        return (x[:own],)

    def drop_rest(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if module not in rest:
            return output
        assert isinstance(module, nn.Dropout)
        others = rest.pop(module)
        kept = torch.empty_like(others).bernoulli_(1 - module.p, generator=generator(others.device))
        return torch.cat([output, others * kept / (1 - module.p)])

    with _hooked(modules, keep_first, drop_rest):
        yield


@contextmanager
def _hooked(modules: Sequence[nn.Module], before: Callable[..., Any], after: Callable[..., Any]) -> Iterator[None]:
    """Let functions run before and after those of the modules that are in training mode."""
    with ExitStack() as stack:
        for module in modules:
            if module.training:
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after).remove)
        yield
