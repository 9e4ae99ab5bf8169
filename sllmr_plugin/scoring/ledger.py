"""`Ledger`: every answer of a language model in one SQLite file, committed before it counts; its partitions."""

from __future__ import annotations

import json
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from ..errors import LedgerError
from .ledger_file import (
    COLUMNS,
    Completions,
    LedgerAnswer,
    Refusal,
    connect,
    find_answer,
    find_completions,
    find_of_kind,
    find_refusal,
    ledger_failure,
)
from .servers import ServerForm

_KILLED = "the process ended while the request was in flight"
_NOTE_KILLED = "UPDATE unanswered SET reason = ? WHERE reason IS NULL AND batch IS NULL"
_INSERT = f"INSERT INTO answers ({COLUMNS}) VALUES ({', '.join('?' * 17)}) ON CONFLICT DO NOTHING"
_REFUSE = f"INSERT OR REPLACE INTO refused VALUES ({', '.join('?' * 10)})"
_REMEMBER = "INSERT OR REPLACE INTO servers VALUES (?, ?, ?, ?)"
_GROUP = 1000  # statements in one commit at most


class Ledger:
    """Answers of a language model in one SQLite file (write-ahead log, commits synced to disk).

    One thread writes. It commits everything that has queued up while the commit before was on its way to the disk, so
    the number of commits a second does not limit the number of answers. Methods that write return a
    `concurrent.futures.Future` that is done when the commit is: what it stands for survives a SIGKILL and a power cut.

    Only one process at a time may hold a ledger open; readers (`sllmr ledger`) may look on. The file belongs on a
    local disk: write-ahead logs do not work over network file systems.

    Parameters
    ----------
    path : path
        Made if it does not exist, with the folders above it. A file ``<path>.lock`` beside it stays.
    patience : float, default=0
        Seconds to wait for another process to release it.

    Attributes
    ----------
    n_interrupted : int
        Requests that were in flight when the process that held the ledger before was killed, until a run has
        reported them.

    Raises
    ------
    LedgerError
        If another live process holds it, it is not a ledger, a newer version made it, or it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str], *, patience: float = 0.0) -> None:
        self.path = Path(path).resolve()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(str(self.path) + ".lock", thread_local=False)
            self._lock.acquire(timeout=patience)
        except Timeout:
            raise LedgerError(
                f"{self.path}: another process is using this ledger. Wait until it has finished, or give this run "
                "another file with --ledger."
            ) from None
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be made ({error}). Choose another place for the ledger.") from None
        try:
            self._writer = connect(self.path)
            self._reader = connect(self.path)
            with self._writer:
                marks = self._writer.execute(_NOTE_KILLED, (_KILLED,))
        except sqlite3.Error as error:
            self._lock.release()
            raise ledger_failure(self.path, error) from None
        except LedgerError:
            self._lock.release()
            raise
        self.n_interrupted = marks.rowcount
        (self._last_mark,) = self._reader.execute("SELECT coalesce(max(id), 0) FROM unanswered").fetchone()
        self._queue: queue.SimpleQueue[tuple[list[tuple[str, tuple]], Future[None]] | None] = queue.SimpleQueue()
        self._broken: LedgerError | None = None
        self._thread = threading.Thread(target=self._write, name="sllmr-ledger", daemon=True)
        self._thread.start()

    def get(self, key: str) -> LedgerAnswer | None:
        """Return the committed answer to a question, or None."""
        return find_answer(self._reader, self.path, key)

    def refusal(self, key: str) -> Refusal | None:
        """Return how a question was refused for good, or None."""
        return find_refusal(self._reader, self.path, key)

    def keys(self, after: str, most: int) -> list[str]:
        """Return the next keys of answers behind a key in alphabetical order, so many at most."""
        query = "SELECT key FROM answers WHERE key > ? ORDER BY key LIMIT ?"
        return [key for (key,) in self._reader.execute(query, (after, most))]

    def spent(self) -> float:
        """Return the USD charged for all answers of known price, and possibly charged for requests never answered."""
        query = (
            "SELECT (SELECT coalesce(sum(cost), 0) FROM answers) + "
            "(SELECT coalesce(sum(estimated_cost), 0) FROM unanswered)"
        )
        return float(self._reader.execute(query).fetchone()[0])

    def of_kind(self, model: str, kind: str) -> Iterator[LedgerAnswer]:
        """Yield a model's usable answers to questions of a kind."""
        return find_of_kind(self._reader, self.path, model, kind)

    def completions(self, model: str) -> Completions:
        """Return how long a model's answers without a limit are."""
        return find_completions(self._reader, model)

    def mark_sent(self, key: str, user_id: str, estimated_cost: float = 0.0) -> tuple[int, Future[None]]:
        """Note that a request is about to be sent; send it when the note is committed.

        Returns
        -------
        mark : int
            For `record`, `unmark` or `give_up`, one of which must follow.
        done : Future
            Done when committed.
        """
        self._last_mark += 1
        statement = "INSERT INTO unanswered (id, key, user_id, estimated_cost, sent_at) VALUES (?, ?, ?, ?, ?)"
        values = (self._last_mark, key, user_id, estimated_cost, now())
        return self._last_mark, self._submit([(statement, values)])

    def record(self, answer: LedgerAnswer, mark: int | None = None) -> Future[None]:
        """Commit an answer, and with it the end of the flight of the request that was marked.

        An answer to a question that has one already changes nothing.
        """
        statements = [(_INSERT, to_row(answer))]
        if mark is not None:
            statements.append(("DELETE FROM unanswered WHERE id = ?", (mark,)))
        return self._submit(statements)

    def adopt(self, answer: LedgerAnswer) -> Future[None]:
        """Commit an answer that was received in a flight whose end was not noted here, and with it that end."""
        last_flight = "SELECT max(id) FROM unanswered WHERE key = ? AND batch IS NULL"
        return self._submit(
            [(_INSERT, to_row(answer)), (f"DELETE FROM unanswered WHERE id = ({last_flight})", (answer.key,))]
        )

    def unmark(self, mark: int) -> Future[None]:
        """Note that a marked request was refused, so that it cost nothing."""
        return self._submit([("DELETE FROM unanswered WHERE id = ?", (mark,))])

    def refuse(self, refusal: Refusal, mark: int | None = None) -> Future[None]:
        """Commit that a server refuses a question for good, and with it the end of the flight of a marked request."""
        statements: list[tuple[str, tuple]] = [(_REFUSE, refusal_row(refusal))]
        if mark is not None:
            statements.append(("DELETE FROM unanswered WHERE id = ?", (mark,)))
        return self._submit(statements)

    def forget_refused(self, containing: str = "") -> int:
        """Forget the refused questions whose reason contains a text, so that they are asked again; return how many."""
        chosen = "FROM refused WHERE instr(lower(reason || ' ' || coalesce(cause, '')), lower(?))"
        (found,) = self._reader.execute(f"SELECT count(*) {chosen}", (containing,)).fetchone()
        self._submit([(f"DELETE {chosen}", (containing,))]).result()
        return int(found)

    def form_of(self, address: str, model: str) -> ServerForm | None:
        """Return the form of request that a server has answered last, None where none is known."""
        query = "SELECT form FROM servers WHERE address = ? AND model = ?"
        row = self._reader.execute(query, (address, model)).fetchone()
        return None if row is None else ServerForm.from_json(row[0])

    def remember_form(self, address: str, model: str, form: ServerForm) -> Future[None]:
        """Commit the form of request that a server takes."""
        return self._submit([(_REMEMBER, (address, model, form.to_json(), now()))])

    def forget_forms(self) -> int:
        """Forget the forms that servers take, so that the best one is tried again; return how many there were."""
        (found,) = self._reader.execute("SELECT count(*) FROM servers").fetchone()
        self._submit([("DELETE FROM servers", ())]).result()
        return int(found)

    def give_up(self, mark: int, reason: str) -> Future[None]:
        """Note that no answer to a marked request will come although the server may have charged for it."""
        return self._submit([("UPDATE unanswered SET reason = ? WHERE id = ?", (storable(reason), mark))])

    def open_batch(self, token: str, marks: Sequence[tuple[str, str, float]]) -> Future[None]:
        """Note that a batch is about to be made of requests, given as key, user id and estimated cost each."""
        moment = now()
        insert = "INSERT INTO unanswered (id, key, user_id, estimated_cost, batch, sent_at) VALUES (?, ?, ?, ?, ?, ?)"
        statements: list[tuple[str, tuple]] = [("INSERT INTO batches VALUES (?, NULL, 1, ?)", (token, moment))]
        for key, user_id, cost in marks:
            self._last_mark += 1
            statements.append((insert, (self._last_mark, key, user_id, cost, token, moment)))
        return self._submit(statements)

    def name_batch(self, token: str, batch_id: str) -> Future[None]:
        """Note the server's id of a batch."""
        return self._submit([("UPDATE batches SET id = ? WHERE token = ?", (batch_id, token))])

    def close_batch(self, token: str) -> Future[None]:
        """Note that all answers of a batch are in; its requests without one were not charged and may be sent again."""
        return self._submit(
            [
                ("DELETE FROM unanswered WHERE batch = ?", (token,)),
                ("UPDATE batches SET open = 0 WHERE token = ?", (token,)),
            ]
        )

    def open_batches(self) -> list[tuple[str, str | None]]:
        """Return token and id of the batches whose answers are not all in, oldest first."""
        return self._reader.execute("SELECT token, id FROM batches WHERE open ORDER BY created_at").fetchall()

    def batch_marks(self, token: str) -> dict[str, int]:
        """Return key -> mark of a batch's requests that have no answer yet."""
        return dict(self._reader.execute("SELECT key, id FROM unanswered WHERE batch = ?", (token,)))

    def close(self) -> None:
        """Commit what is queued and release the file. A second call does nothing."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
            self._reader.close()
            self._writer.close()
            self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _submit(self, statements: list[tuple[str, tuple]]) -> Future[None]:
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # a waiting caller may be cancelled, the commit may not
        if self._broken is not None:
            done.set_exception(self._broken)
        else:
            self._queue.put((statements, done))
        return done

    def _write(self) -> None:
        """Commit groups of statements until the queue says None: the body of the writing thread."""
        closing = False
        while not closing:
            group = [self._queue.get()]
            while len(group) < _GROUP and not self._queue.empty():
                group.append(self._queue.get())
            closing = None in group
            work = [entry for entry in group if entry is not None]
            try:
                if self._broken is not None:
                    raise self._broken
                with self._writer:  # one transaction: commits, or rolls back on an error
                    self._writer.execute("BEGIN IMMEDIATE")
                    for statements, _ in work:
                        for statement, values in statements:
                            self._writer.execute(statement, values)
            except Exception as error:  # of any kind: those who wait must receive it
                self._broken = error if isinstance(error, LedgerError) else ledger_failure(self.path, error)
                for _, done in work:
                    done.set_exception(self._broken)
            else:
                for _, done in work:
                    done.set_result(None)


def storable(text: str) -> str:
    """Replace lone surrogates, which JSON can hold and SQLite cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def now() -> str:
    """Return the time, UTC, as the ledger writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def to_row(answer: LedgerAnswer) -> tuple:
    """Return the values of `COLUMNS`."""
    return (
        answer.key,
        answer.first_key,
        answer.attempt,
        answer.model,
        storable(answer.user_id),
        answer.repeat,
        json.dumps(answer.request, sort_keys=True),
        storable(answer.response),
        None if answer.scores is None else json.dumps(answer.scores, allow_nan=False),
        answer.n_unasked,
        answer.n_duplicates,
        answer.prompt_tokens,
        answer.completion_tokens,
        answer.cost,
        None if answer.error is None else storable(answer.error),
        "ok" if answer.ok else "failed",
        now(),
    )


def refusal_row(refusal: Refusal) -> tuple:
    """Return the values of a row of the table of refused questions."""
    return (
        refusal.key,
        refusal.first_key,
        refusal.attempt,
        refusal.model,
        storable(refusal.user_id),
        refusal.repeat,
        json.dumps(refusal.request, sort_keys=True),
        storable(refusal.reason),
        refusal.cause,
        now(),
    )


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
        As in `merge_partitions`.
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
