"""`TextTable`: LLM-written texts of users, items and exemplars by model code, with a report of what was kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import CoverageError, TextTableError
from ..scores.ids import IdIndex, encode_ids
from ..scores.origin import read_origin
from ..scores.reading import Table, as_pandas, read_table

KINDS = ("user", "item", "reasoning")
COLUMNS = ("kind", "id", "text")
EXEMPLAR_COLUMNS = ("item_id", "label")
_Keep = Callable[[pd.DataFrame, np.ndarray, str], pd.DataFrame]


def _no_reasoning() -> pd.DataFrame:
    return pd.DataFrame({"user": [], "item": [], "label": []}, dtype="int64").assign(text="")


@dataclass(frozen=True)
class TextCoverage:
    """Which rows of a text file were kept and which dropped.

    Attributes
    ----------
    n_read : int
        Rows in the file.
    n_users, n_items : int
        Users and items with a text.
    dropped : dict of str to int
        Reason -> rows.
    n_taken, n_not_taken : int
        Exemplars with a reasoning text, by label.
    """

    n_read: int
    n_users: int
    n_items: int
    dropped: dict[str, int] = field(default_factory=dict)
    n_taken: int = 0
    n_not_taken: int = 0

    def __str__(self) -> str:
        lines = [f"{self.n_read} texts read, kept those of {self.n_users} users and {self.n_items} items"]
        if self.n_taken or self.n_not_taken:
            lines[0] += f", and the reasoning about {self.n_taken} positive and {self.n_not_taken} negative exemplars"
        return "\n".join([*lines, *(f"  dropped {count}: {reason}" for reason, count in self.dropped.items())])


@dataclass(frozen=True)
class TextTable:
    """Texts that a language model wrote about users, items and exemplars. Build one with `read`.

    Attributes
    ----------
    users, items : pandas.Series of str
        The texts (preferences, facts), indexed by model code in ascending order.
    coverage : TextCoverage
        What was kept of the file.
    origin : dict
        How the texts were made, as far as a parquet file says.
    reasoning : pandas.DataFrame
        ``user, item`` (int64 codes), ``label`` (int64, 1 or 0) and ``text``: why a user took an item, or did not. Each
        pair once, in the order of the file; often none.
    """

    users: pd.Series
    items: pd.Series
    coverage: TextCoverage
    origin: dict[str, Any] = field(default_factory=dict)
    reasoning: pd.DataFrame = field(default_factory=_no_reasoning)

    def of(self, kind: str) -> pd.Series:
        """Return the texts of a kind, ``"user"`` or ``"item"``."""
        return self.users if kind == "user" else self.items

    @classmethod
    def read(
        cls,
        texts: str | Path | pd.DataFrame,
        *,
        user_index: IdIndex | None = None,
        item_index: IdIndex | None = None,
    ) -> TextTable:
        """Read, check and encode a text table.

        Parameters
        ----------
        texts : path or pandas.DataFrame
            Parquet (``.parquet``, ``.pq``) or CSV (``.csv``, ``.csv.gz``), one row per text: ``kind`` in {user, item,
            reasoning}, ``id``, the raw id (written as text, so that users and items fit in one column; numbers are
            understood too), and ``text``. In a row of kind reasoning, ``id`` is the user's, and two more columns say
            what it is about: ``item_id``, and ``label``, 1 or 0. Other rows ignore these; other columns are ignored.
        user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
            Maps raw ids to the codes in the model's input. Without it the ids are used as codes.

        Returns
        -------
        TextTable
            Rows without an id, with a blank text or an unknown id, and a second text of the same user, item or pair
            are dropped and counted in `coverage`.

        Raises
        ------
        TextTableError
            If the file cannot be read, is empty, lacks a column, or holds an unknown kind, a text that is not a string,
            or a reasoning whose label is neither 1 nor 0.
        CoverageError
            If not one text of a user or an item is left.

        Examples
        --------
        >>> frame = pd.DataFrame({"kind": ["user", "item", "item"], "id": ["7", "3", "4"],
        ...                       "text": ["likes chess", "a chess set", " "]})
        >>> print(TextTable.read(frame).coverage)
        3 texts read, kept those of 1 users and 1 items
          dropped 1: text is missing or blank
        """
        texts = as_pandas(texts)
        if not isinstance(texts, (pd.DataFrame, str, Path)):
            raise TextTableError(f"texts is a {type(texts).__name__}. Pass a path or a DataFrame.")
        table = read_table(texts, "texts", numbers=("label",), error=TextTableError)
        source = table.name
        frame = _checked(table)
        n_read = len(frame)
        dropped: dict[str, int] = {}

        def keep(rows: pd.DataFrame, mask: np.ndarray, reason: str) -> pd.DataFrame:
            if not mask.all():
                dropped[reason] = dropped.get(reason, 0) + int((~mask).sum())
            return rows[mask]

        frame = keep(frame, frame["id"].notna().to_numpy(), "id is missing")
        frame = keep(frame, frame["text"].str.strip().ne("").to_numpy(), "text is missing or blank")
        kept = {}
        for kind, index in (("user", user_index), ("item", item_index)):
            rows = _encoded(frame[frame["kind"] == kind], "id", kind, index, keep)
            rows = keep(rows, ~rows[kind].duplicated().to_numpy(), f"{kind} has a text already (the first is kept)")
            kept[kind] = rows.set_index(rows[kind].rename("code"))["text"].sort_index()
        reasoning = _exemplars(frame[frame["kind"] == "reasoning"], user_index, item_index, keep)
        if not len(kept["user"]) and not len(kept["item"]):
            lost = "; ".join(f"{count}: {reason}" for reason, count in dropped.items())
            if len(reasoning):
                raise CoverageError(
                    f"{source}: no text of a user or an item is left, by which the {len(reasoning)} exemplars with a "
                    "reasoning could be retrieved. Have these written into the same table: sllmr texts --kind "
                    "user,item,reasoning pays for no answer of its ledger twice."
                )
            raise CoverageError(
                f"{source}: not one of its {n_read} texts is left ({lost}). Make its ids those of the indexes."
            )
        n_taken = int((reasoning["label"] == 1).sum())
        sizes = len(kept["user"]), len(kept["item"])
        coverage = TextCoverage(n_read, *sizes, dropped, n_taken, len(reasoning) - n_taken)
        origin = {} if isinstance(texts, pd.DataFrame) else read_origin(texts)
        return cls(kept["user"], kept["item"], coverage, origin, reasoning)


def _encoded(rows: pd.DataFrame, column: str, kind: str, index: IdIndex | None, keep: _Keep) -> pd.DataFrame:
    """Add the codes of a column of raw ids, as a column that is named by their kind, to the rows that have one."""
    rows = rows.assign(**{kind: _codes(rows[column], index, f"{kind} id")})
    reason = f"{kind} id not in {kind}_index" if index is not None else f"{kind} id is negative"
    return keep(rows, (rows[kind] >= 0).to_numpy(), reason)


def _exemplars(rows: pd.DataFrame, user_index: IdIndex | None, item_index: IdIndex | None, keep: _Keep) -> pd.DataFrame:
    """Return the reasoning texts: ``user, item, label, text``."""
    if rows.empty:
        return _no_reasoning()

    def keep_reasoning(some: pd.DataFrame, mask: np.ndarray, reason: str) -> pd.DataFrame:
        return keep(some, mask, f"reasoning: {reason}")

    rows = keep_reasoning(rows, rows["item_id"].notna().to_numpy(), "item_id is missing")
    rows = _encoded(rows, "id", "user", user_index, keep_reasoning)
    rows = _encoded(rows, "item_id", "item", item_index, keep_reasoning)
    twice = rows.duplicated(["user", "item"]).to_numpy()
    rows = keep_reasoning(rows, ~twice, "user and item have a text already (the first is kept)")
    return rows[["user", "item", "label", "text"]].astype({"label": "int64"}).reset_index(drop=True)


def _codes(raw: pd.Series, index: IdIndex | None, what: str) -> np.ndarray:
    """Map raw ids to codes; numbers and texts meet as texts, since one column holds the ids of both kinds."""
    return encode_ids(raw, index, what=what, written=True)


def _checked(table: Table) -> pd.DataFrame:
    table.require_columns(COLUMNS)
    told = table.frame["kind"].isin(["reasoning"]).to_numpy()
    lacking = [name for name in EXEMPLAR_COLUMNS if told.any() and name not in table.frame.columns]
    if lacking:
        raise TextTableError(
            f"{table.name}: column(s) {', '.join(lacking)} missing, which say what the {told.sum()} reasoning texts "
            "are about. Add the item's id and the label (1 or 0), or leave these rows out."
        )
    rows = table.frame[[*COLUMNS, *(EXEMPLAR_COLUMNS if told.any() else ())]]
    for column in ("id", *(["item_id"] if told.any() else [])):
        table.refuse_inexact_ids(column)
    table.refuse(~rows["kind"].isin(KINDS), "kind", f"write {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    text = rows["text"]
    table.refuse(text.notna() & ~text.map(lambda value: isinstance(value, str)), "text", "write texts")
    if told.any():
        label = pd.to_numeric(rows["label"], errors="coerce")
        table.refuse(told & ~label.isin([0, 1]), "label", "for a reasoning write 1 if the user took the item, else 0")
        rows = rows.assign(label=label)
    return rows.assign(text=text.fillna("").astype(str))
