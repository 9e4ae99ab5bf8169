"""`sllmr train`: trains what was composed, keeps the file that repeats it, and says plainly what is wrong."""

import hashlib
import json

import pandas as pd
import pytest

from sllmr_plugin.cli import main
from sllmr_plugin.datasets.demo import demo_paths, load_demo
from sllmr_plugin.errors import ConfigError
from sllmr_plugin.evaluation import compare as compare_module
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.comparison import Comparison
from sllmr_plugin.evaluation.modes import Start
from sllmr_plugin.evaluation.training import RunSettings
from sllmr_plugin.experiments.card import model_card
from sllmr_plugin.experiments.experiment import compose
from sllmr_plugin.experiments.files import Setting
from sllmr_plugin.experiments.running import FILE, train_experiment

TINY = [
    *("--setting", "quick"),
    *("-o", "training.epochs=1", "-o", "training.embedding_dim=4", "-o", "training.batch_size=512"),
    *("-o", "training.test_users=60", "-o", "training.valid_users=60", "-o", "model.arguments.dnn_hidden_units=[8]"),
]
DEEPFM = ["train", "--model", "deepfm", "--data", "demo", *TINY]


def results(folder):
    return json.loads((folder / "results.json").read_text())["runs"]


def without_times(folder):
    return [{key: value for key, value in run.items() if key != "seconds"} for run in results(folder)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of one training with its plain model beside it."""
    out = tmp_path_factory.mktemp("train") / "first"
    assert main([*DEEPFM, "--out", str(out), "--with-plain", "-o", "config.weight=0.5"]) == 0
    return out


def test_a_training_is_a_comparison_of_one_mode(trained, tmp_path):
    data, scores = load_demo()
    settings = RunSettings.quick(
        epochs=1,
        embedding_dim=4,
        batch_size=512,
        test_users=60,
        valid_users=60,
        model_arguments={"dnn_hidden_units": [8]},
    )
    compare(
        data,
        scores,
        out=tmp_path,
        modes=["none", "gated"],
        seeds=1,
        settings=settings,
        config_overrides={"weight": 0.5},
        verbose=False,
    )
    assert without_times(trained) == without_times(tmp_path)
    assert json.loads((trained / "settings.json").read_text())["model_arguments"] == {"dnn_hidden_units": [8]}


def test_the_kept_file_alone_repeats_the_runs_bit_for_bit(trained, tmp_path, capsys):
    assert main(["train", "--config", str(trained / "experiment.yaml"), "--out", str(tmp_path / "again")]) == 0
    assert without_times(tmp_path / "again") == without_times(trained)
    for ranking in (trained / "rankings").iterdir():
        pd.testing.assert_frame_equal(
            pd.read_parquet(ranking), pd.read_parquet(tmp_path / "again" / "rankings" / ranking.name), check_exact=True
        )
    assert (tmp_path / "again" / "experiment.yaml").read_text() == (trained / "experiment.yaml").read_text()
    assert main(["train", "--config", str(trained / "experiment.yaml"), "--out", str(trained)]) == 0
    assert "already in" in capsys.readouterr().err


def test_the_lines_say_what_the_results_say(trained, capsys):
    assert main(["train", "--config", str(trained / "experiment.yaml"), "--out", str(trained)]) == 0
    lines = capsys.readouterr().out.splitlines()
    plain, gated = results(trained)
    name = compose(config=trained / "experiment.yaml").name
    assert lines[0].startswith(
        f"[{name}] none | seeds 0 | valid AUC {plain['epochs'][0]['valid_auc']:.4f} | test (full"
    )
    assert f"60) AUC {gated['auc']:.4f}  cold {gated['auc_cold']:.4f}  tail {gated['auc_tail']:.4f} |" in lines[1]
    assert lines[2].startswith(f"[{name}] gated minus none | AUC {gated['auc'] - plain['auc']:+.4f} [")
    assert f"Run folder: {trained}" in "\n".join(lines)


def test_the_card_says_what_was_trained_and_how_good_it_is(trained):
    card = (trained / "card.md").read_text()
    plain, gated = results(trained)
    assert [line for line in card.splitlines() if line.startswith("#")] == [
        f"# {compose(config=trained / 'experiment.yaml').name}",
        *(f"## {head}" for head in ("Model", "Data", "Training", "Evaluation", "Limits", "Again")),
    ]
    assert "`deepfm` (" in card
    assert "Mode `gated`: LLM pairs while training: loss ranknet, gate auto." in card
    assert "nothing of a language model is asked or looked up" in card
    assert "2,000 users (800 of them cold)" in card
    assert "14,000 pairs of 700 users, 250 probes. Interactions and LLM scores of the demo are simulated" in card
    assert "Up to 1 epochs, batches of 512" in card
    for run in (plain, gated):
        assert f"| {run['mode']} | {run['auc']:.4f} | {run['auc_cold']:.4f} | {run['auc_tail']:.4f} |" in card
    assert "scored 35% of the users" in card


def test_the_card_of_an_adaptor_says_what_has_to_be_served():
    experiment = compose(model="deepfm", data="demo", assignments=["run.mode=kar"])
    inputs = {
        "interactions": dict.fromkeys(("users", "items", "train", "validation", "test", "cold_users", "tail_items"), 7),
        "texts": {"n_items": 5, "n_users": 6},
    }
    card = model_card(experiment, Comparison([]), inputs)
    assert "Serving needs the inputs of kar beside the backbone's own." in card
    assert "Texts of 5 items and 6 users." in card
    assert "Scores" not in card
    looked_up = model_card(compose(model="deepfm", data="demo", assignments=["run.mode=sid"]), Comparison([]), inputs)
    assert "Serving needs the inputs of sid" in looked_up


def test_seeds_add_up_in_a_folder_of_the_experiments_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in (["--seed", "4"], ["--seeds", "2"]):
        assert main([*DEEPFM, "-o", "run.mode=none", *arguments]) == 0
    (folder,) = (tmp_path / "runs" / "train").iterdir()
    assert folder.name.startswith("demo-deepfm-none-")
    assert sorted(run["seed"] for run in results(folder)) == [0, 1, 4]
    kept = compose(config=folder / "experiment.yaml")
    assert (kept.run.seeds, kept.run.with_plain) == ((0, 1, 4), False)
    assert "scores" not in kept.data.sha256
    assert "seeds 0,1 | " in capsys.readouterr().out


def test_a_folder_holds_one_experiment(trained, tmp_path, capsys):
    kept = (trained / "experiment.yaml").read_text()
    assert main([*DEEPFM, "--out", str(trained), "-o", "config.weight=0.7"]) == 2
    assert "holds another experiment (config.weight was 0.5, now 0.7)" in capsys.readouterr().err
    assert (trained / "experiment.yaml").read_text() == kept
    (tmp_path / "results.json").write_text("{}")
    assert main([*DEEPFM, "--out", str(tmp_path)]) == 2
    assert "holds runs, but no experiment.yaml" in capsys.readouterr().err


def test_a_folder_refuses_other_data_and_stays_as_it_was(tmp_path, capsys):
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    pairs = pd.DataFrame([(u, (u + s) % 12) for u in range(12) for s in range(5)], columns=["user_id", "item_id"])
    pairs.to_csv(folder / "interactions.csv", index=False)
    (tmp_path / "mine.yaml").write_text("data: {name: mine, items: null}\nrun: {mode: none}\n")
    command = ["train", "--model", "dcn", "--data", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "run")]
    command += [*TINY, "--data-dir", str(tmp_path / "data")]
    assert main(command) == 0
    kept = (tmp_path / "run" / "experiment.yaml").read_text()
    again = ["train", "--config", str(tmp_path / "run" / "experiment.yaml"), "--out", str(tmp_path / "again")]
    pairs.iloc[:-1].to_csv(folder / "interactions.csv", index=False)
    capsys.readouterr()
    assert main(command) == 2
    assert "holds runs made with other interactions, by the fingerprints" in capsys.readouterr().err
    assert (tmp_path / "run" / "experiment.yaml").read_text() == kept
    assert main(again) == 2
    assert "is not the file that data.sha256.interactions was taken of" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "deepfn", "--data", "demo"], "did you mean 'deepfm'"),
        (["--model", "deepfm", "--data", "dmo"], "did you mean 'demo'"),
        (["--model", "deepfm"], "no data set is named"),
        ([*DEEPFM[1:], "-o", "config.wieght=1"], "did you mean 'config.weight'"),
        ([*DEEPFM[1:], "-o", 'training.batch_size="128"'], "write 128 without quotes"),
        ([*DEEPFM[1:], "-o", "training.device=abacus"], "training.device='abacus' cannot be used here"),
        ([*DEEPFM[1:], "-o", "model.arguments.dnn_activation=relux"], "DeepFM cannot be built with"),
        ([*DEEPFM[1:], "--data-dir", "nowhere"], "--data-dir nowhere: no such folder"),
        (
            ["--model", "deepfm", "--data", "amazon_toys", "--data-dir", "."],
            "sllmr prepare amazon2014 --reviews reviews_Toys",
        ),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_input_that_cannot_be_used_gives_a_line_and_exit_code_2(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    printed, said = capsys.readouterr()
    assert said.startswith("sllmr: error: ")
    assert told in said
    assert printed == ""


def test_nothing_is_trained_to_list_or_show(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(compare_module, "train_and_rank", lambda *_, **__: pytest.fail("trained"))
    assert main(["train", "--list"]) == 0
    assert "amazon_beauty" in capsys.readouterr().out
    assert main([*DEEPFM, "--seeds", "2", "--show"]) == 0
    shown = capsys.readouterr().out
    assert "seeds: [0, 1]" in shown
    (tmp_path / "shown.yaml").write_text(shown)
    assert compose(config=tmp_path / "shown.yaml").training.model_arguments == {"dnn_hidden_units": (8,)}


def test_a_backbone_by_name_trains_from_python(tmp_path):
    assignments = [word for word in TINY if word.startswith("training.")]
    experiment = compose(model="fibinet", data="demo", assignments=[*assignments, "run.mode=none"])
    (run,) = train_experiment(experiment, tmp_path, verbose=False)
    assert (run.backbone, run.mode, run.seed, run.n_test) == ("fibinet", "none", 0, 60)


def test_an_experiment_starts_from_titles_as_a_comparison_does(tmp_path, capsys):
    start = ["-o", "run.mode=init+gated", "-o", "start.source=titles", "-o", "start.scale=0.2"]
    assert main([*DEEPFM, *start, "--with-plain", "--out", str(tmp_path / "train")]) == 0
    assert "init+gated minus none |" in capsys.readouterr().out
    data, scores = load_demo()
    sizes = {"epochs": 1, "embedding_dim": 4, "batch_size": 512, "test_users": 60, "valid_users": 60}
    compare(
        data,
        scores,
        out=tmp_path / "compare",
        modes=["none", "init+gated"],
        seeds=1,
        settings=RunSettings.quick(**sizes, model_arguments={"dnn_hidden_units": [8]}),
        start=Start.read("titles", demo_paths().items, scale=0.2),
        verbose=False,
    )
    assert without_times(tmp_path / "train") == without_times(tmp_path / "compare")
    missing = ["-o", "start.source=texts", "-o", "data.texts=null", "--out", str(tmp_path / "none")]
    assert main([*DEEPFM, *start, *missing]) == 2
    assert "data.texts is null" in capsys.readouterr().err


def test_what_embeddings_start_from_is_part_of_the_experiment_where_they_do():
    of_file = {"start.scale": Setting(0.1, "a file")}
    plain, gated = (compose(model="deepfm", data="demo", overrides=given) for given in ({}, of_file))
    assert gated.identity() == plain.identity()
    for mode, key, value in (
        ("gated", "scale", 0.1),
        ("gated", "source", "titles"),
        ("align", "scale", 0.1),
        ("embed", "method", "svd"),
    ):
        with pytest.raises(ConfigError, match=f"{key} .*(not by {mode}|and {mode} does not)"):
            compose(model="deepfm", data="demo", assignments=[f"run.mode={mode}", f"start.{key}={value}"])
    keys = ["run.mode=init", "start.source=titles"]
    small, large = (compose(model="deepfm", data="demo", assignments=[*keys, f"start.scale={x}"]) for x in (0.1, 0.2))
    assert small.name != large.name
    assert (small.reads, small.modes) == ((), ["init"])
    both = compose(model="deepfm", data="video_games", assignments=["run.mode=init+kar+joint"])
    assert (both.reads, both.config.gate) == (("texts", "scores"), "joint")


def test_vectors_of_a_file_are_the_same_file_when_an_experiment_is_repeated(tmp_path, capsys):
    items = pd.read_csv(demo_paths().items)["item_id"]
    file = tmp_path / "vectors.parquet"
    pd.DataFrame({"item_id": items, "a": range(len(items)), "b": 1.0}).to_parquet(file)
    out = tmp_path / "first"
    assert main([*DEEPFM, "-o", "run.mode=init", "-o", f"start.source={file}", "--out", str(out)]) == 0
    assert hashlib.sha256(file.read_bytes()).hexdigest() in (out / FILE).read_text()
    again = ["train", "--config", str(out / FILE), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    assert without_times(tmp_path / "again") == without_times(out)
    pd.DataFrame({"item_id": items, "a": 1.0, "b": range(len(items))}).to_parquet(file)
    capsys.readouterr()
    assert main(again) == 2
    assert "not the file that start.sha256 was taken of" in capsys.readouterr().err
    assert main([*DEEPFM, "-o", "run.mode=init", "-o", f"start.source={file}", "--out", str(out)]) == 2
    assert f"runs made with other {file}" in capsys.readouterr().err
