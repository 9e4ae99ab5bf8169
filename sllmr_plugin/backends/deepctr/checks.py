"""What has to be known of a DeepCTR-Torch model before `wrap` or `augment` changes it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from ...config import SelectiveConfig
from ...errors import DataError, SLLMRError
from ...training.rows import Features
from ..base import dropout_problems, embeddings_named, head_of, name_problems, task_problems

FLOAT32_IDS = 2**24


def version_problem() -> str | None:
    """Say what is wrong with the DeepCTR-Torch that is imported, or None."""
    version = getattr(sys.modules.get("deepctr_torch"), "__version__", "0.3.0")
    release = tuple(int(part) for part in version.split(".")[:2])
    if release == (0, 3):
        return None
    why = "it needs TensorFlow for its callbacks" if release < (0, 3) else "its fit has not been checked yet"
    return f"deepctr-torch {version} is not supported: {why}. Run `pip install 'deepctr-torch==0.3.*'`."


def feature_columns(model: nn.Module) -> dict[str, Any]:
    """Return the model's feature columns by name, from all places where classes keep them."""
    columns: dict[str, Any] = {}
    sources = (
        getattr(model, "dnn_feature_columns", None) or [],
        *(
            getattr(module, attribute, None) or []
            for module in model.modules()
            for attribute in ("sparse_feature_columns", "varlen_sparse_feature_columns", "dense_feature_columns")
        ),
    )
    for source in sources:
        for column in source:
            columns.setdefault(column.name, column)
    return columns


def embeddings_of(model: nn.Module, feature: str) -> list[nn.Embedding]:
    """Return the embeddings in which a model looks up a feature's ids."""
    if _derives(model, "MLR"):  # BaseModel makes tables for it that its linear parts do not use
        return []
    name = getattr(feature_columns(model).get(feature), "embedding_name", feature)
    if not _derives(model, "ONN"):
        return embeddings_named(model, name)
    # A table for every pair of features takes their place.
    tables: Any = model.second_order_embedding_dict
    pairs = [(key.split("+"), pair) for key, pair in tables.items()]
    sides = [(pair.emb1 if names[0] == name else pair.emb2) for names, pair in pairs if name in names]
    return [module for module in sides if isinstance(module, nn.Embedding)]


def default_item_features(model: nn.Module, item: str) -> list[str]:
    """Return `item` and, for DIN and DIEN, the candidate's features that their histories are compared with."""
    attended = getattr(model, "item_features" if _derives(model, "DIEN") else "history_feature_list", None)
    return list(dict.fromkeys([item, *(attended or [])]))


def _derives(model: object, name: str) -> bool:
    return any(cls.__name__ == name and cls.__module__.startswith("deepctr_torch.") for cls in type(model).__mro__)


def shares_forward(plain: type, model: nn.Module, has_batch_norm: bool) -> bool:
    """Whether extra rows may go through the batch's own forward pass.

    The library's models treat rows one by one up to batch statistics, which `statistics_of_first` protects. DIEN does
    not: its auxiliary loss averages over all rows, and it drops rows with an empty history before it normalises.
    Nothing is known of a forward that a user has written.
    """
    if _derives(model, "DIEN") and (has_batch_norm or getattr(model, "use_negsampling", False)):
        return False
    return plain.forward.__module__.startswith("deepctr_torch.models.")  # type: ignore[attr-defined]


def training_problems(model: Any) -> list[str]:
    """Say why nothing can be added to a model's training."""
    problems = [problem for problem in (version_problem(),) if problem]
    if getattr(model, "gpus", None):
        problems.append(
            f"gpus={model.gpus!r} makes DeepCTR-Torch train through DataParallel, whose replicas lose what they store. "
            "Build the model with gpus=None and device='cuda:0'; for several GPUs run the script with torchrun, "
            "one process per GPU (docs/scale_processes.md)."
        )
    return problems


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
    """
    problems = training_problems(model)
    layout = {name: tuple(span) for name, span in model.feature_index.items()}
    problems += name_problems(layout, user, item, item_features)
    columns = feature_columns(model)
    sizes = {}
    for name in (user, item):
        column = columns.get(name)
        if name not in layout:
            continue
        if column is None or not hasattr(column, "vocabulary_size") or layout[name][1] - layout[name][0] != 1:
            problems.append(f"feature {name!r} is not a SparseFeat. Name the feature that carries the id.")
        else:
            sizes[name] = column.vocabulary_size
    problems += [
        f"feature {name!r} has {column.vocabulary_size} ids, but the input matrix is float32, which holds integers "
        f"exactly only below {FLOAT32_IDS}: larger ids collide. Reduce its vocabulary, for instance by hashing."
        for name, column in columns.items()
        if getattr(column, "vocabulary_size", 0) > FLOAT32_IDS
    ]
    problems += _task_problems(model, task)
    problems += dropout_problems(model, config, "dnn_dropout")
    if problems:
        return problems, None
    features = list(dict.fromkeys([item, *(item_features or default_item_features(model, item))]))
    for name in list(features):
        length = getattr(columns.get(name), "length_name", None)
        if length is not None and length not in features:
            features.append(length)
    coded = [name for name in features if name != item and hasattr(columns.get(name), "vocabulary_size")]
    vocabularies = {name: columns[name].vocabulary_size for name in coded}
    regression = _kind(model, task) == "regression"
    return [], Features(
        user, item, tuple(features), layout, sizes[user], sizes[item], regression, vocabularies=vocabularies
    )


def augment_problems(model: Any, user: str, item: str, widths: Mapping[str, int]) -> list[str]:
    """Return every reason why an adaptor cannot fill dense columns, name -> dimension, of a model."""
    problems = [problem for problem in (version_problem(),) if problem]
    if getattr(model, "gpus", None):
        problems.append(
            f"gpus={model.gpus!r} makes DeepCTR-Torch train through DataParallel, whose replicas do not share an "
            "adaptor. Build the model with gpus=None and device='cuda:0'."
        )
    if user == item:
        problems.append(f"user and item are both {user!r}. Name the user id feature and the item id feature.")
    layout, columns = model.feature_index, feature_columns(model)
    for name in dict.fromkeys((user, item)):
        if name not in layout:
            problems.append(f"the model has no feature {name!r}. Its features are {', '.join(layout)}.")
        elif not hasattr(columns.get(name), "vocabulary_size") or layout[name][1] - layout[name][0] != 1:
            problems.append(f"feature {name!r} is not a SparseFeat. Name the feature that carries the id.")
    for name, width in widths.items():
        found = columns.get(name)
        if name not in layout or hasattr(found, "vocabulary_size") or layout[name][1] - layout[name][0] != width:
            problems.append(
                f"the model has no DenseFeat({name!r}, {width}). Build it with the columns of dense_columns(adaptor)."
            )
    return problems


def _task_problems(model: nn.Module, task: int | None) -> list[str]:
    problems = task_problems(getattr(model, "num_tasks", 1), task)
    if problems:
        return problems
    kind = _kind(model, task)
    if kind not in ("binary", "regression"):
        return [
            f"the output is of task={kind!r}; the regularizer needs a probability or a single score. Build it with "
            "task='binary' or task='regression'."
        ]
    return []


def _kind(model: nn.Module, task: int | None) -> str:
    return getattr(prediction_head(model, task or 0), "task", "binary")


def require_compiled(model: Any) -> None:
    """Raise `SLLMRError` if a model has no optimizer or no loss yet."""
    if getattr(model, "optim", None) is None or getattr(model, "loss_func", None) is None:
        raise SLLMRError(
            "the model has no optimizer or no loss yet. Call model.compile('adam', 'binary_crossentropy') before fit, "
            "with 'mse' for task='regression'."
        )


def require_arrays(model: Any, x: Any, y: Any) -> None:
    """Raise `DataError` if training rows are in a form that DeepCTR-Torch fails on: data frames, missing features."""
    if hasattr(x, "columns"):
        raise DataError(
            f"x is a {type(x).__module__.partition('.')[0]} {type(x).__name__}, and DeepCTR-Torch takes a dict of "
            "arrays. Pass {name: x[name].to_numpy() for name in model.feature_index}."
        )
    if isinstance(x, Mapping):
        missing = [name for name in model.feature_index if name not in x]
        if missing:
            raise DataError(f"x lacks the feature(s) {', '.join(missing)} of the model. Add an array for each.")
    if not isinstance(y, np.ndarray):
        raise DataError(
            f"y is a {type(y).__module__.partition('.')[0]} {type(y).__name__}, and DeepCTR-Torch takes an array. Pass "
            "numpy.asarray(y)."
        )


def prediction_head(model: nn.Module, task: int) -> nn.Module | None:
    """Return the layer whose input is the logit of an output, None if there is no such layer."""
    return head_of(getattr(model, "out", None), task)
