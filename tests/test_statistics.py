"""Bootstrap intervals and sign-flip p-values against naive loops, enumeration and simulated data sets."""

import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest

from sllmr_plugin.evaluation.statistics import _variance_from_seeds, paired_differences

SIMULATION = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "bootstrap_coverage.py"))


def one(differences, users, **options):
    (result,) = paired_differences(np.asarray(differences, dtype=float)[None], np.asarray(users), **options)
    return result


@pytest.mark.parametrize("name", ["1 seed", "3 seeds, much noise"])
def test_the_interval_holds_the_true_difference_in_95_of_100_data_sets(name):
    ours, alone = SIMULATION["coverage"](SIMULATION["SETTINGS"][name], data_sets=500, n_users=120, seed=1)
    assert 0.93 <= ours <= 0.97
    if "noise" in name:
        assert alone < 0.85  # users alone know nothing of the seeds


def test_the_interval_equals_a_naive_bootstrap_of_whole_users():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(40), rng.integers(1, 5, 40))
    values = rng.normal(0.02, 0.1, 40)[users] + rng.normal(0, 0.05, len(users))
    result = one([values], users, resamples=20_000)
    means = []
    for _ in range(5_000):
        rows = np.concatenate([np.flatnonzero(users == user) for user in rng.integers(0, 40, 40)])
        means.append(values[rows].mean())
    width = result.high - result.low
    assert result.mean == pytest.approx(values.mean())
    assert result.low == pytest.approx(np.quantile(means, 0.025), abs=0.05 * width)
    assert result.high == pytest.approx(np.quantile(means, 0.975), abs=0.05 * width)


def test_users_whose_interactions_agree_widen_the_interval():
    rng = np.random.default_rng(1)
    of_user = rng.normal(0, 1, 50)
    clustered = one([np.repeat(of_user, 8)], np.repeat(np.arange(50), 8))
    taken_apart = one([np.repeat(of_user, 8)], np.arange(400))
    assert (clustered.high - clustered.low) / (taken_apart.high - taken_apart.low) == pytest.approx(8**0.5, rel=0.1)


def test_seeds_that_differ_alone_give_students_interval():
    # Every user has the same difference, which changes with the seed: mean 0.1, standard error 0.1 / sqrt(3).
    result = one(np.repeat([[0.0], [0.1], [0.2]], 30, axis=1), np.arange(30), resamples=100_000)
    half = 4.303 * 0.1 / 3**0.5  # Student's t with 2 degrees of freedom
    assert (result.low, result.high) == pytest.approx((0.1 - half, 0.1 + half), rel=0.03)


def of_two_seeds(shift, apart, n=40):
    """Two seeds and a comparison whose users differ: by 2 (shift + apart) between seeds, or by 2 (shift - apart)."""
    rng = np.random.default_rng(2)
    own = rng.normal(0, 0.1, n)
    half = shift + apart * np.where(np.arange(n) % 2, 1, -1)
    return own, np.stack([own + half, own - half])


@pytest.mark.parametrize("share", [0.5, 0.99, 1.01, 4.0])
def test_what_chance_among_users_makes_of_seeds_is_no_variance_of_seeds(share):
    """Users whose differences lie `apart` around the shift give the means of two seeds a variance by chance.

    Of n users it is 2 apart^2 / n. The means are `shift` above and below their own mean, a variance of 2 shift^2. So
    seeds add 2 (shift^2 - apart^2 / n), or nothing, to the variance of one, and half of that to the mean of two.
    """
    apart, n = 0.3, 40
    shift = apart * (share / n) ** 0.5
    own, differences = of_two_seeds(shift, apart, n)
    with_seeds, alone = one(differences, np.arange(n), resamples=20_000), one([own], np.arange(n), resamples=20_000)
    if share <= 1:
        assert (with_seeds.low, with_seeds.high) == (pytest.approx(alone.low), pytest.approx(alone.high))
        return
    spread = (shift**2 - apart**2 / n) ** 0.5
    rng = np.random.default_rng(7)  # Student's t with 1 degree of freedom, and means of resampled users
    means = own[rng.integers(0, n, (20_000, n))].mean(axis=1) + rng.standard_t(1, 20_000) * spread
    expected = np.quantile(means, 0.975) - np.quantile(means, 0.025)
    assert with_seeds.high - with_seeds.low == pytest.approx(expected, rel=0.1)


def test_the_variance_of_seeds_equals_a_naive_loop_over_users_of_any_size():
    rng = np.random.default_rng(4)
    users = np.repeat(np.arange(7), [1, 5, 2, 2, 3, 1, 4])
    noise = rng.normal(0, 0.3, (3, 7))[:, users] + rng.normal(0, 0.1, (3, len(users)))
    differences = rng.normal(0, 0.5, (3, 1)) + rng.normal(0, 1, 7)[users] + noise
    n_seeds, n = differences.shape
    grand = differences.sum() / (n_seeds * n)
    of_seed = [sum(row) / n for row in differences]
    between = sum((mean - grand) ** 2 for mean in of_seed) / (n_seeds - 1)
    by_chance = 0.0
    for s in range(n_seeds):
        for user in range(7):
            rows = [k for k in range(n) if users[k] == user]
            left = sum(
                differences[s, k] - sum(differences[t, k] for t in range(n_seeds)) / n_seeds - of_seed[s] + grand
                for k in rows
            )
            by_chance += left**2 / ((n_seeds - 1) * n**2)
    assert between > 1.2 * by_chance > 0
    assert _variance_from_seeds(differences[None], users) == pytest.approx((between - by_chance) / n_seeds)


def test_the_p_value_equals_the_enumeration_of_all_signs():
    users = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 7])
    values = np.array([0.3, 0.1, 0.2, -0.1, 0.4, 0.1, -0.2, 0.5, 0.1, 0.0, 0.2, 0.2])
    sums = np.bincount(users, weights=values)
    flips = [abs(np.dot(signs, sums)) for signs in itertools.product([-1, 1], repeat=8)]
    exact = np.mean(np.array(flips) >= abs(sums.sum()) - 1e-12)
    assert one([values], users, permutations=40_000).p_value == pytest.approx(exact, abs=0.005)


def test_the_p_value_is_never_zero_and_one_for_equal_models():
    assert one([np.full(60, 0.5)], np.arange(60), permutations=99).p_value == pytest.approx(1 / 100)
    same = one(np.zeros((2, 60)), np.arange(60))
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert (same.wins, same.ties, same.losses) == (0, 60, 0)


def test_wins_are_counted_by_user_over_seeds():
    users = ["ann", "ann", "bob", "eve", "joe"]
    differences = [[0.1, 0.2, 0.3, -0.3, -0.2], [0.1, -0.2, -0.3, -0.1, 0.1]]
    # ann +0.2, bob 0, eve -0.4, joe -0.1, summed over seeds
    result = one(differences, users)
    assert (result.wins, result.ties, result.losses) == (1, 1, 2)


def test_comparisons_share_their_random_numbers_and_do_not_touch_each_other():
    rng = np.random.default_rng(3)
    differences = rng.normal(0, 1, (3, 2, 40))
    together = paired_differences(differences, np.arange(40), seed=5)
    assert [result.mean for result in together] == pytest.approx(list(differences.mean(axis=(1, 2))))
    repeated = paired_differences(differences[[2, 1, 1]], np.arange(40), seed=5)
    assert repeated == [together[2], together[1], together[1]]


def test_a_single_user_has_no_interval():
    result = one([[0.1, 0.3]], ["ann", "ann"])
    assert result.mean == pytest.approx(0.2)
    assert np.isnan([result.low, result.high, result.p_value]).all()
    assert result.wins == 1


def test_memory_is_bounded_whatever_the_number_of_users(monkeypatch):
    differences = np.random.default_rng(0).normal(0.1, 1, (1, 3, 500))
    whole = paired_differences(differences, np.arange(500))
    monkeypatch.setattr("sllmr_plugin.evaluation.statistics._CHUNK", 700)  # one resample at a time
    (parts,) = paired_differences(differences, np.arange(500))
    assert (parts.low, parts.high) == pytest.approx((whole[0].low, whole[0].high))
    assert parts.p_value == pytest.approx(whole[0].p_value, abs=0.02)
