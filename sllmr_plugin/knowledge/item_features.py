"""ItemFeatures: sparse features that the item alone decides, such as semantic ids, beside the item's own id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..scores.ids import IdIndex, encode_ids
from ..scores.reading import as_pandas


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """Codes of items by name of the feature. Build one with `of`.

    Attributes
    ----------
    item : str
        The model's feature that carries the item id.
    vocabularies : dict of str to tuple
        Name of each feature -> its values. The code of a value is its place, counted from 1; 0 is the code of an item
        without one, and of a value that is not among them.
    table : pandas.DataFrame
        A row an item of the frame: its raw id under the name `item`, and its codes. `wrap` takes it as ``item_table``.
    codes : numpy.ndarray
        (n_item_codes, n_features) int64: the features' codes by the item's code.
    """

    item: str
    vocabularies: dict[str, tuple[Any, ...]]
    table: pd.DataFrame
    codes: np.ndarray

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        *,
        item: str = "item_id",
        item_index: IdIndex | None = None,
        vocabularies: Mapping[str, Sequence[Any]] | None = None,
    ) -> ItemFeatures:
        """Encode a table of items.

        Parameters
        ----------
        frame : pandas.DataFrame
            A row an item: its raw id (column `item`) and its features, one value a cell.
        item : str, default="item_id"
            Name of the model's feature and of the column of ids.
        item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
            Raw id -> code. Default: the ids are the codes. Items that are not in it are left out.
        vocabularies : mapping of str to sequence, optional
            Values of the features in the order of their codes, for instance `SemanticIds.vocabularies` or those of an
            earlier `ItemFeatures`, so that the codes of later items mean the same. Default: the frame's own, sorted.

        Raises
        ------
        DataError
            If the frame lacks a column, holds an item twice, no item of the index, or nothing but empty cells or
            values of several types in a feature, or a vocabulary has a value twice.
        """
        frame = as_pandas(frame)
        given = {name: tuple(values) for name, values in (vocabularies or {}).items()}
        names = [name for name in frame.columns if name != item]
        lacking = [name for name in (item, *given) if name not in frame.columns]
        if lacking or not names:
            raise DataError(
                f"the table of items has the columns {', '.join(map(repr, frame.columns))}, which lack "
                f"{', '.join(map(repr, lacking)) or 'any feature beside the id'}. Add them, or name the id (item=)."
            )
        item_codes = encode_ids(frame[item], item_index, what=item)
        frame, item_codes = frame[item_codes >= 0], item_codes[item_codes >= 0]
        if len(frame) == 0:
            raise DataError(f"none of the items in the table is in the index of {item}. Pass the index of its raw ids.")
        twice = frame[item][pd.Series(item_codes).duplicated().to_numpy()]
        if len(twice):
            raise DataError(f"the table lists item {twice.tolist()[0]!r} more than once. Keep one row an item.")
        repeated = [name for name, values in given.items() if not pd.Index(values).is_unique]
        if repeated:
            raise DataError(f"the vocabulary of {repeated[0]!r} has a value twice. Keep one: its place is its code.")
        own = {name: given.get(name) or _values(frame[name]) for name in names}
        columns = {name: 1 + pd.Index(values).get_indexer(pd.Index(frame[name])) for name, values in own.items()}
        empty = [name for name, codes in columns.items() if not codes.any()]
        if empty:
            raise DataError(
                f"no item has a known value of {', '.join(map(repr, empty))}. Leave the column out, or correct its "
                "values or vocabulary."
            )
        table = pd.DataFrame({item: frame[item].to_numpy(), **columns})
        codes = np.zeros((item_codes.max() + 1, len(names)), dtype=np.int64)
        codes[item_codes] = table[names].to_numpy()
        return cls(item, own, table, codes)

    def add(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return input columns with the features beside them, looked up by the item codes in ``x[item]``."""
        items = np.asarray(x[self.item])
        known = (items >= 0) & (items < len(self.codes))
        found = np.where(known[..., None], self.codes[np.where(known, items, 0)], 0)
        return {**x, **{name: found[..., place] for place, name in enumerate(self.vocabularies)}}


def _values(cells: pd.Series) -> tuple[Any, ...]:
    """Return the different values of a feature, sorted."""
    try:
        return tuple(np.unique(cells.dropna()).tolist())
    except TypeError:
        raise DataError(
            f"column {cells.name!r} holds values of several types, which have no order. Write them as texts, or pass "
            "vocabularies=."
        ) from None
