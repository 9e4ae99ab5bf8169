"""Losses against their formulas, a number at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from sllmr_plugin.regularizer.losses import (
    LOSSES,
    CrossEntropy,
    Distillation,
    Hinge,
    RankDistillation,
    RankNet,
    SquaredError,
)

DIFFERENCES = st.lists(st.floats(-20, 20, width=32), max_size=8)
TOLERANCE = {
    torch.float32: 1e-5,
    torch.float64: 1e-8,
}  # torch's softplus is linear from 20 on, off by 2e-9 there
DTYPES = st.sampled_from(list(TOLERANCE))


def close(values, expected):
    return values.tolist() == pytest.approx(expected, rel=TOLERANCE[values.dtype], abs=TOLERANCE[values.dtype])


@given(DIFFERENCES, st.floats(0, 5, width=32), DTYPES)
@settings(max_examples=100, deadline=None)
def test_pair_losses_and_their_slopes(differences, margin, dtype):
    expected = {
        "hinge": (
            [max(0.0, margin - d) for d in differences],
            [-1.0 if d < margin else 0.0 for d in differences],
        ),
        "ranknet": (
            [math.log1p(math.exp(margin - d)) for d in differences],
            [-1 / (1 + math.exp(d - margin)) for d in differences],
        ),
    }
    assert set(expected) == {name for name, kind in LOSSES.items() if kind.pairwise}
    for name, (values, slopes) in expected.items():
        d = torch.tensor(differences, dtype=dtype, requires_grad=True)
        loss = LOSSES.make(name)(d, margin)
        assert loss.dtype == dtype
        assert close(loss, values), name
        loss.sum().backward()
        assert close(d.grad, slopes), name


def test_a_pair_in_the_llms_order_beyond_the_margin_costs_the_hinge_nothing():
    assert Hinge()(torch.tensor([1.0, 0.5, -1.0]), 0.5).tolist() == [0.0, 0.0, 1.5]
    # RankNet without a margin: ln 2 where the model is undecided, less in the LLM's order, more against it
    in_order, undecided, against = RankNet()(torch.tensor([3.0, 0.0, -3.0]), 0.0).tolist()
    assert undecided == pytest.approx(math.log(2))
    assert in_order < undecided < against


def test_ranknet_does_not_overflow():
    assert RankNet()(torch.tensor([-1000.0, 1000.0]), 0.0).tolist() == [1000.0, 0.0]


LOGITS = st.lists(st.tuples(st.floats(-15, 15, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=8)


@given(LOGITS, DTYPES)
@settings(max_examples=100, deadline=None)
def test_pointwise_losses_and_their_slopes(entries, dtype):
    logit = torch.tensor([x for x, _ in entries], dtype=dtype, requires_grad=True)
    target = torch.tensor([t for _, t in entries])  # the table is float32 for any model
    p = [1 / (1 + math.exp(-x)) for x, _ in entries]

    loss = CrossEntropy()(logit, logit.sigmoid(), target)
    assert loss.dtype == dtype
    # -t ln p - (1 - t) ln (1 - p), with ln p = -ln(1 + e^-x) and ln(1 - p) = -ln(1 + e^x)
    assert close(loss, [t * math.log1p(math.exp(-x)) + (1 - t) * math.log1p(math.exp(x)) for x, t in entries])
    loss.sum().backward()
    assert close(logit.grad, [q - t for q, (_, t) in zip(p, entries, strict=True)])

    probability = torch.tensor(p, dtype=dtype, requires_grad=True)
    loss = SquaredError()(probability.logit(), probability, target)
    assert loss.dtype == dtype
    assert close(loss, [(q - t) ** 2 for q, (_, t) in zip(p, entries, strict=True)])
    loss.sum().backward()
    assert close(probability.grad, [2 * (q - t) for q, (_, t) in zip(p, entries, strict=True)])


def test_with_hard_targets_the_pointwise_losses_are_sklearns():
    generator = torch.Generator().manual_seed(0)
    logit = 3 * torch.randn(200, generator=generator, dtype=torch.float64)
    target = (torch.rand(200, generator=generator) < 0.4).double()
    p = logit.sigmoid()
    assert CrossEntropy()(logit, p, target).mean().item() == pytest.approx(log_loss(target, p))
    assert SquaredError()(logit, logit.sigmoid(), target).mean().item() == pytest.approx(
        brier_score_loss(target, logit.sigmoid())
    )


def test_distillation_with_temperature_1_is_the_cross_entropy_of_the_score():
    logit, target = torch.linspace(-4, 4, 9), torch.linspace(0.1, 0.9, 9)
    scores = logit, logit.sigmoid(), target
    torch.testing.assert_close(Distillation(1.0)(*scores), CrossEntropy()(*scores))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_distillation_is_least_at_the_llms_logit_and_finite_at_certain_scores(temperature):
    target = torch.tensor([0.0, 0.2, 0.5, 1.0])
    clipped = target.clamp(0.01, 0.99).double()
    logit = torch.log(clipped / (1 - clipped)).float().requires_grad_()
    loss = Distillation(temperature)(logit, logit.sigmoid(), target)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logit.grad.abs().max() < 1e-5
    for step in (-0.5, 0.5):
        assert (Distillation(temperature)(logit.detach() + step, logit.sigmoid(), target) > loss.detach()).all()


def test_the_slope_of_distillation_hardly_depends_on_a_high_temperature():
    # for large T the slope tends to (s - logit(t)) / 4 for any T (Hinton et al., 2015, eq. 4)
    slopes = []
    for temperature in (50.0, 100.0):
        logit = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
        Distillation(temperature)(logit, logit.sigmoid(), torch.tensor([0.3])).sum().backward()
        slopes.append(logit.grad.item())
    assert slopes == pytest.approx([(1.5 - math.log(0.3 / 0.7)) / 4] * 2, rel=1e-3)


def naive_rank_kd(entries, most=10):
    """Loop over users and places: entries are (user, logit, LLM score)."""
    losses = [0.0] * len(entries)
    for user in {user for user, _, _ in entries}:
        own = [n for n, entry in enumerate(entries) if entry[0] == user]
        by_llm = sorted(own, key=lambda n: (-entries[n][2], n))
        by_model = sorted(own, key=lambda n: (-entries[n][1], n))
        k = min(most, math.ceil(len(own) / 2))
        places = sum(math.exp(-r) for r in range(1, k + 1))
        scores = sum(entries[n][2] for n in by_llm[:k])
        weights = {}
        for r, n in enumerate(by_llm[:k], start=1):
            confidence = entries[n][2] / scores if scores else 0.0
            weights[n] = 0.3 * math.exp(-r) / places + 0.5 * confidence + 0.1 * (n in by_model[:k])
        for n, weight in weights.items():
            losses[n] = weight / sum(weights.values()) * len(own) * math.log1p(math.exp(-entries[n][1]))
    return losses


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(-60, 60).map(lambda n: n / 4), st.integers(0, 10).map(lambda n: n / 8)
        ),
        min_size=1,
        max_size=24,
    ),
    st.integers(1, 4),
)
@settings(max_examples=100, deadline=None)
def test_rank_distillation_loops_over_users_and_places(entries, most):
    users, logit, target = (torch.tensor(column) for column in zip(*entries, strict=True))
    logit.requires_grad_()
    loss = RankDistillation(most)(logit, logit.sigmoid(), target, users)
    assert loss.tolist() == pytest.approx(naive_rank_kd(entries, most), rel=1e-4, abs=1e-5)
    loss.sum().backward()
    assert (logit.grad <= 0).all()  # it only raises
    alone = RankDistillation(most)(logit.detach(), logit.sigmoid(), target)
    assert alone.tolist() == pytest.approx(
        naive_rank_kd([(0, *entry[1:]) for entry in entries], most), abs=1e-5, rel=1e-4
    )


def test_rank_distillation_weighs_place_score_and_agreement():
    """By hand: four items, so two have a loss; the model agrees on the second only."""
    users, target = torch.zeros(4, dtype=torch.int64), torch.tensor([0.9, 0.6, 0.3, 0.0])
    logit = torch.tensor([0.0, 2.0, 1.0, -1.0])
    loss = RankDistillation()(logit, logit.sigmoid(), target, users)
    first = 0.3 * 0.7311 + 0.5 * 0.6  # e^-1 / (e^-1 + e^-2) = 0.7311
    second = 0.3 * 0.2689 + 0.5 * 0.4 + 0.1
    total = first + second
    expected = [4 * first / total * math.log(2), 4 * second / total * math.log1p(math.exp(-2)), 0, 0]
    assert loss.tolist() == pytest.approx(expected, rel=1e-3)
