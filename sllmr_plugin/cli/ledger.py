"""`sllmr ledger`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..scoring.ledger import Ledger
from ..scoring.ledger_file import (
    LedgerReader,
    answers_by_model,
    export_answers,
    failures,
    known_servers,
    refused,
    refused_by_reason,
    unanswered_by_reason,
)
from .arguments import positive

_EPILOG = """\
stats, failures and export only read, also while a run is writing. The ledger holds prompts as hashes only, and no key.

examples:
  sllmr ledger stats llm_scores.ledger.sqlite
      Answers, tokens and dollars by model; requests that may have been charged without an answer, and refused ones.
  sllmr ledger failures llm_scores.ledger.sqlite
      Requests none of whose answers can be used: the error and the beginning of the answer; and refused ones.
  sllmr ledger export llm_scores.ledger.sqlite --out answers.jsonl
      Every answer as it came, for a look of your own.
  sllmr ledger forget-refused llm_scores.ledger.sqlite --containing context
      Have requests asked again that the server refused, here those whose reason has this word: after a change of the
      server. A changed prompt or model is a new request in any case.
  sllmr ledger forget-servers llm_scores.ledger.sqlite
      Find out again which form of request servers take, after an update that lets them take a better one.
"""
_SHOWN = 200


_WRITTEN = {
    None: "",
    "reasoning": ", reasoning about exemplars",
    "pattern": ", patterns of users",
    "reason": ", reasons of interactions",
    "user_profile": ", profiles of users",
    "item_profile": ", profiles of items",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Look into the ledger that sllmr score and sllmr texts write."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, text, run in (
        ("stats", "answers, tokens and dollars", _stats),
        ("failures", "requests without a usable answer, and why", _failures),
        ("export", "every answer, as CSV, JSON lines or parquet", _export),
        ("forget-refused", "have refused requests asked again", _forget_refused),
        ("forget-servers", "find out again which form of request servers take", _forget_servers),
    ):
        shown = f"Show {text}." if name in ("stats", "failures") else f"{text[0].upper()}{text[1:]}."
        action = actions.add_parser(name, help=text, description=shown)
        action.add_argument("ledger", type=Path, metavar="LEDGER", help="the SQLite file that sllmr score names")
        action.set_defaults(run=run)
        if name == "failures":
            action.add_argument("--limit", type=positive, default=20, metavar="N", help="show so many (default: 20)")
        if name == "forget-refused":
            action.add_argument(
                "--containing", default="", metavar="TEXT", help="only those whose reason has this (default: all)"
            )
        if name == "export":
            action.add_argument("--out", type=Path, required=True, metavar="FILE", help=".csv, .jsonl or .parquet")


def _stats(arguments: argparse.Namespace) -> None:
    with LedgerReader(arguments.ledger) as reader:
        models, unanswered = answers_by_model(reader), unanswered_by_reason(reader)
        by_reason, servers = refused_by_reason(reader), known_servers(reader)
    if models.empty:
        print("no answers yet")
    for row in models.itertuples():
        what = _WRITTEN.get(row.kind, f", texts of {row.kind}s")
        print(f"{row.model}{what}: {row.answers} answers, {row.usable} usable, {row.unusable} not")
        print(f"  {row.prompt_tokens} prompt tokens, {row.completion_tokens} completion tokens, ${row.cost:.4f}")
        if row.without_price:
            print(f"  {row.without_price} answers of unknown price count as nothing")
        if row.adapted:
            print(f"  {row.adapted} answers to requests from which a part was left out that the server did not take")
        print(f"  from {row.first} to {row.last}")
    for row in unanswered.itertuples():
        print(f"{row.requests} requests without an answer, ${row.possible_cost:.4f} at most: {row.reason}")
    for row in by_reason.itertuples():
        print(f"{row.requests} requests refused by the server and not asked again: {ascii(row.reason)}")
    for row in servers.itertuples():
        print(f"{row.address} takes requests to {row.model} in the form {row.form}")


def _failures(arguments: argparse.Namespace) -> None:
    with LedgerReader(arguments.ledger) as reader:
        found, rejected = failures(reader), refused(reader)
    print(f"{len(found)} requests without a usable answer")
    for row in found.head(arguments.limit).itertuples():
        print(f"\n{row.about} {row.user_id}, repeat {row.repeat}, {row.model}, {row.attempts} attempts")
        print(f"  error:  {row.error}")
        answer = ascii(row.response)  # what a model writes must not control the terminal
        print(f"  answer: {answer if len(answer) <= _SHOWN else answer[:_SHOWN] + ' ...'}")
    if len(found) > arguments.limit:
        print(f"\n... and {len(found) - arguments.limit} more; see --limit")
    if len(rejected):
        print(f"\n{len(rejected)} requests refused by the server; `sllmr ledger forget-refused` has them asked again")
    for row in rejected.head(arguments.limit).itertuples():
        print(f"\n{row.about} {row.user_id}, repeat {row.repeat}, {row.model}, at question {row.attempts}")
        print(f"  reason: {ascii(row.reason)}")
    if len(rejected) > arguments.limit:
        print(f"\n... and {len(rejected) - arguments.limit} more; see --limit")


def _export(arguments: argparse.Namespace) -> None:
    with LedgerReader(arguments.ledger) as reader:
        n_answers = export_answers(reader, arguments.out)
    print(f"{n_answers} answers: {arguments.out}")


def _forget_refused(arguments: argparse.Namespace) -> None:
    LedgerReader(arguments.ledger).close()  # raises if there is no such file; `Ledger` would make one
    with Ledger(arguments.ledger) as ledger:
        n_forgotten = ledger.forget_refused(arguments.containing)
    print(f"{n_forgotten} refused requests are asked again by the next run")


def _forget_servers(arguments: argparse.Namespace) -> None:
    LedgerReader(arguments.ledger).close()
    with Ledger(arguments.ledger) as ledger:
        n_forgotten = ledger.forget_forms()
    print(f"{n_forgotten} servers are asked for structured output again by the next run")
