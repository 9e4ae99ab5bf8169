"""Which library a model is of, and what `wrap` finds out about it before changing it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ..config import SelectiveConfig
from ..knowledge.adaptor import Adaptor
from ..regularizer.uncertainty import UNCERTAINTIES
from ..scores.ids import IdIndex
from ..training.rows import Features, TrainingRows
from .augmented import Augmentation


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


def dropouts(model: nn.Module) -> list[_DropoutNd]:
    """Return the dropout modules with a positive rate."""
    return [module for module in model.modules() if isinstance(module, _DropoutNd) and module.p > 0]


def dropout_problems(model: nn.Module, config: SelectiveConfig, argument: str) -> list[str]:
    """Say that MC-dropout needs dropout; `argument` is how the library's models are given some."""
    if UNCERTAINTIES.class_of(config.uncertainty).source != "dropout" or dropouts(model):
        return []
    return [
        f"uncertainty={config.uncertainty!r} needs dropout and the model has none. Build it with {argument}=0.1 or "
        "so, or use uncertainty='entropy'."
    ]


def head_of(head: object, task: int) -> nn.Module | None:
    """Return the layer whose input is the logit of an output, None if `head`, where a model keeps it, has none."""
    if isinstance(head, nn.ModuleList):
        return head[task]
    return head if isinstance(head, nn.Module) else None


# The library's base class of models, and our module that knows the library. Models are recognised by name, and the
# module is imported for its own models only: using one library never imports the other.
_MODULES = {
    ("deepctr_torch.models.basemodel", "BaseModel"): "deepctr.mixin",
    ("fuxictr.pytorch.models.rank_model", "BaseModel"): "fuxictr.mixin",
}


def embeddings_named(model: nn.Module, name: str) -> list[nn.Embedding]:
    """Return the embeddings under a name in any dictionary of modules of a model, each once."""
    dictionaries = [module for module in model.modules() if isinstance(module, nn.ModuleDict)]
    found = [table[name] for table in dictionaries if name in table]
    return [module for module in dict.fromkeys(found) if isinstance(module, nn.Embedding)]


class Backend:
    """A CTR library as the rest of the package sees it; one object for each library.

    Attributes
    ----------
    mixin : type
        Put before a model's class by `wrap`; derives from `WrappedMixin` and from `loss_mixin`.
    augment_mixin : type
        Put before a model's class by `augment`; derives from `AugmentMixin`.
    loss_mixin : type
        Put before a model's class where a loss is added; derives from `StepLossMixin` and holds the seams of the
        library's `fit`.
    draws_apart : bool
        Whether dropout of extra rows draws from a generator of the session's own.
    rows_run_alone : bool
        Whether rows that may not share the batch's pass run without the batch beside them.
    inputs_hold_labels : bool
        Whether what `fit` takes as inputs has the labels in it.
    """

    mixin: type
    augment_mixin: type
    loss_mixin: type
    draws_apart: bool = False
    rows_run_alone: bool = False
    inputs_hold_labels: bool = False

    # ------------------------------------------------------------------ of a plain model

    def find_problems(
        self,
        model: Any,
        user: str,
        item: str,
        item_features: Sequence[str] | None,
        task: int | None,
        config: SelectiveConfig,
    ) -> tuple[list[str], Features | None]:
        """Return the reasons why the model cannot be wrapped, and its `Features`, None if there are reasons."""
        raise NotImplementedError

    def id_index(self, model: Any, feature: str) -> IdIndex | None:
        """Return the mapping of raw ids to codes if the library has kept one, else None."""
        return None

    def row_model(self, model: Any) -> Any:
        """Return a model that is called with rows, (n_rows, width), laid out as its `feature_index` says."""
        return model

    def embeddings(self, model: Any, feature: str) -> list[nn.Embedding]:
        """Return the embedding modules that the feature's ids are looked up in."""
        return embeddings_named(model, feature)

    def augmentation(self, model: Any, adaptor: Adaptor, user: str, item: str) -> tuple[list[str], Augmentation | None]:
        """Return everything that speaks against an adaptor, and the `Augmentation`, None when there is something."""
        raise NotImplementedError

    def training_problems(self, model: Any) -> list[str]:
        """Say why nothing can be added to the model's training."""
        raise NotImplementedError

    def codes(self, model: Any, inputs: Any, feature: str) -> Tensor:
        """Return a feature's codes, (n_rows,) int64, of what the model's forward takes."""
        raise NotImplementedError

    def batches(self, model: Any, x: Any, batch_size: int) -> tuple[Callable[[], Iterator[Any]], int | None]:
        """Return what goes once over the inputs that `fit` takes, in batches that the model's forward takes.

        Also their number, None where it is not known. The order is that of torch's global random numbers.
        """
        raise NotImplementedError

    def taken(self, model: Any, x: Any, y: Any, user: str, item: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (n,) user and (n,) item codes of the positive rows among what `fit` takes."""
        raise NotImplementedError

    # ------------------------------------------------------------------ of a wrapped model

    def training_rows(self, model: Any, arguments: dict[str, Any]) -> TrainingRows:
        """Return the training rows in the arguments of a call of `fit`."""
        raise NotImplementedError

    def rows_behind(
        self,
        model: Any,
        arguments: Mapping[str, Any],
        features: Features,
        task: int,
        wanted: Mapping[str, np.ndarray],
    ) -> TrainingRows:
        """Return the training rows of a model that need not be wrapped.

        Parameters
        ----------
        model : Any
            Of the library.
        arguments : mapping
            Of a call of its `fit`.
        features : Features
            How its rows are laid out.
        task : int
            Which label marks positives.
        wanted : mapping of str to ndarray
            For the user and the item feature, the ascending codes whose latest rows will be asked for.
        """
        raise NotImplementedError

    def rows(self, model: Any, inputs: Any) -> Tensor:
        """Return the rows of what the model's forward takes, (n_rows, width)."""
        raise NotImplementedError

    def inputs(self, model: Any, rows: Tensor) -> Any:
        """Return what the model's forward takes for rows, (n_rows, width)."""
        raise NotImplementedError

    def joined(self, model: Any, inputs: Any, rows: Tensor) -> Any:
        """Return what the model's forward takes for `inputs` with rows, (n_rows, width), behind them."""
        raise NotImplementedError

    def outputs(self, model: Any, output: Any) -> Tensor:
        """Return the outputs of all tasks, (n_rows, n_outputs), from what the model's forward gives."""
        raise NotImplementedError

    def first(self, output: Any, n: int) -> Any:
        """Return the first n rows of what the model's forward gives."""
        raise NotImplementedError

    def head(self, model: Any, task: int) -> nn.Module | None:
        """Return the layer whose input is the task's logit, None if there is no such layer."""
        raise NotImplementedError

    def shares_forward(self, model: Any, has_batch_norm: bool) -> bool | None:
        """Whether extra rows may go through the batch's own pass; None if only `finds_row_wise` can tell."""
        raise NotImplementedError

    def finds_row_wise(self, model: Any, batch: Tensor, rows: Tensor, head: nn.Module | None) -> bool:
        """Try out on rows of a batch, and extra rows behind them, whether the extra rows may share its pass."""
        raise NotImplementedError

    def untouched(self, model: Any) -> AbstractContextManager[None]:
        """Undo, on exit, what a forward pass changes besides returning its output."""
        raise NotImplementedError


def backend_of(model: object) -> Backend | None:
    """Return the backend of a model's library; None if the library is not known."""
    for cls in type(model).__mro__:
        name = _MODULES.get((cls.__module__, cls.__name__))
        if name is not None:
            backend: Backend = importlib.import_module(f".{name}", __package__).BACKEND
            return backend
    return None


def row_model(model: Any) -> Any:
    """Return a model that is called with rows, (n_rows, width); a model of any other library is returned as it is."""
    backend = backend_of(model)
    return model if backend is None else backend.row_model(model)
