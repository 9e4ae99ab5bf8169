"""Whether a model treats rows one by one, found out by trying."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .base import dropouts
from .forward import batch_norms, call_with, captured_input, statistics_of_first, training_mode

_SPREAD = 0.1  # of what is added to every weight: freshly initialised models tell rows apart by less than rounding


def is_row_wise(
    model: nn.Module, inputs: Callable[[Tensor], Any], rows: Tensor, n_first: int, head: nn.Module | None = None
) -> bool:
    """Try out whether the outputs of the first rows are the same with and without the others behind them.

    The model is run in training mode, with random weights, without dropout, and with batch statistics made by the
    first rows only (`statistics_of_first`). Weights, statistics and random numbers are left as they were. What is not
    trained keeps its values: masks and indexes, which some models hold as parameters, mean nothing with noise added.

    Parameters
    ----------
    model : Module
        Its forward returns a dict of tensors with a row for each input row (None is let pass), or it is not row-wise.
    inputs : callable
        Turns rows, (n_rows, width), into what the forward takes.
    rows : Tensor
        (n_rows, width) that differ. The model must be able to run on the first ones alone.
    n_first : int
        Rows that come first; at least as many others, so that what averages over rows shows.
    head : Module, optional
        What it is called with is compared, too: a probability near 0 or 1 hides differences.

    Returns
    -------
    bool
        False also if the model fails on the rows together, or uses random numbers other than those of `nn.Dropout`.

    Raises
    ------
    Exception
        Whatever the model raises on the first rows alone.
    """
    if any(type(module) is not nn.Dropout for module in dropouts(model)):  # dropout_of_first knows no others
        return False
    norms = batch_norms(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        large = {id(module.weight) for module in embeddings}  # not copied: what they give is changed instead
        noisy = {
            name: p + _SPREAD * torch.randn(p.shape, generator=generator).to(p)
            for name, p in model.named_parameters()
            if p.requires_grad and id(p) not in large
        }

        def outputs(some: Tensor) -> dict[str, Any]:
            state = noisy | {name: buffer.clone() for name, buffer in model.named_buffers()}
            with captured_input(head) as seen:
                found = call_with(model, state, inputs(some))
            logits = {f"logit {number}": tensor for number, tensor in enumerate(seen)}
            return {**found, **logits} if isinstance(found, Mapping) else {}

        with ExitStack() as stack:
            for module in embeddings:
                if module.weight.requires_grad:
                    stack.callback(module.register_forward_hook(_spread_codes).remove)
            stack.enter_context(training_mode(list(model.modules()), True))
            stack.enter_context(training_mode(dropouts(model), False))
            alone = outputs(rows[:n_first])
            # twice, as a model that averages over rows can by chance average to the same
            ends = {len(rows), max(len(rows) - 1, n_first + 1)}
            return bool(alone) and all(_agree(outputs, alone, rows[:end], n_first, norms) for end in ends)


def _agree(
    outputs: Callable[[Tensor], dict[str, Any]],
    alone: Mapping[str, Any],
    rows: Tensor,
    n: int,
    norms: Sequence[_BatchNorm],
) -> bool:
    try:
        with statistics_of_first(norms, n, len(rows)):
            together = outputs(rows)
    except (RuntimeError, ValueError, IndexError):  # rows that cannot be told apart, or shapes that do not fit
        return False
    if alone.keys() != together.keys():
        return False
    return all(_same(alone[name], together[name], n, len(rows)) for name in alone)


def _spread_codes(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Tell codes apart that an embedding does not yet: each adds a fixed vector of its own."""
    waves = torch.arange(1, output.shape[-1] + 1, device=output.device)
    return output + _SPREAD * torch.sin(args[0].unsqueeze(-1) * waves).to(output)


def _same(alone: Any, together: Any, n: int, n_all: int) -> bool:
    """Whether two outputs have the same first n rows, up to rounding and to what hardly tells rows apart."""
    if alone is None and together is None:  # an output of another configuration of the model
        return True
    if not all(isinstance(output, Tensor) and output.dim() for output in (alone, together)):
        return False
    if len(alone) != n or len(together) != n_all:
        return False
    if not alone.is_floating_point() or alone.numel() == 0:  # masks and codes, which know no rounding
        return torch.equal(alone, together[:n])
    tolerance = 1e-4 * float(alone.max() - alone.min()) + 3e-6 * float(alone.abs().max())
    return torch.allclose(alone, together[:n], rtol=0, atol=tolerance)
