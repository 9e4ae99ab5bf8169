"""What must be known of a CTR library outside of its own files, and which library a model is of."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..id_index import IdIndex
from ..item_rows import Features

# The library's base class of models, and our module that knows the library. Models are recognised by name, and the
# module is imported for a model of its own only: neither library is imported for the other's sake.
_MODULES = {
    ("deepctr_torch.models.basemodel", "BaseModel"): "deepctr_torch",
    ("fuxictr.pytorch.models.rank_model", "BaseModel"): "fuxictr",
}


def _no_index(model: Any, feature: str) -> IdIndex | None:
    return None


def _itself(model: Any) -> Any:
    return model


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
    """

    mixin: type
    find_problems: Callable[..., tuple[list[str], Features | None]]
    id_index: Callable[[Any, str], IdIndex | None] = _no_index
    row_model: Callable[[Any], Any] = _itself


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
