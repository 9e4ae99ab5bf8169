"""The folder of a comparison: finished runs on disk, together with the settings that they were made with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RunFolderError
from .run import RunResult


class RunFolder:
    """Finished runs in ``results.json``, beside ``settings.json``; a run is on disk as soon as it is added.

    Parameters
    ----------
    path : path
        Made if it does not exist.
    settings : mapping
        Everything but backbone, mode and seed that the numbers depend on; plain JSON values.
    overwrite : bool, default=False
        Drop runs made with other settings instead of refusing them.

    Raises
    ------
    RunFolderError
        If the folder holds runs made with other settings or files that cannot be read, or cannot be written.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.runs: dict[tuple[str, str, int], RunResult] = {}
        if self.results_file.exists():
            different = self._differences(settings)
            if not different:
                self.runs = {run.key: run for run in self._read_runs()}
            elif overwrite:
                self.results_file.unlink()  # before the settings change, lest old runs pass for new ones
            else:
                raise RunFolderError(
                    f"{self.path} holds runs made with other settings ({'; '.join(different)}); "
                    "choose another folder or delete this one."
                )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _write(self.settings_file, dict(settings))
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written ({error}); choose another folder.") from None

    @property
    def results_file(self) -> Path:
        """The runs, as a JSON list."""
        return self.path / "results.json"

    @property
    def settings_file(self) -> Path:
        """The settings, as a JSON object."""
        return self.path / "settings.json"

    def add(self, run: RunResult) -> None:
        """Add a finished run and write all of them."""
        self.runs[run.key] = run
        _write(self.results_file, [kept.to_json() for kept in self.runs.values()])

    def _differences(self, settings: Mapping[str, Any]) -> list[str]:
        there = _read(self.settings_file) if self.settings_file.exists() else {}
        wanted = json.loads(json.dumps(settings))  # tuples read back as lists
        return [
            f"{name} was {there.get(name)}, now {wanted.get(name)}"
            for name in {**wanted, **there}
            if wanted.get(name) != there.get(name)
        ]

    def _read_runs(self) -> list[RunResult]:
        try:
            return [RunResult.from_json(run) for run in _read(self.results_file)]
        except (TypeError, KeyError, AttributeError) as error:
            raise RunFolderError(
                f"{self.results_file}: not the results of a comparison ({error}); choose another folder."
            ) from None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); choose another folder or delete it.") from None


def _write(path: Path, content: Any) -> None:
    """Write JSON so that a reader, or a crash, never meets half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
