"""Interactions and catalogue as requests, one a text; which interactions are reasoned about."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from ..datasets.interactions import Interactions
from ..datasets.negatives import UnseenItems
from ..errors import ConfigError, DataError
from ..scores.reading import read_table
from .draws import id_keys, mix, uniform
from .profiles import UserProfiles, describe, profiles_beside, titles_beside
from .requests import training_titles

Kind = Literal["user", "item", "reasoning", "pattern", "reason", "user_profile", "item_profile", "update", "takers"]
"""What a text is about; an update is a pattern written again (`sllmr_plugin.scoring.correct_reasons`), takers are users
of a list who would take an item (`sllmr_plugin.scoring.synthesize_interactions`)."""
KINDS: tuple[Kind, ...] = ("user", "item", "reasoning", "pattern", "reason", "user_profile", "item_profile")
DEFAULT_KINDS: tuple[Kind, ...] = ("user", "item")
"""What both KAR and LLM-CF need. Reasoning is LLM-CF's alone; patterns and reasons are CURec's, profiles RecLM's."""
EXPLAINED_KINDS = ("reasoning", "reason")
"""Kinds that are about a user and an item: their requests have an `Exemplar`."""
PROFILE_KINDS = ("user_profile", "item_profile")
"""Kinds whose texts have a form (`parse_profile`)."""


@dataclass(frozen=True)
class Exemplar:
    """What a user did with an item, to be explained.

    Parameters
    ----------
    item_id : Hashable
        Raw id; no model ever sees it.
    title : str
        The item's title.
    label : int
        1 if the user took the item, else 0.
    """

    item_id: Hashable
    title: str
    label: int


@dataclass(frozen=True)
class TextRequest:
    """One text to be written.

    Parameters
    ----------
    kind : {"user", "item", "reasoning", "pattern", "reason", "user_profile", "item_profile", "update", "takers"}
        What it is about.
    id : Hashable
        Raw id of the item, else of the user; no model ever sees it.
    titles : tuple of str
        Of a user, a pattern or a user's profile: the titles of the last training interactions, oldest first; of
        reasoning, of those before its exemplar; of a reason, of those with other items. Of an item, its profile or
        takers: its title. Of an update: none.
    attributes : tuple of (str, str)
        Names and values of an item's or the exemplar's item's attributes, such as ``("category", "board games")``.
    exemplar : Exemplar or None
        What is to be explained, of the kinds reasoning and reason; of an update, what the user took next.
    pattern, reason : str, default=""
        Of an update: the user's pattern so far, and why the user took the item.
    sample : int, default=0
        Number among requests that are the same but for it: each is asked, and answered, by itself.
    beside : tuple of tuple of str
        Of a user's profile: the training titles of each of the nearest users. Of an item's: ``(profile,)`` of a user
        who took it, or ``(title, profile)`` of a similar item and a user who took that. Of takers: the training titles
        of each user on the list.
    """

    kind: Kind
    id: Hashable
    titles: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...] = ()
    exemplar: Exemplar | None = None
    pattern: str = ""
    reason: str = ""
    sample: int = 0
    beside: tuple[tuple[str, ...], ...] = ()

    @property
    def subject(self) -> str:
        """The id or ids, for the reader of a ledger."""
        return f"{self.id}" if self.exemplar is None else f"{self.id}, item {self.exemplar.item_id}"

    @property
    def repeat(self) -> int:
        """The number of the sample."""
        return self.sample

    @property
    def n_candidates(self) -> int:
        """0: a text scores nothing."""
        return 0


Attributes = Callable[[int], tuple[tuple[str, str], ...]]
"""Item code -> names and values of the item's attributes."""


def draw_exemplars(
    data: Interactions, n_each: int, *, history_length: int, attributes: Attributes
) -> tuple[tuple[TextRequest, ...], int]:
    """Draw the exemplars of LLM-CF and prepare the requests for reasoning about them.

    Positive exemplars are training interactions. Negative ones are training rows of label 0 where the data have some
    (`Interactions.has_negatives`). Else each takes the moment of a training interaction and a uniformly drawn item that
    the user has no interaction with, in any split: a held-out item in a prompt, called not taken, would be a leak and
    untrue. Leaving these items out reveals nothing about the user, because LLM-CF shows a user no exemplars of the
    user's own.

    Shown of the user are titles of training positives before the exemplar, so an exemplar has at least one of them.
    All draws go by hashes of the ids: more exemplars include the fewer, and other users' interactions change none.

    Parameters
    ----------
    data : Interactions
        With titles.
    n_each : int
        Exemplars of each label; fewer if there are not as many.
    history_length : int
        How many titles before it a request shows, at most.
    attributes : callable
        Item code -> its attributes.

    Returns
    -------
    requests : tuple of TextRequest
        Positive and negative ones in turn.
    n_left_out : int
        Training positives that cannot be exemplars: no title, or none before them.

    Raises
    ------
    DataError
        If one of the labels has no exemplar.
    """
    assert data.titles is not None
    title = data.titles.to_numpy(dtype=object)
    has_title = np.r_[False, data.titles.str.strip().ne("").to_numpy()]  # by code
    users, items, labels = (data.train[column].to_numpy() for column in ("user", "item", "label"))
    positive = labels == 1
    shown = positive & has_title[items]
    past = title[items[shown] - 1].tolist()
    # Rows stand by user and time: what a request shows is the slice from `first`, or later, to `before`.
    before = np.cumsum(shown) - shown
    first = np.searchsorted(users[shown], users, side="left")
    told = before > first
    taken = _in_order(data, users, items, np.flatnonzero(shown & told), purpose=4)[:n_each]
    chosen = pd.DataFrame({"row": taken, "item": items[taken]})
    if data.has_negatives:
        rows = _in_order(data, users, items, np.flatnonzero(~positive & has_title[items] & told), purpose=6)
        refused = pd.DataFrame({"row": rows, "item": items[rows]})
    else:
        refused = _not_taken(data, users, items, np.flatnonzero(positive & told))
        refused = refused[has_title[refused["item"]]]
    refused = refused[:n_each]
    for name, found in (("positive", chosen), ("negative", refused)):
        if found.empty:
            raise DataError(
                f"no {name} training interaction can be reasoned about: each needs an item with a title and an earlier "
                "training interaction with one. Leave reasoning out of the kinds, or give data with histories."
            )

    def request(row: int, item: int, label: int) -> TextRequest:
        history = tuple(past[max(first[row], before[row] - history_length) : before[row]])
        exemplar = Exemplar(data.item_ids[[item - 1]].tolist()[0], title[item - 1], label)
        user = data.user_ids[[users[row] - 1]].tolist()[0]
        return TextRequest("reasoning", user, history, attributes(item), exemplar)

    both = [
        [request(row, item, label) for row, item in part.to_numpy().tolist()]
        for label, part in ((1, chosen), (0, refused))
    ]
    in_turn = tuple(one for pair in itertools.zip_longest(*both) for one in pair if one is not None)
    return in_turn, int((positive & ~(shown & told)).sum())


def _not_taken(data: Interactions, users: np.ndarray, items: np.ndarray, rows: np.ndarray) -> pd.DataFrame:
    """Draw an item for the moment of each row: ``row, item``, each (user, item) once, by hash."""
    everything = pd.concat(
        [part[["user", "item"]] for part in (data.train, data.valid, data.test, data.test_negatives)]
    )
    unseen = UnseenItems(
        everything["user"].to_numpy(), everything["item"].to_numpy(), n_users=data.n_users, n_items=data.n_items
    )
    rows = _in_order(data, users, items, rows[unseen.count[users[rows]] > 0], purpose=6)
    owners = users[rows]
    rank = (uniform(_keys(data, owners, items[rows], purpose=8)) * unseen.count[owners]).astype(np.int64)
    drawn = pd.DataFrame({"row": rows, "user": owners, "item": unseen.nth(owners, rank[:, None])[:, 0]})
    return drawn[~drawn.duplicated(["user", "item"])][["row", "item"]]


def _in_order(
    data: Interactions, users: np.ndarray, items: np.ndarray, rows: np.ndarray, *, purpose: int
) -> np.ndarray:
    """Put rows in the order of the hashes of their pairs."""
    return rows[np.argsort(_keys(data, users[rows], items[rows], purpose=purpose), kind="stable")]


def _keys(data: Interactions, users: np.ndarray, items: np.ndarray, *, purpose: int) -> np.ndarray:
    of_users = id_keys(data.user_ids, seed=0, purpose=purpose)[users - 1]
    return mix(of_users ^ id_keys(data.item_ids, seed=0, purpose=purpose + 1)[items - 1])


def draw_reasons(
    data: Interactions, n_each: int, *, history_length: int, attributes: Attributes
) -> tuple[tuple[TextRequest, ...], int]:
    """Draw the training interactions of each item that reasons are written about, for CURec.

    Each is an interaction of label 1 with an item that has a title, of a user with a training interaction of label 1
    with another titled item: these others are what a request shows, the last ones of them. Drawn by hashes of the ids,
    so that more an item include the fewer, and other items' interactions change none.

    Parameters
    ----------
    data : Interactions
        With titles.
    n_each : int
        Reasons an item, at most.
    history_length : int
        How many titles of other items a request shows, at most.
    attributes : callable
        Item code -> its attributes.

    Returns
    -------
    requests : tuple of TextRequest
        One reason of every item before any item has a second.
    n_left_out : int
        Training positives that no reason can be written about: no title, or no other item with one.

    Raises
    ------
    DataError
        If there is none.
    """
    assert data.titles is not None
    title = data.titles.to_numpy(dtype=object)
    has_title = np.r_[False, data.titles.str.strip().ne("").to_numpy()]  # by code
    rows = data.train.loc[data.train["label"] == 1, ["user", "item"]]
    told = rows[has_title[rows["item"]]]  # by user and time
    distinct = told.drop_duplicates()
    n_others = distinct.groupby("user")["item"].transform("size") - 1
    drawn = distinct[n_others > 0]
    drawn = drawn.assign(key=_keys(data, *(drawn[name].to_numpy() for name in ("user", "item")), purpose=10))
    drawn = drawn.sort_values("key", kind="stable")
    drawn = drawn.assign(rank=drawn.groupby("item").cumcount())
    drawn = drawn[drawn["rank"] < n_each].sort_values("rank", kind="stable")
    if drawn.empty:
        raise DataError(
            "there is no training interaction that a reason could be written about: each needs an item with a title "
            "and another titled item of its user. Leave reason out of the kinds, or give data with histories."
        )
    taken = {user: items.to_numpy() for user, items in told.groupby("user")["item"]}
    requests = []
    for user, item in drawn[["user", "item"]].to_numpy().tolist():
        others = taken[user][taken[user] != item][-history_length:]
        exemplar = Exemplar(data.item_ids[[item - 1]].tolist()[0], title[item - 1], 1)
        raw_user = data.user_ids[[user - 1]].tolist()[0]
        requests.append(TextRequest("reason", raw_user, tuple(title[others - 1]), attributes(item), exemplar))
    return tuple(requests), int(len(rows.drop_duplicates()) - (n_others > 0).sum())


_DEFAULT_ATTRIBUTES = ("category", "categories")


@dataclass(frozen=True)
class TextRequests:
    """Requests for texts: an iterable of known length that can be gone through again.

    The kinds come in turn, so a run that stops early has texts of each.

    Attributes
    ----------
    users, items, exemplars, patterns, reasons, user_profiles, item_profiles : tuple of TextRequest
        The requests; a kind that is not asked for has none.
    untitled_users, untitled_items : int
        Users and items left out: no training interaction with a title, and no title.
    untold_exemplars : int
        Training positives that are not exemplars because they, or all before them, have no title.
    untold_reasons : int
        Training positives, each pair counted once, that no reason can be written about (`draw_reasons`).
    lonely_items : int
        Items left out of item_profile: no profile of a user of theirs, nor of one of a similar item.
    """

    users: tuple[TextRequest, ...] = ()
    items: tuple[TextRequest, ...] = ()
    exemplars: tuple[TextRequest, ...] = ()
    untitled_users: int = 0
    untitled_items: int = 0
    untold_exemplars: int = 0
    patterns: tuple[TextRequest, ...] = ()
    reasons: tuple[TextRequest, ...] = ()
    untold_reasons: int = 0
    user_profiles: tuple[TextRequest, ...] = ()
    item_profiles: tuple[TextRequest, ...] = ()
    lonely_items: int = 0

    def __len__(self) -> int:
        return sum(map(len, self._kinds))

    def __iter__(self) -> Iterator[TextRequest]:
        for each in itertools.zip_longest(*self._kinds):
            yield from (request for request in each if request is not None)

    @property
    def _kinds(self) -> tuple[tuple[TextRequest, ...], ...]:
        texts = self.users, self.items, self.exemplars, self.patterns, self.reasons
        return (*texts, self.user_profiles, self.item_profiles)


def plan_texts(
    data: Interactions,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    *,
    users: int | None = None,
    exemplars: int = 1000,
    reasons_per_item: int = 4,
    history_length: int = 10,
    attributes: pd.DataFrame | None = None,
    neighbours: int = 3,
    profiles: str | os.PathLike[str] | pd.DataFrame | None = None,
) -> TextRequests:
    """Prepare the requests for texts.

    Parameters
    ----------
    data : Interactions
        Gives histories and titles; load it with an items file that has titles. Shown are training interactions alone;
        `draw_exemplars` reads the others to keep them out of what it calls not taken.
    kinds : sequence of str, default=("user", "item")
        What to have texts about: keys of `KINDS`.
    users : int or None, default=None
        How many users, of kinds user, pattern and user_profile; None takes all. Chosen by the hash of their ids, so
        that more users include the fewer.
    exemplars : int, default=1000
        How many exemplars of each label `draw_exemplars` takes; the default is what `LLMCFAdaptor` draws without
        reasoning, 2000 in all.
    reasons_per_item : int, default=4
        How many reasons of each item `draw_reasons` takes, at most.
    history_length : int, default=10
        How many of a user's last training interactions a request shows.
    attributes : pandas.DataFrame, optional
        From `read_attributes`: a row an item, in the order of the item codes, a column an attribute.
    neighbours : int, default=3
        How many others a profile is written from beside what it is about, at most: nearest users of a user, users or
        similar items of an item.
    profiles : path or pandas.DataFrame, optional
        Text table with the profiles of users, for kind item_profile.

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
            f"there are no texts of kind {', '.join(unknown) or 'none'}; write {', '.join(KINDS[:-1])} or {KINDS[-1]}, "
            "or several of them with commas between."
        )
    if min(history_length, exemplars, reasons_per_item, neighbours) < 1 or (users is not None and users < 1):
        raise ConfigError(
            f"history_length is {history_length}, users is {users}, exemplars is {exemplars}, reasons_per_item is "
            f"{reasons_per_item} and neighbours is {neighbours}; give at least 1 of each."
        )
    if data.titles is None:
        raise DataError(
            "the items have no titles, so nothing can be written about them; give an items file with the columns "
            "item_id and title."
        )
    named = attribute_reader(attributes)
    of_users = {"user", "pattern", "user_profile"} & set(kinds)
    asked_users, untitled_users = _users(data, users, history_length) if of_users else ((), 0)
    profiled, lonely = (
        _item_profiles(data, UserProfiles.read(profiles, data), neighbours, attributes)
        if "item_profile" in kinds
        else ((), 0)
    )
    asked_items, untitled_items = _items(data, named) if "item" in kinds else ((), 0)
    asked_exemplars, untold = (
        draw_exemplars(data, exemplars, history_length=history_length, attributes=named)
        if "reasoning" in kinds
        else ((), 0)
    )
    asked_reasons, untold_reasons = (
        draw_reasons(data, reasons_per_item, history_length=history_length, attributes=named)
        if "reason" in kinds
        else ((), 0)
    )
    planned = TextRequests(
        asked_users if "user" in kinds else (),
        asked_items,
        asked_exemplars,
        untitled_users,
        untitled_items,
        untold,
        tuple(replace(one, kind="pattern") for one in asked_users) if "pattern" in kinds else (),
        asked_reasons,
        untold_reasons,
        _user_profiles(data, asked_users, neighbours, history_length) if "user_profile" in kinds else (),
        profiled,
        lonely,
    )
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
        (n_items, n_columns) of str, "" for a missing one.

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


def _user_profiles(
    data: Interactions, asked: tuple[TextRequest, ...], neighbours: int, history_length: int
) -> tuple[TextRequest, ...]:
    codes = data.user_index[[request.id for request in asked]].to_numpy()
    beside = titles_beside(data, codes, neighbours, history_length)
    return tuple(replace(one, kind="user_profile", beside=titles) for one, titles in zip(asked, beside, strict=True))


def _item_profiles(
    data: Interactions, profiles: UserProfiles, neighbours: int, attributes: pd.DataFrame | None
) -> tuple[tuple[TextRequest, ...], int]:
    beside = profiles_beside(data, profiles, neighbours, describe(data, attributes))
    asked, _ = _items(data, attribute_reader(attributes))
    codes = data.item_index[[request.id for request in asked]].tolist()
    told = tuple(
        replace(one, kind="item_profile", beside=beside[code - 1])
        for one, code in zip(asked, codes, strict=True)
        if beside[code - 1]
    )
    return told, len(asked) - len(told)


def _items(data: Interactions, named: Attributes) -> tuple[tuple[TextRequest, ...], int]:
    assert data.titles is not None
    titles = data.titles.tolist()
    ids = data.item_ids.tolist()
    popular_first = np.argsort(-data.popularity[1:], kind="stable").tolist()
    told = [
        TextRequest("item", ids[row], (titles[row],), named(row + 1)) for row in popular_first if titles[row].strip()
    ]
    return tuple(told), len(ids) - len(told)


def attribute_reader(attributes: pd.DataFrame | None) -> Attributes:
    """Return what looks up the attributes of an item in the table of `read_attributes`; None has none."""
    names = [] if attributes is None else [str(name) for name in attributes]
    values = [] if attributes is None else attributes.to_numpy().tolist()

    def of(item: int) -> tuple[tuple[str, str], ...]:
        known = zip(names, values[item - 1], strict=True) if names else ()
        return tuple((name, value) for name, value in known if value.strip())

    return of
