"""Reads every table that holds ids: interactions, items, candidates, scores and texts.

An id is what the file says. In a text file (CSV) an id is the text between two separators: ``007`` and ``7``
are two ids, ``12e3`` is not a number, ``NA`` is a name. Only if all ids of a column are written as whole numbers
(or all of them as floats are, ``7.0``), and fit into 64 bits, are they read as whole numbers.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from ..errors import DataError, SLLMRError

_NO_NUMBER = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]  # what programs write for a missing number
_WHOLE = r"0|-?[1-9][0-9]{0,19}"  # the one way to write a whole number of up to 64 bits
_POINT_ZERO = r"(?:0|-?[1-9][0-9]{0,14})\.0"  # a whole number that a column of floats, exact so far, has written
_TYPED_NAME = re.compile(r"[^:]+:(?:token_seq|float_seq|token|float)(?P<delimiter>[^\w\r\n])")


@dataclass(frozen=True)
class Table:
    """A data frame, what to call it in messages, and whether its rows are lines of a text file.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row per entry, index ``0 .. n - 1`` in file order.
    name : str
        The file's path as it was given, or a phrase such as "the interactions DataFrame".
    is_text : bool
        True for CSV: ids are texts, and `row` counts lines as an editor does.
    error : type of SLLMRError, default=DataError
        What is raised for a fault in the table.
    first_row : int, default=0
        Number of the first row in the file, where the frame is a piece of it.
    """

    frame: pd.DataFrame
    name: str
    is_text: bool
    error: type[SLLMRError] = DataError
    first_row: int = 0

    def row(self, number: int) -> str:
        """Name one row: its line in a CSV file (the header is line 1), else its number counted from 0."""
        if not self.is_text:
            return f"{self.name}, row {self.first_row + number} (counted from 0)"
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

    def refuse(self, bad: pd.Series | np.ndarray, column: str, remedy: str, *, problem: str = "") -> None:
        """Raise an error if a mask of rows holds any: the first of them, how many, the problem and the remedy."""
        rows = np.flatnonzero(np.asarray(bad))
        if len(rows):
            raise self.error(f"{self.fault(rows, column)}{problem and ', ' + problem}; {remedy}")

    def require_columns(self, columns: Iterable[str]) -> None:
        """Check that each column is there, and raise the table's error if it is not."""
        present = list(self.frame.columns)
        missing = [column for column in columns if column not in present]
        if missing:
            raise self.error(
                f"{self.name} has no column {' and no column '.join(map(repr, missing))} among {present}; "
                "rename its columns (a CSV file separates them by commas)"
            )

    def texts(self, column: str) -> np.ndarray:
        """Return a column as text, (n_rows,) of str: as the file has it, "" where a cell is empty.

        Whole numbers in a column with empty cells, which pandas holds as floats, are written without ``.0``.
        """

        def text(value: Any) -> str:
            return "" if pd.isna(value) else str(int(value) if isinstance(value, float) and value % 1 == 0 else value)

        return np.array([text(value) for value in self.frame[column]], dtype=object)

    def refuse_inexact_ids(self, column: str) -> None:
        """Raise the table's error if a column of ids holds floats that may stand for several whole numbers."""
        self.refuse(
            inexact(self.frame[column]),
            column,
            "read the ids as integers or as text where they come from (pandas: dtype=str), and write the table again",
            problem="a float so large that it may stand for several ids",
        )


def as_pandas(table: Any) -> Any:
    """Return a frame of another library that can become one of pandas (polars, pyarrow) as that; others as they are."""
    if isinstance(table, pd.DataFrame) or not hasattr(table, "to_pandas"):
        return table
    arrow = table.to_arrow() if hasattr(table, "to_arrow") else table
    return arrow.to_pandas(integer_object_nulls=True)  # whole numbers in a column with gaps stay whole


def read_table(
    source: str | os.PathLike[str] | pd.DataFrame,
    what: str,
    *,
    numbers: Sequence[str] = (),
    error: type[SLLMRError] = DataError,
) -> Table:
    """Read a table from a CSV file (plain or gzipped), a parquet file, a RecBole file or a DataFrame.

    In a text file all columns are text, and only an empty field is missing: ids such as ``NA`` or ``nan`` are ids.
    Empty lines at the end are ignored.

    Parameters
    ----------
    source : path or pandas.DataFrame
        Where the rows are; frames of polars and pyarrow are taken as well. A path ends in ``.csv``, ``.csv.gz``,
        ``.parquet`` or ``.pq``, or in ``.inter`` or ``.item`` for RecBole's files, whose columns are named
        ``user_id:token`` and the like.
    what : str
        What the rows are, for messages ("interactions").
    numbers : sequence of str, default=()
        Columns of a text file that are read as numbers, if they are. A score may also be ``NA`` or the like.
    error : type of SLLMRError, default=DataError
        What is raised.

    Returns
    -------
    Table
        The rows, at least one.

    Raises
    ------
    SLLMRError
        Of the given type: the file does not exist, is of another kind, cannot be parsed, has a column twice, or holds
        no row.
    """
    source = as_pandas(source)
    if isinstance(source, pd.DataFrame):
        table = Table(source.reset_index(drop=True), f"the {what} DataFrame", is_text=False, error=error)
    else:
        table = _read_file(Path(source), what, numbers, error)
    refuse_doubled(table.frame.columns, table.name, error)
    if table.frame.empty:
        raise error(f"{table.name} holds no row; give {what} with at least one row under the column names")
    return table


def refuse_doubled(columns: Iterable[str], name: str, error: type[SLLMRError]) -> None:
    """Raise an error if a column name occurs twice, since it is unclear which one is meant."""
    names = pd.Index(columns)
    doubled = names[names.duplicated()]
    if len(doubled):
        raise error(f"{name} has the column {doubled[0]!r} more than once; keep one of them, or rename one")


def _read_file(path: Path, what: str, numbers: Sequence[str], error: type[SLLMRError]) -> Table:
    name, suffixes = str(path), [suffix.lower() for suffix in path.suffixes[-2:]]
    kinds = ".csv, .csv.gz or .parquet"
    if not path.is_file():
        raise error(f"{name}: no such file; give the path of the {what} as {kinds}")
    try:
        if suffixes and suffixes[-1] in (".parquet", ".pq"):
            file = pyarrow.parquet.ParquetFile(path)
            refuse_doubled(file.schema_arrow.names, name, error)  # which old versions of pandas cannot read
            # Whole numbers in a column with missing ones become Python integers, not floats.
            frame = file.read().to_pandas(integer_object_nulls=True)
            return Table(frame.reset_index(drop=True), name, is_text=False, error=error)
        if ".csv" in suffixes:
            return Table(_read_text(path, numbers, typed=False), name, is_text=True, error=error)
        if {".inter", ".item"} & set(suffixes):
            return Table(_read_text(path, numbers, typed=True), name, is_text=True, error=error)
    except pd.errors.EmptyDataError:
        raise error(f"{name} is empty; write the column names in line 1 and one entry per line below") from None
    except UnicodeDecodeError as fault:
        raise error(f"{name} is not UTF-8 text ({fault}); save it as UTF-8") from fault
    except error:
        raise
    except (ValueError, OSError, EOFError) as fault:
        reason = " ".join(str(fault).split())
        raise error(f"{name} cannot be read ({reason}); repair the file or write it again") from fault
    raise error(f"{name} is of an unknown kind; give the {what} as {kinds}, or as a DataFrame")


def _read_text(path: Path, numbers: Sequence[str], *, typed: bool) -> pd.DataFrame:
    names, options = _header(path, typed)
    # Blank lines are read as empty rows: skipping them would shift every line number in the messages. The columns are
    # numbered while they are read, for pandas changes a name that occurs twice.
    frame = pd.read_csv(
        path,
        header=0,
        names=range(len(names)),
        dtype={number: str for number, name in enumerate(names) if name not in numbers},
        keep_default_na=False,
        na_values={
            number: _NO_NUMBER if name == "score" and name in numbers else [""] for number, name in enumerate(names)
        },
        skip_blank_lines=False,
        low_memory=False,
        **options,
    )
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the first field of every line for a row name
        raise ValueError("line 2 has more fields than line 1 has column names")
    filled = np.flatnonzero(frame.notna().any(axis=1).to_numpy())
    return frame.set_axis(names, axis=1).iloc[: filled[-1] + 1 if len(filled) else 0]


def _header(path: Path, typed: bool) -> tuple[list[str], dict[str, Any]]:
    """Return the column names as the file has them, without RecBole's types, and what pandas must know to read it."""
    options: dict[str, Any] = {"encoding": "utf-8-sig"}
    first_line: dict[str, Any] = {"header": None, "nrows": 1, "dtype": str, "keep_default_na": False}
    if typed:  # RecBole puts no quotes around fields
        options["quoting"] = csv.QUOTE_NONE
        options["sep"] = typed_delimiter(pd.read_csv(path, sep="\x01", **first_line, **options).iloc[0, 0])
    written = pd.read_csv(path, **first_line, **options).iloc[0]
    names = [name or f"Unnamed: {number}" for number, name in enumerate(written)]  # unnamed as pandas says it
    return [name.rpartition(":")[0] or name for name in names] if typed else names, options


def typed_delimiter(header: str) -> str:
    """Find what separates the names of a RecBole file's first line: what follows the first type, else a tab.

    Examples
    --------
    >>> typed_delimiter("user_id:token item_id:token")
    ' '
    """
    found = _TYPED_NAME.match(header)
    return found["delimiter"] if found else "\t"


def read_ids(table: Table, column: str) -> pd.Series:
    """Take a column of raw ids without gaps.

    Returns
    -------
    pandas.Series
        Index as in the table. Of a text file, the ids as they are written (`common_form` makes numbers of them); else
        whole numbers or text, see `plain_ids`.

    Raises
    ------
    SLLMRError
        The table's error: an id is missing, a float that may stand for several ids, or the column holds anything but
        whole numbers only or text only.
    """
    table.require_columns([column])
    values = table.frame[column]
    table.refuse(values.isna(), column, "fill it in or delete the row")
    if table.is_text:
        return values
    table.refuse_inexact_ids(column)
    ids = plain_ids(values)
    kind = pd.api.types.infer_dtype(ids, skipna=False)
    if kind == "floating":
        floats = ids.to_numpy(dtype=float)
        table.refuse(floats != np.floor(floats), column, "make all ids whole numbers or all of them text")
    if kind not in ("integer", "string"):
        raise table.error(
            f"{table.name}: the column {column!r} holds {kind} values; make all ids whole numbers or all of them text"
        )
    return ids


def common_form(tables: list[Table], column: str) -> list[pd.Series]:
    """Read a column of ids from tables that name the same things, in one form: all of them whole numbers, or all text.

    Parameters
    ----------
    tables : list of Table
        What is written in a text file is a number if the other tables hold numbers, or, where all are text files, if
        every id of all of them is written as a whole number is.
    column : str
        Name of the column in each.

    Returns
    -------
    list of pandas.Series
        Of int64, uint64 or text.

    Raises
    ------
    SLLMRError
        As `read_ids`, or if one table holds numbers and another text.
    """
    columns = [read_ids(table, column) for table in tables]
    forms = [numbers_or_text(ids) if table.is_text else ids for table, ids in zip(tables, columns, strict=True)]
    are_numbers = [pd.api.types.is_integer_dtype(ids.dtype) for ids in forms]
    if all(are_numbers):
        return forms
    given = [table for table, is_number in zip(tables, are_numbers, strict=True) if is_number and not table.is_text]
    if not given:
        return columns  # as text, which those of text files are before anything is made of them
    problem, remedy = f"while {given[0].name} has numbers", "write both the same way"
    other = tables[are_numbers.index(False)]
    if other.is_text:
        other.refuse(~whole_numbers(other.frame[column]), column, remedy, problem=problem)
    raise other.error(f"{other.name} has text as {column}, {problem}; {remedy}")


def whole_numbers(texts: pd.Series) -> np.ndarray:
    """Which texts are whole numbers as they are commonly written, (n,) bool: not ``007``, ``7.0`` or ``7e3``."""
    return texts.astype(str).str.fullmatch(_WHOLE).to_numpy(dtype=bool)


def without_point_zero(texts: pd.Series) -> pd.Series:
    """Take ``.0`` off whole numbers if every text has it: they come from a column of floats. Else no text changes."""
    if not texts.astype(str).str.fullmatch(_POINT_ZERO).all():
        return texts
    return texts.astype(str).str.removesuffix(".0")


def numbers_or_text(texts: pd.Series) -> pd.Series:
    """Make numbers of texts if all are written as whole numbers and fit into 64 bits together; else leave all as text.

    Examples
    --------
    >>> numbers_or_text(pd.Series(["7", "18446744073709551615"])).dtype
    dtype('uint64')
    >>> numbers_or_text(pd.Series(["7", "007"])).tolist()
    ['7', '007']
    """
    plain = without_point_zero(texts)
    if not whole_numbers(plain).all():
        return texts
    codes, different = pd.factorize(plain)
    numbers = _whole([int(text) for text in different])
    return texts if numbers is None else pd.Series(numbers[codes], index=texts.index, name=texts.name)


def plain_ids(values: pd.Series) -> pd.Series:
    """Bring ids without gaps to one of two forms, whole numbers of 64 bits or text, where that is possible.

    Floats (as a merge with gaps leaves them) and decimals that are whole become integers. Whole numbers of which one
    needs more than 64 bits become text: no table file could hold them. Anything else stays as it is.
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    kind = pd.api.types.infer_dtype(values, skipna=False)
    if kind == "integer" and values.dtype != object:
        fits = values.dtype.kind == "i" or len(values) == 0 or int(values.max()) < 2**63
        return values.astype("int64" if fits else "uint64")
    if kind not in ("integer", "floating", "mixed-integer-float", "decimal"):
        return values
    if kind == "floating" and values.dtype != object:
        floats = values.to_numpy(dtype=np.float64)
        whole = (floats == np.floor(floats)) & (np.abs(floats) < 2.0**53)
        return values.astype("int64") if whole.all() else values
    if any(not math.isfinite(value) or value % 1 != 0 for value in values):
        return values
    wide = [int(value) for value in values]
    numbers = _whole(wide)
    return pd.Series(list(map(str, wide)) if numbers is None else numbers, index=values.index, name=values.name)


def inexact(values: pd.Series) -> np.ndarray:
    """Which ids are floats so large that neighbouring whole numbers are one float, (n,) bool: from 2^53 on."""
    if pd.api.types.is_float_dtype(values.dtype):
        exact = 2.0 ** (np.finfo(getattr(values.dtype, "numpy_dtype", values.dtype)).nmant + 1)
        floats = values.to_numpy(dtype=np.float64, na_value=np.nan)
    elif values.dtype == object and "float" in pd.api.types.infer_dtype(values, skipna=True):
        exact = 2.0**53
        floats = np.array([value if isinstance(value, float) else np.nan for value in values], dtype=np.float64)
    else:
        return np.zeros(len(values), dtype=bool)
    return np.isfinite(floats) & (np.abs(floats) >= exact)


def _whole(numbers: list[int]) -> np.ndarray | None:
    low, high = min(numbers, default=0), max(numbers, default=0)
    if -(2**63) <= low and high < 2**63:
        return np.array(numbers, dtype=np.int64)
    return np.array(numbers, dtype=np.uint64) if low >= 0 and high < 2**64 else None
