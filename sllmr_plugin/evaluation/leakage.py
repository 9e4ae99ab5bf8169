"""A check, before training, that nothing to be ranked is in what the model learns from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..datasets.interactions import Interactions
from ..datasets.synthetic import SyntheticInteractions
from ..errors import LeakageError
from ..scores.table import ScoreTable

_NAMED = 3  # places that a message names; it counts them all


def check_leakage(
    data: Interactions,
    rows: tuple[Mapping[str, np.ndarray], np.ndarray],
    scores: ScoreTable | None = None,
    *,
    popularity: np.ndarray | None = None,
    history_length: np.ndarray | None = None,
    synthetic: SyntheticInteractions | None = None,
) -> None:
    """Refuse to train on what is to be ranked.

    A test interaction must not be a probe, and neither a test nor a validation interaction may be a positive
    training row, an item of the user's history in one, be counted in the popularity of items and the history
    lengths of users, or be a synthetic interaction. Validation interactions may be probes: gates are fitted on them. A
    drawn negative may happen to be a test item, since the draw must not look at test; it teaches nothing that helps the
    ranking.

    Parameters
    ----------
    data : Interactions
        Names the held-out interactions.
    rows : tuple of (mapping of str to ndarray, ndarray)
        Training rows as `training_rows` gives them; ``user_id`` and ``item_id`` are needed, ``hist_item_id`` is
        checked where it is there.
    scores : ScoreTable or None, default=None
        The table, by the codes of `data`.
    popularity, history_length : ndarray or None, default=None
        (n_items + 1,) and (n_users + 1,) counts of interactions by code that the training uses; None takes those
        of `data`.
    synthetic : SyntheticInteractions or None, default=None
        Further positives of the training, by the codes of `data`.

    Raises
    ------
    LeakageError
        Lists every kind of leak, with the first rows of each.
    """
    test = _keys(data, data.test["user"], data.test["item"])
    held_out = np.concatenate([test, _keys(data, data.valid["user"], data.valid["item"])])
    x, y = rows
    problems = [
        *_probes(data, scores, test),
        *_training_rows(data, x, y, held_out),
        *_histories(data, x, held_out),
        *_statistics(data, held_out, popularity, history_length),
        *_synthetic(data, synthetic, held_out),
    ]
    if problems:
        raise LeakageError(problems)


def _keys(data: Interactions, users: np.ndarray | pd.Series, items: np.ndarray | pd.Series) -> np.ndarray:
    """One number a (user, item) pair."""
    return np.asarray(users, dtype=np.int64) * (data.n_items + 1) + np.asarray(items, dtype=np.int64)


def _probes(data: Interactions, scores: ScoreTable | None, test: np.ndarray) -> list[str]:
    if scores is None or len(scores.probes) == 0:
        return []
    users, items = scores.probes.users[scores.probes.user_of_entry].numpy(), scores.probes.items.numpy()
    places = np.flatnonzero(np.isin(_keys(data, users, items), test))
    pairs = [_pair(data, users[place], items[place]) for place in places[:_NAMED]]
    remedy = "Take probes from the validation part, so that no gate is fitted on what it is judged by."
    return _problem("probe(s) of the score table are test interactions", pairs, len(places), remedy)


def _training_rows(data: Interactions, x: Mapping[str, np.ndarray], y: np.ndarray, held_out: np.ndarray) -> list[str]:
    users, items = x["user_id"], x["item_id"]
    places = np.flatnonzero((np.asarray(y) == 1) & np.isin(_keys(data, users, items), held_out))
    pairs = [f"row {place} ({_pair(data, users[place], items[place])})" for place in places[:_NAMED]]
    remedy = "Delete these rows, or build the rows with training_rows."
    return _problem("positive training row(s) are test or validation interactions", pairs, len(places), remedy)


def _histories(data: Interactions, x: Mapping[str, np.ndarray], held_out: np.ndarray) -> list[str]:
    if "hist_item_id" not in x:
        return []
    users, history = np.asarray(x["user_id"]), np.asarray(x["hist_item_id"])
    row, column = np.nonzero(history)  # 0 is padding
    leaked = np.flatnonzero(np.isin(_keys(data, users[row], history[row, column]), held_out))
    pairs = [
        f"row {row[place]} ({_pair(data, users[row[place]], history[row[place], column[place]])})"
        for place in leaked[:_NAMED]
    ]
    remedy = "Build histories from training interactions alone."
    return _problem("history item(s) of training rows are test or validation interactions", pairs, len(leaked), remedy)


def _statistics(
    data: Interactions, held_out: np.ndarray, popularity: np.ndarray | None, history_length: np.ndarray | None
) -> list[str]:
    train = data.train[data.train["label"] == 1]
    train = train[~np.isin(_keys(data, train["user"], train["item"]), held_out)]
    problems = []
    for what, column, ids, used in (
        ("popularity", "item", data.item_ids, data.popularity if popularity is None else popularity),
        ("history length", "user", data.user_ids, data.history_length if history_length is None else history_length),
    ):
        allowed = np.bincount(train[column].to_numpy(), minlength=len(ids) + 1)
        codes = np.flatnonzero(np.asarray(used)[1:] > allowed[1:]) + 1
        told = [f"{column} {ids[[c - 1]].tolist()[0]!r}: {used[c]} instead of {allowed[c]}" for c in codes[:_NAMED]]
        remedy = "Count the training positives alone."
        problems += _problem(f"{column}(s) have a {what} above that of the training part", told, len(codes), remedy)
    return problems


def _synthetic(data: Interactions, synthetic: SyntheticInteractions | None, held_out: np.ndarray) -> list[str]:
    if synthetic is None:
        return []
    places = np.flatnonzero(np.isin(_keys(data, synthetic.users, synthetic.items), held_out))
    pairs = [_pair(data, synthetic.users[place], synthetic.items[place]) for place in places[:_NAMED]]
    remedy = "Synthesize from these interactions and this split, which never writes a held-out pair."
    return _problem("synthetic interaction(s) are test or validation interactions", pairs, len(places), remedy)


def _pair(data: Interactions, user: int, item: int) -> str:
    named = [ids[[int(code) - 1]].tolist()[0] for ids, code in ((data.user_ids, user), (data.item_ids, item))]
    return f"user {named[0]!r}, item {named[1]!r}"


def _problem(what: str, places: list[str], count: int, remedy: str) -> list[str]:
    """Return one sentence and its remedy, or nothing when nothing was found."""
    if count == 0:
        return []
    more = f"; and {count - len(places)} more" if count > len(places) else ""
    return [f"{count} {what}: {'; '.join(places)}{more}. {remedy}"]
