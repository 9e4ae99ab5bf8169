"""Every model class of DeepCTR-Torch on one small data set, with dropout and batch normalisation on."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from deepctr_torch import models
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat

from sllmr_plugin import SelectiveConfig, wrap

N_USERS, N_ITEMS, N_CATEGORIES, HISTORY = 30, 24, 4, 4
DIM = 4


@dataclass(frozen=True)
class Backbone:
    """How to build a model, and what wrap must be told about it."""

    name: str
    build: Callable[..., torch.nn.Module]
    task: int | None = None


@functools.cache
def samples(n_rows: int = 240) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return inputs by name and labels; positives favour low item codes, and user 1 has no negative."""
    rng = np.random.default_rng(7)
    user = rng.integers(1, N_USERS + 1, n_rows)
    item = rng.integers(1, N_ITEMS + 1, n_rows)
    history = rng.integers(1, N_ITEMS + 1, (n_rows, HISTORY))
    length = rng.integers(1, HISTORY + 1, n_rows)
    history[np.arange(HISTORY) >= length[:, None]] = 0
    x = {
        "user_id": user,
        "item_id": item,
        "category": 1 + item % N_CATEGORIES,
        "gender": user % 2,
        "hour": rng.integers(0, 6, n_rows),
        "price": (item / N_ITEMS).astype(np.float32),
        "hist_item_id": history,
        "hist_category": np.where(history > 0, 1 + history % N_CATEGORIES, 0),
        "neg_hist_item_id": rng.integers(1, N_ITEMS + 1, (n_rows, HISTORY)),
        "neg_hist_category": rng.integers(1, N_CATEGORIES + 1, (n_rows, HISTORY)),
        "seq_length": length,
    }
    y = (rng.random(n_rows) < 0.85 - 0.7 * item / N_ITEMS).astype(np.float32)
    y[:2] = 0, 1  # every batch order keeps both classes in the data
    return x, y


def score_frame() -> pd.DataFrame:
    """Return LLM scores that contradict the labels: high item codes first, in pairs that are no training row."""
    x, _ = samples()
    seen = set(zip(x["user_id"].tolist(), x["item_id"].tolist(), strict=True))
    rng = np.random.default_rng(11)
    rows = []
    for user in range(1, N_USERS + 1):
        for item in rng.permutation(np.arange(1, N_ITEMS + 1))[:10]:
            if (user, int(item)) not in seen:
                rows.append((user, int(item), item / (N_ITEMS + 1), "candidate"))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "score", "kind"])


def _sparse(name: str, size: int, embedding: str | None = None) -> SparseFeat:
    return SparseFeat(name, size, embedding_dim=DIM, embedding_name=embedding)


def _columns(dense: bool) -> list:
    columns = [
        _sparse("user_id", N_USERS + 1),
        _sparse("item_id", N_ITEMS + 1),
        _sparse("category", N_CATEGORIES + 1),
        _sparse("gender", 2),
        _sparse("hour", 6),
    ]
    return [*columns, DenseFeat("price", 1)] if dense else columns


def _history(negatives: bool) -> list:
    sequences = [("hist_item_id", N_ITEMS, "item_id"), ("hist_category", N_CATEGORIES, "category")]
    if negatives:
        sequences += [("neg_" + name, size, embedding) for name, size, embedding in sequences]
    return [
        VarLenSparseFeat(_sparse(name, size + 1, embedding), HISTORY, length_name="seq_length")
        for name, size, embedding in sequences
    ]


def _two_sided(name: str, *, dense: bool = True, **options) -> Backbone:
    def build(**more):
        columns = _columns(dense)
        return getattr(models, name)(columns, columns, **options, **more)

    return Backbone(name, build)


def _one_sided(
    name: str, *, label: str | None = None, task: int | None = None, dense: bool = True, **options
) -> Backbone:
    def build(**more):
        return getattr(models, name)(_columns(dense), **options, **more)

    return Backbone(label or name, build, task)


def _sequential(name: str, label: str, *, negatives: bool = False, **options) -> Backbone:
    def build(**more):
        columns = _columns(dense=True) + _history(negatives)
        return getattr(models, name)(columns, ["item_id", "category"], **options, **more)

    return Backbone(label, build)


_DNN = {"dnn_hidden_units": (8, 4), "dnn_dropout": 0.2, "init_std": 0.01}
_BN = {**_DNN, "dnn_use_bn": True}
_MULTI = {
    "task_types": ["binary", "binary"],
    "task_names": ["click", "buy"],
    "dnn_dropout": 0.2,
    "dnn_use_bn": True,
    "init_std": 0.01,
}

LOADER = "batches sliced whole"  # What `status` says of the loader: in DeepCTR-Torch ours takes the place of its own.
L2 = "one pass over each table"  # What it says of the L2 penalty: likewise.
BACKBONES = [
    _two_sided("WDL", **_BN),
    _two_sided("DeepFM", **_BN),
    _two_sided("xDeepFM", cin_layer_size=(8, 4), **_BN),
    _two_sided("AFM", dense=False, afm_dropout=0.2, init_std=0.01),
    _two_sided("DIFM", dense=False, att_head_num=2, **_BN),
    _two_sided("IFM", dense=False, **_BN),
    _two_sided("AutoInt", att_head_num=2, **_BN),
    _two_sided("DCN", cross_parameterization="vector", **_BN),
    Backbone("DCNv2", _two_sided("DCN", cross_parameterization="matrix", **_BN).build),
    _two_sided("DCNMix", low_rank=4, num_experts=2, **_BN),
    _two_sided("NFM", **{**_DNN, "bi_dropout": 0.2}),
    _two_sided("ONN", **_BN),
    _one_sided("PNN", **_DNN),
    _two_sided("CCPM", dense=False, conv_kernel_width=(3, 2), conv_filters=(2, 2), **_BN),
    _two_sided("FiBiNET", **_DNN),
    _one_sided("MLR", init_std=0.01),
    _two_sided("AFN", dense=False, ltl_hidden_size=8, afn_dnn_hidden_units=(8, 4), dnn_dropout=0.2, init_std=0.01),
    _sequential("DIN", "DIN", att_hidden_size=(8, 4), **_BN),
    _sequential("DIEN", "DIEN", att_hidden_units=(8, 4), dnn_hidden_units=(8, 4), dnn_dropout=0.2, init_std=0.01),
    _sequential(
        "DIEN",
        "DIEN_negsampling",
        negatives=True,
        use_negsampling=True,
        use_bn=True,
        gru_type="AUGRU",
        att_hidden_units=(8, 4),
        dnn_hidden_units=(8, 4),
        dnn_dropout=0.2,
        init_std=0.01,
    ),
    _one_sided("SharedBottom", task=1, bottom_dnn_hidden_units=(8,), tower_dnn_hidden_units=(4,), **_MULTI),
    _one_sided("ESMM", label="ESMM_ctr", task=0, tower_dnn_hidden_units=(8,), **_MULTI),
    _one_sided("ESMM", label="ESMM_ctcvr", task=1, tower_dnn_hidden_units=(8,), **_MULTI),
    _one_sided(
        "MMOE",
        task=0,
        num_experts=2,
        expert_dnn_hidden_units=(8,),
        gate_dnn_hidden_units=(4,),
        tower_dnn_hidden_units=(4,),
        **_MULTI,
    ),
    _one_sided(
        "PLE",
        task=1,
        expert_dnn_hidden_units=(8,),
        gate_dnn_hidden_units=(4,),
        tower_dnn_hidden_units=(4,),
        **_MULTI,
    ),
]
NAMES = [backbone.name for backbone in BACKBONES]


def build(backbone: Backbone, **options) -> torch.nn.Module:
    """Build a plain model; its constructor seeds torch."""
    with contextlib.redirect_stdout(io.StringIO()):
        return backbone.build(**options)


def inputs(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return fresh arrays of the features that a model has (`fit` and `predict` reshape what they are given)."""
    x, _ = samples()
    return {name: x[name].copy() for name in model.feature_index}


def labels(backbone: Backbone) -> np.ndarray:
    """Return labels, two columns for a multi-task model."""
    _, y = samples()
    if backbone.task is None:
        return y.copy()
    second = y * (samples()[0]["hour"] > 1)
    return np.stack([y, second], axis=1).astype(np.float32)


def compile_model(
    backbone: Backbone, model: torch.nn.Module, learning_rate: float = 0.01, metrics=("logloss",)
) -> None:
    """Compile with Adam."""
    loss = "binary_crossentropy" if backbone.task is None else ["binary_crossentropy"] * 2
    if getattr(model.out, "task", None) == "regression":
        loss, metrics = "mse", ("mse",)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    model.compile(optimizer, loss, metrics=list(metrics))


def item_features(model: torch.nn.Module) -> list[str]:
    """Return the item-side features of the data that a model has."""
    return [name for name in ("item_id", "category", "price") if name in model.feature_index]


def wrapped(backbone: Backbone, model: torch.nn.Module, config: SelectiveConfig, scores=None) -> torch.nn.Module:
    """Wrap with the shared score table."""
    frame = score_frame() if scores is None else scores
    return wrap(
        model,
        frame,
        user="user_id",
        item="item_id",
        item_features=item_features(model),
        config=config,
        task=backbone.task,
    )


def fit(backbone: Backbone, model: torch.nn.Module, epochs: int = 2, validate: bool = True, **options):
    """Train with dropout's random numbers fixed; the validation data are the training data."""
    torch.manual_seed(3)
    x, y = inputs(model), labels(backbone)
    options.setdefault("verbose", 0)
    if validate:
        options["validation_data"] = (inputs(model), labels(backbone))
    with contextlib.redirect_stdout(io.StringIO()):
        return model.fit(x, y, batch_size=48, epochs=epochs, **options)


def trained(backbone: Backbone, config: SelectiveConfig, **switches: bool):
    """Wrap a model, set attributes of its handle, train it."""
    model = wrapped(backbone, build(backbone), config)
    compile_model(backbone, model)
    for name, value in switches.items():
        setattr(model.sllmr, name, value)
    fit(backbone, model)
    return model


def predict(model: torch.nn.Module, rows: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """Predict, (n_rows, n_outputs); the shared samples by default."""
    return model.predict(inputs(model) if rows is None else rows, 64)


def batch(model: torch.nn.Module, rows: dict[str, np.ndarray] | None = None) -> torch.Tensor:
    """Return rows as the input matrix of a step."""
    columns = (inputs(model) if rows is None else rows).values()
    return torch.from_numpy(np.concatenate([v.reshape(len(v), -1) for v in columns], axis=1)).float()


def open_session(backbone: Backbone, model: torch.nn.Module):
    """Return a session as `fit` opens one."""
    x = list(inputs(model).values())
    return model._open_session({"x": x, "y": labels(backbone), "validation_split": 0.0, "validation_data": None})


def output(result: torch.Tensor) -> torch.Tensor:
    """Return what a forward pass gives as one tensor."""
    return result
