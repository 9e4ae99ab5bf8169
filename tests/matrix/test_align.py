"""`align` on every model class: what weight 0 leaves alone, what stays the plain model's, wrap in either order."""

import copy
import io

import numpy as np
import pytest
import torch

from sllmr_plugin import SelectiveConfig, align, unwrap
from sllmr_plugin.backends.embeddings import StepLookups

from . import backbones
from .cases import CASES, IDS

NAMES = {"user": "user_id", "item": "item_id"}
ALIGNED = [case for case in CASES if case[1].name != "MLR"]
ALIGNED_IDS = [backbone.name for _, backbone in ALIGNED]


def vectors():
    """A vector an item."""
    rows = np.random.default_rng(3).normal(size=(backbones.N_ITEMS, 7)).astype(np.float32)
    return dict(enumerate(rows, start=1))


def trained(zoo, backbone, *steps, epochs):
    """Build a model, do what the steps do to it, train it; return it and torch's next random numbers."""
    model = zoo.build(backbone)
    for step in steps:
        model = step(model) or model
    zoo.compile_model(backbone, model)
    zoo.fit(backbone, model, epochs=epochs)
    return model, torch.rand(3)


def aligning(**options):
    """Return a step that aligns a model."""

    def step(model):
        align(model, vectors(), **NAMES, **options)

    return step


@pytest.mark.parametrize(("zoo", "backbone"), ALIGNED, ids=ALIGNED_IDS)
def test_weight_0_is_the_plain_model_and_another_weight_touches_no_random_number(zoo, backbone):
    plain, expected = trained(zoo, backbone, epochs=1)
    off, random = trained(zoo, backbone, aligning(weight=0.0), epochs=1)
    assert type(off) is type(plain)
    assert set(vars(off)) == set(vars(plain))
    assert torch.equal(random, expected)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(off.state_dict()[name], tensor), name
    on, random = trained(zoo, backbone, aligning(weight=0.5, kind="generative"), epochs=1)
    assert torch.equal(random, expected)
    assert list(on.state_dict()) == list(plain.state_dict())
    assert any(not torch.equal(on.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize(("zoo", "backbone"), ALIGNED, ids=ALIGNED_IDS)
def test_the_loss_falls_and_undo_leaves_the_plain_class_with_what_it_learnt(zoo, backbone):
    plain = zoo.build(backbone)
    zoo.compile_model(backbone, plain)
    model = zoo.build(backbone)
    done = align(model, vectors(), **NAMES, weight=1.0)
    assert done.n_items == backbones.N_ITEMS
    zoo.compile_model(backbone, model)
    zoo.fit(backbone, model, epochs=6)
    losses = [epoch["sllmr_align"] for epoch in model.sllmr_losses["align"].epochs]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.05
    trained = zoo.predict(model)
    done.undo(model)
    assert type(model) is type(plain)
    assert "sllmr_losses" not in vars(model)
    optimizer = model.optim if hasattr(model, "optim") else model.optimizer
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(plain.parameters()))
    np.testing.assert_array_equal(zoo.predict(model), trained)
    zoo.fit(backbone, model, epochs=1)


@pytest.mark.parametrize(("zoo", "backbone"), ALIGNED, ids=ALIGNED_IDS)
def test_copies_and_files_of_an_aligned_model_go_on_training(zoo, backbone):
    model, _ = trained(zoo, backbone, aligning(weight=0.5), epochs=1)
    predicted = zoo.predict(model)
    if backbone.name != "DIEN_negsampling":  # plain, it cannot be copied either: its aux_loss is on the graph
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        copies = [copy.deepcopy(model), torch.load(file, weights_only=False)]
        for twin in copies:
            assert type(twin) is type(model)
            np.testing.assert_array_equal(zoo.predict(twin), predicted)
            zoo.fit(backbone, twin, epochs=1)
            assert not np.array_equal(zoo.predict(twin), predicted)
        np.testing.assert_array_equal(*(zoo.predict(twin) for twin in copies))
        np.testing.assert_array_equal(zoo.predict(model), predicted)
    fresh = zoo.build(backbone)
    fresh.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(zoo.predict(fresh), predicted)


@pytest.mark.parametrize(("zoo", "backbone"), ALIGNED, ids=ALIGNED_IDS)
def test_wrapping_before_or_after_makes_no_difference(zoo, backbone):
    def wrapping(model):
        return zoo.wrapped(backbone, model, SelectiveConfig(gate="none", weight=0.5, seed=1))

    first, _ = trained(zoo, backbone, wrapping, aligning(weight=0.5), epochs=1)
    second, _ = trained(zoo, backbone, aligning(weight=0.5), wrapping, epochs=1)
    assert type(first) is type(second)
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    alone, _ = trained(zoo, backbone, wrapping, epochs=1)
    assert any(not torch.equal(alone.state_dict()[name], tensor) for name, tensor in first.state_dict().items())
    aligned = unwrap(first)
    only_aligned = zoo.build(backbone)
    align(only_aligned, vectors(), **NAMES, weight=0.5)
    assert type(aligned) is type(only_aligned)
    zoo.fit(backbone, aligned, epochs=1)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("zoo", "backbone"), ALIGNED, ids=ALIGNED_IDS)
def test_embeddings_are_read_from_the_steps_own_pass(zoo, backbone, wrapped, monkeypatch):
    found, find = [], StepLookups.find

    def watched(self, codes, table):
        rows = find(self, codes, table)
        found.append(rows is not None)
        return rows

    monkeypatch.setattr(StepLookups, "find", watched)
    steps = [aligning(weight=0.5)]
    if wrapped:
        steps.append(lambda model: zoo.wrapped(backbone, model, SelectiveConfig(gate="none", seed=1)))
    trained(zoo, backbone, *steps, epochs=1)
    assert len(found) >= 4
    assert all(found)


def test_every_class_is_tried_but_the_one_without_embeddings():
    assert sorted(set(IDS) - set(ALIGNED_IDS)) == ["MLR"]
