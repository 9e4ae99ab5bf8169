"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..parallel.ray import RayEngine
from ..scoring.connections import hide_secrets
from ..scoring.conversation import Conversation
from ..scoring.prompts import PromptTemplate
from ..scoring.questions import Questions
from ..scoring.run_summary import RunLimits
from ..scoring.schema import ANSWER_KINDS

if TYPE_CHECKING:
    from ..evaluation.training import RunSettings

INTERACTIONS_HELP = (
    "CSV or parquet: user_id, item_id[, label][, position|timestamp][, split]; without split the "
    "last item of a user is test and the one before it validation"
)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the files that a comparison reads."""
    parser.add_argument("--interactions", required=True, metavar="FILE", help=INTERACTIONS_HELP)
    parser.add_argument("--items", metavar="FILE", help="CSV or parquet of the whole catalogue: item_id[, title]")
    parser.add_argument(
        "--scores",
        required=True,
        metavar="FILE",
        help="CSV or parquet: user_id, item_id, score in [0, 1][, kind]",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the sizes of training and validation, and ``--set``; `run_settings` and `read_overrides` read them."""
    from ..evaluation.training import RunSettings  # needs torch, which commands that train nothing do without

    defaults = RunSettings()
    for flag, default, text in (
        ("--epochs", defaults.epochs, "epochs per run"),
        ("--embedding-dim", defaults.embedding_dim, "length of the embedding vectors"),
        ("--batch-size", defaults.batch_size, "rows per training step"),
        (
            "--negatives",
            defaults.negatives,
            "sampled negatives per positive; unused if the data have their own",
        ),
        ("--valid-users", defaults.valid_users, "users ranked to choose the epoch"),
    ):
        parser.add_argument(flag, type=positive, default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument(
        "--learning-rate",
        type=rate,
        default=defaults.learning_rate,
        metavar="X",
        help="of Adam (default: 0.001)",
    )
    parser.add_argument(
        "--dropout",
        type=share,
        default=defaults.dropout,
        metavar="X",
        help="dropout rate of the backbone's deep part; uncertainty mc_dropout needs one (default: 0)",
    )
    parser.add_argument(
        "--rank-items",
        type=positive,
        metavar="N",
        help="rank each user's held-out items against N unseen items drawn at random: an "
        "unbiased estimate of full-ranking AUC for slow backbones (default: all items)",
    )
    parser.add_argument(
        "--device",
        type=device,
        default=defaults.device,
        metavar="NAME",
        help="a torch device such as cuda:0 (default: cpu)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help="a field of SelectiveConfig, for instance weight=0.2; can be repeated",
    )


def add_engine(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--engine`` and ``--workers``; `open_engine` reads them."""
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help=f"ray spreads {what} over the processes of a Ray cluster (RAY_ADDRESS, or this machine), with the same "
        "result; it needs sllmr-plugin[ray] (default: local)",
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="of --engine ray (default: as many as the cluster has CPUs)"
    )


@contextlib.contextmanager
def open_engine(arguments: argparse.Namespace) -> Iterator[RayEngine | None]:
    """Connect to what the arguments of `add_engine` ask for; None is this process."""
    if arguments.engine == "local":
        if arguments.workers is not None:
            raise ConfigError("--workers is for --engine ray; add that, or leave it out.")
        yield None
        return
    with RayEngine(arguments.workers) as engine:
        print(f"engine ray: {engine.workers} workers", file=sys.stderr)
        yield engine


def add_experiment_keys(group: Any) -> None:
    """Add ``-o`` and ``--data-dir`` of commands that compose experiments; `check_data_dir` checks the latter."""
    group.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        dest="assignments",
        metavar="KEY=VALUE",
        help="set a key, for instance config.weight=0.2; the value is YAML; can be repeated",
    )
    group.add_argument(
        "--data-dir",
        metavar="FOLDER",
        help="folder of the data sets' folders (default: the environment variable SLLMR_DATA, else ./data)",
    )


def check_data_dir(folder: str | None) -> None:
    """Raise `ConfigError` if the folder of all data sets is named and not there."""
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"--data-dir {folder}: no such folder; name the one that data sets lie in.")


def run_settings(
    arguments: argparse.Namespace, *, test_users: int | None = None, test_items: int | None = None
) -> RunSettings:
    """Return what the arguments of `add_training` say, with the sizes of a test ranking if a test is ranked."""
    from ..evaluation.training import RunSettings

    return RunSettings(
        epochs=arguments.epochs,
        embedding_dim=arguments.embedding_dim,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        negatives=arguments.negatives,
        test_users=test_users,
        valid_users=arguments.valid_users,
        test_items=test_items,
        valid_items=arguments.rank_items,
        dropout=arguments.dropout,
        device=arguments.device,
    )


def read_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn ``FIELD=VALUE`` texts into fields of `SelectiveConfig`, checked."""
    from ..config import SelectiveConfig  # needs torch, too

    overrides: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment} is not FIELD=VALUE; write for instance --set weight=0.2.")
        overrides[name.strip()] = _value(value.strip())
    SelectiveConfig.from_dict(overrides, source="--set")
    return overrides


def _value(text: str) -> Any:
    """Read an int, a float, true, false or none; anything else is text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def names(text: str) -> list[str]:
    """Read a comma-separated list."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("it names nothing")
    return names


def positive(text: str) -> int:
    """Read a count."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def rate(text: str) -> float:
    """Read a positive number."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def share(text: str) -> float:
    """Read a rate in [0, 1)."""
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return number


def device(name: str) -> str:
    """Read a torch device that can be used here."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be used: {str(error).splitlines()[0]}") from None
    return name


def add_asking(parser: argparse.ArgumentParser) -> None:
    """Add what a language model is asked."""
    group = parser.add_argument_group("what is asked")
    add_model(group, max_tokens="200 + 20 a candidate")
    group.add_argument("--template", type=Path, metavar="FILE", help="a prompt of your own: docs/scoring_prompts.md")
    group.add_argument(
        "--answer", choices=ANSWER_KINDS, default="scores", help="ask for scores or for an order (default: scores)"
    )
    group.add_argument(
        "--ranking-temperature",
        type=rate,
        default=Questions("").ranking_temperature,
        metavar="X",
        help="of the soft scores that an order is turned into (default: %(default)s)",
    )
    group.add_argument(
        "--logprobs",
        type=positive,
        metavar="N",
        help="take expected scores over the N likeliest tokens, where the server tells them (at OpenAI up to 20)",
    )
    group.add_argument(
        "--repeats", type=positive, default=1, metavar="R", help="ask R times in other orders and average (default: 1)"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="decides the orders (default: 0)")


def add_model(group: argparse._ArgumentGroup, *, max_tokens: str) -> None:
    """Add who is asked, with how much of a history, and how; `max_tokens` says what the default is."""
    group.add_argument(
        "--model", default="gpt-4o-mini", metavar="NAME", help="as the server calls it (default: %(default)s)"
    )
    group.add_argument(
        "--base-url",
        metavar="URL",
        help="a server of your own, such as http://localhost:8000/v1; no key is needed then (default: OPENAI_BASE_URL, "
        "else OpenAI)",
    )
    group.add_argument(
        "--history-length", type=natural, default=10, metavar="L", help="titles of the user's last items (default: 10)"
    )
    group.add_argument(
        "--temperature",
        type=number_or_none,
        default=0.0,
        metavar="X",
        help="of the model; none leaves it to the server (default: 0)",
    )
    group.add_argument(
        "--max-tokens",
        type=count_or_none,
        default="auto",
        metavar="N",
        help=f"longest answer; none sets no limit, models that think first need more (default: {max_tokens})",
    )
    group.add_argument(
        "--attempts",
        type=positive,
        default=3,
        metavar="N",
        help="how often to ask if the answer cannot be used; the error is fed back (default: 3)",
    )
    group.add_argument(
        "--extra-body",
        type=json_object,
        metavar="JSON",
        help='what else each request holds, for servers that take it: \'{"reasoning_effort": "low"}\', '
        '\'{"chat_template_kwargs": {"enable_thinking": false}}\'; another one asks again',
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add how fast to ask, for how much, and where answers are kept."""
    defaults = RunLimits()
    group = parser.add_argument_group("how it is asked")
    group.add_argument(
        "--dry-run", action="store_true", help="print the first prompts, the requests, tokens and dollars; send nothing"
    )
    group.add_argument(
        "--max-cost",
        type=rate,
        metavar="USD",
        help="send nothing that could make the ledger's total exceed this",
    )
    group.add_argument("--prices", type=Path, metavar="FILE", help="YAML of USD per million tokens (default: bundled)")
    group.add_argument("--ledger", type=Path, metavar="FILE", help="SQLite file of all answers (default: beside --out)")
    group.add_argument(
        "--concurrency",
        type=positive,
        default=defaults.concurrency,
        metavar="N",
        help="requests in flight (default: %(default)s)",
    )
    group.add_argument("--requests-per-minute", type=rate, metavar="N", help="(default: no limit but the server's)")
    group.add_argument("--tokens-per-minute", type=rate, metavar="N", help="(default: no limit but the server's)")
    group.add_argument(
        "--retries",
        type=natural,
        default=defaults.retries,
        metavar="N",
        help="how often to send a request again that got no answer (default: %(default)s)",
    )
    group.add_argument(
        "--batch",
        action="store_true",
        help="use the server's Batch API: half the price at OpenAI, answers within a day; the run waits, and may be "
        "stopped and started again meanwhile",
    )
    group.add_argument("--timeout", type=rate, default=60.0, metavar="SECONDS", help="for one request (default: 60)")


def questions_of(arguments: argparse.Namespace) -> Questions:
    """Return what the arguments of `add_asking` ask."""
    if arguments.template:
        template = PromptTemplate.from_file(arguments.template, answer=arguments.answer)
    else:
        template = PromptTemplate(answer=arguments.answer)
    return Questions(
        arguments.model,
        template,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        attempts=arguments.attempts,
        top_logprobs=arguments.logprobs,
        ranking_temperature=arguments.ranking_temperature,
        extra_body=arguments.extra_body,
    )


def stored_extra_body(questions: Conversation[Any]) -> dict[str, Any]:
    """Return what a table's settings say of ``--extra-body``: nothing where there is none."""
    return {"extra_body": hide_secrets(questions.extra_body)} if questions.extra_body else {}


def natural(text: str) -> int:
    """Read a count that may be 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def number_or_none(text: str) -> float | None:
    """Read a number of at least 0, or "none"."""
    number = None if text == "none" else float(text)
    if number is not None and not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is neither a number of at least 0 nor none")
    return number


def count_or_none(text: str) -> int | str | None:
    """Read a count, "none" or "auto"."""
    return {"none": None, "auto": "auto"}[text] if text in ("none", "auto") else positive(text)


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object; the error does not show the text, which may hold a secret."""
    example = """write it in single quotes: '{"reasoning_effort": "low"}'"""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"no JSON: {error.msg} at character {error.pos + 1}; {example}") from None
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"no JSON that can be sent; {example}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"JSON, but no object; {example}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
