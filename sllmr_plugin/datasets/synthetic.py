"""Interactions that nobody has made, written by a language model: which users may be asked about, and their table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import CoverageError, DataError, LeakageError
from ..regions import tail_threshold
from ..scores.ids import IdIndex, encode_pairs
from ..scores.reading import read_table
from .content import Content
from .interactions import Interactions

_BLOCK = 256  # items whose similarities to all users are held at a time
_NAMED = 3  # pairs that a message names; it counts them all
HELD_OUT = ("validation", "test")


def pair_keys(data: Interactions, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return a number a (user, item) pair of codes, (n,) int64."""
    return np.asarray(users, dtype=np.int64) * (data.n_items + 1) + np.asarray(items, dtype=np.int64)


def known_pairs(data: Interactions) -> dict[str, np.ndarray]:
    """Return the sorted keys of the pairs of every split, rows that were shown and not taken included."""
    parts = {"training": (data.train,), "validation": (data.valid,), "test": (data.test, data.test_negatives)}
    return {
        name: np.unique(np.concatenate([pair_keys(data, part["user"], part["item"]) for part in frames]))
        for name, frames in parts.items()
    }


def refuse_known(data: Interactions, users: np.ndarray, items: np.ndarray, source: str) -> None:
    """Refuse synthetic pairs that are pairs of a split.

    Parameters
    ----------
    data : Interactions
        With the splits.
    users, items : ndarray
        (n,) codes of the pairs.
    source : str
        What to call the pairs in messages.

    Raises
    ------
    LeakageError
        If a pair is a validation or a test interaction.
    DataError
        If a pair is in the training part.
    """
    keys = pair_keys(data, users, items)
    found = {name: np.flatnonzero(np.isin(keys, known)) for name, known in known_pairs(data).items()}
    leaked = [
        f"{len(found[split])} synthetic pair(s) of {source} are {split} interactions: "
        f"{_pairs_in_words(data, users, items, found[split])}. Make them from these interactions and this split "
        "(sllmr synthesize), which never writes a held-out pair."
        for split in HELD_OUT
        if len(found[split])
    ]
    if leaked:
        raise LeakageError(leaked)
    if len(found["training"]):
        raise DataError(
            f"{source}: {len(found['training'])} pair(s) are in the training part already: "
            f"{_pairs_in_words(data, users, items, found['training'])}. Synthesize again from these interactions, or "
            "delete these rows."
        )


def _pairs_in_words(data: Interactions, users: np.ndarray, items: np.ndarray, places: np.ndarray) -> str:
    raw = zip(data.user_ids[users[places] - 1].tolist(), data.item_ids[items[places] - 1].tolist(), strict=True)
    told = [f"user {user!r}, item {item!r}" for user, item in raw][:_NAMED]
    more = f"; and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return "; ".join(told) + more


def tail_items(data: Interactions, quantile: float = 0.2) -> np.ndarray:
    """Return the (n,) ascending codes of the long-tail items of a catalogue (`tail_threshold`)."""
    popularity = data.popularity[1:]
    return np.flatnonzero(popularity <= tail_threshold(popularity, quantile)) + 1


def near_users(
    data: Interactions, content: Content, items: np.ndarray, n: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield, item by item, the users whose histories are nearest to it: the closed list that may be chosen from.

    Parameters
    ----------
    data : Interactions
        A user who has a pair with an item in any split is never on its list, so no held-out pair can be chosen.
    content : Content
        Vectors of the items' texts, and of users' training histories.
    items : ndarray
        (n_items,) codes.
    n : int
        Users of each item, at most.

    Yields
    ------
    item : int
        A code; items that no user is near to are passed over.
    users : ndarray
        (k,) codes, nearest first; of equals, the lower code.
    similarity : ndarray
        (k,) cosines of the item's text and the mean of the user's history, above 0.
    """
    of_users = content.users.T.tocsr()
    known = np.concatenate([*known_pairs(data).values()])
    known_user, known_item = known // (data.n_items + 1), known % (data.n_items + 1)
    order = np.argsort(known_item, kind="stable")
    known_user, known_item = known_user[order], known_item[order]
    for start in range(0, len(items), _BLOCK):
        block = items[start : start + _BLOCK]
        similarity = (content.items[block] @ of_users).toarray()  # (n_block, n_users + 1)
        first, last = (np.searchsorted(known_item, block, side=side) for side in ("left", "right"))
        rows = np.repeat(np.arange(len(block)), last - first)
        own = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)] or [first])
        similarity[rows, known_user[own]] = 0.0
        # rounded: equal histories tie whatever the block, and a ledger knows the list again
        nearest = np.argsort(-similarity.round(6), axis=1, kind="stable")[:, :n]
        for item, users, near in zip(
            block.tolist(), nearest, np.take_along_axis(similarity, nearest, axis=1), strict=True
        ):
            if near[0] > 0:
                yield item, users[near > 0], near[near > 0]


@dataclass(frozen=True, eq=False)
class SyntheticInteractions:
    """Synthetic positives by code.

    Attributes
    ----------
    users, items : ndarray
        (n,) int64 codes.
    weights : ndarray
        (n,) float32, above 0: how much a row counts in the loss.
    source : str
        The file.
    """

    users: np.ndarray
    items: np.ndarray
    weights: np.ndarray
    source: str = "the synthetic DataFrame"

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def read(
        cls,
        source: str | os.PathLike[str] | pd.DataFrame,
        *,
        user_index: IdIndex | None = None,
        item_index: IdIndex | None = None,
    ) -> SyntheticInteractions:
        """Read a table of synthetic interactions, as `synthesize_interactions` writes it.

        Parameters
        ----------
        source : path or pandas.DataFrame
            ``user_id, item_id[, weight]``; without weights all are 1.
        user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
            Raw id -> code, as of `wrap`.

        Raises
        ------
        DataError
            If a weight is not a number above 0, or a pair occurs twice; names the row.
        CoverageError
            If there is no row of a known user and item.
        """
        table = read_table(source, "synthetic interactions", numbers=("weight",))
        table.require_columns(["user_id", "item_id"])
        weights = np.ones(len(table.frame), dtype=np.float32)
        if "weight" in table.frame:
            given = pd.to_numeric(table.frame["weight"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
            table.refuse(~(np.isfinite(given) & (given > 0)), "weight", "write a number above 0, or delete the row")
            weights = given.astype(np.float32)
        users, items = encode_pairs(table, user_index, item_index)
        table.refuse(
            pd.DataFrame(table.frame[["user_id", "item_id"]]).duplicated(),
            "item_id",
            "keep one row a pair",
            problem="again for the same user",
        )
        known = (users >= 0) & (items >= 0)
        if not known.any():
            raise CoverageError(
                f"{table.name}: none of its {len(known)} rows is of a user and an item that are known here. Give the "
                "file that was made from these interactions."
            )
        return cls(users[known], items[known], weights[known], table.name)

    @classmethod
    def of(
        cls, source: str | os.PathLike[str] | pd.DataFrame | SyntheticInteractions, data: Interactions
    ) -> SyntheticInteractions:
        """Read a table by the codes of data, and refuse pairs of any of their splits (`refuse_known`)."""
        read = source
        if not isinstance(read, SyntheticInteractions):
            read = cls.read(read, user_index=data.user_index, item_index=data.item_index)
        refuse_known(data, read.users, read.items, read.source)
        return read

    def kept(self, keep: np.ndarray) -> SyntheticInteractions:
        """Return the rows of an (n,) bool mask."""
        return SyntheticInteractions(self.users[keep], self.items[keep], self.weights[keep], self.source)


def titled(texts: Sequence[str], items: np.ndarray) -> np.ndarray:
    """Return those of (n,) item codes that have a text."""
    has = np.array([bool(text.strip()) for text in texts])
    return items[has[items - 1]]
