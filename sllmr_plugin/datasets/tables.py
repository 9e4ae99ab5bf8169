"""Read a table of ids (CSV, parquet or a DataFrame) and name its rows as the reader of the file sees them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sllmr_plugin.errors import DataError


@dataclass(frozen=True)
class Table:
    """A data frame, what to call it in messages, and whether its rows are lines of a text file.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row an entry, index ``0 .. n - 1`` in file order.
    name : str
        The file's path as it was given, or a phrase such as "the interactions DataFrame".
    is_text : bool
        True for CSV, where `row` counts lines as an editor does.
    """

    frame: pd.DataFrame
    name: str
    is_text: bool

    def row(self, number: int) -> str:
        """Name one row: its line in a CSV file (the header is line 1), else its number counted from 0."""
        if not self.is_text:
            return f"{self.name}, row {number} (counted from 0)"
        # A quoted field may run over several lines, so the fields above are searched for line breaks.
        above = self.frame.iloc[:number]
        breaks = sum(
            int(above[column].astype(str).str.count("\n").sum())
            for column in above
            if not pd.api.types.is_numeric_dtype(above[column])
        )
        return f"{self.name}, line {number + 2 + breaks}"

    def fault(self, rows: np.ndarray, column: str) -> str:
        """Say where a column is wrong first, with what, and how often: "a.csv, line 3: label is 7"."""
        value = self.frame[column].iloc[rows[0]]
        shown = "empty" if pd.isna(value) else repr(value.item() if isinstance(value, np.generic) else value)
        more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        return f"{self.row(rows[0])}: {column} is {shown}{more}"


def read_table(source: str | os.PathLike[str] | pd.DataFrame, what: str) -> Table:
    """Read a table from a CSV file (plain or gzipped), a parquet file or a DataFrame.

    In CSV only an empty field is missing: ids such as ``NA`` or ``nan`` are ids. Empty lines at the end are
    ignored.

    Parameters
    ----------
    source : path or pandas.DataFrame
        Where the rows are. A path ends in ``.csv``, ``.csv.gz`` or ``.parquet``.
    what : str
        What the rows are, for messages ("interactions").

    Returns
    -------
    Table
        The rows, at least one.

    Raises
    ------
    DataError
        The file does not exist, is of another kind, cannot be parsed, or holds no row.
    """
    if isinstance(source, pd.DataFrame):
        table = Table(source.reset_index(drop=True), f"the {what} DataFrame", is_text=False)
    else:
        table = _read_file(Path(source), what)
    if table.frame.empty:
        raise DataError(f"{table.name} holds no row; give {what} with at least one row under the column names")
    return table


def _read_file(path: Path, what: str) -> Table:
    name, suffix = str(path), "".join(path.suffixes[-2:]).lower()
    if not path.is_file():
        raise DataError(f"{name} is not a file; give the path of the {what} as .csv, .csv.gz or .parquet")
    try:
        if suffix.endswith(".parquet"):
            return Table(pd.read_parquet(path).reset_index(drop=True), name, is_text=False)
        if suffix.endswith(".csv") or suffix == ".csv.gz":
            return Table(_read_csv(path), name, is_text=True)
    except pd.errors.EmptyDataError:
        raise DataError(f"{name} is empty; write the column names in line 1 and one entry a line below") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text ({error}); save it as UTF-8") from error
    except (ValueError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name} cannot be read ({reason}); repair the file or write it anew") from error
    raise DataError(f"{name} is of an unknown kind; give the {what} as .csv, .csv.gz, .parquet or a DataFrame")


def _read_csv(path: Path) -> pd.DataFrame:
    # Blank lines are read as empty rows: skipping them would shift every line number in the messages.
    frame = pd.read_csv(
        path,
        encoding="utf-8-sig",
        keep_default_na=False,
        na_values=[""],
        skip_blank_lines=False,
        low_memory=False,
    )
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the first field of every line for a row name
        raise ValueError("line 2 has more fields than line 1 has column names")
    filled = np.flatnonzero(frame.notna().any(axis=1).to_numpy())
    return frame.iloc[: filled[-1] + 1 if len(filled) else 0]


def require_columns(table: Table, columns: list[str]) -> None:
    """Check that each column is there exactly once.

    Raises
    ------
    DataError
        A column is missing or occurs twice.
    """
    present = list(table.frame.columns)
    missing = [column for column in columns if column not in present]
    if missing:
        raise DataError(
            f"{table.name} has no column {' and no column '.join(map(repr, missing))} among {present}; "
            "rename its columns (a CSV file separates them by commas)"
        )
    twice = [column for column in columns if present.count(column) > 1]
    if twice:
        raise DataError(f"{table.name} has the column {twice[0]!r} more than once; keep one of them")


def read_ids(table: Table, column: str) -> pd.Series:
    """Take a column of raw ids and bring it to one of two forms, whole numbers or text.

    Whole numbers that arrive as floats (as a merge with gaps leaves them) become integers again.

    Returns
    -------
    pandas.Series
        The ids, int64 or text, index as in the table.

    Raises
    ------
    DataError
        An id is missing, or the column holds anything but whole numbers only or text only.
    """
    values = table.frame[column]
    missing = np.flatnonzero(values.isna().to_numpy())
    if len(missing):
        raise DataError(f"{table.fault(missing, column)}; fill it in or delete the row")
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    kind = pd.api.types.infer_dtype(values, skipna=False)
    if kind == "floating":
        fractions = np.flatnonzero(values.to_numpy(dtype=float) % 1 != 0)
        if len(fractions):
            raise DataError(f"{table.fault(fractions, column)}; make all ids whole numbers or all of them text")
    if kind in ("integer", "floating"):
        return values.astype("int64")
    if kind != "string":
        raise DataError(
            f"{table.name}: the column {column!r} holds {kind} values; make all ids whole numbers or all of them text"
        )
    return values
