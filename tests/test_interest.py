"""P(interest): thresholds on probes against loops, planted noise, what is filtered, left out, warned of and refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin import Interest, SyntheticInteractions, compare, pairs_to_judge, tune
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import (
    ConfigError,
    CoverageError,
    DataError,
    InterestError,
    InterestWarning,
    LeakageError,
    MissingDataError,
    RunFolderError,
)
from sllmr_plugin.evaluation import Mode, Refinement, RunSettings
from sllmr_plugin.evaluation.leakage import check_leakage
from sllmr_plugin.experiments.experiment import compose
from sllmr_plugin.experiments.running import train_experiment
from sllmr_plugin.scores.table import ScoreTable
from sllmr_plugin.scoring.requests import plan_requests

from .evaluation_cases import N_ITEMS, catalogue, interactions

SMALL = RunSettings.quick(epochs=1, embedding_dim=4, batch_size=64)


def items():
    return catalogue().assign(title=[f"title {k}" for k in range(N_ITEMS)])


@pytest.fixture
def data():
    return load_interactions(interactions(), items())


def synthetic_of(data, n=20, seed=3):
    """Synthetic pairs of no split, as a file has them."""
    known = set(map(tuple, interactions()[["user_id", "item_id"]].to_numpy().tolist()))
    every = [(u, i) for u in data.user_ids for i in data.item_ids if (u, i) not in known]
    order = np.random.default_rng(seed).permutation(len(every))[:n]
    return pd.DataFrame([every[k] for k in order], columns=["user_id", "item_id"]).assign(weight=1.0)


def judged(data, synthetic=None, *, good=0.9, bad=0.2, noise=(), spread=0.05, **options):
    """A judge that is right but for some spread: `noise` are training pairs that it doubts."""
    read = None if synthetic is None else SyntheticInteractions.of(synthetic, data)
    pairs = pairs_to_judge(data, synthetic=read, **options)
    doubted = pairs[["user_id", "item_id"]].apply(tuple, axis=1).isin(set(noise)) | (pairs["what"] == "random")
    if synthetic is not None:
        doubted |= (pairs["what"] == "synthetic") & (np.arange(len(pairs)) % 2 == 0)
    rng = np.random.default_rng(1)
    score = np.where(doubted, bad, good) + rng.uniform(-spread, spread, len(pairs))
    return pairs.assign(score=score)


def all_of(table):
    return set(map(tuple, table[["user_id", "item_id"]].to_numpy().tolist()))


def noisy_pairs(data):
    """Training pairs of users and items that have others."""
    rows = data.train
    users, taken = rows["user"].value_counts(), rows["item"].value_counts()
    own = rows[(rows["user"].map(users) > 3) & (rows["item"].map(taken) > 2)].groupby("user").head(1).iloc[:3]
    return list(zip(data.user_ids[own["user"] - 1], data.item_ids[own["item"] - 1], strict=True))


# ---------------------------------------------------------------------- the threshold


@pytest.mark.parametrize("seed", range(4))
def test_auc_and_thresholds_equal_loops(data, seed):
    pairs = pairs_to_judge(data, seed=seed)
    rng = np.random.default_rng(seed)
    score = np.round(rng.random(len(pairs)) * 0.6 + 0.4 * (pairs["what"] == "probe"), 1)  # with ties
    table = pairs.assign(score=score)
    found = Interest.of(table, data)
    probes, others = (table.loc[table["what"] == what, "score"].tolist() for what in ("probe", "random"))
    assert (found.probes, found.candidates) == (len(probes), len(others))
    assert found.auc == pytest.approx(np.mean([(p > q) + (p == q) / 2 for p in probes for q in others]))

    def youden(cut):
        return np.mean([p >= cut for p in probes]) - np.mean([q >= cut for q in others])

    assert youden(found.threshold) == pytest.approx(max(youden(cut) for cut in {*probes, *others}))
    kept = Interest.of(table, data, keep_probes=0.8)
    assert np.mean([p >= kept.threshold for p in probes]) >= 0.8
    assert np.mean([p > kept.threshold for p in probes]) <= 0.8
    assert f"AUC {found.auc:.4f}" in str(found)


def test_a_judge_no_better_than_chance_is_warned_of(data):
    pairs = pairs_to_judge(data)
    with pytest.warns(InterestWarning, match="no better than chance"):
        Interest.of(pairs.assign(score=np.random.default_rng(0).random(len(pairs))), data)
    with pytest.warns(InterestWarning, match="AUC 0.000"):
        Interest.of(pairs.assign(score=(pairs["what"] != "probe") * 0.5), data)


def test_what_is_judged_is_everything_and_nothing_of_test(data):
    synthetic = SyntheticInteractions.of(synthetic_of(data), data)
    pairs = pairs_to_judge(data, synthetic=synthetic, probes=10, candidates_per_probe=3)
    assert pairs["what"].value_counts().to_dict() == {
        "training": len(data.train),
        "synthetic": 20,
        "probe": 10,
        "random": (pairs["what"] == "random").sum(),
    }
    assert 20 < (pairs["what"] == "random").sum() <= 30
    assert not pairs.duplicated(["user_id", "item_id"]).any()
    frame = interactions()
    split = frame.set_index(["user_id", "item_id"])["split"]
    found = split.reindex(pd.MultiIndex.from_frame(pairs[["user_id", "item_id"]])).to_numpy()
    assert set(found[pairs["what"] == "probe"]) == {"valid"}
    assert set(found[pairs["what"] == "training"]) == {"train"}
    assert pd.isna(found[pairs["what"].isin(["random", "synthetic"])]).all()
    with pytest.raises(InterestError, match="no validation part"):
        pairs_to_judge(load_interactions(frame[frame["split"] != "valid"], items()))


def test_what_cannot_set_a_threshold_is_refused(data):
    table = judged(data)
    for missing, told in (("probe", "judges no validation interaction"), ("random", "judges no random candidate")):
        with pytest.raises(InterestError, match=told):
            Interest.of(table[table["what"] != missing], data)
    test = interactions()[interactions()["split"] == "test"].iloc[:1].assign(score=0.5)
    with pytest.raises(DataError, match="a test interaction of this user"):
        Interest.of(pd.concat([table, test]), data)
    with pytest.raises(DataError, match=r"score is 1\.5"):
        Interest.of(table.assign(score=1.5), data)
    with pytest.raises(InterestError, match="keep_probes=1"):
        Interest.of(table, data, keep_probes=1.0)
    with pytest.raises(CoverageError, match="is of a user and an item of these interactions"):
        Interest.of(table.assign(user_id="x" + table["user_id"]), data)


# ---------------------------------------------------------------------- filtering and denoising


def test_planted_noise_is_dropped_first_and_its_negatives_with_it(data):
    noise = noisy_pairs(data)
    assert len(noise) == 3
    interest = Interest.of(judged(data, noise=noise), data)
    doubted = interest.doubted(data)
    assert len(doubted) == 3
    first = interest.doubted(data, most=1.01 / doubted.judged)
    assert len(first) == 1
    assert set(first.keys) <= set(doubted.keys)
    x, y = training_rows(data, negatives=4, seed=2)
    kept_x, kept_y = doubted.left_out(x, y)
    before, after = (
        {
            (data.user_ids[u - 1], data.item_ids[i - 1])
            for u, i in zip(a["user_id"][b > 0], a["item_id"][b > 0], strict=True)
        }
        for a, b in ((x, y), (kept_x, kept_y))
    )
    assert before - after == set(noise)
    assert len(kept_y) == len(y) - 3 * 5
    assert kept_y.reshape(-1, 5)[:, 0].all()  # whole blocks stay
    assert not kept_y.reshape(-1, 5)[:, 1:].any()
    rows = {tuple(np.concatenate([np.atleast_1d(x[name][k]) for name in x]).tolist()) for k in range(len(y))}
    assert {
        tuple(np.concatenate([np.atleast_1d(kept_x[n][k]) for n in x]).tolist()) for k in range(len(kept_y))
    } <= rows


def test_the_best_of_each_user_and_item_stays_however_low(data):
    pairs = pairs_to_judge(data)
    score = np.where(pairs["what"] == "training", 0.1, np.where(pairs["what"] == "probe", 0.9, 0.3))
    doubted = Interest.of(pairs.assign(score=score), data).doubted(data, most=1.0)
    x, y = doubted.left_out(*training_rows(data, negatives=1))
    assert set(x["user_id"][y > 0]) == set(data.train["user"])
    assert set(x["item_id"][y > 0]) == set(data.train["item"])
    assert 0 < len(doubted) < len(data.train)


def test_the_data_s_own_negatives_stay(data):
    own = load_interactions(interactions(negatives=True), items())
    noise = noisy_pairs(data)
    doubted = Interest.of(judged(data, noise=noise), own).doubted(own)
    x, y = training_rows(own)
    _, kept = doubted.left_out(x, y)
    assert (kept == 0).sum() == (y == 0).sum()
    assert (kept == 1).sum() == (y == 1).sum() - 3


def test_synthetic_rows_below_the_threshold_are_filtered(data):
    frame = synthetic_of(data)
    table = judged(data, frame)
    synthetic = SyntheticInteractions.of(frame, data)
    interest = Interest.of(table, data, synthetic=synthetic)
    kept = interest.filtered(data, synthetic)
    believed = table[(table["what"] == "synthetic") & (table["score"] > 0.5)]
    assert {(data.user_ids[u - 1], data.item_ids[i - 1]) for u, i in zip(kept.users, kept.items, strict=True)} == set(
        map(tuple, believed[["user_id", "item_id"]].to_numpy().tolist())
    )
    assert 0 < len(kept) < len(synthetic)
    more = synthetic_of(data, 400, seed=8)
    more = more[~more.apply(lambda row: (row["user_id"], row["item_id"]), axis=1).isin(all_of(table))].iloc[:10]
    assert len(more) == 10
    with pytest.warns(InterestWarning, match="does not judge 10 of 30 synthetic rows"):
        interest.filtered(data, SyntheticInteractions.of(pd.concat([frame, more]), data))
    with pytest.warns(InterestWarning, match="nothing is filtered"):
        interest.filtered(data, kept)
    with pytest.raises(CoverageError, match="judges none of the 10 rows"):
        interest.filtered(data, SyntheticInteractions.of(more, data))
    low = synthetic.kept(interest.of_pairs(data, synthetic.users, synthetic.items) < 0.5)
    with pytest.raises(InterestError, match="are below the threshold"):
        interest.filtered(data, low)


def test_a_judge_without_doubts_or_without_training_rows_is_an_error(data):
    with pytest.raises(InterestError, match="no training interaction is doubted"):
        Interest.of(judged(data), data).doubted(data)
    with pytest.raises(CoverageError, match="judges no training interaction"):
        Interest.of(judged(data, training=False), data).doubted(data)
    doubted = Interest.of(judged(data, noise=noisy_pairs(data)), data).doubted(data)
    x, y = training_rows(data)
    with pytest.raises(DataError, match="none of 3 doubted interactions"):
        doubted.left_out({name: values[:2] for name, values in x.items()}, y[:2])


def test_a_question_about_a_training_interaction_does_not_show_it(data):
    training = interactions()[interactions()["split"] == "train"]
    other = synthetic_of(data, 5)
    asked = pd.concat([training[["user_id", "item_id"]], other[["user_id", "item_id"]]])
    requests = list(plan_requests(asked, data, history_length=20, one_by_one=True))
    assert len(requests) == len(asked)
    taken = set(map(tuple, training[["user_id", "item_id"]].to_numpy().tolist()))
    size = training.groupby("user_id").size()
    for request in requests:
        own = (request.user_id, request.item_ids[0]) in taken
        assert len(request.history) == size[request.user_id] - own
        assert not own or request.titles[0] not in request.history


# ---------------------------------------------------------------------- modes


def scores(data):
    rng = np.random.default_rng(5)
    frame = synthetic_of(data, 150, seed=9)[["user_id", "item_id"]]
    return frame.assign(score=rng.random(len(frame)), kind="candidate")


def test_the_modes_train_in_a_comparison_and_none_is_the_same_as_without(tmp_path, data):
    frame = synthetic_of(data)
    refinement = Refinement.read(
        data, synthetic=frame, interest=judged(data, frame, noise=noisy_pairs(data)), weight=1.0
    )
    modes = ["none", "synthetic", "denoised", "refined+global"]
    options = {"seeds": 1, "settings": SMALL, "verbose": False}
    found = compare(data, scores(data), out=tmp_path / "a", modes=modes, refinement=refinement, **options)
    runs = {run.mode: run for run in found}
    assert list(runs) == modes
    plain = compare(data, scores(data), out=tmp_path / "b", modes=["none"], **options).runs[0]
    assert runs["none"].auc == plain.auc
    assert len({run.auc for run in found}) == len(modes)
    of_epoch = {mode: run.epochs[0] for mode, run in runs.items()}
    assert of_epoch["synthetic"]["sllmr_synthetic_rows"] > of_epoch["refined+global"]["sllmr_synthetic_rows"] > 0
    assert "sllmr_synthetic" not in of_epoch["denoised"]
    assert {"sllmr_loss", "sllmr_synthetic"} <= set(of_epoch["refined+global"])
    other = Refinement(data, refinement.synthetic, refinement.interest, weight=0.5)
    with pytest.raises(RunFolderError, match="synthetic"):
        compare(data, scores(data), out=tmp_path / "a", modes=modes, refinement=other, **options)


def test_redrawn_rows_are_denoised_in_every_epoch(tmp_path, data, monkeypatch):
    from sllmr_plugin.evaluation import training

    lengths = []
    monkeypatch.setattr(training, "input_rows", lambda model, x: lengths.append(len(x["user_id"])) or dict(x))
    refinement = Refinement.read(data, interest=judged(data, noise=noisy_pairs(data)))
    settings = RunSettings.quick(epochs=2, embedding_dim=4, redraw=True, negatives=2)
    compare(
        data,
        scores(data),
        out=tmp_path,
        modes=["denoised"],
        refinement=refinement,
        seeds=1,
        settings=settings,
        verbose=False,
    )
    assert lengths == [3 * (len(data.train) - 3)] * 2


def test_a_mode_without_its_file_and_a_file_without_its_mode_are_refused(tmp_path, data):
    frame = synthetic_of(data)
    rows, doubts = Refinement.read(data, synthetic=frame), Refinement.read(data, interest=judged(data, frame))
    for mode, refinement, told in (
        ("synthetic", None, "trains on synthetic interactions; give some .--synthetic FILE"),
        ("denoised", rows, r"reads P\(interest\) of interactions; give a table .--interest FILE"),
        ("refined", doubts, "trains on synthetic interactions"),
        ("init", rows, "mode init reads vectors"),
        ("none", rows, "--synthetic is given, and none of the modes none reads it"),
        ("synthetic", Refinement(data, rows.synthetic, doubts.interest), "--interest is given"),
    ):
        with pytest.raises(ConfigError, match=told):
            compare(data, scores(data), out=tmp_path / "x", modes=[mode], refinement=refinement, verbose=False)
    for name in ("refined+synthetic", "denoised+refined"):
        with pytest.raises(ConfigError, match="refined is synthetic"):
            Mode.of(name)
    with pytest.raises(ConfigError, match="nothing to refine by"):
        Refinement.read(data)
    with pytest.raises(ConfigError, match="must be above 0"):
        Refinement.read(data, synthetic=frame, weight=0)
    assert not (tmp_path / "x").exists()


def test_held_out_synthetic_rows_are_refused_before_and_in_training(data):
    held_out = interactions()[interactions()["split"] == "valid"]
    with pytest.raises(
        LeakageError, match="24 synthetic pair.s. of the synthetic interactions DataFrame are validation"
    ):
        Refinement.read(data, synthetic=held_out)
    leaked = SyntheticInteractions(
        data.test["user"].to_numpy()[:1], data.test["item"].to_numpy()[:1], np.ones(1, dtype=np.float32)
    )
    with pytest.raises(LeakageError, match="1 synthetic interaction.s. are test or validation"):
        check_leakage(data, training_rows(data), ScoreTable.empty(), synthetic=leaked)


def test_tuning_reads_them_in_every_trial_but_the_plain_one(tmp_path, data):
    frame = synthetic_of(data)
    refinement = Refinement.read(data, synthetic=frame, weight=1.0)
    options = {"n_trials": 2, "seeds": 1, "settings": SMALL, "verbose": False}
    result = tune(data, scores(data), out=tmp_path, parts="synthetic", refinement=refinement, **options)
    assert sorted(trial.parts for trial in result.trials) == [(), ("synthetic",)]
    with pytest.raises(ConfigError, match="mode init reads vectors"):
        tune(data, scores(data), out=tmp_path / "x", refinement=refinement, **options)


def test_the_commands_go_from_pairs_to_a_comparison(tmp_path, data, capsys):
    files = []
    for name, frame in (("interactions", interactions()), ("items", items())):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        files += [f"--{name}", str(tmp_path / f"{name}.csv")]
    synthetic_of(data).to_parquet(tmp_path / "synthetic.parquet")
    rows = ["--synthetic", str(tmp_path / "synthetic.parquet")]
    assert main(["interest", *files, *rows, "--pairs", str(tmp_path / "pairs.parquet"), "--probes", "20"]) == 0
    assert "20 probe" in capsys.readouterr().out
    pairs = pd.read_parquet(tmp_path / "pairs.parquet")
    noise = set(noisy_pairs(data))
    low = pairs[["user_id", "item_id"]].apply(tuple, axis=1).isin(noise) | (pairs["what"] == "random")
    low |= (pairs["what"] == "synthetic") & (np.arange(len(pairs)) % 2 == 0)
    pairs.assign(score=np.where(low, 0.1, 0.9)).to_parquet(tmp_path / "interest.parquet")
    interest = ["--interest", str(tmp_path / "interest.parquet")]
    assert main(["interest", *files, *rows, *interest, "--out", str(tmp_path / "kept.parquet")]) == 0
    printed = capsys.readouterr().out
    assert "judge: AUC 1.0000" in printed
    assert "synthetic: 10 of 20 rows kept" in printed
    assert "training: 3 of" in printed
    assert len(pd.read_parquet(tmp_path / "kept.parquet")) == 10
    scores(data).to_csv(tmp_path / "scores.csv", index=False)
    command = ["compare", *files, "--scores", str(tmp_path / "scores.csv"), "--seeds", "1", "--quick", "--epochs", "1"]
    command += ["--embedding-dim", "4"]
    modes = ["--modes", "none,refined", "--out", str(tmp_path / "run"), "--synthetic-weight", "0.5"]
    assert main([*command, *rows, *interest, *modes]) == 0
    assert "refined" in capsys.readouterr().out
    for wrong, told in (
        ([*rows, "--modes", "refined"], "reads P(interest)"),
        (["--synthetic-weight", "1", "--modes", "none"], "--synthetic-weight goes with --synthetic"),
    ):
        assert main([*command, *wrong, "--out", str(tmp_path / "none")]) == 2
        assert told in capsys.readouterr().err
    assert main(["interest", *files, *interest, "--out", str(tmp_path / "k.parquet")]) == 2
    assert "--out is for the synthetic rows" in capsys.readouterr().err


def test_an_experiment_reads_the_files_of_its_mode_and_says_how_they_are_made(tmp_path, data):
    for name, frame in (("interactions", interactions()), ("items", items()), ("synthetic", synthetic_of(data))):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    keys = [f"data.root={tmp_path.parent}", f"data.folder={tmp_path.name}", "data.name=small", "training.epochs=1"]
    (tmp_path / "small.yaml").write_text("data:\n  name: small\n  split: column\n")
    options = {"model": "deepfm", "data": str(tmp_path / "small.yaml")}
    keys += ["training.embedding_dim=4", "training.redraw=false", "training.negatives=1"]
    chosen = compose(**options, assignments=[*keys, "run.mode=synthetic"])
    plain = compose(**options, assignments=[*keys, "run.mode=none"])
    assert chosen.reads == ("synthetic",)
    assert not any("synthetic" in key or "interest" in key for key in plain.identity())
    found = train_experiment(chosen, tmp_path / "run", verbose=False)
    assert found.runs[0].epochs[0]["sllmr_synthetic_rows"] > 0
    with pytest.raises(MissingDataError, match="(?s)no interest .* in .*sllmr synthesize, and judged"):
        train_experiment(compose(**options, assignments=[*keys, "run.mode=refined"]), tmp_path / "other", verbose=False)
    with pytest.raises(ConfigError, match="data.interest is null, which leaves only modes that read no interest"):
        train_experiment(
            compose(**options, assignments=[*keys, "run.mode=denoised", "data.interest=null"]), tmp_path / "other"
        )
