"""k-core, splits and negatives, against loops over single interactions."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sllmr_plugin.datasets import negatives as negatives_module
from sllmr_plugin.datasets.negatives import draw_negatives, spare_items
from sllmr_plugin.datasets.splits import by_time, k_core, leave_last_out
from sllmr_plugin.errors import DataError

PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), min_size=1, max_size=60, unique=True)


def arrays(pairs):
    return np.array(pairs, dtype=np.int32).reshape(-1, 2).T


# --- k-core -----------------------------------------------------------------------------------------------


def naive_core(pairs, k):
    """Leave out one interaction at a time, until every user and item that is left has k."""
    pairs = list(pairs)
    while True:
        users, items = Counter(user for user, _ in pairs), Counter(item for _, item in pairs)
        poor = next((pair for pair in pairs if users[pair[0]] < k or items[pair[1]] < k), None)
        if poor is None:
            return pairs
        pairs.remove(poor)


@settings(deadline=None)
@given(PAIRS, st.integers(0, 4))
def test_k_core_is_what_a_loop_leaves(pairs, k):
    assert [pairs[place] for place in k_core(*arrays(pairs), k)] == naive_core(pairs, k)


def test_k_core_unravels_a_chain():
    # user n has items n and n + 1: the ends fall first, then everything, one link a turn
    chain = [(n, item) for n in range(30) for item in (n, n + 1)]
    assert len(k_core(*arrays(chain), 2)) == 0
    assert len(k_core(*arrays([*chain, (30, 30), (30, 0)]), 2)) == 62  # a ring holds


# --- splits -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 6), max_size=40).map(sorted))
def test_leave_last_out(users):
    splits = leave_last_out(np.array(users, dtype=np.int64)).tolist()
    for user in set(users):
        own = [split for owner, split in zip(users, splits, strict=True) if owner == user]
        endings = {1: [0], 2: [0, 2]}
        assert own == endings.get(len(own), [0] * (len(own) - 2) + [1, 2])


@given(st.lists(st.integers(0, 50), min_size=20, max_size=60), st.sampled_from([0.0, 0.1, 0.3]))
def test_by_time_cuts_at_two_moments(times, valid_share):
    times = np.array(times)
    try:
        splits = by_time(times, valid_share=valid_share, test_share=0.2)
    except DataError:
        assume(False)
    groups = [times[splits == split] for split in (0, 1, 2)]
    for earlier, later in ((0, 1), (0, 2), (1, 2)):
        if len(groups[earlier]) and len(groups[later]):
            assert groups[earlier].max() < groups[later].min()
    # A cut has the share asked for behind it, and no more of the earlier times than those tied at the cut.
    for held_out, share in ((groups[2], 0.2), (np.concatenate(groups[1:]), 0.2 + valid_share)):
        asked = round(len(times) * share)
        assert asked <= len(held_out) < asked + (times == held_out.min()).sum()


@pytest.mark.parametrize(("times", "empty"), [([7] * 10, "training"), ([1] * 7 + [9] * 3, "validation")])
def test_by_time_refuses_to_leave_a_split_empty(times, empty):
    with pytest.raises(DataError, match=f"no interaction for {empty}.*split leave-last-out"):
        by_time(np.array(times), valid_share=0.1, test_share=0.1)


# --- negatives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [0, 1, 20])  # 0: all are dealt, as for users who have nearly everything
@settings(deadline=None, max_examples=60)
@given(pairs=PAIRS, n=st.integers(1, 3), by_popularity=st.booleans(), seed=st.integers(0, 5))
def test_negatives_are_different_and_never_a_positive(rounds, pairs, n, by_popularity, seed):
    pairs = sorted(pairs)
    users, items = arrays(pairs)
    n_items = 14
    weights = np.bincount(items, minlength=n_items) if by_popularity else np.ones(n_items, dtype=np.int64)
    own = {user: {item for owner, item in pairs if owner == user} for user, _ in pairs}
    spare = {user: [item for item in range(n_items) if weights[item] and item not in own[user]] for user in own}
    assert {user: spare_items(users, items, weights, 8)[user] for user in own} == {
        user: len(left) for user, left in spare.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(negatives_module, "_ROUNDS", rounds)
        patch.setattr(negatives_module, "_BLOCK", 3 * n_items)  # three users at a time
        if any(len(own[user]) * n > len(spare[user]) for user in own):
            with pytest.raises(ValueError, match="more negatives than there are items"):
                draw_negatives(users, items, weights, n, np.random.default_rng(seed))
            return
        drawn = draw_negatives(users, items, weights, n, np.random.default_rng(seed))
        again = draw_negatives(users, items, weights, n, np.random.default_rng(seed))
    assert drawn.shape == (len(pairs), n)
    assert (drawn == again).all()
    for user in own:
        hers = drawn[users == user].ravel().tolist()
        assert len(set(hers)) == len(hers)
        assert set(hers) <= set(spare[user])


@pytest.mark.parametrize("rounds", [0, 1, 20])
def test_both_ways_of_drawing_draw_by_weight(rounds, monkeypatch):
    """Two draws without repeats from weights 1, 2, 3: the chance of a set is the sum over its two orders."""
    monkeypatch.setattr(negatives_module, "_ROUNDS", rounds)
    n_users = 30_000
    users, items = np.arange(n_users), np.full(n_users, 3)  # item 3 is everybody's
    weights = np.array([1, 2, 3, 50])
    drawn = draw_negatives(users, items, weights, 2, np.random.default_rng(0))
    share = {0: 1 / 6, 1: 2 / 6, 2: 3 / 6}
    for pair in ((0, 1), (0, 2), (1, 2)):
        chance = sum(share[a] * share[b] / (1 - share[a]) for a, b in (pair, pair[::-1]))
        found = (np.sort(drawn, axis=1) == pair).all(axis=1).mean()
        assert abs(found - chance) < 4 * np.sqrt(chance * (1 - chance) / n_users)
