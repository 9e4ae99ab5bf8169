"""Extra rows in a forward pass: batch statistics are those of the batch alone."""

from __future__ import annotations

import copy

import pytest
import torch
from deepctr_torch.layers.activation import Dice
from torch import nn

from sllmr_plugin.backends.base import dropouts
from sllmr_plugin.backends.first_rows import batch_norms, statistics_of_first
from sllmr_plugin.backends.forward import captured_input, training_mode

N_FIRST, N_EXTRA, CHANNELS, LENGTH = 8, 5, 4, 3


def tensor(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 1


def randomised(norm):
    """Give a norm weights and running statistics that are not the trivial ones."""
    generator = torch.Generator().manual_seed(5)
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        if values is not None:
            values.data.copy_(torch.rand(values.shape, generator=generator) + 0.5)
    return norm


NORMS = {
    "2d": (nn.BatchNorm1d(CHANNELS), (CHANNELS,)),
    "3d": (nn.BatchNorm1d(CHANNELS), (CHANNELS, LENGTH)),
    "4d": (nn.BatchNorm2d(CHANNELS), (CHANNELS, LENGTH, 2)),
    "without weights": (nn.BatchNorm1d(CHANNELS, affine=False), (CHANNELS,)),
    "cumulative average": (nn.BatchNorm1d(CHANNELS, momentum=None), (CHANNELS,)),
    "large eps": (nn.BatchNorm1d(CHANNELS, eps=0.3), (CHANNELS, LENGTH)),
    "without running statistics": (nn.BatchNorm1d(CHANNELS, track_running_stats=False), (CHANNELS,)),
}


@pytest.mark.parametrize("name", NORMS)
def test_the_batch_is_normalised_as_without_the_rest_and_the_rest_with_its_statistics(name):
    norm, shape = NORMS[name]
    norm = randomised(copy.deepcopy(norm))
    alone, shared = copy.deepcopy(norm), norm
    rows = tensor(N_FIRST + N_EXTRA, *shape)
    expected = alone(rows[:N_FIRST])
    with statistics_of_first([shared], N_FIRST, len(rows)):
        output = shared(rows)

    torch.testing.assert_close(output[:N_FIRST], expected, rtol=0, atol=0)
    for (key, value), other in zip(shared.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(value, other), key  # running mean, variance and count

    # the rest, a channel at a time by the formula
    for channel in range(CHANNELS):
        values = rows[:N_FIRST, channel].flatten().double()
        mean = values.sum() / len(values)
        variance = ((values - mean) ** 2).sum() / len(values)
        by_hand = (rows[N_FIRST:, channel] - mean) / (variance + norm.eps).sqrt()
        if norm.affine:
            by_hand = by_hand * norm.weight[channel] + norm.bias[channel]
        torch.testing.assert_close(output[N_FIRST:, channel], by_hand.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_without_a_graph_the_statistics_are_computed_again(name):
    norm, shape = NORMS[name]
    norm = randomised(copy.deepcopy(norm))
    rows = tensor(N_FIRST + N_EXTRA, *shape).requires_grad_()
    outputs = []
    for graph in (True, False):
        twin = copy.deepcopy(norm)
        with torch.set_grad_enabled(graph), statistics_of_first([twin], N_FIRST, len(rows)):
            outputs.append(twin(rows))
    assert outputs[0].requires_grad
    assert not outputs[1].requires_grad
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(CHANNELS,), (LENGTH, CHANNELS)])
def test_dice_is_covered(shape):
    alone = Dice(CHANNELS, dim=len(shape) + 1)
    alone.alpha.data = tensor(*alone.alpha.shape)
    shared = copy.deepcopy(alone)
    rows = tensor(N_FIRST + N_EXTRA, *shape)
    expected = alone(rows[:N_FIRST])
    with statistics_of_first(batch_norms(shared), N_FIRST, len(rows)):
        output = shared(rows)
    torch.testing.assert_close(output[:N_FIRST], expected)
    assert output.shape == rows.shape
    assert torch.equal(shared.bn.running_var, alone.bn.running_var)


def network():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(3, CHANNELS), nn.BatchNorm1d(CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, 2), nn.BatchNorm1d(2)
    )


def test_gradients_of_the_batch_are_those_of_a_pass_without_the_rest():
    alone, shared = network(), network()
    rows = tensor(N_FIRST + N_EXTRA, 3)
    alone(rows[:N_FIRST]).square().sum().backward()
    with statistics_of_first(batch_norms(shared), N_FIRST, len(rows)):
        shared(rows)[:N_FIRST].square().sum().backward()
    for one, other in zip(alone.parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_what_the_rest_holds_changes_nothing_of_the_batch():
    outputs, states = [], []
    for scale in (1.0, 1000.0):
        model = network()
        rows = tensor(N_FIRST + N_EXTRA, 3)
        rows[N_FIRST:] *= scale
        with statistics_of_first(batch_norms(model), N_FIRST, len(rows)):
            outputs.append(model(rows)[:N_FIRST])
        states.append(model.state_dict())
    assert torch.equal(*outputs)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_loss_of_the_rest_trains_what_lies_before_the_norm():
    model = network()
    rows = tensor(N_FIRST + N_EXTRA, 3)
    with statistics_of_first(batch_norms(model), N_FIRST, len(rows)):
        model(rows)[N_FIRST:].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model[0].weight.grad.abs().sum() > 0


def test_no_extra_rows_and_a_norm_that_is_called_twice():
    norm = randomised(nn.BatchNorm1d(CHANNELS))
    alone = copy.deepcopy(norm)
    first, second = tensor(N_FIRST, CHANNELS, seed=1), tensor(N_FIRST, CHANNELS, seed=2)
    with statistics_of_first([norm], N_FIRST, N_FIRST):
        torch.testing.assert_close(norm(first), alone(first))
        torch.testing.assert_close(norm(second), alone(second))
    assert torch.equal(norm.running_mean, alone.running_mean)


def test_in_evaluation_mode_rows_do_not_meet_anyway():
    norm = randomised(nn.BatchNorm1d(CHANNELS)).eval()
    rows = tensor(N_FIRST + N_EXTRA, CHANNELS)
    expected, before = norm(rows), copy.deepcopy(norm.state_dict())
    with statistics_of_first([norm], N_FIRST, len(rows)):
        assert torch.equal(norm(rows), expected)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


def test_rows_that_cannot_be_told_apart_are_an_error_and_hooks_go():
    norm = nn.BatchNorm1d(CHANNELS)
    with pytest.raises(RuntimeError, match="7 rows where the model's input has 13"):
        with statistics_of_first([norm], N_FIRST, N_FIRST + N_EXTRA):
            norm(tensor(7, CHANNELS))
    rows = tensor(7, CHANNELS)
    assert torch.equal(norm(rows), nn.BatchNorm1d(CHANNELS)(rows))  # plain again
    assert not norm._forward_hooks
    assert not norm._forward_pre_hooks


def test_norms_and_dropouts_are_found_at_any_depth():
    model = nn.ModuleDict(
        {
            "a": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.3)),
            "b": nn.ModuleList([nn.BatchNorm2d(2), nn.Dropout(0.0), nn.LayerNorm(2), nn.Dropout2d(0.1)]),
            "c": Dice(4),
        }
    )
    assert {type(module) for module in batch_norms(model)} == {nn.BatchNorm1d, nn.BatchNorm2d}
    assert len(batch_norms(model)) == 3
    assert [module.p for module in dropouts(model)] == [0.3, 0.1]  # a rate of 0 draws nothing


def test_modes_are_restored_one_by_one_also_after_an_error():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(0.5)))
    model[1].eval()
    before = [module.training for module in model.modules()]
    with training_mode(list(model.modules()), False):
        assert not any(module.training for module in model.modules())
        with training_mode(dropouts(model), True):
            assert [module.training for module in model.modules()] == [False, True, False, False, True]
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ZeroDivisionError), training_mode(list(model.modules()), False):
        _ = 1 / 0
    assert [module.training for module in model.modules()] == before


def test_inputs_are_captured_in_order_and_only_inside():
    layer = nn.Linear(2, 1)
    with captured_input(layer) as seen:
        layer(torch.zeros(1, 2))
        layer(torch.ones(3, 2))
    layer(torch.zeros(9, 2))
    assert [values.shape[0] for values in seen] == [1, 3]
    assert seen[1].tolist() == [[1.0, 1.0]] * 3
    with captured_input(None) as seen:
        layer(torch.zeros(1, 2))
    assert seen == []
    with pytest.raises(RuntimeError), captured_input(layer):
        layer(torch.zeros(1, 3))
    assert not layer._forward_pre_hooks
