"""A teacher that costs nothing: content of items, alone or with popularity, as scores of any user and item."""

from __future__ import annotations

import os
from collections.abc import Hashable

import numpy as np
import pandas as pd

from ..datasets.content import POPULARITY_WEIGHTS, Content
from ..datasets.interactions import Interactions
from ..errors import ConfigError, DataError
from ..scores.ids import encode_ids
from ..scores.reading import read_table
from ..scores.texts import texts_in
from .requests import ScoredAnswer, ScoringRequest

CONTENT, WITH_POPULARITY = "content", "content+popularity"
_MOST = 1000  # validation interactions of each half of the users that a weight is chosen on


class ContentScorer:
    """Scores by ``z + w log(1 + popularity)``, the ranking ``content+popularity`` of a comparison.

    z is the cosine of the TF-IDF vectors of the item's text and of the mean of the user's training items, all of them,
    in standard deviations over the catalogue from the user's mean; popularity counts training positives. The score is
    the share of the catalogue that this ranks below the item, equals counted half. So it is in [0, 1], an item's place
    in the user's own ranking of all items: it does not depend on which other items were asked about, probes among
    them.

    Parameters
    ----------
    data : Interactions
        Gives ids, training positives and, where w is to be chosen, validation interactions. No test interaction is
        looked at.
    texts : sequence of str
        (n_items,) text of each item in the order of the codes, "" where there is none; see `item_texts`.
    popularity_weight : float or None, default=0
        w. 0 is content alone. None chooses one of `POPULARITY_WEIGHTS` for each half of the users, by the AUC on the
        validation interactions of the other half: a probe is a validation interaction, and a weight chosen on it
        would make the scorer look better on it than it is.
    seed : int, default=0
        Of the validation interactions that w is chosen on, where a half has more than 1,000.

    Attributes
    ----------
    weights : tuple of float
        w of users of even and of odd codes.

    Raises
    ------
    DataError
        If the texts hold no word.
    ConfigError
        If w is to be chosen, and a half of the users has no validation interaction.

    Notes
    -----
    A user whose training items have no text has z = 0 everywhere: popularity alone decides, and with w = 0 every
    candidate is missing.
    """

    def __init__(
        self, data: Interactions, texts: list[str], *, popularity_weight: float | None = 0.0, seed: int = 0
    ) -> None:
        self._content = Content.of(data, texts)
        self._popularity = np.log1p(data.popularity[1:])  # (n_items,)
        self._user = dict(zip(data.user_ids.tolist(), range(1, data.n_users + 1), strict=True))
        self._item = dict(zip(data.item_ids.tolist(), range(data.n_items), strict=True))
        if popularity_weight is None:
            self.weights = _crossfitted(self._content, self._popularity, data, seed)
        else:
            self.weights = (float(popularity_weight), float(popularity_weight))

    def score(self, request: ScoringRequest) -> ScoredAnswer:
        """Score the candidates of one request; its history is not used, but all that the user has in training.

        Raises
        ------
        DataError
            If the interactions do not hold the user or an item.
        """
        user = self._code(self._user, request.user_id, "user")
        items = [self._code(self._item, item, "item") for item in request.item_ids]
        weight = self.weights[user % 2]
        if weight == 0 and self._content.users[[user]].nnz == 0:
            return ScoredAnswer({}, missing=request.item_ids)
        ((_, z),) = self._content.standardised(np.array([user]))
        ranking = z[0] + weight * self._popularity
        ordered, own = np.sort(ranking), ranking[items]
        below = np.searchsorted(ordered, own, side="left") + np.searchsorted(ordered, own, side="right")
        return ScoredAnswer(dict(zip(request.item_ids, (below / (2 * len(ordered))).tolist(), strict=True)))

    @staticmethod
    def _code(codes: dict[Hashable, int], raw: Hashable, what: str) -> int:
        code = codes.get(raw)
        if code is None:
            raise DataError(f"the interactions hold no {what} {raw!r}. Ask about those of the same files.")
        return code


def _crossfitted(content: Content, popularity: np.ndarray, data: Interactions, seed: int) -> tuple[float, float]:
    """Return w of users of even and of odd codes, each of the best AUC on validation interactions of the others."""
    valid = data.valid[["user", "item"]].to_numpy()
    best = []
    for half in (1, 0):  # users of even codes have the weight of those of odd ones
        rows = valid[valid[:, 0] % 2 == half]
        if len(rows) == 0:
            raise ConfigError(
                "there are too few users with a validation interaction to choose the weight of popularity on others "
                "than those it is for. Give one (--popularity-weight 0.5, popularity_weight=0.5)."
            )
        if len(rows) > _MOST:
            rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), _MOST, replace=False))]
        best.append(POPULARITY_WEIGHTS[int(np.argmax(_aucs(content, popularity, data, rows)))])
    return best[0], best[1]


def _aucs(content: Content, popularity: np.ndarray, data: Interactions, rows: np.ndarray) -> np.ndarray:
    """Return the mean AUC of (n, 2) users and held-out items against items not taken, of each of the weights."""
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    taken = pd.concat([data.train[["user", "item"]], data.valid[["user", "item"]]])
    taken = taken[taken["user"].isin(rows[:, 0])]
    known = {user: items.to_numpy() - 1 for user, items in taken.groupby("user")["item"]}
    total, number = np.zeros(len(POPULARITY_WEIGHTS)), 0
    for users, z in content.standardised(rows[:, 0]):
        held_out = rows[number : number + len(users), 1] - 1
        rivals = np.ones(z.shape, dtype=bool)
        for row, user in enumerate(users.tolist()):
            rivals[row, known[user]] = False
        for place, weight in enumerate(POPULARITY_WEIGHTS):
            ranking = z + weight * popularity
            gap = np.sign(ranking[np.arange(len(users)), held_out][:, None] - ranking)
            total[place] += (((gap + 1) / 2 * rivals).sum(axis=1) / np.maximum(rivals.sum(axis=1), 1)).sum()
        number += len(users)
    return total / number


def item_texts(data: Interactions, described: str | os.PathLike[str] | pd.DataFrame | None = None) -> list[str]:
    """Return title and, behind it, description of each item in the order of the codes; "" where there are neither.

    Parameters
    ----------
    data : Interactions
        With titles.
    described : path or pandas.DataFrame, optional
        A text table, ``kind, id, text``, or a catalogue with texts, by the raw ids of `data`.

    Raises
    ------
    DataError
        If the table has no texts of items, or of none that the interactions hold.
    """
    texts = pd.Series("", index=range(1, data.n_items + 1)) if data.titles is None else data.titles
    if described is None:
        return texts.tolist()
    table = read_table(described, "texts")
    found = texts_in(table)
    if found is None:
        raise table.error(f"{table.name} has no texts of items. Give a text table: kind, id, text.")
    codes = encode_ids(found.items["id"], data.item_index, what="item_id", written=found.written)
    if not (codes > 0).any():
        raise table.error(
            f"{table.name}: none of its {len(codes)} items is in the interactions (the first is "
            f"{found.items['id'].iloc[0]!r}). Give the texts of these items."
        )
    more = pd.Series(found.items["text"].to_numpy()[codes > 0], index=codes[codes > 0])
    more = more[~more.index.duplicated()].reindex(texts.index, fill_value="")
    return (texts + " " + more).str.strip().tolist()
