"""`sllmr candidates`."""

from __future__ import annotations

import argparse

from ..scoring.candidates import CandidateSettings, draw_candidates
from .arguments import INTERACTIONS_HELP, add_engine, add_fields, settings_of

_EPILOG = """\
Each user becomes one prompt, so --users is the bill. Every user gets long-tail items, dealt in turn so that all of
them come up about as often, and popular ones; cold users get items of all categories and bands of popularity as well.
None is the user's own training or validation item, except the probes: validation items mixed in unmarked, on which the
gate finds out where the scores can be trusted. A run with more --users repeats the smaller one and adds to it, so
no answer that you have is asked for again.

examples:
  sllmr candidates --interactions clicks.csv --items items.csv --users 1000 --out candidates.parquet
      1000 users, half of them cold, 20 items each, and a probe for every fifth.
  sllmr candidates ... --users 5000 --per-user 10 --probe-share 0.5
      More users with fewer items each, more probes.
  sllmr candidates ... --cold-share 1 --users 500
      Cold users only. The gate then has no information about the others.

next: sllmr score --candidates candidates.parquet --interactions clicks.csv --items items.csv --out llm_scores.parquet
"""
_HELP = {
    "users": "users to ask about (default: all with a training interaction)",
    "per_user": "candidates of each user, without the probe",
    "pool": "popular candidates come from this many items",
    "cold_share": "share of cold users among those of --users",
    "probe_share": "share of the users who get a probe",
    "tail_share": "share of the candidates that are long-tail items",
    "diverse_share": "share of a cold user's candidates that are diverse items",
    "catalogue_share": "share of the candidates drawn from the whole catalogue, all items alike",
    "seed": "decides all draws",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Choose users and draw the items that a language model (or another scorer) will be asked about, "
        "and say what they cover."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--interactions", required=True, metavar="FILE", help=INTERACTIONS_HELP)
    parser.add_argument(
        "--items",
        required=True,
        metavar="FILE",
        help="CSV or parquet of the whole catalogue: item_id, title[, category]",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="parquet: user_id, item_id, kind, source")
    add_fields(parser, CandidateSettings, _HELP)
    add_engine(parser, "the draws")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    drawn = draw_candidates(
        arguments.interactions,
        arguments.items,
        out=arguments.out,
        engine=arguments.engine,
        workers=arguments.workers,
        **settings_of(arguments, CandidateSettings),
    )
    print(drawn)
