"""`wrap` and `unwrap`: put the regularizer on a live model, and take it off again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from .backends.augment import is_augmented, unaugment
from .backends.base import backend_of
from .backends.optimizer import leave_optimizer, sync_optimizer
from .backends.step_losses import mixed_class, plain_class, unmixed_class
from .backends.wrapped import WrappedMixin
from .config import SelectiveConfig
from .errors import AlreadyWrappedError, CoverageWarning, NotWrappedError, SLLMRError, UnsupportedModelError, WrapError
from .handle import Handle, check_gate
from .scores.ids import IdIndex
from .scores.table import ScoreTable
from .training.rows import Features, encode_item_table
from .training.saved import Recipe

Result = TypeVar("Result")
Model = TypeVar("Model", bound=Any)  # a model of a CTR library; these have no types


def wrap(
    model: Model,
    scores: str | Path | pd.DataFrame | ScoreTable,
    *,
    user: str,
    item: str,
    item_features: Sequence[str] | None = None,
    item_table: pd.DataFrame | None = None,
    user_index: IdIndex | None = None,
    item_index: IdIndex | None = None,
    config: SelectiveConfig | None = None,
    task: int | None = None,
) -> Model:
    """Make `model.fit` train with the LLM-guided regularizer, before or after `compile`.

    The model is changed in place: its class becomes a subclass of its own class and it gains the attribute
    `sllmr`. Parameters, ``state_dict`` keys and predictions do not change. Everything is checked before the
    model is changed.

    Parameters
    ----------
    model : deepctr_torch or fuxictr.pytorch model
        Any model of DeepCTR-Torch 0.3 or FuxiCTR 2.3, or of a class that derives from their `BaseModel`.
    scores : path, pandas.DataFrame or ScoreTable
        LLM scores: ``user_id, item_id, score`` in [0, 1] and optionally ``kind``; see `ScoreTable.read`.
    user, item : str
        Names of the model's features that hold the ids.
    item_features : sequence of str, optional
        All features that change with the candidate item. Default: `item`; for DIN and DIEN also the features whose
        history they attend to; with FuxiCTR also those whose ``source`` is the item's.
    item_table : pandas.DataFrame, optional
        One row per item: its raw id (column `item`) and its other item-side features, encoded as in the model's
        input. Needed for items that do not occur in the training rows, if there are such features.
    user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
        Maps raw ids of the score table to the codes in the model's input. Default: with FuxiCTR its own vocabulary, if
        ``feature_vocab.json`` is in the folder of the model's `feature_map`; else the ids are the codes.
    config : SelectiveConfig, optional
        Settings of the regularizer. The default is ``SelectiveConfig()``.
    task : int, optional
        Required for multi-task models: index of the output that the LLM's scores refer to.

    Returns
    -------
    model
        The same object. ``model.sllmr.status()`` reports its settings and what it has done.

    Raises
    ------
    AlreadyWrappedError
        If the model is already wrapped.
    UnsupportedModelError
        If the model belongs to neither library.
    WrapError
        Listing every reason why this model cannot be wrapped like this.
    ScoreTableError, CoverageError
        If the scores cannot be read, or none of them can be used with this model.

    Examples
    --------
    >>> model = wrap(model, "llm_scores.parquet", user="user_id", item="item_id")  # doctest: +SKIP
    >>> model.fit(x, y, batch_size=256, epochs=3)  # doctest: +SKIP
    """
    if isinstance(model, WrappedMixin):
        raise AlreadyWrappedError(
            ["the model is wrapped already. Change it with model.sllmr.configure(), or call unwrap(model) first."]
        )
    backend = backend_of(model)
    if backend is None:
        raise UnsupportedModelError(
            [
                f"a {type(model).__module__}.{type(model).__name__} is neither a DeepCTR-Torch nor a FuxiCTR model. "
                "Pass a deepctr_torch.models model, or one that derives from fuxictr.pytorch.models.BaseModel."
            ]
        )
    config = config if config is not None else SelectiveConfig()
    if item_features is not None and not isinstance(item_features, str):
        item_features = [name.item() if isinstance(name, np.generic) else name for name in item_features]
    task = task.item() if isinstance(task, np.generic) else task
    faults = _Faults()
    faults.problems += _type_problems(item_features, task, config)
    faults.raise_any()
    problems, features = backend.find_problems(model, user, item, item_features, task, config)
    faults.problems += problems
    if isinstance(scores, ScoreTable) and (user_index is not None or (item_index is not None and item_table is None)):
        faults.problems.append(
            "scores is a ScoreTable, whose ids are codes already. Give the indexes to ScoreTable.read instead."
        )
    if features is not None and not isinstance(scores, ScoreTable):
        user_index = backend.id_index(model, user) if user_index is None else user_index
        item_index = backend.id_index(model, item) if item_index is None else item_index
    table = faults.collect(_read, scores, user_index, item_index)
    item_values = None
    if table is not None and features is not None:
        faults.collect(check_gate, config, table, features.regression)
    if table is not None and features is not None:
        _warn_of_codes_from_one(table, features)
        table = faults.collect(table.within, features.n_users, features.n_items)
    if item_table is not None and features is not None:
        item_values = faults.collect(encode_item_table, item_table, features, item_index)
    faults.raise_any()
    assert features is not None
    assert table is not None
    table.coverage.warn_if_low()
    plain = plain_class(model)
    handle = Handle(
        plain.__name__,
        features,
        table,
        config,
        task=task or 0,
        item_values=item_values,
        shapes={name: tensor.shape for name, tensor in model.state_dict().items()},
        user_index=user_index,
        item_index=item_index,
    )
    handle.to_device(lambda tensor: tensor.to(model.device))
    model.__dict__["sllmr"] = handle
    model.__class__ = mixed_class(backend.mixin, plain)
    sync_optimizer(model)
    return model


def load(model: Model, directory: str | Path, *, scores: ScoreTable | None = None) -> Model:
    """Wrap a model as the one was that called ``model.sllmr.save(directory)``; nothing else is needed.

    Settings, gate, table, item table, counts and the number of trainings are those that were saved, so training goes on
    as if it had never stopped. The weights are the model's own: ``model.load_state_dict(...)``, before or after this.

    Parameters
    ----------
    model : deepctr_torch or fuxictr.pytorch model
        Built like the one that was saved: the same class and features.
    directory : path
        The folder.
    scores : ScoreTable, optional
        Replaces the table that was saved, for instance if its folder has moved
        (``ScoreTable.open(folder)``).

    Returns
    -------
    model
        The same object, wrapped.

    Raises
    ------
    AlreadyWrappedError
        If it is wrapped.
    WrapError
        If its class or its features differ.
    SLLMRError
        If a file is missing or has been altered.

    Examples
    --------
    >>> model.sllmr.save("runs/mine/sllmr")  # doctest: +SKIP
    >>> model = load(DeepFM(columns, columns), "runs/mine/sllmr")  # doctest: +SKIP
    """
    folder = Path(directory)
    recipe = Recipe.read(folder, scores)
    differences = recipe.differences(
        plain_class(model).__name__, getattr(model, "feature_index", recipe.features.layout)
    )
    if differences and not is_wrapped(model):
        raise WrapError(differences)
    features = recipe.features
    model = wrap(
        model,
        recipe.table,
        user=features.user,
        item=features.item,
        item_features=list(features.item_features),
        task=recipe.task,
    )
    handle: Handle = model.sllmr
    handle.item_values, handle.n_fits = recipe.item_values, recipe.n_fits
    handle.history_length, handle.popularity = (recipe.counts.get(name) for name in ("history_length", "popularity"))
    handle.load(folder)
    return model


def unwrap(model: Model) -> Model:
    """Give the plain model back, in place: its own class, no `sllmr`, no gate in the optimizer.

    An augmented model keeps its adaptor, which its predictions need; called on a model that is augmented only, this
    is `unaugment`.

    Parameters
    ----------
    model : wrapped model
        Trained or not. What it has learnt stays.

    Returns
    -------
    model
        The same object.

    Raises
    ------
    NotWrappedError
        If the model is not wrapped.
    SLLMRError
        If it is training at this moment.
    """
    if is_augmented(model) and not is_wrapped(model):
        return unaugment(model)
    if _require_wrapped(model, "unwrap").session is not None:
        raise SLLMRError("unwrap was called while the model trains. Call it after fit, or use disabled(model).")
    leave_optimizer(model)
    model.__class__ = unmixed_class(model)
    del model.__dict__["sllmr"]
    return model


@contextmanager
def disabled(model: Model) -> Iterator[Model]:
    """Let a wrapped model train as the plain one within a ``with`` block.

    Parameters
    ----------
    model : wrapped model
        Stays wrapped.

    Raises
    ------
    NotWrappedError
        If the model is not wrapped.
    """
    handle = _require_wrapped(model, "disabled")
    before, handle.enabled = handle.enabled, False
    try:
        yield model
    finally:
        handle.enabled = before


def is_wrapped(model: object) -> bool:
    """Whether `wrap` has been called on a model and `unwrap` has not."""
    return isinstance(model, WrappedMixin)


def _type_problems(item_features: object, task: object, config: object) -> list[str]:
    """Return what is wrong with the types of the arguments, one by one."""
    problems = []
    if isinstance(item_features, str):
        problems.append(f"item_features is the string {item_features!r}. Pass a list of feature names.")
    if task is not None and not isinstance(task, int):
        problems.append(f"task={task!r} is not an index. Pass the number of the output, counted from 0.")
    if not isinstance(config, SelectiveConfig):
        problems.append(
            f"config is a {type(config).__name__}. Pass a SelectiveConfig, e.g. SelectiveConfig.from_dict(...)."
        )
    return problems


def _warn_of_codes_from_one(table: ScoreTable, features: Features) -> None:
    """Warn if ids run from 1 to N and codes from 0 to N - 1: every id would be taken for the code of the next one."""
    for side, (least, greatest), size in (
        ("user", table.user_range, features.n_users),
        ("item", table.item_range, features.n_items),
    ):
        if least > 0 and greatest == size:
            warnings.warn(
                f"the score table's {side} ids run from {least} to {greatest}, the model's codes from 0 to {size - 1}. "
                f"If the ids count from 1, every {side} gets the scores of another: pass {side}_index="
                f"{{raw id: code}}, for instance {{id: id - 1 for id in range(1, {size + 1})}}.",
                CoverageWarning,
                stacklevel=3,
            )


class _Faults:
    """Collects the reasons why a model cannot be wrapped, so that they are reported together."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._errors: list[SLLMRError] = []

    def collect(self, action: Callable[..., Result], *arguments: Any) -> Result | None:
        """Return what an action returns; None, with its error noted, if it fails."""
        try:
            return action(*arguments)
        except SLLMRError as error:
            self._errors.append(error)
            self.problems += error.problems if isinstance(error, WrapError) else [str(error)]
            return None

    def raise_any(self) -> None:
        """Raise what was collected: a single error as it is, several as one `WrapError`."""
        if len(self.problems) == 1 and self._errors:
            raise self._errors[0]
        if self.problems:
            raise WrapError(self.problems)


def _read(scores: Any, user_index: IdIndex | None, item_index: IdIndex | None) -> ScoreTable:
    if isinstance(scores, ScoreTable):
        return scores
    return ScoreTable.read(scores, user_index=user_index, item_index=item_index)


def _require_wrapped(model: Any, operation: str) -> Handle:
    if not isinstance(model, WrappedMixin):
        raise NotWrappedError(
            f"{operation} needs a wrapped model, got a plain {type(model).__name__}. Call wrap first."
        )
    return model.sllmr
