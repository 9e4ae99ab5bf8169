"""The command line, called in process; and the progress lines it writes."""

import io
import json
import shlex
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin import __version__
from sllmr_plugin.cli import compare as compare_command
from sllmr_plugin.cli import coverage as coverage_command
from sllmr_plugin.cli import demo as demo_command
from sllmr_plugin.cli import main
from sllmr_plugin.cli import tune as tune_command
from sllmr_plugin.config import SelectiveConfig
from sllmr_plugin.errors import GateCollapsedWarning
from sllmr_plugin.evaluation import compare as compare_module
from sllmr_plugin.evaluation import tune as tune_module
from sllmr_plugin.evaluation.comparison import Comparison
from sllmr_plugin.evaluation.training import RunSettings, Trained
from sllmr_plugin.progress import RunProgress


@pytest.fixture
def files(tmp_path):
    """Interactions, items and scores as files; arguments that name them."""
    rng = np.random.default_rng(0)
    pairs = [(f"u{user}", f"i{item}") for user in range(12) for item in rng.permutation(15)[: 4 + user % 4]]
    pd.DataFrame(pairs, columns=["user_id", "item_id"]).to_csv(tmp_path / "clicks.csv", index=False)
    pd.DataFrame({"item_id": [f"i{item}" for item in range(15)]}).to_csv(tmp_path / "items.csv", index=False)
    scored = [(f"u{user}", f"i{item}") for user in range(10) for item in rng.permutation(15)[:6]]
    scores = pd.DataFrame(scored, columns=["user_id", "item_id"]).assign(score=rng.random(len(scored)))
    scores.to_parquet(tmp_path / "scores.parquet")
    return [
        *("--interactions", str(tmp_path / "clicks.csv")),
        *("--items", str(tmp_path / "items.csv")),
        *("--scores", str(tmp_path / "scores.parquet")),
    ]


SMALL = ["--quick", "--epochs", "1", "--embedding-dim", "4", "--batch-size", "16", "--seeds", "2"]


def test_compare_writes_results_and_prints_one_table_each(files, tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        main(
            [
                "compare",
                *files,
                *SMALL,
                "--backbone",
                "deepfm,dcn",
                "--modes",
                "none,global",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    printed, progress = capsys.readouterr()
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert [(run["backbone"], run["seed"], run["mode"]) for run in runs] == [
        (backbone, seed, mode) for backbone in ("deepfm", "dcn") for seed in (0, 1) for mode in ("none", "global")
    ]
    mean = np.mean([run["auc"] for run in runs if run["backbone"] == "dcn" and run["mode"] == "global"])
    table = printed[printed.index("dcn, seeds 0, 1") :].splitlines()
    assert next(line for line in table if line.startswith("global")).split()[1] == f"{mean:.4f}"
    assert f"Run folder: {out}" in printed
    assert len(progress.splitlines()) == 8
    assert "[3/8] deepfm none seed 1: AUC" in progress


def test_settings_reach_the_comparison(files, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(compare_command, "compare", lambda data, scores, **rest: seen.update(rest) or Comparison([]))
    arguments = [
        "--seeds",
        "5",
        "--epochs",
        "7",
        "--embedding-dim",
        "8",
        "--batch-size",
        "9",
        "--eval-users",
        "10",
    ]
    arguments += [
        "--set",
        "weight=1e-2",
        "--set",
        "loss=hinge",
        "--set",
        "in_batch_pairs=true",
        "--set",
        "margin=none",
    ]
    arguments += ["--learning-rate", "0.01", "--negatives", "2", "--valid-users", "3", "--modes", "joint"]
    arguments += ["--rank-items", "40"]
    assert main(["compare", *files, "--out", str(tmp_path), *arguments, "--valid-items", "30"]) == 0
    assert seen["settings"].valid_items == 30
    assert main(["compare", *files, "--out", str(tmp_path), *arguments]) == 0
    assert seen["config_overrides"] == {
        "weight": 0.01,
        "loss": "hinge",
        "in_batch_pairs": True,
        "margin": None,
    }
    assert (seen["seeds"], seen["modes"], seen["backbone"]) == (5, ["joint"], ["deepfm"])
    assert seen["settings"] == RunSettings(
        epochs=7,
        embedding_dim=8,
        batch_size=9,
        learning_rate=0.01,
        negatives=2,
        test_users=10,
        valid_users=3,
        test_items=40,
        valid_items=40,
    )


def test_ranking_against_a_sample_is_said_plainly(files, tmp_path, capsys):
    assert main(["compare", *files, *SMALL, "--modes", "none", "--rank-items", "5", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "sampled AUC of" in printed
    assert "each against 5 items drawn at random" in printed
    assert "full-ranking" not in printed
    assert {run["test_items"] for run in json.loads((tmp_path / "results.json").read_text())["runs"]} == {5}


def test_defaults_are_those_of_the_library(files, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(compare_command, "compare", lambda data, scores, **rest: seen.update(rest) or Comparison([]))
    assert main(["compare", *files, "--out", str(tmp_path)]) == 0
    assert seen["settings"] == RunSettings()
    assert seen["modes"] == ["none", "global", "gated"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--backbone", "deepfn"], "did you mean 'deepfm'"),
        (["--modes", "none,gate"], "mode='gate' is not one of"),
        (["--set", "wieght=1"], "did you mean 'weight'"),
        (["--set", "weight"], "write for instance --set weight=0.2"),
        (["--set", "weight=heavy"], "weight='heavy' is text, but a number is wanted"),
        (["--interactions", "nowhere.csv"], "nowhere.csv"),
        (["--scores", "nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_input_that_cannot_be_used_gives_one_line_and_exit_code_2(files, tmp_path, capsys, arguments, told):
    assert main(["compare", *files, "--out", str(tmp_path / "run"), *arguments]) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.startswith("sllmr: error: ")
    assert told in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seeds", "0"],
        ["--epochs", "x"],
        ["--learning-rate", "-1"],
        ["--dropout", "1"],
        ["--device", "abacus"],
        ["--modes", ","],
        ["--nonsense"],
    ],
)
def test_malformed_arguments_exit_with_2(files, capsys, arguments):
    with pytest.raises(SystemExit) as exit_info:
        main(["compare", *files, "--out", "unused", *arguments])
    assert exit_info.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_interrupting_exits_with_130(files, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_module, "train_and_rank", interrupt)
    assert main(["compare", *files, "--out", str(tmp_path / "run")]) == 130
    assert "the same command takes up" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_own_warnings_are_single_lines_and_others_stay_as_they_are(files, monkeypatch, capsys):
    def warn(*_):
        warnings.warn("the gate has closed", GateCollapsedWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)

    monkeypatch.setattr(coverage_command, "_run", warn)
    with pytest.warns(UserWarning, match="something else"):
        assert main(["coverage", *files]) == 0
    assert capsys.readouterr().err == "sllmr: warning: the gate has closed\n"


def test_table_prints_a_folder_again_in_every_form(files, tmp_path, capsys):
    out = str(tmp_path / "run")
    arguments = ["--modes", "none,global", "--strata", "kind", "--out", out]
    items = tmp_path / "items.csv"
    pd.read_csv(items).assign(kind=["new", "old"] * 7 + ["new"]).to_csv(items, index=False)
    assert main(["compare", *files, *SMALL, *arguments]) == 0
    printed = capsys.readouterr().out
    assert main(["table", out]) == 0
    assert printed.startswith(capsys.readouterr().out)
    assert "\nby kind" in printed
    for form, sign in (("markdown", "| minus none | AUC"), ("latex", r"\begin{tabular}")):
        assert main(["table", out, "--format", form, "--metrics"]) == 0
        text = capsys.readouterr().out
        assert sign in text
        assert "NDCG@10" in text
        assert "logloss" in text
    assert main(["table", out, "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert content["runs"] == sorted(stored["runs"], key=lambda run: run["seed"])
    assert {(s["stratum"], s["label"]) for s in content["strata"]} == {("kind", "new"), ("kind", "old")}


def test_table_of_no_run_folder_and_strata_of_no_column(files, tmp_path, capsys):
    assert main(["table", str(tmp_path)]) == 2
    assert "give the folder of a comparison" in capsys.readouterr().err
    assert main(["compare", *files, *SMALL, "--strata", "colour", "--out", str(tmp_path / "run")]) == 2
    assert "no column 'colour' to take strata from" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_coverage_counts_users_and_items(files, capsys):
    assert main(["coverage", *files]) == 0
    printed = capsys.readouterr().out
    assert "60 scored pairs read, 60 kept" in printed
    assert "users with scores: 10 of 12" in printed


def test_demo_compares_three_modes_and_says_that_it_is_simulated(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_command, "demo_paths", lambda: tuple(files[1::2]))
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert [word for word in ("none", "global", "gated") if f"\n{word} " in printed] == [
        "none",
        "global",
        "gated",
    ]
    assert "simulated" in printed
    assert "Run folder: runs/demo_quick" in printed
    assert printed.endswith("Report: runs/demo_quick/report.html\n")
    assert "Note:</strong> Interactions and LLM scores of the demo are simulated" in (
        tmp_path / "runs" / "demo_quick" / "report.html"
    ).read_text(encoding="utf-8")
    assert len(json.loads((tmp_path / "runs" / "demo_quick" / "results.json").read_text())["runs"]) == 3


def test_demo_writes_its_own_folder_anew_but_never_a_given_one(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_command, "demo_paths", lambda: tuple(files[1::2]))
    monkeypatch.chdir(tmp_path)
    for folder in ([], ["--out", "mine"]):
        assert main(["demo", "--seeds", "1", "--epochs", "1", *folder]) == 0
    assert main(["demo", "--seeds", "1", "--epochs", "2"]) == 0
    assert main(["demo", "--seeds", "1", "--epochs", "2", "--out", "mine"]) == 2
    assert "mine holds runs made with other settings (epochs was 1, now 2)" in capsys.readouterr().err


def test_tune_prints_trials_and_the_command_that_measures_the_chosen_one(files, tmp_path, monkeypatch, capsys):
    def train(data, rows, scores, *, config, **rest):
        return Trained(model=None, epoch=1, auc=0.6 + config.weight / 100 * (config.mode == "gated"), seconds=1.0)

    monkeypatch.setattr(tune_module, "train", train)
    out = tmp_path / "a search"
    arguments = ["--trials", "4", "--epochs", "2", "--dropout", "0.1", "--rank-items", "7", "--backbone", "dcn"]
    assert main(["tune", *files, *arguments, "--set", "gate=fixed", "--set", "loss=hinge", "--out", str(out)]) == 0
    printed, progress = capsys.readouterr()
    assert len(progress.splitlines()) == 4
    assert "dcn, 4 trials" in printed
    chosen = SelectiveConfig.from_yaml(out / "chosen.yaml")
    trials = json.loads((out / "trials.json").read_text())["trials"]
    assert chosen.weight == max(trial["config"]["weight"] for trial in trials)
    assert (chosen.gate, chosen.loss) == ("fixed", "hinge")

    seen = {}
    monkeypatch.setattr(compare_command, "compare", lambda data, scores, **rest: seen.update(rest) or Comparison([]))
    line = next(line for line in printed.splitlines() if line.startswith("  sllmr compare "))
    assert main(shlex.split(line)[1:]) == 0
    assert SelectiveConfig.of_mode("gated", seen["config_overrides"]) == chosen
    assert (seen["modes"], seen["backbone"]) == (["none", "gated"], ["dcn"])
    assert seen["settings"] == RunSettings(epochs=2, dropout=0.1, valid_items=7, test_items=7)


def test_tune_end_to_end_and_again(files, tmp_path, capsys):
    out = tmp_path / "search"
    command = ["tune", *files, *SMALL, "--trials", "3", "--out", str(out)]
    assert main(command) == 0
    first, _ = capsys.readouterr()
    assert "validation AUC, mean ± standard deviation over seeds 0, 1" in first
    assert f"Chosen config: {out / 'chosen.yaml'}" in first
    assert main(command) == 0
    again, progress = capsys.readouterr()
    assert again == first
    assert progress.count("already in") == 3
    assert main([*command, "--epochs", "2"]) == 2
    assert "epochs was 1, now 2" in capsys.readouterr().err


def test_settings_reach_the_search(files, tmp_path, monkeypatch):
    seen = {}

    def tune(data, scores, **rest):
        seen.update(rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_command, "tune", tune)
    assert main(["tune", *files, "--out", str(tmp_path)]) == 130
    assert (seen["n_trials"], seen["seeds"], seen["search_seed"], seen["backbone"]) == (12, 2, 0, "deepfm")
    assert seen["settings"] == RunSettings()
    arguments = ["--trials", "5", "--seeds", "4", "--search-seed", "3", "--backbone", "din", "--valid-users", "9"]
    assert main(["tune", *files, *arguments, "--set", "weight=0.3", "--out", str(tmp_path)]) == 130
    assert (seen["n_trials"], seen["seeds"], seen["search_seed"], seen["backbone"]) == (5, 4, 3, "din")
    assert seen["settings"] == RunSettings(valid_users=9)
    assert seen["config_overrides"] == {"weight": 0.3}


def test_compare_takes_a_config_file_and_set_overrides_it(files, tmp_path, monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(compare_command, "compare", lambda data, scores, **rest: seen.update(rest) or Comparison([]))
    path = tmp_path / "config.yaml"
    SelectiveConfig(gate="joint", weight=0.3, decay=0.5).to_yaml(path)
    command = ["compare", *files, "--out", str(tmp_path / "run"), "--config", str(path)]
    assert main([*command, "--set", "weight=0.4"]) == 0
    assert seen["modes"] == ["none", "joint"]
    assert (seen["config_overrides"]["weight"], seen["config_overrides"]["decay"]) == (0.4, 0.5)
    assert main([*command, "--modes", "gated"]) == 0
    assert seen["modes"] == ["gated"]
    SelectiveConfig(weight=0.0).to_yaml(path)
    capsys.readouterr()
    assert main(command) == 2
    assert "name modes with --modes" in capsys.readouterr().err
    path.write_text("wieght: 1")
    assert main(command) == 2
    assert "did you mean 'weight'" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "nowhere.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["demo"], ["compare"], ["tune"], ["table"], ["report"], ["coverage"]])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([*command, "--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    if command in ([], ["compare"], ["tune"]):
        assert "examples:" in text
        assert "--out runs/" in text


def test_version_and_module_entry_point():
    done = subprocess.run(
        [sys.executable, "-m", "sllmr_plugin", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"sllmr-plugin {__version__}"


# --- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_estimates_from_the_runs_it_made(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: seconds[0])
    stream = io.StringIO()
    progress = RunProgress(5, stream=stream)
    progress.skip("old")
    for name, ends in (("first", 10.0), ("second", 40.0)):
        progress.note("not for files")
        seconds[0] = ends
        progress.finish(name)
    assert stream.getvalue().splitlines() == [
        "[1/5] old",
        "[2/5] first  [00:10<00:30, 10.00s/run]",  # three runs of 10 seconds
        "[3/5] second  [00:40<00:40, 20.00s/run]",  # two of (10 + 30) / 2 seconds
    ]


def test_a_terminal_shows_notes_on_the_bar_and_keeps_the_lines():
    stream = Terminal()
    progress = RunProgress(2, stream=stream)
    progress.note("epoch 1 of 3")
    progress.finish("first: AUC 0.7")
    progress.finish("second: AUC 0.8")
    shown = [part.strip() for part in stream.getvalue().replace("\n", "\r").split("\r")]
    assert "epoch 1 of 3" in next(part for part in shown if part.endswith("epoch 1 of 3]"))
    assert [part for part in shown if part.startswith("[")] == ["[1/2] first: AUC 0.7", "[2/2] second: AUC 0.8"]
    assert shown[-2].startswith("100%")
    assert stream.getvalue().endswith("\n")


def test_quiet_progress_writes_nothing():
    stream = Terminal()
    progress = RunProgress(2, stream=stream, verbose=False)
    progress.skip("w")
    progress.note("x")
    progress.finish("y")
    assert stream.getvalue() == ""
