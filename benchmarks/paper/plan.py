"""A planned run: its experiment, its folder, the command that makes it, and whether it is there already."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

from sllmr_plugin.errors import MissingDataError, RunFolderError
from sllmr_plugin.evaluation.modes import Mode
from sllmr_plugin.evaluation.store import RunFolder, read_json, write_json
from sllmr_plugin.experiments.data import fingerprint
from sllmr_plugin.experiments.experiment import Experiment, compose
from sllmr_plugin.experiments.files import Setting
from sllmr_plugin.experiments.running import FILE

from .reproduction import Reproduction, applies

_TIME = "process.json"


@dataclass(frozen=True)
class PlannedRun:
    """One backbone on one data set in one mode with one seed.

    Attributes
    ----------
    data, backbone, mode, seed : str, str, str, int
        Which run it is.
    experiment : Experiment
        Of this seed alone.
    folder : pathlib.Path
        Its run folder, named by a fingerprint of all that its figures depend on.
    command : tuple of str
        Makes the run, in a process of its own.
    """

    data: str
    backbone: str
    mode: str
    seed: int
    experiment: Experiment
    folder: Path
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.experiment.data.name} {self.backbone} {self.mode} seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the process wrote."""
        return self.folder.parent.parent / "logs" / f"{self.folder.name}.log"

    @property
    def key(self) -> tuple[str, str, int]:
        """Of the run in its folder."""
        return self.experiment.backbone, self.mode, self.seed

    def is_done(self) -> bool:
        """Whether the folder has the finished run.

        Raises
        ------
        RunFolderError
            If it was made with other files than those that are there now, or the folder cannot be read.
        """
        if not (self.folder / "results.json").exists() or self.key not in RunFolder(self.folder, None).runs:
            return False
        made = compose(config=self.folder / FILE)
        there = {**made.data.sha256, "start": made.start.sha256}
        try:
            now = self.experiment.data.files(self.experiment.reads)
        except MissingDataError:  # finished runs can be laid out without their data
            return True
        vectors = self.experiment.start.file
        if there["start"] and vectors is not None and vectors.is_file():
            now["start"] = vectors
        for name, path in now.items():
            if there.get(name, "") != _fingerprint(path, path.stat().st_mtime_ns):
                raise RunFolderError(
                    f"{self.folder} was made with another {path.name} than {path}; restore the file, or choose another "
                    "--out."
                )
        return True

    def has_files(self) -> bool:
        """Whether all files that the run needs are there."""
        try:
            self.experiment.data.files(self.experiment.reads)
        except MissingDataError:
            return False
        return True

    @property
    def seconds(self) -> float | None:
        """How long the finished run's process took; None if nobody timed it."""
        path = self.folder / _TIME
        return float(read_json(path)["seconds"]) if path.exists() else None

    def keep_seconds(self, seconds: float) -> None:
        """Keep how long the process took."""
        write_json(self.folder / _TIME, {"seconds": round(seconds, 1)})


@functools.cache
def _fingerprint(path: Path, changed: int) -> str:
    """Return the SHA-256 of a file; that of hundreds of runs' same file is taken once."""
    return fingerprint(path)


def plan_runs(reproduction: Reproduction, out: Path) -> list[PlannedRun]:
    """Compose the experiments of all runs that a reproduction needs.

    Parameters
    ----------
    reproduction : Reproduction
        What is to be reproduced.
    out : pathlib.Path
        Gets a run folder a run, below ``runs``.

    Returns
    -------
    list of PlannedRun
        In the order in which they are to be made.

    Raises
    ------
    ConfigError, BackboneError
        If a key or value does not fit; names the place that it comes from.
    """
    return [_planned_run(reproduction, out, *run) for run in reproduction.runs()]


def _planned_run(reproduction: Reproduction, out: Path, data: str, backbone: str, mode: str, seed: int) -> PlannedRun:
    how = Mode.of(mode)
    assignments = [text for text in reproduction.assignments if applies(text, how)]
    if reproduction.initialise is not None and how.needs("vectors"):
        assignments.append(f"start.source={reproduction.initialise}")
    assignments.append(f"run.mode={mode}")
    overrides = {"run.seeds": Setting([seed], "--seeds")}
    if reproduction.data_dir is not None:
        overrides["data.root"] = Setting(reproduction.data_dir, "--data-dir")
    experiment = compose(
        model=backbone, data=data, setting=reproduction.setting, assignments=assignments, overrides=overrides
    )
    folder = out / "runs" / f"{experiment.name}-seed{seed}"
    command = [sys.executable, "-m", "sllmr_plugin", "train", "--model", backbone, "--data", data]
    command += ["--setting", reproduction.setting] if reproduction.setting else []
    command += ["--data-dir", reproduction.data_dir] if reproduction.data_dir is not None else []
    for assignment in assignments:
        command += ["-o", assignment]
    command += ["--seed", str(seed), "--out", str(folder)]
    return PlannedRun(data, backbone, mode, seed, experiment, folder, tuple(command))
