"""Which interactions are rows of a data set under the protocol that the paper's figures follow, and which are cold.

The S-LLMR paper does not say how its data were split and counted. Its Table 1 is LLM-CF's protocol (Sun et al., CIKM
2024): an interaction is a row if its user has three earlier ones, which are its history, and each row stands beside one
negative. Cold is a row at its time: one with fewer than three earlier rows of its user.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..errors import DataError
from ..regions import tail_by_rank
from .interactions import Interactions
from .negatives import UnseenItems

FULL_RANKING = "full-ranking"
LLM_CF = "llm-cf"
PROTOCOLS = (FULL_RANKING, LLM_CF)

MIN_EARLIER = 3  # earlier interactions that a row needs
COLD_ROWS = 3  # a row with fewer earlier rows of its user is cold
TAIL_SHARE = 0.2  # of the catalogue
_NEGATIVES = 1  # beside each row


def count_rows(interactions_of_user: np.ndarray, n_items: int) -> dict[str, int]:
    """Count what the paper's Table 1 counts.

    Parameters
    ----------
    interactions_of_user : ndarray of int
        (n_users,) interactions of each user, of all splits.
    n_items : int
        Items of the catalogue.

    Returns
    -------
    dict of str to int
        ``rows`` ("#Reviews"): two for each interaction with three earlier ones of its user, itself and a negative.
        ``cold_rows`` ("cold-start interactions"): those of them with three to five earlier ones. ``tail_items``: a
        fifth of the catalogue, rounded down. The paper has slightly fewer (2,400, 3,659 and 2,326 where a fifth is
        2,420, 3,671 and 2,384) and does not say of which items they are a fifth.

    Examples
    --------
    >>> count_rows(np.array([2, 4, 9]), 11)
    {'rows': 14, 'cold_rows': 8, 'tail_items': 2}
    """
    rows = np.maximum(np.asarray(interactions_of_user) - MIN_EARLIER, 0)
    copies = 1 + _NEGATIVES
    return {
        "rows": int(copies * rows.sum()),
        "cold_rows": int(copies * np.minimum(rows, COLD_ROWS).sum()),
        "tail_items": int(tail_by_rank(np.zeros(n_items), TAIL_SHARE).sum()),
    }


def interactions_of_user(data: Interactions) -> np.ndarray:
    """Count the positives of each user in all splits: (n_users,), in the order of the codes."""
    train = data.train.loc[data.train["label"] == 1, "user"]
    users = np.concatenate([part.to_numpy() for part in (train, data.valid["user"], data.test["user"])])
    return np.bincount(users, minlength=data.n_users + 1)[1:]


def held_out_interactions(data: Interactions, split: str) -> pd.DataFrame:
    """Return the held-out interactions that are rows.

    Parameters
    ----------
    data : Interactions
        The splits of a user follow each other in time: training, validation, test.
    split : {"valid", "test"}
        Which ones.

    Returns
    -------
    DataFrame
        ``user``, ``item`` (codes), ``earlier`` (int64, positives of the user before it, of any split) and ``cold``
        (bool), in the order of the split.
    """
    positives = data.train.loc[data.train["label"] == 1, ["user", "item"]]
    parts = {"train": positives, "valid": data.valid, "test": data.test}
    everything = pd.concat([part.assign(split=name) for name, part in parts.items()])
    everything["earlier"] = everything.groupby("user").cumcount()
    rows = everything[(everything["split"] == split) & (everything["earlier"] >= MIN_EARLIER)]
    rows = rows[["user", "item", "earlier"]].reset_index(drop=True)
    return rows.assign(cold=rows["earlier"] < MIN_EARLIER + COLD_ROWS)


def labelled_held_out(data: Interactions, split: str, *, seed: int = 0) -> pd.DataFrame:
    """Return the held-out rows with label 1, each followed by a row of its user and time with label 0.

    Parameters
    ----------
    data : Interactions
        As of `held_out_interactions`.
    split : {"valid", "test"}
        Which rows. Those of validation do not depend on test interactions.
    seed : int, default=0
        Seed of the negatives, which are drawn uniformly from the items that the user has no positive with.

    Returns
    -------
    DataFrame
        As `held_out_interactions`, with ``label`` (int64). Users who have seen the whole catalogue have no rows.

    Raises
    ------
    DataError
        If no interaction of the split has three earlier ones, or no user of one has an item left.
    """
    rows = held_out_interactions(data, split)
    if rows.empty:
        raise DataError(
            f"no interaction of the {split} part has {MIN_EARLIER} earlier ones of its user, which a row of the "
            f"protocol {LLM_CF} needs; take the protocol {FULL_RANKING}, or users with longer histories"
        )
    seen = [data.train.loc[data.train["label"] == 1, ["user", "item"]], data.valid]
    pairs = pd.concat([*seen, data.test] if split == "test" else seen)
    unseen = UnseenItems(pairs["user"].to_numpy(), pairs["item"].to_numpy(), n_users=data.n_users, n_items=data.n_items)
    rows = rows[unseen.count[rows["user"].to_numpy()] > 0]
    if rows.empty:
        raise DataError(
            f"every user with a row in the {split} part has interacted with all {data.n_items} items: no negative is "
            "left to draw; give an items file with the whole catalogue"
        )
    # Other streams than those of the training rows and the rankings, and one for each split: from the same numbers a
    # user would have nearly the same unseen item in both, and the epoch would be chosen on the negatives of the test.
    stream = 4 if split == "test" else 5
    drawn = unseen.draw(rows["user"].to_numpy(), _NEGATIVES, np.random.default_rng([seed, stream]))
    labelled = rows.loc[rows.index.repeat(1 + _NEGATIVES)].reset_index(drop=True)
    items = np.column_stack([rows["item"].to_numpy(), drawn]).ravel()
    return labelled.assign(item=items, label=np.tile([1, *[0] * _NEGATIVES], len(rows)))


def with_earlier_interactions(
    rows: tuple[dict[str, np.ndarray], np.ndarray],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the training rows whose history has three interactions or more.

    Parameters
    ----------
    rows : tuple of (dict of str to ndarray, ndarray)
        As `training_rows` gives them, with histories of at least three columns.

    Returns
    -------
    tuple of (dict of str to ndarray, ndarray)
        The same without the others. A user's first interactions stay in the histories of later rows.

    Raises
    ------
    DataError
        If none is left.
    """
    x, y = rows
    kept = x["seq_length"] >= MIN_EARLIER
    if not kept.any():
        raise DataError(
            f"no training interaction has {MIN_EARLIER} earlier ones of its user, which a row of the protocol {LLM_CF} "
            f"needs; take the protocol {FULL_RANKING}, or users with longer histories"
        )
    return {name: values[kept] for name, values in x.items()}, y[kept]
