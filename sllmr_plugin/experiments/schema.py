"""The dataclasses as schema of a composed file: which keys there are, of which types, and what a wrong one was for."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ..backends.initialise import DEFAULT_SCALE
from ..config import MODES, SelectiveConfig
from ..errors import BackboneError, ConfigError
from ..evaluation.modes import Mode, ModeName
from ..evaluation.training import RunSettings
from ..settings import Bounds, Settings, as_type, field_types
from ..zoo.deepctr import check_arguments, check_backbone
from .data import DataSource, fingerprint
from .files import Setting


@dataclass(frozen=True)
class ModelChoice:
    """Which backbone is built, and how.

    Attributes
    ----------
    backbone : str
        A name that `sllmr_plugin.zoo.deepctr.build_model` knows.
    about : str, default=""
        One line for ``sllmr train --list``.
    arguments : mapping of str to Any, default={}
        The class's own constructor arguments, for instance ``dnn_hidden_units``.
    """

    backbone: str
    about: str = ""
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class RunPlan(Settings):
    """Which runs are made.

    Attributes
    ----------
    seeds : tuple of int, default=(0,)
        One run is made for each seed.
    with_plain : bool, default=False
        Also train the plain model, so that differences can be computed.
    mode : str or None, default=None
        A name that `sllmr_plugin.evaluation.modes.Mode.of` reads: the fields of `SelectiveConfig` that it stands for
        override those of the section ``config``, and its parts do their share to the model.
        None trains as ``config`` says.

    Raises
    ------
    ConfigError
        If there is no seed, one is negative or repeated, or the mode is unknown.
    """

    seeds: tuple[int, ...] = (0,)
    with_plain: bool = False
    mode: Annotated[str, ModeName()] | None = None

    def problems(self) -> list[str]:
        """Return what is wrong with the seeds."""
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            return [f"seeds={list(self.seeds)} must be one or more different numbers of at least 0"]
        return []


@dataclass(frozen=True)
class StartChoice(Settings):
    """The vectors of the items that modes with ``init``, ``align``, ``similar``, ``pretrain`` and the like read.

    Attributes
    ----------
    source : str, default="texts"
        ``texts``: the data set's text table behind its titles; ``titles``: these alone; else a file of vectors or
        texts, as `Vectors.read` takes it.
    scale : float, default=0.3
        Root mean square of an item's row, for ``init``.
    users : {"auto", "history", "vectors", "none"}, default="auto"
        Where users come from, for ``init`` (see `initialise`) and ``embed`` (see `EmbedAdaptor`).
    method : {"svd", "random", "project"}, default="svd"
        How vectors become rows.
    sha256 : str, default=""
        Fingerprint of the file that `source` names, which is checked; empty if it is not, or names none.
    """

    source: str = "texts"
    scale: Annotated[float, Bounds(above=0)] = DEFAULT_SCALE
    users: Literal["auto", "history", "vectors", "none"] = "auto"
    method: Literal["svd", "random", "project"] = "svd"
    sha256: str = ""

    @property
    def file(self) -> Path | None:
        """The file of vectors or texts; None where `source` means texts or titles of the data set."""
        return None if self.source in ("texts", "titles") else Path(self.source)

    def pinned(self) -> StartChoice:
        """Return the same with the fingerprint of its file, if it names one."""
        return self if self.file is None else dataclasses.replace(self, sha256=fingerprint(self.file))


SECTIONS: dict[str, type] = {
    "model": ModelChoice,
    "data": DataSource,
    "config": SelectiveConfig,
    "training": RunSettings,
    "start": StartChoice,
    "run": RunPlan,
}
"""Section of a file -> the dataclass whose fields are its keys."""

# The backbone's own arguments stand with the backbone, as model.arguments.
_ELSEWHERE = {"training": {"model_arguments"}}


def section_fields(section: str) -> dict[str, dataclasses.Field]:
    """Return the fields of a section by name."""
    hidden = _ELSEWHERE.get(section, set())
    return {field.name: field for field in dataclasses.fields(SECTIONS[section]) if field.name not in hidden}


def check_settings(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Check the keys and types of a file's settings.

    Parameters
    ----------
    settings : mapping of str to Setting
        By dotted name.

    Returns
    -------
    dict of str to Setting
        With the values in the types of their fields, without empty sections and mappings.

    Raises
    ------
    ConfigError
        Naming the file, the line and the key, and the nearest valid key or the expected value.
    """
    checked = {}
    for key, (value, origin) in settings.items():
        if (key in SECTIONS and value is None) or (value == {} and (key in SECTIONS or _is_mapping(key))):
            continue
        wanted = _wanted(key, origin)
        try:
            checked[key] = Setting(as_type(value, wanted), origin)
        except ConfigError as error:
            raise ConfigError(f"{_place(key, origin)}: {error}") from None
    return checked


def build(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Build every section's dataclass from checked settings.

    Raises
    ------
    ConfigError, BackboneError
        If a value is out of range or does not fit the backbone, or a key without a default is missing; names the places
        that the values come from.
    """
    built: dict[str, Any] = {}
    for section, kind in SECTIONS.items():
        values: dict[str, Any] = {}
        for key, setting in settings.items():
            if key.split(".")[0] == section:
                _, name, *inner = key.split(".", 2)
                if inner:
                    values.setdefault(name, {})[inner[0]] = setting.value
                else:
                    values[name] = setting.value
        for name, field in section_fields(section).items():
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and name not in values:
                raise ConfigError(f"{section}.{name} is missing; set it in a file or with -o {section}.{name}=...")
        if section == "training":
            values["model_arguments"] = _model_arguments(built["model"], settings)
        try:
            built[section] = kind(**values)
        except ConfigError as error:
            raise ConfigError(f"{error} {_set_in(section, str(error), settings)}".rstrip()) from None
    mode = None if built["run"].mode is None else Mode.of(built["run"].mode)
    if mode is not None and (mode.uses_scores or not mode.parts):
        built["config"] = SelectiveConfig.of_mode(mode.regularizer, built["config"].to_dict())
    training = built["training"]
    try:
        check_backbone(built["model"].backbone, training.embedding_dim, training.dropout, training.model_arguments)
    except BackboneError as error:
        raise BackboneError(f"{error} {_set_in('training', str(error), settings)}".rstrip()) from None
    return built


def _wanted(key: str, origin: str) -> Any:
    """Return the type of a key's values."""
    section, _, rest = key.partition(".")
    name, _, inner = rest.partition(".")
    if key == "config.mode":  # of earlier versions; SelectiveConfig says what to write
        return Literal[tuple(MODES)]
    known = section in SECTIONS and name in section_fields(section)
    if not known or (inner and not _is_mapping(f"{section}.{name}")):
        if key in SECTIONS:
            raise ConfigError(f"{origin}: {key!r} is a section and has no value; {_nearest(key + '.')}")
        raise ConfigError(f"{origin}: unknown key {key!r}; {_nearest(key)}")
    hint = field_types(SECTIONS[section])[name]
    return typing.get_args(hint)[1] if inner else hint


def _is_mapping(key: str) -> bool:
    section, _, name = key.partition(".")
    if section not in SECTIONS or name not in section_fields(section):
        return False
    return typing.get_origin(field_types(SECTIONS[section])[name]) is Mapping


def _nearest(key: str) -> str:
    section, _, name = key.partition(".")
    if section in SECTIONS:
        valid = list(section_fields(section))
        found = difflib.get_close_matches(name.split(".")[0], valid, n=1)
        if found:
            return f"did you mean '{section}.{found[0]}'?"
        return f"the keys of {section} are {', '.join(valid)}."
    # The section is wrong or left out: look for the last part everywhere.
    homes = {name: section for section in reversed(SECTIONS) for name in section_fields(section)}
    found = difflib.get_close_matches(key.rpartition(".")[2], homes, n=1)
    if found:
        return f"did you mean '{homes[found[0]]}.{found[0]}'?"
    return f"the sections are {', '.join(SECTIONS)}."


def _model_arguments(model: ModelChoice, settings: Mapping[str, Setting]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, value in model.arguments.items():
        try:
            arguments |= check_arguments(model.backbone, {name: value})
        except BackboneError as error:
            key = f"model.arguments.{name}"
            raise ConfigError(f"{_place(key, settings[key].origin)}: {error}") from None
    return arguments


def _set_in(section: str, message: str, settings: Mapping[str, Setting]) -> str:
    """Say where the fields that a message names were set."""
    return " ".join(
        f"{key} is set in {setting.origin}."
        for key, setting in settings.items()
        if key.startswith(section + ".") and re.search(rf"\b{re.escape(key.partition('.')[2])}=", message)
    )


def _place(key: str, origin: str) -> str:
    """Name the place of a key, without saying it twice."""
    return origin if origin.startswith(f"-o {key}=") else f"{origin}: {key}"
