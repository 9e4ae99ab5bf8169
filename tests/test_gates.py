"""Gates against their formulas, their objectives against loops, and what a fit on disagreements finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from sllmr_plugin.config import SelectiveConfig
from sllmr_plugin.regularizer.gates import (
    GATES,
    BilevelGate,
    BudgetGate,
    DisagreementGate,
    FixedGate,
    JointGate,
    OpenGate,
    build_gate,
)
from sllmr_plugin.regularizer.pairs import OrderedPairs
from sllmr_plugin.regularizer.signals import ENTRY_SIGNALS, PAIR_SIGNALS, REGIONS, Entries, PairSignals

SIGNALS = st.tuples(st.booleans(), st.booleans(), st.floats(0, 1, width=32)).map(lambda z: tuple(map(float, z)))
GAPS = st.integers(1, 8).map(lambda eighths: eighths / 8)
PAIRS = st.lists(st.tuples(SIGNALS, SIGNALS, GAPS), min_size=1, max_size=8)
NUMBERS = st.floats(-4, 4, width=32)
COEFFICIENTS = st.lists(NUMBERS, min_size=4, max_size=4)
PAIR_COEFFICIENTS = st.lists(NUMBERS, min_size=5, max_size=5)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def signals_of(pairs, dtype=torch.float32):
    preferred, other, gap = zip(*pairs, strict=True)
    parts = torch.tensor(preferred).view(-1, 3), torch.tensor(other).view(-1, 3), torch.tensor(gap)
    return PairSignals(*(part.to(dtype) for part in parts))


def with_coefficients(gate, coefficients):
    with torch.no_grad():
        gate.weight.copy_(torch.tensor(coefficients[:-1]))
        gate.bias.fill_(coefficients[-1])
    return gate


def linear(z, coefficients):
    return sum(w * x for w, x in zip(coefficients, (*z, 1.0), strict=True))


def pair_signals(preferred, other, gap):
    return (*((a + b) / 2 for a, b in zip(preferred, other, strict=True)), gap)


# ---------------------------------------------------------------------- the forms


@given(PAIRS, COEFFICIENTS, PAIR_COEFFICIENTS, st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=60, deadline=None)
def test_gates_follow_their_formulas(pairs, of_items, of_pairs, dtype):
    joint = [(sigmoid(linear(a, of_items)) + sigmoid(linear(b, of_items))) / 2 for a, b, _ in pairs]
    expected = {
        OpenGate: [1.0 for _ in pairs],
        FixedGate: [(max(a[0], a[1]) + max(b[0], b[1])) / 2 for a, b, _ in pairs],
        JointGate: joint,
        BudgetGate: joint,
        BilevelGate: [sigmoid(linear(pair_signals(*pair), of_pairs)) for pair in pairs],
    }
    for kind, values in expected.items():
        gate = kind().to(dtype)
        if hasattr(gate, "bias"):
            with_coefficients(gate, of_pairs if kind is BilevelGate else of_items)
        alpha = gate(signals_of(pairs, dtype))
        assert alpha.dtype == dtype
        assert alpha.tolist() == pytest.approx(values, abs=2e-6), kind
        assert ((alpha >= 0) & (alpha <= 1)).all()


@given(PAIRS, PAIR_COEFFICIENTS, st.lists(st.floats(-1, 1), min_size=25, max_size=25), st.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_the_disagreement_gate_stands_a_deviation_below_its_estimate(pairs, coefficients, root, caution):
    centre = [0.4, 0.2, 0.6, 0.5]
    root = np.array(root).reshape(5, 5)
    covariance = root @ root.T + 0.01 * np.eye(5)
    gate = with_coefficients(DisagreementGate(caution=caution).double(), coefficients)
    gate.centre.copy_(torch.tensor(centre))
    gate.covariance.copy_(torch.from_numpy(covariance))
    expected = []
    for pair in pairs:
        x = [*(value - mean for value, mean in zip(pair_signals(*pair), centre, strict=True)), 1.0]
        variance = sum(x[i] * covariance[i, j] * x[j] for i in range(5) for j in range(5))
        logit = sum(w * value for w, value in zip(coefficients, x, strict=True)) - caution * math.sqrt(variance)
        expected.append(max(0.0, 2 * sigmoid(logit) - 1))
    assert gate(signals_of(pairs, torch.float64)).tolist() == pytest.approx(expected, abs=1e-6)
    at_zero = coefficients[4] - sum(w * mean for w, mean in zip(coefficients, centre, strict=False))
    assert gate.coefficients()["bias"] == pytest.approx(at_zero, abs=1e-5)


@given(PAIRS, PAIR_COEFFICIENTS, st.lists(st.floats(-1, 1), min_size=25, max_size=25), st.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_a_gate_is_shut_where_no_uncertainty_opens_it(pairs, coefficients, root, caution):
    gate = with_coefficients(DisagreementGate(caution=caution), coefficients)
    root = torch.tensor(root).reshape(5, 5)
    gate.covariance.copy_(root @ root.T)
    signals = signals_of(pairs)
    most = torch.zeros(len(pairs))
    for q in np.linspace(0, 1, 41):  # the mean of two items' uncertainties is all that counts
        for part in (signals.preferred, signals.other):
            part[:, 2] = q
        most = torch.maximum(most, gate(signals))
    for part in (signals.preferred, signals.other):
        part[:, 2] = 0
    shut = gate.shut(signals)
    assert (most[shut] == 0).all()


def test_a_forward_of_its_own_does_not_inherit_what_is_shut():
    class Bolder(DisagreementGate):
        def forward(self, signals):
            return torch.ones_like(signals.gap)

    class Named(DisagreementGate):
        pass

    class Sure(Bolder):
        def shut(self, signals):
            return torch.zeros_like(signals.gap, dtype=torch.bool)

    assert [one.knows_shut for one in (DisagreementGate, Bolder, Named, Sure)] == [True, False, True, True]


def test_most_of_what_is_shut_is_known_to_be():
    rng = np.random.default_rng(0)
    known = of = 0
    for _ in range(200):
        gate = with_coefficients(DisagreementGate(), rng.normal(size=5))
        root = torch.tensor(rng.normal(size=(5, 5)) / 4, dtype=torch.float32)
        gate.covariance.copy_(root @ root.T)
        z = torch.tensor(rng.integers(0, 2, (50, 3)), dtype=torch.float32)
        z[:, 2] = 0
        gap = torch.tensor(rng.uniform(0.1, 1, 50), dtype=torch.float32)
        shut = gate.shut(PairSignals(z, z, gap))
        most = torch.zeros(50)
        for q in np.linspace(0, 1, 41):
            z[:, 2] = q
            most = torch.maximum(most, gate(PairSignals(z, z, gap)))
        known += int(shut.sum())
        of += int((most == 0).sum())
    assert known >= 0.98 * of > 0


def test_coefficients_have_the_names_of_the_signals():
    assert ENTRY_SIGNALS == ("cold", "tail", "uncertainty")
    assert PAIR_SIGNALS == ("cold", "tail", "uncertainty", "gap")
    for kind, names in {
        JointGate: ENTRY_SIGNALS,
        BudgetGate: ENTRY_SIGNALS,
        BilevelGate: PAIR_SIGNALS,
        DisagreementGate: PAIR_SIGNALS,
    }.items():
        values = [0.5, -1.0, 2.0, 0.25][: len(names)]
        gate = with_coefficients(kind(), [*values, 0.125])
        assert gate.coefficients() == {**dict(zip(names, values, strict=True)), "bias": 0.125}
        assert gate.uses_uncertainty
    for kind in (OpenGate, FixedGate):
        assert kind().coefficients() == {}
        assert not kind().uses_uncertainty


@pytest.mark.parametrize(
    ("mode", "gate", "has_probes", "kind"),
    [
        ("global", "auto", True, OpenGate),
        ("pointwise_mse", "bilevel", False, OpenGate),
        ("joint", "auto", True, JointGate),
        ("joint", "fixed", False, JointGate),
        ("gated", "auto", True, DisagreementGate),
        ("gated", "auto", False, FixedGate),
        ("gated", "fixed", True, FixedGate),
        ("gated", "disagreement", True, DisagreementGate),
        ("gated", "joint", True, JointGate),
        ("gated", "budget", False, BudgetGate),
        ("gated", "bilevel", True, BilevelGate),
    ],
)
def test_the_gate_of_a_mode(mode, gate, has_probes, kind):
    config = SelectiveConfig.of_mode(mode, {"gate": gate})
    assert type(build_gate(config.gate if config.gated else "none", has_probes=has_probes)) is kind


def test_what_each_gate_asks_for():
    assert GATES.names == ("auto", *GATES)
    kinds = [kind for _, kind in GATES.items()]
    assert {kind for kind in kinds if kind.needs_probes} == {DisagreementGate, BilevelGate}
    assert {kind for kind in kinds if kind.looks_ahead} == {BilevelGate}
    assert {kind for kind in kinds if list(kind().parameters())} == {JointGate, BudgetGate}
    assert not any(kind.calibrated for kind in kinds)
    # what is learnt without descent can be saved all the same
    assert set(DisagreementGate().state_dict()) == {"weight", "bias", "centre", "covariance"}
    assert set(BilevelGate().state_dict()) == {"weight", "bias"}
    assert set(BudgetGate().state_dict()) == {"weight", "bias", "multiplier"}


def test_gates_move_with_all_that_they_have_learnt():
    for kind in (kind for _, kind in GATES.items()):
        gate = kind().to("meta")
        assert {tensor.device.type for tensor in gate.state_dict().values()} <= {"meta"}
    budget = BudgetGate()
    budget.penalty(torch.full((3,), 0.25))
    assert budget.to("meta").penalty(torch.ones(2, device="meta")).device.type == "meta"


# ---------------------------------------------------------------------- the published objective


@given(PAIRS, COEFFICIENTS, st.data())
@settings(max_examples=60, deadline=None)
def test_joint_descent_can_only_close_the_gate(pairs, coefficients, data):
    """d(alpha h)/d alpha = h >= 0, so no gradient ever asks for a wider gate."""
    h = data.draw(st.lists(st.floats(0, 10, width=32), min_size=len(pairs), max_size=len(pairs)))
    gate = with_coefficients(JointGate(), coefficients)
    (gate(signals_of(pairs)) * torch.tensor(h)).mean().backward()

    slope = [0.0] * 4
    for (a, b, _), loss in zip(pairs, h, strict=True):
        for z in (a, b):
            p = sigmoid(linear(z, coefficients))
            for k, x in enumerate((*z, 1.0)):
                slope[k] += loss * p * (1 - p) * x / 2 / len(pairs)
    assert gate.bias.grad.item() == pytest.approx(slope[3], abs=1e-5)
    assert gate.weight.grad.tolist() == pytest.approx(slope[:3], abs=1e-5)
    assert gate.bias.grad >= 0
    assert (gate.weight.grad >= 0).all()  # signals are not negative either


# ---------------------------------------------------------------------- a budget

LOSSES = {
    "small": lambda z, rng: np.full(len(z), 0.05),
    "large": lambda z, rng: np.full(len(z), 3.0),
    "any": lambda z, rng: rng.exponential(1.0, len(z)),
    "none": lambda z, rng: np.zeros(len(z)),
    "of cold users": lambda z, rng: 0.2 + 2 * z[:, 0],
}


def simulated(n, rng):
    """Draw pairs: half of cold users, 3 in 10 items of the long tail, gaps in eighths. Signals and (n, 4) design."""
    cold = rng.random(n) < 0.5
    z = [np.stack([cold, rng.random(n) < 0.3, rng.random(n)], axis=1).astype(np.float32) for _ in range(2)]
    gap = rng.integers(1, 9, n).astype(np.float32) / 8
    signals = PairSignals(torch.from_numpy(z[0]), torch.from_numpy(z[1]), torch.from_numpy(gap))
    design = np.array([pair_signals(a, b, t) for a, b, t in zip(*z, gap, strict=True)])
    return signals, design


OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.5),
}


def descend(gate, signals, loss, optimizer="adam", steps=750):
    """Train the gate on the same pairs; return least and largest mean alpha of the last 100 steps."""
    optimizer = OPTIMIZERS[optimizer](gate.parameters())
    means = []
    for _ in range(steps):
        optimizer.zero_grad()
        alpha = gate(signals)
        ((alpha * loss).mean() + (gate.penalty(alpha) if gate.has_penalty else 0)).backward()
        optimizer.step()
        means.append(alpha.mean().item())
    return [min(means[-100:]), max(means[-100:])]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", LOSSES)
def test_the_budget_is_held_whatever_the_losses_and_the_joint_gate_closes_on_them(kind, optimizer):
    rng = np.random.default_rng(1)
    signals, design = simulated(200, rng)
    loss = torch.from_numpy(LOSSES[kind](design, rng)).float()
    for rho in (0.5, 0.2):
        assert descend(BudgetGate(rho=rho), signals, loss, optimizer) == pytest.approx([rho, rho], abs=0.03)
    if kind not in ("none", "small"):  # which take longer
        assert max(descend(JointGate(), signals, loss, optimizer)) < 0.05


def test_the_multiplier_settles_at_the_loss_that_it_must_outweigh():
    """With one loss h for all pairs, alpha * h - mu * alpha is flat in alpha where mu = h."""
    signals, _ = simulated(200, np.random.default_rng(2))
    gate = BudgetGate()
    descend(gate, signals, torch.full((200,), 0.7))
    assert gate.multiplier.item() == pytest.approx(0.7, abs=0.05)


def test_the_multiplier_climbs_below_the_budget_and_sinks_above_it():
    gate, mu = BudgetGate(rho=0.3, rate=0.1, damping=4.0), 0.0
    for mean in (0.1, 0.2, 0.3, 0.9, 0.8):
        alpha = torch.tensor([mean - 0.05, mean + 0.05], requires_grad=True)
        term = gate.penalty(alpha)
        term.backward()
        assert term.item() == pytest.approx(mu * (0.3 - mean) + 4 / 2 * (0.3 - mean) ** 2, abs=1e-6)
        # a positive mu asks for a wider gate, and so does a gate below its budget
        assert alpha.grad.tolist() == pytest.approx([-(mu + 4 * (0.3 - mean)) / 2] * 2, abs=1e-6)
        mu += 0.1 * (0.3 - mean)
        assert gate.multiplier.item() == pytest.approx(mu, abs=1e-6)
        assert not gate.multiplier.requires_grad
    assert mu < 0


def test_the_penalty_reaches_the_optimizers_gradient():
    gate = with_coefficients(BudgetGate(rho=0.6, damping=0.0), [0.5, -0.25, 1.0, 0.125])
    gate.multiplier.fill_(2.0)
    cold, tail, q, llm = [1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.25, 0.5, 0.75, 1.0], [0.9, 0.1, 0.8, 0.3]
    pairs, logit = [(0, 1), (2, 3)], [0.5, -1.0, -0.25, 2.0]
    entries = Entries(torch.tensor(llm), torch.tensor(cold) > 0, torch.tensor(tail) > 0)
    scores = torch.tensor(logit, requires_grad=True)
    ordered = OrderedPairs(*(torch.tensor(side) for side in zip(*pairs, strict=True)))
    regularizer = SelectiveConfig(gate="budget").build(gate)
    result = regularizer.of_pairs(scores, scores.sigmoid(), torch.tensor(q), entries, ordered)
    result.objective.backward()

    slope, objective = [0.0] * 4, 2.0 * 0.6
    for i, j in pairs:
        h = math.log1p(math.exp(logit[j] - logit[i]))
        for k in (i, j):
            z = (cold[k], tail[k], q[k])
            p = sigmoid(linear(z, [0.5, -0.25, 1.0, 0.125]))
            objective += p * (h - 2.0) / 4
            for position, x in enumerate((*z, 1.0)):
                slope[position] += (h - 2.0) * p * (1 - p) * x / 4
    assert result.objective.item() == pytest.approx(objective, abs=1e-6)
    assert gate.weight.grad.tolist() == pytest.approx(slope[:3], abs=1e-6)
    assert gate.bias.grad.item() == pytest.approx(slope[3], abs=1e-6)
    assert slope[3] < 0  # descent widens this gate


# ---------------------------------------------------------------------- look-ahead


def test_a_look_ahead_is_a_step_up_the_aligned_alpha():
    rng = np.random.default_rng(3)
    signals, _ = simulated(40, rng)
    alignment = torch.from_numpy(rng.normal(size=40)).float()
    gate = with_coefficients(BilevelGate(rate=0.3), [0.1, -0.2, 0.3, 0.5, -0.4])
    before = torch.tensor([*gate.weight.tolist(), gate.bias.item()], requires_grad=True)
    alpha = torch.sigmoid(signals.design() @ before[:4] + before[4])
    (alpha * alignment / alignment.abs().mean()).mean().backward()
    gate.look_ahead(signals, 1000 * alignment)  # the scale of losses makes no difference
    after = torch.tensor([*gate.weight.tolist(), gate.bias.item()])
    torch.testing.assert_close(after, before.detach() + 0.3 * before.grad)
    assert gate.calibrated


def test_pairs_that_agree_with_the_held_out_loss_open_and_the_others_close():
    gate = BilevelGate()
    for step in range(300):
        rng = np.random.default_rng(step)
        signals, design = simulated(64, rng)
        helps = design[:, 0] == 1
        noise = rng.normal(size=64)
        gate.look_ahead(signals, torch.from_numpy(np.where(helps, 0.5, -0.5) + noise).float())
    alpha = gate(signals).numpy()
    assert alpha[helps].mean() > 0.75
    assert alpha[~helps].mean() < 0.25
    assert alpha[helps].min() > 0.5 > alpha[~helps].max()


def test_nothing_to_look_at_leaves_the_gate_as_it_is():
    gate = with_coefficients(BilevelGate(), [0.1, -0.2, 0.3, 0.5, -0.4])
    before = gate.coefficients()
    signals, _ = simulated(5, np.random.default_rng(0))
    gate.look_ahead(signals, torch.zeros(5))
    nothing = PairSignals(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0))
    gate.look_ahead(nothing, torch.zeros(0))
    assert gate.coefficients() == before
    assert not gate.calibrated
    for kind in (OpenGate, FixedGate, JointGate, BudgetGate, DisagreementGate):
        other = kind()
        before = other.coefficients()
        other.look_ahead(signals, torch.ones(5))
        assert other.coefficients() == before


# ---------------------------------------------------------------------- P(LLM right | disagreement)


def constant(p):
    return lambda design: np.full(len(design), p)


def logistic(*coefficients):
    return lambda design: 1 / (1 + np.exp(-(design @ coefficients[:-1] + coefficients[-1])))


UNEVEN = logistic(1.6, -0.4, 0.7, 1.2, -0.8)  # P from 0.2 to 0.95
MILD = logistic(0.8, -0.3, 0.4, 0.5, 0.2)


def fitted(chance, user, seed=0, right=None, **options):
    """Fit on as many disagreements as `user` names; return the gate, and signals and design to look at it with."""
    rng = np.random.default_rng(seed)
    signals, design = simulated(len(user), rng)
    right = rng.random(len(user)) < chance(design) if right is None else right
    gate = DisagreementGate(**options)
    gate.fit(signals, torch.from_numpy(right), torch.from_numpy(user))
    return gate, *simulated(1000, rng)


def mean_alpha(chance, user, seed=0, **options):
    gate, signals, _ = fitted(chance, user, seed, **options)
    return gate(signals).mean().item()


def regions(design):
    cold, tail = design[:, 0] == 1, design[:, 1] > 0
    return dict(zip(REGIONS, (cold | True, cold, tail, ~(cold | tail)), strict=True))


@pytest.mark.parametrize("chance", [UNEVEN, MILD, constant(0.75), constant(0.5), constant(0.25)])
def test_five_thousand_disagreements_find_the_llms_reliability(chance):
    """Each of a user of its own, over ten seeds."""
    misses = {region: [] for region in REGIONS}
    for seed in range(10):
        gate, signals, design = fitted(chance, np.arange(5000), seed)
        truth, alpha = np.maximum(0, 2 * chance(design) - 1), gate(signals).numpy()
        assert gate.calibrated
        assert np.abs(alpha - truth).mean() < 0.055
        for region, inside in regions(design).items():
            misses[region].append(alpha[inside].mean() - truth[inside].mean())
    for miss in misses.values():
        assert abs(np.mean(miss)) < 0.05
        assert np.mean(np.abs(miss)) < 0.05
        assert np.max(np.abs(miss)) < 0.09  # chance leaves P of a region uncertain by 0.02, and alpha is 2P - 1


def test_an_llm_that_is_worse_than_the_model_closes_the_gate():
    for seed in range(5):
        gate, signals, _ = fitted(constant(0.25), np.arange(1000), seed)
        assert gate(signals).max().item() == 0


def test_the_gate_opens_only_where_the_llm_is_the_better_judge():
    gate, signals, design = fitted(lambda design: np.where(design[:, 0] == 1, 0.8, 0.2), np.arange(5000))
    alpha, cold = gate(signals).numpy(), design[:, 0] == 1
    assert alpha[cold].mean() == pytest.approx(0.6, abs=0.05)
    assert alpha[~cold].max() == 0


def test_a_pair_counts_as_long_tail_by_how_many_of_its_items_are():
    gate, signals, design = fitted(logistic(0, -3.0, 0, 0, 2.0), np.arange(5000))
    alpha = gate(signals).numpy()
    for items, p in ((0, 0.881), (1, 0.622), (2, 0.269)):  # 1 / (1 + exp(3 * items / 2 - 2))
        assert alpha[design[:, 1] == items / 2].mean() == pytest.approx(max(0, 2 * p - 1), abs=0.06)


def test_which_of_the_two_items_is_the_popular_one_makes_no_difference():
    gate, signals, _ = fitted(UNEVEN, np.arange(500))
    swapped = PairSignals(signals.other, signals.preferred, signals.gap)
    torch.testing.assert_close(gate(swapped), gate(signals))


# twenty disagreements of as many users: the evidence of a first epoch on a small log
FEW = np.arange(20)


def test_twenty_disagreements_of_a_guessing_llm_open_next_to_nothing():
    alphas = [mean_alpha(constant(0.5), FEW, seed) for seed in range(150)]
    assert np.mean(alphas) < 0.03  # 0.015 when this was written
    assert np.quantile(alphas, 0.95) < 0.15
    assert np.max(alphas) < 0.3


def test_twenty_disagreements_of_a_good_llm_are_believed_with_caution():
    alphas = [mean_alpha(constant(0.9), FEW, seed) for seed in range(100)]
    assert 0.25 < np.mean(alphas) < 0.5  # the truth is 0.8, and more evidence gets there:
    assert np.max(alphas) < 0.65
    assert mean_alpha(constant(0.9), np.arange(5000)) == pytest.approx(0.8, abs=0.05)
    bold = np.mean([mean_alpha(constant(0.9), FEW, seed, caution=0.0) for seed in range(30)])
    assert bold > np.mean(alphas[:30]) + 0.1


@pytest.mark.parametrize("chance", [constant(0.9), constant(1.0)])
def test_twenty_disagreements_count_by_their_users(chance):
    means = {n: np.mean([mean_alpha(chance, FEW % n, seed) for seed in range(40)]) for n in (2, 5, 10, 20)}
    assert means[2] < 0.01
    assert means[2] <= means[5] < means[10] - 0.05 < means[20] - 0.1


def test_few_users_who_agree_by_chance_do_not_open_the_gate():
    """Each user's pairs share a probe: the LLM is right, or wrong, about all of them."""
    for n_users, bound in ((2, 0.01), (5, 0.15), (20, 0.2)):
        user = np.arange(20 * n_users) % n_users
        for seed in range(30):
            coin = np.random.default_rng(1000 + seed).random(n_users) < 0.5
            assert mean_alpha(None, user, seed, right=coin[user]) < bound


def test_a_user_with_many_candidates_counts_for_one():
    user = np.concatenate([np.zeros(500, dtype=int), np.arange(1, 301)])
    alphas = []
    for seed in range(20):
        right = np.random.default_rng(1000 + seed).random(len(user)) < 0.5
        right[:500] = True
        alphas.append(mean_alpha(None, user, seed, right=right))
    assert np.mean(alphas) < 0.05


@pytest.mark.parametrize("user", [np.zeros(0, dtype=int), np.zeros(1, dtype=int), np.full(50, 7)])
def test_disagreements_of_fewer_than_two_users_fit_nothing(user):
    gate, signals, _ = fitted(constant(1.0), user)
    assert not gate.calibrated
    assert gate.coefficients() == dict.fromkeys((*PAIR_SIGNALS, "bias"), 0.0)
    assert gate(signals).max().item() == 0
    gate, signals, _ = fitted(constant(0.9), np.arange(500))
    before = gate(signals)
    some, _ = simulated(len(user), np.random.default_rng(0))
    gate.fit(some, torch.zeros(len(user), dtype=torch.bool), torch.from_numpy(user))
    assert torch.equal(gate(signals), before)  # what was known stays known


def test_the_evidence_may_come_in_any_order():
    rng = np.random.default_rng(0)
    user = rng.integers(0, 30, 200) * 1000
    signals, design = simulated(200, rng)
    right = torch.from_numpy(rng.random(200) < UNEVEN(design))
    order = torch.from_numpy(rng.permutation(200))
    gates = []
    for which in (torch.arange(200), order):
        gate = DisagreementGate()
        part = PairSignals(signals.preferred[which], signals.other[which], signals.gap[which])
        gate.fit(part, right[which], torch.from_numpy(user)[which])
        gates.append(gate(signals))
    torch.testing.assert_close(gates[0], gates[1])


# ---------------------------------------------------------------------- the fit, worked out another way


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
@pytest.mark.parametrize(("n", "n_users"), [(30, 30), (30, 6), (2000, 2000), (2000, 150)])
def test_the_fit_is_sklearns_and_its_covariance_that_of_a_loop_over_users(n, n_users, scale):
    rng = np.random.default_rng(n + n_users)
    user = np.concatenate([np.arange(n_users), rng.integers(0, n_users, n - n_users)])
    signals, design = simulated(n, rng)
    right = rng.random(n) < UNEVEN(design)
    gate = DisagreementGate(prior_scale=scale)
    gate.fit(signals, torch.from_numpy(right), torch.from_numpy(user))

    centre = design.mean(axis=0)
    x = np.column_stack([design - centre, np.ones(n)]).astype(np.float64)
    weight = np.array([1 / np.sum(user == u) for u in user])
    # sklearn minimises C * sum of losses + |w|^2 / 2; a normal prior of deviation s has |w|^2 / (2 s^2)
    reference = LogisticRegression(C=scale**2, fit_intercept=False, tol=1e-10, max_iter=10_000)
    beta = reference.fit(x, right, sample_weight=weight).coef_[0]
    np.testing.assert_allclose([*gate.weight.tolist(), gate.bias.item()], beta, atol=1e-3)
    np.testing.assert_allclose(gate.centre.numpy(), centre, atol=1e-6)

    p = 1 / (1 + np.exp(-x @ beta))
    precision = np.eye(5) / scale**2
    hessian, spread = precision.copy(), np.zeros((5, 5))
    for row, chance, w in zip(x, p, weight, strict=True):
        hessian += w * chance * (1 - chance) * np.outer(row, row)
    for one in np.unique(user):
        mine = user == one
        g = ((right[mine] - p[mine])[:, None] * x[mine]).mean(axis=0)
        spread += np.outer(g, g) * n_users / (n_users - 1)
    inverse = np.linalg.inv(hessian)
    covariance = inverse @ (precision + spread) @ inverse
    np.testing.assert_allclose(gate.covariance.numpy(), covariance, rtol=1e-2, atol=1e-3 * np.abs(covariance).max())


def test_a_signal_that_does_not_vary_gets_no_weight():
    """Uncertainty is near 1 everywhere before training; what it says of later values is nothing."""
    rng = np.random.default_rng(0)
    signals, _ = simulated(400, rng)
    signals.preferred[:, 2] = signals.other[:, 2] = 0.97
    gate = DisagreementGate()
    gate.fit(signals, torch.from_numpy(rng.random(400) < 0.8), torch.arange(400))
    assert gate.weight[2].item() == pytest.approx(0, abs=1e-6)
    before = gate(signals)
    signals.preferred[:, 2] = signals.other[:, 2] = 0.2
    after = gate(signals)
    assert (after <= before + 1e-6).all()  # an uncertainty never met before makes the gate more cautious
    bold = DisagreementGate(caution=0.0)
    bold.load_state_dict(gate.state_dict())
    near = bold(signals)
    signals.preferred[:, 2] = signals.other[:, 2] = 0.97
    torch.testing.assert_close(bold(signals), near)


def test_outcomes_that_a_signal_separates_stay_finite():
    signals, design = simulated(500, np.random.default_rng(0))
    cold = design[:, 0] == 1
    gate = DisagreementGate(prior_scale=10.0)
    gate.fit(signals, torch.from_numpy(cold), torch.arange(500))
    assert all(math.isfinite(value) for value in gate.coefficients().values())
    alpha = gate(signals).numpy()
    assert alpha[cold].min() > 0.9
    assert alpha[~cold].max() == 0
