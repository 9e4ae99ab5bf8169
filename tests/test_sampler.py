"""`TableSampler`: every user equally often, items without replacement and only the user's own."""

from __future__ import annotations

import collections

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin.scores.table import UserScores
from sllmr_plugin.training.sampler import TableSampler


def table(counts):
    """User k (code 10 + k) scores the items k, k + 1, ... of its count."""
    users = np.repeat(10 + np.arange(len(counts)), counts)
    items = np.concatenate([np.arange(k, k + n) for k, n in enumerate(counts)] or [[]]).astype(np.int64)
    return UserScores.from_arrays(users, items, np.linspace(0, 1, len(users), dtype=np.float32))


def sampler(scores, candidates_per_user, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TableSampler(scores, candidates_per_user=candidates_per_user, generator=generator)


@given(st.integers(1, 12), st.lists(st.integers(1, 15), min_size=1, max_size=30), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_users_take_turns_at_any_sizes_of_the_steps(n_users, steps, seed):
    draws = sampler(table([2] * n_users), 2, seed)
    visits = collections.Counter(dict.fromkeys(range(n_users), 0))
    for asked in steps:
        users = draws.draw(asked).users.tolist()
        assert len(users) == len(set(users)) == min(asked, n_users)
        visits.update(users)
        # nobody is drawn once more before everybody had a turn
        assert max(visits.values()) - min(visits.values()) <= 1


def test_over_whole_rounds_every_user_comes_equally_often():
    draws = sampler(table([2] * 12), 2)
    visits = collections.Counter(user for _ in range(5 * 12) for user in draws.draw(7).users.tolist())
    assert visits == dict.fromkeys(range(12), 5 * 7)


def test_the_order_of_users_is_new_in_every_round():
    draws = sampler(table([2] * 50), 2)
    first, second = draws.draw(50).users, draws.draw(50).users
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(50))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=10), st.integers(2, 10), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_candidates_are_the_users_own_and_come_once(counts, candidates_per_user, seed):
    scores = table(counts)
    draws = sampler(scores, candidates_per_user, seed)
    for _ in range(4):
        block = draws.draw(4)
        assert block.entry.shape == block.valid.shape
        assert block.entry.shape[1] <= candidates_per_user
        for user, entry, valid in zip(block.users.tolist(), block.entry, block.valid, strict=True):
            taken = entry[valid].tolist()
            assert len(taken) == len(set(taken)) == min(counts[user], candidates_per_user)
            assert all(scores.offsets[user] <= number < scores.offsets[user + 1] for number in taken)
            assert set(scores.items[taken].tolist()) <= set(range(user, user + counts[user]))


def test_every_candidate_has_the_same_chance():
    draws = sampler(table([10, 3]), 4)
    n = 2000
    taken = torch.zeros(13)
    for _ in range(n):
        block = draws.draw(2)
        taken[block.entry[block.valid]] += 1
    expected = torch.tensor([0.4] * 10 + [1.0] * 3) * n
    deviation = (n * 0.4 * 0.6) ** 0.5
    assert ((taken - expected).abs()[:10] < 4.5 * deviation).all()
    assert torch.equal(taken[10:], expected[10:])


def test_all_items_come_in_order_where_the_table_holds_no_more():
    block = sampler(table([3, 2]), 5).draw_for(torch.tensor([1, 0]))
    assert block.valid.tolist() == [[True, True, False], [True, True, True]]
    assert block.entry[0, :2].tolist() == [3, 4]
    assert block.entry[1].tolist() == [0, 1, 2]


def test_nobody_asked_for_gives_an_empty_block():
    draws = sampler(table([3, 2]), 2)
    block = draws.draw_for(torch.empty(0, dtype=torch.int64))
    assert block.entry.shape[0] == block.valid.numel() == 0
    assert sampler(table([]), 2).draw(4).entry.numel() == 0


def test_the_seed_decides_and_torchs_own_generator_is_left_alone():
    def draw(seed):
        draws = sampler(table([6] * 9), 3, seed)
        return torch.cat([draws.draw(4).entry.flatten() for _ in range(5)])

    before = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), before)
