"""From interactions and a catalogue to one request for each text: training interactions, nothing held out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...datasets.interactions import Interactions
from ...errors import ConfigError, DataError
from ...sidecar_files import read_table
from ..draws import id_keys
from ..requests import training_titles
from .exemplars import Attributes, draw_exemplars
from .request import DEFAULT_KINDS, KINDS, Kind, TextRequest

_DEFAULT_ATTRIBUTES = ("category", "categories")


@dataclass(frozen=True)
class TextRequests:
    """Requests for texts: an iterable of known length that can be gone through again.

    Users, items and exemplars come in turn, so a run that stops early has texts of each.

    Attributes
    ----------
    users, items, exemplars : tuple of TextRequest
        The requests; a kind that is not asked for has none.
    untitled_users, untitled_items : int
        Users and items left out: no training interaction with a title, and no title.
    untold_exemplars : int
        Training positives that are no exemplars for want of a title, their own or one before them.
    """

    users: tuple[TextRequest, ...] = ()
    items: tuple[TextRequest, ...] = ()
    exemplars: tuple[TextRequest, ...] = ()
    untitled_users: int = 0
    untitled_items: int = 0
    untold_exemplars: int = 0

    def __len__(self) -> int:
        return len(self.users) + len(self.items) + len(self.exemplars)

    def __iter__(self) -> Iterator[TextRequest]:
        for each in itertools.zip_longest(self.users, self.items, self.exemplars):
            yield from (request for request in each if request is not None)


def plan_texts(
    data: Interactions,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    *,
    users: int | None = None,
    exemplars: int = 1000,
    history_length: int = 10,
    attributes: pd.DataFrame | None = None,
) -> TextRequests:
    """Prepare the requests for texts.

    Parameters
    ----------
    data : Interactions
        Gives histories and titles; load it with an items file that has titles. Shown are training interactions alone;
        `draw_exemplars` reads the others to keep them out of what it calls not taken.
    kinds : sequence of str, default=("user", "item")
        What to have texts about: ``user``, ``item``, ``reasoning``.
    users : int or None, default=None
        How many users; None takes all. Chosen by the hash of their ids, so that more users include the fewer.
    exemplars : int, default=1000
        How many exemplars of each label `draw_exemplars` takes; the default is what `LLMCFAdaptor` draws without
        reasoning, 2000 in all.
    history_length : int, default=10
        How many of a user's last training interactions a request shows.
    attributes : pandas.DataFrame, optional
        From `read_attributes`: a row an item, in the order of the item codes, a column an attribute.

    Returns
    -------
    TextRequests
        Users by hash; items by training popularity, the most popular first.

    Raises
    ------
    ConfigError
        If a kind is unknown or a number out of range.
    DataError
        If there are no titles, or nothing to ask about.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ConfigError(
            f"there are no texts of kind {', '.join(unknown) or 'none'}; write user, item or reasoning, or several of "
            "them with commas between."
        )
    if history_length < 1 or exemplars < 1 or (users is not None and users < 1):
        raise ConfigError(
            f"history_length is {history_length}, users is {users} and exemplars is {exemplars}; give at least 1 of "
            "each."
        )
    if data.titles is None:
        raise DataError(
            "the items have no titles, so nothing can be written about them; give an items file with the columns "
            "item_id and title."
        )
    named = _named(attributes)
    asked_users, untitled_users = _users(data, users, history_length) if "user" in kinds else ((), 0)
    asked_items, untitled_items = _items(data, named) if "item" in kinds else ((), 0)
    asked_exemplars, untold = (
        draw_exemplars(data, exemplars, history_length=history_length, attributes=named)
        if "reasoning" in kinds
        else ((), 0)
    )
    planned = TextRequests(asked_users, asked_items, asked_exemplars, untitled_users, untitled_items, untold)
    if not len(planned):
        raise DataError("no user and no item has a title to write about; fill in the title column of the items file.")
    return planned


def read_attributes(items: str | os.PathLike[str] | pd.DataFrame, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read attributes of items.

    Parameters
    ----------
    items : path or pandas.DataFrame
        The file that `load_interactions` was given, so that the order is that of the item codes.
    columns : sequence of str, optional
        Which columns; by default ``category`` and ``categories``, where they are.

    Returns
    -------
    pandas.DataFrame
        (n_items, n_columns) of str, "" where there is none.

    Raises
    ------
    DataError
        If a column is missing.
    """
    table = read_table(items, "items")
    if columns is None:
        columns = [name for name in _DEFAULT_ATTRIBUTES if name in table.frame]
    table.require_columns(columns)
    return pd.DataFrame({name: table.texts(name) for name in columns}, index=table.frame.index)


def _users(data: Interactions, most: int | None, history_length: int) -> tuple[tuple[TextRequest, ...], int]:
    codes = np.arange(1, data.n_users + 1)
    codes = codes[np.argsort(id_keys(data.user_ids, seed=0, purpose=3), kind="stable")]
    histories = training_titles(data, codes, history_length)
    ids = data.user_ids[codes - 1].tolist()
    told = [TextRequest("user", user, titles) for user, titles in zip(ids, histories, strict=True) if titles]
    return tuple(told[:most]), len(ids) - len(told)


def _items(data: Interactions, named: Attributes) -> tuple[tuple[TextRequest, ...], int]:
    assert data.titles is not None
    titles = data.titles.tolist()
    ids = data.item_ids.tolist()
    popular_first = np.argsort(-data.popularity[1:], kind="stable").tolist()
    told = [
        TextRequest("item", ids[row], (titles[row],), named(row + 1)) for row in popular_first if titles[row].strip()
    ]
    return tuple(told), len(ids) - len(told)


def _named(attributes: pd.DataFrame | None) -> Attributes:
    names = [] if attributes is None else [str(name) for name in attributes]
    values = [] if attributes is None else attributes.to_numpy().tolist()

    def of(item: int) -> tuple[tuple[str, str], ...]:
        known = zip(names, values[item - 1], strict=True) if names else ()
        return tuple((name, value) for name, value in known if value.strip())

    return of
