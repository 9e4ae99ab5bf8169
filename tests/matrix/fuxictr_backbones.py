"""FuxiCTR models on the small data set of `backbones`, with dropout and batch normalisation on.

The zoo's three, and models as users write them: one with a step and a loss of its own, one that is not row-wise, one
with two tasks. The functions are those of `backbones`.
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import MultiTaskModel
from fuxictr.pytorch.torch_utils import seed_everything
from torch import nn

from sllmr_plugin import wrap
from sllmr_plugin.zoo.fuxictr_models import DIN, DCNv2, DeepFM

from . import backbones as shared

LABELS = ("click", "buy")
_SIZES = {
    "user_id": shared.N_USERS,
    "item_id": shared.N_ITEMS,
    "category": shared.N_CATEGORIES,
    "gender": 2,
    "hour": 6,
}


class OwnStep(DeepFM):
    """Overrides what FuxiCTR's models override: the step and the task's loss."""

    def train_step(self, batch_data):
        self.optimizer.zero_grad()
        output = self.forward(batch_data)
        loss = self.compute_loss(output, self.get_labels(batch_data))
        loss.backward()
        nn.utils.clip_grad_value_(self.parameters(), 1.0)
        self.optimizer.step()
        return loss

    def add_loss(self, return_dict, y_true):
        return super().add_loss(return_dict, y_true) + 0.01 * return_dict["y_pred"].mean()


class Centred(DeepFM):
    """Looks at the whole batch, so that no row may be added to it."""

    def logit(self, X):
        logit = super().logit(X)
        return logit - 0.5 * logit.mean()


class TwoTasks(MultiTaskModel):
    """A shared bottom with two towers."""

    def __init__(self, feature_map, embedding_dim=4, **kwargs):
        options = {key: kwargs.pop(key) for key in ("optimizer", "loss", "learning_rate")}
        kwargs.pop("hidden_units"), kwargs.pop("net_dropout"), kwargs.pop("batch_norm")
        super().__init__(feature_map, num_tasks=2, task="binary_classification", **kwargs)
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        width = embedding_dim * feature_map.num_fields
        self.bottom = MLP_Block(width, hidden_units=[8], dropout_rates=0.2, batch_norm=True)
        self.towers = nn.ModuleList(MLP_Block(8, output_dim=1, hidden_units=[4]) for _ in LABELS)
        self.compile(options["optimizer"], options["loss"], options["learning_rate"])
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs):
        hidden = self.bottom(self.embedding_layer(self.get_inputs(inputs), flatten_emb=True))
        towers = zip(LABELS, self.output_activation, self.towers, strict=True)
        return {f"{label}_pred": activation(tower(hidden)) for label, activation, tower in towers}


@dataclass(frozen=True)
class Backbone:
    """How to build a model, and what wrap must be told about it."""

    name: str
    build: type
    history: bool = False
    task: int | None = None
    rides_along: bool = True


LOADER = ""  # What `status` says of the loader: FuxiCTR is given batches, so there is none to replace.
L2 = ""  # What it says of the L2 penalty: FuxiCTR has none by default.
BACKBONES = [
    Backbone("FuxiCTR_DeepFM", DeepFM),
    Backbone("FuxiCTR_DCNv2", DCNv2),
    Backbone("FuxiCTR_DIN", DIN, history=True),
    Backbone("FuxiCTR_OwnStep", OwnStep),
    Backbone("FuxiCTR_Centred", Centred, rides_along=False),
    Backbone("FuxiCTR_TwoTasks", TwoTasks, task=1),
]


@functools.cache
def _root() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()  # goes when the interpreter does


@functools.cache
def data_set(history: bool, n_labels: int) -> FeatureMap:
    """Write the shared samples as FuxiCTR keeps them."""
    name = f"small_{history}_{n_labels}"
    folder = Path(_root().name) / name
    folder.mkdir()
    features = {
        feature: {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": size + 1}
        for feature, size in _SIZES.items()
    }
    features["price"] = {"type": "numeric", "source": ""}
    if history:
        sequence = {"type": "sequence", "max_len": shared.HISTORY, "share_embedding": "item_id"}
        features["hist_item_id"] = features["item_id"] | sequence
    labels = list(LABELS[:n_labels])
    schema = {"dataset_id": name, "labels": labels, "features": [{key: spec} for key, spec in features.items()]}
    (folder / "feature_map.json").write_text(json.dumps(schema))
    x, y = shared.samples()
    both = {"click": y, "buy": y * (x["hour"] > 1)}
    np.savez(folder / "rows.npz", **{key: x[key] for key in features}, **{key: both[key] for key in labels})
    feature_map = FeatureMap(name, str(folder))
    feature_map.load(str(folder / "feature_map.json"), {})
    return feature_map


def build(backbone: Backbone, **options) -> nn.Module:
    """Build a plain model, compiled as FuxiCTR has it; the weights of the last epoch are kept."""
    seed_everything(1)
    arguments = {
        "model_id": backbone.name,
        "model_root": _root().name,
        "metrics": ["logloss", "AUC"],
        "verbose": 0,
        "embedding_dim": shared.DIM,
        "hidden_units": [8, 4],
        "net_dropout": 0.2,
        "batch_norm": True,
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "learning_rate": 0.01,
        "save_best_only": False,
        "early_stop_patience": 100,
        "reduce_lr_on_plateau": False,
        "embedding_regularizer": 1e-5,
    }
    feature_map = data_set(backbone.history, 1 if backbone.task is None else 2)
    model = backbone.build(feature_map, **(arguments | options))
    Path(model.model_dir).mkdir(exist_ok=True)
    return model


def compile_model(backbone: Backbone, model: nn.Module, learning_rate: float = 0.01) -> None:
    """Set the learning rate: the constructor has compiled."""
    for group in model.optimizer.param_groups:
        group["lr"] = learning_rate


def generators(model: nn.Module):
    """Return a shuffled training generator and one for validation; both hold the shared samples."""
    path = str(Path(model.feature_map.data_dir) / "rows.npz")
    train, valid = (
        NpzDataLoader(model.feature_map, path, batch_size=48, shuffle=shuffle, num_workers=0)
        for shuffle in (True, False)
    )
    return train, valid


def item_features(model: nn.Module) -> list[str]:
    """Return the item-side features of the data."""
    return ["item_id", "category", "price"]


def wrapped(backbone: Backbone, model: nn.Module, config, scores=None) -> nn.Module:
    """Wrap with the shared score table."""
    return wrap(
        model,
        shared.score_frame() if scores is None else scores,
        user="user_id",
        item="item_id",
        item_features=item_features(model),
        config=config,
        task=backbone.task,
    )


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def fit(backbone: Backbone, model: nn.Module, epochs: int = 2, **_) -> SimpleNamespace:
    """Train with the random numbers fixed; ``history`` holds FuxiCTR's lines and the regularizer's account."""
    train, valid = generators(model)
    handler, root = _Lines(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    torch.manual_seed(3)
    try:
        model.fit(train, epochs=epochs, validation_data=valid)
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    history = {
        "metrics": [line for line in handler.lines if "[Metrics]" in line],
        "loss": [float(line.split()[-1]) for line in handler.lines if line.startswith("Train loss")],
    }
    accounts = model.sllmr.epochs if hasattr(model, "sllmr") else []
    for key in accounts[0] if accounts else ():
        history[key] = [account[key] for account in accounts]
    assert len(history["metrics"]) == epochs * (1 if backbone.task is None else 2)
    return SimpleNamespace(history=history)


def inputs(model: nn.Module) -> dict[str, np.ndarray]:
    """Return fresh arrays of the features that a model has."""
    x, _ = shared.samples()
    return {name: x[name].copy() for name in model.feature_map.features}


def batch(model: nn.Module, rows: dict[str, np.ndarray] | None = None) -> dict[str, torch.Tensor]:
    """Return rows as a FuxiCTR generator gives them: float64 throughout where a number is no integer."""
    rows = inputs(model) if rows is None else rows
    return {name: torch.from_numpy(np.asarray(values, dtype=np.float64)) for name, values in rows.items()}


def predict(model: nn.Module, rows: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """Predict, (n_rows,) or (n_rows, n_tasks); the shared samples by default."""
    predictions = model.predict([batch(model, rows)])
    if isinstance(predictions, dict):
        return np.stack([predictions[label] for label in LABELS], axis=1)
    return predictions


def open_session(backbone: Backbone, model: nn.Module):
    """Return a session as `fit` opens one."""
    return model._open_session({"data_generator": generators(model)[0]})


def output(result: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what a forward pass gives as one tensor."""
    return torch.cat(list(result.values()), dim=1)
