"""Ledger partitions: the small ledgers of a distributed run's workers, and how they get into the main one."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from .ledger import Ledger, LedgerAnswer

logger = logging.getLogger("sllmr_plugin.scoring")

_PAGE = 1000  # keys, or answers, moved at a time
_PATIENCE = 60.0  # seconds: the workers of a process that was killed end a moment after it


def partition_folder(ledger: str | os.PathLike[str]) -> Path:
    """Return the folder for the partitions of a ledger: the same path on every machine, each with its own files."""
    return Path(f"{Path(ledger).resolve()}.parts")


class Partitions(Protocol):
    """What `merge_partitions` needs to know of a machine's partitions; `PartitionFiles` are those of this machine."""

    def names(self) -> list[str]:
        """Return the partitions there."""
        ...

    def keys(self, name: str, after: str) -> list[str]:
        """Return the next keys behind a key in alphabetical order; none at the end."""
        ...

    def answers(self, name: str, keys: Sequence[str]) -> list[LedgerAnswer]:
        """Return the answers with these keys."""
        ...

    def remove(self, name: str) -> None:
        """Delete a partition."""
        ...


class PartitionFiles:
    """The partitions in a folder of this machine. One that is looked at is locked until it is removed.

    Parameters
    ----------
    folder : path
        Need not exist.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._open: dict[str, Ledger] = {}

    def names(self) -> list[str]:
        """Return the names of the partition files."""
        return sorted(path.name for path in self._folder.glob("*.sqlite"))

    def keys(self, name: str, after: str) -> list[str]:
        """Return the next thousand keys behind a key in alphabetical order.

        Raises
        ------
        LedgerError
            If the worker that writes the partition is still alive after a minute, or it cannot be read.
        """
        return self._ledger(name).keys(after, _PAGE)

    def answers(self, name: str, keys: Sequence[str]) -> list[LedgerAnswer]:
        """Return the answers with these keys."""
        found = map(self._ledger(name).get, keys)
        return [answer for answer in found if answer is not None]

    def remove(self, name: str) -> None:
        """Delete the file, and the folder when it is the last one."""
        self._ledger(name).close()
        del self._open[name]
        for suffix in ("", "-wal", "-shm", ".lock"):
            (self._folder / (name + suffix)).unlink(missing_ok=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _ledger(self, name: str) -> Ledger:
        if name not in self._open:
            self._open[name] = Ledger(self._folder / name, patience=_PATIENCE)
        return self._open[name]


def merge_partitions(ledger: Ledger, partitions: Partitions) -> int:
    """Take all answers of partitions into the ledger, then delete the partitions.

    May be stopped at any moment and done again: an answer that the ledger has is not taken twice, and a partition is
    deleted when all it holds is committed.

    Returns
    -------
    int
        Answers that the ledger did not have.

    Raises
    ------
    LedgerError
        If one cannot be read or written, or a live worker still writes to it.
    """
    adopted = 0
    for name in partitions.names():
        after = ""
        while keys := partitions.keys(name, after):
            unknown = [key for key in keys if ledger.get(key) is None]
            done = [ledger.adopt(answer) for answer in partitions.answers(name, unknown)] if unknown else []
            for future in done:
                future.result()
            adopted += len(done)
            after = keys[-1]
        partitions.remove(name)
    return adopted


def take_over(ledger: Ledger, *elsewhere: Partitions) -> None:
    """Take into the ledger what a killed run's workers have received, on this machine and elsewhere; log what was lost.

    Raises
    ------
    LedgerError
        As of `merge_partitions`.
    """
    found = sum(merge_partitions(ledger, one) for one in (PartitionFiles(partition_folder(ledger.path)), *elsewhere))
    if found:
        logger.warning("%d answers that workers of the last run had received are in the ledger now", found)
    if ledger.n_interrupted > found:
        logger.warning(
            "the last run was killed with %d requests in flight: they are asked again, and may be charged twice",
            ledger.n_interrupted - found,
        )
    ledger.n_interrupted = 0
