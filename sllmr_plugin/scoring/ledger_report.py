"""What a ledger holds, as data frames."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from ..errors import DataError
from .ledger_file import LedgerReader

_KIND = "json_extract(request, '$.kind')"  # of a text; scores have none
_BY_MODEL = f"""
SELECT model, {_KIND} AS kind, count(*) AS answers, sum(status = 'ok') AS usable, sum(status = 'failed') AS unusable,
       sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
       coalesce(sum(cost), 0) AS cost, sum(cost IS NULL) AS without_price,
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
