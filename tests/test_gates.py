"""Gates against their formulas, and what a fit on disagreements finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.linear_model import LogisticRegression

from sllmr_plugin.regularizer.gate import (
    SIGNAL_NAMES,
    DisagreementGate,
    FixedGate,
    JointGate,
    OpenGate,
    build_gate,
)

SIGNALS = st.tuples(st.booleans(), st.booleans(), st.floats(0, 1, width=32)).map(lambda z: tuple(map(float, z)))
PAIRS = st.lists(st.tuples(SIGNALS, SIGNALS), min_size=1, max_size=8)
COEFFICIENTS = st.lists(st.floats(-4, 4, width=32), min_size=4, max_size=4)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def tensors(pairs, dtype=torch.float32):
    return (torch.tensor([pair[side] for pair in pairs], dtype=dtype).view(-1, 3) for side in (0, 1))


def with_coefficients(gate, coefficients):
    with torch.no_grad():
        gate.weight.copy_(torch.tensor(coefficients[:3]))
        gate.bias.fill_(coefficients[3])
    return gate


def linear(z, coefficients):
    return sum(w * x for w, x in zip(coefficients, (*z, 1.0), strict=True))


# ---------------------------------------------------------------------- the forms


@given(PAIRS, COEFFICIENTS, st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=60, deadline=None)
def test_gates_follow_their_formulas(pairs, coefficients, dtype):
    expected = {
        OpenGate: [1.0 for _ in pairs],
        FixedGate: [(max(a[0], a[1]) + max(b[0], b[1])) / 2 for a, b in pairs],
        JointGate: [(sigmoid(linear(a, coefficients)) + sigmoid(linear(b, coefficients))) / 2 for a, b in pairs],
        DisagreementGate: [
            max(0.0, 2 * sigmoid(linear([(x + y) / 2 for x, y in zip(a, b, strict=True)], coefficients)) - 1)
            for a, b in pairs
        ],
    }
    preferred, other = tensors(pairs, dtype)
    for kind, values in expected.items():
        gate = kind().to(dtype)
        if hasattr(gate, "bias"):
            with_coefficients(gate, coefficients)
        alpha = gate(preferred, other)
        assert alpha.dtype == dtype
        assert alpha.tolist() == pytest.approx(values, abs=2e-6), kind
        assert ((alpha >= 0) & (alpha <= 1)).all()
        assert torch.equal(alpha, gate(other, preferred))  # a pair's weight does not depend on who comes first


def test_coefficients_have_the_names_of_the_signals():
    for kind in (JointGate, DisagreementGate):
        gate = with_coefficients(kind(), [0.5, -1.0, 2.0, 0.25])
        assert gate.coefficients() == {"cold": 0.5, "tail": -1.0, "uncertainty": 2.0, "bias": 0.25}
        assert gate.uses_uncertainty
    assert SIGNAL_NAMES == ("cold", "tail", "uncertainty")
    for kind in (OpenGate, FixedGate):
        assert kind().coefficients() == {}
        assert not kind().uses_uncertainty


@pytest.mark.parametrize(
    ("mode", "gate", "has_probes", "kind"),
    [
        ("global", "auto", True, OpenGate),
        ("pointwise_mse", "auto", False, OpenGate),
        ("joint", "auto", True, JointGate),
        ("joint", "fixed", False, JointGate),
        ("gated", "auto", True, DisagreementGate),
        ("gated", "auto", False, FixedGate),
        ("gated", "fixed", True, FixedGate),
        ("gated", "disagreement", True, DisagreementGate),
    ],
)
def test_the_gate_of_a_mode(mode, gate, has_probes, kind):
    assert type(build_gate(mode, gate, has_probes=has_probes)) is kind


def test_only_a_joint_gate_has_anything_to_descend_on():
    trained = {kind: len(list(kind().parameters())) for kind in (OpenGate, FixedGate, JointGate, DisagreementGate)}
    assert trained == {OpenGate: 0, FixedGate: 0, JointGate: 2, DisagreementGate: 0}
    assert set(DisagreementGate().state_dict()) == {"weight", "bias"}  # yet it can be saved


# ---------------------------------------------------------------------- the published objective


@given(PAIRS, COEFFICIENTS, st.data())
@settings(max_examples=60, deadline=None)
def test_joint_descent_can_only_close_the_gate(pairs, coefficients, data):
    """d(alpha h)/d alpha = h >= 0, so no gradient ever asks for a wider gate."""
    h = data.draw(st.lists(st.floats(0, 10, width=32), min_size=len(pairs), max_size=len(pairs)))
    gate = with_coefficients(JointGate(), coefficients)
    (gate(*tensors(pairs)) * torch.tensor(h)).mean().backward()

    slope = [0.0] * 4
    for (a, b), loss in zip(pairs, h, strict=True):
        for z in (a, b):
            p = sigmoid(linear(z, coefficients))
            for k, x in enumerate((*z, 1.0)):
                slope[k] += loss * p * (1 - p) * x / 2 / len(pairs)
    assert gate.bias.grad.item() == pytest.approx(slope[3], abs=1e-5)
    assert gate.weight.grad.tolist() == pytest.approx(slope[:3], abs=1e-5)
    assert gate.bias.grad >= 0
    assert (gate.weight.grad >= 0).all()  # signals are not negative either


# ---------------------------------------------------------------------- P(LLM right | disagreement)


def disagreements(n, chance, seed=0):
    """Simulate pairs of a user: a common cold signal, own tail and uncertainty, and who was right."""
    rng = np.random.default_rng(seed)
    cold = rng.random(n) < 0.5
    z = [np.stack([cold, rng.random(n) < 0.3, rng.random(n)], axis=1).astype(np.float32) for _ in range(2)]
    mean = (z[0] + z[1]) / 2
    right = rng.random(n) < chance(mean)
    return torch.from_numpy(z[0]), torch.from_numpy(z[1]), torch.from_numpy(right), mean


def fitted(n, chance, seed=0, **options):
    gate = DisagreementGate(**options)
    preferred, other, right, mean = disagreements(n, chance, seed)
    gate.fit_disagreements(preferred, other, right)
    return gate, gate(preferred, other), mean


def constant(p):
    return lambda mean: np.full(len(mean), p)


def uneven(mean):
    return 1 / (1 + np.exp(-(-0.8 + 1.6 * mean[:, 0] - 0.9 * mean[:, 1] + 0.7 * mean[:, 2])))


@pytest.mark.parametrize("chance", [uneven, constant(0.75), constant(0.5)])
def test_five_thousand_disagreements_give_p_within_five_hundredths(chance):
    gate, alpha, mean = fitted(5000, chance)
    p = 1 / (1 + np.exp(-(mean @ gate.weight.numpy() + gate.bias.item())))
    assert np.abs(p - chance(mean)).max() < 0.05
    assert np.abs(alpha.numpy() - np.maximum(0, 2 * chance(mean) - 1)).max() < 0.1
    assert gate.calibrated


def test_noise_closes_the_gate():
    means = [fitted(5000, constant(0.5), seed)[1].mean().item() for seed in range(10)]
    assert max(means) < 0.05


def test_an_llm_that_is_worse_than_the_model_closes_the_gate():
    for seed in range(5):
        assert fitted(1000, constant(0.25), seed)[1].max().item() == 0


def test_the_gate_opens_only_where_the_llm_is_the_better_judge():
    _, alpha, mean = fitted(5000, lambda mean: np.where(mean[:, 0] == 1, 0.8, 0.2))
    cold = mean[:, 0] == 1
    assert alpha[cold].mean().item() == pytest.approx(0.6, abs=0.05)
    assert alpha[~cold].max().item() == 0


def test_twenty_disagreements_of_a_guessing_llm_open_little():
    alphas = [fitted(20, constant(0.5), seed)[1].mean().item() for seed in range(40)]
    assert np.mean(alphas) < 0.15
    assert np.mean(np.array(alphas) < 0.3) > 0.85


@pytest.mark.parametrize("n_right", [0, 8, 10, 13, 16, 20])
def test_few_disagreements_are_drawn_towards_a_half(n_right):
    """Without any signal the bias b alone is fitted; it solves n_right - 20 sigmoid(b) = b / scale^2."""
    none, right = torch.zeros(20, 3), torch.arange(20) < n_right
    for scale in (1.0, 0.5):
        gate = DisagreementGate(prior_scale=scale)
        gate.fit_disagreements(none, none, right)
        bias = brentq(lambda b, scale=scale: n_right - 20 * sigmoid(b) - b / scale**2, -10, 10)
        assert gate.bias.item() == pytest.approx(bias, abs=1e-5)
        assert gate.weight.tolist() == [0.0] * 3
        assert abs(sigmoid(bias) - 0.5) <= abs(n_right / 20 - 0.5)
        alpha = gate(none, none).max().item()
        assert alpha == pytest.approx(max(0.0, 2 * sigmoid(bias) - 1), abs=1e-5)
        if n_right <= 13:
            assert alpha < 0.3


def test_no_disagreement_leaves_the_gate_closed():
    gate = DisagreementGate()
    gate.fit_disagreements(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.bool))
    assert not gate.calibrated
    assert gate.coefficients() == dict.fromkeys((*SIGNAL_NAMES, "bias"), 0.0)
    assert gate(torch.ones(2, 3), torch.ones(2, 3)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("n", [30, 2000])
@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_the_fit_is_sklearns_with_a_penalised_constant(n, scale):
    gate = DisagreementGate(prior_scale=scale)
    preferred, other, right, mean = disagreements(n, uneven, seed=4)
    gate.fit_disagreements(preferred, other, right)
    centre = mean.mean(axis=0)
    design = np.column_stack([mean - centre, np.ones(n)]).astype(np.float64)
    # sklearn minimises C * sum of losses + |w|^2 / 2; a normal prior of deviation s has |w|^2 / (2 s^2)
    reference = LogisticRegression(C=scale**2, fit_intercept=False, tol=1e-10, max_iter=10_000)
    reference.fit(design, right.numpy())
    coefficients = np.array(list(gate.coefficients().values()))
    np.testing.assert_allclose(coefficients[:3], reference.coef_[0, :3], atol=2e-4)
    p = 1 / (1 + np.exp(-(mean @ coefficients[:3] + coefficients[3])))
    np.testing.assert_allclose(p, reference.predict_proba(design)[:, 1], atol=1e-4)


def test_a_signal_that_does_not_vary_gets_no_weight():
    """Uncertainty is near 1 everywhere before training; what it says of later values is nothing."""
    preferred, other, right, _ = disagreements(400, constant(0.8))
    preferred[:, 2] = other[:, 2] = 0.97
    gate = DisagreementGate()
    gate.fit_disagreements(preferred, other, right)
    assert gate.weight[2].item() == pytest.approx(0, abs=1e-6)
    before = gate(preferred, other)
    preferred[:, 2] = other[:, 2] = 0.2
    torch.testing.assert_close(gate(preferred, other), before)


def test_outcomes_that_a_signal_separates_stay_finite():
    preferred, other, _, mean = disagreements(500, constant(0.5))
    gate = DisagreementGate(prior_scale=10.0)
    gate.fit_disagreements(preferred, other, torch.from_numpy(mean[:, 0] == 1))
    assert all(math.isfinite(value) for value in gate.coefficients().values())
    alpha = gate(preferred, other).numpy()
    assert alpha[mean[:, 0] == 1].min() > 0.9
    assert alpha[mean[:, 0] == 0].max() == 0
