"""Ranking metrics of held-out interactions, and click metrics of labelled rows; formulas in docs/evaluation.md."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, roc_auc_score

from ..errors import EvaluationError


def ranking_metrics(ranking: pd.DataFrame, *, k: int = 10) -> dict[str, float]:
    """NDCG@k, Recall@k and MRR of a full ranking, each interaction being a query with one relevant item.

    An item that ties with t others has each of t + 1 places with the same probability; the metrics are
    expectations over these. So a model that scores all items alike gets chance, not a perfect rank.

    Parameters
    ----------
    ranking : DataFrame
        As `full_ranking` returns it, ranked against all unseen items. A rank among a sample of items says
        nothing certain about the rank among all (Krichene and Rendle, KDD 2020), so there is no such metric
        for one.
    k : int, default=10
        Places that count.

    Returns
    -------
    dict of str to float
        ``ndcg@k``, ``recall@k``, ``mrr``: means over the interactions whose rank is defined, NaN without any.
    """
    defined = ranking[ranking["negatives"] > 0]
    above, tied = defined["above"].to_numpy(), defined["tied"].to_numpy()
    if len(defined) == 0:
        return dict.fromkeys((f"ndcg@{k}", f"recall@{k}", "mrr"), float("nan"))
    places = np.arange(1, int((above + tied).max()) + 2)
    in_top = places <= k
    values = {f"ndcg@{k}": in_top / np.log2(places + 1), f"recall@{k}": in_top * 1.0, "mrr": 1 / places}
    metrics = {}
    for name, value in values.items():
        total = np.concatenate([[0.0], np.cumsum(value)])  # total[p]: over the first p places
        metrics[name] = float(((total[above + tied + 1] - total[above]) / (tied + 1)).mean())
    return metrics


def click_metrics(labels: np.ndarray, probabilities: np.ndarray, users: np.ndarray) -> dict[str, float]:
    """AUC, logloss, GAUC and calibration error of labelled rows, as CTR models are usually judged.

    Parameters
    ----------
    labels : ndarray
        (n,) 1 for taken, 0 for not taken.
    probabilities : ndarray
        (n,) predictions in [0, 1].
    users : ndarray
        (n,) any labels: which user a row is of.

    Returns
    -------
    dict of str to float
        ``ctr_auc``, ``logloss``, ``gauc``, ``ece``. ``ctr_auc`` is NaN when only one class occurs, ``gauc``
        when no user has both.

    Raises
    ------
    EvaluationError
        If there is no row, or a prediction is no probability.
    """
    labels, probabilities = np.asarray(labels).astype(int), np.asarray(probabilities, dtype=float)
    if len(labels) == 0:
        raise EvaluationError("there are no labelled rows to judge; pass at least one.")
    wrong = np.flatnonzero(~((probabilities >= 0) & (probabilities <= 1)))
    if len(wrong):
        raise EvaluationError(
            f"row {wrong[0]} (counted from 0) has the prediction {probabilities[wrong[0]]}, which is no probability; "
            "evaluate a model whose output is one (task='binary')."
        )
    both = labels.min() != labels.max()
    return {
        "ctr_auc": float(roc_auc_score(labels, probabilities)) if both else float("nan"),
        "logloss": float(log_loss(labels, probabilities, labels=[0, 1])),
        "gauc": group_auc(labels, probabilities, users),
        "ece": expected_calibration_error(labels, probabilities),
    }


def group_auc(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> float:
    """AUC within users, averaged with their numbers of rows as weights (Zhu et al., KDD 2017).

    Parameters
    ----------
    labels, scores, users : ndarray
        (n,) 1 or 0, any numbers, any labels.

    Returns
    -------
    float
        Users whose rows are of one class are left out; NaN if all are.
    """
    rows = pd.DataFrame({"user": users, "label": np.asarray(labels), "score": scores})
    rows["rank"] = rows.groupby("user")["score"].rank()  # ties share their mean rank
    rows["rank"] *= rows["label"]
    by_user = rows.groupby("user").agg(n=("label", "size"), ones=("label", "sum"), ranks=("rank", "sum"))
    by_user = by_user[(by_user["ones"] > 0) & (by_user["ones"] < by_user["n"])]
    if by_user.empty:
        return float("nan")
    n, ones = by_user["n"].to_numpy(), by_user["ones"].to_numpy()
    auc = (by_user["ranks"].to_numpy() - ones * (ones + 1) / 2) / (ones * (n - ones))
    return float(np.average(auc, weights=n))


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, *, n_bins: int = 10) -> float:
    """Mean distance between predicted and observed rates over bins of equal width (Guo et al., ICML 2017).

    Parameters
    ----------
    labels, probabilities : ndarray
        (n,) 1 or 0; predictions in [0, 1].
    n_bins : int, default=10
        Bins ``[0, 1/n), ..., [1 - 1/n, 1]``. More of them see finer errors and count more chance as error.

    Returns
    -------
    float
        In [0, 1]; 0 is calibrated.
    """
    of = np.minimum((probabilities * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(of, weights=np.asarray(probabilities) - labels, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(of))
