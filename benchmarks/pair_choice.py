"""Which pairs are worth their input rows: ``python benchmarks/pair_choice.py --data FOLDER --out DIR``.

FOLDER holds ``interactions.csv``, ``items.csv`` and ``llm_scores.parquet`` as `sllmr compare` takes them. A DeepFM is
trained plain and with ungated pairs, chosen in different ways, so that the choice is all that differs. Prints AUC and
the difference to plain, seed by seed. Runs that are in DIR already are not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sllmr_plugin import ScoreTable
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.training import RunSettings

# users in a step, scored items considered of each, most pairs of each, rule; at batch size 256
CHOICES = {
    "32 users, 1 pair by gap": (32, 20, 1, "gap_weighted"),
    "32 users, 1 pair at random": (32, 20, 1, "uniform"),
    "32 users, largest gap of 20 items": (32, 20, 1, "largest"),
    "32 users, largest gap of 10 items": (32, 10, 1, "largest"),
    "32 users, largest gap of 5 items": (32, 5, 1, "largest"),
    "16 users, 4 items, all pairs": (16, 4, 6, "uniform"),
    "8 users, 8 items, all pairs": (8, 8, 28, "uniform"),
    "8 users, 1 pair by gap": (8, 20, 1, "gap_weighted"),
    "128 users, 1 pair by gap": (128, 20, 1, "gap_weighted"),
}
FIELDS = ("users_per_step", "candidates_per_user", "pairs_per_user", "pair_rule")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weight", type=float, default=0.1)
    parser.add_argument("--eval-users", type=int, default=1500)
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.error(f"{arguments.data}: no such folder; give one with interactions.csv and llm_scores.parquet")
    data = load_interactions(arguments.data / "interactions.csv", arguments.data / "items.csv")
    table = ScoreTable.read(
        arguments.data / "llm_scores.parquet", user_index=data.user_index, item_index=data.item_index
    )
    settings = RunSettings(test_users=arguments.eval_users, valid_users=500)

    def auc(mode: str, folder: str, **overrides: object) -> np.ndarray:
        runs = compare(
            data,
            table,
            out=arguments.out / folder,
            modes=[mode],
            seeds=arguments.seeds,
            settings=settings,
            config_overrides=overrides,
        )
        return np.array([[run.auc, run.auc_cold, run.auc_tail] for run in runs])

    plain = auc("none", "plain")
    print(f"{'pairs of a step':36}{'rows':>6}{'AUC':>9}{'- plain':>18}{'cold':>18}{'tail':>18}")
    print(f"{'plain':36}{0:>6}{plain[:, 0].mean():>9.4f}")
    for name, choice in CHOICES.items():
        overrides = dict(zip(FIELDS, choice, strict=True))
        result = auc("global", "_".join(map(str, choice)), weight=arguments.weight, **overrides)
        difference = result - plain
        cells = "".join(
            f"{mean:>+11.4f} ± {spread:.4f}"
            for mean, spread in zip(difference.mean(axis=0), difference.std(axis=0, ddof=1), strict=True)
        )
        users, items, pairs, _ = choice
        print(f"{name:36}{users * min(items, 2 * pairs):>6}{result[:, 0].mean():>9.4f}{cells}", flush=True)


if __name__ == "__main__":
    main()
