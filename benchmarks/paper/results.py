"""What finished runs came to: AUC with intervals and gains, by data set, backbone, mode and stratum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sllmr_plugin.evaluation.differences import BASELINE, Difference, Level, auc_levels, differences_to_plain
from sllmr_plugin.evaluation.modes import Mode
from sllmr_plugin.evaluation.pooled import POOLED
from sllmr_plugin.evaluation.run import RunResult
from sllmr_plugin.evaluation.store import RunFolder

from .paper import STRATA
from .plan import PlannedRun


@dataclass
class DataResults:
    """Finished runs on one data set.

    Attributes
    ----------
    data : str
        Name of the data set, as it was asked for.
    runs : list of (PlannedRun, RunResult)
        Every finished run.
    levels : dict of (str, str, str) to Level
        Backbone, mode, stratum (``all``, ``cold``, ``tail``) -> AUC.
    gains : dict of (str, str, str) to Difference
        The same -> difference to the plain model.
    additions : dict of (str, str, str) to Difference
        The same, of combined modes -> difference to what they add to: of ``init+gated`` to ``init``.
    pooled : dict of (str, str, str) to dict of int to float
        The same -> seed -> pooled AUC over labelled rows; empty unless the runs are under protocol ``llm-cf``.
    untrained : dict of str to dict of str to float
        What needs no training, by name, see `rank_untrained`. A run that reads LLM-written texts joins these to the
        titles, so that content is taken from another run where there is one.
    content_of : str
        Which texts ``content`` is of; empty without it.
    inputs : dict or None
        What was trained on and how the scores were made, of a run that read scores if there is one.
    texts : dict or None
        Which texts there were, of a run that read some.
    """

    data: str
    runs: list[tuple[PlannedRun, RunResult]] = field(default_factory=list)
    levels: dict[tuple[str, str, str], Level] = field(default_factory=dict)
    gains: dict[tuple[str, str, str], Difference] = field(default_factory=dict)
    additions: dict[tuple[str, str, str], Difference] = field(default_factory=dict)
    pooled: dict[tuple[str, str, str], dict[int, float]] = field(default_factory=dict)
    untrained: dict[str, dict[str, float]] = field(default_factory=dict)
    content_of: str = ""
    inputs: dict[str, Any] | None = None
    texts: dict[str, Any] | None = None

    @property
    def first(self) -> RunResult:
        """A run, for what holds of all."""
        return self.runs[0][1]


def collect(done: Sequence[PlannedRun]) -> list[DataResults]:
    """Read finished runs and average them.

    Parameters
    ----------
    done : sequence of PlannedRun
        Runs that are there.

    Returns
    -------
    list of DataResults
        One a data set.
    """
    by_data = {run.data: DataResults(run.data) for run in done}
    rankings: dict[tuple[str, str], dict] = {}
    untrained: list[tuple[bool, DataResults, dict[str, dict[str, float]]]] = []
    for run in done:
        folder, results = RunFolder(run.folder, None), by_data[run.data]
        finished = folder.runs[run.key]
        results.runs.append((run, finished))
        for stratum, name in zip(STRATA, POOLED, strict=True):
            if run.experiment.training.is_llm_cf:
                results.pooled.setdefault((run.backbone, run.mode, stratum), {})[run.seed] = finished.metrics[name]
        rankings.setdefault((run.data, run.backbone), {})[run.mode, run.seed] = folder.ranking(run.key)
        if results.inputs is None or (run.experiment.reads == ("scores",) and not results.inputs["scores"]["n_read"]):
            results.inputs = folder.inputs
        results.texts = results.texts or (folder.inputs or {}).get("texts")
        reads_texts = Mode.of(run.mode).needs("texts")
        untrained.append((reads_texts, results, folder.untrained))
    for (data, backbone), of_backbone in rankings.items():
        for level in auc_levels(backbone, of_backbone):
            by_data[data].levels[backbone, level.mode, level.stratum] = level
        for gain in differences_to_plain(backbone, of_backbone):
            of_baseline = by_data[data].gains if gain.baseline == BASELINE else by_data[data].additions
            of_baseline[backbone, gain.mode, gain.stratum] = gain
    for reads_texts, results, found in sorted(untrained, key=lambda entry: entry[0]):  # of titles alone first
        if "content" in found and "content" not in results.untrained:
            results.content_of = "titles and LLM-written texts" if reads_texts else "titles"
        results.untrained = {**found, **results.untrained}
    return list(by_data.values())
