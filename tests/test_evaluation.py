"""Strata, full-ranking AUC, single runs, run folders, comparisons and their table."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DeepFM
from sklearn.metrics import roc_auc_score

from sllmr_plugin.config import SelectiveConfig
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import BackboneError, ConfigError, CoverageWarning, EvaluationError, RunFolderError
from sllmr_plugin.evaluation import compare as compare_module
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.ranking import full_ranking, summarize
from sllmr_plugin.evaluation.run import train_and_rank
from sllmr_plugin.evaluation.store import RunFolder
from sllmr_plugin.evaluation.strata import stratify
from sllmr_plugin.evaluation.training import BestEpoch, RunSettings
from sllmr_plugin.scores.table import ScoreTable
from sllmr_plugin.zoo.deepctr import build_model
from tests.evaluation_cases import N_ITEMS, N_USERS, TableModel, catalogue, interactions, result


@pytest.fixture
def data():
    return load_interactions(interactions(), catalogue())


@pytest.fixture
def scores():
    rng = np.random.default_rng(5)
    pairs = [(f"u{user:02d}", f"i{item:02d}") for user in range(N_USERS) for item in rng.permutation(N_ITEMS)[:6]]
    return pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(score=rng.random(len(pairs)))


def naive_ranking(frame, split, score_of):
    """AUC of every held-out interaction of raw ids, one by one with scikit-learn."""
    before = {"valid": ["train", "valid"], "test": ["train", "valid", "test"]}[split]
    positives = frame[frame["label"] == 1]
    aucs = {}
    for user, item in positives.loc[positives["split"] == split, ["user_id", "item_id"]].itertuples(index=False):
        mine = positives[positives["user_id"] == user]
        seen = set(mine.loc[mine["split"].isin(before), "item_id"])
        unseen = [other for other in catalogue()["item_id"] if other not in seen]
        values = [score_of(user, other) for other in [item, *unseen]]
        aucs[user, item] = roc_auc_score([1] + [0] * len(unseen), values) if unseen else math.nan
    return aucs


def by_raw_ids(ranking, data):
    users, items = data.user_ids[ranking["user"] - 1], data.item_ids[ranking["item"] - 1]
    return dict(zip(zip(users, items, strict=True), ranking["auc"], strict=True))


# --- strata


def test_strata_against_counting_by_hand(data):
    frame = interactions()
    train = frame[frame["split"] == "train"]
    strata = stratify(data)
    histories = train["user_id"].value_counts()
    assert {data.user_ids[code - 1] for code in np.flatnonzero(strata.cold)} == set(histories[histories < 3].index)

    popularity = train["item_id"].value_counts().reindex(catalogue()["item_id"], fill_value=0)
    threshold = next(v for v in range(100) if (popularity <= v).mean() >= 0.2)
    assert strata.tail_popularity == threshold
    assert {data.item_ids[code - 1] for code in np.flatnonzero(strata.tail)} == set(
        popularity[popularity <= threshold].index
    )


def test_strata_count_training_positives_alone():
    with_negatives = stratify(load_interactions(interactions(negatives=True), catalogue()))
    without = stratify(load_interactions(interactions(), catalogue()))
    np.testing.assert_array_equal(with_negatives.cold, without.cold)
    np.testing.assert_array_equal(with_negatives.tail, without.tail)


def test_code_zero_is_neither_cold_nor_tail(data):
    strata = stratify(data, cold_threshold=100, tail_quantile=1.0)
    assert not strata.cold[0]
    assert not strata.tail[0]
    assert strata.cold[1:].all()
    assert strata.tail[1:].all()


# --- ranking


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("levels", [2, 4, 10_000])
def test_ranking_equals_sklearn_with_ties(split, levels):
    frame = interactions(negatives=True)
    data = load_interactions(frame, catalogue())
    values = np.random.default_rng(levels).integers(0, levels, (N_USERS + 1, N_ITEMS + 1))
    expected = naive_ranking(frame, split, lambda u, i: values[data.user_index[u], data.item_index[i]])
    ranking = full_ranking(TableModel(values), data, split, verbose=False)
    assert by_raw_ids(ranking, data) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["deepfm", "din", "dien"])
def test_ranking_of_a_real_model_equals_its_predictions(name):
    frame = interactions(seed=3)
    data = load_interactions(frame, catalogue())
    model = build_model(name, data, embedding_dim=8, history_length=4)
    for parameter in model.parameters():  # the initial weights are too small to tell items apart
        torch.nn.init.normal_(parameter, std=0.5)

    def score_of(user, item):
        mine = frame[(frame["user_id"] == user) & frame["split"].isin(["train", "valid"])]
        history = [data.item_index[i] for i in mine["item_id"]][-4:]
        x = {
            "user_id": np.array([data.user_index[user]]),
            "item_id": np.array([data.item_index[item]]),
            "hist_item_id": np.array([history + [0] * (4 - len(history))]),
            "seq_length": np.array([len(history)]),
        }
        return model.predict(x).item()

    some = data.test["user"].unique()[::5]
    ranking = full_ranking(model, data, users=some, verbose=False)
    chosen = frame[frame["user_id"].isin(data.user_ids[some - 1])]
    assert by_raw_ids(ranking, data) == pytest.approx(naive_ranking(chosen, "test", score_of), abs=1e-12)
    assert len(ranking) == (chosen["split"] == "test").sum()


def test_nothing_left_to_rank_is_undefined_and_counted():
    rows = [("a", i, "train") for i in "wxy"] + [("a", "z", "test"), ("b", "w", "train"), ("b", "x", "test")]
    data = load_interactions(pd.DataFrame(rows, columns=["user_id", "item_id", "split"]))
    ranking = full_ranking(TableModel(np.arange(15.0).reshape(3, 5)), data, verbose=False)
    assert math.isnan(ranking["auc"][0])
    assert ranking["auc"][1] == 0.0  # x scores below y and z
    summary = summarize(ranking)
    assert (summary["auc"], summary["n_test"], summary["n_undefined"]) == (0.0, 1, 1)


def test_a_single_negative_gives_zero_half_or_one():
    rows = [(u, i, "train") for u in "abc" for i in "xy"] + [(u, "z", "test") for u in "abc"]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "split"])
    data = load_interactions(frame, pd.DataFrame({"item_id": list("wxyz")}))
    values = np.zeros((4, 5))
    values[1, 4], values[3, 4] = 1, -1
    assert full_ranking(TableModel(values), data, verbose=False)["auc"].tolist() == [1.0, 0.5, 0.0]


def test_validation_ranking_does_not_look_at_test():
    frame = interactions()
    other = frame.copy()
    is_test = other["split"] == "test"
    other.loc[is_test, "item_id"] = np.roll(other.loc[is_test, "item_id"], 1)
    model = TableModel(np.random.default_rng(1).random((N_USERS + 1, N_ITEMS + 1)))
    rankings = []
    for version in (frame, other.drop_duplicates(["user_id", "item_id"])):
        rankings.append(full_ranking(model, load_interactions(version, catalogue()), "valid", verbose=False))
    pd.testing.assert_frame_equal(*rankings)


def test_block_size_changes_nothing(data):
    model = TableModel(np.random.default_rng(2).integers(0, 9, (N_USERS + 1, N_ITEMS + 1)))
    whole = full_ranking(model, data, rows_per_block=10_000, verbose=False)
    for rows in (1, 7, N_ITEMS, 3 * N_ITEMS + 1):
        pd.testing.assert_frame_equal(full_ranking(model, data, rows_per_block=rows, verbose=False), whole)


def test_strata_of_a_ranking_are_those_of_its_users_and_items(data):
    ranking = full_ranking(TableModel(np.random.default_rng(0).random((N_USERS + 1, N_ITEMS + 1))), data, verbose=False)
    strata = stratify(data)
    assert ranking["cold"].tolist() == [strata.cold[user] for user in ranking["user"]]
    assert ranking["tail"].tolist() == [strata.tail[item] for item in ranking["item"]]
    summary = summarize(ranking)
    cold = [auc for auc, is_cold in zip(ranking["auc"], ranking["cold"], strict=True) if is_cold]
    assert summary["auc_cold"] == pytest.approx(sum(cold) / len(cold))
    assert (summary["n_test"], summary["n_cold"]) == (len(ranking), len(cold))


def test_a_sample_of_users_is_reproducible_and_a_part_of_the_whole(data):
    model = TableModel(np.random.default_rng(2).random((N_USERS + 1, N_ITEMS + 1)))
    whole = full_ranking(model, data, verbose=False)
    sample = full_ranking(model, data, users=7, seed=3, verbose=False)
    assert sample["user"].nunique() == 7
    pd.testing.assert_frame_equal(sample, full_ranking(model, data, users=7, seed=3, verbose=False))
    part = whole[whole["user"].isin(sample["user"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(sample, part)
    assert len(full_ranking(model, data, users=10_000, verbose=False)) == len(whole)


def test_ranking_restores_every_mode_and_draws_no_torch_random_numbers(data):
    model = build_model("xdeepfm", data, embedding_dim=4, dropout=0.5)
    model.train()
    model.dnn.eval()  # a part that its owner has frozen stays frozen
    modes = [module.training for module in model.modules()]
    torch.manual_seed(0)
    expected = torch.get_rng_state()
    ranking = full_ranking(model, data, verbose=False)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), expected)
    pd.testing.assert_frame_equal(ranking, full_ranking(model.eval(), data, verbose=False))


def test_modes_come_back_after_an_error(data):
    values = np.zeros((N_USERS + 1, N_ITEMS + 1))
    values[3, 4] = np.nan
    model = TableModel(values).train()
    with pytest.raises(EvaluationError, match=r"user 'u02' are not all finite.*learning rate"):
        full_ranking(model, data, verbose=False)
    assert model.training


def test_a_multi_task_model_and_an_unknown_split_are_refused(data):
    model = TableModel(np.zeros((N_USERS + 1, N_ITEMS + 1)))
    with pytest.raises(EvaluationError, match="take 'test' or 'valid'"):
        full_ranking(model, data, "train", verbose=False)
    model.forward = lambda X: torch.zeros(len(X), 2)
    with pytest.raises(EvaluationError, match="single-task"):
        full_ranking(model, data, verbose=False)


def test_a_model_built_on_other_codes_is_refused(data):
    """A script's own encoder counts from 0, so its model has a row less, and each id the row of its neighbour."""
    for n_users, n_items, short in ((N_USERS, N_ITEMS + 1, "user_id"), (N_USERS + 1, N_ITEMS, "item_id")):
        columns = [SparseFeat("user_id", n_users, 4), SparseFeat("item_id", n_items, 4)]
        with pytest.raises(EvaluationError, match=rf"rows of '{short}'.*run from 1 to .*data\.user_index"):
            full_ranking(DeepFM(columns, columns), data, verbose=False)


# --- one run

SMALL = RunSettings.quick(epochs=2, embedding_dim=4, batch_size=16, valid_users=None)


def one_run(data, scores, mode="none", backbone="deepfm", seed=1, settings=SMALL, **config):
    table = ScoreTable.read(scores, user_index=data.user_index, item_index=data.item_index)
    return train_and_rank(
        data,
        training_rows(data, seed=seed),
        table,
        backbone=backbone,
        config=SelectiveConfig.of_mode(mode, config),
        seed=seed,
        settings=settings,
        verbose=False,
    )


def test_best_epoch_keeps_the_weights_of_the_first_highest_auc():
    model = torch.nn.Linear(1, 1, bias=False)
    aucs, reported = iter([0.5, 0.7, 0.7, 0.6]), []
    best = BestEpoch(lambda model: next(aucs), lambda *report: reported.append(report))
    best.set_model(model)
    for epoch in range(4):
        model.weight.data.fill_(epoch)
        best.on_epoch_end(epoch, {})
    assert (best.epoch, best.auc, best.state["weight"].item()) == (2, 0.7, 1.0)
    assert reported == [(1, 0.5), (2, 0.7), (3, 0.7), (4, 0.6)]


def test_the_kept_epoch_is_what_training_that_long_gives(data, scores):
    long = one_run(data, scores, settings=RunSettings.quick(epochs=4, embedding_dim=4, batch_size=16, valid_users=None))
    short = one_run(
        data,
        scores,
        settings=RunSettings.quick(epochs=long.epoch, embedding_dim=4, batch_size=16, valid_users=None),
    )
    assert (short.epoch, short.auc) == (long.epoch, long.auc)


def test_modes_of_a_seed_differ_by_the_regularizer_alone(data, scores):
    plain = one_run(data, scores)
    idle = one_run(data, scores, mode="global", weight=0.0)
    active = one_run(data, scores, mode="global", weight=5.0)
    assert (idle.auc, idle.epoch) == (plain.auc, plain.epoch)
    assert active.auc != plain.auc
    assert plain.gate is None
    assert active.gate["all"] == 1.0


@pytest.mark.filterwarnings("ignore:at the end of this epoch the model scores:sllmr_plugin.errors.InactiveWarning")
def test_a_run_silences_the_library_and_reports_sizes(data, scores, capsys):
    run = one_run(data, scores, mode="gated", backbone="din")
    assert capsys.readouterr().out == ""
    strata = stratify(data)
    assert run.n_test == len(data.test)
    assert run.n_cold == strata.cold[data.test["user"]].sum()
    assert run.n_tail == strata.tail[data.test["item"]].sum()
    assert set(run.gate) == {"all", "cold", "tail", "neither"}


def test_data_without_validation_is_refused(scores):
    frame = interactions()
    data = load_interactions(frame[frame["split"] != "valid"], catalogue())
    with pytest.raises(EvaluationError, match="no validation part"):
        one_run(data, scores)


# --- run folder and comparison


def test_run_folder_round_trip_writes_null_for_nan(tmp_path):
    gate = {"all": 0.4, "cold": 0.5, "tail": math.nan, "neither": 0.3}
    folder = RunFolder(tmp_path / "run", {"epochs": 3})
    folder.add(result())
    folder.add(result("gated", gate=gate))
    content = json.loads((tmp_path / "run" / "results.json").read_text(), parse_constant=pytest.fail)
    stored = content["runs"]
    assert [run["auc_tail"] for run in stored] == [None, None]
    assert stored[1]["gate"]["tail"] is None
    assert "ranking" not in stored[0]
    again = RunFolder(tmp_path / "run", {"epochs": 3})
    assert list(again.runs) == [("deepfm", "none", 0), ("deepfm", "gated", 0)]
    assert again.runs["deepfm", "none", 0].gate is None
    assert math.isnan(again.runs["deepfm", "gated", 0].gate["tail"])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["rankings", "results.json", "settings.json"]
    for key in again.runs:
        pd.testing.assert_frame_equal(again.ranking(key), result().ranking)
    assert list(RunFolder(tmp_path / "run", None).runs) == list(again.runs)


def test_run_folder_of_an_unfinished_first_run_keeps_nothing_for_other_settings(tmp_path):
    labels = pd.DataFrame({"user_id": ["u0"], "item_id": ["i"], "country": ["x"]})
    for settings, kept in (({"epochs": 3}, False), ({"epochs": 3}, True), ({"epochs": 4}, False)):
        folder = RunFolder(tmp_path, settings)
        assert [folder.reliability is not None, folder.labels() is not None, folder.inputs is not None] == [kept] * 3
        folder.set_labels(labels)
        folder.set_inputs({"origin": {}})
        folder.set_reliability({"seed": 0})


def test_of_nested_settings_a_refusal_names_those_that_differ(tmp_path):
    made = {"epochs": 3, "config": {"gate": "auto", "loss": "ranknet", "inner": {"weight": 0.2}}, "texts": None}
    RunFolder(tmp_path, made).add(result())
    now = {"epochs": 3, "config": {"gate": "auto", "inner": {"weight": 0.1}, "every_steps": 1}, "texts": {"n": 2}}
    with pytest.raises(RunFolderError) as raised:
        RunFolder(tmp_path, now)
    told = str(raised.value).partition("(")[2].partition(")")[0].split("; ")
    assert sorted(told) == [
        "config.every_steps was None, now 1",
        "config.inner.weight was 0.2, now 0.1",
        "config.loss was ranknet, now None",
        "texts was None, now {'n': 2}",
    ]


def test_run_folder_refuses_other_settings_until_told_to_overwrite(tmp_path):
    RunFolder(tmp_path, {"epochs": 3, "batch_size": 8}).add(result())
    with pytest.raises(RunFolderError, match=r"\(epochs was 3, now 4\); choose another folder"):
        RunFolder(tmp_path, {"epochs": 4, "batch_size": 8})
    assert len(RunFolder(tmp_path, {"epochs": 3, "batch_size": 8}).runs) == 1
    assert RunFolder(tmp_path, {"epochs": 4, "batch_size": 8}, overwrite=True).runs == {}
    assert list((tmp_path / "rankings").iterdir()) == []
    assert RunFolder(tmp_path, {"epochs": 4, "batch_size": 8}).runs == {}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "7",
        '[{"mode": "none"}]',
        '["x"]',
        '{"format": 2}',
        '{"format": 2, "runs": [{"mode": "none"}], "differences": [], "strata": []}',
        '{"format": 3, "runs": [], "differences": [], "strata": []}',
    ],
)
def test_run_folder_with_a_broken_file(tmp_path, content):
    RunFolder(tmp_path, {})
    (tmp_path / "results.json").write_text(content)
    for settings in ({}, None):
        with pytest.raises(RunFolderError, match="choose another folder"):
            RunFolder(tmp_path, settings)


def test_run_folder_of_an_older_format_is_refused_until_told_to_overwrite(tmp_path):
    (tmp_path / "settings.json").write_text('{"epochs": 3}')
    (tmp_path / "results.json").write_text('[{"backbone": "deepfm", "mode": "none", "seed": 0, "auc": 0.5}]')
    with pytest.raises(RunFolderError, match=r"not of format 2.*make the runs again"):
        RunFolder(tmp_path, {"epochs": 3})
    assert RunFolder(tmp_path, {"epochs": 3}, overwrite=True).runs == {}
    assert RunFolder(tmp_path, {"epochs": 3}).runs == {}


def test_run_folder_without_a_ranking_or_without_results(tmp_path):
    folder = RunFolder(tmp_path, {})
    folder.add(result())
    (tmp_path / "rankings" / "deepfm-none-seed0.parquet").unlink()
    with pytest.raises(RunFolderError, match=r"deepfm-none-seed0\.parquet is missing.*restore it"):
        RunFolder(tmp_path, {})
    with pytest.raises(RunFolderError, match="without its ranking"):
        folder.add(result(ranking=None))
    with pytest.raises(RunFolderError, match="give the folder of a comparison"):
        RunFolder(tmp_path / "nowhere", None)
    assert not (tmp_path / "nowhere").exists()


def test_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run", {})


def test_compare_makes_each_run_once_and_only_the_missing_ones(data, scores, tmp_path, monkeypatch, capsys):
    made = []

    def train(data, rows, scores, *, backbone, config, seed, **rest):
        made.append((backbone, config.mode, seed))
        return result(config.mode, seed, backbone=backbone)

    monkeypatch.setattr(compare_module, "train_and_rank", train)
    runs = compare(data, scores, out=tmp_path, backbone="DeepFM", modes=["none", "gated"], seeds=2)
    assert made == [("deepfm", mode, seed) for seed in (0, 1) for mode in ("none", "gated")]
    assert [run.key for run in runs] == made
    assert "[4/4] deepfm gated seed 1: AUC 0.5000" in capsys.readouterr().err

    made.clear()
    runs = compare(data, scores, out=tmp_path, modes=["none", "gated", "global"], seeds=[1, 2])
    assert made == [("deepfm", "global", 1), *(("deepfm", mode, 2) for mode in ("none", "gated", "global"))]
    assert len(runs) == 6
    assert len(json.loads((tmp_path / "results.json").read_text())["runs"]) == 8
    assert "deepfm none seed 1: already in" in capsys.readouterr().err

    twice = compare(data, scores, out=tmp_path, backbone=["deepfm", "DeepFM"], modes=["none"] * 2, seeds=[1, 0, 1])
    assert [run.key for run in twice] == [("deepfm", "none", 1), ("deepfm", "none", 0)]


def test_compare_warns_before_it_trains_of_scores_that_are_mostly_of_others(data, scores, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_module, "train_and_rank", lambda *_, **__: result())
    strangers = pd.concat([scores.assign(user_id=scores["user_id"] + end) for end in (" ", "x")])
    rows, lost = pd.concat([scores, strangers]), len(scores)
    says = (
        rf"only {lost} of the {3 * lost} scored pairs read are kept "
        rf"\({lost}: .*except for the blanks.*; {lost}: user_id"
    )
    with pytest.warns(CoverageWarning, match=says):
        compare(data, rows, out=tmp_path, modes=["none"], seeds=1)


def test_compare_refuses_to_mix_data_scores_or_configs(data, scores, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_module, "train_and_rank", lambda *_, **__: result())
    compare(data, scores, out=tmp_path, modes=["none"], seeds=1)
    other_data = load_interactions(interactions(seed=9), catalogue())
    for change, told in [
        ({"data": other_data}, "interactions was"),
        ({"scores": scores.assign(score=0.3)}, "scores was"),
        ({"config_overrides": {"weight": 0.7}}, "config.weight was"),
        ({"settings": RunSettings.quick(epochs=9)}, "epochs was 15, now 9"),
    ]:
        with pytest.raises(RunFolderError, match=told):
            compare(**{"data": data, "scores": scores, "out": tmp_path, "modes": ["none"], "seeds": 1, **change})


def test_compare_checks_everything_before_it_trains(data, scores, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_module, "train_and_rank", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(BackboneError, match="did you mean 'dcnv2'"):
        compare(data, scores, out=tmp_path, backbone=["deepfm", "dcn_v2"])
    with pytest.raises(ConfigError, match="gatd"):
        compare(data, scores, out=tmp_path, modes=["none", "gatd"])
    with pytest.raises(ConfigError, match="did you mean 'weight'"):
        compare(data, scores, out=tmp_path, config_overrides={"wieght": 1})
    with pytest.raises(ConfigError, match="at least one backbone and one mode"):
        compare(data, scores, out=tmp_path, modes=[])
    with pytest.raises(ConfigError, match="list it in modes"):
        compare(data, scores, out=tmp_path, config_overrides={"mode": "none"})
    assert not (tmp_path / "results.json").exists()


def test_an_interrupted_comparison_keeps_its_finished_runs(data, scores, tmp_path, monkeypatch):
    def train(*_, config, **__):
        if config.mode == "gated":
            raise KeyboardInterrupt
        return result(config.mode)

    monkeypatch.setattr(compare_module, "train_and_rank", train)
    with pytest.raises(KeyboardInterrupt):
        compare(data, scores, out=tmp_path, modes=["none", "gated"], seeds=1, verbose=False)
    assert [run["mode"] for run in json.loads((tmp_path / "results.json").read_text())["runs"]] == ["none"]


def test_compare_end_to_end(data, scores, tmp_path):
    runs = compare(
        data, scores, out=tmp_path, modes=["none", "global", "gated"], seeds=1, settings=SMALL, verbose=False
    )
    assert [run.mode for run in runs] == ["none", "global", "gated"]
    alone = one_run(data, scores, seed=0)
    assert (runs[0].auc, runs[0].auc_cold, runs[0].epoch) == (alone.auc, alone.auc_cold, alone.epoch)
    assert runs[0].metrics == alone.metrics
    folder = RunFolder(tmp_path, None)
    rankings = {mode: folder.ranking(("deepfm", mode, 0)) for mode in ("none", "global", "gated")}
    for run in runs:
        ranking = rankings[run.mode]
        assert ranking["auc"].mean() == run.auc
        assert ranking.loc[ranking["cold"], "auc"].mean() == run.auc_cold
        codes = data.user_index[ranking["user_id"]].to_numpy(), data.item_index[ranking["item_id"]].to_numpy()
        assert ranking["history_length"].tolist() == data.history_length[codes[0]].tolist()
        assert ranking["popularity"].tolist() == data.popularity[codes[1]].tolist()
    for difference in runs.differences:
        paired = rankings[difference.mode]["auc"] - rankings["none"]["auc"]
        if difference.stratum != "all":
            paired = paired[rankings["none"][difference.stratum]]
        assert (difference.mean, difference.n_interactions) == (pytest.approx(paired.mean()), len(paired))
    assert {(d.mode, d.stratum) for d in runs.differences} == {
        (mode, stratum) for mode in ("global", "gated") for stratum in ("all", "cold", "tail")
    }
    assert [d.to_json() for d in folder.differences] == [d.to_json() for d in runs.differences]


def test_interactions_without_anything_to_rank_against_are_counted(scores):
    frame = interactions()
    everything = [("all", f"i{k:02d}", k, "train" if k < 18 else "valid" if k == 18 else "test", 1) for k in range(20)]
    frame = pd.concat([frame, pd.DataFrame(everything, columns=frame.columns)])
    data = load_interactions(frame[frame["label"] == 1], catalogue())
    negative = pd.DataFrame({"user": [1], "item": [1], "label": [0]}).astype(data.train.dtypes)
    data = dataclasses.replace(data, train=pd.concat([data.train, negative]).sort_values("user"), has_negatives=True)
    run = one_run(data, scores)
    assert (run.n_test, run.n_undefined) == (len(data.test) - 1, 1)
    assert run.ranking["auc"].isna().sum() == 1


def test_metrics_of_a_run_and_which_a_sample_has(data, scores):
    full = one_run(data, scores)
    assert list(full.metrics) == ["ctr_auc", "logloss", "gauc", "ece", "ndcg@10", "recall@10", "mrr"]
    sampled = one_run(data, scores, settings=dataclasses.replace(SMALL, test_items=5, valid_items=5))
    assert list(sampled.metrics) == ["ctr_auc", "logloss", "gauc", "ece"]
    assert (sampled.test_items, set(sampled.sampling_error)) == (5, {"auc", "auc_cold", "auc_tail"})
    assert abs(sampled.auc - full.auc) < 0.3
    with pytest.raises(ConfigError, match="valid_items=1 must be at least 2"):
        dataclasses.replace(SMALL, valid_items=1)
