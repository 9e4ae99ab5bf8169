"""A bar over a known number of runs, and one line for what came of each."""

from __future__ import annotations

import math
import sys
from typing import TextIO

from tqdm import tqdm


class RunProgress:
    """Shows how many runs are done, with rate and time left, and keeps a line for each that has ended.

    On a terminal the bar stays below the lines. In a file there are lines only, each with the time used and left.

    Parameters
    ----------
    total : int
        Number of runs.
    stream : text stream or None, default=None
        None takes ``sys.stderr``.
    verbose : bool, default=True
        False writes nothing.
    """

    def __init__(self, total: int, *, stream: TextIO | None = None, verbose: bool = True) -> None:
        stream = stream or sys.stderr
        self._stream, self._verbose = stream, verbose
        self._on_terminal = stream.isatty()
        # smoothing=0: runs differ in length by their model, so all of them make up the rate.
        self._bar = tqdm(
            total=total,
            unit="run",
            smoothing=0,
            file=stream,
            disable=not verbose,
            dynamic_ncols=self._on_terminal,
            delay=0 if self._on_terminal else math.inf,
        )

    def note(self, text: str) -> None:
        """Show on a terminal how far the current run is; replaces the note before."""
        self._bar.set_postfix_str(text, refresh=self._on_terminal)

    def finish(self, text: str) -> None:
        """Report a run that was just made."""
        self._end(text)

    def skip(self, text: str) -> None:
        """Report a run that did not have to be made; it does not count for the rate."""
        if self._verbose:
            self._bar.initial += 1  # tqdm's rate is of what came after `initial`
            self._end(text, meter="")

    def _end(self, text: str, meter: str = "  [{elapsed}<{remaining}, {rate_fmt}]") -> None:
        if not self._verbose:
            return
        self._bar.set_postfix_str("", refresh=False)
        self._bar.update()
        line = f"[{self._bar.n}/{self._bar.total}] {text}"
        if self._on_terminal:
            self._bar.write(line, file=self._stream)
        else:
            times = tqdm.format_meter(**{**self._bar.format_dict, "bar_format": meter}) if meter else ""
            print(line + times, file=self._stream, flush=True)
        if self._bar.n == self._bar.total:
            self._bar.close()
