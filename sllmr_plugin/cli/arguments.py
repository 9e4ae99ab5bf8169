"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..parallel import engine as engines
from ..parallel.engine import RayEngine

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
    with engines.open_engine(arguments.engine, arguments.workers) as engine:
        if engine is not None:
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


def read_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn ``FIELD=VALUE`` texts into fields of `SelectiveConfig`, checked."""
    from ..config import SelectiveConfig  # needs torch, too

    overrides: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment} is not FIELD=VALUE; write for instance --set weight=0.2.")
        overrides[name.strip()] = read_value(value.strip())
    SelectiveConfig.from_dict(overrides, source="--set")
    return overrides


def read_value(text: str) -> Any:
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
