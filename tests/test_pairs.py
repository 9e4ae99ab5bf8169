"""Ordered pairs against a double loop over the items of every user."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin.regularizer.pairs import select_pairs

RULES = ("largest", "uniform", "gap_weighted")
DTYPES = (torch.float32, torch.float64)


@st.composite
def blocks(draw, max_users=4, max_width=5):
    """Scores in eighths (ties are common, gaps exact) and any mask: users with one item or none too."""
    n_users, width = draw(st.integers(0, max_users)), draw(st.integers(0, max_width))
    cells = n_users * width
    scores = draw(st.lists(st.integers(0, 8), min_size=cells, max_size=cells))
    valid = draw(st.lists(st.sampled_from([True, True, True, False]), min_size=cells, max_size=cells))
    shape = (n_users, width)
    dtype = draw(st.sampled_from(DTYPES))
    return torch.tensor(scores, dtype=dtype).view(shape) / 8, torch.tensor(valid, dtype=torch.bool).view(shape)


def all_pairs(scores, valid):
    """Return, a list a user, ((i, j), gap) of all ordered pairs as positions in the flattened block."""
    n_users, width = scores.shape
    result = []
    for user in range(n_users):
        pairs = {}
        for i, j in itertools.product(range(width), repeat=2):
            if valid[user, i] and valid[user, j] and scores[user, i] > scores[user, j]:
                pairs[user * width + i, user * width + j] = (scores[user, i] - scores[user, j]).item()
        result.append(pairs)
    return result


def select(scores, valid, max_pairs, rule, seed=0, **batch):
    generator = torch.Generator().manual_seed(seed)
    pairs = select_pairs(scores, valid, max_pairs=max_pairs, rule=rule, generator=generator, **batch)
    assert pairs.preferred.dtype == pairs.other.dtype == torch.int64
    return list(zip(pairs.preferred.tolist(), pairs.other.tolist(), strict=True))


@given(blocks(), st.sampled_from(RULES), st.integers(0, 2**31))
@settings(max_examples=120, deadline=None)
def test_with_room_for_all_every_pair_comes_once(block, rule, seed):
    expected = {pair for pairs in all_pairs(*block) for pair in pairs}
    selected = select(*block, max_pairs=100, rule=rule, seed=seed)
    assert len(selected) == len(set(selected)) == len(expected)
    assert set(selected) == expected


@given(blocks(), st.sampled_from(RULES), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=120, deadline=None)
def test_the_number_of_pairs_adapts_to_each_user(block, rule, max_pairs, seed):
    selected = select(*block, max_pairs=max_pairs, rule=rule, seed=seed)
    assert len(selected) == len(set(selected))
    width = block[0].shape[1]
    for user, pairs in enumerate(all_pairs(*block)):
        own = [pair for pair in selected if pair[0] // width == user]
        assert set(own) <= set(pairs)  # ordered by the scores, among valid items, within the user
        assert len(own) == min(max_pairs, len(pairs))  # so at least one where one exists


@given(blocks(), st.integers(1, 6))
@settings(max_examples=120, deadline=None)
def test_largest_takes_the_largest_gaps_of_each_user(block, max_pairs):
    selected = select(*block, max_pairs=max_pairs, rule="largest")
    flat, width = block[0].flatten(), block[0].shape[1]
    for user, pairs in enumerate(all_pairs(*block)):
        gaps = sorted((flat[i] - flat[j]).item() for i, j in selected if i // width == user)
        assert gaps == sorted(sorted(pairs.values(), reverse=True)[:max_pairs])


@given(blocks(), st.sampled_from(RULES), st.integers(1, 4), st.none() | st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=200, deadline=None)
def test_a_batch_gives_the_papers_number_of_pairs(block, rule, per_user, most, seed):
    selected = select(*block, max_pairs=per_user, rule=rule, seed=seed, scope="batch", most=most)
    by_user = [pairs for pairs in all_pairs(*block) if pairs]
    every = {pair: gap for pairs in by_user for pair, gap in pairs.items()}
    if not every:
        assert selected == []
        return
    limits = [len(every), per_user * len(by_user)] + ([most] if most is not None else [])
    assert len(selected) == len(set(selected)) == max(1, min(limits))
    assert set(selected) <= set(every)
    if rule == "largest":
        assert sorted(every[pair] for pair in selected) == sorted(every.values())[-len(selected) :]


def test_a_batch_takes_the_largest_gaps_whoever_has_them():
    scores = torch.tensor([[0.0, 1.0, 0.5], [0.5, 0.625, 0.5], [0.25, 0.25, 0.25], [0.0, 0.75, 0.0]])
    valid = torch.ones(4, 3, dtype=torch.bool)
    wide, narrow = {(1, 0), (1, 2), (2, 0), (10, 9), (10, 11)}, {(4, 3), (4, 5)}
    assert [i for i, _ in select(scores, valid, 1, "largest")] == [1, 4, 10]
    # user 2 has no pair, so three users count: one pair each is K~ = 3, all of them of the users who are wide apart
    assert set(select(scores, valid, 1, "largest", scope="batch")) == {(1, 0), (10, 9), (10, 11)}
    assert set(select(scores, valid, 2, "largest", scope="batch")) > wide
    assert set(select(scores, valid, 9, "largest", scope="batch")) == wide | narrow
    assert select(scores, valid, 9, "largest", scope="batch", most=1) == [(1, 0)]


@pytest.mark.parametrize("rule", RULES)
def test_ties_and_single_items_form_no_pair(rule):
    ties = torch.full((3, 4), 0.5)
    assert select(ties, torch.ones(3, 4, dtype=torch.bool), 5, rule) == []
    one = torch.zeros(3, 4, dtype=torch.bool)
    one[:, 2] = True
    assert select(torch.rand(3, 4), one, 5, rule) == []
    assert select(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.bool), 5, rule) == []
    assert select(ties, torch.ones(3, 4, dtype=torch.bool), 5, rule, scope="batch") == []
    assert select(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.bool), 5, rule, scope="batch") == []


@pytest.mark.parametrize("rule", RULES)
def test_padding_may_hold_anything(rule):
    scores = torch.tensor([[0.5, torch.nan, 0.25, torch.inf]])
    valid = torch.tensor([[True, False, True, False]])
    assert select(scores, valid, 5, rule) == [(0, 2)]


def chances(scores, rule, max_pairs, n=6000):
    """Return how often each pair of one user is taken, over many independent users with the same scores."""
    block = torch.tensor(scores).expand(n, -1)
    selected = select(block, torch.ones_like(block, dtype=torch.bool), max_pairs, rule, seed=3)
    width = len(scores)
    counts = {}
    for i, j in selected:
        counts[i % width, j % width] = counts.get((i % width, j % width), 0) + 1
    return {pair: count / n for pair, count in counts.items()}


def test_uniform_gives_every_pair_the_same_chance():
    taken = chances([0.0, 0.1, 0.9, 0.2], "uniform", max_pairs=2)
    assert len(taken) == 6
    # 2 of 6 pairs; 0.03 is five standard deviations of a share of 1/3 over 6,000 users
    assert all(abs(share - 2 / 6) < 0.03 for share in taken.values())


def test_gap_weighted_draws_in_proportion_to_the_gap():
    scores = [0.0, 0.125, 1.0, 0.25]
    taken = chances(scores, "gap_weighted", max_pairs=1)
    gaps = {(i, j): scores[i] - scores[j] for i, j in itertools.permutations(range(4), 2) if scores[i] > scores[j]}
    assert set(taken) <= set(gaps)
    for pair, gap in gaps.items():
        assert abs(taken.get(pair, 0.0) - gap / sum(gaps.values())) < 0.03, pair


@pytest.mark.parametrize("rule", RULES)
def test_the_seed_decides_and_torchs_own_generator_is_left_alone(rule):
    scores, valid = torch.arange(20.0).view(2, 10) / 20, torch.ones(2, 10, dtype=torch.bool)
    before = torch.get_rng_state()
    assert select(scores, valid, 4, rule, seed=1) == select(scores, valid, 4, rule, seed=1)
    same = select(scores, valid, 4, rule, seed=1) == select(scores, valid, 4, rule, seed=2)
    assert same == (rule == "largest")
    assert torch.equal(torch.get_rng_state(), before)
