"""Reads interactions and encodes them in splits, which every model, gate and evaluation of this package uses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from ..errors import DataError
from ..scores.ids import warn_of_odd_ids
from ..scores.reading import Table, common_form, read_table
from .attributes import ItemAttribute, read_attributes
from .splits import leave_last_out

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """Encoded interactions in three splits.

    A code is the position of the raw id plus one; code 0 is padding and "unknown".

    Parameters
    ----------
    train : pandas.DataFrame
        ``user, item`` (int64 codes) and ``label`` (int8, 1 or 0), by user and in time order within a user.
    valid, test : pandas.DataFrame
        ``user, item`` (int64 codes), positives only, in the same order.
    user_ids, item_ids : pandas.Index
        Raw ids; code = position + 1. Users are sorted; items keep the order of the items file, else are
        sorted.
    titles : pandas.Series or None
        Item titles, indexed by item code; an item without a title has ``""``. None without a ``title``
        column.
    has_negatives : bool
        True if the training split has rows with label 0 (shown, not taken). Then no negatives are sampled.
    test_negatives : pandas.DataFrame
        ``user, item`` (int64 codes) of test rows with label 0, for metrics of labelled rows; no ranking and no
        training reads them.
    dropped : dict of str to int
        Reason -> number of rows of the file that were left out.
    has_splits : bool, default=False
        True when the file's own ``split`` column made the splits.
    attributes : mapping of str to ItemAttribute
        Attributes of items that models take as features, by the name of the feature (``item_brand``).
    """

    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame
    user_ids: pd.Index
    item_ids: pd.Index
    titles: pd.Series | None
    has_negatives: bool
    test_negatives: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"user": [], "item": []}, dtype="int64"))
    dropped: dict[str, int] = field(default_factory=dict)
    has_splits: bool = False
    attributes: Mapping[str, ItemAttribute] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return a few lines of counts: the tables themselves are too long to read."""
        split = "as the file says" if self.has_splits else "the last of a user is test, the one before it validation"
        lines = [
            f"Interactions of {self.n_users:,} users with {self.n_items:,} items",
            f"  {len(self.train):,} training, {len(self.valid):,} validation, {len(self.test):,} test; split: {split}",
        ]
        if self.attributes:
            lines.append(f"  attributes: {', '.join(self.attributes)}")
        if self.dropped:
            lines.append(f"  left out: {', '.join(f'{n:,} {reason}' for reason, n in self.dropped.items())}")
        return "\n".join(lines)

    @property
    def n_users(self) -> int:
        """Number of users; codes run from 1 to `n_users`."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue; codes run from 1 to `n_items`."""
        return len(self.item_ids)

    @cached_property
    def user_index(self) -> pd.Series:
        """Raw user id -> code, as `wrap` takes it."""
        return pd.Series(np.arange(1, self.n_users + 1), index=self.user_ids, name="user")

    @cached_property
    def item_index(self) -> pd.Series:
        """Raw item id -> code, as `wrap` takes it."""
        return pd.Series(np.arange(1, self.n_items + 1), index=self.item_ids, name="item")

    @cached_property
    def popularity(self) -> np.ndarray:
        """Training positives of each item: (n_items + 1,) int64, indexed by code."""
        return self._count_positives("item", self.n_items)

    @cached_property
    def history_length(self) -> np.ndarray:
        """Training positives of each user: (n_users + 1,) int64, indexed by code."""
        return self._count_positives("user", self.n_users)

    def _count_positives(self, column: str, size: int) -> np.ndarray:
        positive = self.train["label"].to_numpy() == 1
        return np.bincount(self.train[column].to_numpy()[positive], minlength=size + 1)


def load_interactions(
    interactions: str | os.PathLike[str] | pd.DataFrame,
    items: str | os.PathLike[str] | pd.DataFrame | None = None,
    *,
    titles_from: str = "title",
    attributes: Sequence[str] = (),
) -> Interactions:
    """Read interactions, encode the ids and split them.

    Within a user the order is that of ``position``, else of ``timestamp``, else of the file. Without a ``split`` column
    the last positive of a user is test and the one before it valid; a user with two positives has no validation one,
    and a single positive is used for training. Negatives later than the user's first held-out positive are then left
    out.

    An interaction (user, item) that occurs more than once is kept once: in its earliest split, as a positive if it is
    one there, and at its earliest time. Users may occur in valid or test only; they are cold.

    Parameters
    ----------
    interactions : path or pandas.DataFrame
        CSV, gzipped CSV or parquet with the columns ``user_id, item_id`` and, optionally, ``label`` (1 or 0;
        without it every row is a positive), ``position`` (a number) or ``timestamp`` (a number, a date or an
        ISO text), and ``split`` (train, valid or test). Other columns are ignored.
    items : path or pandas.DataFrame, optional
        The catalogue: ``item_id`` and, optionally, ``title``. By default the items that occur in the interactions.
    titles_from : str, default="title"
        The column of `items` that is read as titles. If it is not ``title``, it must exist.
    attributes : sequence of str, default=()
        Columns of `items` that every model built over these data takes as features: ``brand``, with one value an item,
        or ``genres:;``, with several between separators (``tags:space``, ``tags:comma``, ``tags:pipe``).

    Returns
    -------
    Interactions
        The three splits; `Interactions.dropped` counts what was left out.

    Raises
    ------
    DataError
        A file or column is missing, an id is empty or of a wrong type, a label is not 0 or 1, a split or a
        time cannot be understood, an item is not in the catalogue, or no positive is left to train on.

    Examples
    --------
    >>> import pandas as pd
    >>> data = load_interactions(pd.DataFrame({"user_id": ["ann"] * 4, "item_id": ["a", "b", "c", "d"]}))
    >>> len(data.train), data.item_ids[data.valid["item"] - 1][0], data.item_ids[data.test["item"] - 1][0]
    (2, 'c', 'd')
    """
    table = read_table(interactions, "interactions", numbers=("label", "position", "timestamp"))
    table.require_columns(["user_id", "item_id"])
    (raw_users,) = common_form([table], "user_id")
    raw_items, item_ids, titles, known_attributes = _catalogue(table, items, titles_from, attributes)
    user_ids = pd.Index(np.sort(raw_users.unique()), name="user_id")
    for ids in (user_ids, item_ids):
        warn_of_odd_ids(ids, table.name)

    rows = pd.DataFrame(
        {
            "user": user_ids.get_indexer(raw_users) + 1,
            "item": _encode_items(table, raw_items, item_ids),
            "label": _labels(table),
        }
    )
    has_splits = "split" in table.frame
    rows["split"] = _given_splits(table) if has_splits else np.int8(0)
    rows = rows.iloc[np.lexsort((_times(table), rows["user"].to_numpy()))].reset_index(drop=True)

    dropped: dict[str, int] = {}
    rows = _without_repeats(rows, dropped)
    if not has_splits:
        rows = _leave_last_out(rows, len(user_ids), dropped)
    negative = (rows["label"] == 0).to_numpy()
    test_negatives = rows.loc[negative & (rows["split"] == SPLITS.index("test")), ["user", "item"]]
    valid_negative = negative & (rows["split"] == SPLITS.index("valid")).to_numpy()
    _note(dropped, "negatives in valid", valid_negative)
    rows = rows[~negative | (rows["split"] == SPLITS.index("train"))]

    train, valid, test = (rows[rows["split"] == code].reset_index(drop=True) for code in range(len(SPLITS)))
    if not (train["label"] == 1).any():
        raise DataError(
            f"{table.name} leaves no positive to train on; give users more than one interaction, "
            "or mark rows as 'train' in the split column"
        )
    return Interactions(
        train=train[["user", "item", "label"]],
        valid=valid[["user", "item"]],
        test=test[["user", "item"]],
        user_ids=user_ids,
        item_ids=item_ids,
        titles=titles,
        has_negatives=bool((train["label"] == 0).any()),
        test_negatives=test_negatives.reset_index(drop=True),
        dropped=dropped,
        has_splits=has_splits,
        attributes=known_attributes,
    )


def _catalogue(
    interactions: Table,
    items: str | os.PathLike[str] | pd.DataFrame | None,
    titles_from: str,
    attributes: Sequence[str],
) -> tuple[pd.Series, pd.Index, pd.Series | None, dict[str, ItemAttribute]]:
    """Return the interactions' item ids, the catalogue's in the same form, the titles by code, and the attributes."""
    if items is None:
        if attributes:
            raise DataError(f"attributes {', '.join(attributes)} are columns of the items; give an items file")
        (seen,) = common_form([interactions], "item_id")
        return seen, pd.Index(np.sort(seen.unique()), name="item_id"), None, {}
    table = read_table(items, "items")
    table.require_columns(["item_id"])
    ids, seen = common_form([table, interactions], "item_id")
    table.refuse(ids.duplicated(), "item_id", "keep one row per item", problem="which is in a row above as well")
    encoded = read_attributes(table, attributes)
    if titles_from == "title" and "title" not in table.frame:
        return seen, pd.Index(ids, name="item_id"), None, encoded
    table.require_columns([titles_from])
    codes = pd.RangeIndex(1, len(ids) + 1, name="item")
    titles = pd.Series(table.texts(titles_from), index=codes, name="title").astype(str)
    return seen, pd.Index(ids, name="item_id"), titles, encoded


def _encode_items(table: Table, raw: pd.Series, item_ids: pd.Index) -> np.ndarray:
    codes = item_ids.get_indexer(raw) + 1
    remedy = "add it to the items file or delete its interactions"
    table.refuse(codes == 0, "item_id", remedy, problem="which is not among the items")
    return codes


def _labels(table: Table) -> np.ndarray:
    if "label" not in table.frame:
        return np.ones(len(table.frame), dtype=np.int8)
    table.require_columns(["label"])
    labels = pd.to_numeric(table.frame["label"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    remedy = "write 1 for an interaction and 0 for an item that was shown and not taken (turn ratings into these first)"
    table.refuse(~np.isin(labels, (0.0, 1.0)), "label", remedy)
    return labels.astype(np.int8)


def _given_splits(table: Table) -> np.ndarray:
    table.require_columns(["split"])
    codes = pd.Index(SPLITS).get_indexer(table.frame["split"].astype(object)).astype(np.int8)
    table.refuse(codes < 0, "split", "write train, valid or test, or leave the whole column out")
    return codes


def _times(table: Table) -> np.ndarray:
    """Sort key within a user, (n_rows,): position, else timestamp, else file order."""
    column = next((name for name in ("position", "timestamp") if name in table.frame), None)
    if column is None:
        return np.arange(len(table.frame))
    table.require_columns([column])
    values = table.frame[column]
    if column == "timestamp" and not pd.api.types.is_numeric_dtype(values):
        times = pd.to_datetime(values, format="ISO8601", errors="coerce", utc=True)
    else:
        times = pd.to_numeric(values, errors="coerce")
    table.refuse(times.isna(), column, f"write a number{' or an ISO date' * (column == 'timestamp')}")
    return times.to_numpy()


def _note(dropped: dict[str, int], reason: str, mask: np.ndarray) -> None:
    if mask.any():
        dropped[reason] = int(mask.sum())


def _without_repeats(rows: pd.DataFrame, dropped: dict[str, int]) -> pd.DataFrame:
    best_first = np.lexsort((-rows["label"].to_numpy(), rows["split"].to_numpy()))  # stable: then by time
    repeated = rows.iloc[best_first].duplicated(["user", "item"]).sort_index().to_numpy()
    _note(dropped, "repeated interactions", repeated)
    return rows[~repeated].reset_index(drop=True)


def _leave_last_out(rows: pd.DataFrame, n_users: int, dropped: dict[str, int]) -> pd.DataFrame:
    """Split by time: last positive test, the one before it valid; rows are in time order within a user."""
    positives = rows[rows["label"] == 1]
    held_out = leave_last_out(positives["user"].to_numpy())
    rows = rows.assign(split=np.int8(0))
    rows.loc[positives.index, "split"] = held_out

    # What was shown after the first held-out positive lies in the future of the training data.
    first_held_out = np.full(n_users + 1, len(rows))
    held = positives.index[held_out > 0]
    np.minimum.at(first_held_out, rows["user"].to_numpy()[held], held.to_numpy())
    late = rows.index.to_numpy() > first_held_out[rows["user"].to_numpy()]
    late &= rows["label"].to_numpy() == 0
    _note(dropped, "negatives after the user's first held-out positive", late)
    return rows[~late].reset_index(drop=True)
