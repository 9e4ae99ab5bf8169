"""`add_synthetic`: its loss against a loop, what it leaves alone, which rows it draws, and what is refused."""

from __future__ import annotations

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import SelectiveConfig, add_synthetic, unwrap
from sllmr_plugin.backends.synthetic import synthetic_loss
from sllmr_plugin.errors import (
    AlreadyWrappedError,
    ConfigError,
    CoverageError,
    CoverageWarning,
    DataError,
    UnsupportedModelError,
    WrapError,
)

from .matrix import backbones as deepctr

NAMES = {"user": "user_id", "item": "item_id"}
DEEPFM = next(backbone for backbone in deepctr.BACKBONES if backbone.name == "DeepFM")
DIN = next(backbone for backbone in deepctr.BACKBONES if backbone.name == "DIN")


def libraries():
    found = [pytest.param(deepctr, DEEPFM, id="deepctr")]
    try:
        from .matrix import fuxictr_backbones as fuxictr
    except ImportError:
        return found
    return [*found, pytest.param(fuxictr, fuxictr.BACKBONES[0], id="fuxictr")]


LIBRARIES = libraries()


def pairs_of(n=9, users=range(1, deepctr.N_USERS + 1)):
    """Synthetic pairs that are no training row, with weights."""
    x, _ = deepctr.samples()
    seen = set(zip(x["user_id"].tolist(), x["item_id"].tolist(), strict=True))
    rng = np.random.default_rng(5)
    found = [(user, item) for user in users for item in range(1, deepctr.N_ITEMS + 1) if (user, item) not in seen]
    chosen = [found[k] for k in rng.permutation(len(found))[:n]]
    return pd.DataFrame(chosen, columns=["user_id", "item_id"]).assign(weight=rng.random(n) + 0.1)


def run_of(library, backbone, model):
    """Open the loss as `fit` does."""
    if library is deepctr:
        arguments = {"x": deepctr.inputs(model), "y": deepctr.labels(backbone)}
    else:
        arguments = {"data_generator": library.generators(model)[0]}
    return model.sllmr_losses["synthetic"].open_for(model, arguments)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_equals_a_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    probability, w = torch.rand(12, generator=generator), torch.rand(6, generator=generator)
    total = 0.0
    for k in range(6):
        total += float(w[k]) * (-math.log(float(probability[k])) - math.log(1 - float(probability[k + 6])))
    assert float(synthetic_loss(probability, w)) == pytest.approx(total / 12, rel=1e-5)


@pytest.mark.parametrize(("library", "backbone"), LIBRARIES)
def test_a_step_adds_the_weighted_loss_of_rows_that_are_scored_alone(library, backbone):
    model = library.build(backbone)
    library.compile_model(backbone, model)
    features = library.item_features(model)
    add_synthetic(model, pairs_of(), **NAMES, weight=0.3, rows_per_step=5, item_features=features, seed=4)
    for module in model.modules():
        module.training = False  # no dropout, so that a second pass gives the same
    run = run_of(library, backbone, model)
    again = copy.deepcopy(run._drawer.generator)
    run.see({"user_id": torch.ones(20)}, 20)
    added = float(run.take_loss(mean=library is not deepctr).detach())
    assert run.take_loss() is None  # handed out once
    run._drawer.generator.bit_generator.state = again.bit_generator.state
    rows, row_weights = run._drawer.draw(5)
    scored = model(rows) if library is deepctr else model(model._sllmr_backend.inputs(model, rows))
    expected = float(synthetic_loss(library.output(scored).detach().reshape(-1), row_weights))
    assert added == pytest.approx((0.3 * 20 if library is deepctr else 0.3) * expected, rel=1e-4)
    assert run.end_epoch() == {"sllmr_synthetic": pytest.approx(expected, rel=1e-4), "sllmr_synthetic_rows": 10.0}


@pytest.mark.parametrize(("library", "backbone"), LIBRARIES)
def test_rows_are_those_of_the_synthetic_user_and_item_and_negatives_are_not_taken(library, backbone):
    model = library.build(backbone)
    synthetic = pairs_of(30)
    features = library.item_features(model)
    add_synthetic(model, synthetic, **NAMES, rows_per_step=64, item_features=features, never=([1, 2], [3, 4]))
    run = run_of(library, backbone, model)
    x, y = deepctr.samples()
    positive = {(u, i) for u, i, label in zip(x["user_id"], x["item_id"], y, strict=True) if label > 0.5}
    known = set(map(tuple, synthetic[["user_id", "item_id"]].to_numpy().tolist()))
    layout = run._model.sllmr_losses["synthetic"].features.layout
    column = {name: layout[name][0] for name in ("user_id", "item_id", "category", "price")}
    drawn = set()
    for _ in range(20):
        rows, row_weights = run._drawer.draw(64)
        codes = rows[:, [column["user_id"], column["item_id"]]].long().tolist()
        for place, (user, item) in enumerate(codes):
            category, price = rows[place, column["category"]], rows[place, column["price"]]
            assert (int(category), float(price)) == (1 + item % 4, pytest.approx(item / 24, rel=1e-5))
            if place < 64:
                own = synthetic[(synthetic["user_id"] == user) & (synthetic["item_id"] == item)]["weight"]
                assert float(row_weights[place]) == pytest.approx(own.iloc[0], rel=1e-5)
                drawn.add((user, item))
            else:
                assert user == codes[place - 64][0]
                assert (user, item) not in positive | known | {(1, 3), (2, 4)}
    assert drawn == known


@pytest.mark.parametrize(("library", "backbone"), LIBRARIES)
def test_weight_0_is_the_plain_model_bit_for_bit(library, backbone):
    plain, other = library.build(backbone), library.build(backbone)
    for model in (plain, other):
        library.compile_model(backbone, model)
    before = type(other)
    done = add_synthetic(other, pairs_of(), **NAMES, weight=0.0)
    assert type(other) is before
    assert "weight 0" in str(done)
    for model in (plain, other):
        library.fit(backbone, model)
    assert all(torch.equal(a, b) for a, b in zip(weights(plain).values(), weights(other).values(), strict=True))


@pytest.mark.parametrize(("library", "backbone"), LIBRARIES)
def test_it_learns_the_rows_keeps_the_keys_and_undo_gives_the_plain_class_back(library, backbone):
    synthetic = pairs_of(12)
    plain, other = library.build(backbone), library.build(backbone)
    keys, cls = list(plain.state_dict()), type(other)
    for model in (plain, other):
        library.compile_model(backbone, model)
    done = add_synthetic(other, synthetic, **NAMES, weight=5.0, item_features=library.item_features(other))
    assert list(other.state_dict()) == keys
    for model in (plain, other):
        library.fit(backbone, model, epochs=14)
    accounts = other.sllmr_losses["synthetic"].epochs
    assert len(accounts) == 14
    assert accounts[-1]["sllmr_synthetic"] < 0.7 * accounts[0]["sllmr_synthetic"]

    def mean_of(model):
        x = library.inputs(model)
        last = {user: row for row, user in enumerate(x["user_id"].tolist())}
        usable = synthetic[synthetic["user_id"].isin(last)]
        rows = {name: values[[last[user] for user in usable["user_id"]]].copy() for name, values in x.items()}
        item = usable["item_id"].to_numpy()
        rows |= {"item_id": item, "category": 1 + item % 4, "price": (item / 24).astype(np.float32)}
        return float(library.predict(model, rows).mean())

    assert mean_of(other) > mean_of(plain) + 0.1
    done.undo(other)
    assert type(other) is cls
    assert list(other.state_dict()) == keys


def test_it_goes_with_wrap_and_the_regularizer_sees_none_of_its_rows():
    model = deepctr.build(DEEPFM)
    add_synthetic(model, pairs_of(), **NAMES, item_features=deepctr.item_features(model))
    model = deepctr.wrapped(DEEPFM, model, SelectiveConfig(weight=0.1, gate="none", seed=1))
    deepctr.compile_model(DEEPFM, model)
    history = deepctr.fit(DEEPFM, model).history
    assert len(history["sllmr_loss"]) == len(history["sllmr_synthetic"]) == 2
    assert min(history["sllmr_pairs"]) > 0
    assert history["sllmr_synthetic_rows"] == [5 * 2 * 9.0] * 2  # five steps of nine positives, each with a negative
    assert list(unwrap(model).sllmr_losses) == ["synthetic"]


def test_histories_of_din_are_those_of_the_user():
    model = deepctr.build(DIN)
    deepctr.compile_model(DIN, model)
    add_synthetic(model, pairs_of(), **NAMES)  # item and category are attended to, so both are the item's
    run = run_of(deepctr, DIN, model)
    rows, _ = run._drawer.draw(6)
    x = deepctr.inputs(model)
    first, end = model.feature_index["hist_item_id"]
    for row in rows:
        own = np.flatnonzero(x["user_id"] == int(row[model.feature_index["user_id"][0]]))
        assert row[first:end].tolist() in x["hist_item_id"][own].tolist()
    assert "sllmr_synthetic" in deepctr.fit(DIN, model, epochs=1).history


def test_another_call_of_fit_draws_other_rows_and_the_seed_decides_them():
    drawn = []
    for seed in (1, 1, 2):
        model = deepctr.build(DEEPFM)
        add_synthetic(model, pairs_of(20), **NAMES, seed=seed)
        drawn += [run_of(deepctr, DEEPFM, model)._drawer.draw(20)[0] for _ in range(2)]
    first, second, again, _, other, _ = drawn
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_rows_that_cannot_be_built_are_told_or_refused():
    x, y = deepctr.inputs(deepctr.build(DEEPFM)), deepctr.labels(DEEPFM)
    few = x["user_id"] <= 3
    arguments = {"x": {name: values[few] for name, values in x.items()}, "y": y[few]}
    model = deepctr.build(DEEPFM)
    add_synthetic(model, pairs_of(40), **NAMES)
    with pytest.warns(CoverageWarning, match="of 40 rows of the synthetic interactions DataFrame can be trained on"):
        model.sllmr_losses["synthetic"].open_for(model, arguments)
    model = deepctr.build(DEEPFM)
    add_synthetic(model, pairs_of(5, users=range(10, 20)), **NAMES)
    with pytest.raises(CoverageError, match="none of 5 rows"):
        model.sllmr_losses["synthetic"].open_for(model, arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weight": -1}, ConfigError, "weight=-1 must be a number of at least 0"),
        ({"weight": math.nan}, ConfigError, "weight=nan"),
        ({"rows_per_step": 0}, ConfigError, "rows_per_step=0"),
        ({"user": "nobody"}, WrapError, "no feature 'nobody'"),
        ({"synthetic": pd.DataFrame({"user_id": [99], "item_id": [1]})}, DataError, "no embedding"),
        ({"synthetic": pd.DataFrame({"user_id": [1, 1], "item_id": [1, 1]})}, DataError, "again for the same user"),
        ({"synthetic": pd.DataFrame({"user_id": [1], "item_id": [1], "weight": [0.0]})}, DataError, "weight is 0.0"),
        ({"user_index": {7: 1}}, CoverageError, "none of its 9 rows"),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_model_left_alone(changes, error, message):
    model = deepctr.build(DEEPFM)
    before = type(model)
    with pytest.raises(error, match=message):
        add_synthetic(model, **{"synthetic": pairs_of(), **NAMES, **changes})
    assert type(model) is before


def test_other_models_a_second_time_and_regressions_are_refused():
    with pytest.raises(UnsupportedModelError, match="neither"):
        add_synthetic(torch.nn.Linear(2, 1), pairs_of(), **NAMES)
    model = deepctr.build(DEEPFM)
    add_synthetic(model, pairs_of(), **NAMES)
    with pytest.raises(AlreadyWrappedError, match="'synthetic'"):
        add_synthetic(model, pairs_of(), **NAMES)
    with pytest.raises(UnsupportedModelError, match="ratings"):
        add_synthetic(deepctr.build(DEEPFM, task="regression"), pairs_of(), **NAMES)
