"""Flags that `sllmr score` and `sllmr texts` share, and the settings that they make."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from ..scoring.prompts import ANSWER_KINDS
from ..scoring.settings import AskSettings, ScoreSettings
from .arguments import positive, rate


def add_asking(parser: argparse.ArgumentParser) -> None:
    """Add what a language model is asked."""
    defaults = ScoreSettings()
    group = parser.add_argument_group("what is asked")
    add_model(group, max_tokens="200 + 20 a candidate")
    group.add_argument("--template", type=Path, metavar="FILE", help="a prompt of your own: docs/scoring_prompts.md")
    group.add_argument(
        "--answer",
        choices=ANSWER_KINDS,
        default=defaults.answer,
        help="ask for scores or for an order (default: scores)",
    )
    group.add_argument(
        "--ranking-temperature",
        type=rate,
        default=defaults.ranking_temperature,
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
        "--repeats",
        type=positive,
        default=defaults.repeats,
        metavar="R",
        help="ask R times in other orders and average (default: 1)",
    )
    group.add_argument("--seed", type=int, default=defaults.seed, metavar="N", help="decides the orders (default: 0)")


def add_model(group: argparse._ArgumentGroup, *, max_tokens: str) -> None:
    """Add who is asked, with how much of a history, and how; `max_tokens` says what the default is."""
    defaults = AskSettings()
    group.add_argument(
        "--model", default=defaults.model, metavar="NAME", help="as the server calls it (default: %(default)s)"
    )
    group.add_argument(
        "--base-url",
        metavar="URL",
        help="a server of your own, such as http://localhost:8000/v1; no key is needed then (default: OPENAI_BASE_URL, "
        "else OpenAI)",
    )
    group.add_argument(
        "--history-length",
        type=natural,
        default=defaults.history_length,
        metavar="L",
        help="titles of the user's last items (default: 10)",
    )
    group.add_argument(
        "--temperature",
        type=number_or_none,
        default=defaults.temperature,
        metavar="X",
        help="of the model; none leaves it to the server (default: 0)",
    )
    group.add_argument(
        "--max-tokens",
        type=count_or_none,
        default=defaults.max_tokens,
        metavar="N",
        help=f"longest answer; none sets no limit, models that think first need more (default: {max_tokens})",
    )
    group.add_argument(
        "--attempts",
        type=positive,
        default=defaults.attempts,
        metavar="N",
        help="how often to ask if the answer cannot be used; the error is fed back (default: 3)",
    )
    group.add_argument(
        "--extra-body",
        type=json_object,
        metavar="JSON",
        help='what else each request holds, for servers that take it: \'{"reasoning_effort": "low"}\', '
        '\'{"chat_template_kwargs": {"enable_thinking": false}}\'; another value asks again',
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add how fast to ask, for how much, and where answers are kept."""
    defaults = AskSettings()
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
    group.add_argument(
        "--timeout", type=rate, default=defaults.timeout, metavar="SECONDS", help="for one request (default: 60)"
    )


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


def settings_of(arguments: argparse.Namespace, settings: type) -> dict[str, Any]:
    """Return the fields of a settings class that arguments give; flags have their names."""
    return {field.name: getattr(arguments, field.name) for field in dataclasses.fields(settings)}
