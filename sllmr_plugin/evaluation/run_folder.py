"""The folder of a comparison: finished runs, their rankings and what follows from them, with the settings behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import RunFolderError
from .differences import Difference, StratumAuc
from .folder_files import changes, read_json, write_json, write_whole
from .run import RunResult

FORMAT = 2
"""Number of the layout of a run folder; 1 was a plain list of runs without rankings."""


class RunFolder:
    """Finished runs on disk; a run is there as soon as it is added.

    ``results.json`` holds the runs, the differences to the plain model and the AUC by label; ``settings.json``
    what they depend on; ``rankings/`` the AUC of every test interaction, a parquet file a run; ``labels.parquet``
    the user's strata, if there are any.

    Parameters
    ----------
    path : path
        Made if it does not exist.
    settings : mapping or None
        Everything but backbone, mode and seed that the numbers depend on; plain JSON values. None opens a folder
        that exists, to read it.
    overwrite : bool, default=False
        Drop runs made with other settings instead of refusing them.

    Attributes
    ----------
    runs : dict of (str, str, int) to RunResult
        By backbone, mode and seed, without their rankings.
    differences : list of Difference
        Of all runs; empty while a comparison is unfinished.
    strata : list of StratumAuc
        Of all runs; empty while a comparison is unfinished, and without labels.

    Raises
    ------
    RunFolderError
        If the folder holds runs made with other settings, of an older format or files that cannot be read, or
        cannot be written, or there is none to open.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any] | None, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.runs: dict[tuple[str, str, int], RunResult] = {}
        self.differences: list[Difference] = []
        self.strata: list[StratumAuc] = []
        if settings is None:
            if not self.results_file.exists():
                raise RunFolderError(f"{self.path} holds no results.json; give the folder of a comparison.")
            self._load()
            return
        if self.results_file.exists():
            content = read_json(self.results_file)
            there = read_json(self.settings_file) if self.settings_file.exists() else {}
            different = changes(there, settings)
            if overwrite and (different or _is_outdated(content)):
                self._clear()
            else:
                self._refuse_outdated(content)
                if different:
                    raise RunFolderError(
                        f"{self.path} holds runs made with other settings ({'; '.join(different)}); "
                        "choose another folder or delete this one."
                    )
                self._load()
        try:
            self._rankings.mkdir(parents=True, exist_ok=True)
            write_json(self.settings_file, dict(settings))
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written ({error}); choose another folder.") from None

    @property
    def results_file(self) -> Path:
        """Runs, differences and strata, as a JSON object."""
        return self.path / "results.json"

    @property
    def settings_file(self) -> Path:
        """The settings, as a JSON object."""
        return self.path / "settings.json"

    @property
    def labels_file(self) -> Path:
        """The user's strata of the test interactions."""
        return self.path / "labels.parquet"

    @property
    def _rankings(self) -> Path:
        return self.path / "rankings"

    def add(self, run: RunResult) -> None:
        """Add a finished run with its ranking, and write both; what followed from the runs before is dropped."""
        if run.ranking is None:
            raise RunFolderError(f"the run {run.key} comes without its ranking; add what train_and_rank returns.")
        write_whole(self._ranking_file(run.key), run.ranking.to_parquet)
        self.runs[run.key] = replace(run, ranking=None)
        self.differences, self.strata = [], []
        self._save()

    def ranking(self, key: tuple[str, str, int]) -> pd.DataFrame:
        """Read the ranking of a run: a row a test interaction, as `RunResult.ranking` describes it."""
        return _read_parquet(self._ranking_file(key))

    def set_comparison(self, differences: Sequence[Difference], strata: Sequence[StratumAuc]) -> None:
        """Write what follows from the runs."""
        self.differences, self.strata = list(differences), list(strata)
        self._save()

    def labels(self) -> pd.DataFrame | None:
        """Read the user's strata, if there are any."""
        return _read_parquet(self.labels_file) if self.labels_file.exists() else None

    def set_labels(self, labels: pd.DataFrame) -> None:
        """Write the user's strata, in the place of those before."""
        write_whole(self.labels_file, labels.to_parquet)

    def _ranking_file(self, key: tuple[str, str, int]) -> Path:
        backbone, mode, seed = key
        return self._rankings / f"{backbone}-{mode}-seed{seed}.parquet"

    def _save(self) -> None:
        content = {
            "format": FORMAT,
            "runs": [run.to_json() for run in self.runs.values()],
            "differences": [difference.to_json() for difference in self.differences],
            "strata": [asdict(stratum) for stratum in self.strata],
        }
        write_json(self.results_file, content)

    def _load(self) -> None:
        content = read_json(self.results_file)
        self._refuse_outdated(content)
        try:
            self.runs = {run.key: run for run in map(RunResult.from_json, content["runs"])}
            self.differences = [Difference.from_json(values) for values in content["differences"]]
            self.strata = [StratumAuc(**values) for values in content["strata"]]
        except (TypeError, KeyError, AttributeError) as error:
            raise RunFolderError(
                f"{self.results_file}: not the results of a comparison ({error}); choose another folder."
            ) from None
        missing = [str(self._ranking_file(key)) for key in self.runs if not self._ranking_file(key).exists()]
        if missing:
            raise RunFolderError(
                f"{missing[0]} is missing, which the runs in {self.results_file} need; restore it or delete the folder."
            )

    def _refuse_outdated(self, content: Any) -> None:
        if _is_outdated(content):
            raise RunFolderError(
                f"{self.results_file} is not of format {FORMAT}, which also keeps every ranking, but of another "
                "version; choose another folder or delete this one, and make the runs anew."
            )

    def _clear(self) -> None:
        self.results_file.unlink()  # before the settings change, lest old runs pass for new ones
        for file in self._rankings.glob("*.parquet"):
            file.unlink()
        self.labels_file.unlink(missing_ok=True)


def _is_outdated(content: Any) -> bool:
    return isinstance(content, list) or (isinstance(content, dict) and content.get("format") != FORMAT)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); choose another folder or delete it.") from None
