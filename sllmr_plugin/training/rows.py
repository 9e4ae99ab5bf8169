"""Model input rows for any (user, candidate): a template row of the user with the item's columns replaced."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd

from ..errors import ItemTableWarning, WrapError
from ..scores.ids import IdIndex, encode_ids
from ..scores.reading import as_pandas

Layout = Mapping[str, tuple[int, int]]

_DECIDED = 0.9  # share of the rows off the most frequent value that keys must explain to decide a feature
_LEAST_EVIDENCE = 10  # such rows, of which a few agree by chance
_FAR = 5  # widths of the training rows' range beyond which a value of an item table is of another scale


@dataclass(frozen=True)
class Features:
    """How a model names and lays out what the regularizer needs.

    Attributes
    ----------
    user, item : str
        Id features.
    item_features : tuple of str
        All item-side features, `item` among them.
    layout : mapping of str to (int, int)
        Feature name -> first input column and one past the last.
    n_users, n_items : int
        Vocabulary sizes of the id features.
    regression : bool, default=False
        Whether the output is a score without bounds, trained on ratings, not a probability.
    vocabularies : mapping of str to int
        Item-side features, `item` apart, whose values are codes, and how many codes there are; others hold numbers.
    """

    user: str
    item: str
    item_features: tuple[str, ...]
    layout: Mapping[str, tuple[int, int]]
    n_users: int
    n_items: int
    regression: bool = False
    vocabularies: Mapping[str, int] = field(default_factory=dict)


class TrainingRows(Protocol):
    """The training rows handed to `fit`, as far as the regularizer looks at them.

    Attributes
    ----------
    dtype : numpy.dtype
        Of the model's input rows.
    positive : numpy.ndarray
        (n_rows,) bool.
    label_variance : float
        Variance of the labels.
    """

    dtype: np.dtype
    positive: np.ndarray
    label_variance: float

    def column(self, name: str) -> np.ndarray:
        """Return the values of an id feature, (n_rows,)."""

    def latest_rows(self, name: str, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the template rows of codes of an id feature.

        Parameters
        ----------
        name : str
            An id feature.
        codes : numpy.ndarray
            (n,) int64.

        Returns
        -------
        found : numpy.ndarray
            (n,) bool: the code occurs.
        rows : numpy.ndarray
            (n_found, width): of each such code its last positive row, else its last row.
        """

    def unlisted(self, user: str, item: str, listed: Sequence[str]) -> Unlisted:
        """Find what decides the values of the features that are not listed as item-side, see `Unlisted`."""


@dataclass(frozen=True)
class Unlisted:
    """Features that are not listed as item-side, but may be, by what decides their values in the training rows.

    A candidate row keeps the values that these have in the user's template row, which are those of another item.

    Attributes
    ----------
    item_side : list of str
        The item decides their values, the user does not.
    of_pairs : list of str
        Neither user nor item decides their values, but both together do.
    """

    item_side: list[str] = field(default_factory=list)
    of_pairs: list[str] = field(default_factory=list)


class ArrayRows:
    """Training rows in arrays, read column by column and row by row without copying them whole.

    Parameters
    ----------
    arrays : sequence of array-like
        Each (n_rows,) or (n_rows, width); side by side they make the model's input matrix.
    labels : array-like
        (n_rows,) or (n_rows, n_tasks).
    layout : mapping of str to (int, int)
        Feature name -> first column and one past the last.
    n_rows : int, optional
        Rows that train, from the top; the rest is validation and is not looked at.
    task : int, default=0
        Column of the labels that marks positives.
    dtype : type, default=numpy.float32
        Of the model's input rows.
    all_positive : bool, default=False
        Whether every row counts as positive, as ratings do: each is an interaction. Labels that are all 0 or 1 are
        taken for clicks nonetheless.
    """

    def __init__(
        self,
        arrays: Sequence,
        labels: np.ndarray,
        layout: Layout,
        n_rows: int | None = None,
        task: int = 0,
        dtype: type[np.floating] = np.float32,
        all_positive: bool = False,
    ) -> None:
        n = len(labels) if n_rows is None else n_rows
        self.arrays = [np.asarray(array)[:n].reshape(n, -1) for array in arrays]
        self.layout = layout
        self.dtype = np.dtype(dtype)
        self.n_rows = n
        marks = np.asarray(labels)[:n].reshape(n, -1)
        marks = marks[:, min(task, marks.shape[1] - 1)]
        self.positive = marks > 0.5
        self.label_variance = float(np.var(marks, dtype=np.float64)) if n else 0.0
        if all_positive and not np.isin(marks, (0, 1)).all():
            self.positive = np.ones(n, dtype=bool)
        self._first_column = np.cumsum([0, *(array.shape[1] for array in self.arrays)])

    def column(self, name: str) -> np.ndarray:
        """Return a feature's values, (n_rows,) or (n_rows, width)."""
        first, end = self.layout[name]
        parts = [self._single(position) for position in range(first, end)]
        return parts[0] if len(parts) == 1 else np.stack(parts, axis=1)

    def _single(self, position: int) -> np.ndarray:
        array = int(np.searchsorted(self._first_column, position, side="right")) - 1
        return self.arrays[array][:, position - self._first_column[array]]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return whole rows as the model sees them, (len(rows), width)."""
        return np.concatenate([array[rows].astype(self.dtype) for array in self.arrays], axis=1)

    def latest_rows(self, name: str, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the template rows of codes of an id feature, see `TrainingRows`."""
        everywhere = self.column(name).astype(np.int64)
        n_codes = int(max(everywhere.max(initial=0), codes.max(initial=0))) + 1
        row = self.latest(everywhere, n_codes)[codes]
        return row >= 0, self.gather(row[row >= 0])

    def latest(self, codes: np.ndarray, n_codes: int) -> np.ndarray:
        """Return each code's template row: its last positive row, else its last row, else -1.

        Parameters
        ----------
        codes : numpy.ndarray
            (n_rows,) int64, for instance the user of every row.
        n_codes : int
            Codes lie in ``[0, n_codes)``.

        Returns
        -------
        numpy.ndarray
            (n_codes,) int64 row numbers.
        """
        row = np.full(n_codes, -1, dtype=np.int64)
        everywhere = np.arange(self.n_rows)
        row[codes] = everywhere  # the last of repeated assignments stays
        row[codes[self.positive]] = everywhere[self.positive]
        return row

    def unlisted(self, user: str, item: str, listed: Sequence[str], max_rows: int = 200_000) -> Unlisted:
        """Find what decides the values of the features that are not listed as item-side.

        Users, items or pairs of both decide a feature when `_DECIDED` of what varies over the rows lies between
        them, and at most the rest within: a few dirty rows do not hide a feature, and a feature that hardly varies is
        not named. Features of several columns, such as a list of genres, count as one value.

        Parameters
        ----------
        user, item : str
            Names of the id features.
        listed : sequence of str
            Features that are known to be item-side.
        max_rows : int, default=200000
            Rows looked at, from the top.
        """
        n = min(self.n_rows, max_rows)
        found = Unlisted()
        if n == 0:
            return found
        users, items = (self.column(name)[:n].astype(np.int64) for name in (user, item))
        pairs = users * (items.max() + 1) + items
        distinct = self._distinct(n)
        if np.count_nonzero(pd.Series(pairs[distinct]).duplicated()) < _LEAST_EVIDENCE:
            distinct = np.arange(n)  # too few pairs occur in another row, so copies are used
        for name, (first, end) in self.layout.items():
            if name in (user, *listed):
                continue
            values = np.stack([self._single(position)[:n] for position in range(first, end)], axis=1)
            value = _hashed(values) if end - first > 1 else values[:, 0]
            if _decides(users, value):
                continue
            if _decides(items, value):
                found.item_side.append(name)
            elif _decides(pairs[distinct], value[distinct]):
                found.of_pairs.append(name)
        return found

    def _distinct(self, n: int) -> np.ndarray:
        """Return one of each set of equal rows among the first n: in copies of a row everything repeats."""
        hashed = np.sum([_hashed(array[:n], seed) for seed, array in enumerate(self.arrays)], axis=0, dtype=np.uint64)
        return np.flatnonzero(~pd.Series(hashed).duplicated())


def _hashed(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return a number of each row, (n,) uint64, equal for equal rows of (n, width) and hardly ever for others."""
    of_values = pd.util.hash_array(rows.ravel()).reshape(len(rows), -1)
    odd = 2 * np.random.default_rng(seed).integers(1 << 62, size=of_values.shape[1]).astype(np.uint64) + 1
    return (of_values * odd).sum(axis=1, dtype=np.uint64)


def _numbered(values: np.ndarray) -> np.ndarray:
    """Return the number of each value, (n,) int64 from 0 as they first occur; sorting takes ten times as long."""
    return pd.factorize(values, use_na_sentinel=False)[0]


def _decides(keys: np.ndarray, values: np.ndarray) -> bool:
    """Whether rows of one key nearly always have one value, among keys of several rows, and other keys have others."""
    key = _numbered(keys)
    count = np.bincount(key)
    repeated = count[key] > 1
    key, value = key[repeated], _numbered(values[repeated])
    if len(key) == 0:
        return False
    # The most frequent value of each key, and how many rows have another one.
    pair = _numbered(key * (value.max() + 1) + value)
    of_pair = np.zeros(pair.max() + 1, dtype=np.int64)
    of_pair[pair] = key
    most = np.zeros(len(count), dtype=np.int64)
    np.maximum.at(most, of_pair, np.bincount(pair))
    within = len(key) - most.sum()
    overall = len(key) - np.bincount(value).max()
    return bool(overall >= _LEAST_EVIDENCE and within <= (1 - _DECIDED) * overall)


def item_columns(layout: Layout, item_features: Sequence[str]) -> np.ndarray:
    """Return the matrix columns of some features, (n,) int64, in the order of the features."""
    return np.concatenate([np.arange(*layout[name]) for name in item_features]).astype(np.int64)


def known_item_values(
    training: TrainingRows,
    features: Features,
    wanted: np.ndarray,
    item_table: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the item-side columns of items.

    The item table comes first, then the item's latest training row; an item whose only item-side column is
    its own id needs neither.

    Parameters
    ----------
    training : TrainingRows
        The rows handed to `fit`.
    features : Features
        How the model names and lays out its item-side features.
    wanted : numpy.ndarray
        (n,) int64 ascending item codes.
    item_table : (numpy.ndarray, numpy.ndarray) or None
        Codes and values, as `encode_item_table` returns them.

    Returns
    -------
    codes : numpy.ndarray
        (m,) the wanted items that have values, ascending.
    values : numpy.ndarray
        (m, n_item_columns) of the rows' dtype.
    """
    if list(features.item_features) == [features.item]:
        return wanted, wanted[:, None].astype(training.dtype)
    columns = item_columns(features.layout, features.item_features)
    values = np.zeros((len(wanted), len(columns)), dtype=training.dtype)
    known, rows = training.latest_rows(features.item, wanted)
    values[known] = rows[:, columns]
    if item_table is not None:
        position = pd.Index(item_table[0]).get_indexer(pd.Index(wanted))
        listed = position >= 0
        known |= listed
        given = item_table[1][position[listed]]
        _warn_of_scale(given, rows[:, columns], features)
        values[listed] = given
    return wanted[known], values[known]


def encode_item_table(
    table: pd.DataFrame, features: Features, item_index: IdIndex | None
) -> tuple[np.ndarray, np.ndarray]:
    """Turn an item table into codes and input columns.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per item: the raw id under the name of the item feature, and every other item-side feature with the
        value that the model is fed (encoded already); cells of features of several columns hold sequences, which are
        padded with 0 here.
    features : Features
        How the model names and lays out its item-side features.
    item_index : mapping, pandas.Series, LabelEncoder or None
        Raw item id -> code.

    Returns
    -------
    codes : numpy.ndarray
        (n,) int64, rows with unknown ids left out.
    values : numpy.ndarray
        (n, n_item_columns) float64.

    Raises
    ------
    WrapError
        Naming missing columns, an item listed twice, a cell that is empty, infinite, not a number or outside of a
        feature's vocabulary, or a sequence that is too long.
    """
    item, item_features, layout = features.item, features.item_features, features.layout
    table = as_pandas(table)
    if not isinstance(table, pd.DataFrame):
        raise WrapError([f"item_table is a {type(table).__name__}. Pass a DataFrame with one row per item."])
    missing = [name for name in item_features if name not in table.columns]
    if missing:
        raise WrapError(
            [f"item_table lacks the column(s) {', '.join(missing)}. Add them, encoded as the model is fed."]
        )
    codes = encode_ids(table[item], item_index, what=item)
    rows = table[codes >= 0]
    codes = codes[codes >= 0]
    if len(np.unique(codes)) < len(codes):
        twice = rows[item][pd.Series(codes).duplicated().to_numpy()].tolist()[0]
        raise WrapError([f"item_table lists item {twice!r} more than once. Keep one row per item."])
    parts = [
        codes[:, None] if name == item else _cells(rows[name], layout[name][1] - layout[name][0], name)
        for name in item_features
    ]
    values = np.concatenate(parts, axis=1).astype(np.float64)
    names = _names_of_columns(features)
    unusable = ~(np.abs(values) <= np.finfo(np.float32).max)  # models compute in float32; NaN is not below it either
    if unusable.any():
        row, column = np.argwhere(unusable)[0].tolist()
        cell, name = values[row, column], names[column]
        what = "an empty cell" if np.isnan(cell) else f"the value {cell:g}"
        raise WrapError(
            [
                f"item_table has {what} for item {rows[item].tolist()[row]!r} in column {name}. Fill it in with a "
                "finite number as the model is fed, or leave the item out."
            ]
        )
    sizes = np.array([features.vocabularies.get(name, np.inf) for name in names])
    outside = np.isfinite(sizes) & ((values < 0) | (values >= sizes) | (values % 1 != 0))
    outside &= (codes < features.n_items)[:, None]  # the model knows no other items
    if outside.any():
        row, column = np.argwhere(outside)[0].tolist()
        raise WrapError(
            [
                f"item_table has the value {values[row, column]:g} for item {rows[item].tolist()[row]!r} in column "
                f"{names[column]}, whose codes are 0 to {int(sizes[column]) - 1} in the model. Encode it as the model "
                "is fed."
            ]
        )
    return codes, values


def _names_of_columns(features: Features) -> list[str]:
    """Return the feature that each item-side column belongs to."""
    spans = {name: features.layout[name] for name in features.item_features}
    return [name for name, (first, end) in spans.items() for _ in range(first, end)]


def _warn_of_scale(given: np.ndarray, trained: np.ndarray, features: Features) -> None:
    """Warn of columns of an item table, (n, n_item_columns), that reach far out of their range in training rows.

    Codes have no scale: those of rare values may be far away.
    """
    if not len(given) or not len(trained):
        return
    low, high = trained.min(axis=0), trained.max(axis=0)
    span = np.where(high > low, high - low, np.maximum(np.abs(high), 1))
    far = (given.max(axis=0) > high + _FAR * span) | (given.min(axis=0) < low - _FAR * span)
    names = _names_of_columns(features)
    for column in np.flatnonzero(far):
        name = names[column]
        if name != features.item and name not in features.vocabularies:
            warnings.warn(
                f"item_table column {name} runs from {given[:, column].min():g} to {given[:, column].max():g}, in the "
                f"training rows of scored items from {low[column]:g} to {high[column]:g}. Scale or encode it as the "
                "training rows are, or leave the items out whose values are meant to be so far away.",
                ItemTableWarning,
                stacklevel=3,
            )


def _cells(cells: pd.Series, width: int, name: str) -> np.ndarray:
    if width == 1 and pd.api.types.is_numeric_dtype(cells.dtype):
        return cells.to_numpy(dtype=np.float64, na_value=np.nan)[:, None]
    lists = [np.atleast_1d(cell) for cell in cells]
    longest = max((len(cell) for cell in lists), default=0)
    if longest > width:
        raise WrapError(
            [f"item_table column {name} holds {longest} values where the model takes {width}. Truncate them."]
        )
    padded = np.zeros((len(lists), width))
    for row, cell in zip(padded, lists, strict=True):
        try:
            row[: len(cell)] = cell
        except (TypeError, ValueError):
            raise WrapError(
                [f"item_table column {name} holds {cell.tolist()!r}. Encode it as the model is fed."]
            ) from None
    return padded
