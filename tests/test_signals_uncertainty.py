"""Cold-start and long-tail indicators and the backbone's uncertainty, against their definitions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from sllmr_plugin.regions import cold_users, tail_threshold
from sllmr_plugin.regularizer.signals import RegionSignals
from sllmr_plugin.regularizer.uncertainty import UNCERTAINTIES, Confidence, Ensemble, Entropy, MCDropout

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=25)
QUANTILES = st.sampled_from(["0.05", "0.1", "0.2", "0.25", "0.3", "0.5", "0.6", "0.7", "0.9", "1.0"])


def threshold_by_hand(counts, quantile):
    """Try every popularity from the smallest on, in exact fractions."""
    for value in sorted(set(counts)):
        if Fraction(sum(count <= value for count in counts), len(counts)) >= Fraction(quantile):
            return value
    raise AssertionError


@given(COUNTS, QUANTILES)
@settings(max_examples=200, deadline=None)
def test_the_long_tail_ends_at_the_smallest_popularity_that_covers_the_quantile(counts, quantile):
    assert tail_threshold(torch.tensor(counts), float(quantile)) == threshold_by_hand(counts, quantile)


def test_no_share_and_no_items_give_no_tail():
    assert tail_threshold(torch.tensor([0, 1, 2]), 0.0) == -1
    assert tail_threshold(torch.empty(0, dtype=torch.int64), 0.2) == -1


@pytest.mark.parametrize(("quantile", "n", "count"), [(0.07, 100, 7), (0.14, 50, 7), (0.55, 100, 55), (0.07, 101, 8)])
def test_a_share_that_is_a_whole_number_of_items_takes_no_item_more(quantile, n, count):
    """Of popularities 0, 1, 2, ... the tail ends at count - 1; in floating point 0.07 * 100 is 7.000000000000001."""
    assert tail_threshold(torch.arange(n), quantile) == count - 1
    assert tail_threshold(np.arange(n)[::-1], quantile) == count - 1  # the same of an array, as candidates have it


@pytest.mark.parametrize("of", [np.array, torch.tensor])
def test_the_threshold_itself_is_cold_only_where_it_is_included(of):
    """Training and evaluation: fewer than 3; users to be scored: at most 3."""
    counts = of([0, 2, 3, 4])
    assert cold_users(counts, 3).tolist() == [True, True, False, False]
    assert cold_users(counts, 3, inclusive=True).tolist() == [True, True, True, False]


def test_large_catalogues_are_counted_exactly():
    n = 2_330_179  # 0.9 n = 2,097,161.1, which float32 rounds to a whole number
    assert tail_threshold(torch.arange(n), 0.9) == 2_097_162 - 1


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=20),
    QUANTILES,
    st.integers(0, 7),
)
@settings(max_examples=100, deadline=None)
def test_regions_from_counts(items, quantile, cold_threshold):
    popularity = [count for count, _ in items]
    catalogue = [inside for _, inside in items]
    history = [count % 5 for count in popularity]
    signals = RegionSignals.from_counts(
        torch.tensor(history),
        torch.tensor(popularity),
        in_catalogue=torch.tensor(catalogue),
        cold_threshold=cold_threshold,
        tail_quantile=float(quantile),
    )
    inside = [count for count, listed in items if listed]
    last = threshold_by_hand(inside, quantile) if inside else -1
    assert signals.tail_popularity == last
    assert signals.tail.tolist() == [listed and count <= last for count, listed in items]
    assert signals.cold.tolist() == [count < cold_threshold for count in history]


def test_ties_at_the_end_of_the_tail_are_all_in():
    signals = RegionSignals.from_counts(
        torch.tensor([2, 3]),
        torch.tensor([99, 1, 1, 1, 5, 6]),  # code 0 is padding
        in_catalogue=torch.tensor([False, True, True, True, True, True]),
        cold_threshold=3,
        tail_quantile=0.2,
    )
    assert signals.tail.tolist() == [False, True, True, True, False, False]
    assert signals.cold.tolist() == [True, False]


# ---------------------------------------------------------------------- uncertainty


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_uncertainty_of_a_probability(values):
    p = torch.tensor(values, dtype=torch.float64)
    pair = np.stack([values, 1 - np.array(values)])
    np.testing.assert_allclose(Confidence()(p), (1 - pair.max(axis=0)) / 0.5, atol=1e-12)
    np.testing.assert_allclose(Entropy()(p), scipy_entropy(pair, base=2), atol=1e-9)
    for of in (kind() for _, kind in UNCERTAINTIES.items() if kind.source == "probability"):
        q = of(p)
        assert ((q >= 0) & (q <= 1 + 1e-12)).all()
        torch.testing.assert_close(of(1 - p), q, atol=1e-9, rtol=0)  # the two classes are alike


@pytest.mark.parametrize("name", ["confidence", "entropy"])
def test_a_coin_is_uncertain_and_a_fact_is_not(name):
    q = UNCERTAINTIES.make(name)(torch.tensor([0.0, 0.5, 1.0]))
    assert q.tolist() == [0.0, 1.0, 0.0]
    steps = UNCERTAINTIES.make(name)(torch.linspace(0, 0.5, 50))
    assert (steps.diff() > 0).all()


def test_confidence_is_linear_and_entropy_is_not():
    p = torch.tensor([0.25, 0.1])
    assert Confidence()(p).tolist() == pytest.approx([0.5, 0.2])
    # H(1/4) = 2 - (3/4) log2 3
    assert Entropy()(p)[0].item() == pytest.approx(2 - 0.75 * np.log2(3), abs=1e-6)


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_the_variance_over_opinions_is_that_of_a_loop(n_passes, n_rows, seed):
    samples = np.random.default_rng(seed).random((n_passes, n_rows))
    q = MCDropout()(torch.from_numpy(samples)).numpy()
    assert (Ensemble()(torch.from_numpy(samples)).numpy() == q).all()
    by_hand = [sum((x - sum(column) / n_passes) ** 2 for x in column) / n_passes * 4 for column in samples.T.tolist()]
    np.testing.assert_allclose(q, by_hand, atol=1e-12)
    assert ((q >= 0) & (q <= 1)).all()


def test_the_variance_over_opinions_reaches_its_bounds():
    samples = torch.tensor([[0.0, 0.3], [1.0, 0.3], [0.0, 0.3], [1.0, 0.3]])
    assert MCDropout()(samples).tolist() == [1.0, 0.0]
