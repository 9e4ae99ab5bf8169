"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..datasets.protocols import FULL_RANKING, LLM_CF, PROTOCOLS
from ..errors import ConfigError
from ..parallel import engine as engines
from ..parallel.engine import RayEngine
from ..settings import as_type, choices_of, field_types

if TYPE_CHECKING:
    from ..tracking import Tracker

PROTOCOL_HELP = (
    f"{LLM_CF}: that of the paper's figures, rows with three earlier interactions of their user and pooled AUC over "
    "labelled rows beside the ranking, with its own sizes of training"
)
INTERACTIONS_HELP = (
    "CSV or parquet: user_id, item_id[, label][, position|timestamp][, split]; without split the "
    "last item of a user is test and the one before it validation"
)


def add_fields(
    group: Any, settings: type, told: Mapping[str, str], options: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Add flags for fields of a settings class: names, types, choices, defaults and checks are those of the fields.

    Parameters
    ----------
    group : argparse.ArgumentParser or group
    settings : type
        A dataclass whose annotations `sllmr_plugin.settings` understands.
    told : mapping
        Field -> what the help says of it, and of its default where that is not the value itself. Fields that are not
        there get no flag.
    options : mapping, optional
        Field -> arguments of ``add_argument`` that replace those that follow from the field.
    """
    for field in dataclasses.fields(settings):
        if field.name not in told:
            continue
        says, wanted = told[field.name], str(field_types(settings)[field.name])
        if "(default: " not in says:
            says += f" (default: {word_of(field.default)})"
        chosen: dict[str, Any] = {"default": field.default, "help": says}
        if isinstance(field.default, bool):
            chosen["action"] = argparse.BooleanOptionalAction
        elif number := re.search(r"\b(int|float)\b", wanted):
            chosen |= {"type": reader_of(settings, field.name), "metavar": {"int": "N", "float": "X"}[number[0]]}
        elif choices := choices_of(settings, field.name):
            chosen["choices"] = choices
        elif "PathLike" in wanted:
            chosen |= {"type": Path, "metavar": "FILE"}
        else:
            chosen["metavar"] = "NAME"
        group.add_argument(flag_of(field.name), **chosen | dict((options or {}).get(field.name, {})))


def settings_of(arguments: argparse.Namespace, settings: type) -> dict[str, Any]:
    """Return the fields of a settings class that have flags among the arguments."""
    names = [field.name for field in dataclasses.fields(settings)]
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def flag_of(name: str) -> str:
    """Return a field's name as a flag."""
    return "--" + name.replace("_", "-")


def word_of(value: Any) -> str:
    """Return a value as a flag takes it."""
    return "none" if value is None else str(value)


def reader_of(settings: type, name: str) -> Callable[[str], Any]:
    """Return a function that reads a field's text and checks it as the field does."""

    def read(text: str) -> Any:
        try:
            return as_type(read_value(text), field_types(settings)[name])
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


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


def add_track(group: Any) -> None:
    """Add ``--track``; `tracker_of` reads it."""
    group.add_argument(
        "--track",
        type=_place,
        metavar="PLACE",
        help="tensorboard:DIR, mlflow:URI or wandb:PROJECT: keep the values of each epoch there, too, of the runs that "
        "are made now; needs sllmr-plugin[tensorboard], [mlflow] or [wandb] (default: nowhere)",
    )


def tracker_of(arguments: argparse.Namespace) -> Tracker | None:
    """Return the tracker that ``--track`` names, None without."""
    from ..tracking import open_tracker  # needs torch, too

    return None if arguments.track is None else open_tracker(arguments.track)


def _place(text: str) -> str:
    from ..tracking import check_place  # needs torch, too

    try:
        return check_place(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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


def add_protocol_setting(group: Any) -> None:
    """Add ``--protocol`` of commands that compose experiments; `protocol_setting` reads it."""
    group.add_argument(
        "--protocol", choices=PROTOCOLS, default=FULL_RANKING, help=f"{PROTOCOL_HELP} (default: {FULL_RANKING})"
    )


def protocol_setting(arguments: argparse.Namespace) -> str | None:
    """Return what ``--setting`` names, or the setting of the model zoo that ``--protocol`` stands for."""
    if arguments.protocol == FULL_RANKING:
        return arguments.setting
    if arguments.setting is not None:
        raise ConfigError(
            f"--protocol {arguments.protocol} is a setting itself; leave out --setting {arguments.setting}, and change "
            "keys with -o."
        )
    return arguments.protocol


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
