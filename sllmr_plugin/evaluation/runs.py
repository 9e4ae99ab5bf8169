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
from .run import RunResult, replace_nan
from .untrained import UNTRAINED

FORMAT = 2
"""Number of the layout of a run folder; 1 was a plain list of runs without rankings."""


class RunFolder:
    """Finished runs on disk; a run is there as soon as it is added.

    ``results.json`` holds the runs, the differences to the plain model, the AUC by label and all that a report
    shows; ``settings.json`` what the runs depend on; ``inputs.json`` counts of the data and the scores;
    ``reliability.json`` the LLM beside a plain model; ``rankings/`` the AUC of every test interaction, a parquet file
    a run; ``labels.parquet`` the user's strata, if there are any.

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
    untrained : dict of str to dict of str to float
        What `rank_untrained` found, by name; empty until then. In ``results.json`` each stands under its name.
    report : dict or None
        What `sllmr_plugin.report.summary.summarise` made of the runs; None until then.

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
        self.untrained: dict[str, dict[str, float]] = {}
        self.report: dict[str, Any] | None = None
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
    def report_file(self) -> Path:
        """The page about the runs."""
        return self.path / "report.html"

    @property
    def labels_file(self) -> Path:
        """The user's strata of the test interactions."""
        return self.path / "labels.parquet"

    @property
    def _inputs_file(self) -> Path:
        return self.path / "inputs.json"

    @property
    def _reliability_file(self) -> Path:
        return self.path / "reliability.json"

    @property
    def _rankings(self) -> Path:
        return self.path / "rankings"

    def add(self, run: RunResult) -> None:
        """Add a finished run with its ranking, and write both; what followed from the runs before is dropped."""
        if run.ranking is None:
            raise RunFolderError(f"the run {run.key} comes without its ranking; add what train_and_rank returns.")
        write_whole(self._ranking_file(run.key), run.ranking.to_parquet)
        self.runs[run.key] = replace(run, ranking=None)
        self.differences, self.strata, self.report = [], [], None
        self._save()

    def ranking(self, key: tuple[str, str, int]) -> pd.DataFrame:
        """Read the ranking of a run: a row a test interaction, as `RunResult.ranking` describes it."""
        return _read_parquet(self._ranking_file(key))

    def set_comparison(self, differences: Sequence[Difference], strata: Sequence[StratumAuc]) -> None:
        """Write what follows from the runs; a report of them is dropped."""
        self.differences, self.strata, self.report = list(differences), list(strata), None
        self._save()

    def set_untrained(self, untrained: Mapping[str, Mapping[str, float]]) -> None:
        """Keep what needs no training; written with the runs, as a folder without any has no results."""
        self.untrained = {name: dict(values) for name, values in untrained.items()}
        if self.runs:
            self._save()

    def set_report(self, report: Mapping[str, Any]) -> None:
        """Write what a report shows; plain JSON values."""
        self.report = dict(report)
        self._save()

    @property
    def settings(self) -> dict[str, Any]:
        """What the runs depend on."""
        return read_json(self.settings_file)

    @property
    def inputs(self) -> dict[str, Any] | None:
        """What `describe_inputs` says of the data and the scores; None in folders made before it was kept."""
        return read_json(self._inputs_file) if self._inputs_file.exists() else None

    def set_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Write what the data and the scores are."""
        write_json(self._inputs_file, dict(inputs))

    @property
    def reliability(self) -> dict[str, Any] | None:
        """The LLM beside a plain model, as `Reliability.content` has it; None if it was not measured."""
        return read_json(self._reliability_file) if self._reliability_file.exists() else None

    def set_reliability(self, content: Mapping[str, Any]) -> None:
        """Write the LLM beside a plain model."""
        write_json(self._reliability_file, dict(content))

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
            **replace_nan(self.untrained),
            **({"report": self.report} if self.report is not None else {}),
        }
        write_json(self.results_file, content)

    def _load(self) -> None:
        content = read_json(self.results_file)
        self._refuse_outdated(content)
        try:
            self.runs = {run.key: run for run in map(RunResult.from_json, content["runs"])}
            self.differences = [Difference.from_json(values) for values in content["differences"]]
            self.strata = [StratumAuc(**values) for values in content["strata"]]
            self.report = content.get("report")
            self.untrained = {
                name: {key: float("nan") if value is None else value for key, value in content[name].items()}
                for name in UNTRAINED
                if name in content
            }
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
        for file in (self.labels_file, self._inputs_file, self._reliability_file, self.report_file):
            file.unlink(missing_ok=True)


def _is_outdated(content: Any) -> bool:
    return isinstance(content, list) or (isinstance(content, dict) and content.get("format") != FORMAT)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); choose another folder or delete it.") from None
