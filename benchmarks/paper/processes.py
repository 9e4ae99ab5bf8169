"""Makes runs, each in a process of its own: a crash or a lack of memory affects that run only."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sllmr_plugin.parallel.lifeline import lifeline

from .plan import PlannedRun
from .progress import Progress

_LOOK_EVERY = 0.1  # seconds
_PATIENCE = 10.0  # seconds that a process has to end once it is asked to


@dataclass(frozen=True)
class FailedRun:
    """A run whose process ended without a result.

    Attributes
    ----------
    run : PlannedRun
        Which one.
    reason : str
        How the process ended, and the last line that it wrote.
    """

    run: PlannedRun
    reason: str

    def __str__(self) -> str:
        return f"{self.run.name}: {self.reason}  (log: {self.run.log})"


@dataclass
class _Process:
    run: PlannedRun
    process: subprocess.Popen
    started: float


def make_runs(runs: Sequence[PlannedRun], *, jobs: int, progress: Progress) -> list[FailedRun]:
    """Make runs, `jobs` at a time.

    Parameters
    ----------
    runs : sequence of PlannedRun
        What to make, in this order.
    jobs : int
        Processes at a time. They share the threads that this process may use.
    progress : Progress
        Told of each run that ends.

    Returns
    -------
    list of FailedRun
        Runs that failed; the others were made all the same.
    """
    waiting, going, failed = list(runs), list[_Process](), list[FailedRun]()
    with lifeline() as (stdin, variables):
        environment = {**os.environ, **variables, "PYTHONUNBUFFERED": "1"}
        environment["OMP_NUM_THREADS"] = str(threads_per_job(jobs))
        try:
            while waiting or going:
                while waiting and len(going) < jobs:
                    going.append(_start(waiting.pop(0), stdin, environment))
                    progress.started(going[-1].run)
                time.sleep(_LOOK_EVERY)
                for one in [one for one in going if one.process.poll() is not None]:
                    going.remove(one)
                    reason = _failure(one)
                    seconds = time.perf_counter() - one.started
                    if reason is None:
                        one.run.keep_seconds(seconds)
                    else:
                        failed.append(FailedRun(one.run, reason))
                    progress.ended(one.run, reason, seconds)
        finally:
            _stop(going)
    return failed


def threads_per_job(jobs: int) -> int:
    """Return the share of each of `jobs` processes in the threads that this one may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, (int(given) if given.isdigit() else available) // jobs)


def _start(run: PlannedRun, stdin: int, environment: dict[str, str]) -> _Process:
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open("w", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(run.command)}\n")
        log.flush()
        # A session of its own: Ctrl-C reaches this process alone, which then ends the others. What ends it without
        # asking (a kill, a closed terminal) reaches them by `stdin`.
        process = subprocess.Popen(
            run.command,
            stdin=stdin,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return _Process(run, process, time.perf_counter())


def _failure(one: _Process) -> str | None:
    """Say why a process that ended has no result, if it has none."""
    code = one.process.returncode
    if code == 0 and one.run.is_done():
        return None
    if code < 0:
        return f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    lines = one.run.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"exit code {code}: {lines[-1].strip()[:200]}"


def _stop(going: Sequence[_Process]) -> None:
    for one in going:
        one.process.terminate()
    for one in going:
        try:
            one.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
