"""The search space, trials on disk, and that the search sees validation alone."""

import dataclasses
import json
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin.config import SelectiveConfig
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import BackboneError, ConfigError, EvaluationError, RunFolderError, SLLMRError
from sllmr_plugin.evaluation import training
from sllmr_plugin.evaluation import tune as tune_module
from sllmr_plugin.evaluation.training import RunSettings, Trained
from sllmr_plugin.evaluation.trials import SearchSpace, Trial, TrialRun, describe, gate_name
from sllmr_plugin.evaluation.tune import TuneResult, format_trials, tune
from sllmr_plugin.scores.table import ScoreTable
from tests.evaluation_cases import N_ITEMS, N_USERS, catalogue, interactions

SMALL = RunSettings.quick(epochs=1, embedding_dim=4, batch_size=16)


@pytest.fixture
def data():
    return load_interactions(interactions(), catalogue())


@pytest.fixture
def scores():
    rng = np.random.default_rng(5)
    pairs = [(f"u{user:02d}", f"i{item:02d}") for user in range(N_USERS) for item in rng.permutation(N_ITEMS)[:6]]
    return pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(score=rng.random(len(pairs)), kind="candidate")


@pytest.fixture
def with_probes(scores):
    """The scores, and the validation item of every other user as a probe."""
    valid = interactions().query("split == 'valid'")[["user_id", "item_id"]].iloc[::2]
    return pd.concat([valid.assign(score=0.9, kind="probe"), scores], ignore_index=True)


@pytest.fixture
def made_up(monkeypatch):
    """Replace training by an AUC that a test sets, as a function of config and seed; list the calls."""
    fake = SimpleNamespace(calls=[], auc=lambda config, seed: 0.6 + config.weight / 10 * (config.mode != "none"))

    def train(data, rows, scores, *, config, seed, report, **rest):
        fake.calls.append((config, seed))
        auc = fake.auc(config, seed)
        report(1, auc)
        return Trained(model=None, epoch=1, auc=auc, seconds=0.5)

    monkeypatch.setattr(tune_module, "train", train)
    return fake


def table(data, scores):
    return ScoreTable.read(scores, user_index=data.user_index, item_index=data.item_index)


def searched(config):
    """What a config is in the space: the uncertainty counts only for gates that look at it."""
    gate = gate_name(config)
    uncertainty = config.uncertainty if gate in ("budget", "disagreement", "bilevel") else None
    return gate, uncertainty, config.weight, config.resolved_margin


# --- the space


@pytest.mark.parametrize(
    ("probes", "dropout", "gates", "n_uncertainties"),
    [
        (False, 0.0, {"open", "fixed", "budget"}, 2),
        (False, 0.3, {"open", "fixed", "budget"}, 3),
        (True, 0.0, {"open", "fixed", "budget", "disagreement", "bilevel"}, 2),
    ],
)
def test_the_space_is_what_table_and_backbone_allow(data, scores, with_probes, probes, dropout, gates, n_uncertainties):
    space = SearchSpace.of(table(data, with_probes if probes else scores), {}, dropout=dropout)
    configs = [trial.config for trial in space.trials(10_000, seed=3)]
    names = ("confidence", "entropy", "mc_dropout")[:n_uncertainties]
    blind = product(gates & {"open", "fixed"}, [None], (0.05, 0.1, 0.2, 0.4, 0.8), (0.0, 0.5, 1.0))
    seeing = product(gates - {"open", "fixed"}, names, (0.05, 0.1, 0.2, 0.4, 0.8), (0.0, 0.5, 1.0))
    assert sorted(map(str, map(searched, configs[1:]))) == sorted(map(str, [*blind, *seeing]))  # each once
    assert configs[0].mode == "none"
    assert {config.mode for config in configs[1:]} == {"gated", "global"}


@pytest.mark.parametrize("probes", [False, True])
def test_the_default_config_is_trial_1_with_its_gate_spelled_out(data, scores, with_probes, probes):
    space = SearchSpace.of(table(data, with_probes if probes else scores), {})
    default = space.trials(2, seed=0)[1]
    assert default.config == SelectiveConfig(gate="disagreement" if probes else "fixed")


def test_a_longer_search_begins_with_the_shorter_and_seeds_differ(data, with_probes):
    space = SearchSpace.of(table(data, with_probes), {})
    assert space.trials(9, seed=4) == space.trials(40, seed=4)[:9]
    assert space.trials(9, seed=4)[:2] == space.trials(9, seed=5)[:2]
    assert space.trials(9, seed=4)[2:] != space.trials(9, seed=5)[2:]


@pytest.mark.parametrize(
    ("loss", "score_space", "margins"),
    [
        ("ranknet", "probability", {0.0, 0.05, 0.1}),
        ("hinge", "logit", {0.5, 1.0, 2.0}),
        ("hinge", "probability", {0.05, 0.1, 0.2}),
    ],
)
def test_margins_suit_the_loss(data, scores, loss, score_space, margins):
    held = {"loss": loss, "score_space": score_space}
    configs = [trial.config for trial in SearchSpace.of(table(data, scores), held).trials(10_000, seed=0)]
    assert {config.resolved_margin for config in configs[1:]} == margins
    assert {(config.loss, config.score_space) for config in configs} == {(loss, score_space)}


def test_held_fields_are_not_searched(data, with_probes):
    held = {"gate": "auto", "weight": 0.3, "uncertainty": "entropy", "cold_threshold": 5}
    configs = [trial.config for trial in SearchSpace.of(table(data, with_probes), held).trials(100, seed=0)]
    assert len(configs) == 1 + 3  # the plain model, and three margins
    assert {config.cold_threshold for config in configs} == {5}
    assert {searched(config)[:3] for config in configs[1:]} == {("disagreement", "entropy", 0.3)}


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ({"mode": "global"}, "mode is what tuning chooses"),
        ({"weight": 0}, "nothing to tune"),
        ({"uncertainty": "ensemble"}, "needs checkpoints"),
        ({"uncertainty": "mc_dropout"}, "needs a backbone with dropout"),
        ({"gate": "bilevel"}, "needs probes"),
        ({"wieght": 1}, "did you mean 'weight'"),
    ],
)
def test_what_cannot_be_held(data, scores, held, told):
    with pytest.raises(SLLMRError, match=told):
        SearchSpace.of(table(data, scores), held)


def test_configs_in_a_line():
    assert describe(SelectiveConfig(weight=0.0)) == "plain"
    assert describe(SelectiveConfig(gate="none", loss="hinge")) == "open, weight 0.1, margin 1"
    assert describe(SelectiveConfig(gate="budget", weight=0.4)) == "budget, confidence, weight 0.4, margin 0"


# --- the search


def test_the_highest_mean_is_chosen_and_written(data, scores, tmp_path, made_up):
    def auc(config, seed):  # the largest weight shines with seed 0 only
        return 0.5 if config.mode == "none" else {0.4: 0.7, 0.8: 0.95 - 0.6 * seed}.get(config.weight, 0.6)

    made_up.auc = auc
    result = tune(data, scores, out=tmp_path, n_trials=40, seeds=2, settings=SMALL, verbose=False)
    configs = [trial.config for trial in result.trials]
    first = next(number for number, config in enumerate(configs) if config.weight == 0.4)
    assert 0.8 in {config.weight for config in configs}
    assert result.chosen.number == first  # of equals the first
    assert result.chosen.auc == pytest.approx(0.7)
    assert SelectiveConfig.from_yaml(tmp_path / "chosen.yaml") == result.config == configs[first]
    assert result.default.minus(result.plain) == (pytest.approx(0.1), pytest.approx(0.0))
    assert made_up.calls == [(config, seed) for config in configs for seed in (0, 1)]


def test_mean_and_deviations_over_seeds_against_counting_by_hand():
    plain = Trial(0, SelectiveConfig(weight=0.0), (TrialRun(0, 0.6, 1, 1.0), TrialRun(1, 0.7, 1, 1.0)))
    other = Trial(4, SelectiveConfig(), (TrialRun(0, 0.65, 1, 1.0), TrialRun(1, 0.77, 1, 1.0)))
    assert plain.auc == pytest.approx(0.65)
    assert plain.auc_sd == pytest.approx(0.1 / 2**0.5)
    assert other.minus(plain) == (pytest.approx(0.06), pytest.approx(0.02 / 2**0.5))
    assert Trial(0, plain.config, plain.runs[:1]).auc_sd is None


@pytest.mark.parametrize("auc", [0.6, 0.5])
def test_the_plain_model_is_chosen_unless_it_is_beaten(data, scores, tmp_path, made_up, auc):
    made_up.auc = lambda config, seed: 0.6 if config.mode == "none" else auc
    result = tune(data, scores, out=tmp_path, n_trials=4, settings=SMALL, verbose=False)
    assert result.chosen is result.plain
    assert SelectiveConfig.from_yaml(tmp_path / "chosen.yaml").mode == "none"
    assert "Chosen: the plain model. No trial has a higher validation AUC" in format_trials(result)


def test_a_search_takes_up_where_it_stopped(data, scores, tmp_path, made_up, capsys):
    whole = tune(data, scores, out=tmp_path / "whole", n_trials=5, settings=SMALL, verbose=False)
    calls, usual = list(made_up.calls), made_up.auc
    made_up.calls.clear()

    def interrupt(config, seed):
        if len(made_up.calls) == 6:
            raise KeyboardInterrupt
        return usual(config, seed)

    made_up.auc = interrupt
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        tune(data, scores, out=out, n_trials=5, settings=SMALL)
    kept = json.loads((out / "trials.json").read_text())["trials"]
    assert [len(trial["runs"]) for trial in kept] == [2, 2, 1]
    assert not (out / "chosen.yaml").exists()
    made_up.calls.clear()
    made_up.auc = usual
    capsys.readouterr()
    again = tune(data, scores, out=out, n_trials=5, settings=SMALL)
    assert made_up.calls == calls[5:]
    assert again.trials == whole.trials
    progress = capsys.readouterr().err.splitlines()
    assert len(progress) == 5
    assert [number for number, line in enumerate(progress) if "already in" in line] == [0, 1]
    assert progress[2].endswith("run/s]")


def test_more_trials_and_seeds_add_and_fewer_leave_the_file_alone(data, scores, tmp_path, made_up):
    first = tune(data, scores, out=tmp_path, n_trials=3, seeds=1, settings=SMALL, verbose=False)
    made_up.calls.clear()
    more = tune(data, scores, out=tmp_path, n_trials=4, seeds=[0, 7], settings=SMALL, verbose=False)
    assert [seed for _, seed in made_up.calls] == [7, 7, 7, 0, 7]
    assert [trial.config for trial in more.trials[:3]] == [trial.config for trial in first.trials]
    before = (tmp_path / "trials.json").read_text()
    assert tune(data, scores, out=tmp_path, n_trials=3, seeds=1, settings=SMALL, verbose=False) == first
    assert (tmp_path / "trials.json").read_text() == before


def test_a_folder_of_other_settings_or_data_is_refused(data, scores, tmp_path, made_up):
    def again(scores=scores, **changes):
        asked = {"n_trials": 2, "seeds": 1, "settings": SMALL, "verbose": False, **changes}
        return tune(data, scores, out=tmp_path, **asked)

    again()
    before = (tmp_path / "trials.json").read_text()
    for changes, told in (
        ({"settings": dataclasses.replace(SMALL, epochs=2)}, "epochs was 1, now 2"),
        ({"backbone": "dcn"}, "backbone was deepfm, now dcn"),
        ({"search_seed": 1}, "search_seed was 0, now 1"),
        ({"config_overrides": {"decay": 0.5}}, "space.held.decay was"),
        ({"scores": scores.assign(score=0.5 - scores["score"] / 2)}, "scores was"),
    ):
        with pytest.raises(RunFolderError, match=told):
            again(**changes)
    again(settings=dataclasses.replace(SMALL, test_users=3))  # of no concern here
    assert (tmp_path / "trials.json").read_text() == before


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 9}', '{"format": 1, "settings": {}, "trials": [{}]}'])
def test_a_broken_file_is_refused_and_left_alone(data, scores, tmp_path, made_up, content):
    (tmp_path / "trials.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"choose another folder or delete"):
        tune(data, scores, out=tmp_path, settings=SMALL)
    assert (tmp_path / "trials.json").read_text() == content
    assert made_up.calls == []


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"n_trials": 1}, ConfigError, "take at least 2"),
        ({"seeds": 0}, ConfigError, "one seed or more"),
        ({"seeds": [1, 1]}, ConfigError, "each once"),
        ({"backbone": "deepfn"}, BackboneError, "did you mean 'deepfm'"),
        ({"settings": dataclasses.replace(SMALL, dropout=0.1), "backbone": "mlr"}, BackboneError, "mlr has no dropout"),
        ({"config_overrides": {"weight": 0}}, ConfigError, "nothing to tune"),
    ],
)
def test_everything_is_checked_before_anything_is_trained(data, scores, tmp_path, made_up, changes, error, told):
    with pytest.raises(error, match=told):
        tune(data, scores, out=tmp_path / "run", **{"settings": SMALL, **changes})
    assert made_up.calls == []
    assert not (tmp_path / "run").exists()


def test_no_validation_part(scores, tmp_path):
    frame = interactions().query("split != 'valid'")
    with pytest.raises(EvaluationError, match="no validation part"):
        tune(load_interactions(frame, catalogue()), scores, out=tmp_path, settings=SMALL)


# --- for real


@pytest.mark.filterwarnings("ignore::sllmr_plugin.errors.GateCollapsedWarning")  # the LLM of these data is noise
def test_a_search_sees_no_test_interaction(with_probes, tmp_path, monkeypatch):
    splits = []
    rank = training.full_ranking

    def watched(model, data, split, **rest):
        splits.append(split)
        return rank(model, data, split, **rest)

    monkeypatch.setattr(training, "full_ranking", watched)
    results = []
    for kept in ("split == split", "split != 'test'"):  # with the test part, and without
        frame = interactions().query(kept)
        data = load_interactions(frame, catalogue())
        out = tmp_path / str(len(frame))
        results.append(tune(data, with_probes, out=out, n_trials=3, seeds=2, settings=SMALL, verbose=False))
    assert set(splits) == {"valid"}
    assert len(load_interactions(interactions(), catalogue()).test) > 0
    first, second = ([(run.auc, run.epoch) for trial in r.trials for run in trial.runs] for r in results)
    assert first == second
    assert len(set(first)) > 1
    settings = [json.loads((r.config_file.parent / "settings.json").read_text()) for r in results]
    assert settings[0] == settings[1]


@pytest.mark.filterwarnings("ignore::sllmr_plugin.errors.GateCollapsedWarning")  # the LLM of these data is noise
def test_trials_of_a_seed_differ_by_the_config_alone(data, with_probes, tmp_path):
    nearly_plain = {"weight": 1e-12, "margin": 0.0}
    settings = dataclasses.replace(SMALL, epochs=2)
    result = tune(
        data, with_probes, out=tmp_path, n_trials=5, settings=settings, config_overrides=nearly_plain, verbose=False
    )
    plain = [run.auc for run in result.plain.runs]
    assert len({searched(trial.config) for trial in result.trials[1:]}) == 4
    for trial in result.trials[1:]:
        assert [run.auc for run in trial.runs] == pytest.approx(plain, abs=1e-6)
    assert abs(plain[0] - plain[1]) > 1e-3  # so other weights or batches would have shown


def test_mc_dropout_trains_when_the_backbone_has_dropout(data, with_probes, tmp_path):
    settings = dataclasses.replace(SMALL, dropout=0.2)
    overrides = {"uncertainty": "mc_dropout", "mc_samples": 2}
    result = tune(
        data,
        with_probes,
        out=tmp_path,
        n_trials=3,
        seeds=1,
        settings=settings,
        config_overrides=overrides,
        verbose=False,
    )
    assert {trial.config.uncertainty for trial in result.trials} == {"mc_dropout"}
    assert all(0 <= trial.auc <= 1 for trial in result.trials)


def test_probes_among_the_validation_interactions_are_counted(data, with_probes, tmp_path, made_up):
    result = tune(data, with_probes, out=tmp_path, n_trials=2, settings=SMALL, verbose=False)
    assert (result.n_valid, result.n_probes) == (N_USERS, N_USERS / 2)
    assert f"{N_USERS // 2} of the {N_USERS} validation interactions are probes" in format_trials(result)


# --- what is printed


def trials_of(*aucs):
    configs = [SelectiveConfig(weight=0.0), SelectiveConfig(gate="fixed"), SelectiveConfig(gate="budget", weight=0.4)]
    return tuple(
        Trial(number, config, tuple(TrialRun(seed, auc, 1 + seed, 1.0) for seed, auc in enumerate(values)))
        for number, (config, values) in enumerate(zip(configs, aucs, strict=True))
    )


def result_of(*aucs, tmp_path=None, n_probes=0):
    return TuneResult("deepfm", tuple(range(len(aucs[0]))), trials_of(*aucs), 10, n_probes, tmp_path)


def test_the_table_is_sorted_and_says_what_was_gained():
    lines = format_trials(result_of([0.60, 0.62], [0.60, 0.61], [0.70, 0.76])).splitlines()
    assert lines[0] == "deepfm, 3 trials: validation AUC, mean ± standard deviation over seeds 0, 1"
    assert [line.split()[:2] for line in lines[3:6]] == [["2", "budget"], ["0", "plain"], ["1", "fixed"]]
    assert lines[3].endswith("<- chosen")
    assert lines[3].split() == "2 budget confidence 0.4 0 0.7300 ± 0.0424 +0.1200 ± 0.0283 1, 2 <- chosen".split()
    assert "Trial 2 minus plain model: +0.1200 ± 0.0283" in lines
    assert "Trial 2 minus default config: +0.1250 ± 0.0354" in lines
    assert "luckiest" in "\n".join(lines)
    assert "probes" not in "\n".join(lines)


def test_a_search_shows_itself():
    found = result_of([0.60, 0.62], [0.60, 0.61], [0.70, 0.76])
    assert str(found) == format_trials(found)
    assert found._repr_html_() == format_trials(found, "html")
    assert "<td>0.7300 ± 0.0424</td><td>+0.1200 ± 0.0283</td>" in found._repr_html_()
    assert repr(found).startswith(
        "TuneResult of 3 trials, deepfm: budget, confidence, weight 0.4, margin 0 has validation"
    )


def test_a_gain_that_seeds_may_explain_is_called_luck_and_one_seed_tells_nothing():
    assert "plain model: +0.0100 ± 0.0141 (no more than its deviation over seeds: may well be luck)" in format_trials(
        result_of([0.60, 0.60], [0.50, 0.50], [0.60, 0.62])
    )
    text = format_trials(result_of([0.60], [0.64], [0.62]))
    assert "of seed 0" in text
    assert "±" not in text
    assert "Trial 1 is the default config: tuning found nothing better." in text
    assert "With one seed nothing is known about luck" in text
