"""The form of a ledger: its tables and keys, and how its file is opened."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

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
    scores TEXT,                   -- JSON list by position in the prompt, null where missing; NULL: failed, or a text
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
    batch TEXT,                    -- token of the batch that it is in
    sent_at TEXT NOT NULL
);
CREATE INDEX unanswered_by_batch ON unanswered (batch);
CREATE TABLE batches (
    token TEXT PRIMARY KEY,        -- ours, sent along, so that a batch can be found whose id never reached us
    id TEXT,                       -- the server's; NULL until it has answered
    open INTEGER NOT NULL,         -- 1 until its answers are in the ledger
    created_at TEXT NOT NULL
);
"""
# Tables that ledgers of earlier versions lack: made where they are missed, and passed over by those versions.
_LATER_TABLES = {
    "refused": """(
    key TEXT PRIMARY KEY,          -- of a question that the server refuses for good; as of answers, like the next ones
    first_key TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    model TEXT NOT NULL,
    user_id TEXT NOT NULL,
    repeat INTEGER NOT NULL,
    request TEXT NOT NULL,
    reason TEXT NOT NULL,          -- what the server said
    cause TEXT,                    -- what it means, where that can be told: context, filter, ...
    refused_at TEXT NOT NULL
) WITHOUT ROWID""",
    "servers": """(
    address TEXT NOT NULL,
    model TEXT NOT NULL,
    form TEXT NOT NULL,            -- JSON: the form of request that was answered last
    noted_at TEXT NOT NULL,
    PRIMARY KEY (address, model)
) WITHOUT ROWID""",
}
COLUMNS = (
    "key, first_key, attempt, model, user_id, repeat, request, response, scores, n_unasked, n_duplicates, "
    "prompt_tokens, completion_tokens, cost, error, status, created_at"
)


@dataclass(frozen=True)
class Refusal:
    """A question that a server refuses for good, as the ledger keeps it; it cost nothing and is not asked again.

    Attributes
    ----------
    key, first_key, attempt, model, user_id, repeat, request
        As of `LedgerAnswer`.
    reason : str
        What the server said.
    cause : str or None
        What it means, where that can be told (`server_errors.cause_of`).
    """

    key: str
    first_key: str
    attempt: int
    model: str
    user_id: str
    repeat: int
    request: dict[str, Any]
    reason: str
    cause: str | None = None


def find_refusal(connection: sqlite3.Connection, path: Path, key: str) -> Refusal | None:
    """Return the refusal with a key, or None."""
    names = "key, first_key, attempt, model, user_id, repeat, request, reason, cause"
    try:
        row = connection.execute(f"SELECT {names} FROM refused WHERE key = ?", (key,)).fetchone()
    except sqlite3.Error as error:
        raise ledger_failure(path, error) from None
    return None if row is None else replace(Refusal(*row), request=json.loads(row[6]))


def add_later_tables(connection: sqlite3.Connection, what: str = "TABLE") -> None:
    """Make the tables that a ledger of an earlier version lacks."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for name, columns in _LATER_TABLES.items():
        if name not in there:
            connection.execute(f"CREATE {what} IF NOT EXISTS {name} {columns}")


class Completions(NamedTuple):
    """A model's answers without a limit of their length.

    Attributes
    ----------
    longest : int
        Tokens.
    number : int
    mean : float
        Tokens.
    """

    longest: int
    number: int
    mean: float


def find_completions(connection: sqlite3.Connection, model: str) -> Completions:
    """Return how long a model's answers without a limit are."""
    query = (
        "SELECT coalesce(max(completion_tokens), 0), count(*), coalesce(avg(completion_tokens), 0) FROM answers "
        "WHERE model = ? AND request LIKE '%\"max_tokens\": null%'"
    )
    return Completions(*connection.execute(query, (model,)).fetchone())


def connect(path: Path) -> sqlite3.Connection:
    """Open for writing; make the tables of a new file, leave a file that is no ledger as it is."""
    # Autocommit, so that transactions are where they are written; used by one thread at a time.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    try:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables:
            check_is_ledger(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        if not tables:
            head = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_SCHEMA_VERSION};"
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {head} COMMIT;")
        add_later_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


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


def ledger_failure(path: Path, error: Exception) -> LedgerError:
    """Return a failure of SQLite as an error that names the file and the remedy."""
    return LedgerError(
        f"{path}: {error}. Check that the file is a ledger, that its disk has room and that it may be written; "
        "the same command then goes on with all answers committed so far."
    )


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
