"""`sllmr report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..evaluation.report import write_report

_EPILOG = """\
The page needs no network and no other file: send it, print it, read it on a phone. Its plots are in DIR/plots as
PNG too, its figures in DIR/results.json. Nothing is trained.

examples:
  sllmr report runs/mine
  sllmr demo && sllmr report runs/demo
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Write DIR/report.html: what was compared, the differences with their intervals, AUC by stratum, "
        "gains by history length and popularity, where the LLM is right, the gate, training curves, scores and "
        "settings."
    )
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=Path, metavar="DIR", help="run folder that sllmr compare has written")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    print(f"Report: {write_report(arguments.folder)}")
