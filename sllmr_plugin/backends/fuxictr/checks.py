"""What has to be known of a FuxiCTR model: before `wrap` changes it, and by trying it out before the first step."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...config import SelectiveConfig
from ...errors import UnsupportedModelError
from ...scores.ids import IdIndex
from ...training.rows import Features, Layout
from ..base import dropout_problems, dropouts, head_of, name_problems, task_problems
from ..first_rows import batch_norms, statistics_of_first
from ..forward import call_with, captured_input, training_mode
from .data import VOCABULARY_FILE, fed_layout, fuxictr_index, to_batch

_LOG = logging.getLogger(__name__)
SEAMS = ("fit", "train_epoch", "compute_loss", "get_inputs", "forward")
"""Methods of a FuxiCTR model that the mixin overrides or calls; releases are told apart by them, not by number."""

_SPREAD = 0.1  # of what is added to every weight: freshly initialised models tell rows apart by less than rounding


def id_index(model: Any, feature: str) -> IdIndex | None:
    """Return the vocabulary of a feature if FuxiCTR has written one, else None: ids are codes then."""
    folder = Path(model.feature_map.data_dir)
    if not (folder / VOCABULARY_FILE).exists():
        return None
    index = fuxictr_index(folder, feature)
    _LOG.info("[SLLMR] ids of %s are looked up in %s", feature, folder / VOCABULARY_FILE)
    return index


def find_problems(
    model: Any,
    user: str,
    item: str,
    item_features: Sequence[str] | None,
    task: int | None,
    config: SelectiveConfig,
) -> tuple[list[str], Features | None]:
    """Check a model and the names given for it.

    Returns
    -------
    problems : list of str
        All of them; empty when the model can be wrapped.
    features : Features or None
        None when there are problems.

    Raises
    ------
    UnsupportedModelError
        If the model's batches are not dicts of features.
    """
    specs = model.feature_map.features
    layout = fed_layout(model)
    lacking = seam_problem(model)
    problems = [] if lacking is None else [lacking]
    if not problems:
        require_flat_batches(model, layout)
    problems += name_problems(layout, user, item, item_features)
    problems += [
        f"feature {name!r} is of type {specs[name]['type']}. Name the categorical feature that carries the id."
        for name in dict.fromkeys([user, item])
        if name in layout and specs[name]["type"] != "categorical"
    ]
    if not hasattr(model, "optimizer"):
        problems.append("the model has no optimizer. Call self.compile(...) in its constructor, as FuxiCTR does.")
    problems += _task_problems(model, task)
    problems += dropout_problems(model, config, "net_dropout")
    if problems:
        return problems, None
    items = tuple(dict.fromkeys([item, *(item_features or default_item_features(model, user, item))]))
    sizes = (specs[user]["vocab_size"], specs[item]["vocab_size"])
    regression = isinstance(prediction_head(model, task or 0), nn.Identity)
    vocabularies = {name: specs[name]["vocab_size"] for name in items[1:] if "vocab_size" in specs[name]}
    return [], Features(user, item, items, layout, *sizes, regression, vocabularies=vocabularies)


def default_item_features(model: Any, user: str, item: str) -> list[str]:
    """Return the features that go with the item, as far as model and feature map tell.

    These are the targets of a DIN's attention and the features of the item's own ``source``; sequences are left out,
    since a history of items has that source as well.
    """
    fields = model.__dict__.get("din_target_field", [])
    nested = [field if isinstance(field, (list, tuple)) else [field] for field in fields]
    specs = {name: model.feature_map.features[name] for name in fed_layout(model)}
    source = specs[item].get("source")
    if source and source != specs[user].get("source"):
        nested += [[name] for name, spec in specs.items() if spec.get("source") == source]
    return [name for names in nested for name in names if name in specs and specs[name]["type"] != "sequence"]


def seam_problem(model: Any) -> str | None:
    """Say which of the methods that the regularizer works through a model lacks, or None."""
    lacking = [name for name in SEAMS if not callable(getattr(model, name, None))]
    if not lacking:
        return None
    version = importlib.import_module("fuxictr.version").__version__
    return (
        f"fuxictr {version} gives the model no {', '.join(lacking)}, which the regularizer trains through. "
        "Run `pip install 'fuxictr>=2.3.10,<2.4'`."
    )


def require_flat_batches(model: Any, layout: Layout) -> None:
    """Refuse a model whose batches are something else than a dict of the features in its feature map.

    Raises
    ------
    UnsupportedModelError
        If it cannot read such a dict.
    """
    rows = torch.zeros(2, max((end for _, end in layout.values()), default=0), dtype=torch.float64)
    try:
        model.get_inputs(to_batch(rows, layout, model.feature_map))
    except Exception as error:
        raise UnsupportedModelError(
            [
                f"{type(model).__name__}.get_inputs cannot read a dict of the features in feature_map "
                f"({type(error).__name__}: {error}). Its batches have another form, as those of the long-sequence "
                "models with their table of items have, and candidates cannot be given it. Wrap a model whose batches "
                "are flat dicts, such as DIN with a sequence feature."
            ]
        ) from error


def prediction_head(model: nn.Module, task: int) -> nn.Module | None:
    """Return the activation whose input is the logit of an output."""
    return head_of(getattr(model, "output_activation", None), task)


def _task_problems(model: Any, task: int | None) -> list[str]:
    problems = task_problems(getattr(model, "num_tasks", 1), task)
    if problems:
        return problems
    if not isinstance(prediction_head(model, task or 0), (nn.Sigmoid, nn.Identity)):
        return [
            "the output is neither a probability nor a single score. Build the model with "
            "task='binary_classification' or task='regression'."
        ]
    return []


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
