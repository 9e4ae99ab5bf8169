"""Which training suits plain and regularized models: ``python benchmarks/training_search.py --data FOLDER --out FILE``.

The defaults of `RunSettings` come from here. From one setting, each of its parts is changed alone, and every setting
trains every backbone in every mode, so that the plain model has the same budget as the regularized one. Judged is the
validation AUC of the best epoch; test interactions are not ranked. Finished runs are kept in FILE and not made again.

``--grid FIELD=VALUE,VALUE ...`` crosses the fields that it names instead; those of `Start` (scale, users, method) say
how embeddings start in modes with init, those of `SelectiveConfig` what the regularizer adds.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sllmr_plugin import ScoreTable, SelectiveConfig
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.evaluation.modes import Mode, Start
from sllmr_plugin.evaluation.training import RunSettings, train
from sllmr_plugin.knowledge.vectors import find_encoder

CENTRE: dict[str, Any] = {"epochs": 15, "patience": 3, "negatives": 4, "redraw": True, "learning_rate": 3e-3}
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"epochs": 3, "patience": None, "negatives": 1, "redraw": False, "learning_rate": 1e-3},  # the quick setting
    {"redraw": False},
    {"negatives": 1},
    {"negatives": 10},
    {"negatives_by": "popularity"},
    {"learning_rate": 3e-4},
    {"learning_rate": 1e-3},
    {"learning_rate": 1e-2},
    {"l2": 0.0},
    {"l2": 1e-4},
    {"batch_size": 1024},
)


def crossed(grid: list[str]) -> list[dict[str, Any]]:
    """Read ``FIELD=VALUE,VALUE`` arguments and cross them."""
    wanted = {field: map(yaml.safe_load, values.split(",")) for field, values in (part.split("=") for part in grid)}
    return [dict(zip(wanted, values, strict=True)) for values in itertools.product(*wanted.values())]


def name_of(change: dict[str, Any]) -> str:
    """Write a change down."""
    return ", ".join(f"{key}={value}" for key, value in change.items()) or "centre"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="interactions.csv, items.csv, llm_scores.parquet")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; runs that are there are not made again")
    parser.add_argument("--backbone", nargs="+", default=["deepfm"])
    parser.add_argument("--modes", nargs="+", default=["none", "gated"], help="also init, init+gated, ...")
    parser.add_argument("--initialise", type=Path, help="text table or vectors that the modes with init start from")
    parser.add_argument("--encoder", default="tfidf", help="of the texts (default: tfidf)")
    parser.add_argument("--grid", nargs="+", metavar="FIELD=V,V", help="cross these fields instead of CHANGES")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--valid-items", type=int, default=300, help="unseen items ranked against (default: 300)")
    arguments = parser.parse_args()
    data = load_interactions(arguments.data / "interactions.csv", arguments.data / "items.csv")
    scores = ScoreTable.read(
        arguments.data / "llm_scores.parquet", user_index=data.user_index, item_index=data.item_index
    )
    encoder = find_encoder(arguments.encoder)
    start = arguments.initialise and Start.read(arguments.initialise, arguments.data / "items.csv", encoder=encoder)
    changes = crossed(arguments.grid) if arguments.grid else list(CHANGES)
    known = {field.name for kind in (Start, SelectiveConfig, RunSettings) for field in fields(kind)}
    if unknown := {field for change in changes for field in change} - known:
        parser.error(f"--grid: unknown fields {', '.join(sorted(unknown))}")
    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    found = {tuple(line["run"]): line for line in map(json.loads, lines)}
    for seed, backbone, change, mode in itertools.product(
        range(arguments.seeds), arguments.backbone, changes, arguments.modes
    ):
        key = (backbone, mode, name_of(change), seed)
        if key in found:
            continue
        of_start, of_loss, of_run = (
            {field.name: change[field.name] for field in fields(kind) if field.name in change}
            for kind in (Start, SelectiveConfig, RunSettings)
        )
        settings = RunSettings(**{**CENTRE, **of_run, "valid_items": arguments.valid_items, "valid_users": None})
        how = Mode.of(mode)
        trained = train(
            data,
            settings.rows(data, seed),
            scores,
            backbone=backbone,
            config=SelectiveConfig.of_mode(how.regularizer, of_loss),
            seed=seed,
            settings=settings,
            start=replace(start, **of_start) if start and "init" in how.parts else None,
            verbose=False,
        )
        found[key] = {"run": key, "auc": trained.auc, "epoch": trained.epoch, "seconds": round(trained.seconds, 1)}
        with arguments.out.open("a") as file:
            file.write(json.dumps(found[key]) + "\n")
        print(*key, f"{trained.auc:.4f}, epoch {trained.epoch}, {trained.seconds:.0f} s", flush=True)
    show(found, changes, arguments.backbone, arguments.modes)


def show(
    found: dict[tuple[Any, ...], dict[str, Any]], changes: list[dict[str, Any]], backbones: list[str], modes: list[str]
) -> None:
    """Print the mean validation AUC of every setting, with the epoch that was kept and the seconds of a fit."""
    print("| setting | " + " | ".join(f"{b} {m}" for b in backbones for m in modes) + " |")
    print("| --- " * (1 + len(backbones) * len(modes)) + "|")
    for change in changes:
        cells = []
        for backbone, mode in itertools.product(backbones, modes):
            runs = [line for key, line in found.items() if key[:3] == (backbone, mode, name_of(change))]
            auc, epoch, seconds = (np.mean([run[part] for run in runs]) for part in ("auc", "epoch", "seconds"))
            cells.append(f"{auc:.4f} ({epoch:.0f}, {seconds:.0f} s)")
        print(f"| {name_of(change)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
