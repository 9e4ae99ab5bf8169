"""Extra rows in a forward pass without a trace in batch statistics and dropout, and with other weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the modules that keep batch statistics (those inside Dice among them)."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def dropouts(model: nn.Module) -> list[_DropoutNd]:
    """Return the dropout modules with a positive rate."""
    return [module for module in model.modules() if isinstance(module, _DropoutNd) and module.p > 0]


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
        first = args[0].detach()
        over = [dim for dim in range(first.dim()) if dim != 1]
        mean = first.mean(over, keepdim=True)
        variance = (first - mean).square().mean(over)  # a tenth of the time that `var` takes along the first dimension
        others = F.batch_norm(rest.pop(module), mean.flatten(), variance, module.weight, module.bias, eps=module.eps)
        return torch.cat([output, others])

    with ExitStack() as stack:
        for norm in norms:
            if norm.training:
                stack.callback(norm.register_forward_pre_hook(keep_first).remove)
                stack.callback(norm.register_forward_hook(normalise_rest).remove)
        yield


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

    with ExitStack() as stack:
        for module in modules:
            if module.training:
                stack.callback(module.register_forward_pre_hook(keep_first).remove)
                stack.callback(module.register_forward_hook(drop_rest).remove)
        yield


@contextmanager
def training_mode(modules: Sequence[nn.Module], mode: bool) -> Iterator[None]:
    """Set single modules to training or evaluation mode for a while."""
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.training = mode
        yield
    finally:
        for module, was in zip(modules, before, strict=True):
            module.training = was


@contextmanager
def captured_input(module: nn.Module | None) -> Iterator[list[Tensor]]:
    """Collect the inputs that a module is called with, in order; nothing for None."""
    seen: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])

    if module is None:
        yield seen
        return
    handle = module.register_forward_pre_hook(record)
    try:
        yield seen
    finally:
        handle.remove()


def call_with(model: nn.Module, tensors: Mapping[str, Tensor], inputs: Any) -> Any:
    """Call a model as if its parameters and buffers were these, and leave its own in place.

    `functional_call` alone does not: of a module that is registered under two names, an embedding that two features
    share, it leaves the other weights behind. So every place is named once here.

    Parameters
    ----------
    model : Module
        Called with `inputs`.
    tensors : mapping of str to Tensor
        By any of the names that `named_parameters`, `named_buffers` or `state_dict` give; others stay as they are.
    inputs : Any
        What the forward takes.
    """
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    instead = {id(own[name]): tensor for name, tensor in tensors.items() if name in own}
    places = {
        f"{path}.{name}" if path else name: instead[id(tensor)]
        for path, module in model.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if id(tensor) in instead
    }
    return functional_call(model, places, (inputs,), tie_weights=False)


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
