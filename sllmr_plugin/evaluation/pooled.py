"""Pooled AUC over labelled rows, beside the full ranking: what the paper's protocol measures (`datasets.protocols`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from ..datasets.interactions import Interactions
from ..datasets.protocols import FULL_RANKING, LLM_CF, MIN_EARLIER, TAIL_SHARE, held_out_interactions, labelled_held_out
from ..errors import EvaluationError
from ..regions import tail_by_rank
from .metrics import predict_rows

POOLED = ("ctr_auc", "ctr_auc_cold", "ctr_auc_tail")
"""Pooled AUC of all rows, of cold rows and of rows whose item is long-tail."""


class PooledRows:
    """The labelled rows of a held-out split, and the AUC over them.

    Parameters
    ----------
    data : Interactions
        The interactions that a model's ids are codes of.
    split : {"test", "valid"}, default="test"
        Which rows.
    seed : int, default=0
        Of the negatives; the same for all models that are compared.

    Attributes
    ----------
    rows : DataFrame
        ``user``, ``item`` (codes), ``earlier``, ``cold``, ``tail`` (bool, of the row's own item) and ``label``.

    Raises
    ------
    DataError
        If no interaction of the split has three earlier ones of its user.
    """

    def __init__(self, data: Interactions, split: str = "test", *, seed: int = 0) -> None:
        self.rows = labelled_held_out(data, split, seed=seed)
        self.rows["tail"] = tail_items(data)[self.rows["item"].to_numpy()]
        self._data, self._split = data, split

    def predict(self, model: Any) -> np.ndarray:
        """Score the rows with a model, as `predict_rows` does: (n_rows,) float64."""
        return predict_rows(model, self._data, self.rows, split=self._split)

    def aucs(self, scores: np.ndarray) -> dict[str, float]:
        """Return the AUC over pairs of a row of label 1 and a row of label 0, of any two users.

        Parameters
        ----------
        scores : ndarray
            (n_rows,) any numbers.

        Returns
        -------
        dict of str to float
            Names of `POOLED`. Over cold rows, both rows of a pair are cold; over long-tail items, both items of a pair
            are long-tail. NaN without rows of both labels.
        """
        labels = self.rows["label"].to_numpy()
        parts = (np.ones(len(labels), dtype=bool), self.rows["cold"].to_numpy(), self.rows["tail"].to_numpy())
        return {name: _auc(labels[part], scores[part]) for name, part in zip(POOLED, parts, strict=True)}


def _auc(labels: np.ndarray, scores: np.ndarray) -> float:
    return float(roc_auc_score(labels, scores)) if len(np.unique(labels)) == 2 else float("nan")


def tail_items(data: Interactions) -> np.ndarray:
    """Return which items are among the least popular fifth of the catalogue: (n_items + 1,) bool, by code."""
    return np.r_[False, tail_by_rank(data.popularity[1:], TAIL_SHARE)]


def rows_of_ranking(ranking: pd.DataFrame, data: Interactions, split: str = "test") -> pd.DataFrame:
    """Keep the interactions of a ranking that are rows, with the protocol's strata.

    Parameters
    ----------
    ranking : DataFrame
        As `full_ranking` returns it.
    data : Interactions
        As of the ranking.
    split : {"test", "valid"}, default="test"
        What was ranked.

    Returns
    -------
    DataFrame
        With ``cold`` of the interaction at its time and ``tail`` by rank.

    Raises
    ------
    EvaluationError
        If none is left.
    """
    found = held_out_interactions(data, split)[["user", "item", "cold"]]
    kept = ranking.drop(columns="cold").merge(found, on=["user", "item"], validate="one_to_one")
    if kept.empty:
        raise EvaluationError(
            f"no ranked interaction has {MIN_EARLIER} earlier ones of its user, which a row of the protocol {LLM_CF} "
            f"needs; rank more users, or take the protocol {FULL_RANKING}."
        )
    return kept.assign(tail=tail_items(data)[kept["item"].to_numpy()])[list(ranking.columns)]
