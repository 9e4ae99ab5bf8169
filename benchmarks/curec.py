"""What CURec brings, and what of it: ``python benchmarks/curec.py --data FOLDER --out FOLDER``.

DeepFM, trained as ``sllmr compare --rank-items 300`` does, plain; with the reasons of other users attended to by the
user's pattern (mode curec), which joins what it attends to, or, as in the paper, not; with each of its ablations,
reasons fused without regard to the user and the text of the item in the list's place; without balance in training
(`ReasonLists`); and curec beside what it combines with.
FOLDER has ``interactions.csv``, ``items.csv``, ``llm_scores.parquet``, ``llm_texts.parquet`` (texts of items, and
patterns or profiles of users) and ``llm_reasons.parquet``.

Prints AUC of the test interactions overall, of cold users and of long-tail items, validation AUC, and seconds of
``fit`` as mean ± standard deviation over seeds, and differences to the first variant. Finished runs are kept in
``results.jsonl`` of the folder and not made again. ``--cost`` trains nothing and prints the time of `predict` a row,
plain and with each fusion.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from vector_sources import Measured, header

from sllmr_plugin import CURecAdaptor, ScoreTable, SelectiveConfig, TextTable, augment
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.evaluation.modes import Mode, Start
from sllmr_plugin.evaluation.run import train_and_rank
from sllmr_plugin.evaluation.training import RunSettings
from sllmr_plugin.knowledge import EncodedTexts
from sllmr_plugin.zoo.deepctr import build_model, input_rows

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "curec": ("curec", {}),
    "curec, pattern as query alone": ("curec", {"with_pattern": False}),
    "curec, mean": ("curec", {"fuse": "mean"}),
    "curec, mlp": ("curec", {"fuse": "mlp"}),
    "curec, self": ("curec", {"fuse": "self"}),
    "curec, text of the item": ("curec", {"fuse": "mean", "reasons": "item"}),
    "curec, not balanced": ("curec", {"balance": False}),
    "curec, pattern as query alone, not balanced": ("curec", {"with_pattern": False, "balance": False}),
    "gated": ("gated", {}),
    "curec+gated": ("curec+gated", {}),
    "init": ("init", {}),
    "init+curec": ("init+curec", {}),
}
"""Name -> mode, and options of `CURecAdaptor`."""
ROWS = 16_384


class Bench:
    """The data of a folder, its texts as vectors, and trainings from them."""

    def __init__(self, folder: Path, backbone: str) -> None:
        self.backbone = backbone
        self.data = load_interactions(folder / "interactions.csv", folder / "items.csv")
        index = {"user_index": self.data.user_index, "item_index": self.data.item_index}
        self.scores = ScoreTable.read(folder / "llm_scores.parquet", **index)
        self.table = TextTable.read([folder / "llm_texts.parquet", folder / "llm_reasons.parquet"], **index)
        self.texts = EncodedTexts.of(self.table)
        self.start = Start.read(folder / "llm_texts.parquet", folder / "items.csv")
        self.settings = RunSettings(test_items=300, valid_items=300)

    def adaptor(self, rows: Any, seed: int, options: dict[str, Any]) -> CURecAdaptor:
        """Return a new adaptor."""
        return CURecAdaptor(self.texts, *rows, user="user_id", item="item_id", seed=seed, **options)

    def train(self, mode: str, options: dict[str, Any]) -> Callable[[int], dict[str, float]]:
        """Return what trains in a mode with a seed, and measures."""

        def run(seed: int) -> dict[str, float]:
            how, rows = Mode.of(mode), self.settings.rows(self.data, seed)
            result = train_and_rank(
                self.data,
                rows,
                self.scores,
                backbone=self.backbone,
                config=SelectiveConfig.of_mode(how.regularizer),
                seed=seed,
                settings=self.settings,
                adaptor=self.adaptor(rows, seed, options) if "curec" in how.parts else None,
                start=self.start if "init" in how.parts else None,
                verbose=False,
            )
            valid = result.epochs[result.epoch - 1]["valid_auc"]
            found = {"auc": result.auc, "cold": result.auc_cold, "tail": result.auc_tail, "valid": valid}
            return {**found, "epoch": result.epoch, "seconds": result.seconds}

        return run

    def cost(self, repeats: int = 7) -> None:
        """Print the time of `predict` a row; users and items drawn at random, so few rows share one."""
        rows, rng = self.settings.rows(self.data, 0), np.random.default_rng(0)
        drawn = {"user_id": self.data.n_users, "item_id": self.data.n_items}
        models = {"plain": build_model(self.backbone, self.data, seed=0)}
        for fuse in ("attention", "mean", "mlp", "self"):
            adaptor = self.adaptor(rows, 0, {"fuse": fuse})
            model = build_model(self.backbone, self.data, seed=0, dense=adaptor.widths)
            models[fuse] = augment(model, adaptor, user="user_id", item="item_id")
        x = {**{name: values[:1].repeat(ROWS, axis=0) for name, values in rows[0].items()}}
        x |= {name: rng.integers(1, n + 1, ROWS) for name, n in drawn.items()}
        times: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(repeats):  # in turn, so that what else the machine does meets all of them
            for name, model in models.items():
                inputs, began = input_rows(model, x), time.perf_counter()
                model.predict(inputs, batch_size=1024)
                times[name].append((time.perf_counter() - began) / ROWS * 1e6)
        for name, measured in times.items():
            print(f"{name:10} {np.median(measured):6.1f} microseconds a row, least {min(measured):.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, another one for other data")
    parser.add_argument("--backbone", default="deepfm")
    parser.add_argument("--variants", help="names with ; between (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1 (default: 3)")
    parser.add_argument("--cost", action="store_true", help="the time of predict, and no training")
    arguments = parser.parse_args()
    chosen = arguments.variants.split(";") if arguments.variants else list(VARIANTS)
    if unknown := set(chosen) - set(VARIANTS):
        parser.error(f"--variants: {', '.join(unknown)} is none of {'; '.join(VARIANTS)}")
    bench = Bench(arguments.data, arguments.backbone)
    if arguments.cost:
        bench.cost()
        return
    measured = Measured(arguments.out, arguments.seeds)
    header("AUC", "cold users", "long-tail items", "validation AUC", "epoch", "seconds of fit")
    for name in chosen:
        measured.show(name, bench.train(*VARIANTS[name]))
    if arguments.seeds > 1:
        header(f"AUC minus that of {chosen[0]}, 95% interval for new seeds")
        first = measured.of(chosen[0], bench.train(*VARIANTS[chosen[0]]))["auc"]
        for name in chosen[1:]:
            print(f"| {name} | {paired_interval(measured.of(name, bench.train(*VARIANTS[name]))['auc'] - first)} |")


def paired_interval(differences: pd.Series) -> str:
    """Return the mean of differences, one a seed, and its interval by Student's t."""
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    mean = differences.mean()
    return f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"


if __name__ == "__main__":
    main()
