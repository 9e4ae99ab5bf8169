"""Run folders side by side: ``python benchmarks/ground.py RUNS/GAMES_DEEPFM RUNS/GAMES_DCN ...``.

Each folder is one of ``sllmr compare`` over the same data. Prints Markdown: AUC of every mode (rows) on every backbone
(columns), bold where the 95% interval of the difference to the plain model leaves out zero; what needs no training;
the differences to the model that a combination adds to; and seconds of training without rankings, in all and of an
epoch as a ratio to the plain model's of the same folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

UNTRAINED = ("popularity", "content", "content+popularity")


@dataclass(frozen=True)
class Column:
    """A backbone's runs of one folder, by mode, and its differences, by mode and baseline."""

    head: str
    runs: Mapping[str, list[Mapping[str, Any]]]
    differences: Mapping[tuple[str, str], Mapping[str, Any]]
    untrained: Mapping[str, Mapping[str, float]]

    def mean(self, mode: str, metric: str = "auc") -> float:
        """Return the mean over seeds."""
        return float(np.mean([run[metric] for run in self.runs[mode]]))

    def epoch(self, mode: str) -> float:
        """Return seconds of an epoch of ``fit``."""
        return float(np.mean([run["seconds"] / len(run["epochs"]) for run in self.runs[mode]]))


def columns_of(folder: Path) -> list[Column]:
    """Read a run folder: a column for each of its backbones."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    sizes = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    untrained = {name: results[name] for name in UNTRAINED if name in results}
    found = []
    for backbone in dict.fromkeys(run["backbone"] for run in results["runs"]):
        runs: dict[str, list[Mapping[str, Any]]] = {}
        for run in results["runs"]:
            if run["backbone"] == backbone:
                runs.setdefault(run["mode"], []).append(run)
        differences = {
            (difference["mode"], difference["baseline"]): difference
            for difference in results["differences"]
            if difference["backbone"] == backbone and difference["stratum"] == "all" and not difference["label"]
        }
        seeds = max(len(one) for one in runs.values())
        head = f"{backbone} ({sizes['embedding_dim']}, {sizes['batch_size']}), {seeds} seed{'s' * (seeds > 1)}"
        found.append(Column(head, runs, differences, untrained))
    return found


def table(first: str, columns: Sequence[Column], rows: Mapping[str, Callable[[Column], str]]) -> None:
    """Print a Markdown table; a row's function gives the cell of a column."""
    print("\n| " + " | ".join([first, *(column.head for column in columns)]) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name, cell in rows.items():
        print("| " + " | ".join([name, *(cell(column) for column in columns)]) + " |")


def auc(mode: str) -> Callable[[Column], str]:
    """Return what gives the cell of a mode: its AUC."""

    def cell(column: Column) -> str:
        if mode in column.untrained:
            return f"{column.untrained[mode]['auc']:.4f}"
        if mode not in column.runs:
            return ""
        difference = column.differences.get((mode, "none"))
        clear = difference is not None and not difference["low"] <= 0 <= difference["high"]
        return f"**{column.mean(mode):.4f}**" if clear else f"{column.mean(mode):.4f}"

    return cell


def gain(mode: str, baseline: str) -> Callable[[Column], str]:
    """Return what gives the cell of a difference, with its interval."""

    def cell(column: Column) -> str:
        if (mode, baseline) not in column.differences:
            return ""
        difference = column.differences[mode, baseline]
        text = f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
        return text if difference["low"] <= 0 <= difference["high"] else f"**{text}**"

    return cell


def pace(mode: str) -> Callable[[Column], str]:
    """Return what gives the cell of an epoch's time, over the plain model's."""
    return lambda column: (
        f"{column.epoch(mode) / column.epoch('none'):.2f}" if {mode, "none"} <= set(column.runs) else ""
    )


def seconds(mode: str) -> Callable[[Column], str]:
    """Return what gives the cell of a training's time."""
    return lambda column: f"{column.mean(mode, 'seconds'):.0f}" if mode in column.runs else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="run folders of sllmr compare")
    parser.add_argument("--time", action="store_true", help="the time of trainings as well")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        if not (folder / "results.json").is_file():
            parser.error(f"{folder}: no results.json; give a folder that sllmr compare has written")
    columns = [column for folder in arguments.folders for column in columns_of(folder)]
    modes = dict.fromkeys(mode for column in columns for mode in column.runs)
    untrained = [name for name in UNTRAINED if any(name in column.untrained for column in columns)]
    table("AUC", columns, {mode: auc(mode) for mode in [*modes, *untrained]})
    pairs = dict.fromkeys(pair for column in columns for pair in column.differences)
    table("difference", columns, {f"{mode} minus {of}": gain(mode, of) for mode, of in pairs})
    if arguments.time:
        table("seconds of a training", columns, {mode: seconds(mode) for mode in modes})
        table("time of an epoch", columns, {mode: pace(mode) for mode in modes})


if __name__ == "__main__":
    main()
