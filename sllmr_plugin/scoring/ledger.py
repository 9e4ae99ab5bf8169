"""`Ledger`: every answer of a language model in one SQLite file, committed before anyone sees it."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from ..errors import LedgerError

_APPLICATION_ID = 0x534C4D52  # "SLMR": tells our files from any other SQLite file
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY,          -- hash of messages, model, generation parameters and schema version
    first_key TEXT NOT NULL,       -- key of the first question of the conversation that this belongs to
    attempt INTEGER NOT NULL,      -- 0 for the first question, 1 for the first one with an error fed back
    model TEXT NOT NULL,
    user_id TEXT NOT NULL,
    repeat INTEGER NOT NULL,
    request TEXT NOT NULL,         -- JSON: hash of the messages, parameters, schema version, number of candidates
    response TEXT NOT NULL,
    scores TEXT,                   -- JSON list by position in the prompt, null where missing; NULL when failed
    n_unasked INTEGER NOT NULL,    -- ids in the answer that were not asked, and that came up again: dropped
    n_duplicates INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost REAL,                     -- USD; NULL when the model's price was not known
    status TEXT NOT NULL CHECK (status IN ('ok', 'failed')),
    error TEXT,                    -- why the answer cannot be used
    created_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX answers_by_conversation ON answers (first_key, attempt);
CREATE TABLE unanswered (          -- sent, and no answer committed
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    user_id TEXT NOT NULL,
    estimated_cost REAL NOT NULL,  -- USD that the server may have charged all the same
    reason TEXT,                   -- NULL while in flight
    sent_at TEXT NOT NULL
);
"""
_KILLED = "the process ended while the request was in flight"
_COLUMNS = (
    "key, first_key, attempt, model, user_id, repeat, request, response, scores, n_unasked, n_duplicates, "
    "prompt_tokens, completion_tokens, cost, error, status, created_at"
)
_GROUP = 1000  # statements in one commit at most


@dataclass(frozen=True)
class LedgerAnswer:
    """One answer as the ledger keeps it.

    Attributes
    ----------
    key : str
        What `ledger_key` made of the question.
    first_key : str
        `key` of the first question of the conversation: differs from `key` when an error was fed back.
    attempt : int
        0 for the first question, 1 for the first one with an error fed back.
    model, user_id : str
        Who was asked, and about whom; for the reader of the ledger only.
    repeat : int
        Which repeat of the question this is.
    request : dict
        JSON values that describe the question; never its text, a key or a header.
    response : str
        The text of the answer.
    scores : tuple of (float or None), or None
        Scores by position in the prompt, None where the answer has none; None for an answer that cannot be used.
    n_unasked, n_duplicates : int
        As of `ScoredAnswer`.
    prompt_tokens, completion_tokens : int
        As the server counted them.
    cost : float or None
        USD; None when the price of the model is not known.
    error : str or None
        Why the answer cannot be used; None for one that can.
    """

    key: str
    first_key: str
    attempt: int
    model: str
    user_id: str
    repeat: int
    request: dict[str, Any]
    response: str
    scores: tuple[float | None, ...] | None
    n_unasked: int = 0
    n_duplicates: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the answer has scores."""
        return self.scores is not None


def ledger_key(
    messages: Sequence[Mapping[str, Any]], model: str, parameters: Mapping[str, Any], schema_version: int | str
) -> str:
    """Return the key of a question: SHA-256 over canonical JSON of all that decides its answer.

    Where the question is sent to, and how many are sent at a time, are no part of it.

    Parameters
    ----------
    messages : sequence of mapping
        The rendered chat messages.
    model : str
        The model's name.
    parameters : mapping
        Generation parameters such as temperature; plain JSON values.
    schema_version : int or str
        Version of the form of the answer.

    Examples
    --------
    >>> ledger_key([{"role": "user", "content": "hi"}], "m", {"temperature": 0}, 1)[:12]
    '761ea490cf94'
    """
    text = json.dumps([list(messages), model, dict(parameters), schema_version], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


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

    Attributes
    ----------
    n_interrupted : int
        Requests that were in flight when the process that held the ledger before was killed.

    Raises
    ------
    LedgerError
        If another live process holds it, it is no ledger, a newer version made it, or it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(str(self.path) + ".lock", thread_local=False)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise LedgerError(
                f"{self.path}: another process is using this ledger. Wait until it has finished, or give this run "
                "another file with --ledger."
            ) from None
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be made ({error}). Choose another place for the ledger.") from None
        try:
            self._writer = _connect(self.path)
            _prepare(self._writer, self.path)
            self._reader = _connect(self.path)
            with self._writer:
                marks = self._writer.execute("UPDATE unanswered SET reason = ? WHERE reason IS NULL", (_KILLED,))
        except sqlite3.Error as error:
            self._lock.release()
            raise _failure(self.path, error) from None
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
        try:
            row = self._reader.execute(f"SELECT {_COLUMNS} FROM answers WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise _failure(self.path, error) from None
        return None if row is None else _from_row(row)

    def spent(self) -> float:
        """Return the USD charged for all answers of known price, and possibly charged for requests never answered."""
        query = (
            "SELECT (SELECT coalesce(sum(cost), 0) FROM answers) + "
            "(SELECT coalesce(sum(estimated_cost), 0) FROM unanswered)"
        )
        return float(self._reader.execute(query).fetchone()[0])

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
        values = (self._last_mark, key, user_id, estimated_cost, _now())
        return self._last_mark, self._submit([(statement, values)])

    def record(self, answer: LedgerAnswer, mark: int | None = None) -> Future[None]:
        """Commit an answer, and with it the end of the flight of the request that was marked.

        An answer to a question that has one already changes nothing.
        """
        insert = f"INSERT INTO answers ({_COLUMNS}) VALUES ({', '.join('?' * 17)}) ON CONFLICT DO NOTHING"
        statements = [(insert, _to_row(answer))]
        if mark is not None:
            statements.append(("DELETE FROM unanswered WHERE id = ?", (mark,)))
        return self._submit(statements)

    def unmark(self, mark: int) -> Future[None]:
        """Note that a marked request was refused, so that it cost nothing."""
        return self._submit([("DELETE FROM unanswered WHERE id = ?", (mark,))])

    def give_up(self, mark: int, reason: str) -> Future[None]:
        """Note that no answer to a marked request will come although the server may have charged for it."""
        return self._submit([("UPDATE unanswered SET reason = ? WHERE id = ?", (_storable(reason), mark))])

    def close(self) -> None:
        """Commit what is queued and let go of the file. A second call does nothing."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
            self._reader.close()
            self._writer.close()
            self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, statements: list[tuple[str, tuple]]) -> Future[None]:
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # whoever waits may be cancelled, the commit may not
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
            except Exception as error:  # whatever it is: those who wait must hear of it
                self._broken = error if isinstance(error, LedgerError) else _failure(self.path, error)
                for _, done in work:
                    done.set_exception(self._broken)
            else:
                for _, done in work:
                    done.set_result(None)


def _connect(path: Path) -> sqlite3.Connection:
    # Autocommit, so that transactions are where they are written; used by one thread at a time.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file; refuse a file that is no ledger or one of a newer version."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        head = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_SCHEMA_VERSION};"
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {head} COMMIT;")
    check_is_ledger(connection, path)


def check_is_ledger(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `LedgerError` unless a connection is to a ledger that this version can read."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != _APPLICATION_ID:
        raise LedgerError(f"{path}: is a database, but no ledger of this package. Give another file with --ledger.")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != _SCHEMA_VERSION:
        raise LedgerError(
            f"{path}: has the form of version {version}, this is version {_SCHEMA_VERSION}. "
            "Use the version of sllmr-plugin that made it, or give another file with --ledger."
        )


def _failure(path: Path, error: Exception) -> LedgerError:
    return LedgerError(
        f"{path}: {error}. Check that the file is a ledger, that its disk has room and that it may be written; "
        "the same command then goes on with all answers committed so far."
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _storable(text: str) -> str:
    """Replace lone surrogates, which JSON can hold and SQLite cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _to_row(answer: LedgerAnswer) -> tuple:
    return (
        answer.key,
        answer.first_key,
        answer.attempt,
        answer.model,
        _storable(answer.user_id),
        answer.repeat,
        json.dumps(answer.request, sort_keys=True),
        _storable(answer.response),
        None if answer.scores is None else json.dumps(answer.scores, allow_nan=False),
        answer.n_unasked,
        answer.n_duplicates,
        answer.prompt_tokens,
        answer.completion_tokens,
        answer.cost,
        None if answer.error is None else _storable(answer.error),
        "ok" if answer.ok else "failed",
        _now(),
    )


def _from_row(row: tuple) -> LedgerAnswer:
    answer = LedgerAnswer(*row[:-2])  # the status follows from the scores, the date is for readers of the file
    scores = None if row[8] is None else tuple(json.loads(row[8]))
    return replace(answer, request=json.loads(row[6]), scores=scores)
