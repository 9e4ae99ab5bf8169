"""Attributes of items, columns of the items file, as codes that models look up beside the item's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import DataError
from ..scores.cells import column_and_separator, parts
from ..scores.reading import Table


@dataclass(frozen=True, eq=False)
class ItemAttribute:
    """A column of the items file, encoded.

    Attributes
    ----------
    column : str
        Its name in the file.
    values : pandas.Index
        The different values, sorted; code = position + 1. Code 0 is padding and "no value".
    codes : numpy.ndarray
        By item code, int32, with zeros for item 0: (n_items + 1,) of a column with one value an item, or
        (n_items + 1, width) of one with several, filled up with 0 on the right.
    """

    column: str
    values: pd.Index
    codes: np.ndarray

    @property
    def feature(self) -> str:
        """Name of the model's feature that holds the candidate's value: ``item_`` and the column."""
        return f"item_{self.column}"

    @property
    def history(self) -> str:
        """Name of the feature that holds the values of the user's history."""
        return f"hist_{self.feature}"

    @property
    def vocabulary_size(self) -> int:
        """Codes there are, with 0."""
        return len(self.values) + 1

    @property
    def has_several(self) -> bool:
        """Whether an item may have several values."""
        return self.codes.ndim == 2

    @property
    def width(self) -> int:
        """Most values of an item."""
        return self.codes.shape[1] if self.has_several else 1


def read_attributes(table: Table, wanted: Sequence[str]) -> dict[str, ItemAttribute]:
    """Encode columns of a catalogue.

    Parameters
    ----------
    table : Table
        Row i is the item of code i + 1.
    wanted : sequence of str
        Each ``COLUMN``, with one value an item, or ``COLUMN:SEPARATOR``, with several: ``genres:;``. The words
        ``space``, ``comma`` and ``pipe`` stand for these characters. Blanks around a value do not count; an empty one
        is none.

    Returns
    -------
    dict of str to ItemAttribute
        By the name of the feature, in the order of `wanted`.

    Raises
    ------
    DataError
        If a column is missing, named twice, has no value at all, or cannot be the name of a feature.
    """
    found: dict[str, ItemAttribute] = {}
    for name in wanted:
        column, separator, several = column_and_separator(name)
        if not column:
            raise DataError(
                f"attribute {name!r} is neither COLUMN nor COLUMN:SEPARATOR; write for instance brand, or genres:pipe "
                "for a column with several values"
            )
        if column in ("item_id", "id") or "." in column:
            raise DataError(
                f"column {column!r} cannot be an attribute: the name item_{column} is taken, or has a dot, which "
                "PyTorch refuses; rename the column"
            )
        table.require_columns([column])
        table.refuse(_is_list(table.frame[column]), column, "write texts, with a separator", problem="not a text")
        texts = pd.Series(table.texts(column)).str.strip()
        cells = [parts(text, separator) if several else [text] * bool(text) for text in texts]
        attribute = encode_attribute(column, cells, has_several=several)
        if len(attribute.values) == 0:
            raise DataError(f"{table.name}: column {column} is empty, so it says nothing of items; leave it out")
        if attribute.feature in found:
            raise DataError(f"attribute {column!r} is named twice; name it once")
        found[attribute.feature] = attribute
    return found


def _is_list(cells: pd.Series) -> np.ndarray:
    return np.array([isinstance(cell, (list, tuple, set, np.ndarray)) for cell in cells], dtype=bool)


def encode_attribute(column: str, cells: list[list[str]], *, has_several: bool) -> ItemAttribute:
    """Encode the values of a column: a list for each item, of code 1 and so on."""
    count = np.array([len(cell) for cell in cells])
    flat = np.array([value for cell in cells for value in cell], dtype=object)
    values = pd.Index(np.unique(flat), name=column)
    codes = np.zeros((len(cells) + 1, max(1, count.max())), dtype=np.int32)
    row = np.repeat(np.arange(len(cells)), count)
    place = np.arange(len(flat)) - np.repeat(count.cumsum() - count, count)
    codes[row + 1, place] = values.get_indexer(flat) + 1
    return ItemAttribute(column, values, codes if has_several else codes[:, 0])
