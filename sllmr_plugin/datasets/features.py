"""Model input from encoded interactions: training rows, and one row per user for ranking candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from ..errors import DataError
from .interactions import Interactions
from .negatives import UnseenItems

HISTORY_LENGTH = 20
"""Most recent items kept of a history by default."""


def training_rows(
    data: Interactions,
    *,
    negatives: int = 1,
    negatives_by: Literal["uniform", "popularity"] = "uniform",
    history_length: int = HISTORY_LENGTH,
    seed: int | Sequence[int] = 0,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Build the rows a model is trained on.

    Each training positive gives one row, followed by `negatives` rows of the same user and history with an
    item drawn from those the user has no training or validation interaction with (test interactions
    are not looked at). Where the data have negatives of their own (`Interactions.has_negatives`) these are used
    and none is drawn.

    Parameters
    ----------
    data : Interactions
        The encoded splits.
    negatives : int, default 1
        Negatives drawn for each positive, with replacement. More of them improve the ranking and take more time.
    negatives_by : {"uniform", "popularity"}, default="uniform"
        All items alike, or in proportion to their training interactions, so that what is popular is also taken for a
        negative more often (items without any are then never drawn).
    history_length : int, default 20
        L, the most recent items kept of a history.
    seed : int or sequence of int, default 0
        Seed of the draw.

    Returns
    -------
    x : dict of str to numpy.ndarray
        ``user_id`` (N,), ``item_id`` (N,), ``hist_item_id`` (N, L) and ``seq_length`` (N,), all int32 codes.
        The history of a row is the user's training positives strictly before it, oldest first, filled up with
        0 on the right. Rows are sorted by user and, within a user, by time. Of each of `Interactions.attributes`
        also the item's value, ``item_brand`` (N,), and the history's, ``hist_item_brand`` (N, L); where an item has up
        to W values, (N, W) and (N, L W).
    y : numpy.ndarray
        (N,) float32 labels, 1 or 0.

    Raises
    ------
    DataError
        `negatives` or `history_length` is out of range, or a user has interacted with every item.

    Examples
    --------
    >>> import pandas as pd
    >>> from sllmr_plugin.datasets.interactions import load_interactions
    >>> frame = pd.DataFrame({"user_id": [7, 7, 7, 7, 8], "item_id": [1, 2, 3, 4, 5], "split": ["train"] * 5})
    >>> x, y = training_rows(load_interactions(frame), negatives=0, history_length=2)
    >>> x["hist_item_id"].tolist()
    [[0, 0], [1, 0], [1, 2], [2, 3], [0, 0]]
    """
    _check_history_length(history_length)
    if negatives < 0:
        raise DataError(f"negatives is {negatives}; ask for 0 or more negatives a positive")
    users, items, labels = (data.train[column].to_numpy() for column in ("user", "item", "label"))
    positive = labels == 1
    past = items[positive]
    # Positives stand by user and time: the history of a row is the slice from the user's first to `before`.
    before = np.cumsum(positive) - positive
    first = np.searchsorted(users[positive], users, side="left")
    if not data.has_negatives:
        weights = data.popularity[1:] if negatives_by == "popularity" else None
        drawn = _draw_unseen(data, users, negatives, np.random.default_rng(seed), weights)
        items = np.column_stack([items, drawn]).ravel()
        users, first, before = (np.repeat(values, 1 + negatives) for values in (users, first, before))
        labels = np.tile(np.r_[1, np.zeros(negatives)], len(data.train))
    history, lengths = _histories(past, first, before, history_length)
    return _rows(data, users, items, history, lengths), labels.astype(np.float32)


def template_rows(
    data: Interactions, users: np.ndarray, *, split: str, history_length: int = HISTORY_LENGTH
) -> dict[str, np.ndarray]:
    """Build one row per user, in which candidate items are filled in when a split is ranked.

    Parameters
    ----------
    data : Interactions
        The encoded splits.
    users : array-like of int
        (U,) user codes; 0 (unknown) has an empty history.
    split : {"valid", "test"}
        What will be ranked: for "valid" the history holds the training positives, for "test" also the
        validation ones.
    history_length : int, default 20
        L, the most recent items kept of a history.

    Returns
    -------
    dict of str to numpy.ndarray
        ``user_id`` (U,), ``item_id`` (U,) of zeros to be replaced, ``hist_item_id`` (U, L) oldest first and
        filled up with 0 on the right, and ``seq_length`` (U,), all int32; attributes as in `training_rows`.

    Raises
    ------
    DataError
        `split` or `history_length` is out of range, or a code belongs to no user.
    """
    _check_history_length(history_length)
    if split not in ("valid", "test"):
        raise DataError(f"split is {split!r}; rank 'valid' or 'test'")
    users = np.asarray(users, dtype=np.int64)
    unknown = users[(users < 0) | (users > data.n_users)]
    if len(unknown):
        raise DataError(f"user code {unknown[0]} is not in 0 .. {data.n_users}; look codes up in `user_index`")
    positives = data.train.loc[data.train["label"] == 1, ["user", "item"]]
    if split == "test":
        positives = pd.concat([positives, data.valid])
    positives = positives.sort_values("user", kind="stable")
    owners = positives["user"].to_numpy()
    first, last = (np.searchsorted(owners, users, side=side) for side in ("left", "right"))
    history, lengths = _histories(positives["item"].to_numpy(), first, last, history_length)
    return _rows(data, users, np.zeros_like(users), history, lengths)


def user_by_user(
    x: Mapping[str, np.ndarray], y: np.ndarray, seed: int | Sequence[int]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Put training rows in an order in which those of a user stand together, users shuffled.

    Parameters
    ----------
    x : mapping of str to ndarray
        Columns of N rows each, ``user_id`` among them.
    y : ndarray
        (N,) labels.
    seed : int or sequence of int
        Of the order of users, which depends on nothing else but who they are.

    Returns
    -------
    x, y
        The same rows; those of a user in the order that they had.
    """
    users, user_of_row = np.unique(x["user_id"], return_inverse=True)
    stream = 7  # another than those of the draws of rows
    place = np.random.default_rng([*np.atleast_1d(seed).tolist(), stream]).permutation(len(users))
    order = np.argsort(place[user_of_row.ravel()], kind="stable")
    return {name: column[order] for name, column in x.items()}, y[order]


def held_out_rows(
    data: Interactions, split: str, *, negatives: int = 20, history_length: int = HISTORY_LENGTH, seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Build labelled rows of a held-out split, for a library that validates on rows.

    Parameters
    ----------
    data : Interactions
        The encoded splits.
    split : {"valid", "test"}
        Its interactions are labelled 1. Each is followed by `negatives` rows with an item drawn uniformly from those
        that the user has no positive with in training, validation and, for "test", test.
    negatives : int, default 20
        Negatives drawn for each positive, with replacement.
    history_length : int, default 20
        L, the most recent items kept of a history, see `template_rows`.
    seed : int, default 0
        Seed of the draw.

    Returns
    -------
    x : dict of str to numpy.ndarray
        As `training_rows` gives them.
    y : numpy.ndarray
        (N,) float32 labels, 1 or 0.
    """
    held_out = data.valid if split == "valid" else data.test
    seen = [data.train.loc[data.train["label"] == 1, ["user", "item"]], data.valid]
    if split == "test":
        seen.append(data.test)
    pairs = pd.concat(seen)
    unseen = UnseenItems(pairs["user"].to_numpy(), pairs["item"].to_numpy(), n_users=data.n_users, n_items=data.n_items)
    held_out = held_out[unseen.count[held_out["user"].to_numpy()] > 0]
    users = held_out["user"].to_numpy()
    stream = 6 if split == "test" else 3  # others than the training rows', and not one for both: see `protocols`
    drawn = unseen.draw(users, negatives, np.random.default_rng([seed, stream]))
    x = template_rows(data, np.repeat(users, 1 + negatives), split=split, history_length=history_length)
    x |= candidate_columns(data, np.column_stack([held_out["item"].to_numpy(), drawn]).ravel())
    return x, np.tile(np.r_[1, np.zeros(negatives)], len(users)).astype(np.float32)


def candidate_columns(data: Interactions, items: np.ndarray) -> dict[str, np.ndarray]:
    """Return the item-side columns of rows: what changes in a row when its candidate does.

    Parameters
    ----------
    data : Interactions
        Gives the attributes.
    items : ndarray of int
        (N,) item codes.

    Returns
    -------
    dict of str to ndarray
        ``item_id`` (N,) and, of each attribute, ``item_brand`` (N,) or (N, W), int32.
    """
    attributes = {name: attribute.codes[items] for name, attribute in data.attributes.items()}
    return {"item_id": items.astype(np.int32), **attributes}


def item_table(data: Interactions) -> pd.DataFrame:
    """Return the item-side features of the whole catalogue, as `wrap` takes them.

    Candidates of the score table then get their own attributes, whether they occur in training rows or not.

    Parameters
    ----------
    data : Interactions
        With attributes (`load_interactions`).

    Returns
    -------
    DataFrame
        A row an item: the raw ``item_id``, and the codes of each attribute (lists, where there are several values).

    Examples
    --------
    >>> table = item_table(data)  # doctest: +SKIP
    >>> wrap(model, "llm_scores.parquet", user="user_id", item="item_id", item_features=list(table), item_table=table,
    ...      user_index=data.user_index, item_index=data.item_index)  # doctest: +SKIP
    """
    columns = {name: list(attribute.codes[1:]) for name, attribute in data.attributes.items()}
    return pd.DataFrame({"item_id": data.item_ids, **columns})


def _check_history_length(history_length: int) -> None:
    if history_length < 1:
        raise DataError(f"history_length is {history_length}; keep at least 1 item of a history")


def _rows(
    data: Interactions, users: np.ndarray, items: np.ndarray, history: np.ndarray, lengths: np.ndarray
) -> dict[str, np.ndarray]:
    ids = {"user_id": users, "item_id": items, "hist_item_id": history, "seq_length": lengths}
    rows = {name: values.astype(np.int32) for name, values in ids.items()} | candidate_columns(data, items)
    for attribute in data.attributes.values():
        rows[attribute.history] = attribute.codes[history].reshape(len(history), -1)
    return rows


def _histories(past: np.ndarray, first: np.ndarray, before: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Last `length` of each ``past[first[r]:before[r]]``, left-aligned: (R, length) items and (R,) counts."""
    start = np.maximum(first, before - length)
    index = start[:, None] + np.arange(length)  # (R, L)
    inside = index < before[:, None]
    history = np.where(inside, past[np.where(inside, index, 0)], 0)
    return history, before - start


def _draw_unseen(
    data: Interactions, users: np.ndarray, n: int, generator: np.random.Generator, weights: np.ndarray | None
) -> np.ndarray:
    """Draw (len(users), n) items by weight among those the user has in neither training nor validation."""
    if n == 0:
        return np.empty((len(users), 0), dtype=np.int64)
    seen = pd.concat([data.train[["user", "item"]], data.valid])
    unseen = UnseenItems(seen["user"].to_numpy(), seen["item"].to_numpy(), n_users=data.n_users, n_items=data.n_items)
    full = users[unseen.count[users] == 0]
    if len(full):
        raise DataError(
            f"user {data.user_ids.tolist()[full[0] - 1]!r} has interacted with all {data.n_items} items: "
            "no negative is left to draw; give an items file with the whole catalogue, or negatives=0"
        )
    return unseen.draw(users, n, generator, weights)
