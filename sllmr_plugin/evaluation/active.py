"""`choose_users`: of the users whom the LLM has not scored, those whose answers are expected to teach most."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from ..datasets.interactions import Interactions, load_interactions
from ..errors import CoverageError, CoverageWarning, DataError
from ..knowledge.id_vectors import VectorSource
from ..knowledge.pair_features import PairFeatures
from ..knowledge.vectors import TextEncoder
from ..regions import cold_users, tail_threshold
from ..scores.arrays import UserScores
from ..scores.ids import encode_ids
from ..scores.reading import as_pandas, read_table
from ..settings import Bounds, Settings
from .extend import fit_student, llm_scores, plain_backbone, student_features
from .metrics import predict_rows
from .student_report import Agreement, Student

_MOST = 5.0  # times that a pair of a stratum without evidence counts
_PAIRS = 1 << 22  # pairs of candidates compared at a time
_STRATA = ("warm, popular", "warm, long-tail", "cold, popular", "cold, long-tail")

TableSource: TypeAlias = str | os.PathLike[str] | pd.DataFrame


@dataclass(frozen=True)
class ActiveSettings(Settings):
    """How users are chosen.

    Parameters
    ----------
    budget : int, default=500
        Users to choose: the number of prompts, and so the bill.
    folds : int, default=5
        Parts that the scored users are dealt into; a student of each leaves one out.
    cold_history : int, default=3
        A user with at most this many training interactions is cold here, as of ``sllmr candidates``.
    tail_quantile : float, default=0.1
        Share of the catalogue that is long-tail here, likewise.
    seed : int, default=0
        Of the student, of a backbone that is trained, and of the order of users who are equal.

    Raises
    ------
    ConfigError
        If numbers are out of range; all of them are named.
    """

    budget: Annotated[int, Bounds(least=1)] = 500
    folds: Annotated[int, Bounds(least=2)] = 5
    cold_history: Annotated[int, Bounds(least=0)] = 3
    tail_quantile: Annotated[float, Bounds(least=0, most=1)] = 0.1
    seed: Annotated[int, Bounds(least=0)] = 0


@dataclass(frozen=True, eq=False, repr=False)
class Chosen:
    """Users to ask about next, with their candidates; print it.

    Attributes
    ----------
    frame : pandas.DataFrame
        The rows of the candidates that are of chosen users, as they were.
    users : pandas.DataFrame
        All users who could be chosen, the greatest gain first: ``user_id``, ``cold``, ``uncertainty``,
        ``disagreement`` (NaN without a model), ``gain``, ``chosen``.
    strata : pandas.DataFrame
        By cold or warm user and long-tail or popular item: ``scored`` pairs, pairs that could be asked about
        (``open``), how much one counts (``counts``), and ``chosen`` pairs.
    agreement : Agreement
        Of the student so far, with the LLM, on users held out.
    model : str
        What the student was compared with; empty for nothing.
    """

    frame: pd.DataFrame
    users: pd.DataFrame
    strata: pd.DataFrame
    agreement: Agreement
    model: str = ""

    def __str__(self) -> str:
        chosen, others = self.users[self.users["chosen"]], self.users[~self.users["chosen"]]
        probes = int((self.frame["kind"] == "probe").sum()) if "kind" in self.frame else 0
        found = self.agreement
        lines = [
            f"{len(chosen)} of {len(self.users)} users chosen, {int(chosen['cold'].sum())} of them cold: "
            f"{len(self.frame) - probes} candidates and {probes} probes",
            f"student of {found.n_pairs} scores of {found.n_users} users: correlation with the LLM "
            f"{found.correlation:.2f}, same order {found.same_order:.1%}, on users held out",
        ]
        for name in ("uncertainty", "disagreement"):
            if not self.users[name].isna().all():
                with_whom = f" with {self.model}" if name == "disagreement" else ""
                rest = f"{others[name].mean():.4f} of the others" if len(others) else "no others"
                lines.append(f"mean {name}{with_whom}: {chosen[name].mean():.4f} of the chosen, {rest}")
        for name, row in self.strata.iterrows():
            lines.append(
                f"  {name + ':':17}{row['scored']:.0f} pairs scored, {row['chosen']:.0f} of {row['open']:.0f} chosen; "
                f"one counts {row['counts']:.2f}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Chosen: {int(self.users['chosen'].sum())} of {len(self.users)} users  (print it for the figures)"


def choose_users(
    scores: TableSource,
    candidates: TableSource,
    interactions: TableSource | Interactions,
    items: TableSource | None = None,
    *,
    model: Any = None,
    texts: VectorSource | None = None,
    encoder: TextEncoder | str | None = None,
    proposed: Sequence[TableSource] = (),
    features: PairFeatures | None = None,
    **settings: Any,
) -> Chosen:
    """Choose users to have scored next: ``sllmr candidates --active`` in Python.

    A student (`extend_scores`) is fitted on what the LLM has scored so far. The gain expected of a user is the mean of
    two ranks among all users who can be chosen, or the first alone without a model:

    - of uncertainty: the mean, over the user's candidates, of the standard deviation over the students of all folds
      (query by committee), where a pair counts by how much its stratum, cold or warm user and long-tail or popular
      item, lacks evidence: the stratum's share of what can be asked about over its share of what is scored, at most 5
      and at least 1/5;
    - of disagreement: the mean, over pairs of the user's candidates that the model puts the other way round, of how
      far the student puts them apart, and 0 for other pairs. There the LLM has something to teach the model.

    The users of greatest gain are chosen. Their candidates are taken as they are drawn: the gate compares the
    popularity of candidates with the catalogue's (`CandidateMatch`), and candidates chosen for being unclear would be a
    sample of nothing. Neither test interactions nor probes are looked at.

    Parameters
    ----------
    scores : path or pandas.DataFrame
        What the LLM has scored so far, of at least `folds` users; rows of an extension are left out.
    candidates : path or pandas.DataFrame
        What would be asked about users who can be chosen, ``user_id, item_id[, kind]``: of `draw_candidates` for all.
    interactions, items
        As in `extend_scores`.
    model : str or model, optional
        The name of a backbone, which is trained as the plain model of a comparison; or a trained model over the codes
        of `interactions`. Without one, the student's uncertainty decides alone.
    texts, encoder
        As in `extend_scores`.
    proposed : sequence of path or pandas.DataFrame, optional
        Candidates of earlier rounds, whose users are not chosen again even if the LLM has not answered.
    features : PairFeatures, optional
        Of `student_features`, for several rounds; `texts` and `encoder` are not looked at then.
    **settings
        Fields of `ActiveSettings`: ``budget`` and others.

    Returns
    -------
    Chosen

    Raises
    ------
    CoverageError
        If no user can be chosen, or too few are scored for a student.
    ConfigError, DataError, ScoreTableError, TextEncoderError
        If settings are out of range or a file cannot be used.

    Warns
    -----
    CoverageWarning
        If fewer than `budget` users can be chosen; all of them are.

    Examples
    --------
    >>> drawn = draw_candidates("clicks.csv", "items.csv")  # doctest: +SKIP
    >>> choose_users("llm_scores.parquet", drawn.frame, "clicks.csv", "items.csv", budget=500)  # doctest: +SKIP
    """
    wanted = ActiveSettings(**settings)
    data = interactions if isinstance(interactions, Interactions) else load_interactions(interactions, items)
    _, table = llm_scores(scores, data, wanted.folds)
    if features is None:
        features, _ = student_features(data, texts, encoder)
    student = fit_student(features, table, data.n_users, folds=wanted.folds, seed=wanted.seed)
    asked = [table.candidates.users, table.probes.users]
    taken = np.unique(np.concatenate([*(part.numpy() for part in asked), *(_users(one, data) for one in proposed)]))
    frame = as_pandas(candidates)
    read = read_table(frame, "candidates")
    user = encode_ids(read.frame["user_id"], data.user_index, what="user_id", written=read.is_text)
    item = encode_ids(read.frame["item_id"], data.item_index, what="item_id", written=read.is_text)
    if (user < 1).any() or (item < 1).any():
        raise DataError(
            f"{read.name}: {int(((user < 1) | (item < 1)).sum())} rows have a user or an item that the interactions "
            "and items do not have. Draw the candidates for these interactions."
        )
    is_open = ~np.isin(user, taken)
    if "kind" in read.frame:
        is_open &= (read.frame["kind"] != "probe").to_numpy()
    if not is_open.any():
        raise CoverageError(
            f"{read.name}: none of its {len(np.unique(user))} users can be chosen: all have been scored or proposed. "
            "Draw candidates of more users, or extend the table as it is (sllmr extend)."
        )
    judged = UserScores.from_arrays(user[is_open], item[is_open], np.zeros(int(is_open.sum())))
    cold = cold_users(data.history_length, wanted.cold_history, inclusive=True)
    tail = data.popularity <= tail_threshold(data.popularity[1:], wanted.tail_quantile)
    found, strata = _gains(judged, table.candidates, student, cold, tail)
    name, scorer = _model(data, model, wanted.seed)
    if scorer is not None:
        of_entry = judged.users[judged.user_of_entry].numpy()
        rows = pd.DataFrame({"user": of_entry, "item": judged.items.numpy()})
        opinion = predict_rows(scorer, data, rows, split="valid")
        found["disagreement"] = _disagreement(judged, found.pop("predicted"), opinion)
    ranks = [rankdata(found[part]) - 1 for part in ("uncertainty", "disagreement") if part in found]
    gain = np.mean(ranks, axis=0) / max(len(judged.users) - 1, 1)
    order = np.lexsort((np.random.default_rng(wanted.seed).random(len(gain)), -gain))
    if len(order) < wanted.budget:
        warnings.warn(
            f"only {len(order)} users can be chosen, of a budget of {wanted.budget}; all of them are, so it makes no "
            "difference which are worth most. Draw candidates of more users.",
            CoverageWarning,
            stacklevel=2,
        )
    codes = judged.users.numpy()
    users = pd.DataFrame(
        {
            "user_id": data.user_ids[codes - 1],
            "cold": cold[codes],
            "uncertainty": found["uncertainty"],
            "disagreement": found.get("disagreement", np.nan),
            "gain": gain,
        }
    ).iloc[order]
    users["chosen"] = np.arange(len(users)) < wanted.budget
    is_chosen = np.isin(user, codes[order[: wanted.budget]])
    in_stratum = _stratum(user, item, cold, tail)[is_open & is_chosen]
    strata["chosen"] = np.bincount(in_stratum, minlength=len(_STRATA))
    of_llm = table.candidates
    held_out, _ = student.predict(of_llm.users[of_llm.user_of_entry].numpy(), of_llm.items.numpy())
    return Chosen(
        read.frame[is_chosen].reset_index(drop=True),
        users.reset_index(drop=True),
        strata,
        Agreement.of(of_llm, held_out),
        name,
    )


def _users(candidates: TableSource, data: Interactions) -> np.ndarray:
    """Return the codes of a table's users."""
    read = read_table(as_pandas(candidates), "candidates")
    read.require_columns(["user_id"])
    return encode_ids(read.frame["user_id"], data.user_index, what="user_id", written=read.is_text)


def _model(data: Interactions, model: Any, seed: int) -> tuple[str, Any]:
    if model is None:
        return "", None
    if not isinstance(model, str):
        return type(model).__name__, model
    return model, plain_backbone(data, model, seed=seed)


def _stratum(users: np.ndarray, items: np.ndarray, cold: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Return positions in `_STRATA` of pairs."""
    return 2 * cold[users].astype(np.int64) + tail[items]


def _gains(
    judged: UserScores, scored: UserScores, student: Student, cold: np.ndarray, tail: np.ndarray
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Return ``uncertainty`` of each user, the ``predicted`` scores of all pairs, and what the strata count."""
    users, items = judged.users[judged.user_of_entry].numpy(), judged.items.numpy()
    predicted, spread = student.predict(users, items)
    open_stratum = _stratum(users, items, cold, tail)
    scored_stratum = _stratum(scored.users[scored.user_of_entry].numpy(), scored.items.numpy(), cold, tail)
    n_open, n_scored = (np.bincount(part, minlength=len(_STRATA)) for part in (open_stratum, scored_stratum))
    lacks = n_open / n_open.sum() / np.maximum(n_scored / n_scored.sum(), 1e-12)
    counts = lacks.clip(1 / _MOST, _MOST)
    owner = judged.user_of_entry.numpy()
    uncertainty = np.bincount(owner, spread * counts[open_stratum]) / np.bincount(owner)
    strata = pd.DataFrame({"scored": n_scored, "open": n_open, "counts": counts}, index=list(_STRATA))
    return {"uncertainty": uncertainty, "predicted": predicted}, strata


def _disagreement(judged: UserScores, student: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Return, for each user, how far the student puts pairs apart that the model puts the other way round: a mean."""
    found = np.zeros(len(judged.users))
    width = int(judged.counts.max())
    for block in torch.arange(len(judged.users)).split(max(1, _PAIRS // width**2)):
        entry, valid = judged.block(block)
        of_student, of_model = (np.where(valid, values[entry], np.nan) for values in (student, model))
        apart = of_student[:, :, None] - of_student[:, None, :]
        against = of_model[:, :, None] < of_model[:, None, :]  # NaN is not below anything
        n_pairs = judged.counts[block].numpy() * (judged.counts[block].numpy() - 1) / 2
        found[block] = np.where(against, apart, 0).clip(0).sum(axis=(1, 2)) / np.maximum(n_pairs, 1)
    return found
