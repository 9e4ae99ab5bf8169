"""Which reasons are written again, in which order, and the text table that comes of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ..datasets.interactions import Interactions
from ..errors import DataError
from .text_requests import Exemplar, TextRequest, attribute_reader


class Texts(Protocol):
    """What is read of a text table, by the codes of the interactions; `sllmr_plugin.TextTable` is one."""

    @property
    def users(self) -> pd.Series:
        """Texts of users by code."""
        ...

    @property
    def items(self) -> pd.Series:
        """Texts of items by code."""
        ...

    @property
    def reasoning(self) -> pd.DataFrame:
        """Return ``user, item, label, text``."""
        ...

    @property
    def patterns(self) -> pd.Series:
        """Patterns by the code of their user."""
        ...

    @property
    def reasons(self) -> pd.DataFrame:
        """Return ``user, item, text, version, position, reward``."""
        ...


@dataclass(frozen=True)
class Correction:
    """A training interaction whose reason is written again.

    Attributes
    ----------
    user, item : Hashable
        Raw ids; no language model ever sees them.
    row : int
        Of the table's reasons.
    position : int
        Training interactions of the user before it.
    titles : tuple of str
        Of the last ones of these, oldest first.
    title : str
        Of the item.
    attributes : tuple of (str, str)
        Of the item.
    reason : str
        What the table has.
    """

    user: Hashable
    item: Hashable
    row: int
    position: int
    titles: tuple[str, ...]
    title: str
    attributes: tuple[tuple[str, str], ...]
    reason: str

    def samples(self, n: int) -> list[TextRequest]:
        """Return the requests for `n` reasons."""
        exemplar = Exemplar(self.item, self.title, 1)
        return [
            TextRequest("reason", self.user, self.titles, self.attributes, exemplar, sample=sample)
            for sample in range(n)
        ]

    def update(self, pattern: str, reason: str) -> TextRequest:
        """Return the request for the user's pattern after the interaction."""
        exemplar = Exemplar(self.item, self.title, 1)
        return TextRequest("update", self.user, (), self.attributes, exemplar, pattern, reason)


@dataclass(frozen=True, eq=False)
class Corrections:
    """What is written again, in time order, and what is not.

    Attributes
    ----------
    all : tuple of Correction
        By position, of equals by user: every user's first interaction before any user's second.
    patterns : dict
        Raw user id -> pattern; where the table has no patterns, the texts of kind user stand for them.
    positions : ndarray
        (n_reasons,) float64 positions of the table's reasons; NaN where it is about no training interaction.
    n_untold : int
        Reasons about training interactions that are left as they are: no title, or none before.
    """

    all: tuple[Correction, ...]
    patterns: dict[Hashable, str]
    positions: np.ndarray
    n_untold: int

    def waves(self) -> list[list[Correction]]:
        """Return the corrections in steps, each after all earlier ones of the same user or item.

        Those of a step share neither user nor item, so that whichever comes first, it comes to the same.
        """
        steps: list[list[Correction]] = []
        after: dict[tuple[str, Hashable], int] = {}
        for one in self.all:
            keys = ("user", one.user), ("item", one.item)
            step = max(after.get(key, 0) for key in keys)
            if step == len(steps):
                steps.append([])
            steps[step].append(one)
            after |= dict.fromkeys(keys, step + 1)
        return steps


def plan_corrections(
    data: Interactions, texts: Texts, *, n_titles: int, attributes: pd.DataFrame | None = None
) -> Corrections:
    """Find the reasons that can be written again.

    Parameters
    ----------
    data : Interactions
        With titles. Nothing but its training interactions is shown.
    texts : Texts
        With reasons, by the codes of `data`.
    n_titles : int
        Titles before an interaction that are shown, at most.
    attributes : pandas.DataFrame, optional
        From `read_attributes`.

    Raises
    ------
    DataError
        If there are no titles, or no reason can be written again.
    """
    if data.titles is None:
        raise DataError("the items have no titles. Give an items file with the columns item_id and title.")
    title = data.titles.to_numpy(dtype=object)
    has_title = np.r_[False, data.titles.str.strip().ne("").to_numpy()]  # by code
    taken = data.train.loc[data.train["label"] == 1, ["user", "item"]]  # by user and time
    users, items = taken["user"].to_numpy(), taken["item"].to_numpy()
    shown = has_title[items]
    past = title[items[shown] - 1].tolist()
    before = np.cumsum(shown) - shown
    first = np.searchsorted(users[shown], users, side="left")
    place = np.arange(len(users)) - np.searchsorted(users, users, side="left")
    # The first of several interactions of a user with an item.
    pairs = list(zip(users.tolist(), items.tolist(), strict=True))
    row_of = dict(zip(reversed(pairs), reversed(range(len(pairs))), strict=True))
    describe, found, n_untold = attribute_reader(attributes), [], 0
    positions = np.full(len(texts.reasons), np.nan)
    user_ids, item_ids = data.user_ids.tolist(), data.item_ids.tolist()
    for number, (user, item, text) in enumerate(texts.reasons[["user", "item", "text"]].itertuples(index=False)):
        row = row_of.get((user, item))
        if row is None:
            continue
        positions[number] = place[row]
        if not has_title[item] or before[row] == first[row]:
            n_untold += 1
            continue
        titles = tuple(past[max(first[row], before[row] - n_titles) : before[row]])
        raw = user_ids[user - 1], item_ids[item - 1]
        one = Correction(*raw, number, int(place[row]), titles, title[item - 1], describe(item), text)
        found.append((int(place[row]), user, one))
    if not found:
        raise DataError(
            f"not one of {len(texts.reasons)} reasons can be written again: each needs a training interaction with a "
            "titled item, after another one of its user. Have reasons written (sllmr texts --kind pattern,reason)."
        )
    patterns = texts.patterns if len(texts.patterns) else texts.users
    in_time = tuple(one for *_, one in sorted(found, key=lambda each: each[:2]))
    return Corrections(in_time, {user_ids[code - 1]: text for code, text in patterns.items()}, positions, n_untold)


@dataclass
class Corrected:
    """What has been written so far.

    Attributes
    ----------
    reasons : dict of int to (str, float)
        Row of the table's reasons -> the new one, and its reward.
    patterns : dict
        Raw user id -> the latest pattern of those that were updated.
    """

    reasons: dict[int, tuple[str, float]] = field(default_factory=dict)
    patterns: dict[Hashable, str] = field(default_factory=dict)


def corrected_frame(data: Interactions, texts: Texts, plan: Corrections, done: Corrected) -> pd.DataFrame:
    """Return the whole table with what was written again in its place: what `sllmr_plugin.TextTable.read` reads.

    New texts have a ``version`` one above the highest of the table (none is 0), reasons about training interactions a
    ``position``, and new reasons the ``reward`` by which they were chosen.
    """
    reasons = texts.reasons
    highest = reasons["version"].max()
    version = 1.0 + (0.0 if pd.isna(highest) else highest)
    rows: list[dict[str, Any]] = []
    for kind, told in (("user", texts.users), ("item", texts.items)):
        ids = data.user_ids if kind == "user" else data.item_ids
        rows += [{"kind": kind, "id": str(ids[code - 1]), "text": text} for code, text in told.items()]
    for one in texts.reasoning.itertuples():
        rows.append(_pair(data, "reasoning", one.user, one.item, one.text) | {"label": one.label})
    for user, text in plan.patterns.items():
        new = {"text": done.patterns[user], "version": version} if user in done.patterns else {"text": text}
        rows.append({"kind": "pattern", "id": str(user), **new})
    for number, one in enumerate(reasons.itertuples()):
        row = _pair(data, "reason", one.user, one.item, one.text) | {"label": 1}
        place = plan.positions[number]
        row |= {"version": one.version, "position": one.position if np.isnan(place) else place, "reward": one.reward}
        if number in done.reasons:
            text, reward = done.reasons[number]
            row |= {"text": text, "version": version, "reward": reward}
        rows.append(row)
    columns = ["kind", "id", "text", "item_id", "label", "version", "position", "reward"]
    return pd.DataFrame(rows, columns=columns).astype({"label": "Int8"})


def _pair(data: Interactions, kind: str, user: int, item: int, text: str) -> dict[str, Any]:
    ids = {"id": str(data.user_ids[user - 1]), "item_id": str(data.item_ids[item - 1])}
    return {"kind": kind, "text": text, **ids}


@dataclass(frozen=True)
class CorrectionCounts:
    """What became of the reasons.

    Attributes
    ----------
    reasons : int
        In the table.
    planned, corrected : int
        Of them, those to be written again, and those that were.
    failed : int
        Left as they are, since none of the answers can be used.
    open : int
        Left as they are for now: not all of their answers are there, or not those that they build on.
    untold, outside : int
        Left as they are: no title or none before, and about no training interaction.
    updated : int
        Updates of patterns.
    reward, before, drawn : float
        Mean reward of the corrected: of the chosen reasons, of the table's own, and over all that were asked for, which
        is what one drawn at random would have. NaN where there is none.
    """

    reasons: int
    planned: int
    corrected: int
    failed: int
    open: int
    untold: int
    outside: int
    updated: int
    reward: float
    before: float
    drawn: float

    def __str__(self) -> str:
        lines = [f"reasons: {self.corrected} of {self.planned} written again, {self.updated} updates of patterns"]
        if self.corrected:
            lines.append(
                f"  mean reward {self.reward:.4f}; of the reasons before {self.before:.4f}, of a new one drawn at "
                f"random {self.drawn:.4f}"
            )
        notes: Mapping[str, int] = {
            "reasons left as they are: no answer can be used": self.failed,
            "reasons left for the next run": self.open,
            "reasons left as they are: no title, or none before them": self.untold,
            "reasons left as they are: about no training interaction": self.outside,
        }
        return "\n".join(lines + [f"  {count} {what}" for what, count in notes.items() if count])


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")
