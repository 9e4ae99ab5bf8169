"""Which training interactions a language model is to reason about, half of them positive."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd

from ...datasets.interactions import Interactions
from ...datasets.unseen import UnseenItems
from ...errors import DataError
from ..draws import id_keys, mix, uniform
from .request import Exemplar, TextRequest

Attributes = Callable[[int], tuple[tuple[str, str], ...]]
"""Item code -> names and values of the item's attributes."""


def draw_exemplars(
    data: Interactions, n_each: int, *, history_length: int, attributes: Attributes
) -> tuple[tuple[TextRequest, ...], int]:
    """Draw the exemplars of LLM-CF and prepare the requests for reasoning about them.

    Positive exemplars are training interactions. Negative ones are training rows of label 0 where the data have some
    (`Interactions.has_negatives`). Else each takes the moment of a training interaction and a uniformly drawn item that
    the user has no interaction with, in any split: a held-out item in a prompt, called not taken, would be a leak and
    untrue. That these items are spared tells a model nothing of the user, whom LLM-CF shows no exemplars of the
    user's own.

    Shown of the user are titles of training positives before the exemplar, so an exemplar has at least one of them.
    All draws go by hashes of the ids: more exemplars include the fewer, and other users' interactions change none.

    Parameters
    ----------
    data : Interactions
        With titles.
    n_each : int
        Exemplars of each label; fewer where there are no more.
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
        If there is none of one of the labels.
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
