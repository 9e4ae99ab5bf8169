"""Ranking and click metrics against scikit-learn and naive loops."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import EvaluationError
from sllmr_plugin.evaluation.metrics import (
    click_metrics,
    expected_calibration_error,
    group_auc,
    labelled_rows,
    predict_rows,
    ranking_metrics,
)
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.zoo.deepctr import build_model
from tests.evaluation_cases import N_ITEMS, N_USERS, TableModel, catalogue, interactions


def queries(values, data):
    """Scores of each test interaction and of its user's unseen items, the own item first."""
    seen = {}
    for split in (data.train[data.train["label"] == 1], data.valid, data.test):
        for user, item in split[["user", "item"]].itertuples(index=False):
            seen.setdefault(user, set()).add(item)
    for user, item in data.test[["user", "item"]].itertuples(index=False):
        unseen = [other for other in range(1, N_ITEMS + 1) if other not in seen[user]]
        yield np.array([values[user, other] for other in [item, *unseen]], dtype=float)


@pytest.mark.parametrize("levels", [1, 3, 10_000])
@pytest.mark.parametrize("k", [1, 4, 10, 50])
def test_ranking_metrics_equal_sklearn_and_random_tie_breaking(levels, k):
    data = load_interactions(interactions(), catalogue())
    values = np.random.default_rng(levels).integers(0, levels, (N_USERS + 1, N_ITEMS + 1))
    ndcg, recall, mrr = [], [], []
    for scores in queries(values, data):
        relevant = np.arange(len(scores)) == 0
        ndcg.append(ndcg_score([relevant], [scores], k=k))  # scikit-learn averages over ties
        above, tied = (scores > scores[0]).sum(), (scores == scores[0]).sum() - 1
        ranks = [above + place for place in range(1, tied + 2)]
        recall.append(np.mean([rank <= k for rank in ranks]))
        mrr.append(np.mean([1 / rank for rank in ranks]))
    metrics = ranking_metrics(full_ranking(TableModel(values), data, verbose=False), k=k)
    assert metrics == pytest.approx({f"ndcg@{k}": np.mean(ndcg), f"recall@{k}": np.mean(recall), "mrr": np.mean(mrr)})


def test_users_with_everything_seen_have_no_rank():
    rows = [("a", i, "train") for i in "wxy"] + [("a", "z", "test"), ("b", "w", "train"), ("b", "x", "test")]
    data = load_interactions(pd.DataFrame(rows, columns=["user_id", "item_id", "split"]))
    ranking = full_ranking(TableModel(np.arange(15.0).reshape(3, 5)), data, verbose=False)
    assert ranking_metrics(ranking, k=2) == {"ndcg@2": 0.0, "recall@2": 0.0, "mrr": pytest.approx(1 / 3)}
    nothing = ranking_metrics(ranking[ranking["negatives"] == 0])
    assert all(math.isnan(value) for value in nothing.values())


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_click_metrics_equal_sklearn_and_naive_loops(levels):
    rng = np.random.default_rng(levels)
    n = 400
    labels, users = rng.integers(0, 2, n), rng.integers(0, 90, n)  # some users have one row, some one class
    probabilities = rng.integers(0, levels + 1, n) / levels  # ties, and exact 0 and 1
    weights, aucs = [], []
    for user in np.unique(users):
        mine = users == user
        if 0 < labels[mine].sum() < mine.sum():
            weights.append(mine.sum())
            aucs.append(roc_auc_score(labels[mine], probabilities[mine]))
    assert len(aucs) < len(np.unique(users))
    metrics = click_metrics(labels, probabilities, users)
    assert metrics["ctr_auc"] == pytest.approx(roc_auc_score(labels, probabilities))
    assert metrics["logloss"] == pytest.approx(log_loss(labels, probabilities))
    assert metrics["gauc"] == pytest.approx(np.average(aucs, weights=weights))
    ece = 0.0
    for low in range(10):
        inside = [k for k in range(n) if low <= probabilities[k] * 10 < low + 1 or low == 9 and probabilities[k] == 1]
        if inside:
            ece += len(inside) / n * abs(probabilities[inside].mean() - labels[inside].mean())
    assert metrics["ece"] == pytest.approx(ece)


def test_metrics_without_two_classes_are_undefined():
    metrics = click_metrics(np.ones(3), np.array([0.2, 0.5, 0.9]), np.array([1, 1, 2]))
    assert math.isnan(metrics["ctr_auc"])
    assert math.isnan(metrics["gauc"])
    assert metrics["logloss"] == pytest.approx(-np.log([0.2, 0.5, 0.9]).mean())
    assert math.isnan(group_auc(np.array([0, 1]), np.array([0.1, 0.2]), np.array([1, 2])))


def test_calibration_of_a_calibrated_and_of_an_overconfident_model():
    rng = np.random.default_rng(0)
    true = rng.random(200_000)
    labels = rng.random(200_000) < true
    assert expected_calibration_error(labels, true) < 0.005
    assert expected_calibration_error(labels, np.round(true)) == pytest.approx(0.25, abs=0.005)


def test_what_is_no_probability_is_refused():
    with pytest.raises(EvaluationError, match=r"row 1 .* 1\.5, which is not a probability"):
        click_metrics(np.array([0, 1]), np.array([0.5, 1.5]), np.array([1, 1]))
    with pytest.raises(EvaluationError, match="no labelled rows"):
        click_metrics(np.array([]), np.array([]), np.array([]))


# --- labelled rows


def test_labelled_rows_are_the_test_interactions_and_unseen_items():
    data = load_interactions(interactions(), catalogue())
    rows = labelled_rows(data, negatives=3, seed=4)
    pd.testing.assert_frame_equal(rows[rows["label"] == 1][["user", "item"]], data.test)
    zeros = rows[rows["label"] == 0]
    assert zeros["user"].value_counts().to_dict() == (3 * data.test["user"].value_counts()).to_dict()
    positives = pd.concat([data.train, data.valid, data.test])[["user", "item"]]
    assert zeros.merge(positives, on=["user", "item"]).empty
    assert labelled_rows(data, negatives=3, seed=4).equals(rows)
    assert not labelled_rows(data, negatives=3, seed=5).equals(rows)


def test_the_datas_own_test_negatives_come_first():
    frame = interactions()
    shown = pd.DataFrame({"user_id": ["u03"], "item_id": ["i19"], "position": 9, "split": "test", "label": 0})
    frame = frame[~((frame["user_id"] == "u03") & (frame["item_id"] == "i19"))]
    data = load_interactions(pd.concat([frame, shown]), catalogue())
    zeros = labelled_rows(data, negatives=3).query("label == 0")
    assert zeros[["user", "item"]].to_numpy().tolist() == [[data.user_index["u03"], data.item_index["i19"]]]


@pytest.mark.parametrize("name", ["deepfm", "din", "dien"])
def test_predictions_of_rows_are_those_of_the_model(name):
    frame = interactions(seed=3)
    data = load_interactions(frame, catalogue())
    model = build_model(name, data, embedding_dim=8, history_length=4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    rows = labelled_rows(data).iloc[::7]
    expected = []
    for user, item in rows[["user", "item"]].itertuples(index=False):
        mine = frame[(frame["user_id"] == data.user_ids[user - 1]) & frame["split"].isin(["train", "valid"])]
        history = [data.item_index[i] for i in mine["item_id"]][-4:]
        x = {
            "user_id": np.array([user]),
            "item_id": np.array([item]),
            "hist_item_id": np.array([history + [0] * (4 - len(history))]),
            "seq_length": np.array([len(history)]),
        }
        expected.append(model.predict(x).item())
    assert predict_rows(model, data, rows) == pytest.approx(np.array(expected), abs=1e-6)
