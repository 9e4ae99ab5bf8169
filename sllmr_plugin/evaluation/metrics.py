"""NDCG, Recall and MRR of rankings; click metrics (pooled AUC, GAUC, log loss) of labelled rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import log_loss, roc_auc_score

from ..backends.base import row_model
from ..datasets.interactions import Interactions
from ..datasets.negatives import UnseenItems
from ..errors import EvaluationError
from .model_scores import (
    ItemSide,
    check_finite,
    default_rows_per_block,
    evaluation_mode,
    score_items,
    template_matrix,
)


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
            f"row {wrong[0]} (counted from 0) has the prediction {probabilities[wrong[0]]}, which is not a "
            "probability; evaluate a model whose output is one (task='binary')."
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


def labelled_rows(data: Interactions, *, negatives: int = 1, seed: int = 0) -> pd.DataFrame:
    """Label the test interactions 1 and put rows of label 0 beside them.

    Parameters
    ----------
    data : Interactions
        Its own test negatives (shown, not taken) are used where it has some.
    negatives : int, default=1
        Otherwise, items drawn for each test interaction, uniformly from those that its user has no positive
        with. Ratio and way are those of the training rows, so calibration is judged at the rate trained for.
    seed : int, default=0
        Seed of the draw.

    Returns
    -------
    DataFrame
        ``user``, ``item`` (codes) and ``label``. Users who have seen the whole catalogue get no drawn row.
    """
    positives = data.test[["user", "item"]].assign(label=1)
    if len(data.test_negatives):
        return pd.concat([positives, data.test_negatives.assign(label=0)], ignore_index=True)
    seen = pd.concat([data.train.loc[data.train["label"] == 1, ["user", "item"]], data.valid, data.test])
    unseen = UnseenItems(seen["user"].to_numpy(), seen["item"].to_numpy(), n_users=data.n_users, n_items=data.n_items)
    users = positives["user"].to_numpy()
    users = users[unseen.count[users] > 0]
    drawn = unseen.draw(users, negatives, np.random.default_rng([seed, 2]))  # another stream than the rankings'
    zeros = pd.DataFrame({"user": np.repeat(users, negatives), "item": drawn.ravel(), "label": 0})
    return pd.concat([positives, zeros], ignore_index=True)


def predict_rows(model: Any, data: Interactions, rows: pd.DataFrame, *, split: str = "test") -> np.ndarray:
    """Predict held-out rows with a DeepCTR-Torch or FuxiCTR model, from the histories that a ranking uses.

    Parameters
    ----------
    model : BaseModel
        As for `full_ranking`.
    data : Interactions
        Gives histories and attributes.
    rows : DataFrame
        ``user`` and ``item`` codes.
    split : {"test", "valid"}, default="test"
        Which split they are of: test histories hold the validation interactions, too.

    Returns
    -------
    ndarray
        (n_rows,) float64.

    Raises
    ------
    EvaluationError
        If a prediction is not finite.
    """
    model = row_model(model)
    users, items = rows["user"].to_numpy(), torch.tensor(rows["item"].to_numpy())[:, None]
    templates = template_matrix(model, data, users, split)
    item_side = ItemSide.of(model, data)
    step = default_rows_per_block(model, templates)
    parts = []
    with evaluation_mode(model):
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            scores = score_items(model, templates[block], items[block].to(templates.device), item_side, step)
            check_finite(scores, data.user_ids[users[block] - 1])
            parts.append(scores[:, 0].double().cpu().numpy())
    return np.concatenate(parts)
