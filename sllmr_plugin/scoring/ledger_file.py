"""What a ledger's file holds: entries and their keys, the tables, and how they are read (`LedgerReader`)."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, LedgerError


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
        The model, and the user (or item) that the question is about; for readers of the ledger only.
    repeat : int
        Which repeat of the question this is.
    request : dict
        JSON values that describe the question; never its text, a key or a header. Its ``parameters`` are those sent,
        and ``left_out`` names what the server did not take (``temperature``, ``system``).
    response : str
        The text of the answer.
    scores : tuple of (float or None), or None
        Scores by position in the prompt, None where the answer has none; None for an answer that cannot be used, and
        for one that is a text, which is read from `response`.
    n_unasked, n_duplicates : int
        As in `ScoredAnswer`.
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
    scores: tuple[float | None, ...] | None = None
    n_unasked: int = 0
    n_duplicates: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the answer can be used."""
        return self.error is None


@dataclass(frozen=True)
class Refusal:
    """A question that a server refuses for good, as the ledger keeps it; it cost nothing and is not asked again.

    Attributes
    ----------
    key, first_key, attempt, model, user_id, repeat, request
        As in `LedgerAnswer`.
    reason : str
        What the server said.
    cause : str or None
        What it means, where that can be told (`servers.cause_of`).
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


def ledger_key(
    messages: Sequence[Mapping[str, Any]], model: str, parameters: Mapping[str, Any], schema_version: int | str
) -> str:
    """Return the key of a question: SHA-256 over canonical JSON of all that decides its answer.

    The server's address and the number of requests in flight are not part of it.

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
    key TEXT PRIMARY KEY,          -- of a question that the server refuses for good; this and the next as in answers
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


def connect(path: Path) -> sqlite3.Connection:
    """Open for writing; make the tables of a new file, do not touch a file that is not a ledger."""
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
        raise LedgerError(f"{path}: is a database, but not a ledger of this package. Give another file with --ledger.")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != _SCHEMA_VERSION:
        raise LedgerError(
            f"{path}: has the form of version {version}, this is version {_SCHEMA_VERSION}. "
            "Use the version of sllmr-plugin that made it, or give another file with --ledger."
        )


def add_later_tables(connection: sqlite3.Connection, what: str = "TABLE") -> None:
    """Make the tables that a ledger of an earlier version lacks."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for name, columns in _LATER_TABLES.items():
        if name not in there:
            connection.execute(f"CREATE {what} IF NOT EXISTS {name} {columns}")


def ledger_failure(path: Path, error: Exception) -> LedgerError:
    """Return a failure of SQLite as an error that names the file and the remedy."""
    return LedgerError(
        f"{path}: {error}. Check that the file is a ledger, that its disk has room and that it may be written; "
        "the same command then goes on with all answers committed so far."
    )


def find_answer(connection: sqlite3.Connection, path: Path, key: str) -> LedgerAnswer | None:
    """Return the answer with a key, or None."""
    try:
        row = connection.execute(f"SELECT {COLUMNS} FROM answers WHERE key = ?", (key,)).fetchone()
    except sqlite3.Error as error:
        raise ledger_failure(path, error) from None
    return None if row is None else from_row(row)


def find_refusal(connection: sqlite3.Connection, path: Path, key: str) -> Refusal | None:
    """Return the refusal with a key, or None."""
    names = "key, first_key, attempt, model, user_id, repeat, request, reason, cause"
    try:
        row = connection.execute(f"SELECT {names} FROM refused WHERE key = ?", (key,)).fetchone()
    except sqlite3.Error as error:
        raise ledger_failure(path, error) from None
    return None if row is None else replace(Refusal(*row), request=json.loads(row[6]))


def find_of_kind(connection: sqlite3.Connection, path: Path, model: str, kind: str) -> Iterator[LedgerAnswer]:
    """Yield a model's usable answers to questions of a kind."""
    query = f"SELECT {COLUMNS} FROM answers WHERE model = ? AND status = 'ok' AND {_KIND} = ?"
    try:
        for row in connection.execute(query, (model, kind)):
            yield from_row(row)
    except sqlite3.Error as error:
        raise ledger_failure(path, error) from None


def find_completions(connection: sqlite3.Connection, model: str) -> Completions:
    """Return how long a model's answers without a limit are."""
    query = (
        "SELECT coalesce(max(completion_tokens), 0), count(*), coalesce(avg(completion_tokens), 0) FROM answers "
        "WHERE model = ? AND request LIKE '%\"max_tokens\": null%'"
    )
    return Completions(*connection.execute(query, (model,)).fetchone())


def from_row(row: tuple) -> LedgerAnswer:
    """Return the answer that a row of `COLUMNS` holds."""
    answer = LedgerAnswer(*row[:-2])  # the status follows from the error, the date is for readers of the file
    scores = None if row[8] is None else tuple(json.loads(row[8]))
    return replace(answer, request=json.loads(row[6]), scores=scores)


class LedgerReader:
    """Reads a ledger, also while another process writes it.

    Parameters
    ----------
    path : path
        An existing ledger.

    Raises
    ------
    LedgerError
        If there is no such file, or it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        if not self.path.is_file():
            raise LedgerError(f"{self.path}: no such ledger. Give the file that `sllmr score` has written.")
        try:
            self.connection = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=30)
            check_is_ledger(self.connection, self.path)
            add_later_tables(self.connection, "TEMP TABLE")  # empty, beside a file that is only read
        except sqlite3.Error as error:
            raise ledger_failure(self.path, error) from None

    def get(self, key: str) -> LedgerAnswer | None:
        """Return the committed answer to a question, or None."""
        return find_answer(self.connection, self.path, key)

    def refusal(self, key: str) -> Refusal | None:
        """Return how a question was refused for good, or None."""
        return find_refusal(self.connection, self.path, key)

    def of_kind(self, model: str, kind: str) -> Iterator[LedgerAnswer]:
        """Yield a model's usable answers to questions of a kind."""
        return find_of_kind(self.connection, self.path, model, kind)

    def completions(self, model: str) -> Completions:
        """Return how long a model's answers without a limit are."""
        return find_completions(self.connection, model)

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self) -> LedgerReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


_KIND = "json_extract(request, '$.kind')"  # of a text; scores have none
_BY_MODEL = f"""
SELECT model, {_KIND} AS kind, count(*) AS answers, sum(status = 'ok') AS usable, sum(status = 'failed') AS unusable,
       sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
       coalesce(sum(cost), 0) AS cost, sum(cost IS NULL) AS without_price,
       sum(json_extract(request, '$.left_out') IS NOT NULL) AS adapted,
       min(created_at) AS first, max(created_at) AS last
FROM answers GROUP BY 1, 2 ORDER BY 1, 2
"""
_UNANSWERED = """
SELECT coalesce(reason, iif(batch IS NULL, 'in flight now', 'in an open batch')) AS reason,
       count(*) AS requests, sum(estimated_cost) AS possible_cost
FROM unanswered GROUP BY 1 ORDER BY 2 DESC
"""
_REFUSED_BY_REASON = "SELECT reason, count(*) AS requests FROM refused GROUP BY 1 ORDER BY 2 DESC, 1"
_REFUSED = f"""
SELECT model, coalesce({_KIND}, 'user') AS about, user_id, repeat, attempt + 1 AS attempts, reason, cause,
       refused_at, first_key
FROM refused ORDER BY refused_at, key
"""
_SERVERS = "SELECT address, model, form, noted_at FROM servers ORDER BY 1, 2"
# Of a conversation without a usable answer, its last one.
_FAILURES = f"""
SELECT model, coalesce({_KIND}, 'user') AS about, user_id, repeat, attempt + 1 AS attempts, error, response,
       created_at, first_key
FROM answers AS last
WHERE status = 'failed'
  AND NOT EXISTS (SELECT 1 FROM answers AS other WHERE other.first_key = last.first_key
                  AND (other.status = 'ok' OR other.attempt > last.attempt))
  AND first_key NOT IN (SELECT first_key FROM refused)
ORDER BY created_at, key
"""
_ALL = f"""
SELECT key, first_key, attempt, model, {_KIND} AS kind, user_id, repeat, status, scores, error, n_unasked,
       n_duplicates, prompt_tokens, completion_tokens, cost, created_at, request, response
FROM answers ORDER BY created_at, key
"""
_EXPORTED_AT_ONCE = 20_000  # rows in memory
# The columns of _ALL in parquet files, given and not inferred: a part of the rows may have no value in a column.
_EXPORT_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "first_key")),
        ("attempt", pa.int64()),
        *((name, pa.string()) for name in ("model", "kind", "user_id")),
        ("repeat", pa.int64()),
        *((name, pa.string()) for name in ("status", "scores", "error")),
        *((name, pa.int64()) for name in ("n_unasked", "n_duplicates", "prompt_tokens", "completion_tokens")),
        ("cost", pa.float64()),
        *((name, pa.string()) for name in ("created_at", "request", "response")),
    ]
)


def answers_by_model(reader: LedgerReader) -> pd.DataFrame:
    """Return a row a model and kind (None: scores; else of texts): answers, tokens, USD, dates."""
    return pd.read_sql_query(_BY_MODEL, reader.connection)


def unanswered_by_reason(reader: LedgerReader) -> pd.DataFrame:
    """Return a row a reason why requests that were sent have no answer, with the USD that they may have cost."""
    return pd.read_sql_query(_UNANSWERED, reader.connection)


def failures(reader: LedgerReader) -> pd.DataFrame:
    """Return a row a request none of whose answers can be used, with the last error and answer.

    A conversation that ended with a refusal is in `refused`.
    """
    return pd.read_sql_query(_FAILURES, reader.connection)


def refused_by_reason(reader: LedgerReader) -> pd.DataFrame:
    """Return a row a reason for which requests are refused for good, with their number."""
    return pd.read_sql_query(_REFUSED_BY_REASON, reader.connection)


def refused(reader: LedgerReader) -> pd.DataFrame:
    """Return a row a request that the server refuses for good, with what it said."""
    return pd.read_sql_query(_REFUSED, reader.connection)


def known_servers(reader: LedgerReader) -> pd.DataFrame:
    """Return a row a server and model, with the form of request that it takes, in JSON."""
    return pd.read_sql_query(_SERVERS, reader.connection)


def export_answers(reader: LedgerReader, path: str | os.PathLike[str]) -> int:
    """Write every answer to a CSV, JSON-lines or parquet file; return how many.

    Raises
    ------
    DataError
        If the file's name ends otherwise, or it cannot be written.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise DataError(f"{path}: unknown file type; use .csv, .jsonl or .parquet.")
    written = 0
    try:
        with _WRITERS[path.suffix](path) as write:
            for frame in pd.read_sql_query(_ALL, reader.connection, chunksize=_EXPORTED_AT_ONCE):
                write(frame)
                written += len(frame)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}); choose another place.") from None
    return written


@contextmanager
def _csv(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    with path.open("w", encoding="utf-8", newline="") as file:
        yield lambda frame: frame.to_csv(file, index=False, header=file.tell() == 0)


@contextmanager
def _json_lines(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda frame: frame.to_json(file, orient="records", lines=True, force_ascii=False)


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    with pq.ParquetWriter(path, _EXPORT_SCHEMA) as writer:
        yield lambda frame: writer.write_table(pa.Table.from_pandas(frame, _EXPORT_SCHEMA, preserve_index=False))


_WRITERS = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
