"""`sllmr coverage`."""

from __future__ import annotations

import argparse

from ..datasets.interactions import load_interactions
from ..evaluation.strata import stratify
from ..scores.table import ScoreTable
from .arguments import add_data


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Match a score table to the interactions: pairs kept and dropped, users and items reached."
    add_data(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    data = load_interactions(arguments.interactions, arguments.items)
    table = ScoreTable.read(arguments.scores, user_index=data.user_index, item_index=data.item_index)
    strata = stratify(data)
    users, items = table.candidates.users.numpy(), table.candidates.items.unique().numpy()
    print(table.coverage)
    print(f"users with scores: {len(users)} of {data.n_users}, of them cold {strata.cold[users].sum()}")
    print(f"items with scores: {len(items)} of {data.n_items}, of them long-tail {strata.tail[items].sum()}")
