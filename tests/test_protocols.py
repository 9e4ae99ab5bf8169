"""The protocol of the paper's figures: rows, cold rows and long-tail items counted by hand; on Beauty where it is."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.paper.paper import paper_figures
from sllmr_plugin.cli import main
from sllmr_plugin.cli.training import add_training, run_settings, training_flags
from sllmr_plugin.config import SelectiveConfig
from sllmr_plugin.datasets import prepare
from sllmr_plugin.datasets.features import held_out_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.datasets.protocols import (
    count_rows,
    held_out_interactions,
    interactions_of_user,
    labelled_held_out,
)
from sllmr_plugin.errors import ConfigError, DataError, EvaluationError
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.comparison import Comparison
from sllmr_plugin.evaluation.pooled import POOLED, PooledRows, rows_of_ranking, tail_items
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.evaluation.training import PROTOCOL_SETTINGS, RunSettings, train
from sllmr_plugin.evaluation.untrained import UntrainedModel, rank_untrained
from sllmr_plugin.experiments.experiment import compose
from sllmr_plugin.regions import tail_by_rank
from sllmr_plugin.scores.table import ScoreTable

from .evaluation_cases import TableModel, result

LENGTHS = {"ann": 3, "bob": 4, "cid": 5, "dan": 6, "eve": 9}
"""User -> interactions. Rows: none, 1, 2, 3 and 6; cold (three to five earlier): none, 1, 2, 3 and 3."""


def purchases():
    """Each user has the items of the catalogue from a place of their own on, so that popularity differs."""
    rows = []
    for place, (user, length) in enumerate(LENGTHS.items()):
        rows += [(user, f"i{(2 * place + k) % 12:02d}", k) for k in range(length)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "position"])


def catalogue():
    return pd.DataFrame({"item_id": [f"i{k:02d}" for k in range(12)]})


@pytest.fixture
def data():
    return load_interactions(purchases(), catalogue())


def user(data, name):
    return data.user_index[name]


def test_rows_and_cold_rows_counted_by_hand(data):
    assert interactions_of_user(data).tolist() == list(LENGTHS.values())
    # 12 interactions have three earlier ones, 9 of these three to five; each stands beside a negative. A fifth of 12 is
    # 2.4 items.
    assert count_rows(interactions_of_user(data), 12) == {"rows": 24, "cold_rows": 18, "tail_items": 2}


def test_rows_are_counted_the_same_one_interaction_at_a_time():
    lengths = np.random.default_rng(0).integers(0, 30, size=200)
    rows = cold = 0
    for length in lengths:
        for earlier in range(length):
            if earlier >= 3:
                rows += 2
                cold += 2 * (earlier in (3, 4, 5))
    counts = count_rows(lengths, 50)
    assert (counts["rows"], counts["cold_rows"], counts["tail_items"]) == (rows, cold, 10)


def test_prepare_counts_and_prints_what_table_1_counts(tmp_path, capsys):
    purchases().to_csv(tmp_path / "raw.csv", index=False)
    command = ["prepare", "csv", "--reviews", str(tmp_path / "raw.csv"), "--out", str(tmp_path / "out")]
    assert main([*command, "--k-core", "0"]) == 0
    assert "llm-cf    24 rows, 18 of them cold, 2 long-tail items" in capsys.readouterr().out


def test_held_out_rows_know_what_came_before_them(data):
    # Leave-last-out: the test interaction of a user of n is its n-th, the validation one the one before it.
    test = held_out_interactions(data, "test")
    assert dict(zip(test["user"], test["earlier"], strict=True)) == {
        user(data, name): length - 1 for name, length in LENGTHS.items() if length > 3
    }
    assert test["cold"].tolist() == [True, True, True, False]  # 3, 4, 5 and 8 earlier ones
    valid = held_out_interactions(data, "valid")
    assert valid["user"].tolist() == [user(data, name) for name in ("cid", "dan", "eve")]
    assert valid["cold"].tolist() == [True, True, False]


def test_later_test_interactions_of_a_user_count_the_earlier_ones():
    splits = ["train", "train", "valid", "test", "test", "test", "test"]
    frame = pd.DataFrame({"user_id": 1, "item_id": range(7), "split": splits, "position": range(7)})
    test = held_out_interactions(load_interactions(frame), "test")
    assert test["earlier"].tolist() == [3, 4, 5, 6]
    assert test["cold"].tolist() == [True, True, True, False]


def test_negatives_given_by_the_data_are_no_earlier_interactions():
    shown = pd.DataFrame({"user_id": "bob", "item_id": ["i00", "i01"], "position": [0, 1], "label": 0})
    both = pd.concat([purchases().assign(label=1), shown], ignore_index=True)
    data = load_interactions(both, catalogue())
    assert interactions_of_user(data).tolist() == list(LENGTHS.values())
    assert held_out_interactions(data, "test")["earlier"].tolist() == [3, 4, 5, 8]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_each_held_out_row_stands_beside_an_unseen_item_of_its_time(data, split):
    rows = labelled_held_out(data, split, seed=3)
    pairs = rows.to_numpy().reshape(len(rows) // 2, 2, -1)
    positives, negatives = rows[::2].reset_index(drop=True), rows[1::2].reset_index(drop=True)
    assert len(pairs) == len(held_out_interactions(data, split))
    pd.testing.assert_frame_equal(positives.drop(columns="label"), held_out_interactions(data, split))
    assert (positives["label"].unique().tolist(), negatives["label"].unique().tolist()) == ([1], [0])
    for column in ("user", "earlier", "cold"):
        assert positives[column].equals(negatives[column])
    seen = {"valid": (data.train, data.valid), "test": (data.train, data.valid, data.test)}[split]
    taken = {(u, i) for part in seen for u, i in part[["user", "item"]].itertuples(index=False)}
    assert not taken & set(negatives[["user", "item"]].itertuples(index=False, name=None))
    assert labelled_held_out(data, split, seed=3).equals(rows)


def test_validation_rows_do_not_depend_on_test_interactions():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"user_id": np.repeat(range(40), 6), "split": (["train"] * 4 + ["valid", "test"]) * 40})
    frame["item_id"] = np.concatenate([rng.permutation(7)[:6] for _ in range(40)])
    data = load_interactions(frame, pd.DataFrame({"item_id": range(7)}))
    # Two items are neither training nor validation ones of a user; one of them is the test item.
    rows = labelled_held_out(data, "valid")
    drawn = set(rows.loc[rows["label"] == 0, ["user", "item"]].itertuples(index=False, name=None))
    assert drawn & set(data.test[["user", "item"]].itertuples(index=False, name=None))


def rows_of_a_library(data, split):
    return {"item": held_out_rows(data, split, negatives=1)[0]["item_id"]}


@pytest.mark.parametrize("draw", [lambda *which: labelled_held_out(*which).to_dict("list"), rows_of_a_library])
def test_the_negatives_of_validation_are_not_those_of_the_test(draw):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"user_id": np.repeat(range(300), 6)})
    frame["item_id"] = np.concatenate([rng.permutation(1000)[:6] for _ in range(300)])
    data = load_interactions(frame, pd.DataFrame({"item_id": range(1000)}))
    valid, test = (np.array(draw(data, split)["item"])[1::2] for split in ("valid", "test"))
    assert len(valid) == len(test) == 300
    assert (np.abs(valid - test) < 5).mean() < 0.05  # of independent draws a hundredth; from one stream, all


def test_rows_of_users_who_have_seen_everything_are_refused():
    frame = pd.DataFrame({"user_id": [1] * 5, "item_id": range(5)})
    data = load_interactions(frame)
    with pytest.raises(DataError, match="the test part has interacted with all 5 items"):
        labelled_held_out(data, "test")
    rows = labelled_held_out(data, "valid")
    assert rows["item"].tolist() == [4, 5]  # the test item is the only one that validation has left


def test_training_rows_have_three_earlier_interactions(data):
    settings = RunSettings.of_protocol("llm-cf", history_length=3)
    x, y = settings.rows(data, 0)
    # Of the training interactions (all but the last two): dan's fourth, eve's fourth to seventh; each and a negative.
    assert x["user_id"].tolist() == [user(data, "dan")] * 2 + [user(data, "eve")] * 8
    assert y.tolist() == [1, 0] * 5
    assert (x["seq_length"] == 3).all()
    whole, labels = RunSettings(history_length=3, negatives=1).rows(data, 0)
    kept = whole["seq_length"] >= 3
    assert all(np.array_equal(x[name], whole[name][kept]) for name in whole)  # the same draw of negatives
    assert np.array_equal(y, labels[kept])


def test_data_without_rows_are_refused():
    short = load_interactions(purchases()[purchases()["user_id"].isin(["ann"])], catalogue())
    with pytest.raises(DataError, match="no interaction of the test part has 3 earlier ones"):
        labelled_held_out(short, "test")
    with pytest.raises(DataError, match="no training interaction has 3 earlier ones"):
        RunSettings.of_protocol("llm-cf").rows(short, 0)
    with pytest.raises(EvaluationError, match="no ranked interaction has 3 earlier ones"):
        rows_of_ranking(full_ranking(UntrainedModel(short), short), short)
    with pytest.raises(ConfigError, match="history_length=2 must be at least 3 under protocol llm-cf"):
        RunSettings.of_protocol("llm-cf", history_length=2)


def test_the_tail_is_a_share_of_the_catalogue_however_many_tie():
    popularity = np.array([4, 1, 1, 7, 1, 0, 1, 9, 1, 3])
    assert np.flatnonzero(tail_by_rank(popularity, 0.3)).tolist() == [1, 2, 5]  # 0, and the first two of five ones
    assert tail_by_rank(popularity, 0.29).sum() == 2
    assert tail_by_rank(popularity, 0).sum() == 0
    assert tail_by_rank(np.zeros(12101), 0.2).sum() == 2420


def test_the_tail_counts_training_positives_alone(data):
    counts = np.zeros(13, dtype=int)
    for item in data.train["item"]:
        counts[item] += 1
    least = sorted(range(1, 13), key=lambda code: (counts[code], code))[:2]
    assert np.flatnonzero(tail_items(data)).tolist() == sorted(least)


def test_pooled_auc_equals_counting_pairs_of_rows(data):
    rows = PooledRows(data, seed=1)
    scores = np.random.default_rng(5).integers(0, 4, size=len(rows.rows)).astype(float)
    found = rows.aucs(scores)
    tail = tail_items(data)
    for name, chosen in (
        ("ctr_auc", [True] * len(scores)),
        ("ctr_auc_cold", [3 <= earlier <= 5 for earlier in rows.rows["earlier"]]),
        ("ctr_auc_tail", [bool(tail[item]) for item in rows.rows["item"]]),
    ):
        labels = rows.rows["label"].tolist()
        ones = [s for s, y, c in zip(scores, labels, chosen, strict=True) if c and y == 1]
        zeros = [s for s, y, c in zip(scores, labels, chosen, strict=True) if c and y == 0]
        wins = [(one > zero) + 0.5 * (one == zero) for one in ones for zero in zeros]
        assert found[name] == pytest.approx(np.mean(wins) if wins else np.nan, nan_ok=True)


def test_predictions_are_of_the_rows_and_the_split(data):
    scores = np.random.default_rng(0).random((data.n_users + 1, data.n_items + 1))
    for split in ("valid", "test"):
        rows = PooledRows(data, split)
        expected = scores[rows.rows["user"], rows.rows["item"]]
        assert rows.predict(TableModel(scores)) == pytest.approx(expected)


class LastOfHistory(torch.nn.Module):
    """Scores a row by the last item of its history."""

    def __init__(self, length):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.feature_index = {"user_id": (0, 1), "item_id": (1, 2), "hist_item_id": (2, 2 + length)}
        self.feature_index["seq_length"] = (2 + length, 3 + length)

    def forward(self, X):
        return X.gather(1, X[:, -1:].long() + 1) * self.weight


@pytest.mark.parametrize(("split", "before"), [("valid", 3), ("test", 2)])
def test_histories_end_before_the_split(data, split, before):
    rows = PooledRows(data, split)
    last = rows.predict(LastOfHistory(9))
    for user, code in zip(rows.rows["user"], last, strict=True):
        mine = purchases()["user_id"] == data.user_ids[user - 1]
        items = purchases().loc[mine, "item_id"].tolist()  # the last is test, the one before it valid
        assert data.item_ids[int(code) - 1] == items[-before]


def test_users_who_have_the_whole_catalogue_have_no_labelled_rows(data):
    everything = pd.DataFrame({"user_id": "zoe", "item_id": catalogue()["item_id"], "position": range(12)})
    more = load_interactions(pd.concat([purchases(), everything]), catalogue())
    assert user(more, "zoe") in held_out_interactions(more, "test")["user"].tolist()
    pd.testing.assert_frame_equal(
        labelled_held_out(more, "test").drop(columns="item"), labelled_held_out(data, "test").drop(columns="item")
    )


def test_a_ranking_keeps_the_interactions_that_are_rows(data):
    ranking = full_ranking(UntrainedModel(data), data)
    kept = rows_of_ranking(ranking, data)
    assert ranking["user"].tolist() == [user(data, name) for name in LENGTHS]
    assert kept["user"].tolist() == [user(data, name) for name in LENGTHS if name != "ann"]
    assert kept["cold"].tolist() == [True, True, True, False]
    assert kept["tail"].tolist() == tail_items(data)[kept["item"]].tolist()
    assert kept["auc"].tolist() == ranking["auc"].tolist()[1:]
    assert list(kept.columns) == list(ranking.columns)


def test_popularity_is_judged_by_both_metrics(data):
    labelled = PooledRows(data)
    found = rank_untrained(data, None, labelled=labelled)["popularity"]
    rows = labelled.rows
    expected = roc_auc_score(rows["label"], data.popularity[rows["item"]])
    assert found["ctr_auc"] == pytest.approx(expected)
    kept = rows_of_ranking(full_ranking(UntrainedModel(data), data), data)
    assert found["auc"] == pytest.approx(kept["auc"].mean())
    assert found["auc_cold"] == pytest.approx(kept.loc[kept["cold"], "auc"].mean())


def many(seed=0):
    """Interactions of 30 users, three to nine of each, and scores of some of them."""
    rng = np.random.default_rng(seed)
    pairs = [(f"u{user:02d}", f"i{item:02d}") for user in range(30) for item in rng.permutation(25)[: 3 + user % 7]]
    scored = [(f"u{user:02d}", f"i{item:02d}", rng.random()) for user in range(30) for item in rng.permutation(25)[:5]]
    clicks = pd.DataFrame(pairs, columns=["user_id", "item_id"])
    items = pd.DataFrame({"item_id": [f"i{item:02d}" for item in range(25)]})
    return clicks, items, pd.DataFrame(scored, columns=["user_id", "item_id", "score"])


def test_a_comparison_has_both_metrics_of_every_run_and_of_popularity(tmp_path):
    clicks, items, scores = many()
    data = load_interactions(clicks, items)
    settings = RunSettings.of_protocol("llm-cf", epochs=3, embedding_dim=4, learning_rate=0.05)
    comparison = compare(
        data, scores, out=tmp_path, modes=["none", "global"], seeds=1, settings=settings, verbose=False
    )
    content = json.loads((tmp_path / "results.json").read_text())
    n_rows = sum(3 + user % 7 > 3 for user in range(30))
    n_cold = sum(3 < 3 + user % 7 <= 6 for user in range(30))
    for run in content["runs"]:
        assert (run["n_test"], run["n_cold"]) == (n_rows, n_cold)
        assert all(0 <= run["metrics"][name] <= 1 for name in POOLED if run["metrics"][name] is not None)
        assert run["metrics"]["ctr_auc"] != run["auc"]
    assert set(content["popularity"]) == {"auc", "auc_cold", "auc_tail", *POOLED}
    table = str(comparison)
    heading = next(line for line in table.splitlines() if line.startswith("labelled rows"))
    assert heading.split() == "labelled rows CTR AUC cold rows long-tail items".split()
    shown = table[table.index("labelled rows") :].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in shown[1:]] == ["none", "global", "popularity"]
    assert shown[3].split()[1] == f"{content['popularity']['ctr_auc']:.4f}"
    counts = json.loads((tmp_path / "inputs.json").read_text())["llm_cf"]
    assert counts == count_rows(interactions_of_user(data), 25)


def test_what_is_below_popularity_is_said_for_each_metric():
    pooled = {"ctr_auc_cold": 0.5, "ctr_auc_tail": 0.5}
    runs = [
        result("none", auc=0.55, metrics={"ctr_auc": 0.7, **pooled}),
        result("kd", auc=0.65, metrics={"ctr_auc": 0.6, **pooled}),
    ]
    popularity = {
        "auc": 0.6,
        "auc_cold": 0.6,
        "auc_tail": 0.1,
        "ctr_auc": 0.62,
        "ctr_auc_cold": 0.6,
        "ctr_auc_tail": 0.4,
    }
    lines = str(Comparison(runs, untrained={"popularity": popularity})).splitlines()
    assert [line for line in lines if line.startswith("below")] == [
        "below popularity, which needs no training: none",
        "below popularity on labelled rows, which needs no training: kd",
    ]


def test_the_epoch_is_chosen_by_pooled_auc_of_validation_rows(data):
    clicks, items, scores = many()
    data = load_interactions(clicks, items)
    settings = RunSettings.of_protocol("llm-cf", epochs=4, embedding_dim=4, learning_rate=0.05, patience=None)
    trained = train(
        data,
        settings.rows(data, 0),
        ScoreTable.read(scores, user_index=data.user_index, item_index=data.item_index),
        backbone="deepfm",
        config=SelectiveConfig(weight=0),
        seed=0,
        settings=settings,
    )
    labelled = PooledRows(data, "valid")
    assert labelled.aucs(labelled.predict(trained.model))["ctr_auc"] == trained.auc
    aucs = [epoch["valid_auc"] for epoch in trained.epochs]
    assert (trained.auc, trained.epoch) == (max(aucs), aucs.index(max(aucs)) + 1)


def test_data_of_the_other_protocol_have_no_table_of_labelled_rows(tmp_path):
    clicks, items, scores = many()
    settings = RunSettings.quick(epochs=1, embedding_dim=4)
    comparison = compare(
        load_interactions(clicks, items),
        scores,
        out=tmp_path,
        modes=["none"],
        seeds=1,
        settings=settings,
        verbose=False,
    )
    assert "labelled rows" not in str(comparison)
    assert set(comparison.untrained["popularity"]) == {"auc", "auc_cold", "auc_tail"}


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ([], {}),
        (["--epochs", "3", "--embedding-dim", "64"], {"epochs": 3, "embedding_dim": 64}),
        (["--quick"], {"epochs": 3, "patience": None}),
        (["--redraw", "--negatives", "4", "--patience", "none"], {"redraw": True, "negatives": 4, "patience": None}),
    ],
)
def test_flags_override_the_protocol_wherever_they_stand(given, changes):
    parser = argparse.ArgumentParser()
    add_training(parser)
    expected = RunSettings.of_protocol("llm-cf", **changes)
    for flags in ([*given, "--protocol", "llm-cf"], ["--protocol", "llm-cf", *given]):
        settings = run_settings(parser.parse_args(flags))
        assert settings == expected
    assert run_settings(parser.parse_args(training_flags(settings))) == expected


def test_train_prints_both_metrics(tmp_path, capsys):
    command = ["train", "--model", "deepfm", "--data", "demo", "--protocol", "llm-cf", "-o", "run.mode=none"]
    command += ["-o", "training.epochs=1", "-o", "training.embedding_dim=4", "-o", "training.test_items=10"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    metrics = json.loads((tmp_path / "run" / "results.json").read_text())["runs"][0]["metrics"]
    assert f"labelled rows CTR AUC {metrics['ctr_auc']:.4f}  cold {metrics['ctr_auc_cold']:.4f}" in line
    assert main([*command, "--setting", "small", "--out", str(tmp_path / "other")]) == 2
    assert "--protocol llm-cf is a setting itself; leave out --setting small" in capsys.readouterr().err


def test_the_model_zoos_setting_is_the_protocols():
    experiment = compose(model="deepfm", data="demo", setting="llm-cf")
    assert {name: getattr(experiment.training, name) for name in PROTOCOL_SETTINGS["llm-cf"]} == PROTOCOL_SETTINGS[
        "llm-cf"
    ]
    assert experiment.training.protocol == "llm-cf"


BEAUTY = Path(os.environ.get("SLLMR_DATA", "nowhere")) / "amazon_beauty" / "interactions.csv.gz"


@pytest.mark.skipif(not BEAUTY.exists(), reason="SLLMR_DATA names no folder with amazon_beauty")
def test_the_counts_of_table_1_on_beauty(tmp_path):
    prepared = prepare("csv", BEAUTY, tmp_path / "out")
    theirs = paper_figures().table_1["amazon_beauty"]
    assert (prepared.counts["users"], prepared.counts["items"]) == (theirs["users"], theirs["items"])
    counts = prepared.record["llm-cf"]
    assert (counts["rows"], counts["cold_rows"]) == (theirs["reviews"], theirs["cold_interactions"]) == (262826, 119854)
    assert 0 <= counts["tail_items"] - theirs["tail_items"] < 0.01 * theirs["tail_items"]
    data = load_interactions(BEAUTY)
    assert count_rows(interactions_of_user(data), data.n_items) == counts
    # Leave-last-out leaves half of the test rows cold at their time, though nobody has fewer than three interactions.
    assert held_out_interactions(data, "test")["cold"].sum() == 7162 + 4221
