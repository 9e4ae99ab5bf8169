"""`sllmr score`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..scoring.run import ScoringResult, score_candidates
from ..scoring.settings import ScoreSettings
from .arguments import INTERACTIONS_HELP, add_engine, add_fields, settings_of
from .asking import add_limits, add_model

_EPILOG = """\
Every answer is committed to a ledger (OUT with .ledger.sqlite for .parquet, unless --ledger names another) before it
counts. Whatever ends a run, the same command goes on where it stopped and pays for no answer twice; only
requests in flight at a kill, at most --concurrency of them, are sent again. The key is read from OPENAI_API_KEY.

examples:
  sllmr score --candidates candidates.parquet --interactions clicks.csv --items items.csv --out llm_scores.parquet \\
      --dry-run
      What would be asked, how many tokens, how many dollars.
  sllmr score ... --max-cost 5
      With gpt-4o-mini, for 5 dollars at most, earlier runs with this ledger included.
  sllmr score ... --batch
      Through the Batch API, for half the price. Start it again whenever you like: it waits for what is under way.
  sllmr score ... --base-url http://localhost:8000/v1 --model my-model
      With a server of your own: vLLM, llama.cpp, Ollama, anything that speaks chat completions.
  sllmr score ... --scorer lexical
      Without any language model: similarity of titles.
  sllmr score ... --scorer attributes
      The same of the items' column `attributes`, words between spaces: for catalogues without titles.
  sllmr score ... --scorer content+popularity --texts llm_texts.parquet
      By the ranking of that name in a comparison, of titles and descriptions: a teacher that costs nothing.
  sllmr score ... --scorer my_module:MyScorer
      With a Python object of your own that has a method score(request).
  sllmr score ... --engine ray --workers 8 --requests-per-minute 5000
      Sent by 8 processes of a Ray cluster; the limits hold for all of them together.

next: sllmr compare --interactions clicks.csv --items items.csv --scores llm_scores.parquet --out runs/mine
"""
_HOW = {
    "scorer": "openai (any server with chat completions); lexical, attributes, content or content+popularity (no model "
    "at all); or MODULE:NAME of your own",
    "texts": "text table with descriptions of items, for --scorer content: they are put behind the titles",
    "popularity_weight": "of log(1 + popularity) beside content in standard deviations, for --scorer "
    "content+popularity (default: chosen for each half of the users on the validation interactions of the other)",
    "missing": "candidates that an answer leaves out get no row, or 0.5 as in the paper",
}
_WHAT = {
    "template": "s-llmr, the paper's prompt, or a file with your own: docs/scoring_prompts.md (default: the built-in "
    "one, with --answer yes_no the one called yes_no)",
    "answer": "ask for scores, for an order, or for a yes or no: one question a pair, whose score is P(yes), from "
    "log-probabilities that the server has to return",
    "ranking_temperature": "of the soft scores that an order is turned into",
    "logprobs": "take expected scores, or with --answer ranking the chance to come first, over the N likeliest tokens, "
    "where the server returns them, at OpenAI up to 20 (default: as written; of --answer yes_no 20)",
    "repeats": "ask so often, each time in another order, and average; not with --answer yes_no",
    "seed": "decides the orders",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Ask a language model, or another scorer, about every user's candidates and write the score table."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--candidates", required=True, metavar="FILE", help="from sllmr candidates")
    parser.add_argument("--interactions", required=True, metavar="FILE", help=INTERACTIONS_HELP)
    parser.add_argument(
        "--items", required=True, metavar="FILE", help="CSV or parquet of the catalogue: item_id, title"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="parquet: the score table")
    add_fields(parser, ScoreSettings, _HOW)
    add_engine(parser, "the requests")
    group = parser.add_argument_group("what is asked")
    add_model(group, max_tokens="200 + 20 a candidate")
    add_fields(group, ScoreSettings, _WHAT)
    add_limits(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    result = score_candidates(
        arguments.candidates,
        arguments.interactions,
        arguments.items,
        out=arguments.out,
        dry_run=arguments.dry_run,
        **settings_of(arguments, ScoreSettings),
    )
    print(result)
    return int(isinstance(result, ScoringResult) and not result.complete)
