"""`sllmr texts`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..datasets.interactions import load_interactions
from ..scoring.prices import Spending
from ..scoring.table import check_parquet_path
from ..scoring.texts.plan import DEFAULT_KINDS, KINDS, Kind, plan_texts, read_attributes
from ..scoring.texts.prompts import TextTemplate
from ..scoring.texts.questions import TextQuestions
from ..scoring.texts.table import NO_MODEL, WrittenTexts, build_text_table, write_text_table, write_titles
from .arguments import INTERACTIONS_HELP, add_limits, add_model, names, positive, stored_extra_body
from .score import answered

_EPILOG = """\
What is shown of a user are titles of training interactions, never of held-out ones. Answers go into a ledger as those
of sllmr score do: after any interruption, the same command continues where it stopped and pays for no answer twice,
and more --users, --exemplars or kinds pay only for the new ones. The key is read from OPENAI_API_KEY.

examples:
  sllmr texts --interactions clicks.csv --items items.csv --out texts.parquet --dry-run
      What would be asked, how many tokens, how many dollars.
  sllmr texts --interactions clicks.csv --items items.csv --kind user --users 1000 --max-cost 2 --out texts.parquet
      Preferences of 1000 users, for 2 dollars at most, earlier runs with this ledger included.
  sllmr texts --interactions clicks.csv --items items.csv --kind user,item,reasoning --out texts.parquet
      Also why 1000 training interactions came about and 1000 others did not: the exemplars of LLM-CF.
  sllmr texts ... --batch
      Through the Batch API, for half the price.
  sllmr texts ... --base-url http://localhost:8000/v1 --model my-model
      With a server of your own.
  sllmr texts ... --writer titles
      Without any language model: the titles themselves, as something to run with and to beat.

next: sllmr compare ... --modes none,kar,llm_cf --texts texts.parquet
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Ask a language model for texts on users' preferences and on items, the inputs of KAR and LLM-CF, "
        "and for its reasoning about training interactions, LLM-CF's exemplars; write the text table."
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
        default=list(DEFAULT_KINDS),
        metavar="KIND[,KIND]",
        help="user (preferences), item (facts), reasoning (why a user took an item or did not; read by "
        "LLM-CF, with the other two) (default: user,item)",
    )
    parser.add_argument("--users", type=positive, metavar="N", help="texts of so many users (default: all)")
    parser.add_argument(
        "--exemplars",
        type=positive,
        default=1000,
        metavar="N",
        help="with kind reasoning: about N training interactions, and N items that their users did not take (default: "
        "%(default)s, as many as LLM-CF draws without reasoning)",
    )
    parser.add_argument(
        "--writer",
        choices=("openai", "titles"),
        default="openai",
        help="openai (any server with chat completions) or titles (no model at all: titles and attributes in the place "
        "of each text, and no reasoning in them) (default: openai)",
    )
    group = parser.add_argument_group("what is asked")
    add_model(group, max_tokens="100 + 4 a word of --max-words")
    for kind in KINDS:
        group.add_argument(
            f"--{kind}-template", type=Path, metavar="FILE", help=f"a prompt of your own, kind {kind}: docs/texts.md"
        )
    group.add_argument(
        "--attributes",
        type=names,
        metavar="COLUMNS",
        help="columns of --items that are shown with an item's title, such as brand,category (default: category and "
        "categories, where they are)",
    )
    group.add_argument(
        "--max-words", type=positive, default=120, metavar="N", help="longest text asked for (default: %(default)s)"
    )
    add_limits(parser)
    parser.set_defaults(run=_run)


def _kinds(text: str) -> list[Kind]:
    found = [kind for kind in KINDS if kind in names(text)]
    if set(found) != set(names(text)):
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(KINDS)}, nor several of them")
    return found


def _run(arguments: argparse.Namespace) -> int:
    check_parquet_path(arguments.out)
    requests = plan_texts(
        load_interactions(arguments.interactions, arguments.items),
        arguments.kind,
        users=arguments.users,
        exemplars=arguments.exemplars,
        history_length=arguments.history_length,
        attributes=read_attributes(arguments.items, arguments.attributes),
    )
    if arguments.writer == "titles":
        if arguments.dry_run:
            print(f"{len(requests)} texts from titles, which cost nothing.")
        else:
            _write(arguments, build_text_table(requests, write_titles(requests)), {}, model=NO_MODEL)
            if requests.exemplars:
                print("No language model reasoned: the texts of exemplars are their labels, titles and attributes.")
        return 0
    questions, spending = _questions(arguments), Spending()
    with answered(arguments, requests, questions, show=max(2, len(arguments.kind))) as (ledger, code):
        if ledger is None:
            return code
        written = build_text_table(requests, questions.stored_texts(requests, ledger, spending))
    settings = {
        "temperature": questions.temperature,
        "attempts": questions.attempts,
        "max_words": arguments.max_words,
        **stored_extra_body(questions),
    }
    prompt_hash = {kind: template.prompt_hash for kind, template in questions.templates.items()}
    _write(arguments, written, settings, model=arguments.model, prompt_hash=prompt_hash, spending=spending)
    print(f"Ledger: {ledger.path}")
    return code


def _questions(arguments: argparse.Namespace) -> TextQuestions:
    templates = {}
    for kind in KINDS:
        path = getattr(arguments, f"{kind}_template")
        templates[kind] = (
            TextTemplate.from_file(path, kind, max_words=arguments.max_words)
            if path
            else TextTemplate(kind, max_words=arguments.max_words)
        )
    return TextQuestions(
        arguments.model,
        templates,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        attempts=arguments.attempts,
        extra_body=arguments.extra_body,
    )


def _write(
    arguments: argparse.Namespace,
    written: WrittenTexts,
    settings: dict[str, Any],
    spending: Spending | None = None,
    **origin: Any,
) -> None:
    settings = {"history_length": arguments.history_length, "attributes": arguments.attributes, **settings}
    if "reasoning" in arguments.kind:
        settings["exemplars"] = arguments.exemplars
    write_text_table(written, arguments.out, writer=arguments.writer, settings=settings, spending=spending, **origin)
    print("\n".join([str(written.counts), *(spending.notes() if spending else [])]))
    print(f"Text table: {arguments.out}")
