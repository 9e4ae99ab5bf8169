"""A ledger as a reader sees it, also while it is written: `LedgerReader`, and what it holds as data frames."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pandas as pd

from ..errors import DataError, LedgerError
from .ledger import LedgerAnswer, find_answer
from .ledger_file import (
    Completions,
    Refusal,
    add_later_tables,
    check_is_ledger,
    find_completions,
    find_refusal,
    ledger_failure,
)

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


def answers_by_model(reader: LedgerReader) -> pd.DataFrame:
    """Return a row a model and kind (None: scores; user, item, reasoning: texts): answers, tokens, USD, dates."""
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
    frame = pd.read_sql_query(_ALL, reader.connection)
    try:
        if path.suffix == ".csv":
            frame.to_csv(path, index=False)
        elif path.suffix == ".jsonl":
            frame.to_json(path, orient="records", lines=True, force_ascii=False)
        elif path.suffix == ".parquet":
            frame.to_parquet(path, index=False)
        else:
            raise DataError(f"{path}: unknown file type; use .csv, .jsonl or .parquet.")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}); choose another place.") from None
    return len(frame)


class LedgerReader:
    """Reads a ledger, also while another process writes it.

    Parameters
    ----------
    path : path
        An existing ledger.

    Raises
    ------
    LedgerError
        If there is none, or it cannot be read.
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

    def completions(self, model: str) -> Completions:
        """Return how long a model's answers without a limit are."""
        return find_completions(self.connection, model)

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    def __enter__(self) -> LedgerReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
