"""`sllmr table`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..evaluation.comparison import format_table
from ..evaluation.store import RunFolder
from ..evaluation.tables import FORMATS

_EPILOG = """\
A difference to mode none is bold (in text: marked with *) only where its 95% interval leaves out zero.

examples:
  sllmr table runs/mine
  sllmr table runs/mine --metrics
  sllmr table runs/mine --format latex > results.tex
  sllmr table runs/mine --format json | python -m json.tool
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Print the results of a run folder as text, Markdown, LaTeX (with booktabs), HTML or JSON."
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=Path, metavar="DIR", help="run folder that sllmr compare has written")
    parser.add_argument("--format", choices=[*FORMATS, "json"], default="text", dest="form", help="default: text")
    parser.add_argument(
        "--metrics",
        action="store_true",
        help="also NDCG@10, Recall@10, MRR, AUC of items that training has not seen, and AUC, GAUC, logloss, ECE of "
        "clicks",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    folder = RunFolder(arguments.folder, None)
    keys = sorted(folder.runs, key=lambda key: key[2])  # by seed: later ones may have been made first
    # From the rankings, not from results.json: the comparison may have been interrupted before its end.
    print(format_table(folder.comparison(keys), arguments.form, more=arguments.metrics))
