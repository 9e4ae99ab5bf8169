"""Which pairs are worth their input rows: ``python benchmarks/pair_choice.py --data FOLDER --out FOLDER``.

A backbone is trained with the default settings, plain and from texts, without pairs and with gated pairs that are
chosen in different ways. Every line changes the first one, the default at 256 rows: 16 users a step, ten scored items
considered of each, the four pairs of largest gap among them, and lambda 0.1. Prints, for every mode, AUC differences
(validation first: it decides) to the same mode without pairs, mean and standard deviation over seeds, and seconds of
an epoch as a ratio to that mode's. Runs that are in the folder already are not made again.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import METRICS, Bench

from sllmr_plugin.evaluation.modes import Mode

CHOICES: dict[str, dict[str, object]] = {
    "16 users, 4 pairs": {"users_per_step": 16, "pairs_per_user": 4},
    "8 users, 4 pairs": {"users_per_step": 8, "pairs_per_user": 4},
    "32 users, 4 pairs": {"users_per_step": 32, "pairs_per_user": 4},
    "64 users, 4 pairs": {"users_per_step": 64, "pairs_per_user": 4},
    "16 users, 1 pair": {"users_per_step": 16, "pairs_per_user": 1},
    "32 users, 1 pair": {"users_per_step": 32, "pairs_per_user": 1},
    "64 users, 1 pair": {"users_per_step": 64, "pairs_per_user": 1},
    "16 users, 8 pairs": {"users_per_step": 16, "pairs_per_user": 8},
    "64 users, every fourth step": {"users_per_step": 64, "every_steps": 4},
    "lambda 0.05": {"users_per_step": 16, "weight": 0.05},
    "lambda 0.2": {"users_per_step": 16, "weight": 0.2},
    "lambda 0.4": {"users_per_step": 16, "weight": 0.4},
    "lambda 0.2, halved every epoch": {"users_per_step": 16, "weight": 0.2, "decay": 0.5},
    "lambda 0.2, uniform": {"users_per_step": 16, "weight": 0.2, "pair_rule": "uniform"},
    "by gap": {"users_per_step": 16, "pair_rule": "gap_weighted"},
    "uniform": {"users_per_step": 16, "pair_rule": "uniform"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this script reads beside the common arguments."""
    parser.add_argument("--modes", nargs="+", default=["gated", "init+gated"])
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=list(CHOICES), metavar="CHOICE")
    parser.add_argument("--batch-size", type=int, default=256)


def main() -> None:
    bench, arguments = Bench.from_command_line(__doc__, add_arguments)
    bench = bench.with_settings(batch_size=arguments.batch_size)

    def run(folder: str, mode: str, config: dict[str, object]) -> np.ndarray:
        """Train with every seed; return (n_seeds, 5): validation AUC, the metrics and the seconds of an epoch."""
        runs = bench.runs(mode, folder.replace(" ", "_").replace(",", ""), config)
        rows = [
            [one.epochs[one.epoch - 1]["valid_auc"], *(getattr(one, metric) for metric in METRICS)]
            + [one.seconds / len(one.epochs)]
            for one in runs
        ]
        return np.array(rows)

    print("| mode | pairs | validation AUC | AUC | cold users | long-tail items | time of an epoch |")
    print("| --- " * 7 + "|")
    for mode in arguments.modes:
        base = "+".join(Mode.of(mode).parts) or "none"
        without = run(f"{base} alone", base, {})
        aucs = [f"{mean:.4f}" for mean in without[:, :4].mean(axis=0)]
        print(f"| {base} | none | " + " | ".join(aucs) + " | 1 |", flush=True)
        for name in arguments.choices:
            found = run(f"{mode} {name}", mode, CHOICES[name])
            differences = (found - without)[:, :4]
            means = differences.mean(axis=0)
            deviations = differences.std(axis=0, ddof=1) if arguments.seeds > 1 else [None] * 4
            cells = [
                f"{mean:+.4f}" if deviation is None else f"{mean:+.4f} ± {deviation:.4f}"
                for mean, deviation in zip(means, deviations, strict=True)
            ]
            ratio = found[:, 4].mean() / without[:, 4].mean()
            print(f"| {mode} | {name} | " + " | ".join(cells) + f" | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
