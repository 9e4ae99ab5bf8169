"""A candidate table as requests with titles, in shuffled order."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import pandas as pd

from ..datasets.interactions import Interactions, load_interactions
from ..errors import ConfigError, CoverageWarning, DataError
from ..scores.ids import encode_ids
from ..scores.reading import Table, read_ids, read_table

#: A file, or its rows.
TableLike: TypeAlias = str | os.PathLike[str] | pd.DataFrame


@dataclass(frozen=True)
class ScoringRequest:
    """One question about one user: how well each of some items would suit this user.

    Parameters
    ----------
    user_id : Hashable
        The user's id as it stands in the caller's files.
    history : tuple of str
        Titles of the user's last training interactions, oldest first. May be empty.
    item_ids : tuple of Hashable
        The candidates' ids as they stand in the caller's files, in prompt order. Probes are mixed in unmarked.
    titles : tuple of str
        The titles of ``item_ids``, in the same order.
    repeat : int
        Which of the repeated questions about this user and these candidates this is, from 0; each repeat has an
        order of its own.
    """

    user_id: Hashable
    history: tuple[str, ...]
    item_ids: tuple[Hashable, ...]
    titles: tuple[str, ...]
    repeat: int = 0

    @property
    def subject(self) -> str:
        """The user, for the reader of a ledger."""
        return str(self.user_id)

    @property
    def n_candidates(self) -> int:
        """How many items are to be scored."""
        return len(self.item_ids)


@dataclass(frozen=True)
class ScoredAnswer:
    """What came back for one :class:`ScoringRequest`.

    Parameters
    ----------
    scores : dict
        Item id to score in [0, 1]; only items of the request.
    missing : tuple of Hashable
        Items of the request that the answer does not score.
    n_unasked : int
        How many ids of the answer were not asked about; they are dropped.
    n_duplicates : int
        How many ids of the answer came up again; the first score holds.
    """

    scores: dict[Hashable, float]
    missing: tuple[Hashable, ...] = ()
    n_unasked: int = 0
    n_duplicates: int = 0


class Scorer(Protocol):
    """A model that scores the candidates of one user: implement this method and the pipeline runs with it."""

    def score(self, request: ScoringRequest) -> ScoredAnswer | Mapping[Hashable, float]:
        """Score the candidates of one request.

        Parameters
        ----------
        request : ScoringRequest
            The user's history and the candidates, by title.

        Returns
        -------
        ScoredAnswer or mapping
            Item id to score in [0, 1]. Items left out count as missing.
        """
        ...


_KINDS = ("candidate", "probe")


@dataclass(frozen=True, eq=False)
class ScoringRequests:
    """The requests of a candidate table: an iterable of known length that can be gone through again.

    All users come once before any comes a second time, so a run that stops early has asked about as many users
    as it could. With `one_by_one` the requests of a user, one a pair, follow each other, so that few users are left
    with a part of their pairs. Titles are looked up while iterating; memory does not grow with `repeats`.

    Parameters
    ----------
    pairs : pandas.DataFrame
        ``user_id, item_id, kind``, one row a pair, the rows of a user together.
    offsets : ndarray
        (n_users + 1,) int64; the pairs of the k-th user are ``offsets[k]:offsets[k + 1]``.
    histories : tuple of tuple of str
        Titles of each user's last training interactions, oldest first.
    title_of : dict
        Raw item id to title, for every item in `pairs`.
    repeats : int
        How often each user is asked about, each time in another order.
    seed : int
        Decides the orders.
    one_by_one : bool, default=False
        A request a pair, in place of one with all pairs of a user.
    taken : ndarray or None, default=None
        (n_pairs,) bool, with `one_by_one`: training interactions. Their requests show a history without the item,
        which would give the answer away.
    """

    pairs: pd.DataFrame
    offsets: np.ndarray
    histories: tuple[tuple[str, ...], ...]
    title_of: dict[Hashable, str]
    repeats: int
    seed: int
    one_by_one: bool = False
    taken: np.ndarray | None = None

    @property
    def n_users(self) -> int:
        """Number of users that are asked about."""
        return len(self.histories)

    def __len__(self) -> int:
        return (len(self.pairs) if self.one_by_one else self.n_users) * self.repeats

    def __iter__(self) -> Iterator[ScoringRequest]:
        users = self.pairs["user_id"].iloc[self.offsets[:-1]].tolist()
        items = self.pairs["item_id"].tolist()
        for repeat in range(self.repeats):
            for number, user in enumerate(users):
                start, end = self.offsets[number : number + 2]
                own = set() if self.taken is None else {items[n] for n in range(start, end) if self.taken[n]}
                shuffled = prompt_order(user, items[start:end], repeat=repeat, seed=self.seed)
                for asked in [(item,) for item in shuffled] if self.one_by_one else [shuffled]:
                    titles = tuple(self.title_of[item] for item in asked)
                    history = self.histories[number]
                    if asked[0] in own:
                        history = _without(history, titles[0])
                    yield ScoringRequest(user, history, asked, titles, repeat)


def _without(history: tuple[str, ...], title: str) -> tuple[str, ...]:
    """Leave the latest of a title out of a history, if it is there."""
    places = [place for place, shown in enumerate(history) if shown == title]
    return history if not places else history[: places[-1]] + history[places[-1] + 1 :]


def read_data(
    interactions: Interactions | TableLike, items: TableLike | None, *, titles_from: str = "title"
) -> Interactions:
    """Return interactions, loaded if they are not yet."""
    if isinstance(interactions, Interactions):
        return interactions
    return load_interactions(interactions, items, titles_from=titles_from)


def plan_requests(
    candidates: str | os.PathLike[str] | pd.DataFrame,
    data: Interactions,
    *,
    history_length: int = 10,
    repeats: int = 1,
    seed: int = 0,
    one_by_one: bool = False,
) -> ScoringRequests:
    """Check a candidate table against the interactions and prepare the requests.

    Parameters
    ----------
    candidates : path or pandas.DataFrame
        CSV or parquet with ``user_id``, ``item_id`` and, if wanted, ``kind`` (candidate or probe; without it every
        row is a candidate); other columns are ignored. Raw ids, as in the interactions.
    data : Interactions
        Gives histories and titles; load it with an items file that has titles.
    history_length : int, default=10
        How many of a user's last training interactions a request shows (L of the paper, Sec. 4.3).
    repeats : int, default=1
        How many requests a user gets, each in another order of the same candidates.
    seed : int, default=0
        Decides the orders, together with user and repeat.
    one_by_one : bool, default=False
        Ask about each pair by itself, as yes/no questions do (`YesNoQuestions`). There is no order then that a repeat
        could change, so `repeats` has to be 1. A pair that is a training interaction, judged for denoising, is asked
        about with a history that lacks the item.

    Returns
    -------
    ScoringRequests
        Users in the order in which they first occur in the table.

    Raises
    ------
    DataError
        The table cannot be read, repeats a pair, names an unknown user or item, has a candidate that is the user's
        validation item or a probe that is not, or there are no titles.
    ConfigError
        A number is out of range.

    Warns
    -----
    CoverageWarning
        If candidates without a title are left out.
    """
    if history_length < 0 or repeats < 1:
        raise ConfigError(
            f"history_length is {history_length} and repeats is {repeats}; give at least 0 of the first and at least "
            "1 of the second."
        )
    if one_by_one and repeats > 1:
        raise ConfigError(
            f"repeats is {repeats}, and questions about one item have no order to change, so each would be asked once. "
            "Leave out --repeats (repeats=)."
        )
    if data.titles is None:
        raise DataError(
            "the items have no titles, so nothing can be asked about them; give an items file with the columns "
            "item_id and title."
        )
    pairs = _read_pairs(candidates, data)
    title = data.titles.to_numpy(dtype=object)  # of code k at k - 1
    titled = title[pairs["item"].to_numpy() - 1] != ""
    if not titled.all():
        first = data.item_ids[pairs["item"].to_numpy()[~titled][:1] - 1].tolist()[0]
        warnings.warn(
            f"{(~titled).sum()} of {len(pairs)} candidates are left out, because their items have no title "
            f"(the first is item {first!r}). Add the titles to the items file.",
            CoverageWarning,
            stacklevel=2,
        )
        pairs = pairs[titled]
        if pairs.empty:
            raise DataError("no candidate has a title; fill in the title column of the items file.")
    first_seen = pd.factorize(pairs["user"])[0]
    pairs = pairs.iloc[np.argsort(first_seen, kind="stable")]
    users = pairs["user"].to_numpy()
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    items = np.unique(pairs["item"].to_numpy())
    taken = data.train[data.train["label"] == 1]
    own = pd.MultiIndex.from_frame(pairs[["user", "item"]]).isin(pd.MultiIndex.from_frame(taken[["user", "item"]]))
    raw = pd.DataFrame(
        {
            "user_id": data.user_ids[users - 1],
            "item_id": data.item_ids[pairs["item"].to_numpy() - 1],
            "kind": pairs["kind"].to_numpy(),
        }
    )
    return ScoringRequests(
        pairs=raw,
        offsets=np.append(starts, len(users)),
        histories=training_titles(data, users[starts], history_length),
        title_of=dict(zip(data.item_ids[items - 1].tolist(), title[items - 1].tolist(), strict=True)),
        repeats=repeats,
        seed=seed,
        one_by_one=one_by_one,
        taken=own if one_by_one else None,
    )


def prompt_order(
    user_id: Hashable, item_ids: list[Hashable], *, repeat: int = 0, seed: int = 0
) -> tuple[Hashable, ...]:
    """Shuffle a user's candidates: by the hash of seed, user, repeat and item.

    The order is the same on every machine and does not depend on the order in which the items are given, so a
    candidate table that is sorted otherwise asks the same questions.

    Examples
    --------
    >>> prompt_order("ann", ["a", "b", "c"], seed=1) == prompt_order("ann", ["c", "a", "b"], seed=1)
    True
    """

    def key(item: Hashable) -> bytes:
        text = json.dumps([seed, user_id, repeat, item])
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    return tuple(sorted(item_ids, key=key))


def _read_pairs(candidates: str | os.PathLike[str] | pd.DataFrame, data: Interactions) -> pd.DataFrame:
    """Read and check the table: ``user, item`` (codes) and ``kind``, in file order."""
    table = read_table(candidates, "candidates")
    table.require_columns(["user_id", "item_id"])
    pairs = pd.DataFrame(
        {
            "user": _codes(table, "user_id", data.user_index, "interactions"),
            "item": _codes(table, "item_id", data.item_index, "items"),
            "kind": _kinds(table),
        }
    )
    table.refuse(
        pairs.duplicated(["user", "item"]), "item_id", "keep one row a pair", problem="again for the same user"
    )
    validation = pd.MultiIndex.from_frame(data.valid[["user", "item"]])
    held_out = pd.MultiIndex.from_frame(pairs[["user", "item"]]).isin(validation)
    probe = (pairs["kind"] == "probe").to_numpy()
    table.refuse(
        held_out & ~probe,
        "item_id",
        "make its kind 'probe' or delete the row",
        problem="a validation item of this user that is not a probe: training on its score would leak it",
    )
    table.refuse(
        probe & ~held_out,
        "item_id",
        "take probes from the validation split alone, or draw candidates again from these interactions",
        problem="a probe that is not a validation item of this user",
    )
    return pairs


def _codes(table: Table, column: str, index: pd.Series, where: str) -> np.ndarray:
    codes = encode_ids(read_ids(table, column), index, what=column, written=table.is_text)
    example = repr(index.index[:1].tolist()[0])
    table.refuse(
        codes < 0,
        column,
        "use the files that the candidates were made from",
        problem=f"which the {where} do not hold (an id of theirs is {example})",
    )
    return codes


def _kinds(table: Table) -> np.ndarray:
    if "kind" not in table.frame:
        return np.full(len(table.frame), "candidate", dtype=object)
    table.require_columns(["kind"])
    kinds = table.frame["kind"]
    table.refuse(~kinds.isin(_KINDS), "kind", "write candidate or probe")
    return kinds.to_numpy(dtype=object)


def training_titles(data: Interactions, users: np.ndarray, length: int) -> tuple[tuple[str, ...], ...]:
    """Return the titles of users' last positives of the training split; nothing that is held out is looked at.

    Parameters
    ----------
    data : Interactions
        With titles.
    users : ndarray
        (n,) codes.
    length : int
        How many titles, at most.

    Returns
    -------
    tuple of tuple of str
        For each user, oldest first; items without a title are passed over.
    """
    assert data.titles is not None
    title, train = data.titles.to_numpy(dtype=object), data.train
    shown = (train["label"].to_numpy() == 1) & (title[train["item"].to_numpy() - 1] != "")
    owner, titles = train["user"].to_numpy()[shown], title[train["item"].to_numpy()[shown] - 1].tolist()
    ends = np.searchsorted(owner, users, side="right")
    starts = np.maximum(np.searchsorted(owner, users, side="left"), ends - length)
    return tuple(tuple(titles[start:end]) for start, end in zip(starts, ends, strict=True))


class Request(Protocol):
    """What the ledger and the server need to know about a request; `ScoringRequest` is one."""

    @property
    def subject(self) -> str:
        """The raw id of the user or item that it is about, for readers of the ledger."""
        ...

    @property
    def repeat(self) -> int:
        """Which of the repeated questions about the same it is, from 0."""
        ...

    @property
    def n_candidates(self) -> int:
        """How many candidates the answer's schema has."""
        ...
