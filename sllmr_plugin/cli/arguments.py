"""Arguments that several commands take, and the types that read them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from ..config import SelectiveConfig
from ..errors import ConfigError

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


def read_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn ``FIELD=VALUE`` texts into fields of `SelectiveConfig`, checked."""
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment} is no FIELD=VALUE; write for instance --set weight=0.2.")
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
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return number


def device(name: str) -> str:
    """Read a torch device that can be used here."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be used: {str(error).splitlines()[0]}") from None
    return name
