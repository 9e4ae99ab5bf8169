"""One line a run on a stream: what came of it, how long it took, how much is left."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class RunProgress:
    """Reports a known number of runs, with an estimate of the time left.

    Parameters
    ----------
    total : int
        Runs to be reported.
    stream : text stream or None, default=None
        None takes ``sys.stderr``. Notes on a run that is still going are written to terminals only.
    verbose : bool, default=True
        False writes nothing.
    """

    def __init__(self, total: int, *, stream: TextIO | None = None, verbose: bool = True) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._verbose = verbose
        self._done = 0
        self._spent = 0.0  # seconds in runs of this session, which the estimate rests on
        self._timed = 0
        self._start = time.perf_counter()
        self._width = 0  # of the note that stands on the terminal

    def start(self) -> None:
        """Begin timing a run."""
        self._start = time.perf_counter()

    def note(self, text: str) -> None:
        """Say how far the current run is; replaces the note before."""
        if self._verbose and self._stream.isatty():
            text = f"[{self._done + 1}/{self._total}] {text}"
            self._stream.write("\r" + text.ljust(self._width))
            self._stream.flush()
            self._width = len(text)

    def finish(self, text: str) -> None:
        """Report a run that was just made."""
        seconds = time.perf_counter() - self._start
        self._spent += seconds
        self._timed += 1
        self._done += 1
        left = (self._total - self._done) * self._spent / self._timed
        ending = f", about {duration(left)} left" if self._done < self._total else ""
        self._line(f"{text}  ({duration(seconds)}{ending})")

    def skip(self, text: str) -> None:
        """Report a run that did not have to be made."""
        self._done += 1
        self._line(text)

    def _line(self, text: str) -> None:
        if self._verbose:
            lead = "\r" if self._width else ""
            self._stream.write(lead + f"[{self._done}/{self._total}] {text}".ljust(self._width) + "\n")
            self._stream.flush()
            self._width = 0


def duration(seconds: float) -> str:
    """Return a time for people: ``8 s``, ``2 min 05 s``, ``1 h 03 min``.

    Examples
    --------
    >>> duration(125.4)
    '2 min 05 s'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
