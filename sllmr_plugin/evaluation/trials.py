"""Trials of a search for settings, and the file that keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import SelectiveConfig
from ..errors import ConfigError, RunFolderError
from .folder_files import changes, read_json, write_json

FORMAT = 1
"""Number of the layout of ``trials.json``."""


@dataclass(frozen=True)
class TrialRun:
    """One training of a trial.

    Attributes
    ----------
    seed : int
        Of the weights and of everything random in training.
    auc : float
        Validation AUC of the kept epoch.
    epoch : int
        The epoch that was kept, counted from 1.
    seconds : float
        Time in ``fit``.
    """

    seed: int
    auc: float
    epoch: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """One config, trained with one or more seeds.

    Attributes
    ----------
    number : int
        Place in the search; 0 is the plain model, 1 the default config.
    config : SelectiveConfig
        What was tried.
    runs : tuple of TrialRun
        By seed.
    """

    number: int
    config: SelectiveConfig
    runs: tuple[TrialRun, ...] = ()

    @property
    def auc(self) -> float:
        """Mean validation AUC over seeds."""
        return float(np.mean([run.auc for run in self.runs]))

    @property
    def auc_sd(self) -> float | None:
        """Standard deviation over seeds, n - 1 in the denominator; None with one seed."""
        return _deviation([run.auc for run in self.runs])

    def minus(self, other: Trial) -> tuple[float, float | None]:
        """Return the mean difference in validation AUC to a trial of the same seeds, and its deviation over them."""
        pairs = zip(self.runs, other.runs, strict=True)
        differences = [mine.auc - theirs.auc for mine, theirs in pairs]
        return float(np.mean(differences)), _deviation(differences)


class TrialFile:
    """``trials.json``: the settings of a search and its finished runs, written after every run.

    Parameters
    ----------
    folder : path
        Made if it does not exist.
    settings : mapping
        All that the numbers depend on but the numbers of trials and seeds; plain JSON values.

    Raises
    ------
    RunFolderError
        If the file holds trials made with other settings or cannot be read, or the folder cannot be written.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(folder) / "trials.json"
        self._settings = dict(settings)
        self._trials: dict[int, Trial] = {}
        if self.path.exists():
            self._load()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._save()
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be written ({error}); choose another folder.") from None

    def trial(self, number: int, config: SelectiveConfig, seeds: Sequence[int]) -> Trial:
        """Return what there is of a trial with these seeds."""
        there = {run.seed: run for run in self._trials.get(number, Trial(number, config)).runs}
        return Trial(number, config, tuple(there[seed] for seed in seeds if seed in there))

    def add(self, number: int, config: SelectiveConfig, run: TrialRun) -> None:
        """Add a finished run and write it."""
        before = self._trials.get(number, Trial(number, config)).runs
        self._trials[number] = Trial(number, config, (*before, run))
        self._save()

    def _save(self) -> None:
        trials = [
            {"number": trial.number, "config": trial.config.to_dict(), "runs": [asdict(run) for run in trial.runs]}
            for trial in sorted(self._trials.values(), key=lambda trial: trial.number)
        ]
        write_json(self.path, {"format": FORMAT, "settings": self._settings, "trials": trials})

    def _load(self) -> None:
        content = read_json(self.path)
        try:
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']} instead of {FORMAT}")
            different = changes(content["settings"], self._settings)
            trials = [
                Trial(
                    values["number"],
                    SelectiveConfig.from_dict(values["config"]),
                    tuple(TrialRun(**run) for run in values["runs"]),
                )
                for values in content["trials"]
            ]
        except (TypeError, KeyError, AttributeError, ValueError, ConfigError) as error:
            raise RunFolderError(
                f"{self.path}: not the trials of a search that this version can go on with ({error}); choose another "
                "folder or delete this one."
            ) from None
        if different:
            raise RunFolderError(
                f"{self.path} holds trials made with other settings ({'; '.join(different)}); choose another folder "
                "or delete this one."
            )
        self._trials = {trial.number: trial for trial in trials}


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
