"""Trainings that several processes and one must agree about; run as a module, it is one of the processes."""

from __future__ import annotations

import contextlib
import copy
import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import nn

from sllmr_plugin import SelectiveConfig, SLLMRError, unwrap, wrap
from sllmr_plugin.backends.deepctr import import_deepctr_torch

import_deepctr_torch()
from deepctr_torch.callbacks import Callback, EarlyStopping  # noqa: E402
from deepctr_torch.inputs import SparseFeat  # noqa: E402
from deepctr_torch.models import DeepFM  # noqa: E402

from .matrix import backbones as zoo  # noqa: E402

# 240 rows: the last batch of 17 has 2 rows, one a process.
BATCH, EPOCHS = 17, 2
CONFIGS = {
    "none": SelectiveConfig(weight=0.0),
    "global": SelectiveConfig(gate="none", pair_rule="gap_weighted"),  # users by the rows of all processes
    "pair_sum": SelectiveConfig(gate="none", weight=0.02, weight_scale="pair_sum", loss="hinge", users_per_step=3),
    "one_user": SelectiveConfig(gate="none", users_per_step=1),  # the second process has no pair at all
    "fixed": SelectiveConfig(gate="fixed", warmup_epochs=1, decay=0.5, users_per_step=4),
    "disagreement": SelectiveConfig(gate="disagreement", users_per_step=5),
    "pointwise": SelectiveConfig(loss="mse", candidates_per_user=3, users_per_step=5),
    "one_entry": SelectiveConfig(loss="kd", users_per_step=1),
}
REFUSED = {
    "joint": {"gate": "joint"},
    "budget": {"gate": "budget"},
    "bilevel": {"gate": "bilevel"},
    "batch_users": {"user_source": "batch"},
    "in_batch": {"in_batch_pairs": True},
}


def scores() -> pd.DataFrame:
    """Return the matrix's candidates, and probes: one item per user, of any LLM score."""
    frame = zoo.score_frame()
    rng = np.random.default_rng(3)
    users = frame["user_id"].unique()
    probes = pd.DataFrame({"user_id": users, "item_id": rng.integers(1, zoo.N_ITEMS + 1, len(users)), "kind": "probe"})
    probes["score"] = 0.2 + 0.8 * rng.random(len(users))
    taken = set(zip(frame["user_id"], frame["item_id"], strict=True))
    known = [pair not in taken for pair in zip(probes["user_id"], probes["item_id"], strict=True)]
    return pd.concat([frame, probes[known]], ignore_index=True)


def build(config: SelectiveConfig, name: str | None = None, seed: int = 5) -> nn.Module:
    """Return a wrapped, compiled DeepFM (or model of the matrix) without dropout, its weights drawn from a seed."""
    if name is None:
        sizes = {"user_id": zoo.N_USERS + 1, "item_id": zoo.N_ITEMS + 1, "gender": 2}
        columns = [SparseFeat(feature, size, zoo.DIM) for feature, size in sizes.items()]
        model = DeepFM(columns, columns, dnn_hidden_units=(8, 4), l2_reg_embedding=1e-3)
    else:
        model = zoo.build(next(backbone for backbone in zoo.BACKBONES if backbone.name == name))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model = wrap(model, scores(), user="user_id", item="item_id", config=config)
    # Adam would hide a gradient of the wrong length: it divides by it.
    model.compile(torch.optim.SGD(model.parameters(), lr=0.05), "binary_crossentropy", metrics=["auc", "logloss"])
    torch.manual_seed(21)
    return model


def fit(model: nn.Module, **options):
    """Train, by default with all rows, quietly and with validation."""
    x, y = zoo.samples()
    x = {name: x[name] for name in model.feature_index}
    given = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "validation_split": 0.0, "callbacks": None}
    return model.fit(copy.deepcopy(x), y, **(given | options))


def outcome(model: nn.Module) -> dict:
    """Return what a training has left behind."""
    return {
        "history": model.history.history,
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "status": str(model.sllmr.status()),
        "gate": model.sllmr.gate.coefficients(),
    }


def train_all() -> dict[str, dict]:
    """Train every configuration; several processes start with different weights, and end with the first one's."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    results = {}
    for name, config in CONFIGS.items():
        model = build(config, seed=5 + rank)
        fit(model)
        results[name] = outcome(model)
    return results


class _StopsAlone(Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = dist.get_rank() == 1


class _Saves(Callback):
    def on_epoch_end(self, epoch, logs=None):
        file = io.BytesIO()
        torch.save(self.model, file)
        file.seek(0)
        self.copy = torch.load(file, weights_only=False)
        self.deep = copy.deepcopy(self.model)


def _error(action) -> str:
    try:
        action()
    except SLLMRError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def told() -> dict[str, list[float]]:
    """Train aloud, with metrics, on batches that two processes share evenly; return the history."""
    config = CONFIGS["global"].replace(users_per_step=15)
    return fit(build(config), verbose=2, epochs=2, batch_size=60, validation_split=0.25).history


def joined(batch_size: int) -> dict[str, list[float]]:
    """Train one epoch aloud on all rows in one batch, as it is if no row is left over; return the history."""
    with contextlib.redirect_stdout(io.StringIO()):
        return fit(build(CONFIGS["none"]), verbose=2, epochs=1, batch_size=batch_size).history


def behave(rank: int) -> dict[str, object]:
    """Return how two processes handle what is not a plain training."""
    seen: dict[str, object] = {}
    for name, changes in REFUSED.items():
        seen[f"refused {name}"] = _error(lambda changes=changes: fit(build(SelectiveConfig(**changes))))
    model = build(CONFIGS["global"])
    model.sllmr.whole_batches = False
    seen["refused by_row"] = _error(lambda: fit(model))
    seen["refused own batches"] = _error(lambda: fit(_own_fit(build(CONFIGS["global"]))))
    seen["refused auxiliary"] = _error(lambda: fit(build(CONFIGS["none"], "DIEN_negsampling")))
    seen["refused batch_size"] = _error(lambda: fit(build(CONFIGS["none"]), batch_size=1))
    seen["refused shards"] = _error(lambda: _fit_shard(build(CONFIGS["none"]), rank))
    seen["refused settings"] = _error(lambda: fit(build(SelectiveConfig(gate="none", weight=0.1 + rank))))

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        history = told()
    seen["printed"], seen["told"] = printed.getvalue(), history
    seen["joined"] = joined(239)  # and a row that joins them

    model = build(CONFIGS["global"])
    fit(model, epochs=4, callbacks=[_StopsAlone()])
    seen["epochs, one stops"] = len(model.history.history["loss"])
    model = build(CONFIGS["global"])
    early = EarlyStopping("val_auc", patience=1, min_delta=1.0, restore_best_weights=True)
    fit(model, epochs=4, validation_split=0.25, callbacks=[early])
    seen["early stopping"] = outcome(model)

    model, saves = build(CONFIGS["global"]), _Saves()
    fit(model, epochs=1, callbacks=[saves])
    fit(model, epochs=1)  # a fit after a fit
    seen["second fit"] = outcome(model)
    for name, other in (("saved", saves.copy), ("copied", saves.deep)):
        seen[f"{name} has processes"] = other._sllmr_processes is not None
    seen["keys"] = list(model.state_dict())
    seen["plain class"] = type(unwrap(model)).__name__

    model = build(CONFIGS["global"], "DIN")
    fit(model, batch_size=20, validation_split=0.25)
    seen["statistics"] = outcome(model)
    return seen


def _own_fit(model: nn.Module) -> nn.Module:
    """Give a model a `fit` with batches of its own, all rows in each."""
    plain = unwrap(model)

    class Own(type(plain)):
        def fit(self, x, y, callbacks=None, **options):
            rows = np.concatenate([np.reshape(x[name], (len(y), -1)) for name in self.feature_index], axis=1)
            self(torch.from_numpy(rows).float())

    plain.__class__ = Own
    return wrap(plain, scores(), user="user_id", item="item_id", config=CONFIGS["global"])


def _fit_shard(model: nn.Module, rank: int) -> None:
    x, y = zoo.samples()
    model.fit({name: x[name][rank::2] for name in model.feature_index}, y[rank::2], batch_size=8, verbose=0)


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    with contextlib.redirect_stdout(io.StringIO()):
        results = {"trained": train_all(), "behaviour": behave(rank)}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
