"""`pretrain` and `similar_users` on every model class that has what they train: what moves, and what does not."""

import warnings

import numpy as np
import pytest
import torch

from sllmr_plugin import NotLearntWarning, Vectors, pretrain, similar_users
from sllmr_plugin.errors import UnsupportedModelError

from . import backbones
from .cases import CASES, IDS
from .test_align import ALIGNED, ALIGNED_IDS, NAMES, trained, vectors
from .test_distill import DISTILLED, DISTILLED_IDS, WITHOUT


def with_users():
    """A vector an item, and a vector a user."""
    rows = np.random.default_rng(4).normal(size=(backbones.N_USERS, 7)).astype(np.float32)
    own = Vectors.read(dict(enumerate(rows, start=1))).items
    return Vectors(Vectors.read(vectors()).items, own, "vectors of the test")


@pytest.mark.parametrize(("zoo", "backbone"), DISTILLED, ids=DISTILLED_IDS)
def test_pretraining_moves_weights_and_nothing_else(zoo, backbone):
    plain, model = zoo.build(backbone), zoo.build(backbone)
    zoo.compile_model(backbone, plain)
    zoo.compile_model(backbone, model)
    before, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    rows = zoo.inputs(model) if zoo is backbones else zoo.generators(model)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotLearntWarning)  # a few steps
        done = pretrain(model, with_users(), rows, **NAMES, steps=3, batch_size=48)
    assert torch.equal(torch.get_rng_state(), before)
    assert done.steps == 3
    assert type(model) is type(plain)
    assert set(vars(model)) == set(vars(plain))
    assert getattr(model, "aux_loss", 0) == getattr(plain, "aux_loss", 0)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert list(model.state_dict()) == list(plain.state_dict())
    moved = {name for name, value in plain.state_dict().items() if not torch.equal(model.state_dict()[name], value)}
    assert any("user_id" in name for name in moved)
    zoo.fit(backbone, model, epochs=1)


@pytest.mark.parametrize("name", WITHOUT)
def test_classes_without_a_last_layer_are_refused(name):
    zoo, backbone = CASES[IDS.index(name)]
    model = zoo.build(backbone)
    with pytest.raises(UnsupportedModelError, match="no linear layer that makes one number of several"):
        pretrain(model, with_users(), zoo.inputs(model), **NAMES)


@pytest.mark.parametrize(("zoo", "backbone"), ALIGNED, ids=ALIGNED_IDS)
def test_similar_users_have_a_loss_and_undo_takes_it_off(zoo, backbone):
    made = []

    def pulling(model):
        made.append(similar_users(model, with_users(), **NAMES))

    plain = zoo.build(backbone)
    model, _ = trained(zoo, backbone, pulling, epochs=1)
    (epoch,) = model.sllmr_losses["similar"].epochs
    assert epoch["sllmr_similar"] > 0
    assert list(model.state_dict()) == list(plain.state_dict())
    made[0].undo(model)
    assert type(model) is type(plain)
