"""Ensemble uncertainty against numpy, and what is refused as a checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from sllmr_plugin import SelectiveConfig, SLLMRError
from sllmr_plugin.training.ensemble import read_checkpoints

from .matrix import backbones as zoo

DEEPFM = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")
ENSEMBLE = SelectiveConfig(gate="joint", weight=0.5, uncertainty="ensemble")


def trained(backbone, n=3):
    """Train a plain model and keep its state_dict after each epoch."""
    model = zoo.build(backbone)
    zoo.compile_model(backbone, model, learning_rate=0.05)
    states = []
    for _ in range(n):
        zoo.fit(backbone, model, epochs=1)
        states.append(copy.deepcopy(model.state_dict()))
    return states


@pytest.fixture(scope="module")
def states():
    return trained(DEEPFM)


def ready(config=ENSEMBLE, backbone=DEEPFM):
    model = zoo.wrapped(backbone, zoo.build(backbone), config)
    zoo.compile_model(backbone, model)
    return model


def rows_of(model):
    return torch.from_numpy(np.concatenate([v.reshape(len(v), -1) for v in zoo.inputs(model).values()], axis=1)).float()


def variance_by_hand(backbone, states, rows, task=0):
    """Load every checkpoint into a plain model and predict."""
    predictions = []
    for state in states:
        plain = zoo.build(backbone)
        plain.load_state_dict(state)
        plain.eval()
        with torch.no_grad():
            predictions.append(plain(rows).reshape(len(rows), -1)[:, task].double().numpy())
    return np.var(predictions, axis=0) / 0.25


# ---------------------------------------------------------------------- what it measures

SEVERAL = [b for b in zoo.BACKBONES if b.name in ("DeepFM", "DIN", "DIEN_negsampling", "MMOE", "PLE")]


@pytest.mark.parametrize("backbone", SEVERAL, ids=lambda backbone: backbone.name)
def test_uncertainty_is_the_variance_of_the_checkpoints_predictions(backbone):
    states = trained(backbone, n=2)
    model = ready(backbone=backbone)
    model.sllmr.set_ensemble(states)
    before = copy.deepcopy(model.state_dict())
    rows = rows_of(model)[:100]
    model.train()
    q = model._passes(0.0).score_rows(rows)[2].numpy()
    expected = variance_by_hand(backbone, states, rows, backbone.task or 0)
    np.testing.assert_allclose(q, expected, atol=1e-6)
    assert expected.max() > 1e-5
    assert all(module.training for module in model.modules())
    for name, tensor in model.state_dict().items():  # batch statistics too
        assert torch.equal(tensor, before[name])


def test_a_training_step_weighs_its_pairs_by_it(states):
    model = ready()
    model.sllmr.set_ensemble(states)
    data = {"x": list(zoo.inputs(model).values()), "y": zoo.labels(DEEPFM), "validation_split": 0.0}
    session = model.sllmr.session = model._open_session({**data, "validation_data": None})
    session.begin_epoch(0)
    added = []
    session.add = lambda plan, logit, probability, uncertainty, n_batch: added.append((plan, uncertainty))
    batch = rows_of(model)[:48]
    model.train()
    model(batch)
    ((plan, uncertainty),) = added
    rows = torch.cat([batch, plan.rows])[plan.source]
    np.testing.assert_allclose(uncertainty.numpy(), variance_by_hand(DEEPFM, states, rows), atol=1e-6)
    assert not uncertainty.requires_grad


def test_fit_trains_with_it_and_says_how_to_get_it(states):
    model = ready()
    with pytest.raises(SLLMRError, match=r"no checkpoints to compare\. Call model\.sllmr\.set_ensemble"):
        zoo.fit(DEEPFM, model)
    assert model.sllmr.session is None
    model.sllmr.set_ensemble(states)
    assert min(zoo.fit(DEEPFM, model).history["sllmr_pairs"]) > 0
    # a gate that does not look at uncertainty needs no checkpoints
    fixed = ready(SelectiveConfig(gate="fixed", weight=0.5, uncertainty="ensemble", cold_threshold=9))
    assert zoo.fit(DEEPFM, fixed, epochs=1).history["sllmr_gate"][0] > 0


def test_checkpoints_go_where_the_model_goes_and_are_copies(states):
    model = ready()
    mine = copy.deepcopy(states)
    model.sllmr.set_ensemble(mine)
    for state in mine:
        for tensor in state.values():
            tensor.zero_()
    for kept, state in zip(model.sllmr.checkpoints, states, strict=True):
        assert all(torch.equal(kept[name], state[name]) for name in state)
    twin = copy.deepcopy(model)
    model.to("meta")
    assert {t.device.type for state in model.sllmr.checkpoints for t in state.values()} == {"meta"}
    assert {t.device.type for state in twin.sllmr.checkpoints for t in state.values()} == {"cpu"}
    model.sllmr.set_ensemble(states)
    assert {t.device.type for state in model.sllmr.checkpoints for t in state.values()} == {"meta"}


# ---------------------------------------------------------------------- files, and what is refused


@pytest.fixture(scope="module")
def shapes(states):
    return {name: tensor.shape for name, tensor in states[0].items()}


def test_files_of_both_kinds_give_the_state_back(tmp_path, states, shapes):
    torch.save(states[0], tmp_path / "epoch1.pt")
    safetensors.torch.save_file(states[1], tmp_path / "epoch2.safetensors")
    read = read_checkpoints([tmp_path / "epoch1.pt", str(tmp_path / "epoch2.safetensors"), states[2]], shapes)
    for found, state in zip(read, states, strict=True):
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)


def test_fewer_than_two_are_refused(states, shapes):
    for few in ([], states[:1], states[0], "epoch1.pt", Path("epoch1.pt")):
        with pytest.raises(SLLMRError, match=r"list of at least two checkpoints\. Pass the state_dict of several"):
            read_checkpoints(few, shapes)


def test_checkpoints_of_another_model_are_refused(states, shapes):
    good, name = states[0], "dnn_linear.weight"
    assert name in good
    others = [
        {key: value for key, value in good.items() if key != name},
        {**good, "tower.weight": torch.zeros(2)},
        {**good, name: torch.zeros(1, 9)},
        {**good, "epoch": 3},
        {**good, name: good[name].numpy()},
        {"model": good, "epoch": 3},
    ]
    for other in others:
        with pytest.raises(SLLMRError, match="checkpoint 1 is of another model: .*Pass checkpoints of"):
            read_checkpoints([good, other], shapes)
    with pytest.raises(SLLMRError, match="of another model: tower.weight and 0 other"):
        read_checkpoints([good, others[1]], shapes)


def test_models_in_place_of_their_states_are_refused(states, shapes):
    with pytest.raises(SLLMRError, match=r"checkpoint 1 is a DeepFM\. Pass its state_dict"):
        read_checkpoints([states[0], zoo.build(DEEPFM)], shapes)


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path, states, shapes):
    with pytest.raises(SLLMRError, match=r"checkpoint 1 \(.*gone.pt\): no such file\. Give a"):
        read_checkpoints([states[0], tmp_path / "gone.pt"], shapes)
    for name in ("broken.pt", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
        with pytest.raises(SLLMRError, match=rf"checkpoint 1 \(.*{name}\) cannot be read .* Save model.state_dict"):
            read_checkpoints([states[0], tmp_path / name], shapes)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(SLLMRError, match="holds a list. Save model.state_dict"):
        read_checkpoints([states[0], tmp_path / "list.pt"], shapes)


class Trap:
    """Touches a file when a pickle that holds it is loaded without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_pickled_model_is_refused_and_none_of_its_code_runs(tmp_path, states, shapes):
    sprung = tmp_path / "sprung"
    model = zoo.build(DEEPFM)
    model.trap = Trap(sprung)
    for number, content in enumerate((model, Trap(sprung), {**states[0], "extra": Trap(sprung)})):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path)
        with pytest.raises(SLLMRError, match=r"cannot be read .*Save model\.state_dict\(\), not the whole model"):
            read_checkpoints([states[0], path], shapes)
        assert not sprung.exists()
    torch.load(tmp_path / "0.pt", weights_only=False)
    assert sprung.exists()  # the trap works


def test_an_ensemble_that_is_refused_leaves_the_one_before(states):
    model = ready()
    model.sllmr.set_ensemble(states)
    with pytest.raises(SLLMRError, match="another model"):
        model.sllmr.set_ensemble([states[0], {"weight": torch.zeros(3)}])
    assert len(model.sllmr.checkpoints) == 3
