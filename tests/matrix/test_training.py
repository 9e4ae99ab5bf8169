"""With weight, every model class orders the table's pairs more as the LLM does than the plain model."""

import functools

import numpy as np
import pytest
import torch

from sllmr_plugin import SelectiveConfig

from . import backbones
from .cases import CASES, IDS

LEARNING_RATE, EPOCHS = 0.03, 4  # large steps: a few epochs show where the pairs go
PLENTY = {"users_per_step": 30, "pairs_per_user": 8}
MODES = {
    "global": SelectiveConfig(**PLENTY, gate="none", weight=1.0),
    "hinge_on_probabilities": SelectiveConfig(
        **PLENTY, gate="none", weight=3.0, loss="hinge", score_space="probability", margin=0.3
    ),
    "mse": SelectiveConfig(**PLENTY, loss="mse", weight=5.0),
    "bce": SelectiveConfig(**PLENTY, loss="bce", weight=3.0),
    "rank_kd": SelectiveConfig(**PLENTY, loss="rank_kd", weight=1.0),
    "kd": SelectiveConfig(**PLENTY, loss="kd", weight=1.0),
    "joint": SelectiveConfig(**PLENTY, gate="joint", weight=1.0),
    "fixed_gate": SelectiveConfig(**PLENTY, gate="fixed", weight=1.0, cold_threshold=50),
    "batch_users": SelectiveConfig(**PLENTY, gate="none", weight=1.0, user_source="batch", in_batch_pairs=True),
}


def ordered_as_llm(zoo, model):
    """Fraction of the table's pairs that the model orders as the LLM does, pair by pair."""
    x, _ = backbones.samples()
    latest = {user: row for row, user in enumerate(x["user_id"].tolist())}
    frame = backbones.score_frame()
    frame = frame[frame["user_id"].isin(list(latest))]
    rows = [latest[user] for user in frame["user_id"]]
    data = {name: values[rows] for name, values in zoo.inputs(model).items()}
    item = frame["item_id"].to_numpy()
    data["item_id"], data["category"] = item, 1 + item % backbones.N_CATEGORIES
    if "price" in data:
        data["price"] = (item / backbones.N_ITEMS).astype(np.float32)
    prediction = zoo.predict(model, data).reshape(len(frame), -1)
    task = model.sllmr.task if hasattr(model, "sllmr") else 0
    right = total = 0
    for _, group in frame.assign(p=prediction[:, task]).groupby("user_id"):
        rows = list(zip(group["score"].tolist(), group["p"].tolist(), strict=True))
        for first_score, first_p in rows:
            for second_score, second_p in rows:
                if first_score > second_score:
                    total += 1
                    right += first_p > second_p
    return right / total


@functools.cache
def ordered_by_the_plain_model(zoo, backbone):
    """The fraction after the same training without the LLM; it is the same for every mode."""
    model = zoo.build(backbone)
    zoo.compile_model(backbone, model, LEARNING_RATE)
    zoo.fit(backbone, model, epochs=EPOCHS)
    model.sllmr = type("Task", (), {"task": backbone.task or 0})()
    return ordered_as_llm(zoo, model)


@pytest.mark.parametrize("config", [MODES["global"], MODES["hinge_on_probabilities"]], ids=["global", "hinge"])
@pytest.mark.parametrize(("zoo", "backbone"), CASES, ids=IDS)
def test_pairs_move_towards_the_llm(zoo, backbone, config):
    before = ordered_by_the_plain_model(zoo, backbone)
    model = zoo.wrapped(backbone, zoo.build(backbone), config)
    zoo.compile_model(backbone, model, LEARNING_RATE)
    history = zoo.fit(backbone, model, epochs=EPOCHS).history
    assert all(np.isfinite(history["loss"]))
    # With validation the plain fit leaves the model in eval mode from the second epoch on: pairs must go on.
    assert min(history["sllmr_pairs"]) > 100
    assert ordered_as_llm(zoo, model) > before + 0.3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("zoo", "backbone"),
    [case for case in CASES if case[1].name in ("DeepFM", "DIN", "MMOE", "FuxiCTR_DIN")],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_mode_moves_pairs_towards_the_llm(zoo, backbone, mode):
    before = ordered_by_the_plain_model(zoo, backbone)
    model = zoo.wrapped(backbone, zoo.build(backbone), MODES[mode])
    zoo.compile_model(backbone, model, LEARNING_RATE)
    zoo.fit(backbone, model, epochs=EPOCHS)
    assert ordered_as_llm(zoo, model) > before + 0.2


@pytest.mark.parametrize(("zoo", "backbone"), CASES, ids=IDS)
def test_extra_rows_leave_no_trace_in_the_batch(zoo, backbone):
    """A step's output, batch statistics and auxiliary loss are those of the plain forward pass (dropout off)."""
    outcomes = []
    for with_rows in (False, True):
        model = zoo.wrapped(backbone, zoo.build(backbone), SelectiveConfig(gate="none", weight=1.0))
        zoo.compile_model(backbone, model)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        x = zoo.batch(model, {name: values[:64] for name, values in zoo.inputs(model).items()})
        model.train()
        if with_rows:
            model.sllmr.session = zoo.open_session(backbone, model)
            model.sllmr.session.begin_epoch(0)
        output = zoo.output(model(x))
        if with_rows:
            assert model.sllmr.session.take_loss() > 0
        aux = getattr(model, "aux_loss", torch.zeros(1))
        outcomes.append((output.detach(), dict(model.named_buffers()), aux.detach()))
    (output, buffers, aux), (output_with, buffers_with, aux_with) = outcomes
    torch.testing.assert_close(output_with, output)
    torch.testing.assert_close(aux_with, aux)
    assert buffers.keys() == buffers_with.keys()
    for name in buffers:
        torch.testing.assert_close(buffers_with[name], buffers[name], msg=name)
