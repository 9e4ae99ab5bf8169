"""What the scripts share that train on a folder of data: arguments, loading, and runs beside plain ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """Data, scores, texts, and where results go."""

    data: Interactions
    table: ScoreTable
    start: Start
    out: Path
    seeds: int
    backbone: str
    settings: RunSettings

    @classmethod
    def from_command_line(
        cls, description: str | None, add: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    ) -> tuple[Bench, argparse.Namespace]:
        """Read --data, --out, --seeds, --backbone and --rank-items, and what `add` puts beside them."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--data", type=Path, required=True, help="interactions.csv, items.csv, llm_*.parquet")
        parser.add_argument("--out", type=Path, required=True, help="runs that are there already are not made again")
        parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1 (default: 3)")
        parser.add_argument("--backbone", default="deepfm")
        parser.add_argument("--rank-items", type=int, default=300, help="unseen items ranked against (default: 300)")
        add(parser)
        arguments = parser.parse_args()
        if not arguments.data.is_dir():
            parser.error(f"{arguments.data}: no such folder; give one with interactions.csv and llm_scores.parquet")
        data = load_interactions(arguments.data / "interactions.csv", arguments.data / "items.csv")
        table = ScoreTable.read(
            arguments.data / "llm_scores.parquet", user_index=data.user_index, item_index=data.item_index
        )
        start = Start.read(arguments.data / "llm_texts.parquet", arguments.data / "items.csv")
        settings = RunSettings(test_items=arguments.rank_items, valid_items=arguments.rank_items)
        bench = cls(data, table, start, arguments.out, arguments.seeds, arguments.backbone, settings)
        return bench, arguments

    def with_settings(self, **changes: Any) -> Bench:
        """Return the same with other settings of training."""
        return replace(self, settings=replace(self.settings, **changes))

    def runs(self, mode: str, folder: str, config: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Train with every seed, and return the runs."""
        return compare(
            self.data,
            self.table,
            out=self.out / folder,
            backbone=self.backbone,
            modes=[mode],
            seeds=self.seeds,
            settings=self.settings,
            start=self.start if Mode.of(mode).needs("vectors") else None,
            config_overrides=config or {},
        )

    def aucs(self, mode: str, folder: str, config: Mapping[str, Any] | None = None) -> np.ndarray:
        """Train with every seed; return (n_seeds, 3) AUC overall, of cold users and of long-tail items."""
        return np.array([[getattr(run, metric) for metric in METRICS] for run in self.runs(mode, folder, config)])


def spread(differences: np.ndarray) -> str:
    """Lay out (n_seeds, 3) differences as mean ± standard deviation over seeds."""
    means, deviations = differences.mean(axis=0), differences.std(axis=0, ddof=1)
    return "".join(f"{mean:>+10.4f} ± {deviation:.4f}" for mean, deviation in zip(means, deviations, strict=True))
