"""`sllmr build-table`."""

from __future__ import annotations

import argparse

import pandas as pd

from ..errors import ScoreTableError
from ..scores.reading import common_form, read_table
from ..scores.table import ScoreTable

_DESCRIPTION = """\
Turn parquet files of scores, more than fit in memory, into a folder of memory-mapped arrays. wrap() takes the folder
in place of a file of scores and opens it at once; a training reads from it what it draws. The folder holds the
model's codes, so the indexes are given here and not to wrap().
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "--scores",
        required=True,
        metavar="PATH",
        help="a parquet file, or a folder of them: user_id, item_id, score in [0, 1][, kind]",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the table goes; must not exist")
    for kind in ("user", "item"):
        parser.add_argument(
            f"--{kind}-index",
            metavar="FILE",
            help=f"CSV or parquet with the columns {kind}_id and code, the model's number for it "
            f"(default: {kind}_id is the code)",
        )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    table = ScoreTable.build(
        arguments.scores,
        arguments.out,
        user_index=_index(arguments.user_index, "user_id"),
        item_index=_index(arguments.item_index, "item_id"),
        verbose=True,
    )
    print(table.coverage)
    print(f"written to {arguments.out}")


def _index(path: str | None, column: str) -> pd.Series | None:
    if path is None:
        return None
    table = read_table(path, "codes", numbers=("code",), error=ScoreTableError)
    table.require_columns([column, "code"])
    (ids,) = common_form([table], column)
    return pd.Series(table.frame["code"].to_numpy(), index=pd.Index(ids))
