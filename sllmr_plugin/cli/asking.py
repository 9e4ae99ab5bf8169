"""Flags that `sllmr score`, `sllmr texts` and `sllmr embed` share."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..scoring.settings import AskSettings
from .arguments import add_fields

_SERVER = {
    "model": "as the server calls it",
    "base_url": "a server of your own, such as http://localhost:8000/v1; no key is needed then (default: "
    "OPENAI_BASE_URL, else OpenAI)",
}
_MODEL = {
    "history_length": "titles of the user's last items",
    "temperature": "of the model; none leaves it to the server",
    "attempts": "how often to ask if the answer cannot be used; the error is fed back",
    "extra_body": 'what else each request holds, for servers that take it: \'{"reasoning_effort": "low"}\', '
    '\'{"chat_template_kwargs": {"enable_thinking": false}}\'; another value asks again (default: nothing)',
}
_LIMITS = {
    "max_cost": "send nothing that could make the ledger's total exceed this (default: no limit)",
    "prices": "YAML of USD per million tokens (default: bundled)",
    "ledger": "SQLite file of all answers (default: beside --out)",
    "concurrency": "requests in flight",
    "requests_per_minute": "(default: no limit but the server's)",
    "tokens_per_minute": "(default: no limit but the server's)",
    "retries": "how often to send a request again that got no answer",
    "batch": "use the server's Batch API: half the price at OpenAI, answers within a day; the run waits, and may be "
    "stopped and started again meanwhile",
    "timeout": "for one request",
}


def add_model(group: argparse._ArgumentGroup, *, max_tokens: str) -> None:
    """Add the model, its server and how it is asked; `max_tokens` says what the default is."""
    longest = "longest answer; none sets no limit, models that think first need more"
    add_server(group, AskSettings, _MODEL | {"max_tokens": f"{longest} (default: {max_tokens})"})


def add_server(group: argparse._ArgumentGroup, settings: type, told: dict[str, str]) -> None:
    """Add the model, its server and the fields of a settings class that `told` has help for."""
    options: dict[str, dict[str, Any]] = {
        "base_url": {"metavar": "URL"},
        "extra_body": {"type": json_object, "metavar": "JSON"},
    }
    add_fields(group, settings, _SERVER | told, options)


def add_limits(parser: argparse.ArgumentParser, settings: type = AskSettings) -> None:
    """Add how fast to ask, for how much, and where answers are kept, as far as a settings class has it."""
    group = parser.add_argument_group("how it is asked")
    group.add_argument(
        "--dry-run", action="store_true", help="print the first prompts, the requests, tokens and dollars; send nothing"
    )
    add_fields(group, settings, _LIMITS, {"max_cost": {"metavar": "USD"}, "timeout": {"metavar": "SECONDS"}})


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object; the error does not show the text, which may hold a secret."""
    example = """write it in single quotes: '{"reasoning_effort": "low"}'"""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error.msg} at character {error.pos + 1}; {example}") from None
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"not JSON that can be sent; {example}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"JSON, but not an object; {example}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
