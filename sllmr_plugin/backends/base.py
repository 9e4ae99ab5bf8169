"""Which library a model is of, and what `wrap` finds out about it before it touches it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..config import SelectiveConfig
from ..regularizer.uncertainty import UNCERTAINTIES
from ..scores.ids import IdIndex
from ..training.rows import Features
from .forward import dropouts


def name_problems(features: Iterable[str], user: str, item: str, item_features: Sequence[str] | None) -> list[str]:
    """Say what is wrong with the names that `wrap` was given for a model with these features."""
    features = list(features)
    problems = [
        f"the model has no feature {name!r}. Its features are {', '.join(features)}."
        for name in dict.fromkeys([user, item, *(item_features or [])])
        if name not in features
    ]
    if user == item:
        problems.append(f"user and item are both {user!r}. Name the user id feature and the item id feature.")
    if item_features is not None and user in item_features:
        problems.append(f"item_features holds the user feature {user!r}. List item-side features only.")
    return problems


def task_problems(n_tasks: int, task: int | None) -> list[str]:
    """Say what is wrong with the task chosen for a model with so many outputs."""
    if n_tasks == 1:
        return [] if task in (None, 0) else [f"task={task} given for a model with one output. Leave task out."]
    if task is None:
        return [f"the model has {n_tasks} tasks. Pass task=, the index of the output that the LLM's scores are about."]
    if not 0 <= task < n_tasks:
        return [f"task={task} given for a model with {n_tasks} tasks. Pass an index from 0 to {n_tasks - 1}."]
    return []


def dropout_problems(model: nn.Module, config: SelectiveConfig, argument: str) -> list[str]:
    """Say that MC-dropout needs dropout; `argument` is how the library's models are given some."""
    if UNCERTAINTIES.class_of(config.uncertainty).source != "dropout" or dropouts(model):
        return []
    return [
        f"uncertainty={config.uncertainty!r} needs dropout and the model has none. Build it with {argument}=0.1 or "
        "so, or use uncertainty='entropy'."
    ]


def head_of(head: object, task: int) -> nn.Module | None:
    """Return the layer whose input is the logit of an output from where a model keeps it; None if it has none."""
    if isinstance(head, nn.ModuleList):
        return head[task]
    return head if isinstance(head, nn.Module) else None


# The library's base class of models, and our module that knows the library. Models are recognised by name, and the
# module is imported for a model of its own only: neither library is imported for the other's sake.
_MODULES = {
    ("deepctr_torch.models.basemodel", "BaseModel"): "deepctr.mixin",
    ("fuxictr.pytorch.models.rank_model", "BaseModel"): "fuxictr.mixin",
}


def _no_index(model: Any, feature: str) -> IdIndex | None:
    return None


def _itself(model: Any) -> Any:
    return model


def embeddings_named(model: nn.Module, name: str) -> list[nn.Embedding]:
    """Return the embeddings under a name in any dictionary of modules of a model, each once."""
    dictionaries = [module for module in model.modules() if isinstance(module, nn.ModuleDict)]
    found = [table[name] for table in dictionaries if name in table]
    return [module for module in dict.fromkeys(found) if isinstance(module, nn.Embedding)]


@dataclass(frozen=True)
class Backend:
    """A CTR library as the rest of the package sees it.

    Attributes
    ----------
    mixin : type
        Put before a model's class; derives from `WrappedMixin`.
    find_problems : callable
        Takes model, user, item, item_features, task and config; returns everything that speaks against wrapping,
        and the `Features`, which are None when there is something.
    id_index : callable
        Takes model and feature; returns how raw ids become codes where the library has kept that, else None.
    row_model : callable
        Takes a model; returns one that is called with rows, (n_rows, width), laid out as its `feature_index` says.
    embeddings : callable
        Takes model and feature; returns the embedding modules that the feature's ids are looked up in.
    """

    mixin: type
    find_problems: Callable[..., tuple[list[str], Features | None]]
    id_index: Callable[[Any, str], IdIndex | None] = _no_index
    row_model: Callable[[Any], Any] = _itself
    embeddings: Callable[[Any, str], list[nn.Embedding]] = embeddings_named


def backend_of(model: object) -> Backend | None:
    """Return the backend of a model's library; None if no library that we know made it."""
    for cls in type(model).__mro__:
        name = _MODULES.get((cls.__module__, cls.__name__))
        if name is not None:
            backend: Backend = importlib.import_module(f".{name}", __package__).BACKEND
            return backend
    return None


def row_model(model: Any) -> Any:
    """Return a model that is called with rows, (n_rows, width); models of no library that we know stay themselves."""
    backend = backend_of(model)
    return model if backend is None else backend.row_model(model)
