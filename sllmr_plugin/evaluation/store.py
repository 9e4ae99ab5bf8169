"""The store of results: a folder with what its runs depend on, where every finished run or trial is kept at once.

`RunFolder` keeps the runs of a comparison, `TrialFolder` those of a search. Both go on where they stopped, and neither
mixes results of different settings.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..config import SelectiveConfig
from ..datasets.interactions import Interactions
from ..errors import ConfigError, RunFolderError
from ..scores.table import ScoreTable
from .comparison import Comparison
from .differences import Difference, StratumAuc, auc_by_label, differences_to_plain
from .run import RunResult, replace_nan
from .trials import Trial, TrialRun
from .untrained import UNTRAINED


def read_json(path: Path) -> Any:
    """Read a JSON file; `RunFolderError` if that cannot be done."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); choose another folder or delete it.") from None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; NaN is refused, since JSON lacks it."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file so that a reader, or a crash, never meets half of it."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)


def changes(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Name every setting that differs between those read from a file and those wanted, ``outer.inner`` if nested."""
    wanted = json.loads(json.dumps(wanted))  # tuples read back as lists
    found = []
    for name in {**wanted, **there}:
        before, now = there.get(name), wanted.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += [f"{name}.{change}" for change in changes(before, now)]
        elif before != now:
            found.append(f"{name} was {before}, now {now}")
    return found


def digest(*arrays: np.ndarray) -> str:
    """Return a fingerprint of arrays, so that a folder tells other data apart."""
    fingerprint = hashlib.sha256()
    for array in arrays:
        fingerprint.update(repr((array.shape, str(array.dtype))).encode())
        fingerprint.update(np.ascontiguousarray(array).tobytes())
    return fingerprint.hexdigest()[:16]


def score_digest(scores: ScoreTable) -> str:
    """Return a fingerprint of a score table."""
    return digest(
        *(
            part.numpy()
            for group in (scores.candidates, scores.probes)
            for part in (group.users, group.offsets, group.items, group.scores)
        )
    )


def attribute_digest(data: Interactions) -> dict[str, Any]:
    """Return fingerprints of the attributes of items that models read, under one key; nothing without attributes."""
    if not data.attributes:
        return {}
    return {
        "attributes": {
            name: digest(np.frombuffer("\0".join(attribute.values).encode(), dtype=np.uint8), attribute.codes)
            for name, attribute in data.attributes.items()
        }
    }


class ResultFolder:
    """A folder of results that goes on where it stopped, and refuses to mix results of different settings.

    Parameters
    ----------
    path : path
        Made if it does not exist.
    settings : mapping or None
        All that the results depend on but their keys; plain JSON values. None opens a folder that exists, to read it.
    overwrite : bool, default=False
        Drop results made with other settings instead of refusing them.

    Raises
    ------
    RunFolderError
        If the folder holds results made with other settings, of an older format or files that cannot be read, or
        cannot be written, or there are none to open.
    """

    FORMAT: ClassVar[int]
    """Number of the layout of the results file."""
    FILE: ClassVar[str]
    """Name of the results file."""
    WHAT: ClassVar[str]
    """What it holds, in an error."""

    def __init__(self, path: str | Path, settings: Mapping[str, Any] | None, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        if settings is None:
            if not self.results_file.exists():
                raise RunFolderError(f"{self.path} has no {self.FILE}; give the folder of {self.WHAT}.")
            self._read()
            return
        there = read_json(self.settings_file) if self.settings_file.exists() else {}
        different = changes(there, settings)
        if self.results_file.exists():
            outdated = self._outdated(read_json(self.results_file))
            if overwrite and (different or outdated):
                self._clear()
            elif different and not outdated:
                raise RunFolderError(
                    f"{self.path} holds runs made with other settings ({'; '.join(different)}); "
                    "choose another folder or delete this one."
                )
            else:
                self._read()
        elif there and different:
            self._clear()  # beside a first run that did not finish lies what was written before it
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._prepare()
            write_json(self.settings_file, dict(settings))
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written ({error}); choose another folder.") from None

    @property
    def results_file(self) -> Path:
        """The results, as a JSON object."""
        return self.path / self.FILE

    @property
    def settings_file(self) -> Path:
        """The settings, as a JSON object."""
        return self.path / "settings.json"

    @property
    def settings(self) -> dict[str, Any]:
        """What the results depend on."""
        found: dict[str, Any] = read_json(self.settings_file)
        return found

    def _save(self) -> None:
        write_json(self.results_file, {"format": self.FORMAT, **self._content()})

    def _read(self) -> None:
        content = read_json(self.results_file)
        if self._outdated(content):
            raise RunFolderError(
                f"{self.results_file} is not of format {self.FORMAT} but of another version; choose another folder or "
                "delete this one, and make the runs again."
            )
        try:
            self._load(content)
        except (TypeError, KeyError, AttributeError, ValueError, ConfigError) as error:
            raise RunFolderError(
                f"{self.results_file}: not the results of {self.WHAT} ({error}); choose another folder."
            ) from None

    def _outdated(self, content: Any) -> bool:
        return isinstance(content, list) or (isinstance(content, dict) and content.get("format") != self.FORMAT)

    def _clear(self) -> None:
        # Before the settings change, so that old results never pass for new ones.
        self.results_file.unlink(missing_ok=True)

    def _prepare(self) -> None:
        """Make what lies in the folder; for subclasses."""

    def _content(self) -> dict[str, Any]:
        """Return the results as plain JSON values; for subclasses."""
        raise NotImplementedError

    def _load(self, content: Any) -> None:
        """Take the results that `_content` returned; for subclasses."""
        raise NotImplementedError


class RunFolder(ResultFolder):
    """Finished runs on disk; a run is there as soon as it is added.

    ``results.json`` holds the runs, the differences to the plain model, the AUC by label and all that a report
    shows; ``settings.json`` what the runs depend on; ``inputs.json`` counts of the data and the scores;
    ``reliability.json`` the LLM beside a plain model; ``rankings/`` the AUC of every test interaction, a parquet file
    a run and one for each that needs no training; ``labels.parquet`` the user's strata, if there are any;
    ``examples.json`` a few users and what each backbone and mode would show them.

    It is opened as every `ResultFolder`.

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
    """

    FORMAT = 2  # 1 was a plain list of runs without rankings
    FILE = "results.json"
    WHAT = "a comparison"

    def __init__(self, path: str | Path, settings: Mapping[str, Any] | None, *, overwrite: bool = False) -> None:
        self.runs: dict[tuple[str, str, int], RunResult] = {}
        self.differences: list[Difference] = []
        self.strata: list[StratumAuc] = []
        self.untrained: dict[str, dict[str, float]] = {}
        self.report: dict[str, Any] | None = None
        super().__init__(path, settings, overwrite=overwrite)

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
    def _examples_file(self) -> Path:
        return self.path / "examples.json"

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

    def comparison(self, keys: Sequence[tuple[str, str, int]]) -> Comparison:
        """Compare runs: differences to the plain model, and AUC by the user's labels.

        Parameters
        ----------
        keys : sequence of (str, str, int)
            Backbone, mode and seed of the runs.

        Returns
        -------
        Comparison
            The runs in the order of `keys`.
        """
        labels = self.labels()
        found = Comparison([self.runs[key] for key in keys], untrained=self.untrained)
        for backbone in dict.fromkeys(key[0] for key in keys):
            rankings = {key[1:]: self.ranking(key) for key in keys if key[0] == backbone}
            found.differences.extend(differences_to_plain(backbone, rankings, labels))
            if labels is not None:
                found.strata.extend(auc_by_label(backbone, rankings, labels))
        return found

    def set_comparison(self, differences: Sequence[Difference], strata: Sequence[StratumAuc]) -> None:
        """Write what follows from the runs; a report of them is dropped."""
        self.differences, self.strata, self.report = list(differences), list(strata), None
        self._save()

    def set_untrained(
        self, untrained: Mapping[str, Mapping[str, float]], rankings: Mapping[str, pd.DataFrame] | None = None
    ) -> None:
        """Keep what needs no training; written with the runs, as a folder without any has no results.

        Parameters
        ----------
        untrained : mapping of str to mapping of str to float
            As `rank_untrained` returns it.
        rankings : mapping of str to DataFrame, optional
            Name -> its ranking, as `RunResult.ranking` describes it.
        """
        for name, ranking in (rankings or {}).items():
            write_whole(self._untrained_file(name), ranking.to_parquet)
        self.untrained = {name: dict(values) for name, values in untrained.items()}
        if self.runs:
            self._save()

    def untrained_rankings(self) -> dict[str, pd.DataFrame]:
        """Read the rankings of what needs no training, by name; none in folders made before they were kept."""
        return {
            name: _read_parquet(self._untrained_file(name))
            for name in self.untrained
            if self._untrained_file(name).exists()
        }

    def set_report(self, report: Mapping[str, Any]) -> None:
        """Write what a report shows; plain JSON values."""
        self.report = dict(report)
        self._save()

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

    @property
    def examples(self) -> dict[str, Any]:
        """``users``, as `describe_examples` has them, and ``runs``, of `rank_examples`; empty if there are none."""
        return read_json(self._examples_file) if self._examples_file.exists() else {}

    def set_examples(self, users: Sequence[Mapping[str, Any]]) -> None:
        """Write who the examples are; what was ranked for these very users before stays."""
        there = self.examples
        runs = there["runs"] if there.get("users") == list(users) else []
        write_json(self._examples_file, {"users": list(users), "runs": runs})

    def add_examples(self, backbone: str, mode: str, seed: int, ranked: Sequence[Mapping[str, Any]]) -> None:
        """Write what a run shows to the examples, unless another seed of it is there."""
        content = self.examples
        if all((run["backbone"], run["mode"]) != (backbone, mode) for run in content["runs"]):
            content["runs"].append({"backbone": backbone, "mode": mode, "seed": seed, "ranked": list(ranked)})
            write_json(self._examples_file, content)

    def labels(self) -> pd.DataFrame | None:
        """Read the user's strata, if there are any."""
        return _read_parquet(self.labels_file) if self.labels_file.exists() else None

    def set_labels(self, labels: pd.DataFrame) -> None:
        """Write the user's strata, instead of those written before."""
        write_whole(self.labels_file, labels.to_parquet)

    def _ranking_file(self, key: tuple[str, str, int]) -> Path:
        backbone, mode, seed = key
        return self._rankings / f"{backbone}-{mode}-seed{seed}.parquet"

    def _untrained_file(self, name: str) -> Path:
        return self._rankings / f"untrained-{name}.parquet"

    def _prepare(self) -> None:
        self._rankings.mkdir(exist_ok=True)

    def _content(self) -> dict[str, Any]:
        return {
            "runs": [run.to_json() for run in self.runs.values()],
            "differences": [difference.to_json() for difference in self.differences],
            "strata": [asdict(stratum) for stratum in self.strata],
            **replace_nan(self.untrained),
            **({"report": self.report} if self.report is not None else {}),
        }

    def _load(self, content: Any) -> None:
        self.runs = {run.key: run for run in map(RunResult.from_json, content["runs"])}
        self.differences = [Difference.from_json(values) for values in content["differences"]]
        self.strata = [StratumAuc(**values) for values in content["strata"]]
        self.report = content.get("report")
        self.untrained = {
            name: {key: float("nan") if value is None else value for key, value in content[name].items()}
            for name in UNTRAINED
            if name in content
        }
        missing = [str(self._ranking_file(key)) for key in self.runs if not self._ranking_file(key).exists()]
        if missing:
            raise RunFolderError(
                f"{missing[0]} is missing, which the runs in {self.results_file} need; restore it or delete the folder."
            )

    def _clear(self) -> None:
        super()._clear()
        for file in self._rankings.glob("*.parquet"):
            file.unlink()
        for file in (
            self.labels_file,
            self._inputs_file,
            self._reliability_file,
            self._examples_file,
            self.report_file,
        ):
            file.unlink(missing_ok=True)


class TrialFolder(ResultFolder):
    """Finished trainings of a search on disk: ``trials.json`` and the settings of the search.

    It is opened as every `ResultFolder`; the settings do not include the numbers of trials and seeds.
    """

    FORMAT = 2  # 1 had the settings in the same file
    FILE = "trials.json"
    WHAT = "a search"

    def __init__(self, path: str | Path, settings: Mapping[str, Any] | None) -> None:
        self._trials: dict[int, Trial] = {}
        super().__init__(path, settings)

    def with_runs(self, trial: Trial, seeds: Sequence[int]) -> Trial:
        """Return a trial with what there is of these seeds."""
        there = {run.seed: run for run in self._trials.get(trial.number, trial).runs}
        return replace(trial, runs=tuple(there[seed] for seed in seeds if seed in there))

    def add(self, trial: Trial, run: TrialRun) -> None:
        """Add a finished run of a trial and write it."""
        before = self._trials.get(trial.number, replace(trial, runs=())).runs
        self._trials[trial.number] = replace(trial, runs=(*before, run))
        self._save()

    def _content(self) -> dict[str, Any]:
        return {
            "trials": [
                {
                    "number": trial.number,
                    "config": trial.config.to_dict(),
                    **({"parts": list(trial.parts), "scale": trial.scale} if trial.parts else {}),
                    "runs": [asdict(run) for run in trial.runs],
                }
                for trial in sorted(self._trials.values(), key=lambda trial: trial.number)
            ]
        }

    def _load(self, content: Any) -> None:
        trials = [
            Trial(
                values["number"],
                SelectiveConfig.from_dict(values["config"]),
                tuple(TrialRun(**run) for run in values["runs"]),
                tuple(values.get("parts", ())),
                values.get("scale"),
            )
            for values in content["trials"]
        ]
        self._trials = {trial.number: trial for trial in trials}


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); choose another folder or delete it.") from None
