"""`sllmr demo`."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import replace
from pathlib import Path

from ..config import SelectiveConfig
from ..datasets.demo import demo_paths
from ..datasets.interactions import load_interactions
from ..evaluation.compare import compare
from ..evaluation.report import write_report
from ..evaluation.training import RunSettings
from ..scores.table import ScoreTable
from .arguments import positive

_DEMO_WEIGHT = 0.5
_SIMULATED = (
    "Interactions and LLM scores of the demo are simulated, and the scores know more than a language model would: "
    "by construction they are right about cold users and long-tail items and mislead about the rest."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Train a DeepFM plain (none), with all LLM pairs (global) and with the gate (gated) on "
        "bundled data, whose interactions and LLM scores are both simulated."
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/demo, overwritten)")
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="seeds per mode (default: 3)")
    parser.add_argument("--epochs", type=positive, default=3, metavar="N", help="epochs per run (default: 3)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one seed and one epoch, ranking 300 users: seconds, not evidence",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    interactions, items, scores = demo_paths()
    out = arguments.out or Path("runs/demo_quick" if arguments.quick else "runs/demo")
    if arguments.quick:
        seeds, settings = 1, RunSettings.quick(epochs=1, test_users=300, valid_users=300)
    else:
        seeds, settings = arguments.seeds, RunSettings.quick(epochs=arguments.epochs)
    data = load_interactions(interactions, items)
    table = ScoreTable.read(scores, user_index=data.user_index, item_index=data.item_index)
    comparison = compare(
        data,
        replace(table, origin={"scorer": "simulated", "note": _SIMULATED}),
        out=out,
        seeds=seeds,
        settings=settings,
        config_overrides={"weight": _DEMO_WEIGHT},
        overwrite=arguments.out is None,
    )
    print(comparison)
    print(
        f"\n{textwrap.fill(_SIMULATED, 105)}\n"
        f"Hence the large gains, and a weight of {_DEMO_WEIGHT} where the default is {SelectiveConfig().weight}."
    )
    print(f"Run folder: {out}\nReport: {write_report(out)}")
