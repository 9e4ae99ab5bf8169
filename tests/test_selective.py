"""The loss of a step against a double loop over the pairs of every user."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin.config import SelectiveConfig
from sllmr_plugin.regularizer.gates import (
    BilevelGate,
    BudgetGate,
    DisagreementGate,
    FixedGate,
    JointGate,
    OpenGate,
)
from sllmr_plugin.regularizer.losses import LOSSES
from sllmr_plugin.regularizer.pairs import PAIR_RULES, OrderedPairs, select_pairs
from sllmr_plugin.regularizer.signals import PAIR_SIGNALS, REGIONS, Entries, PairSignals, pair_regions

ALL = 1000  # more pairs than any block below holds
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-8}
# exact in float32: of an item's signals and of a pair's
WEIGHTS, PAIR_WEIGHTS, BIAS = (0.75, -1.25, 0.625), (0.75, -1.25, 0.625, -0.375), 0.25
MULTIPLIER, RHO = 1.5, 0.5


def linear_gate(kind):
    gate = kind()
    with torch.no_grad():
        gate.weight.copy_(torch.tensor(WEIGHTS if len(gate.weight) == 3 else PAIR_WEIGHTS))
        gate.bias.fill_(BIAS)
        if kind is BudgetGate:
            gate.multiplier.fill_(MULTIPLIER)
        if kind is DisagreementGate:
            gate.covariance.mul_(0.25)
    return gate


GATES = {
    "open": OpenGate,
    "fixed": FixedGate,
    "joint": lambda: linear_gate(JointGate),
    "budget": lambda: linear_gate(BudgetGate),
    "bilevel": lambda: linear_gate(BilevelGate),
    "disagreement": lambda: linear_gate(DisagreementGate),
}
DESCENDED_ON = ("joint", "budget")


@dataclass(frozen=True)
class Step:
    """A block of users and items: what the LLM and the model say of every cell."""

    llm: torch.Tensor
    valid: torch.Tensor
    logit: torch.Tensor
    cold: torch.Tensor
    tail: torch.Tensor
    uncertainty: torch.Tensor

    @property
    def entries(self):
        return Entries(self.llm.flatten(), self.cold.flatten(), self.tail.flatten())

    def run(self, config, gate, pairs):
        logit = self.logit.flatten().clone().requires_grad_()
        q = self.uncertainty.flatten() if gate.uses_uncertainty else None
        result = config.build(gate).of_pairs(logit, torch.sigmoid(logit), q, self.entries, pairs)
        assert not result.mean_loss.requires_grad
        result.objective.backward()
        return result, logit.grad


@st.composite
def steps(draw, dtype):
    """Scores in eighths, for ties; any mask, for users with one item or none; empty blocks; no near-ties."""
    n_users, width = draw(st.integers(0, 3)), draw(st.integers(0, 5))
    shape, cells = (n_users, width), n_users * width

    def cell_values(values):
        return draw(st.lists(values, min_size=cells, max_size=cells))

    cold = draw(st.lists(st.booleans(), min_size=n_users, max_size=n_users))
    return Step(
        llm=torch.tensor(cell_values(st.integers(0, 8)), dtype=torch.float32).view(shape) / 8,
        valid=torch.tensor(cell_values(st.sampled_from([True, True, True, False])), dtype=torch.bool).view(shape),
        logit=torch.tensor(cell_values(st.integers(-384, 384)), dtype=dtype).view(shape) / 64,
        cold=torch.tensor(cold, dtype=torch.bool).view(-1, 1).expand(shape),
        tail=torch.tensor(cell_values(st.booleans()), dtype=torch.bool).view(shape),
        uncertainty=torch.tensor(cell_values(st.floats(0, 1, width=32)), dtype=dtype).view(shape),
    )


# ---------------------------------------------------------------------- the double loop, in Python's numbers


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def alpha_by_hand(gate, z_i, z_j, gap):
    if gate == "open":
        return 1.0
    if gate == "fixed":
        return (max(z_i[:2]) + max(z_j[:2])) / 2
    if gate in DESCENDED_ON:
        return sum(sigmoid(sum(w * x for w, x in zip(WEIGHTS, z, strict=True)) + BIAS) for z in (z_i, z_j)) / 2
    signals = (*((x + y) / 2 for x, y in zip(z_i, z_j, strict=True)), gap)
    logit = sum(w * x for w, x in zip(PAIR_WEIGHTS, signals, strict=True)) + BIAS
    if gate == "bilevel":
        return sigmoid(logit)
    deviation = math.sqrt(0.25 * (1 + sum(x * x for x in signals)))
    return max(0.0, 2 * sigmoid(logit - deviation) - 1)


def loss_by_hand(loss, difference, margin):
    """Return a pair's loss and its derivative by the difference."""
    if loss == "hinge":
        return max(0.0, margin - difference), -1.0 if difference < margin else 0.0
    return math.log1p(math.exp(margin - difference)), -sigmoid(margin - difference)


def all_pairs(step):
    """Every (i, j) of one user, both valid, the LLM scoring i higher; positions in the flattened block."""
    n_users, width = step.llm.shape
    return [
        (user * width + i, user * width + j)
        for user in range(n_users)
        for i, j in itertools.product(range(width), repeat=2)
        if step.valid[user, i] and step.valid[user, j] and step.llm[user, i] > step.llm[user, j]
    ]


def step_by_hand(step, pairs, gate, loss, score_space, margin):
    """Return mean loss, its gradient by the logits, and sums and counts of alpha by region."""
    logit, cold, tail, q, llm = (
        values.flatten().tolist() for values in (step.logit, step.cold, step.tail, step.uncertainty, step.llm)
    )
    probability = [sigmoid(x) for x in logit]
    in_logits = score_space == "logit"
    score = logit if in_logits else probability
    slope_of_score = [1.0 if in_logits else p * (1 - p) for p in probability]
    total, gradient = 0.0, [0.0] * len(logit)
    sums, counts = dict.fromkeys(REGIONS, 0.0), dict.fromkeys(REGIONS, 0)
    for i, j in pairs:
        alpha = alpha_by_hand(gate, (cold[i], tail[i], q[i]), (cold[j], tail[j], q[j]), llm[i] - llm[j])
        value, slope = loss_by_hand(loss, score[i] - score[j], margin)
        total += alpha * value
        gradient[i] += alpha * slope * slope_of_score[i] / len(pairs)
        gradient[j] -= alpha * slope * slope_of_score[j] / len(pairs)
        regions = {"all"} | ({"cold"} if cold[i] else set()) | ({"tail"} if tail[i] or tail[j] else set())
        for region in regions if len(regions) > 1 else {"all", "neither"}:
            sums[region] += alpha
            counts[region] += 1
    return total / max(len(pairs), 1), gradient, list(sums.values()), list(counts.values())


def assert_equals_double_loop(step, pairs, listed, gate, config):
    dtype = step.logit.dtype
    expected = step_by_hand(step, listed, gate, config.loss, config.score_space, config.resolved_margin)
    result, gradient = step.run(config, GATES[gate]().to(dtype), pairs)
    close = {"rel": TOLERANCE[dtype], "abs": TOLERANCE[dtype]}
    assert result.mean_loss.dtype == dtype
    assert result.mean_loss.item() == pytest.approx(expected[0], **close)
    short = RHO - expected[2][0] / max(len(listed), 1)
    term = MULTIPLIER * short + 5 * short**2 if gate == "budget" and listed else 0.0
    assert result.objective.item() == pytest.approx(expected[0] + term, **close)
    assert gradient.tolist() == pytest.approx(expected[1], **close)
    assert result.gate_sums.tolist() == pytest.approx(expected[2], **close)
    assert result.gate_counts.tolist() == expected[3]
    assert result.n_terms == len(listed)


PAIR_LOSSES = [name for name, kind in LOSSES.items() if kind.pairwise]
COMBINATIONS = [
    pytest.param(dtype, loss, space, id=f"{str(dtype)[6:]}-{loss}-{space}")
    for dtype, loss, space in itertools.product(TOLERANCE, PAIR_LOSSES, ("logit", "probability"))
]


@pytest.mark.parametrize(("dtype", "loss", "score_space"), COMBINATIONS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_loss_is_that_of_a_double_loop_over_all_pairs(data, dtype, loss, score_space):
    step = data.draw(steps(dtype))
    rule, gate = data.draw(st.sampled_from(list(PAIR_RULES))), data.draw(st.sampled_from(list(GATES)))
    margin = data.draw(st.sampled_from([None, 0.0, 0.7]))
    config = SelectiveConfig(loss=loss, score_space=score_space, margin=margin, pair_rule=rule)
    pairs = select_pairs(step.llm, step.valid, max_pairs=ALL, rule=rule, generator=torch.Generator().manual_seed(0))
    assert_equals_double_loop(step, pairs, all_pairs(step), gate, config)


@pytest.mark.parametrize(("dtype", "loss", "score_space"), COMBINATIONS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_with_few_pairs_the_loss_is_that_of_the_largest_gaps(data, dtype, loss, score_space):
    step = data.draw(steps(dtype))
    max_pairs, gate = data.draw(st.integers(1, 5)), data.draw(st.sampled_from(list(GATES)))
    config = SelectiveConfig(loss=loss, score_space=score_space, pair_rule="largest", pairs_per_user=max_pairs)
    pairs = select_pairs(step.llm, step.valid, max_pairs=max_pairs, rule="largest")
    taken = list(zip(pairs.preferred.tolist(), pairs.other.tolist(), strict=True))

    llm, width = step.llm.flatten().tolist(), step.llm.shape[1]
    expected_gaps = []
    for user in range(step.llm.shape[0]):
        gaps = sorted((llm[i] - llm[j] for i, j in all_pairs(step) if i // width == user), reverse=True)
        expected_gaps += [(user, gap) for gap in gaps[:max_pairs]]
    assert sorted((i // width, llm[i] - llm[j]) for i, j in taken) == sorted(expected_gaps)
    assert len(set(taken)) == len(taken)
    # which of several pairs with the same gap are taken is open; the loss is that of those
    assert_equals_double_loop(step, pairs, taken, gate, config)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("mode", ["pointwise_mse", "pointwise_bce", "kd"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_pointwise_losses_are_those_of_a_loop_over_the_entries(data, mode, dtype):
    step = data.draw(steps(dtype))
    nothing = torch.empty(0, dtype=torch.int64)
    config = SelectiveConfig.of_mode(mode, {"kd_temperature": 3.0})
    result, gradient = step.run(config, OpenGate(), OrderedPairs(nothing, nothing))
    values, slopes = [], []
    for x, t in zip(step.logit.flatten().tolist(), step.llm.flatten().tolist(), strict=True):
        p = sigmoid(x)
        if mode == "pointwise_mse":
            values.append((p - t) ** 2)
            slopes.append(2 * (p - t) * p * (1 - p))
        elif mode == "kd":
            t = min(max(t, 0.01), 0.99)
            soft, p = sigmoid(math.log(t / (1 - t)) / 3), sigmoid(x / 3)
            values.append(9 * (-soft * math.log(p) - (1 - soft) * math.log(1 - p)))
            slopes.append(3 * (p - soft))  # T^2 times the chain rule's 1 / T
        else:
            values.append(-t * math.log(p) - (1 - t) * math.log(1 - p))
            slopes.append(p - t)
    n = max(len(values), 1)
    close = {"rel": TOLERANCE[dtype], "abs": TOLERANCE[dtype]}
    assert result.mean_loss.item() == pytest.approx(sum(values) / n, **close)
    assert gradient.tolist() == pytest.approx([slope / n for slope in slopes], **close)
    assert result.n_terms == len(values)
    assert result.gate_counts.tolist() == [0] * 4  # there is no gate in these modes


# ---------------------------------------------------------------------- what stands around the loss


@pytest.mark.parametrize("mode", ["global", "gated", "joint", "pointwise_mse", "pointwise_bce", "kd"])
def test_without_a_term_the_loss_is_a_zero_that_keeps_the_graph(mode):
    nothing = torch.empty(0, dtype=torch.int64)
    empty = Entries(torch.empty(0), nothing.bool(), nothing.bool())
    weight = torch.ones(3, requires_grad=True)
    logit = (torch.zeros(0, 3) * weight).sum(dim=1)
    result = (
        SelectiveConfig.of_mode(mode)
        .build(OpenGate())
        .of_pairs(logit, logit.sigmoid(), None, empty, OrderedPairs(nothing, nothing))
    )
    (result.objective + 0 * weight.sum()).backward()
    assert (result.objective.item(), result.mean_loss.item(), result.n_terms) == (0.0, 0.0, 0)
    assert weight.grad.tolist() == [0.0] * 3
    assert result.gate_sums.tolist() == result.gate_counts.tolist() == [0.0] * 4


def test_only_gates_of_algorithm_1_are_given_a_gradient_and_none_reaches_the_uncertainty():
    step = Step(
        llm=torch.tensor([[0.9, 0.1]]),
        valid=torch.ones(1, 2, dtype=torch.bool),
        logit=torch.tensor([[-1.0, 1.0]]),
        cold=torch.ones(1, 2, dtype=torch.bool),
        tail=torch.zeros(1, 2, dtype=torch.bool),
        uncertainty=torch.tensor([[0.5, 0.25]]),
    )
    pairs = OrderedPairs(torch.tensor([0]), torch.tensor([1]))
    for name in GATES:
        gate = GATES[name]()
        result, _ = step.run(SelectiveConfig(gate="joint"), gate, pairs)
        assert not result.gate_sums.requires_grad
        assert all(parameter.grad is not None for parameter in gate.parameters())
        assert (len(list(gate.parameters())) > 0) == (name in DESCENDED_ON)


def test_a_descent_step_moves_the_pair_towards_the_llms_order():
    step = Step(
        llm=torch.tensor([[0.2, 0.8, 0.8]]),
        valid=torch.ones(1, 3, dtype=torch.bool),
        logit=torch.tensor([[1.0, -1.0, 0.5]]),
        cold=torch.zeros(1, 3, dtype=torch.bool),
        tail=torch.zeros(1, 3, dtype=torch.bool),
        uncertainty=torch.zeros(1, 3),
    )
    pairs = select_pairs(step.llm, step.valid, max_pairs=9, rule="largest")
    for loss, space in itertools.product(PAIR_LOSSES, ("logit", "probability")):
        _, gradient = step.run(SelectiveConfig(gate="none", loss=loss, score_space=space), OpenGate(), pairs)
        assert gradient[0] > 0 > max(gradient[1], gradient[2])


def test_regions_of_pairs():
    # pairs of a cold user, of two head items, of a long-tail item on either side, and of both kinds
    cold = torch.tensor([True, True, False, False, False, False, True, True])
    tail = torch.tensor([False, False, False, False, True, False, False, True])
    entries = Entries(torch.zeros(8), cold, tail)
    pairs = OrderedPairs(torch.tensor([0, 2, 4, 5, 6]), torch.tensor([1, 3, 5, 4, 7]))
    regions = dict(zip(REGIONS, pair_regions(entries, pairs).int().tolist(), strict=True))
    assert regions == {
        "all": [1, 1, 1, 1, 1],
        "cold": [1, 0, 0, 0, 1],
        "tail": [0, 0, 1, 1, 1],
        "neither": [0, 1, 0, 0, 0],
    }


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_signals_of_pairs_put_the_llms_first_item_first(data):
    step = data.draw(steps(torch.float64))
    pairs = select_pairs(step.llm, step.valid, max_pairs=ALL, rule="largest")
    cold, tail, q, llm = (x.flatten().tolist() for x in (step.cold, step.tail, step.uncertainty, step.llm))
    for uncertainty in (step.uncertainty.flatten(), None):
        signals = PairSignals.of(step.entries, uncertainty, pairs, like=step.logit)
        q = q if uncertainty is not None else [0.0] * len(q)
        expected = [
            [cold[i], (tail[i] + tail[j]) / 2, (q[i] + q[j]) / 2, llm[i] - llm[j]]
            for i, j in zip(pairs.preferred.tolist(), pairs.other.tolist(), strict=True)
        ]
        design = signals.design()
        assert design.dtype == torch.float64
        assert design.shape == (len(pairs), len(PAIR_SIGNALS))
        assert design.flatten().tolist() == pytest.approx([float(x) for row in expected for x in row])
        assert (signals.gap > 0).all()
    moved = signals.to(torch.device("meta"))
    assert {x.device.type for x in (moved.preferred, moved.other, moved.gap)} == {"meta"}
