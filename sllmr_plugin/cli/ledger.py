"""`sllmr ledger`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..scoring.ledger_file import LedgerReader
from ..scoring.ledger_report import answers_by_model, export_answers, failures, unanswered_by_reason
from .arguments import positive

_EPILOG = """\
All three only read, also while a run is writing. The ledger holds prompts as hashes only, and no key.

examples:
  sllmr ledger stats llm_scores.ledger.sqlite
      Answers, tokens and dollars by model; requests that may have been charged without an answer.
  sllmr ledger failures llm_scores.ledger.sqlite
      Requests none of whose answers can be used: the error and the beginning of the answer.
  sllmr ledger export llm_scores.ledger.sqlite --out answers.jsonl
      Every answer as it came, for a look of your own.
"""
_SHOWN = 200


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Look into the ledger that sllmr score and sllmr texts write."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, text, run in (
        ("stats", "answers, tokens and dollars", _stats),
        ("failures", "requests without a usable answer, and why", _failures),
        ("export", "every answer, as CSV, JSON lines or parquet", _export),
    ):
        action = actions.add_parser(name, help=text, description=f"Show {text}." if name != "export" else text)
        action.add_argument("ledger", type=Path, metavar="LEDGER", help="the SQLite file that sllmr score names")
        action.set_defaults(run=run)
        if name == "failures":
            action.add_argument("--limit", type=positive, default=20, metavar="N", help="show so many (default: 20)")
        if name == "export":
            action.add_argument("--out", type=Path, required=True, metavar="FILE", help=".csv, .jsonl or .parquet")


def _stats(arguments: argparse.Namespace) -> None:
    with LedgerReader(arguments.ledger) as reader:
        models, unanswered = answers_by_model(reader), unanswered_by_reason(reader)
    if models.empty:
        print("no answers yet")
    for row in models.itertuples():
        what = {None: "", "reasoning": ", reasoning about exemplars"}.get(row.kind, f", texts of {row.kind}s")
        print(f"{row.model}{what}: {row.answers} answers, {row.usable} usable, {row.unusable} not")
        print(f"  {row.prompt_tokens} prompt tokens, {row.completion_tokens} completion tokens, ${row.cost:.4f}")
        if row.without_price:
            print(f"  {row.without_price} answers of unknown price count as nothing")
        print(f"  from {row.first} to {row.last}")
    for row in unanswered.itertuples():
        print(f"{row.requests} requests without an answer, ${row.possible_cost:.4f} at most: {row.reason}")


def _failures(arguments: argparse.Namespace) -> None:
    with LedgerReader(arguments.ledger) as reader:
        found = failures(reader)
    print(f"{len(found)} requests without a usable answer")
    for row in found.head(arguments.limit).itertuples():
        print(f"\n{row.about} {row.user_id}, repeat {row.repeat}, {row.model}, {row.attempts} attempts")
        print(f"  error:  {row.error}")
        answer = ascii(row.response)  # whatever a model writes must not steer the terminal
        print(f"  answer: {answer if len(answer) <= _SHOWN else answer[:_SHOWN] + ' ...'}")
    if len(found) > arguments.limit:
        print(f"\n... and {len(found) - arguments.limit} more; see --limit")


def _export(arguments: argparse.Namespace) -> None:
    with LedgerReader(arguments.ledger) as reader:
        n_answers = export_answers(reader, arguments.out)
    print(f"{n_answers} answers: {arguments.out}")
