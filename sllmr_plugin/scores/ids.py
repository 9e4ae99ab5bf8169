"""Raw ids to the integer codes that the model was trained with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ..errors import IdWarning, ScoreTableError
from .reading import Table, inexact, numbers_or_text, plain_ids, read_ids, whole_numbers, without_point_zero

_ROUNDED = r"-?[0-9](?:\.[0-9]+)?[eE]\+[0-9]{2,}|-?[0-9]{16,}\.0"  # what spreadsheets and floats leave of long numbers

IdIndex: TypeAlias = Any
"""Raw id -> code: a mapping, a pandas Series, or a fitted sklearn LabelEncoder (duck-typed, so not nameable)."""


def encode_ids(raw: pd.Series, index: IdIndex | None, *, what: str, written: bool = False) -> np.ndarray:
    """Map raw ids to codes.

    A number and a text are different ids: 7 is not ``"7"``. A text file cannot tell them apart, so a `written` id is
    looked up as a text and, if that is not a key, as the whole number that it spells.

    Parameters
    ----------
    raw : pandas.Series
        (n,) raw ids without missing values.
    index : mapping, pandas.Series, fitted sklearn LabelEncoder or None
        Raw id -> code. None means that the raw ids are the model's codes already.
    what : str
        Names the ids in errors, for instance ``"user_id"``.
    written : bool, default=False
        Whether the ids are from a text file, or from a column of texts that stand for numbers too.

    Returns
    -------
    numpy.ndarray
        (n,) int64 codes, -1 where an id is not in the index.

    Raises
    ------
    ScoreTableError
        If `index` is of another kind, its codes are not integers, or it is None and the ids are not; or if an id
        is a float that may stand for several whole numbers.
    """
    _refuse_inexact(raw, f"{what} holds")
    raw = plain_ids(raw)
    if written:
        raw = raw.astype(object).map(str)
    if index is None:
        return _as_codes(numbers_or_text(raw) if written else raw, what)
    keys, codes = keys_and_codes(index, what)
    if not written:
        position = keys.get_indexer(pd.Index(raw))
    else:
        row, different = pd.factorize(raw)
        position = _written_positions(keys, pd.Series(different, dtype=object))[row]
    return np.append(codes, -1)[position]  # position -1 picks the appended -1


def encode_pairs(table: Table, user_index: IdIndex | None, item_index: IdIndex | None) -> tuple[np.ndarray, np.ndarray]:
    """Take ``user_id`` and ``item_id`` of a table and return their codes, (n_rows,) int64 each, as `encode_ids`."""
    users = encode_ids(read_ids(table, "user_id"), user_index, what="user_id", written=table.is_text)
    return users, encode_ids(read_ids(table, "item_id"), item_index, what="item_id", written=table.is_text)


def _written_positions(keys: pd.Index, texts: pd.Series) -> np.ndarray:
    """Find texts among keys, and those that are not there as the whole numbers that they write, (n,) places or -1."""
    position = np.full(len(texts), -1, dtype=np.intp)
    if not pd.api.types.is_numeric_dtype(keys.dtype):
        position = keys.get_indexer(pd.Index(texts))
    plain = without_point_zero(texts)
    open_numbers = np.flatnonzero((position < 0) & whole_numbers(plain))
    if len(open_numbers) and (pd.api.types.is_numeric_dtype(keys.dtype) or keys.dtype == object):
        numbers = pd.Index([int(text) for text in plain.iloc[open_numbers]], dtype=object)
        position[open_numbers] = keys.get_indexer(numbers.infer_objects())
    return position


def blank_around(raw: pd.Series, index: IdIndex, codes: np.ndarray, *, what: str, written: bool) -> np.ndarray:
    """Which of the ids that are not in an index would be in it without the blanks around them, (n,) bool."""
    found = np.zeros(len(raw), dtype=bool)
    lost = np.flatnonzero(codes < 0)
    if not len(lost) or pd.api.types.is_numeric_dtype(raw.dtype):
        return found
    texts = raw.iloc[lost].astype(str)
    stripped = texts.str.strip()
    padded = (texts != stripped).to_numpy(dtype=bool)
    if padded.any():
        found[lost[padded]] = encode_ids(stripped[padded], index, what=what, written=written) >= 0
    return found


def quick_index(index: IdIndex, what: str) -> pd.Series:
    """Return an index as a Series of codes by raw id, which is not built again for every piece that is encoded."""
    keys, codes = keys_and_codes(index, what)
    return pd.Series(codes, index=keys)


def example_mismatch(raw: pd.Series, index: IdIndex | None, what: str) -> str:
    """Say how ids of the table and keys of the index look, for an error about none of them matching."""
    if index is None:
        return f"{what} such as {raw.iloc[:1].tolist()[0]!r}"
    keys, _ = keys_and_codes(index, what)
    table, known = raw.iloc[:1].tolist()[0], keys[:1].tolist()[0] if len(keys) else None
    return f"{what} {table!r} ({type(table).__name__}) in the table, {known!r} ({type(known).__name__}) in the index"


def keys_and_codes(index: Any, what: str) -> tuple[pd.Index, np.ndarray]:
    """Return the raw ids of an index in the form of `plain_ids`, and their (n,) int64 codes; raises as `encode_ids`."""
    if hasattr(index, "classes_"):
        keys, codes = pd.Index(index.classes_), np.arange(len(index.classes_), dtype=np.int64)
    elif isinstance(index, pd.Series):
        # Before pandas 2.2 an Int64 without gaps becomes an array of objects.
        whole = str(index.dtype) in ("Int8", "Int16", "Int32", "Int64") and not index.isna().any()
        keys, codes = index.index, (index.astype("int64") if whole else index).to_numpy()
    elif isinstance(index, Mapping):
        keys, codes = pd.Index(list(index.keys())), np.array(list(index.values()))
    else:
        raise ScoreTableError(
            f"the index of {what} is a {type(index).__name__}. Pass a dict or a Series from raw id to code, "
            "or a fitted sklearn LabelEncoder."
        )
    if len(codes) and not np.issubdtype(codes.dtype, np.integer):
        raise ScoreTableError(f"the index of {what} maps to {codes.dtype}. Map every raw id to an integer code.")
    keys = _plain_keys(keys, what)
    if not keys.is_unique:
        twice = keys[keys.duplicated()].tolist()[0]
        raise ScoreTableError(f"the index of {what} holds {twice!r} twice. Keep one code for every raw id.")
    return keys, codes.astype(np.int64)


def _plain_keys(keys: pd.Index, what: str) -> pd.Index:
    if keys.dtype in (np.int64, np.uint64) or isinstance(keys, pd.MultiIndex):
        return keys
    known = keys.to_series()
    _refuse_inexact(known[known.notna()], f"the index of {what} holds")
    plain = known if known.isna().any() else plain_ids(known)
    return keys if plain is known else pd.Index(plain.array)


def _refuse_inexact(ids: pd.Series, holds: str) -> None:
    bad = inexact(ids)
    if bad.any():
        raise ScoreTableError(
            f"{holds} {ids[bad].tolist()[0]!r}, a float so large that it may stand for several ids. Read the ids as "
            "integers or as text where they come from (pandas: dtype=str)."
        )


def _as_codes(raw: pd.Series, what: str) -> np.ndarray:
    if raw.dtype == np.int64 or raw.empty:
        return raw.to_numpy(dtype=np.int64)
    if pd.api.types.is_numeric_dtype(raw.dtype) and not pd.api.types.is_bool_dtype(raw.dtype):
        values = raw.to_numpy(dtype=np.float64, na_value=np.nan)
        raw = raw[~((values == np.floor(values)) & (np.abs(values) < 2.0**63))]
    raise ScoreTableError(
        f"{what} holds {raw.iloc[:1].tolist()[0]!r}, which is not an integer code. Pass "
        f"{what.removesuffix('_id')}_index= (a dict, Series or fitted LabelEncoder from raw id to the model's code)."
    )


def warn_of_odd_ids(ids: pd.Index, source: str) -> None:
    """Warn if ids look as if a program had changed them, or if two of them differ only in blanks.

    Parameters
    ----------
    ids : pandas.Index
        Different ids; its name is that of the column.
    source : str
        Where they are from, for the message.

    Warns
    -----
    IdWarning
        Ids such as ``1.23457E+15``, or two ids that only differ in blanks around them.
    """
    if pd.api.types.is_numeric_dtype(ids.dtype):
        return
    texts = pd.Series(ids, dtype=object).astype(str)
    rounded = texts[texts.str.fullmatch(_ROUNDED).to_numpy(dtype=bool)]
    if len(rounded):
        warnings.warn(
            f"{source}: {len(rounded)} different {ids.name}(s) look like what spreadsheets and columns of floats leave "
            f"of long numbers, for instance {rounded.iloc[0]!r}; several ids may have become one. Write the file again "
            "with the ids as text.",
            IdWarning,
            stacklevel=3,
        )
    stripped = texts.str.strip()
    padded = (texts != stripped) & stripped.duplicated(keep=False)
    if padded.any():
        warnings.warn(
            f"{source}: {int(padded.sum())} different {ids.name}(s) differ from another only in the blanks around "
            f"them, for instance {texts[padded].iloc[0]!r}; they count as different ids. Remove the blanks if "
            "that is not intended.",
            IdWarning,
            stacklevel=3,
        )
