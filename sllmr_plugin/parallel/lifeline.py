"""Processes that end when the one that started them does, however that ends.

Their standard input is a pipe that nobody writes to. Its other end is open in the starting process alone, so it is at
its end as soon as that process is gone, after a kill as well, and still is for a process that looks later. The signal
that Linux can send at a parent's death (PR_SET_PDEATHSIG) is of Linux alone, comes when the thread ends that started
the process and not only with its process, and never comes if that happened before it was asked for.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

# Only a process that was started for it watches its input. That of others is a terminal, a file or nothing, and its end
# says nothing: a training goes on when its terminal is closed. It is no option of `sllmr train`, since the command that
# a log names can be typed again.
_VARIABLE = "SLLMR_END_WITH_STANDARD_INPUT"


@contextlib.contextmanager
def lifeline() -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the standard input and the variables of processes that are to end with this one, or with the context."""
    read, write = os.pipe()  # neither is inherited, but `read` by those whose standard input it becomes
    try:
        yield read, {_VARIABLE: "1"}
    finally:
        os.close(read)
        os.close(write)


def end_with_lifeline() -> None:
    """End this process when the one that started it does, if it was started with the variables of `lifeline`."""
    if os.environ.pop(_VARIABLE, None):  # its own processes are not meant
        threading.Thread(target=_wait_for_the_end, name="lifeline", daemon=True).start()


def _wait_for_the_end() -> None:
    # Not sys.stdin: the interpreter would want its lock when it ends while this thread still waits.
    while os.read(0, 1):
        pass
    with contextlib.suppress(OSError):  # a full disk must not keep the process alive
        os.write(2, b"sllmr: the process that started this one is gone, so this one ends\n")
    # As abrupt as the signal that ends a training otherwise: files of a run are written whole or not at all.
    os._exit(1)
