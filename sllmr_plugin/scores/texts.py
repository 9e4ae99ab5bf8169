"""Texts about items and users by raw id, of a text table or a catalogue: what vectors are made of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .reading import Table, as_pandas, read_ids, read_table

TEXT_COLUMNS = ("title", "text", "description")
"""Columns of a catalogue that hold a text; the first that is there counts."""


_TEXT_TABLE = {"kind", "id", "text"}


@dataclass(frozen=True, eq=False)
class IdTexts:
    """Texts by raw id.

    Attributes
    ----------
    items, users : pandas.DataFrame
        ``id, text``, no text blank. There may be no users.
    source : str
        Where they are from, for messages.
    written : bool
        Whether the ids are texts that may stand for numbers, as in a CSV file.
    """

    items: pd.DataFrame
    users: pd.DataFrame
    source: str
    written: bool


def is_text_table(source: str | os.PathLike[str]) -> bool:
    """Whether a file is a text table, and neither a catalogue nor a file of vectors."""
    if Path(source).suffix in (".npz", ".npy"):
        return False
    return _TEXT_TABLE <= set(read_table(source, "texts").frame.columns)


def texts_in(
    table: Table, titles: str | os.PathLike[str] | pd.DataFrame | None = None, *, item: str = "item_id"
) -> IdTexts | None:
    """Return the texts of a table, None if it holds none.

    Parameters
    ----------
    table : Table
        A text table, ``kind, id, text``, of whose kinds ``item`` and ``user`` are read; or a catalogue with a column of
        `TEXT_COLUMNS`.
    titles : path or pandas.DataFrame, optional
        A catalogue with ``title``, to be put before the texts of a text table; an item that has only one of the two
        takes that.
    item : str, default="item_id"
        A catalogue's column of ids.

    Raises
    ------
    SLLMRError
        Of the table's type, if there are titles and the table is not a text table, or no item has a text.
    """
    if _TEXT_TABLE <= set(table.frame.columns):
        found = _of_text_table(table, titles, item)
    elif titles is not None:
        raise table.error(f"titles= goes with a text table, kind, id, text, which {table.name} is not. Leave it out.")
    else:
        column = next((name for name in TEXT_COLUMNS if name in table.frame and item in table.frame), None)
        if column is None:
            return None
        items = pd.DataFrame({"id": read_ids(table, item).to_numpy(), "text": table.texts(column)})
        found = IdTexts(_not_blank(items), _NOBODY, table.name, table.is_text)
    if found.items.empty:
        raise table.error(f"{table.name}: no item has a text. Check the column of texts.")
    return found


_NOBODY = pd.DataFrame({"id": [], "text": []}, dtype=object)


def _of_text_table(table: Table, titles: str | os.PathLike[str] | pd.DataFrame | None, item: str) -> IdTexts:
    frame = pd.DataFrame({"kind": table.frame["kind"], "id": table.texts("id"), "text": table.texts("text")})
    items, users = (frame.loc[frame["kind"] == kind, ["id", "text"]] for kind in ("item", "user"))
    if titles is not None:
        named = read_table(as_pandas(titles), "items", error=table.error)
        named.require_columns([item, "title"])
        title = dict(zip(named.texts(item), named.texts("title"), strict=True))
        before = items["id"].map(title).fillna("")
        items = items.assign(text=(before + ". ").where(before != "", "") + items["text"])
        alone = [id for id in title if id not in set(items["id"])]
        items = pd.concat([items, pd.DataFrame({"id": alone, "text": [title[id] for id in alone]})])
    return IdTexts(_not_blank(items), _not_blank(users), table.name, written=True)


def _not_blank(texts: pd.DataFrame) -> pd.DataFrame:
    return texts[texts["text"].str.strip() != ""].reset_index(drop=True)
