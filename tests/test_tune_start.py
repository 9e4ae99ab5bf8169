"""Searches of models that start from vectors: which trials there are, what they train, and what is refused."""

import dataclasses
import json
import shlex

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin import CURecAdaptor, RecLMAdaptor, SelectiveConfig, TextTable, Vectors
from sllmr_plugin.cli import compare as compare_command
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import ConfigError, RunFolderError
from sllmr_plugin.evaluation import tune as tune_module
from sllmr_plugin.evaluation.comparison import Comparison
from sllmr_plugin.evaluation.modes import Start
from sllmr_plugin.evaluation.training import RunSettings, Trained, train
from sllmr_plugin.evaluation.trials import SearchSpace
from sllmr_plugin.evaluation.tune import format_trials, tune
from sllmr_plugin.scores.table import ScoreTable

from .evaluation_cases import N_ITEMS, N_USERS, catalogue, interactions

SMALL = RunSettings.quick(epochs=1, embedding_dim=4, batch_size=16)
KINDS = ("racing car", "farm animal", "space ship", "chess board")


def titled():
    return catalogue().assign(title=[f"{KINDS[k % 4]} number{k % 7}" for k in range(N_ITEMS)])


def texts():
    """Return a pattern of each user and a reason for every second training interaction."""
    data = load_interactions(interactions(), titled())
    taken = data.train.loc[data.train["label"] == 1, ["user", "item"]].drop_duplicates().iloc[::2]
    rows = [
        ("reason", data.user_ids[user - 1], f"because of {KINDS[(user + item) % 4]}", data.item_ids[item - 1], 1)
        for user, item in taken.to_numpy().tolist()
    ]
    rows += [("pattern", user, f"takes {KINDS[k % 4]}", None, None) for k, user in enumerate(data.user_ids)]
    return pd.DataFrame(rows, columns=["kind", "id", "text", "item_id", "label"])


def scores():
    rng = np.random.default_rng(5)
    pairs = [(f"u{user:02d}", f"i{item:02d}") for user in range(N_USERS) for item in rng.permutation(N_ITEMS)[:6]]
    return pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(score=rng.random(len(pairs)))


@pytest.fixture
def data():
    return load_interactions(interactions(), titled())


@pytest.fixture
def table(data):
    return ScoreTable.read(scores(), user_index=data.user_index, item_index=data.item_index)


@pytest.fixture
def start():
    return Start(Vectors.read(titled()))


@pytest.fixture
def made_up(monkeypatch):
    """Replace training by an AUC that grows with weight and scale; list what was trained."""
    calls = []

    def fake(data, rows, scores, *, config, seed, start, aligned, distilled, adaptor, report, **rest):
        scale = None if start is None else start.scale
        in_steps = "distill" if distilled is not None else aligned is not None
        calls.append((config.active, scale, in_steps, adaptor is not None, len(data.attributes)))
        return Trained(model=None, epoch=1, auc=0.5 + config.weight / 10 + (scale or 0) / 5, seconds=0.5)

    monkeypatch.setattr(tune_module, "train", fake)
    return calls


def recipe(trial):
    return trial.config, trial.parts, trial.scale


def test_every_config_is_crossed_with_every_scale_and_the_first_three_say_what_was_gained(table):
    plain = SearchSpace.of(table, {}).trials(10_000, seed=3)
    space = SearchSpace.of(table, {}, parts=("init",), scales=(0.3, 0.1, 0.5))
    trials = space.trials(10_000, seed=3)
    configs = [trial.config for trial in plain]
    wanted = [(config, ("init",), scale) for config in configs for scale in (0.3, 0.1, 0.5)]
    assert sorted(map(repr, map(recipe, trials[1:]))) == sorted(map(repr, wanted))  # each once; without init, one
    assert recipe(trials[0]) == (configs[0], (), None)
    assert recipe(trials[1]) == (configs[1], ("init",), 0.3)
    assert recipe(trials[2]) == (configs[0], ("init",), 0.3)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert space.trials(9, seed=3) == trials[:9]
    assert space.trials(9, seed=4)[3:] != trials[3:9]
    assert [trial.mode for trial in trials[:3]] == ["none", "init+gated", "init"]
    assert str(trials[2]) == "init 0.3, plain"
    assert str(trials[0]) == "plain"
    assert {trial.mode for trial in trials[3:]} == {"init", "init+gated", "init+global"}


def test_a_search_without_a_start_is_the_search_that_it_was(table):
    space = SearchSpace.of(table, {"loss": "hinge"})
    assert not {"parts", "scales"} & space.to_json().keys()
    assert all((trial.parts, trial.scale) == ((), None) for trial in space.trials(20, seed=0))
    # The order that searches had before there was a start: the grid without the default, permuted by the seed.
    default = SelectiveConfig(loss="hinge", gate="fixed")
    others = [config for config in space._grid() if config != default]
    order = np.random.default_rng(7).permutation(len(others))
    plain, found_default, *found = space.trials(30, seed=7)
    assert found_default.config == default
    assert [trial.config for trial in found] == [others[place] for place in order[:28]]


def test_trials_train_from_their_scale_and_the_best_is_chosen(data, start, tmp_path, made_up):
    result = tune(data, scores(), out=tmp_path, n_trials=60, seeds=1, settings=SMALL, start=start, verbose=False)
    assert made_up[0] == (False, None, False, False, 0)
    assert made_up[1:3] == [(True, 0.3, False, False, 0), (False, 0.3, False, False, 0)]
    assert {scale for _, scale, *_ in made_up[1:]} == {0.1, 0.3, 0.5}
    best = max(result.trials, key=lambda trial: trial.auc)
    assert result.chosen == best
    assert (best.scale, best.config.weight) == (0.5, 0.8)
    assert result.chosen.mode in ("init+gated", "init+global")
    assert result.unregularized is result.trials[2]
    stored = json.loads((tmp_path / "trials.json").read_text())["trials"]
    assert "parts" not in stored[0]
    assert (stored[1]["parts"], stored[1]["scale"]) == (["init"], 0.3)
    printed = format_trials(result)
    row = next(line for line in printed.splitlines() if "<- chosen" in line)
    assert row.split()[1:3] == ["init", "0.5"]
    plain = next(line for line in printed.splitlines() if line.startswith("0 "))
    assert plain.split()[1:3] == ["-", "plain"]
    alone = next(line for line in printed.splitlines() if line.startswith("2 "))
    assert alone.split()[1:] == ["init", "0.3", "plain", "-", "-", "-", "0.5600", "+0.0600", "1"]
    assert f"Trial {best.number} minus model with init 0.3 alone: {best.auc - 0.56:+.4f}" in printed

    made_up.clear()
    again = tune(data, scores(), out=tmp_path, n_trials=60, seeds=1, settings=SMALL, start=start, verbose=False)
    assert again == result
    assert made_up == []
    asked = {"out": tmp_path, "settings": SMALL, "verbose": False}
    for changes, told in (
        ({"start": dataclasses.replace(start, scale=0.2)}, r"space\.scales was"),
        ({"start": start, "scales": [0.3]}, r"space\.\S+ was"),
        ({"start": start, "parts": "align"}, r"space\.\S+ was"),
        ({"start": dataclasses.replace(start, users="none")}, r"start(\.\S+)? was"),
        ({"start": Start(Vectors.read(titled().assign(title="other " + titled()["title"])))}, r"start(\.\S+)? was"),
        ({}, r"start(\.\S+)? was"),
    ):
        with pytest.raises(RunFolderError, match=told):
            tune(data, scores(), **asked, **changes)


def test_vectors_alone_can_be_what_is_chosen(data, start, tmp_path, monkeypatch):
    def fake(*_, config, start, **rest):
        return Trained(model=None, epoch=1, auc=0.6 - config.weight / 10 + 0.1 * (start is not None), seconds=0.5)

    monkeypatch.setattr(tune_module, "train", fake)
    result = tune(data, scores(), out=tmp_path, n_trials=5, seeds=1, settings=SMALL, start=start, verbose=False)
    assert result.chosen.number == 2
    assert (result.chosen.mode, result.config.active) == ("init", False)
    printed = format_trials(result)
    assert "Trial 2 is the model with init 0.3 alone: tuning found nothing better." in printed
    assert "Trial 2 minus plain model: +0.1000" in printed


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ("align", (None, True, False, 0)),
        ("distill", (None, "distill", False, 0)),
        ("sid", (None, False, False, 3)),
        ("embed", (None, False, True, 0)),
        ("init+align", (0.2, True, False, 0)),
    ],
)
def test_other_parts_do_what_they_do_in_a_comparison(data, start, tmp_path, made_up, parts, told):
    asked = {"parts": parts, "scales": [0.2]} if "init" in parts else {"parts": parts}
    result = tune(
        data, scores(), out=tmp_path, n_trials=4, seeds=1, settings=SMALL, start=start, verbose=False, **asked
    )
    assert made_up[0] == (False, None, False, False, 0)
    # A start is passed to `train` for init alone; what other parts read is built of it.
    assert {call[1:] for call in made_up[1:]} == {told}
    assert [trial.mode for trial in result.trials[:3]] == ["none", f"{parts}+gated", parts]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"parts": "init+gated"}, "tuning chooses the regularizer itself"),
        ({"parts": "kar"}, "mode kar reads LLM-written texts"),
        ({"parts": "none"}, "must be parts that read vectors"),
        ({"parts": "align", "scales": [0.1]}, "scale of the start .* not by align"),
        ({"scales": []}, "one number of at least 0 or more"),
        ({"start": None, "scales": [0.1]}, "parts and scales say what vectors, texts, triples and rows do"),
        ({"start": None, "parts": "align"}, "parts and scales say what vectors, texts, triples and rows do"),
        ({"texts": texts()}, "parts='init' reads no texts; .*: kar, llm_cf, curec"),
        ({"texts": texts(), "parts": "curec"}, "parts='curec' reads no vectors"),
        ({"texts": texts(), "start": None}, "mode init reads vectors"),
        ({"texts": texts(), "start": None, "parts": "curec", "scales": [0.1]}, "scales are those of a start"),
    ],
)
def test_what_a_search_would_not_use_is_refused(data, start, tmp_path, made_up, changes, told):
    with pytest.raises(ConfigError, match=told):
        tune(data, scores(), out=tmp_path / "run", settings=SMALL, **{"start": start, **changes})
    assert made_up == []
    assert not (tmp_path / "run").exists()


def test_trials_are_trained_as_the_modes_of_a_comparison(data, table, start, tmp_path):
    asked = {"n_trials": 3, "seeds": 1, "settings": SMALL, "verbose": False}
    found = tune(data, table, out=tmp_path / "init", start=start, scales=[0.7], **asked)
    plain = tune(data, table, out=tmp_path / "plain", **asked)
    assert found.plain.runs[0].auc == plain.plain.runs[0].auc
    for trial in found.trials[1:]:
        alone = train(
            data,
            SMALL.rows(data, 0),
            table,
            backbone="deepfm",
            config=trial.config,
            seed=0,
            settings=SMALL,
            start=dataclasses.replace(start, scale=0.7),
            verbose=False,
        )
        assert trial.runs[0].auc == alone.auc
    assert found.trials[2].auc != found.plain.auc


@pytest.mark.filterwarnings("ignore::sllmr_plugin.CoverageWarning")
@pytest.mark.parametrize("parts", ["curec", "init+curec"])
def test_texts_are_read_by_all_trials_but_the_plain_one(data, table, start, tmp_path, parts):
    asked = {"n_trials": 3, "seeds": 1, "settings": SMALL, "verbose": False, "parts": parts}
    start = start if "init" in parts else None
    found = tune(data, table, out=tmp_path / "run", start=start, texts=texts(), **asked)
    assert [trial.mode for trial in found.trials] == ["none", f"{parts}+gated", parts]
    told = TextTable.read(texts(), user_index=data.user_index, item_index=data.item_index)
    for trial in found.trials:
        rows = SMALL.rows(data, 0)
        ids = {"user": "user_id", "item": "item_id"}
        alone = train(
            data,
            rows,
            table,
            backbone="deepfm",
            config=trial.config,
            seed=0,
            settings=SMALL,
            adaptor=CURecAdaptor(told, *rows, **ids) if trial.number else None,
            start=start if trial.number else None,
            verbose=False,
        )
        assert trial.runs[0].auc == alone.auc
    assert found.trials[2].auc != found.plain.auc
    other = texts().assign(text=[f"text {k}" for k in range(len(texts()))])
    with pytest.raises(RunFolderError, match="texts was"):
        tune(data, table, out=tmp_path / "run", start=start, texts=other, **asked)


@pytest.mark.filterwarnings("ignore::sllmr_plugin.CoverageWarning")
def test_profiles_are_read_by_all_trials_but_the_plain_one(data, table, tmp_path):
    items = [("item", item, f"about {KINDS[k % 4]}") for k, item in enumerate(data.item_ids)]
    users = [("user", user, f"likes {KINDS[k % 4]}") for k, user in enumerate(data.user_ids)]
    profiles = pd.DataFrame(items + users, columns=["kind", "id", "text"])
    asked = {"n_trials": 3, "seeds": 1, "settings": SMALL, "verbose": False, "parts": "reclm"}
    found = tune(data, table, out=tmp_path / "run", texts=profiles, **asked)
    assert [trial.mode for trial in found.trials] == ["none", "reclm+gated", "reclm"]
    told = TextTable.read(profiles, user_index=data.user_index, item_index=data.item_index)
    rows = SMALL.rows(data, 0)
    alone = train(
        data,
        rows,
        table,
        backbone="deepfm",
        config=found.trials[2].config,
        seed=0,
        settings=SMALL,
        adaptor=RecLMAdaptor(told, *rows, user="user_id", item="item_id"),
        verbose=False,
    )
    assert found.trials[2].runs[0].auc == alone.auc != found.plain.auc


def test_the_command_searches_with_texts_and_names_the_comparison(tmp_path, capsys, made_up, monkeypatch):
    files = []
    for name, frame in (("interactions", interactions()), ("items", titled()), ("scores", scores())):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        files += [f"--{name}", str(tmp_path / f"{name}.csv")]
    texts().to_parquet(tmp_path / "reasons.parquet")
    command = ["tune", *files, "--seeds", "1", "--quick", "--trials", "9"]
    asked = ["--texts", str(tmp_path / "reasons.parquet"), "--parts", "curec", "--out", str(tmp_path / "search")]
    assert main([*command, *asked]) == 0
    assert made_up[0] == (False, None, False, False, 0)
    assert {call[1:] for call in made_up[1:]} == {(None, False, True, 0)}
    printed = capsys.readouterr().out
    assert "Chosen parts: curec" in printed
    seen = {}
    monkeypatch.setattr(compare_command, "compare", lambda data, scores, **rest: seen.update(rest) or Comparison([]))
    line = next(line for line in printed.splitlines() if line.startswith("  sllmr compare "))
    assert main(shlex.split(line)[1:]) == 0
    assert seen["modes"][:2] == ["none", "curec"]
    assert (seen["texts"], seen["start"]) == ([str(tmp_path / "reasons.parquet")], None)
    assert main([*command, "--texts", "a.parquet", "--out", str(tmp_path / "none")]) == 2
    assert "mode init reads vectors" in capsys.readouterr().err


def test_the_command_searches_from_vectors_and_names_the_comparison(tmp_path, monkeypatch, capsys, made_up):
    files = []
    for name, frame in (("interactions", interactions()), ("items", titled()), ("scores", scores())):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        files += [f"--{name}", str(tmp_path / f"{name}.csv")]
    command = ["tune", *files, "--initialise", "titles", "--seeds", "1", "--quick"]
    out = tmp_path / "search"
    assert main([*command, "--trials", "60", "--initialise-users", "none", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Chosen start: init 0.5" in printed
    seen = {}
    monkeypatch.setattr(compare_command, "compare", lambda data, scores, **rest: seen.update(rest) or Comparison([]))
    line = next(line for line in printed.splitlines() if line.startswith("  sllmr compare "))
    assert main(shlex.split(line)[1:]) == 0
    assert seen["modes"][:2] == ["none", "init"]
    assert seen["modes"][2] in ("init+gated", "init+global")
    assert (seen["start"].scale, seen["start"].users) == (0.5, "none")
    chosen = SelectiveConfig.from_yaml(out / "chosen.yaml")
    assert SelectiveConfig.of_mode(seen["modes"][2].split("+")[1], seen["config_overrides"]) == chosen

    made_up.clear()
    assert main([*command, "--trials", "9", "--initialise-scale", "0.2", "--out", str(tmp_path / "held")]) == 0
    assert {scale for _, scale, *_ in made_up[1:]} == {0.2}
    assert main([*command, "--trials", "3", "--parts", "align", "--out", str(tmp_path / "align")]) == 0
    capsys.readouterr()
    for wrong, told in (
        (["--parts", "align", "--initialise-scale", "0.3"], "scale of the start"),  # though it is the default
        (["--parts", "kd"], "tuning chooses the regularizer itself"),
    ):
        assert main([*command, *wrong, "--out", str(tmp_path / "none")]) == 2
        assert told in capsys.readouterr().err
    assert main(["tune", *files, "--parts", "init", "--out", str(tmp_path / "none")]) == 2
    assert "give some with --initialise, --texts, --triples, --synthetic or --interest" in capsys.readouterr().err
