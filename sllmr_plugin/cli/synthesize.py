"""`sllmr synthesize`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..scoring.synthesize import SynthesisResult, SynthesisSettings, synthesize_interactions
from .arguments import INTERACTIONS_HELP, add_fields, names, settings_of
from .asking import add_limits, add_model

_EPILOG = """\
A request is about one long-tail item and a numbered list of users whose histories are nearest to it; the model chooses
from the list, or nobody. No user who has the item in training, validation or test is on a list. Answers go into a
ledger as those of sllmr score do: after any interruption, the same command continues where it stopped and pays for no
answer twice.

examples:
  sllmr synthesize --interactions clicks.csv --items items.csv --out synthetic.parquet --dry-run
      What would be asked, how many tokens, how many dollars.
  sllmr synthesize --interactions clicks.csv --items items.csv --out synthetic.parquet --max-cost 2
      Synthetic interactions, for 2 dollars at most.
  sllmr synthesize --interactions clicks.csv --items items.csv --from-scores extended.parquet --out synthetic.parquet
      From scores that are there, for instance of sllmr extend: nobody is asked.

next: sllmr interest ... --synthetic synthetic.parquet, and sllmr compare ... --modes none,synthetic
"""
_WHAT = {
    "from_scores": "ask nobody: take the best-scored users from this score table",
    "tail_quantile": "share of the catalogue that is long-tail, by training interactions",
    "most_items": "so many of these items (default: all)",
    "candidates": "users on an item's list",
    "per_item": "users chosen for an item, at most",
    "min_score": "lowest score of a user who is taken, with --from-scores",
    "texts": "text table with descriptions of items, to find near users by titles and these",
    "attributes": "columns of --items that are shown with an item's title (default: category and categories, where "
    "they are)",
    "top": "nearest items that count in the report of item-to-item neighbours",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Have a language model choose users who would take long-tail items, from closed lists, and write these "
        "synthetic interactions; training adds them with sllmr compare --synthetic."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--interactions", required=True, metavar="FILE", help=INTERACTIONS_HELP)
    parser.add_argument("--items", metavar="FILE", help="CSV or parquet of the whole catalogue: item_id, title")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="parquet: user_id, item_id, weight")
    group = parser.add_argument_group("what is asked")
    add_model(group, max_tokens="as long as the most users")
    add_fields(group, SynthesisSettings, _WHAT, {"attributes": {"type": names, "metavar": "COLUMNS"}})
    add_limits(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    result = synthesize_interactions(
        arguments.interactions,
        arguments.items,
        out=arguments.out,
        dry_run=arguments.dry_run,
        **settings_of(arguments, SynthesisSettings),
    )
    print(result)
    return int(isinstance(result, SynthesisResult) and not result.complete)
