"""`TextTable`: LLM-written texts of users, items and interactions by model code, with a report of what was kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ..errors import CoverageError, TextTableError
from ..scores.ids import IdIndex, encode_ids
from ..scores.origin import read_origin
from ..scores.reading import Table, as_pandas, read_table

KINDS = ("user", "item", "reasoning", "pattern", "reason", "user_profile", "item_profile")
COLUMNS = ("kind", "id", "text")
EXEMPLAR_COLUMNS = ("item_id", "label")
NUMBER_COLUMNS = ("version", "position", "reward")
"""Optional, of patterns and reasons: which of several texts counts, when the interaction was, what it was worth."""

TextSource: TypeAlias = str | Path | pd.DataFrame
_Keep = Callable[[pd.DataFrame, np.ndarray, str], pd.DataFrame]


def _no_reasoning() -> pd.DataFrame:
    return pd.DataFrame({"user": [], "item": [], "label": []}, dtype="int64").assign(text="")


def _no_reasons() -> pd.DataFrame:
    return pd.DataFrame({"user": [], "item": []}, dtype="int64").assign(text="", **dict.fromkeys(NUMBER_COLUMNS, 0.0))


def _no_texts() -> pd.Series:
    return pd.Series([], index=pd.Index([], dtype="int64", name="code"), dtype=object, name="text")


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
    n_patterns, n_reasons : int
        Users with a pattern, interactions with a reason.
    n_user_profiles, n_item_profiles : int
        Users and items with a profile.
    """

    n_read: int
    n_users: int
    n_items: int
    dropped: dict[str, int] = field(default_factory=dict)
    n_taken: int = 0
    n_not_taken: int = 0
    n_patterns: int = 0
    n_reasons: int = 0
    n_user_profiles: int = 0
    n_item_profiles: int = 0

    def __str__(self) -> str:
        lines = [f"{self.n_read} texts read, kept those of {self.n_users} users and {self.n_items} items"]
        if self.n_taken or self.n_not_taken:
            lines[0] += f", and the reasoning about {self.n_taken} positive and {self.n_not_taken} negative exemplars"
        if self.n_patterns or self.n_reasons:
            lines[0] += f", and {self.n_patterns} patterns and {self.n_reasons} reasons"
        if self.n_user_profiles or self.n_item_profiles:
            lines[0] += f", and profiles of {self.n_user_profiles} users and {self.n_item_profiles} items"
        return "\n".join([*lines, *(f"  dropped {count}: {reason}" for reason, count in self.dropped.items())])


@dataclass(frozen=True)
class TextTable:
    """Texts that a language model wrote about users, items and interactions. Build one with `read`.

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
    patterns : pandas.Series of str
        What the items of a user have in common, as `users`; often none.
    reasons : pandas.DataFrame
        ``user, item`` (int64 codes), ``text``: why a user took an item; and ``version, position, reward`` (float64,
        NaN where the file has none). Each pair once; often none.
    user_profiles, item_profiles : pandas.Series of str
        Profiles of users and items, as `users`; often none.
    """

    users: pd.Series
    items: pd.Series
    coverage: TextCoverage
    origin: dict[str, Any] = field(default_factory=dict)
    reasoning: pd.DataFrame = field(default_factory=_no_reasoning)
    patterns: pd.Series = field(default_factory=_no_texts)
    reasons: pd.DataFrame = field(default_factory=_no_reasons)
    user_profiles: pd.Series = field(default_factory=_no_texts)
    item_profiles: pd.Series = field(default_factory=_no_texts)

    def of(self, kind: str) -> pd.Series:
        """Return the texts of a kind, ``"user"`` or ``"item"``."""
        return self.users if kind == "user" else self.items

    @classmethod
    def read(
        cls,
        texts: TextSource | Sequence[TextSource],
        *,
        user_index: IdIndex | None = None,
        item_index: IdIndex | None = None,
    ) -> TextTable:
        """Read, check and encode a text table.

        Parameters
        ----------
        texts : path or pandas.DataFrame, or several of them
            Parquet (``.parquet``, ``.pq``) or CSV (``.csv``, ``.csv.gz``), one row per text: ``kind`` in {user, item,
            reasoning, pattern, reason, user_profile, item_profile}, ``id``, the raw id (written as text, so that users
            and items fit in one column; numbers are understood too), and ``text``.
            In a row of kind reasoning, ``id`` is the user's, and two more
            columns say what it is about: ``item_id``, and ``label``, 1 or 0. A row of kind reason has the same, but
            for the label, which may be left out: reasons are of items that were taken. Patterns and reasons may have
            ``version`` (of several texts the highest counts; none is 0), ``position`` and ``reward``. Rows ignore the
            columns of other kinds; other columns are ignored. Several tables are read as one, in their order.
        user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
            Maps raw ids to the codes in the model's input. Without it the ids are used as codes.

        Returns
        -------
        TextTable
            Rows without an id, with a blank text or an unknown id, and a second text of the same user, item or pair
            are dropped and counted in `coverage`, as are earlier versions.

        Raises
        ------
        TextTableError
            If the file cannot be read, is empty, lacks a column, or holds an unknown kind, a text that is not a string,
            a reasoning whose label is neither 1 nor 0, a reason whose label is not 1, or a version, position or reward
            that is not a number.
        CoverageError
            If not one text of a user or an item, pattern, reason or profile is left.

        Examples
        --------
        >>> frame = pd.DataFrame({"kind": ["user", "item", "item"], "id": ["7", "3", "4"],
        ...                       "text": ["likes chess", "a chess set", " "]})
        >>> print(TextTable.read(frame).coverage)
        3 texts read, kept those of 1 users and 1 items
          dropped 1: text is missing or blank
        """
        sources = [as_pandas(one) for one in (texts if isinstance(texts, (list, tuple)) else [texts])]
        wrong = [type(one).__name__ for one in sources if not isinstance(one, (pd.DataFrame, str, Path))]
        if wrong or not sources:
            raise TextTableError(
                f"texts is {f'a {wrong[0]}' if wrong else 'an empty list'}. Pass a path or a DataFrame, or several."
            )
        numbers = ("label", *NUMBER_COLUMNS)
        tables = [read_table(one, "texts", numbers=numbers, error=TextTableError) for one in sources]
        source = " and ".join(table.name for table in tables)
        frame = _checked(tables[0]) if len(tables) == 1 else _together(tables)
        n_read = len(frame)
        dropped: dict[str, int] = {}

        def keep(rows: pd.DataFrame, mask: np.ndarray, reason: str) -> pd.DataFrame:
            if not mask.all():
                dropped[reason] = dropped.get(reason, 0) + int((~mask).sum())
            return rows[mask]

        frame = keep(frame, frame["id"].notna().to_numpy(), "id is missing")
        frame = keep(frame, frame["text"].str.strip().ne("").to_numpy(), "text is missing or blank")
        kept = {}
        for name, index in (("user", user_index), ("item", item_index)):
            for kind, what in ((name, "text"), (f"{name}_profile", "profile")):
                rows = _encoded(frame[frame["kind"] == kind], "id", name, index, keep)
                twice = rows[name].duplicated().to_numpy()
                rows = keep(rows, ~twice, f"{name} has a {what} already (the first is kept)")
                kept[kind] = rows.set_index(rows[name].rename("code"))["text"].sort_index()
        reasoning = _exemplars(frame[frame["kind"] == "reasoning"], user_index, item_index, keep)
        patterns = _patterns(frame[frame["kind"] == "pattern"], user_index, keep)
        reasons = _reasons(frame[frame["kind"] == "reason"], user_index, item_index, keep)
        if not any(map(len, (*kept.values(), patterns, reasons))):
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
        profiles = kept["user_profile"], kept["item_profile"]
        told = n_taken, len(reasoning) - n_taken, len(patterns), len(reasons), *map(len, profiles)
        coverage = TextCoverage(n_read, *sizes, dropped, *told)
        origin = _origin([{} if isinstance(one, pd.DataFrame) else read_origin(one) for one in sources])
        return cls(kept["user"], kept["item"], coverage, origin, reasoning, patterns, reasons, *profiles)


def _origin(origins: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the origin of one table, or those of several with the names of all their models."""
    if len(origins) == 1:
        return origins[0]
    models = list(dict.fromkeys(origin["model"] for origin in origins if origin.get("model")))
    return {"tables": origins, **({"model": ", ".join(models)} if models else {})}


def _encoded(rows: pd.DataFrame, column: str, kind: str, index: IdIndex | None, keep: _Keep) -> pd.DataFrame:
    """Add the codes of a column of raw ids, as a column that is named by their kind, to the rows that have one."""
    rows = rows.assign(**{kind: _codes(rows[column], index, f"{kind} id")})
    reason = f"{kind} id not in {kind}_index" if index is not None else f"{kind} id is negative"
    return keep(rows, (rows[kind] >= 0).to_numpy(), reason)


def _exemplars(rows: pd.DataFrame, user_index: IdIndex | None, item_index: IdIndex | None, keep: _Keep) -> pd.DataFrame:
    """Return the reasoning texts: ``user, item, label, text``."""
    if rows.empty:
        return _no_reasoning()
    rows = _of_pairs(rows, "reasoning", user_index, item_index, keep)
    return rows[["user", "item", "label", "text"]].astype({"label": "int64"}).reset_index(drop=True)


def _reasons(rows: pd.DataFrame, user_index: IdIndex | None, item_index: IdIndex | None, keep: _Keep) -> pd.DataFrame:
    """Return the reasons: ``user, item, text, version, position, reward``."""
    if rows.empty:
        return _no_reasons()
    rows = _of_pairs(_latest_first(rows), "reason", user_index, item_index, keep).sort_index()
    return rows[["user", "item", "text", *NUMBER_COLUMNS]].reset_index(drop=True)


def _patterns(rows: pd.DataFrame, user_index: IdIndex | None, keep: _Keep) -> pd.Series:
    """Return the patterns by user code."""
    if rows.empty:
        return _no_texts()
    rows = _encoded(_latest_first(rows), "id", "user", user_index, keep)
    twice = rows["user"].duplicated().to_numpy()
    rows = keep(rows, ~twice, "user has a pattern already (the latest version is kept, of equals the first)")
    return rows.set_index(rows["user"].rename("code"))["text"].sort_index()


def _latest_first(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.loc[rows["version"].fillna(0).sort_values(ascending=False, kind="stable").index]


def _of_pairs(
    rows: pd.DataFrame, kind: str, user_index: IdIndex | None, item_index: IdIndex | None, keep: _Keep
) -> pd.DataFrame:
    """Add codes to texts about a user and an item, and keep the first of each pair."""

    def keep_of_kind(some: pd.DataFrame, mask: np.ndarray, reason: str) -> pd.DataFrame:
        return keep(some, mask, f"{kind}: {reason}")

    rows = keep_of_kind(rows, rows["item_id"].notna().to_numpy(), "item_id is missing")
    rows = _encoded(rows, "id", "user", user_index, keep_of_kind)
    rows = _encoded(rows, "item_id", "item", item_index, keep_of_kind)
    twice = rows.duplicated(["user", "item"]).to_numpy()
    kept = "the first" if kind == "reasoning" else "the latest version, of equals the first,"
    return keep_of_kind(rows, ~twice, f"user and item have a text already ({kept} is kept)")


def _codes(raw: pd.Series, index: IdIndex | None, what: str) -> np.ndarray:
    """Map raw ids to codes; numbers and texts meet as texts, since one column holds the ids of both kinds."""
    return encode_ids(raw, index, what=what, written=True)


def _together(tables: Sequence[Table]) -> pd.DataFrame:
    """Return the rows of several tables, ids as texts: one table may hold numbers and another one texts."""
    parts = []
    for table in tables:
        rows = _checked(table)
        for column in rows.columns.intersection(["id", "item_id"]):
            rows[column] = pd.Series(table.texts(column), index=rows.index).where(rows[column].notna(), None)
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def _checked(table: Table) -> pd.DataFrame:
    table.require_columns(COLUMNS)
    kind = table.frame["kind"]
    told, reason = ((kind == name).to_numpy() for name in ("reasoning", "reason"))
    about = told | reason
    needed = [name for name, rows in (("item_id", about), ("label", told)) if rows.any()]
    lacking = [name for name in needed if name not in table.frame.columns]
    if lacking:
        raise TextTableError(
            f"{table.name}: column(s) {', '.join(lacking)} missing, which say what the {about.sum()} "
            f"{'reasoning' if told.any() else 'reason'} texts are about. Add the item's id"
            f"{' and the label (1 or 0)' if told.any() else ''}, or leave these rows out."
        )
    with_numbers = reason | (kind == "pattern").to_numpy()
    rows = table.frame[[*COLUMNS, *needed]].copy()
    for column in ("id", *(["item_id"] if about.any() else [])):
        table.refuse_inexact_ids(column)
    table.refuse(~rows["kind"].isin(KINDS), "kind", f"write {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    text = rows["text"]
    table.refuse(text.notna() & ~text.map(lambda value: isinstance(value, str)), "text", "write texts")
    if about.any() and "label" in table.frame:
        label = pd.to_numeric(table.frame["label"], errors="coerce")
        table.refuse(told & ~label.isin([0, 1]), "label", "for a reasoning write 1 if the user took the item, else 0")
        not_one = reason & (label.ne(1) & table.frame["label"].notna()).to_numpy()
        table.refuse(not_one, "label", "reasons are of items that were taken: write 1, or leave the row out")
        rows = rows.assign(label=label)
    for column in NUMBER_COLUMNS if with_numbers.any() else ():
        rows[column] = np.nan
        if column in table.frame:
            given = table.frame[column]
            rows[column] = pd.to_numeric(given, errors="coerce").astype("float64")
            not_numbers = with_numbers & rows[column].isna().to_numpy() & given.notna().to_numpy()
            table.refuse(not_numbers, column, "write numbers, or leave the cell empty")
    return rows.assign(text=text.fillna("").astype(str))
