"""`distill_features` on every model class that has features to distill into: weight 0, state, undo, copies."""

import copy

import numpy as np
import pytest
import torch

from sllmr_plugin import SelectiveConfig, distill_features
from sllmr_plugin.errors import UnsupportedModelError

from . import backbones
from .cases import CASES, IDS
from .test_align import NAMES, trained, vectors

WITHOUT = ["AFM", "DIFM", "IFM", "MLR"]  # nothing there makes one number of several but sums
# Where the loss falls clearly in five epochs of this small data, on every version of torch; elsewhere chance decides.
CLEAR = ["AutoInt", "DCN", "DCNMix", "DCNv2", "ESMM_ctr", "FuxiCTR_DCNv2"]
DISTILLED = [case for case in CASES if case[1].name not in WITHOUT]
DISTILLED_IDS = [backbone.name for _, backbone in DISTILLED]


def distilling(**options):
    """Return a step that adds the loss to a model."""

    def step(model):
        distill_features(model, vectors(), **NAMES, **options)

    return step


@pytest.mark.parametrize(("zoo", "backbone"), DISTILLED, ids=DISTILLED_IDS)
def test_weight_0_is_the_plain_model_and_another_weight_touches_no_random_number(zoo, backbone):
    plain, expected = trained(zoo, backbone, epochs=1)
    off, random = trained(zoo, backbone, distilling(weight=0.0), epochs=1)
    assert type(off) is type(plain)
    assert set(vars(off)) == set(vars(plain))
    assert torch.equal(random, expected)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(off.state_dict()[name], tensor), name
    on, random = trained(zoo, backbone, distilling(weight=0.5), epochs=1)
    assert torch.equal(random, expected)
    assert list(on.state_dict()) == list(plain.state_dict())
    assert any(not torch.equal(on.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize(("zoo", "backbone"), DISTILLED, ids=DISTILLED_IDS)
def test_undo_leaves_the_plain_class_with_what_it_learnt_and_a_copy_goes_on(zoo, backbone):
    plain = zoo.build(backbone)
    model = zoo.build(backbone)
    done = distill_features(model, vectors(), **NAMES, weight=20.0)
    assert done.n_items == backbones.N_ITEMS
    zoo.compile_model(backbone, model)
    start = model.sllmr_losses["distill"].project.weight.detach().clone()
    zoo.fit(backbone, model, epochs=5)
    assert not torch.equal(model.sllmr_losses["distill"].project.weight, start)
    losses = [epoch["sllmr_distill"] for epoch in model.sllmr_losses["distill"].epochs]
    assert len(losses) == 5
    assert np.isfinite(losses).all()
    if backbone.name in CLEAR:
        assert losses[-1] < losses[0] - 0.1
    learnt = zoo.predict(model)
    if backbone.name != "DIEN_negsampling":  # plain, it cannot be copied either: its aux_loss is on the graph
        twin = copy.deepcopy(model)
        zoo.fit(backbone, twin, epochs=1)
        assert not np.array_equal(zoo.predict(twin), learnt)
    done.undo(model)
    assert type(model) is type(plain)
    assert not any(module._forward_pre_hooks for module in model.modules())
    np.testing.assert_array_equal(zoo.predict(model), learnt)
    zoo.fit(backbone, model, epochs=1)


@pytest.mark.parametrize(("zoo", "backbone"), DISTILLED, ids=DISTILLED_IDS)
def test_wrapping_before_or_after_makes_no_difference(zoo, backbone):
    def wrapping(model):
        return zoo.wrapped(backbone, model, SelectiveConfig(gate="none", weight=0.5, seed=1))

    first, _ = trained(zoo, backbone, wrapping, distilling(weight=0.5), epochs=1)
    second, _ = trained(zoo, backbone, distilling(weight=0.5), wrapping, epochs=1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    alone, _ = trained(zoo, backbone, wrapping, epochs=1)
    assert any(not torch.equal(alone.state_dict()[name], tensor) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("name", WITHOUT)
def test_classes_without_such_features_are_refused(name):
    zoo, backbone = CASES[IDS.index(name)]
    with pytest.raises(UnsupportedModelError, match="no linear layer that makes one number of several"):
        distill_features(zoo.build(backbone), vectors(), **NAMES)
