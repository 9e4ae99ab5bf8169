"""Popularity bands of probes' candidates beside the catalogue's, and the weights of probe pairs, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sllmr_plugin.errors import CoverageWarning
from sllmr_plugin.regularizer.gates import DisagreementGate
from sllmr_plugin.training.match import CandidateMatch
from sllmr_plugin.training.probes import GateFitter, ProbePairs

from .small_table import POPULARITY, importance_by_hand, many, probe_pairs, score_rows, usable


def band_ends(catalogue):
    """Return the popularity at which each tenth of the catalogue ends, once each."""
    ordered = sorted(catalogue)
    return sorted({ordered[math.ceil(k * len(ordered) / 10) - 1] for k in range(1, 11)})


@pytest.mark.parametrize("seed", range(4))
def test_shares_and_weights_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    catalogue = rng.geometric(0.2, size=int(rng.integers(3, 60)))
    candidates = rng.choice(catalogue, size=200, p=catalogue / catalogue.sum())  # popular ones more often
    ends = band_ends(catalogue.tolist())
    band = [next(k for k, end in enumerate(ends) if value <= end) for value in candidates]
    wanted = [sum(value <= end for value in catalogue) for end in ends]
    wanted = np.diff([0, *wanted]) / len(catalogue)
    found = np.array([band.count(k) for k in range(len(ends))]) / len(candidates)
    match = CandidateMatch.of(torch.from_numpy(catalogue), torch.from_numpy(candidates))
    assert match.upper.tolist() == ends
    np.testing.assert_allclose(match.catalogue, wanted)
    np.testing.assert_allclose(match.candidates, found)
    weight = np.array([min(wanted[k] / found[k], 5) for k in band])
    np.testing.assert_allclose(match.weights(torch.from_numpy(candidates)), weight / weight.mean())
    assert match.overlap == pytest.approx(np.minimum(wanted, found).sum())
    assert match.unseen == pytest.approx(wanted[found == 0].sum())


def test_a_poor_match_is_told_and_warned_of():
    catalogue = torch.arange(100)
    popular = CandidateMatch.of(catalogue, catalogue[-45:])
    assert "to 0.50 (1 is alike); 50% of it lies in tenths without a candidate" in str(popular)
    with pytest.warns(CoverageWarning, match="--catalogue-share"):
        CandidateMatch.of(catalogue, catalogue[-35:]).warn()
    popular.warn()
    CandidateMatch.of(catalogue, catalogue).warn()


def test_candidates_that_are_drawn_like_the_catalogue_all_count_one():
    catalogue = torch.arange(100)
    match = CandidateMatch.of(catalogue, catalogue.repeat(3))
    assert match.weights(catalogue).tolist() == pytest.approx([1.0] * 100)
    assert (match.overlap, match.unseen) == (pytest.approx(1.0), 0.0)


def test_no_pair_counts_more_than_five_times_its_share():
    catalogue = torch.arange(10)
    candidates = torch.tensor([9] * 99 + [0])
    weight = CandidateMatch.of(catalogue, candidates).weights(candidates)
    assert weight[-1] / weight[0] == pytest.approx(5 / (0.1 / 0.99))
    assert weight.mean() == pytest.approx(1.0)


def test_probe_pairs_carry_the_weights_of_their_candidates():
    candidates, probes = many(2)
    pairs = ProbePairs.of(usable(candidates, probes))
    expected = importance_by_hand(probe_pairs(candidates, probes))
    found = dict(zip(map(tuple, pairs.keys.tolist()), pairs.importance.tolist(), strict=True))
    assert found == pytest.approx(expected)
    assert len(set(expected.values())) > 2


def test_without_pairs_there_is_nothing_to_match():
    pairs = ProbePairs.of(usable(probes={7: {1: 0.7}}))
    assert pairs.match is None
    assert len(pairs.importance) == 0


def test_weights_can_be_turned_off():
    candidates, probes = many(2)
    gates = {weighed: DisagreementGate() for weighed in (True, False)}
    for weighed, gate in gates.items():
        GateFitter(usable(candidates, probes), score_rows, weighed=weighed).refit(gate)
    flat = usable(candidates, probes)
    object.__setattr__(flat, "popularity", torch.ones(len(POPULARITY), dtype=torch.int64))
    alike = DisagreementGate()
    GateFitter(flat, score_rows).refit(alike)
    assert gates[False].coefficients() == pytest.approx(alike.coefficients())
    assert gates[True].coefficients() != pytest.approx(alike.coefficients(), abs=1e-3)
