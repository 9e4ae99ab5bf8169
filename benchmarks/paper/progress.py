"""A line for each run that ends, with an estimate of the time left."""

from __future__ import annotations

import sys
from typing import TextIO

from tqdm import tqdm

from .plan import PlannedRun
from .state import State


class Progress:
    """Reports runs that are made several at a time.

    Parameters
    ----------
    state : State
        What is done and what is to do; runs that end move from one to the other.
    jobs : int
        Runs at a time.
    stream : text stream or None, default=None
        None takes ``sys.stderr``.
    """

    def __init__(self, state: State, jobs: int, *, stream: TextIO | None = None) -> None:
        self._state = State(list(state.done), list(state.to_do), state.skipped)
        self._jobs = jobs
        self._total = len(state.done) + len(state.to_do)
        self._ended = len(state.done)
        self._stream = stream or sys.stderr

    def started(self, run: PlannedRun) -> None:
        """Say that a run begins."""
        self._line(f"{run.name}: started")

    def ended(self, run: PlannedRun, reason: str | None, seconds: float) -> None:
        """Say that a run ended, for what reason if it failed, and how long the rest may take."""
        self._ended += 1
        self._state.to_do.remove(run)
        if reason is None:
            self._state.done.append(run)
        self._line(f"{run.name}: {reason or 'done'}  ({tqdm.format_interval(seconds)}{self._left()})")

    def _left(self) -> str:
        seconds = self._state.seconds_left()
        if not self._state.to_do or seconds is None:
            return ""
        return f", about {tqdm.format_interval(seconds / min(self._jobs, len(self._state.to_do)))} left"

    def _line(self, text: str) -> None:
        print(f"[{self._ended}/{self._total}] {text}", file=self._stream, flush=True)
