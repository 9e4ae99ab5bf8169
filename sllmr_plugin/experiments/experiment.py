"""`Experiment`: base, setting, data, model and single keys composed; it as a file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import SelectiveConfig
from ..errors import ConfigError
from ..evaluation.differences import BASELINE
from ..evaluation.modes import Mode, check_start_fields
from ..evaluation.training import RunSettings
from ..zoo.deepctr import check_backbone
from .data import DataSource
from .files import FOLDER, Setting, dump, find_file, read_assignment, read_file, unknown_name, zoo_folder
from .schema import SECTIONS, ModelChoice, RunPlan, StartChoice, build, check_settings, section_fields

# Keys that leave the figures of a run as they are: what is said of it, where its files lie, which seeds are made.
_NOT_IN_NAME = {
    "model": {"about"},
    "data": {"about", "root", "folder", "source", "prepare", "score", "write", "scores_note", "expected", "sha256"},
    "start": {"sha256"},
    "run": {"seeds", "with_plain"},
}


@dataclass(frozen=True)
class Experiment:
    """What `sllmr_plugin.experiments.experiment.compose` makes of the model zoo's files.

    Attributes
    ----------
    model : ModelChoice
        The backbone.
    data : DataSource
        Where the data are.
    config : SelectiveConfig
        The regularizer; weight 0 trains the plain model.
    training : RunSettings
        Sizes of training and evaluation, with the backbone's own arguments.
    start : StartChoice
        The vectors of the items that modes such as ``init`` read.
    run : RunPlan
        Seeds.
    origins : dict of str to str
        Where every key was set, by dotted name; keys that are not in it have the default of their dataclass.
    """

    model: ModelChoice
    data: DataSource
    config: SelectiveConfig
    training: RunSettings
    start: StartChoice = StartChoice()
    run: RunPlan = RunPlan()
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def backbone(self) -> str:
        """The backbone's name in the names of runs."""
        return self.model.backbone.lower()

    @property
    def mode(self) -> str:
        """The mode that is trained: of the regularizer, or a baseline that reads texts."""
        return self.run.mode or self.config.row

    @property
    def modes(self) -> list[str]:
        """The modes that are trained, the plain model first."""
        return list(dict.fromkeys([BASELINE] * self.run.with_plain + [self.mode]))

    @property
    def reads(self) -> tuple[str, ...]:
        """What is read in addition to interactions and items: ``scores``, ``texts`` and the like, or nothing."""
        mode = Mode.of(self.mode)
        texts = mode.needs("texts") or (mode.needs("vectors") and self.start.source == "texts")
        reasons = "curec" in mode.parts and self.data.reasons is not None
        others = tuple(name for name in ("triples", "synthetic", "interest") if mode.needs(name))
        return ("texts",) * texts + ("reasons",) * reasons + others + ("scores",) * mode.uses_scores

    @property
    def name(self) -> str:
        """Data set, backbone, mode and a fingerprint of all keys that the figures depend on, except the seeds."""
        values = self.identity()
        text = json.dumps(values, sort_keys=True).encode()
        return f"{self.data.name}-{self.backbone}-{self.mode}-{hashlib.sha256(text).hexdigest()[:8]}"

    @property
    def default_folder(self) -> Path:
        """The default run folder. It is the same for the same experiment, so that seeds are added to it."""
        return Path("runs/train") / self.name

    def identity(self) -> dict[str, Any]:
        """Return the values of all keys that the figures depend on, except the seeds, by dotted name."""
        mode = Mode.of(self.mode)
        not_read = {"start": not mode.needs("vectors"), "data.reasons": "curec" not in mode.parts}
        not_read |= {f"data.{name}": not mode.needs("triples") for name in ("triples", "triples_columns")}
        not_read |= {f"data.{name}": not mode.needs(name) for name in ("synthetic", "interest")}
        return {
            f"{section}.{name}": value
            for section, values in self.to_dict().items()
            for name, value in values.items()
            if name not in _NOT_IN_NAME.get(section, ())
            and not (not_read.get(section) or not_read.get(f"{section}.{name}"))
        }

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return all keys by section, as plain values."""
        sections = {}
        for section in SECTIONS:
            part = dataclasses.asdict(getattr(self, section))
            sections[section] = {name: _plain(part[name]) for name in section_fields(section)}
        # As the class wants them, which is how they were trained with.
        sections["model"]["arguments"] = _plain(self.training.model_arguments)
        return sections

    def to_yaml(self) -> str:
        """Return the content of a file from which ``sllmr train --config`` repeats the experiment."""
        head = f"# An experiment of sllmr-plugin {__version__}, whole: sllmr train --config THIS_FILE makes it again.\n"
        return head + dump(self.to_dict())

    def explained(self) -> str:
        """Return the same, with a comment after every key that says where it was set."""
        lines = []
        for section, values in self.to_dict().items():
            lines.append(f"{section}:")
            for name, value in values.items():
                inner = value if isinstance(value, dict) and value else None
                if inner is None:
                    lines.append(self._explain(f"{section}.{name}", name, value, 2))
                    continue
                lines.append(f"  {name}:")
                lines += [self._explain(f"{section}.{name}.{key}", key, part, 4) for key, part in inner.items()]
        return "\n".join(lines) + "\n"

    def _explain(self, key: str, name: str, value: Any, indent: int) -> str:
        first, *more = dump({name: value}, width=float("inf")).splitlines()
        explained = f"{' ' * indent + first:<44}  # {self.origins.get(key, 'default')}"
        return "\n".join([explained, *(" " * indent + line for line in more)])


def _plain(value: Any) -> Any:
    """Return a value with lists for tuples, as YAML and JSON have them."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (tuple, list)) else value


def compose(
    *,
    model: str | None = None,
    data: str | None = None,
    setting: str | None = None,
    config: str | Path | None = None,
    assignments: Sequence[str] = (),
    overrides: Mapping[str, Setting] | None = None,
) -> Experiment:
    """Compose an experiment from files of the model zoo.

    The order is ``base.yaml``, `setting`, `data`, `model`, `assignments`, `overrides`; or ``base.yaml``, `config`,
    `assignments`, `overrides`.

    Parameters
    ----------
    model : str, optional
        Name of a file under ``models``, of any backbone of `sllmr_plugin.zoo.deepctr.BACKBONES`, or the path of a YAML
        file.
    data : str, optional
        Name of a file under ``data``, or the path of a YAML file.
    setting : str, optional
        Name of a file beside ``base.yaml``, such as ``small``, or the path of a YAML file.
    config : path, optional
        A complete experiment in one file, as written by a run; replaces the three above.
    assignments : sequence of str, default=()
        ``config.weight=0.2`` and the like.
    overrides : mapping of str to Setting, optional
        Values by dotted name, each with a description of its origin.

    Returns
    -------
    Experiment
        Checked, but without having looked at any data.

    Raises
    ------
    ConfigError
        If a name is unknown, a file cannot be read, or a key or value is wrong: names file, line, key and remedy.
    BackboneError
        If there is no such backbone or its sizes do not fit.

    Examples
    --------
    >>> experiment = compose(model="deepfm", data="demo", assignments=["training.epochs=1"])
    >>> experiment.training.epochs, experiment.training.batch_size
    (1, 128)
    """
    layers = [_read(zoo_folder() / "base.yaml", f"{FOLDER}/base.yaml")]
    if config is not None:
        if model or data or setting:
            raise ConfigError("a config file names model, data and setting itself; leave these out, or change keys.")
        layers.append(_read(Path(config), str(config)))
    else:
        if not model or not data:
            missing = "data set" if model else "model"
            raise ConfigError(f"no {missing} is named; give both, or a config file (`sllmr train --list` names them).")
        layers += [_zoo_file("settings", setting)] if setting else []
        layers += [_zoo_file("data", data), _model_file(model)]
    assigned = [check_settings(read_assignment(text)) for text in assignments]
    settings: dict[str, Setting] = {}
    for layer in [*layers, *assigned, check_settings(overrides or {})]:
        settings |= layer
    origins = {key: setting.origin for key, setting in settings.items()}
    experiment = Experiment(**build(settings), origins=origins)
    _check_start(Mode.of(experiment.mode), [key for layer in assigned for key in layer])
    return experiment


def _check_start(mode: Mode, given: Sequence[str]) -> None:
    """Refuse keys of the start that the mode does not read; those of files are for whatever mode is chosen."""
    fields = [key.removeprefix("start.") for key in given if key.startswith("start.")]
    if fields and not mode.needs("vectors"):
        raise ConfigError(
            f"start.{fields[0]} is for modes that read vectors of the items, and {mode.name} does not. Set run.mode to "
            "one, such as init or init+gated, or leave the key out."
        )
    check_start_fields([mode], [field for field in fields if field not in ("source", "sha256")])


def _read(path: Path, name: str) -> dict[str, Setting]:
    return check_settings(read_file(path, name))


def _zoo_file(kind: str, given: str) -> dict[str, Setting]:
    found = find_file(kind, given)
    if found is None:
        raise unknown_name(kind, given)
    return _read(*found)


def _model_file(given: str) -> dict[str, Setting]:
    """Read a model's file; a backbone without one has DeepCTR-Torch's own settings."""
    found = find_file("models", given)
    if found is not None:
        return _read(*found)
    check_backbone(given, embedding_dim=1 << 10)  # a size that fits all: only the name is in question here
    return {"model.backbone": Setting(given.lower(), f"--model {given}")}
