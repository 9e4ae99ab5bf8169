"""What the scripts share that train on a folder of data: arguments, loading, and runs beside plain ones."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sllmr_plugin import ScoreTable
from sllmr_plugin.datasets.interactions import Interactions, load_interactions
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.modes import Mode, Start
from sllmr_plugin.evaluation.training import RunSettings

METRICS = ("auc", "auc_cold", "auc_tail")


@dataclass(frozen=True)
class Bench:
    """Data, scores and where results go."""

    data: Interactions
    table: ScoreTable
    out: Path
    seeds: int
    settings: RunSettings
    start: Start

    @classmethod
    def from_command_line(cls, description: str) -> Bench:
        """Read --data, --out, --seeds and --rank-items."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--data", type=Path, required=True, help="interactions.csv, items.csv, llm_*.parquet")
        parser.add_argument("--out", type=Path, required=True, help="runs that are there already are not made again")
        parser.add_argument("--seeds", type=int, default=3)
        parser.add_argument("--rank-items", type=int, default=300, help="unseen items ranked against (default: 300)")
        arguments = parser.parse_args()
        if not arguments.data.is_dir():
            parser.error(f"{arguments.data}: no such folder; give one with interactions.csv and llm_scores.parquet")
        data = load_interactions(arguments.data / "interactions.csv", arguments.data / "items.csv")
        table = ScoreTable.read(
            arguments.data / "llm_scores.parquet", user_index=data.user_index, item_index=data.item_index
        )
        settings = RunSettings(test_items=arguments.rank_items, valid_items=arguments.rank_items)
        start = Start.read(arguments.data / "llm_texts.parquet", arguments.data / "items.csv")
        return cls(data, table, arguments.out, arguments.seeds, settings, start)

    def run(self, mode: str, folder: str, config: Mapping[str, Any] | None = None) -> np.ndarray:
        """Train DeepFM with every seed; return (n_seeds, 3) AUC overall, of cold users and of long-tail items."""
        runs = compare(
            self.data,
            self.table,
            out=self.out / folder,
            modes=[mode],
            seeds=self.seeds,
            settings=self.settings,
            start=self.start if Mode.of(mode).needs("vectors") else None,
            config_overrides=config or {},
        )
        return np.array([[getattr(run, metric) for metric in METRICS] for run in runs])


def spread(differences: np.ndarray) -> str:
    """Lay out (n_seeds, 3) differences as mean ± standard deviation over seeds."""
    means, deviations = differences.mean(axis=0), differences.std(axis=0, ddof=1)
    return "".join(f"{mean:>+10.4f} ± {deviation:.4f}" for mean, deviation in zip(means, deviations, strict=True))
