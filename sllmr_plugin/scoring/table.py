"""Answers of all repeats as a score table, written as a parquet file with its origin in the schema."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import ConfigError, ScoreTableError
from ..scores.origin import PromptOrder, write_parquet
from ..scores.origin import read_metadata as read_metadata  # where scripts have looked for it
from .prices import Spending
from .requests import ScoredAnswer, ScoringRequest, ScoringRequests

MISSING = ("leave_out", "half")


@dataclass(frozen=True)
class ScoringCounts:
    """What became of the requests and the pairs they asked about.

    Attributes
    ----------
    requests, answered : int
        Requests, and those with an answer.
    pairs, candidates, probes : int
        Pairs asked about, and rows of the table by kind.
    missing : int
        Pairs that no answer scores although at least one answer came.
    unanswered : int
        Pairs of users for whom no answer came.
    unasked, duplicates : int
        Ids in answers that were dropped: not asked about, or given twice.
    probe_auc : float or None
        Chance that a user's probe is scored above one of the same user's candidates, ties counting half, averaged over
        users: 1 finds what the user took next every time, 0.5 is guessing. None without probes.
    probe_users : int
        Users that it is averaged over.
    probe_auc_low, probe_auc_high : float or None
        Ends of its 95% interval over users, see `auc_interval`.
    prompt_order : PromptOrder or None
        How far the scores follow the order of the prompts; None where no answer has two different scores.
    one_by_one : bool
        Whether each pair was asked about by itself, so that there is no such order.
    """

    requests: int
    answered: int
    pairs: int
    candidates: int
    probes: int
    missing: int
    unanswered: int
    unasked: int
    duplicates: int
    probe_auc: float | None
    probe_users: int
    probe_auc_low: float | None
    probe_auc_high: float | None
    prompt_order: PromptOrder | None
    one_by_one: bool = False

    def __str__(self) -> str:
        lines = [
            f"{self.answered} of {self.requests} requests answered",
            f"{self.candidates} candidates and {self.probes} probes scored of {self.pairs} pairs asked about",
        ]
        if self.probe_auc is not None:
            lines.append(
                f"probes stand above their user's candidates with AUC {self.probe_auc:.3f} "
                f"[{self.probe_auc_low:.2f}, {self.probe_auc_high:.2f}] "
                f"({self.probes} probes of {self.probe_users} users)"
            )
        if self.prompt_order is not None:
            lines.append(str(self.prompt_order))
        elif not self.one_by_one:
            lines.append("  no answer gives two candidates different scores, so there is no order to learn from")
        notes = {
            "pairs that no answer scores": self.missing,
            "pairs without any answer" if self.one_by_one else "pairs of users without any answer": self.unanswered,
            "ids in answers that were not asked about, dropped": self.unasked,
            "ids given twice in an answer, the later ones dropped": self.duplicates,
        }
        return "\n".join(lines + [f"  {count} {what}" for what, count in notes.items() if count])


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """A score table that is not written yet.

    Attributes
    ----------
    frame : pandas.DataFrame
        ``user_id, item_id`` (raw), ``score`` (mean over the answers that score the pair), ``kind``,
        ``prompt_position`` (from 0, in the first answered prompt of the user), ``spread`` (standard deviation of the
        score over those answers, 0 for one) and ``n_answers`` (how many they are; 0 where 0.5 was put).
    counts : ScoringCounts
        What the rows do not show.
    """

    frame: pd.DataFrame
    counts: ScoringCounts


def build_score_table(
    requests: ScoringRequests,
    answers: Iterable[tuple[ScoringRequest, ScoredAnswer]],
    *,
    missing: str = "leave_out",
) -> ScoredPairs:
    """Put the answers together.

    Parameters
    ----------
    requests : ScoringRequests
        All requests of the run; the table has its pairs in its order, however the answers come in.
    answers : iterable of (ScoringRequest, ScoredAnswer)
        In any order; requests that failed or were not made are left out. Taken one by one and not kept.
    missing : {"leave_out", "half"}, default="leave_out"
        What becomes of a pair whose user was answered but which no answer scores: no row, or a score of 0.5 as in
        the paper (Sec. 4.3) with ``n_answers`` 0. Pairs of users without any answer never get a row.

    Returns
    -------
    ScoredPairs

    Raises
    ------
    ScoreTableError
        If an answer scores a pair that was not asked about, gives a score outside [0, 1], or nothing was scored.
    ConfigError
        If `missing` is neither of the two.

    Warns
    -----
    OrderEchoWarning
        If the scores follow the order in which the prompts showed the candidates.
    """
    builder = ScoreTableBuilder(requests, missing)
    for request, answer in answers:
        builder.add(request, answer)
    return builder.finish()


class ScoreTableBuilder:
    """Takes answers as they come; parameters are those of `build_score_table`."""

    def __init__(self, requests: ScoringRequests, missing: str = "leave_out") -> None:
        if missing not in MISSING:
            raise ConfigError(f"missing is {missing!r}; write one of {', '.join(MISSING)}.")
        self._requests, self._missing = requests, missing
        self._item_number = {item: number for number, item in enumerate(requests.title_of)}
        self._users: list[Any] = []
        self._repeat, self._length = array("q"), array("q")
        self._items, self._scores = array("q"), array("d")
        self._unasked = self._duplicates = 0

    def add(self, request: ScoringRequest, answer: ScoredAnswer) -> None:
        """Take an answer; raise `ScoreTableError` if it scores what was not asked about."""
        if not answer.scores.keys() <= set(request.item_ids):
            stray = next(item for item in answer.scores if item not in request.item_ids)
            raise ScoreTableError(
                f"the answer for user {request.user_id!r} scores item {stray!r}, which was not asked about. "
                "Let the scorer return items of the request only."
            )
        self._users.append(request.user_id)
        self._repeat.append(request.repeat)
        self._length.append(len(request.item_ids))
        self._items.extend(self._item_number.get(item, -1) for item in request.item_ids)
        self._scores.extend(answer.scores.get(item, np.nan) for item in request.item_ids)
        self._unasked += answer.n_unasked
        self._duplicates += answer.n_duplicates

    def finish(self) -> ScoredPairs:
        """Return the table; raises and warns as `build_score_table`."""
        requests, missing = self._requests, self._missing
        n_pairs = len(requests.pairs)
        score, position = self._matrices()

        # A request holds all pairs of a user, so the first one tells; or a single pair.
        answered = int(((position if requests.one_by_one else position[requests.offsets[:-1]]) >= 0).sum())
        n_answers = (~np.isnan(score)).sum(axis=1)
        with np.errstate(invalid="ignore"):  # 0 / 0 where no answer scores the pair
            mean = np.nansum(score, axis=1) / n_answers
            spread = np.sqrt(np.nansum((score - mean[:, None]) ** 2, axis=1) / n_answers)
        asked = position >= 0
        was_answered = asked.any(axis=1)
        absent = was_answered & (n_answers == 0)
        if missing == "half":
            mean[absent], spread[absent] = 0.5, 0.0
        kept = was_answered if missing == "half" else n_answers > 0
        if not n_answers.any():
            raise ScoreTableError(
                f"not one of {n_pairs} pairs was scored ({answered} of {len(requests)} requests were answered). "
                "Look at the first failures and run the same command again."
            )
        frame = requests.pairs.assign(
            score=mean,
            prompt_position=position[np.arange(n_pairs), asked.argmax(axis=1)],
            spread=spread,
            n_answers=n_answers.astype(np.int32),
        )[["user_id", "item_id", "score", "kind", "prompt_position", "spread", "n_answers"]]
        frame = frame[kept].reset_index(drop=True)
        n_probes = int((frame["kind"] == "probe").sum())
        counts = ScoringCounts(
            requests=len(requests),
            pairs=n_pairs,
            candidates=len(frame) - n_probes,
            probes=n_probes,
            missing=int(absent.sum()),
            unanswered=int((~was_answered).sum()),
            **_probe_auc(frame[frame["n_answers"] > 0]),
            prompt_order=_prompt_order(requests, score, position),
            answered=answered,
            unasked=self._unasked,
            duplicates=self._duplicates,
            one_by_one=requests.one_by_one,
        )
        if counts.prompt_order is not None:
            counts.prompt_order.warn(stacklevel=4)
        return ScoredPairs(frame, counts)

    def _matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and prompt positions, (n_pairs, repeats), NaN and -1 if there is none."""
        requests = self._requests
        n_pairs = len(requests.pairs)
        score = np.full((n_pairs, requests.repeats), np.nan)
        position = np.full((n_pairs, requests.repeats), -1, dtype=np.int32)
        if self._users:
            lengths = np.array(self._length)
            row = _locate(requests, self._users, lengths, np.array(self._items))
            column, value = np.repeat(np.array(self._repeat), lengths), np.array(self._scores)
            # Written so that infinities fail; NaN is "no score".
            outside = ~(np.isnan(value) | ((value >= 0) & (value <= 1)))
            foreign = (row < 0) | (column >= requests.repeats)
            for wrong, problem, remedy in (
                (foreign, "is not of this run", "Give the requests that the answers belong to."),
                (outside, "scores an item outside [0, 1]", "Rescale the scores."),
            ):
                if wrong.any():
                    number = int(np.searchsorted(np.cumsum(lengths), wrong.argmax(), side="right"))
                    raise ScoreTableError(f"the answer for user {self._users[number]!r} {problem}. {remedy}")
            score[row, column] = value
            position[row, column] = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return score, position


def write_score_table(
    scored: ScoredPairs,
    path: str | os.PathLike[str],
    *,
    scorer: str,
    model: str | None = None,
    prompt_hash: str | None = None,
    settings: Mapping[str, Any] | None = None,
    spending: Spending | None = None,
) -> None:
    """Write the table as parquet, with its origin in the schema (see `read_metadata`).

    Parameters
    ----------
    scored : ScoredPairs
        From `build_score_table`.
    path : path
        Ends in ``.parquet``; replaced as a whole.
    scorer : str
        Who scored, for instance ``"openai"`` or ``"lexical"``.
    model, prompt_hash : str, optional
        The language model and the hash of its prompt, where there are such.
    settings : mapping, optional
        What else decided the scores; plain JSON values without secrets.
    spending : Spending, optional
        Tokens and dollars of the answers, where there are such.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    origin = {
        "scorer": scorer,
        "model": model,
        "prompt_hash": prompt_hash,
        "settings": dict(settings or {}),
        "counts": asdict(scored.counts),
        **(spending.recorded() if spending else {}),
    }
    write_parquet(scored.frame, path, origin)


def auc_interval(auc_of_user: np.ndarray) -> tuple[float, float]:
    """Return a 95% interval of the mean AUC over users, within 0 to 1.

    Its ends are 1.96 standard errors from the mean of the users with two more among them, one of AUC 0 and one of
    AUC 1 (after Agresti and Coull 1998): without those, few users who are all alike would look certain. Over 1 to
    100 users it holds the true mean in 94 of 100 cases or more, where the plain interval does in 18 of 100.

    Examples
    --------
    >>> auc_interval(np.array([1.0] * 10))
    (0.75..., 1.0)
    """
    users = np.append(auc_of_user, [0.0, 1.0])
    mean, half = users.mean(), 1.96 * users.std(ddof=1) / np.sqrt(len(users))
    return float(max(mean - half, 0.0)), float(min(mean + half, 1.0))


def _probe_auc(frame: pd.DataFrame) -> dict[str, Any]:
    """Return the fields of `ScoringCounts` on the probes."""
    probe = (frame["kind"] == "probe").to_numpy()
    pairs = frame[~probe].merge(frame[probe], on="user_id", suffixes=("", "_probe"))
    if pairs.empty:
        return {"probe_auc": None, "probe_users": 0, "probe_auc_low": None, "probe_auc_high": None}
    gap = pairs["score_probe"] - pairs["score"]
    of_user = (0.5 + np.sign(gap) / 2).groupby(pairs["user_id"]).mean().to_numpy()
    low, high = auc_interval(of_user)
    return {
        "probe_auc": float(of_user.mean()),
        "probe_users": len(of_user),
        "probe_auc_low": low,
        "probe_auc_high": high,
    }


def _prompt_order(requests: ScoringRequests, score: np.ndarray, position: np.ndarray) -> PromptOrder | None:
    """Measure each answer by its own order: a mean over repeats would hide what the repeats are there to average."""
    user = np.repeat(np.arange(requests.n_users), np.diff(requests.offsets))
    answer = user[:, None] * requests.repeats + np.arange(requests.repeats)
    return PromptOrder.of(answer.ravel(), np.where(position < 0, np.nan, position).ravel(), score.ravel())


def _locate(requests: ScoringRequests, users: list[Any], lengths: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the row in `requests.pairs` of every (user, item) of the answers, -1 if there is none.

    Items are numbered as in `requests.title_of`, -1 for others.
    """
    n_items = len(requests.title_of)
    known_users = pd.Index(requests.pairs["user_id"].iloc[requests.offsets[:-1]])
    user = np.repeat(known_users.get_indexer(pd.Index(users)), lengths)
    item_of_pair = pd.Index(list(requests.title_of)).get_indexer(pd.Index(requests.pairs["item_id"]))
    user_of_pair = np.repeat(np.arange(requests.n_users), np.diff(requests.offsets))
    row = pd.Index(user_of_pair * n_items + item_of_pair).get_indexer(user * n_items + items)
    return np.where((user < 0) | (items < 0), -1, row)
