"""Without weight, and after unwrap, nothing differs from the plain model: bit for bit, for every model class."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch

from sllmr_plugin import InactiveWarning, SelectiveConfig, disabled, unwrap

from .cases import CASES, IDS

OFF = {
    "weight_zero": SelectiveConfig(weight=0.0, uncertainty="entropy"),
    "warm_up": SelectiveConfig(gate="joint", weight=1.0, warmup_epochs=2),
}


def _outcome(zoo, backbone, model):
    history = zoo.fit(backbone, model, verbose=2).history
    return {
        "history": history,
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "prediction": zoo.predict(model),
        "next_random": torch.rand(3),
    }


def _assert_same(got, expected):
    assert got["history"] == expected["history"]
    assert list(got["state"]) == list(expected["state"])
    for name, tensor in expected["state"].items():
        assert torch.equal(got["state"][name], tensor), name
    np.testing.assert_array_equal(got["prediction"], expected["prediction"])
    assert torch.equal(got["next_random"], expected["next_random"])


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def plain(request):
    """Train a plain model once for all comparisons."""
    zoo, backbone = request.param
    model = zoo.build(backbone)
    zoo.compile_model(backbone, model)
    return zoo, backbone, _outcome(zoo, backbone, model)


@pytest.mark.parametrize("config", OFF.values(), ids=OFF.keys())
def test_without_weight_training_is_the_plain_models(plain, config):
    zoo, backbone, expected = plain
    model = zoo.wrapped(backbone, zoo.build(backbone), config)
    zoo.compile_model(backbone, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InactiveWarning)
        outcome = _outcome(zoo, backbone, model)
    if config.active:  # epochs of warm-up have an account of their own: no pairs
        account = {key: outcome["history"].pop(key) for key in list(outcome["history"]) if key.startswith("sllmr_")}
        assert account["sllmr_pairs"] == [0.0, 0.0]
    assert model.sllmr.status().loader == zoo.LOADER
    assert model.sllmr.status().l2 == zoo.L2
    _assert_same(outcome, expected)


def test_disabled_training_is_the_plain_models(plain):
    zoo, backbone, expected = plain
    model = zoo.build(backbone)
    zoo.compile_model(backbone, model)
    model = zoo.wrapped(backbone, model, SelectiveConfig(gate="joint", weight=1.0))
    with disabled(model):
        _assert_same(_outcome(zoo, backbone, model), expected)


def test_training_after_unwrap_is_the_plain_models(plain):
    zoo, backbone, expected = plain
    model = zoo.build(backbone)
    zoo.compile_model(backbone, model)
    plain_class, attributes = type(model), set(vars(model))
    model = unwrap(zoo.wrapped(backbone, model, SelectiveConfig(gate="joint", weight=1.0)))
    assert type(model) is plain_class
    assert set(vars(model)) == attributes
    _assert_same(_outcome(zoo, backbone, model), expected)


@pytest.mark.parametrize(("zoo", "backbone"), CASES, ids=IDS)
def test_a_trained_model_keeps_its_predictions_through_unwrap_copy_and_save(zoo, backbone):
    model = zoo.wrapped(backbone, zoo.build(backbone), SelectiveConfig(gate="joint", weight=1.0))
    keys = list(zoo.build(backbone).state_dict())
    zoo.compile_model(backbone, model)
    zoo.fit(backbone, model)
    assert list(model.state_dict()) == keys
    trained = zoo.predict(model)

    if backbone.name != "DIEN_negsampling":  # plain, it cannot be copied either: its aux_loss is on the graph
        twin = copy.deepcopy(model)
        assert type(twin) is type(model)
        assert twin.sllmr is not model.sllmr
        np.testing.assert_array_equal(zoo.predict(twin), trained)
        zoo.fit(backbone, twin)  # the copy trains on its own
        assert not np.array_equal(zoo.predict(twin), trained)
        np.testing.assert_array_equal(zoo.predict(model), trained)

        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        np.testing.assert_array_equal(zoo.predict(loaded), trained)
        assert loaded.sllmr.status().epochs == model.sllmr.status().epochs

    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = zoo.build(backbone)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    np.testing.assert_array_equal(zoo.predict(fresh), trained)

    np.testing.assert_array_equal(zoo.predict(unwrap(model)), trained)
