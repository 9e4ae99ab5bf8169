"""`sllmr candidates`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..datasets.interactions import load_interactions
from ..errors import ConfigError
from ..scores.origin import check_parquet_path, write_parquet
from ..scoring.candidates import CandidateSettings, draw_candidates, read_categories
from .arguments import INTERACTIONS_HELP, add_engine, add_fields, names, positive, settings_of

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
  sllmr candidates ... --active --scores llm_scores.parquet --texts llm_texts.parquet --budget 500
      With scores of some hundred users at hand: the 500 others from whose answers a student of the LLM expects to
      learn most (docs/scoring.md says what that has been worth). --active deepfm trains a plain DeepFM first, and asks
      where it disagrees with the student as well.

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
    active = parser.add_argument_group("which users to pay for next, with scores of others at hand")
    active.add_argument(
        "--active",
        nargs="?",
        const="",
        metavar="MODEL",
        help="choose users by expected gain, of all users or of the --users drawn: where a student of the LLM is "
        "unsure and, with a backbone (deepfm, din, ...), which is trained first, where it disagrees with the student",
    )
    active.add_argument("--scores", metavar="FILE", help="what the LLM has scored so far; required with --active")
    active.add_argument(
        "--proposed",
        action="extend",
        type=names,
        metavar="FILE[,FILE]",
        help="candidates of earlier rounds, whose users are not chosen again even if they have no scores",
    )
    active.add_argument("--texts", metavar="FILE", help="descriptions of the items, as of sllmr extend")
    active.add_argument("--text-model", metavar="NAME", help="encodes titles and texts, as of sllmr extend")
    active.add_argument("--budget", type=positive, metavar="N", help="users to choose (default: 500)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.active is not None:
        _run_active(arguments)
        return
    for flag in ("scores", "proposed", "texts", "text_model", "budget"):
        if getattr(arguments, flag) is not None:
            raise ConfigError(f"--{flag.replace('_', '-')} is of --active. Add it, or leave the flag out.")
    drawn = draw_candidates(
        arguments.interactions,
        arguments.items,
        out=arguments.out,
        engine=arguments.engine,
        workers=arguments.workers,
        **settings_of(arguments, CandidateSettings),
    )
    print(drawn)


def _run_active(arguments: argparse.Namespace) -> None:
    from ..evaluation.active import ActiveSettings, choose_users  # torch and SciPy, which drawing alone needs not

    if arguments.scores is None:
        raise ConfigError("--active learns from what the LLM has scored so far: give it with --scores.")
    files = (arguments.interactions, arguments.items, arguments.scores, arguments.texts, *(arguments.proposed or ()))
    path = check_parquet_path(arguments.out, files)
    data = load_interactions(arguments.interactions, arguments.items)
    drawn = draw_candidates(
        data,
        categories=read_categories(arguments.items),
        engine=arguments.engine,
        workers=arguments.workers,
        **settings_of(arguments, CandidateSettings),
    )
    settings = {name: value for name, value in settings_of(arguments, ActiveSettings).items() if value is not None}
    chosen = choose_users(
        arguments.scores,
        drawn.frame,
        data,
        model=arguments.active or None,
        texts=arguments.texts,
        encoder=arguments.text_model,
        proposed=arguments.proposed or (),
        **settings,
    )
    active = {**asdict(ActiveSettings(**settings)), "model": chosen.model}
    write_parquet(chosen.frame, path, {"settings": asdict(drawn.settings), "active": active})
    print(f"{chosen}\n\nCandidates: {path}")
