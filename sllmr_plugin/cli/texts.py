"""`sllmr texts`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..scoring.text_requests import KINDS, Kind
from ..scoring.texts import TextResult, TextSettings, write_texts
from .arguments import INTERACTIONS_HELP, add_fields, names, settings_of
from .asking import add_limits, add_model

_EPILOG = """\
What is shown of a user are titles of training interactions, never of held-out ones. Answers go into a ledger as those
of sllmr score do: after any interruption, the same command continues where it stopped and pays for no answer twice,
and more --users, --exemplars, --reasons-per-item or kinds pay only for the new ones. The key is read from
OPENAI_API_KEY.

examples:
  sllmr texts --interactions clicks.csv --items items.csv --out texts.parquet --dry-run
      What would be asked, how many tokens, how many dollars.
  sllmr texts --interactions clicks.csv --items items.csv --kind user --users 1000 --max-cost 2 --out texts.parquet
      Preferences of 1000 users, for 2 dollars at most, earlier runs with this ledger included.
  sllmr texts --interactions clicks.csv --items items.csv --kind user,item,reasoning --out texts.parquet
      Also why 1000 training interactions came about and 1000 others did not: the exemplars of LLM-CF.
  sllmr texts --interactions clicks.csv --items items.csv --kind pattern,reason --out reasons.parquet
      The pattern in what each user takes, and why users took each item, for four of its users: what CURec reads.
  sllmr texts --interactions clicks.csv --items items.csv --kind user_profile --out profiles.parquet
  sllmr texts --interactions clicks.csv --items items.csv --kind item,item_profile --profiles profiles.parquet \
      --out items.parquet
      Profiles of users, then of items, which are written from those of users: what RecLM reads (docs/reclm.md).
  sllmr texts ... --batch
      Through the Batch API, for half the price.
  sllmr texts ... --base-url http://localhost:8000/v1 --model my-model
      With a server of your own.
  sllmr texts ... --writer titles
      Without any language model: the titles themselves, as something to run with and to beat.

next: sllmr compare ... --modes none,kar,llm_cf --texts texts.parquet
      sllmr compare ... --modes none,curec --texts reasons.parquet
      sllmr compare ... --modes none,reclm --texts profiles.parquet,items.parquet
"""
_HOW = {
    "users": "texts of so many users, of kinds user, pattern and user_profile (default: all)",
    "exemplars": "with kind reasoning: about N training interactions, and N items that their users did not take "
    "(default: 1000, as many as LLM-CF draws without reasoning)",
    "reasons_per_item": "with kind reason: about N training interactions of each item at most, drawn by hash, so that "
    "more include the fewer (default: 4)",
    "neighbours": "with profiles: written from N nearest users of a user, and N users or similar items of an item, at "
    "most (default: 3)",
    "profiles": "with kind item_profile: the text table with the users' profiles, of an earlier --kind user_profile",
    "writer": "openai (any server with chat completions) or titles (no model at all: titles and attributes in place of "
    "each text, and no reasoning in them)",
}
_WHAT = {
    **{
        f"{kind}_template": f"a prompt of your own, kind {kind}: docs/texts.md (default: the built-in one)"
        for kind in KINDS
    },
    "attributes": "columns of --items that are shown with an item's title, such as brand,category (default: category "
    "and categories, where they are)",
    "max_words": "longest text asked for",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Ask a language model for texts on users' preferences and on items, the inputs of KAR and LLM-CF, "
        "for its reasoning about training interactions, LLM-CF's exemplars, and for the patterns of users and the "
        "reasons of interactions that CURec attends to; write the text table."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--interactions", required=True, metavar="FILE", help=INTERACTIONS_HELP)
    parser.add_argument(
        "--items", required=True, metavar="FILE", help="CSV or parquet of the catalogue: item_id, title[, category]"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="parquet: the text table")
    parser.add_argument(
        "--kind",
        type=_kinds,
        default=TextSettings.kind,
        metavar="KIND[,KIND]",
        help="user (preferences), item (facts), reasoning (why a user took an item or did not; read by "
        "LLM-CF, with the other two), pattern (what a user's items share) and reason (why a user took an item; both "
        "read by CURec), user_profile and item_profile (identity and interests, the latter written "
        "from the former, which --profiles names; both read by RecLM) (default: user,item)",
    )
    add_fields(parser, TextSettings, _HOW)
    group = parser.add_argument_group("what is asked")
    add_model(group, max_tokens="100 + 4 a word of --max-words")
    add_fields(group, TextSettings, _WHAT, {"attributes": {"type": names, "metavar": "COLUMNS"}})
    add_limits(parser)
    parser.set_defaults(run=_run)


def _kinds(text: str) -> list[Kind]:
    found = [kind for kind in KINDS if kind in names(text)]
    if set(found) != set(names(text)):
        raise argparse.ArgumentTypeError(f"{text} is not one of {', '.join(KINDS)}, nor several of them")
    return found


def _run(arguments: argparse.Namespace) -> int:
    result = write_texts(
        arguments.interactions,
        arguments.items,
        out=arguments.out,
        dry_run=arguments.dry_run,
        **settings_of(arguments, TextSettings),
    )
    print(result)
    return int(isinstance(result, TextResult) and not result.complete)
