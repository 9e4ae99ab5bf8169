"""Which planned runs are done, which can be made, and which lack files; how long the rest will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sllmr_plugin.errors import MissingDataError

from .plan import PlannedRun


@dataclass(frozen=True)
class Skipped:
    """Runs of a data set that lack files.

    Attributes
    ----------
    runs : list of PlannedRun
        Not made.
    """

    runs: list[PlannedRun]

    @property
    def remedy(self) -> str:
        """Which files are missing, and the commands that make them."""
        needed = dict.fromkeys(name for run in self.runs for name in run.experiment.reads)
        try:
            self.runs[0].experiment.data.files(tuple(needed))
        except MissingDataError as error:
            return str(error)
        return "the files are there by now; give the command again."

    def __str__(self) -> str:
        modes = ", ".join(dict.fromkeys(run.mode for run in self.runs))
        return f"skipped {len(self.runs)} runs (mode {modes}): {self.remedy}"


@dataclass(frozen=True)
class State:
    """Planned runs by what can be done about them."""

    done: list[PlannedRun]
    to_do: list[PlannedRun]
    skipped: list[Skipped]

    def seconds_left(self, runs: Sequence[PlannedRun] | None = None) -> float | None:
        """Estimate the process time of runs from those that are done.

        Parameters
        ----------
        runs : sequence of PlannedRun, optional
            By default all that are to do.

        Returns
        -------
        float or None
            Seconds, if runs are made one after the other; None as long as no run of one of their data sets is done. A
            run takes what others of its data set, backbone and mode took, else those of its data set and backbone, else
            those of its data set.
        """
        times = [(run, run.seconds) for run in self.done]
        known = [(run, seconds) for run, seconds in times if seconds is not None]
        estimates = [_estimate(run, known) for run in (self.to_do if runs is None else runs)]
        total = sum(estimate for estimate in estimates if estimate is not None)
        return total if None not in estimates else None


def _estimate(run: PlannedRun, known: Sequence[tuple[PlannedRun, float]]) -> float | None:
    alike: tuple[Callable[[PlannedRun], object], ...] = (
        lambda other: (other.data, other.backbone, other.mode),
        lambda other: (other.data, other.backbone),
        lambda other: other.data,
    )
    for same in alike:
        seconds = [seconds for other, seconds in known if same(other) == same(run)]
        if seconds:
            return float(np.mean(seconds))
    return None


def look_up(runs: Sequence[PlannedRun]) -> State:
    """Find out which runs are done and which lack files.

    Raises
    ------
    RunFolderError
        If a run's folder cannot be read, or was made with other data.
    """
    state = State([], [], [])
    lacking: dict[str, list[PlannedRun]] = {}
    for run in runs:
        if run.is_done():
            state.done.append(run)
            continue
        if run.has_files():
            state.to_do.append(run)
        else:
            lacking.setdefault(run.data, []).append(run)
    state.skipped.extend(Skipped(group) for group in lacking.values())
    return state
