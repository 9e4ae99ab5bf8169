"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..parallel import ray
from ..parallel.ray import RayEngine

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
    parser.add_argument("--redraw", action="store_true", help="draw other negatives in every epoch")
    parser.add_argument(
        "--patience",
        type=positive,
        metavar="N",
        help="stop when N epochs in a row have not raised the validation AUC (default: train all epochs)",
    )
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
    with ray.open_engine(arguments.engine, arguments.workers) as engine:
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
        redraw=arguments.redraw,
        patience=arguments.patience,
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
