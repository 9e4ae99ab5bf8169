"""`sllmr score`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..datasets.interactions import Interactions, load_interactions
from ..errors import ConfigError, IncompleteWarning
from ..parallel.ray import RayEngine
from ..scores.origin import check_parquet_path
from ..scoring.batch import run_batches
from ..scoring.dry_run import Prices, estimate, in_batches
from ..scoring.ledger import Ledger
from ..scoring.ledger_report import LedgerReader
from ..scoring.own import LexicalScorer, load_scorer, score_with, spread_scorer
from ..scoring.partitions import PartitionFiles, merge_partitions, partition_folder
from ..scoring.prices import RunLimits, Spending
from ..scoring.questions import Conversation, R
from ..scoring.ray import run_on_ray
from ..scoring.requests import ScoringRequests, plan_requests
from ..scoring.run import run
from ..scoring.settings import ServerSettings
from ..scoring.table import MISSING, ScoredPairs, build_score_table, write_score_table
from .arguments import (
    INTERACTIONS_HELP,
    add_asking,
    add_engine,
    add_limits,
    open_engine,
    questions_of,
    stored_extra_body,
)

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
  sllmr score ... --scorer my_module:MyScorer
      With a Python object of your own that has a method score(request).
  sllmr score ... --engine ray --workers 8 --requests-per-minute 5000
      Sent by 8 processes of a Ray cluster; the limits hold for all of them together.

next: sllmr compare --interactions clicks.csv --items items.csv --scores llm_scores.parquet --out runs/mine
"""


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
    parser.add_argument(
        "--scorer",
        default="openai",
        metavar="NAME",
        help="openai (any server with chat completions), lexical or attributes (no model at all), or MODULE:NAME of "
        "your own (default: openai)",
    )
    parser.add_argument(
        "--missing",
        choices=MISSING,
        default=MISSING[0],
        help="candidates that an answer leaves out get no row, or 0.5 as in the paper (default: leave_out)",
    )
    add_engine(parser, "the requests")
    add_asking(parser)
    add_limits(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    used = (arguments.candidates, arguments.interactions, arguments.items, arguments.ledger, arguments.template)
    check_parquet_path(arguments.out, (*used, arguments.prices))
    titles_from = "attributes" if arguments.scorer == "attributes" else "title"
    data = load_interactions(arguments.interactions, arguments.items, titles_from=titles_from)
    requests = plan_requests(
        arguments.candidates,
        data,
        history_length=arguments.history_length,
        repeats=arguments.repeats,
        seed=arguments.seed,
    )
    if arguments.engine == "ray" and arguments.batch:
        raise ConfigError(
            "--batch hands all requests to the server at once, so there is nothing to spread; leave out --engine ray."
        )
    if arguments.engine == "ray" and arguments.scorer != "openai" and arguments.ledger:
        raise ConfigError(
            "answers of a scorer of your own are kept in a --ledger by --engine local alone; leave out one of the two."
        )
    score = _score_with_server if arguments.scorer == "openai" else _score_with_object
    if arguments.dry_run:
        return score(arguments, requests, data, None)
    with open_engine(arguments) as engine:
        return score(arguments, requests, data, engine)


def _score_with_server(
    arguments: argparse.Namespace, requests: ScoringRequests, data: Interactions, engine: RayEngine | None
) -> int:
    questions, spending = questions_of(arguments), Spending()
    with answered(arguments, requests, questions, engine) as (ledger, code):
        if ledger is None:
            return code
        answers = questions.stored_answers(requests, ledger, spending)
        scored = build_score_table(requests, answers, missing=arguments.missing)
    settings = {
        "temperature": questions.temperature,
        "top_logprobs": questions.top_logprobs,
        "answer": questions.template.answer,
        "ranking_temperature": questions.ranking_temperature if questions.template.answer == "ranking" else None,
        "attempts": questions.attempts,
        **stored_extra_body(questions),
    }
    origin = {"model": arguments.model, "prompt_hash": questions.template.prompt_hash}
    _write(arguments, scored, settings=settings, spending=spending, **origin)
    print(f"Ledger: {ledger.path}")
    return code


@contextlib.contextmanager
def answered(
    arguments: argparse.Namespace,
    requests: Iterable[R],
    questions: Conversation[R],
    engine: RayEngine | None = None,
    *,
    show: int = 2,
) -> Iterator[tuple[Ledger | None, int]]:
    """Ask a server as the arguments of `add_limits` say; give the ledger that has the answers, and the exit code.

    A dry run has no ledger and prints `show` prompts. The exit code is 1 if the server refuses requests or has left
    some unanswered, except at ``--max-cost``.
    """
    prices = Prices.read(arguments.prices)
    price = prices.of(arguments.model)
    if arguments.batch:
        price = in_batches(price, prices.batch_discount)
    path = arguments.ledger or arguments.out.with_suffix(".ledger.sqlite")
    if arguments.dry_run:
        if path.exists():
            with LedgerReader(path) as reader:
                print(estimate(requests, questions, reader, price, show=show))
        else:
            print(estimate(requests, questions, None, price, show=show))
        yield None, 0
        return
    limits = RunLimits(
        concurrency=arguments.concurrency,
        requests_per_minute=arguments.requests_per_minute,
        tokens_per_minute=arguments.tokens_per_minute,
        retries=arguments.retries,
        max_cost=arguments.max_cost,
    )
    server = ServerSettings(arguments.model, arguments.base_url, arguments.timeout, questions.form)
    # A missing key is told of before anything is touched; on Ray it is the workers' own that counts.
    client = server.client() if engine is None else None
    with Ledger(path) as ledger:
        _tell_of_a_kill(ledger)
        if engine is not None:
            summary = run_on_ray(requests, questions, server, ledger, engine, limits=limits, price=price)
        else:
            assert client is not None
            ask = run_batches if arguments.batch else run
            summary = ask(requests, questions, client, ledger, limits=limits, price=price)
        print(summary)
        if price is None:
            print(f"  the price of {arguments.model} is not known, so it counts as nothing here; see --prices")
        if summary.stopped or summary.unanswered or summary.failed or summary.refused:
            refused = f", {summary.refused} refused by the server" if summary.refused else ""
            warnings.warn(
                f"not every request was answered{refused}, so the table lacks some; the lines above say what to do.",
                IncompleteWarning,
                stacklevel=2,
            )
        yield ledger, int(summary.refused > 0 or (summary.unanswered > 0 and summary.stopped != "max_cost"))


def _tell_of_a_kill(ledger: Ledger) -> None:
    found = merge_partitions(ledger, PartitionFiles(partition_folder(ledger.path)))
    if found:
        print(f"{found} answers that workers of the last run had received are in the ledger now", file=sys.stderr)
    if ledger.n_interrupted > found:
        print(
            f"the last run was killed with {ledger.n_interrupted - found} requests in flight: they are asked again, "
            "and may be charged twice",
            file=sys.stderr,
        )


def _score_with_object(
    arguments: argparse.Namespace, requests: ScoringRequests, data: Interactions, engine: RayEngine | None
) -> int:
    if arguments.dry_run:
        print(f"{len(requests)} requests to {arguments.scorer}, which cost nothing that is known here.")
        return 0
    if arguments.scorer in ("lexical", "attributes"):
        titles = [] if data.titles is None else data.titles
        scorer: Any = LexicalScorer(titles, words=arguments.scorer == "attributes")
    elif engine is not None and ":" in arguments.scorer:
        load_scorer(arguments.scorer)  # a wrong name is an error here; every worker makes its own
        scorer = arguments.scorer
    elif ":" in arguments.scorer:
        scorer = load_scorer(arguments.scorer)
    else:
        raise ConfigError(f"there is no scorer {arguments.scorer!r}; write openai, lexical, attributes or MODULE:NAME.")
    if engine is not None:
        scored = build_score_table(requests, spread_scorer(scorer, requests, engine), missing=arguments.missing)
        _write(arguments, scored)
        return 0
    # An object of the user's own may change while its name stays, so only who asks for a ledger gets one.
    ledger = Ledger(arguments.ledger) if arguments.ledger else None
    try:
        answers = score_with(scorer, requests, name=arguments.scorer, ledger=ledger)
        scored = build_score_table(requests, answers, missing=arguments.missing)
    finally:
        if ledger is not None:
            ledger.close()
    _write(arguments, scored)
    return 0


def _write(
    arguments: argparse.Namespace,
    scored: ScoredPairs,
    *,
    settings: dict | None = None,
    spending: Spending | None = None,
    **origin: Any,
) -> None:
    settings = {
        "history_length": arguments.history_length,
        "repeats": arguments.repeats,
        "seed": arguments.seed,
        "missing": arguments.missing,
        **(settings or {}),
    }
    write_score_table(scored, arguments.out, scorer=arguments.scorer, settings=settings, spending=spending, **origin)
    print("\n".join([str(scored.counts), *(spending.notes() if spending else [])]))
    print(f"Score table: {arguments.out}")
