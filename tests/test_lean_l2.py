"""The L2 penalty in fewer passes: the same bits as DeepCTR-Torch's own, and only where it is DeepCTR-Torch's own."""

import copy

import pytest
import torch
from deepctr_torch.models import DeepFM
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin import SelectiveConfig, disabled, unwrap, wrap
from sllmr_plugin.backends.deepctr.fit_seams import LeanL2

from .matrix import backbones as zoo

DEEPFM = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")
OFF = SelectiveConfig(weight=0.0)
LEAN, OWN = "one pass over each table", "the model's own"


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8)


def model_with(*weights):
    """Return a model with random embeddings, and these (weights, l1, l2) in its list of penalties."""
    model = zoo.build(DEEPFM)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    for listed in weights:
        model.add_regularization_weight(*listed)
    return model


def value_and_gradients(model, penalty, factor):
    model.zero_grad()
    value = penalty()
    (factor * value.sum()).backward()
    return [value, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@given(
    st.floats(1e-12, 1e4),
    st.sampled_from([0.0, 1e-3]),
    st.sampled_from([1.0, 0.5, 1 / 3, 1e-20]),
    st.sampled_from([1e-25, 1e-6, 1.0, 1e15]),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=60, deadline=None)
def test_value_and_gradients_have_the_bits_of_the_own_penalty(l2, l1, factor, size, dtype):
    shared = torch.nn.Parameter(torch.randn((37, 5), generator=torch.Generator().manual_seed(1)) * size)
    model = model_with()
    model.extra = shared
    model.add_regularization_weight([shared, ("named", model.dnn_linear.weight)], l1=l1, l2=l2)
    model.add_regularization_weight(shared, l2=l2 / 3)  # in the list twice
    model = model.to(dtype)
    own = model.get_regularization_loss
    lean = LeanL2(model, own)
    expected = value_and_gradients(model, own, factor)
    got = value_and_gradients(model, lean, factor)
    assert str(lean) == LEAN
    assert len(got) == len(expected) > 3
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.equal(bits(mine), bits(theirs))


def test_a_frozen_table_has_a_penalty_and_no_gradient():
    model = model_with()
    table = model.embedding_dict["item_id"].weight.requires_grad_(False)
    lean = LeanL2(model, model.get_regularization_loss)
    assert torch.equal(lean(), model.get_regularization_loss())
    lean().backward()
    assert str(lean) == LEAN
    assert table.grad is None
    assert model.embedding_dict["user_id"].weight.grad is not None


def test_it_can_be_differentiated_twice():
    model = model_with().double()
    lean = LeanL2(model, model.get_regularization_loss)
    weight = model.embedding_dict["item_id"].weight
    (gradient,) = torch.autograd.grad(lean().sum(), weight, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), weight)
    (_, _, l2), *_ = model.regularization_weight
    assert str(lean) == LEAN
    torch.testing.assert_close(second, torch.full_like(weight, 2 * l2))


def test_without_gradients_and_without_any_penalty_it_works():
    model = model_with()
    lean = LeanL2(model, model.get_regularization_loss)
    with torch.no_grad():
        assert torch.equal(lean(), model.get_regularization_loss())
    model.regularization_weight = []
    assert torch.equal(lean(), torch.zeros(1))


# ---------------------------------------------------------------------- where it stands back


def test_weights_out_of_the_order_of_memory_are_left_to_the_own_penalty():
    model = model_with((torch.nn.Parameter(torch.randn(7, 5).T), 0.0, 0.1))
    lean = LeanL2(model, model.get_regularization_loss)
    assert torch.equal(lean(), model.get_regularization_loss())
    assert str(lean) == OWN


def test_a_penalty_that_does_not_come_out_the_same_is_not_used(monkeypatch):
    lean_value = LeanL2._lean
    monkeypatch.setattr(LeanL2, "_lean", lambda self: lean_value(self) * (1 + 2**-20))
    model = model_with()
    lean = LeanL2(model, model.get_regularization_loss)
    assert torch.equal(lean(), model.get_regularization_loss())
    assert str(lean) == OWN


class Warming(DeepFM):
    """Penalises more with every step; at the first, as the library does."""

    steps = 0

    def get_regularization_loss(self):
        self.steps += 1
        return super().get_regularization_loss() * self.steps


def test_a_penalty_that_a_subclass_has_written_is_called_every_step():
    plain, other = zoo.build(DEEPFM), zoo.build(DEEPFM)
    for model in (plain, other):
        model.__class__ = Warming
    wrapped = wrap(other, zoo.score_frame(), user="user_id", item="item_id", config=OFF)
    for model in (plain, wrapped):
        zoo.compile_model(DEEPFM, model)
        zoo.fit(DEEPFM, model)
    assert wrapped.steps == plain.steps > 2
    assert wrapped.history.history == plain.history.history
    assert f"L2 penalty: {OWN}" in str(wrapped.sllmr.status())


# ---------------------------------------------------------------------- in a wrapped fit


@pytest.mark.parametrize("config", [SelectiveConfig(gate="none"), OFF], ids=["global", "weight_zero"])
def test_a_wrapped_training_is_the_same_with_and_without(config):
    on, off = zoo.trained(DEEPFM, config), zoo.trained(DEEPFM, config, lean_l2=False)
    assert (on.sllmr.status().l2, off.sllmr.status().l2) == (LEAN, OWN)
    assert f"L2 penalty: {LEAN}" in str(on.sllmr.status())
    assert on.history.history == off.history.history
    for name, tensor in off.state_dict().items():
        assert torch.equal(on.state_dict()[name], tensor), name


def test_it_is_there_during_fit_only_and_in_no_copy():
    copies = []

    class Copying:
        def __getattr__(self, name):
            return lambda *_, **__: copies.append(copy.deepcopy(model)) if name == "on_epoch_end" else None

    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), OFF)
    zoo.compile_model(DEEPFM, model)
    assert model.sllmr.status().l2 == ""
    zoo.fit(DEEPFM, model, callbacks=[Copying()])
    assert copies
    assert all(made._sllmr_penalty is None for made in copies)
    assert model._sllmr_penalty is None
    with disabled(model):
        zoo.fit(DEEPFM, model)
    assert model.sllmr.status().l2 == LEAN
    plain = unwrap(model)
    assert plain.get_regularization_loss().item() > 0
