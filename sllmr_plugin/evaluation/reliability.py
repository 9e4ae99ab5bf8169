"""Where the LLM is worth following: who is right about held-out interactions, the LLM or the backbone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..config import SelectiveConfig
from ..errors import SLLMRError
from ..scores.origin import PromptOrder, recorded_order
from ..training.match import CandidateMatch
from ..training.probes import JudgedPairs
from ..wrapping import is_wrapped, unwrap, wrap
from .comparison import below_untrained
from .plots import plot_reliability, region_name
from .statistics import FEWEST_USERS
from .tables import Sheet, Table

_USERS, _ITEMS, _UNCERTAINTY = ("cold", "warm"), ("tail", "head"), ("low", "middle", "high")
_GAPS = (0.0, 0.2, 0.4, 1.0)
_CAPTION = "share of (held-out item, candidate) pairs ordered right, with 95% intervals over users"
_DISAGREE = ("disagree", "LLM right when they disagree")
_RIGHT = "_right"
_BLOCK = 2048  # pairs: what compares texts holds users x items of a block
MEASURES = ("llm_right", "backbone_right", "llm_right_when_they_disagree")


@dataclass(frozen=True, repr=False)
class Reliability:
    """Who orders held-out interactions right, by region; print it.

    Attributes
    ----------
    table : DataFrame
        A row a region. ``users`` (cold, warm), ``items`` (tail: the pair has a long-tail item; head), ``uncertainty``
        (low, middle, high third of the backbone's mean uncertainty about the pair) and ``llm_gap`` (how far
        apart the LLM puts the two) say which, "all" where a region does not distinguish. ``n_users``, ``n_pairs``
        and ``n_disagree`` count. The measures are ``llm_right``, ``backbone_right`` (shares of the pairs, a tie
        being half right) and ``llm_right_when_they_disagree`` (share of the disagreements); each has a ``_low`` and a
        ``_high`` end of a 95% interval, NaN with fewer than ten users. NaN where there is nothing to average.
    uncertainty : str
        The kind of uncertainty.
    resamples : int
        Bootstrap resamples of users behind the intervals.
    prompt_order : PromptOrder or None, default=None
        How far the scores follow the order in which the prompts showed the candidates, where the table says.
    match : CandidateMatch or None, default=None
        How far the probes' candidates are distributed over popularity as the catalogue is, which a ranking compares
        with. The shares of the table count all pairs alike.
    """

    table: pd.DataFrame
    uncertainty: str
    resamples: int
    prompt_order: PromptOrder | None = None
    match: CandidateMatch | None = None

    @property
    def untrained(self) -> list[str]:
        """Names of what needs no training in the table."""
        return untrained_names(self.table)

    def region(self, **labels: str) -> pd.Series:
        """Return the row of a region, for instance ``region(users="cold", items="tail")``."""
        wanted = {"users": "all", "items": "all", "uncertainty": "all", "llm_gap": "all", **labels}
        found = self.table[(self.table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        if len(found) != 1:
            raise SLLMRError(f"there is no region {labels}. The regions are the rows of `table`.")
        return found.iloc[0]

    def content(self) -> dict[str, Any]:
        """Return the table as a list of regions, with None for NaN, which JSON lacks, and how it was made."""
        rows = [
            {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}
            for row in self.table.to_dict("records")
        ]
        order = None if self.prompt_order is None else asdict(self.prompt_order)
        match = None if self.match is None else {"overlap": self.match.overlap, "unseen": self.match.unseen}
        how = {"uncertainty": self.uncertainty, "resamples": self.resamples, "prompt_order": order, "match": match}
        return {**how, "regions": rows}

    def to_json(self, path: str | Path) -> None:
        """Write `content` as JSON."""
        Path(path).write_text(json.dumps(self.content(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def plot(self, path: str | Path) -> None:
        """Draw P(the LLM is right | they disagree) by region, with intervals, into a PNG, SVG or PDF file."""
        plot_reliability(self.table, path)

    def sheet(self) -> Sheet:
        """Return the regions as a table, with the verdict below."""
        table = Table("users", ["items", "uncertainty", "LLM gap", "pairs", "LLM", "backbone", *_DISAGREE], narrow=True)
        for _, row in self.table.iterrows():
            llm, backbone, disagreed = (_cell(row, name) for name in MEASURES)
            region = [row["items"], row["uncertainty"], row["llm_gap"], str(row["n_pairs"])]
            table.add(row["users"], [*region, llm, backbone, str(row["n_disagree"]), disagreed])
        scores = [str(part) for part in (self.prompt_order, self.match) if part is not None]
        return Sheet([_CAPTION], [table, *self._beside_untrained()], [*self.verdict(), *self._below(), *scores])

    def _beside_untrained(self) -> list[Table]:
        """Return who is right beside what needs no training, in the regions of users and items."""
        if not self.untrained:
            return []
        measures = [*MEASURES[:2], *(f"{name}_right" for name in self.untrained)]
        table = Table("pairs of", ["LLM", "backbone", *self.untrained], narrow=True)
        for _, row in self.table[(self.table[["uncertainty", "llm_gap"]] == "all").all(axis=1)].iterrows():
            table.add(region_name(row), [_cell(row, name) for name in measures])
        return [table]

    def _below(self) -> list[str]:
        """Say where the LLM or the backbone is right less often than what needs no training."""
        lines = []
        for key, labels in (("auc", {}), ("auc_cold", {"users": "cold"}), ("auc_tail", {"items": "tail"})):
            row = self.region(**labels)
            judged = {"LLM": [row[MEASURES[0]]], "backbone": [row[MEASURES[1]]]}
            lines += below_untrained(judged, {name: {key: row[f"{name}_right"]} for name in self.untrained}, key)
        return lines

    def __str__(self) -> str:
        return self.sheet().write()

    def _repr_html_(self) -> str:
        return self.sheet().write("html")

    def __repr__(self) -> str:
        whole = self.region()
        return (
            f"Reliability of {whole['n_pairs']} pairs of {whole['n_users']} users: LLM right "
            f"{_cell(whole, MEASURES[0])}, backbone {_cell(whole, MEASURES[1])}  (print it for the regions)"
        )

    def verdict(self) -> list[str]:
        """Say in a sentence each of cold and warm users, tail and head items, whether the LLM is worth following."""
        sentences = []
        for users in _USERS:
            for items in _ITEMS:
                row = self.region(users=users, items=items)
                where = f"{users} users, {'with a long-tail item' if items == 'tail' else 'popular items only'}"
                low, high = (row[f"{MEASURES[2]}_{end}"] for end in ("low", "high"))
                if row["n_disagree"] == 0:
                    says = "no disagreement to judge by"
                elif np.isnan(low):
                    says = "undecided: too few users for an interval"
                elif low > 0.5:
                    says = "follow the LLM: it is right more often where the two disagree"
                elif high < 0.5:
                    says = "do not follow the LLM: the backbone is right more often where the two disagree"
                else:
                    says = "undecided: the interval holds one half"
                sentences.append(f"{where}: {says}")
        return sentences


def reliability(
    model: Any,
    scores: Any = None,
    *,
    x: Any,
    y: Any = None,
    config: SelectiveConfig | None = None,
    resamples: int = 1000,
    seed: int = 0,
    untrained: Mapping[str, nn.Module] | None = None,
    **wrap_arguments: Any,
) -> Reliability:
    """Compare the LLM with a trained backbone on probes, before any training money is spent.

    A probe is a held-out interaction of a user that the LLM scored among its candidates without knowing. Each is
    paired with every candidate of the same user that is not a training positive. The one who puts the probe
    first is right.

    Parameters
    ----------
    model : wrapped or plain model
        Trained as well as the one that would be replaced. It is left as it came.
    scores : path, DataFrame or ScoreTable, optional
        As `wrap` takes them, with probes. Required for a plain model; left out for a wrapped one.
    x, y : as `fit` takes them
        The training rows: they give the template row of each user and count histories and popularity. For a FuxiCTR
        model `x` is the training generator, which holds the labels, and there is no `y`.
    config : SelectiveConfig, optional
        Its `uncertainty`, `mc_samples`, `cold_threshold` and `tail_quantile` count. Default: the wrapped model's,
        or ``SelectiveConfig()``.
    resamples : int, default=1000
        Bootstrap resamples of users.
    seed : int, default=0
        Seed of the resampling.
    untrained : mapping of str to nn.Module, optional
        What needs no training, by name, as `untrained_models` makes it of the interactions: it takes (n, 2) codes of
        user and item, the same as the table's, and orders the same pairs.
    **wrap_arguments
        For a plain model: ``user``, ``item`` and what else `wrap` needs.

    Returns
    -------
    Reliability

    Raises
    ------
    SLLMRError
        If the table has no usable probe.
    WrapError
        If the model cannot be wrapped.

    Warns
    -----
    CoverageWarning
        If the probes' candidates are hardly distributed as the catalogue is.
    OrderEchoWarning
        If the scores follow the order in which the prompts showed the candidates.

    Examples
    --------
    >>> print(reliability(model, "llm_scores.parquet", x=x, y=y, user="user_id", item="item_id"))  # doctest: +SKIP
    """
    if is_wrapped(model):
        if scores is not None or wrap_arguments:
            raise SLLMRError("the model is wrapped and has its own scores. Leave scores and wrap's arguments out.")
        return _of_wrapped(model, x, y, config, resamples, seed, untrained or {})
    if scores is None:
        raise SLLMRError("a plain model has no scores. Pass scores=, user= and item= as to wrap.")
    wrap(model, scores, config=config, **wrap_arguments)
    try:
        return _of_wrapped(model, x, y, None, resamples, seed, untrained or {})
    finally:
        unwrap(model)


def _of_wrapped(
    model: Any,
    x: Any,
    y: Any,
    config: SelectiveConfig | None,
    resamples: int,
    seed: int,
    untrained: Mapping[str, nn.Module],
) -> Reliability:
    before = model.sllmr.config
    # A pairwise mode would leave out users whose candidates all have one score, which does not matter here.
    model.sllmr.config = (config or before).replace(loss="mse", gate="none")
    try:
        judged = model.judge_probes(x, y)
        uncertainty = model.sllmr.config.uncertainty
    finally:
        model.sllmr.config = before
    if len(judged.pairs) == 0:
        raise SLLMRError(
            "the score table has no usable probe: a held-out item (kind=probe) of a user that has a training row "
            "and candidates. Have the LLM score one validation item among the candidates of some users."
        )
    order = recorded_order(model.sllmr.table.origin)
    if order is not None:
        order.warn()
    match = judged.pairs.match
    if match is not None:
        match.warn()
    return Reliability(_tabulate(judged, resamples, seed, untrained), uncertainty, resamples, order, match)


def untrained_names(columns: Iterable[str]) -> list[str]:
    """Return the names of what needs no training among the columns of `Reliability.table`."""
    return [key.removesuffix(_RIGHT) for key in columns if key.endswith(_RIGHT) and key not in MEASURES]


def _gap(model: nn.Module, keys: torch.Tensor) -> np.ndarray:
    """Return the score of each pair's probe minus that of its candidate, from (n, 3) codes of user and both: (n,)."""
    with torch.no_grad():
        gaps = [model(part[:, [0, 1]]) - model(part[:, [0, 2]]) for part in keys.cpu().split(_BLOCK)]
    return torch.cat(gaps).reshape(-1).numpy()


def _tabulate(judged: JudgedPairs, resamples: int, seed: int, untrained: Mapping[str, nn.Module]) -> pd.DataFrame:
    pairs, entries = judged.pairs, judged.pairs.entries
    llm_gap, model_gap = judged.llm_gap.numpy(), judged.model_gap.numpy()
    disagree = judged.disagree.numpy()
    q = (judged.uncertainty[pairs.probe] + judged.uncertainty[pairs.candidate]).numpy()
    tail = (entries.tail[pairs.probe] | entries.tail[pairs.candidate]).numpy()
    thirds = np.searchsorted(np.quantile(q, [1 / 3, 2 / 3]), q, side="left")
    labels = {
        "users": np.where(entries.cold[pairs.probe].numpy(), *_USERS),
        "items": np.where(tail, *_ITEMS),
        "uncertainty": np.array(_UNCERTAINTY)[thirds],
        "llm_gap": np.array(_gap_names())[
            np.clip(np.searchsorted(_GAPS[1:-1], np.abs(llm_gap).round(6), side="right"), 0, 2)
        ],
    }
    right = {
        MEASURES[0]: ((llm_gap > 0) + 0.5 * (llm_gap == 0), np.ones(len(q))),
        MEASURES[1]: ((model_gap > 0) + 0.5 * (model_gap == 0), np.ones(len(q))),
        MEASURES[2]: ((llm_gap > 0) & disagree, disagree),
    }
    for name, scorer in untrained.items():
        gap = _gap(scorer, pairs.keys)
        right[f"{name}{_RIGHT}"] = ((gap > 0) + 0.5 * (gap == 0), np.ones(len(q)))
    _, user = np.unique(pairs.user.numpy(), return_inverse=True)
    n_users = user.max() + 1
    times = np.random.default_rng(seed).multinomial(n_users, np.full(n_users, 1 / n_users), resamples)
    rows = []
    for region in _regions():
        mask = np.logical_and.reduce([labels[key] == value for key, value in region.items()] or [np.ones(len(q), bool)])
        row: dict[str, Any] = {key: region.get(key, "all") for key in labels}
        row |= {
            "n_users": len(np.unique(user[mask])),
            "n_pairs": int(mask.sum()),
            "n_disagree": int((mask & disagree).sum()),
        }
        for name, (won, counted) in right.items():
            row |= _share(name, np.where(mask, won, 0.0), np.where(mask, counted, 0.0), user, times)
        rows.append(row)
    return pd.DataFrame(rows)


def _share(name: str, won: np.ndarray, counted: np.ndarray, user: np.ndarray, times: np.ndarray) -> dict[str, float]:
    """Return a share with its interval: users are drawn with replacement, each with all of its pairs."""
    if counted.sum() == 0:
        return {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    of_user = np.stack([np.bincount(user, weights=part) for part in (won, counted)], axis=1)  # (n_users, 2)
    total = times @ of_user  # (resamples, 2)
    drawn = total[:, 1] > 0  # a small region can be missed by a resample
    low = high = np.nan
    if (of_user[:, 1] > 0).sum() >= FEWEST_USERS:
        low, high = np.quantile(total[drawn, 0] / total[drawn, 1], [0.025, 0.975])
    return {name: float(won.sum() / counted.sum()), f"{name}_low": float(low), f"{name}_high": float(high)}


def _cell(row: pd.Series, name: str) -> str:
    if np.isnan(row[name]):
        return "-"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.2f}" + ("" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]")


def _regions() -> list[Mapping[str, str]]:
    """Return the regions from coarse to fine."""
    single = [{"users": u} for u in _USERS] + [{"items": i} for i in _ITEMS]
    single += [{"uncertainty": q} for q in _UNCERTAINTY] + [{"llm_gap": g} for g in _gap_names()]
    crossed = [{"users": u, "items": i} for u in _USERS for i in _ITEMS]
    return [{}, *single, *crossed, *({**region, "uncertainty": q} for region in crossed for q in _UNCERTAINTY)]


def _gap_names() -> list[str]:
    return [f"{low:g} to {high:g}" for low, high in zip(_GAPS[:-1], _GAPS[1:], strict=True)]
