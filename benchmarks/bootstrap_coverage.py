"""How often the interval of a comparison holds the true difference: ``python benchmarks/bootstrap_coverage.py``.

Simulates differences between two models: a true mean, plus an effect of the seed, of the user (skewed), of the
interaction and of the single run, with one to three interactions a user. Counts in how many of 500 simulated data sets
the interval holds the true mean, beside the interval that a bootstrap of users alone would give.
"""

from __future__ import annotations

import argparse

import numpy as np

from sllmr_plugin.evaluation.statistics import paired_differences

TRUE_MEAN = 0.01
# name: seeds, standard deviation between seeds, users, runs of one user
SETTINGS = {
    "1 seed": (1, 0.0, 0.1, 0.05),
    "3 seeds alike": (3, 0.0, 0.1, 0.05),
    "3 seeds alike, noisy runs": (3, 0.0, 0.02, 0.2),
    "3 seeds, some noise": (3, 0.003, 0.1, 0.05),
    "3 seeds, much noise": (3, 0.03, 0.1, 0.05),
    "5 seeds, some noise": (5, 0.003, 0.1, 0.05),
    "5 seeds, much noise": (5, 0.03, 0.1, 0.2),
}


def simulate(
    rng: np.random.Generator, n_users: int, n_seeds: int, seed_sd: float, user_sd: float, run_sd: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n_seeds, n_interactions) differences around `TRUE_MEAN` and the user of each interaction."""
    per_user = rng.integers(1, 4, n_users)
    users = np.repeat(np.arange(n_users), per_user)
    of_user = user_sd * (rng.exponential(size=n_users) - 1)  # mean 0, skewed
    differences = TRUE_MEAN + rng.normal(0, seed_sd, n_seeds)[:, None] + of_user[users]
    differences = differences + rng.normal(0, user_sd, len(users)) + rng.normal(0, run_sd, (n_seeds, len(users)))
    return differences, users


def coverage(setting: tuple[int, float, float, float], data_sets: int, n_users: int, seed: int) -> tuple[float, float]:
    """Return the shares of data sets whose interval holds the true mean: ours, and of users alone."""
    rng = np.random.default_rng(seed)
    held = np.zeros(2)
    for number in range(data_sets):
        differences, users = simulate(rng, n_users, *setting)
        for k, seeds in enumerate((differences, differences.mean(axis=0, keepdims=True))):
            (result,) = paired_differences(seeds[None], users, resamples=1000, permutations=1, seed=number)
            held[k] += result.low <= TRUE_MEAN <= result.high
    return tuple(held / data_sets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-sets", type=int, default=500)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{'':28}{'interval':>10}{'users alone':>14}")
    for name, setting in SETTINGS.items():
        ours, alone = coverage(setting, arguments.data_sets, arguments.users, arguments.seed)
        print(f"{name:28}{ours:>10.1%}{alone:>14.1%}", flush=True)


if __name__ == "__main__":
    main()
