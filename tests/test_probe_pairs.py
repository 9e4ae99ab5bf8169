"""Probe pairs, the backbone's opinion of them and the evidence they give, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sllmr_plugin.training.probes import ProbePairs

from .small_table import (
    CANDIDATES,
    COLD,
    ITEM,
    PROBES,
    TAIL,
    USER,
    disagreements,
    evidence,
    many,
    one_logit,
    opinion,
    probe_pairs,
    row_of,
    score_rows,
    usable,
)

TABLES = [(CANDIDATES, PROBES), *(many(seed) for seed in range(5))]


def likes(candidates):
    """Take one candidate of every second user for a training positive."""
    return [(user, next(iter(items))) for user, items in candidates.items() if user % 2 and items]


@pytest.mark.parametrize(("candidates", "probes"), TABLES)
@pytest.mark.parametrize("with_positives", [False, True])
def test_pairs_are_those_of_a_loop(candidates, probes, with_positives):
    positive = likes(candidates) if with_positives else []
    pairs = ProbePairs.of(usable(candidates, probes, positive=positive))
    expected = probe_pairs(candidates, probes, positive)
    assert 0 < len(expected) == len(pairs)
    assert sorted(map(tuple, pairs.keys.tolist())) == sorted(expected)
    assert pairs.user.tolist() == pairs.keys[:, 0].tolist()
    for side, column, scores in ((pairs.probe, 1, probes), (pairs.candidate, 2, candidates)):
        for entry, key in zip(side.tolist(), pairs.keys.tolist(), strict=True):
            user, item = key[0], key[column]
            assert pairs.rows[entry].tolist() == row_of(user, item)
            assert pairs.entries.llm[entry].item() == pytest.approx(scores[user][item])
            assert pairs.entries.cold[entry] == COLD[user]
            assert pairs.entries.tail[entry] == TAIL[item]


def test_the_same_table_gives_the_same_pairs_in_the_same_order():
    candidates, probes = many(1)
    shuffled = {user: dict(reversed(items.items())) for user, items in reversed(candidates.items())}
    assert torch.equal(ProbePairs.of(usable(candidates, probes)).keys, ProbePairs.of(usable(shuffled, probes)).keys)


@pytest.mark.parametrize("probes", [{}, {7: {1: 0.5}}, {0: {3: 0.5}, 4: {2: 0.25}}])
def test_probes_of_users_without_candidates_make_no_pair(probes):
    pairs = ProbePairs.of(usable(CANDIDATES, probes))
    assert len(pairs) == len(pairs.keys) == len(pairs.user) == 0
    assert pairs.keys.shape == (0, 3)


@pytest.mark.parametrize(("candidates", "probes"), TABLES)
def test_disagreements_are_those_of_a_loop(candidates, probes):
    judged = ProbePairs.of(usable(candidates, probes)).judge(score_rows)
    keys = judged.pairs.keys.tolist()
    assert {tuple(keys[n]) for n in judged.disagree.nonzero().flatten().tolist()} == set(
        disagreements(candidates, probes)
    )
    for n, (user, probe, item) in enumerate(keys):
        assert judged.llm_gap[n].item() == pytest.approx(probes[user][probe] - candidates[user][item], abs=1e-6)
        assert judged.model_gap[n].item() == pytest.approx(one_logit(user, probe) - one_logit(user, item), abs=1e-5)


def test_a_backbone_without_an_opinion_disagrees_and_an_llm_without_one_does_not():
    candidates, probes = {1: {2: 0.5, 3: 0.25, 5: 0.75}, 2: {1: 0.5}}, {1: {0: 0.5}, 2: {0: 0.9}}

    def indifferent(rows):
        return opinion(torch.zeros(len(rows)))

    judged = ProbePairs.of(usable(candidates, probes)).judge(indifferent)
    found = {tuple(key) for key in judged.pairs.keys[judged.disagree].tolist()}
    assert found == {(1, 0, 3), (1, 0, 5), (2, 0, 1)}  # not (1, 0, 2), whose scores are the same


@pytest.mark.parametrize(("candidates", "probes"), TABLES)
def test_evidence_is_that_of_a_loop(candidates, probes):
    judged = ProbePairs.of(usable(candidates, probes)).judge(score_rows)
    which = judged.llm_gap != 0
    which &= torch.rand(len(which), generator=torch.Generator().manual_seed(0)) < 0.7
    signals, right, user = judged.evidence(which)
    design, by_hand, users = evidence(judged.pairs.keys[which].tolist(), candidates, probes)
    np.testing.assert_allclose(signals.design().numpy(), design, atol=1e-5)
    assert right.tolist() == by_hand.tolist()
    assert user.tolist() == users.tolist()


def test_the_backbone_sees_all_rows_at_once_and_may_live_elsewhere():
    seen = []

    def recording(rows):
        seen.append(rows)
        return score_rows(rows)

    pairs = ProbePairs.of(usable())
    pairs.judge(recording)
    assert len(seen) == 1
    assert seen[0][:, [USER, ITEM]].tolist() == pairs.rows[:, [USER, ITEM]].tolist()
