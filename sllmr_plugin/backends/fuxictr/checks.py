"""What `wrap` finds out about a FuxiCTR model before it touches anything."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...config import SelectiveConfig
from ...errors import UnsupportedModelError
from ...scores.ids import IdIndex
from ...training.rows import Features, Layout
from ..base import dropout_problems, head_of, name_problems, task_problems
from .data import VOCABULARY_FILE, fuxictr_index, layout_of, to_batch

_LOG = logging.getLogger(__name__)
SEAMS = ("fit", "train_epoch", "compute_loss", "get_inputs", "forward")
"""Methods of a FuxiCTR model that the mixin overrides or calls; releases are told apart by them, not by number."""


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
    layout = layout_of(model.feature_map)
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
    return [], Features(user, item, items, layout, *sizes, regression)


def default_item_features(model: Any, user: str, item: str) -> list[str]:
    """Return the features that go with the item, as far as model and feature map tell.

    These are the targets of a DIN's attention and the features of the item's own ``source``; sequences are left out,
    since a history of items has that source as well.
    """
    fields = model.__dict__.get("din_target_field", [])
    nested = [field if isinstance(field, (list, tuple)) else [field] for field in fields]
    specs = model.feature_map.features
    source = specs[item].get("source")
    if source and source != specs[user].get("source"):
        nested += [[name] for name, spec in specs.items() if spec.get("source") == source]
    return [
        name for names in nested for name in names if name in specs and specs[name]["type"] not in ("sequence", "meta")
    ]


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
