"""Ranking against a sample of the unseen items: its distribution, its standard error, what is said about it."""

import math

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.datasets.negatives import UnseenItems
from sllmr_plugin.errors import EvaluationError
from sllmr_plugin.evaluation.ranking import full_ranking, summarize
from tests.evaluation_cases import N_ITEMS, N_USERS, TableModel, catalogue, interactions


@pytest.fixture
def data():
    return load_interactions(interactions(), catalogue())


def model(levels=9, seed=2):
    return TableModel(np.random.default_rng(seed).integers(0, levels, (N_USERS + 1, N_ITEMS + 1)))


def test_draws_are_uniform_over_the_unseen_items_and_nothing_else():
    users, items = np.array([1, 1, 1, 2, 2, 1]), np.array([2, 3, 6, 1, 5, 3])  # (1, 3) stands there twice
    unseen = UnseenItems(users, items, n_users=3, n_items=6)
    assert unseen.count[1:].tolist() == [3, 4, 6]
    drawn = unseen.draw(np.array([1, 2, 3]), 12_000, np.random.default_rng(0))
    for row, left in zip(drawn, [[1, 4, 5], [2, 3, 4, 6], [1, 2, 3, 4, 5, 6]], strict=True):
        values, counts = np.unique(row, return_counts=True)
        assert values.tolist() == left
        expected = 12_000 / len(left)
        assert ((counts - expected) ** 2 / expected).sum() < 25  # chi-square, at most 5 degrees of freedom


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_mean_over_many_samples_is_the_full_ranking(data, split):
    exact = full_ranking(model(), data, split, verbose=False)
    repeats = [full_ranking(model(), data, split, n_items=5, seed=seed, verbose=False) for seed in range(300)]
    for sample in repeats:
        assert (sample["negatives"] == 5).all()
        pd.testing.assert_frame_equal(sample[["user", "item", "cold", "tail"]], exact[["user", "item", "cold", "tail"]])
    aucs = np.stack([sample["auc"] for sample in repeats])  # (300, n_interactions)
    errors = (aucs.mean(axis=0) - exact["auc"]) / (aucs.std(axis=0, ddof=1) / math.sqrt(300)).clip(min=1e-9)
    assert errors.abs().max() < 4.5
    assert abs(errors.mean()) < 0.5


def test_the_standard_error_is_that_of_repeated_samples(data):
    one_each = data.test.drop_duplicates("user")["user"].to_numpy()[::3]  # users with one test interaction
    assert data.test["user"].isin(one_each).sum() == len(one_each)
    summaries = [
        summarize(full_ranking(model(), data, users=one_each, n_items=8, seed=seed, verbose=False))
        for seed in range(400)
    ]
    for name in ("auc", "auc_cold"):
        told = np.mean([summary[name + "_se"] ** 2 for summary in summaries]) ** 0.5
        seen = np.std([summary[name] for summary in summaries], ddof=1)
        assert told == pytest.approx(seen, rel=0.12)


def test_interactions_of_a_user_share_the_draw_so_their_errors_add_up(data):
    ranking = full_ranking(model(), data, n_items=6, verbose=False)
    variance = sum(group["auc_se"].sum() ** 2 for _, group in ranking.groupby("user"))
    assert summarize(ranking)["auc_se"] == pytest.approx(math.sqrt(variance) / len(ranking))


def test_the_standard_error_of_one_interaction_by_hand():
    rows = [("a", "v", "train"), ("a", "z", "test")]
    data = load_interactions(
        pd.DataFrame(rows, columns=["user_id", "item_id", "split"]), pd.DataFrame({"item_id": [*"vwxyz"]})
    )
    values = np.array([[0] * 6, [0, 9, 1, 5, 5, 5]])  # of w, x, y: one below z, two tied
    ranking = full_ranking(TableModel(values), data, n_items=4, seed=1, verbose=False).iloc[0]
    wins = [1.0] * (4 - ranking["tied"]) + [0.5] * ranking["tied"]
    assert ranking["above"] == 0
    assert 0 < ranking["tied"] < 4
    assert ranking["auc"] == pytest.approx(np.mean(wins))
    assert ranking["auc_se"] == pytest.approx(np.std(wins, ddof=1) / 2)


def test_the_same_call_draws_the_same_whatever_the_block_or_the_model(data):
    whole = full_ranking(model(), data, n_items=7, rows_per_block=10_000, verbose=False)
    for rows in (1, 9, 50):
        again = full_ranking(model(), data, n_items=7, rows_per_block=rows, verbose=False)
        pd.testing.assert_frame_equal(again, whole)
    assert not full_ranking(model(), data, n_items=7, seed=1, verbose=False)["auc"].equals(whole["auc"])
    # a model that is wrong exactly where this one is right
    opposite = TableModel(-model().values.detach().numpy())
    turned = full_ranking(opposite, data, n_items=7, verbose=False)
    assert (turned["auc"] + whole["auc"]).tolist() == pytest.approx([1.0] * len(whole))
    assert (turned["above"] + whole["above"] + whole["tied"]).tolist() == [7] * len(whole)


def test_a_sample_as_large_as_the_catalogue_is_the_full_ranking(data):
    exact = full_ranking(model(), data, verbose=False)
    pd.testing.assert_frame_equal(full_ranking(model(), data, n_items=N_ITEMS, verbose=False), exact)
    assert (exact["auc_se"] == 0).all()
    assert summarize(exact)["auc_se"] == 0


def test_a_user_who_has_seen_everything_is_undefined_and_draws_nothing():
    rows = [("a", i, "train") for i in "wxy"] + [("a", "z", "test"), ("b", "w", "train"), ("b", "x", "test")]
    data = load_interactions(pd.DataFrame(rows, columns=["user_id", "item_id", "split"]))
    ranking = full_ranking(TableModel(np.arange(15.0).reshape(3, 5)), data, n_items=2, verbose=False)
    assert ranking["auc"].isna().tolist() == [True, False]
    assert ranking["negatives"].tolist() == [0, 2]
    assert summarize(ranking)["n_undefined"] == 1


def test_one_item_is_too_few(data):
    with pytest.raises(EvaluationError, match="take 2 or more"):
        full_ranking(model(), data, n_items=1, verbose=False)
