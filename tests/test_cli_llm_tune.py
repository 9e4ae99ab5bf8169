"""`sllmr llm-tune` on a model of two layers, step after step; and its help."""

import sys

import pandas as pd
import pytest

from sllmr_plugin.cli import main
from sllmr_plugin.llm_tuning.runs import TuningRun

from . import tiny_llm

STEPS = ("reclm-sft", "reclm-reward", "reclm-policy", "curec-align", "curec-correct")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Interactions, catalogue and profiles as files, and the options that name them."""
    folder = tmp_path_factory.mktemp("data")
    data = tiny_llm.interactions()
    rows = pd.concat([getattr(data, split).assign(split=split) for split in ("train", "valid", "test")])
    pd.DataFrame(
        {
            "user_id": data.user_ids[rows["user"] - 1],
            "item_id": data.item_ids[rows["item"] - 1],
            "split": rows["split"],
        }
    ).to_csv(folder / "clicks.csv", index=False)
    pd.DataFrame({"item_id": data.item_ids, "title": data.titles, "maker": "Acme"}).to_csv(
        folder / "items.csv", index=False
    )
    known = tiny_llm.profiles()
    pd.DataFrame({"kind": "user_profile", "id": list(known), "text": list(known.values())}).to_csv(
        folder / "texts.csv", index=False
    )
    return folder


@pytest.mark.parametrize("step", STEPS)
def test_the_help_of_every_step_names_what_it_needs(step, capsys):
    with pytest.raises(SystemExit, match="^0$"):
        main(["llm-tune", step, "--help"])
    told = capsys.readouterr().out
    assert all(flag in told for flag in ("--model", "--interactions", "--out", "--learning-rate", "--all-linear"))
    assert ("--texts" in told) == (step.startswith("reclm") or step == "curec-correct")
    assert ("--group" in told) == (step in ("reclm-policy", "curec-align", "curec-correct"))
    assert ("--recommender" in told) == (step == "curec-correct")
    assert ("--epochs" in told) == (step != "curec-correct")  # time goes by once


def test_without_the_libraries_nothing_is_read_and_the_remedy_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    data = ["--interactions", "none.csv", "--items", "none.csv", "--out", str(tmp_path / "run")]
    for step in STEPS:
        more = ["--texts", "none.csv"] if step.startswith("reclm") else []
        more += ["--reward", "none"] if step == "reclm-policy" else []
        more += ["--texts", "none.csv", "--recommender", "none"] if step == "curec-correct" else []
        assert main(["llm-tune", step, "--model", "none", *data, *more]) == 2
        assert "pip install 'sllmr-plugin[llm]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("always:in none of")
def test_the_steps_follow_each_other(files, tmp_path, capsys):
    words = "Target user took oldest first Similar identity interests Write profile form think answer " * 2
    titles = pd.read_csv(files / "items.csv")["title"].tolist()
    model = tiny_llm.save_model(tmp_path / "tiny", [words, "1 2 3 . ; ,", *titles, *tiny_llm.profiles().values()])
    data = ["--model", model, "--interactions", str(files / "clicks.csv"), "--items", str(files / "items.csv")]
    texts = ["--texts", str(files / "texts.csv"), "--neighbours", "2", "--users", "6", "--history-length", "3"]
    brief = ["--epochs", "1", "--group", "2", "--max-new-tokens", "4"]

    def run(step, out, *options):
        assert main(["llm-tune", step, *data, "--out", str(tmp_path / out), *options]) == 0
        told = "".join(capsys.readouterr())
        assert f"LoRA weights: {tmp_path / out / 'adapter'}" in told
        assert (tmp_path / out / "adapter" / "adapter_model.safetensors").exists()
        return told

    sft = run("reclm-sft", "sft", *texts, "--epochs", "2", "--attributes", "maker")
    assert "6 conversations, 3 about an item that the user took" in sft
    assert "loss of 2 steps" in sft
    assert "6 pairs of profiles" in run("reclm-reward", "reward", *texts, "--epochs", "1", "--held-out", "0.5")
    adapters = ["--adapter", str(tmp_path / "sft/adapter"), "--reward", str(tmp_path / "reward/adapter")]
    assert "6 questions, rewarded by reward model" in run("reclm-policy", "policy", *texts, *brief, *adapters)
    lines = TuningRun.read(tmp_path / "policy")
    assert len(lines) == 2
    assert lines[0]["kl"] == 0  # near the model that the adapter makes
    aligned = run("curec-align", "aligned", *brief, "--tasks", "8", "--negatives", "3")
    assert "8 questions, rewarded by form" in aligned
    assert "warning: in none of 2 steps one answer was worth more" in aligned  # four tokens have no form
    # the same command again has nothing left to do; another number of epochs is another tuning
    before = (tmp_path / "policy" / "metrics.jsonl").read_bytes()
    run("reclm-policy", "policy", *texts, *brief, *adapters)
    assert (tmp_path / "policy" / "metrics.jsonl").read_bytes() == before
    assert main(["llm-tune", "curec-align", *data, "--out", str(tmp_path / "aligned"), "--tasks", "8"]) == 2
    assert "holds a tuning with other settings" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::sllmr_plugin.CoverageWarning", "always:in none of")
def test_the_correction_takes_the_recommender_that_explains(files, tmp_path, capsys):
    """As it was trained, whatever its flags were; and refuses a folder that keeps none, or one of other texts."""
    clicks = pd.read_csv(files / "clicks.csv")
    train = clicks[clicks["split"] == "train"]
    reasons = [("reason", user, f"likes {item}", item, 1) for user, item, _ in train.itertuples(index=False)]
    patterns = [("pattern", user, f"looks for {user}", None, None) for user in train["user_id"].unique()]
    frame = pd.DataFrame([*reasons, *patterns], columns=["kind", "id", "text", "item_id", "label"])
    frame.to_parquet(tmp_path / "reasons.parquet")
    frame.assign(text=frame["text"] + " greatly").to_parquet(tmp_path / "others.parquet")
    words = " ".join((*tiny_llm.TOPICS, *tiny_llm.KINDS))
    data = ["--interactions", str(files / "clicks.csv"), "--items", str(files / "items.csv")]
    texts = ["--texts", str(tmp_path / "reasons.parquet")]
    command = ["llm-tune", "curec-correct", "--model", tiny_llm.save_model(tmp_path / "tiny", [words]), *data]
    command += [
        "--recommender",
        str(tmp_path / "kept"),
        "--group",
        "2",
        "--max-new-tokens",
        "12",
        "--attributes",
        "maker",
    ]
    run = [*command, *texts, "--out", str(tmp_path / "run"), "--most", "3"]
    assert main(run) == 2
    assert "keeps no model" in capsys.readouterr().err
    sizes = ["--quick", "--epochs", "1", "--embedding-dim", "4", "--backbone", "wdl", "--seed", "3"]
    assert main(["explain", *data, *texts, *sizes, "--user", "u00", "--out", str(tmp_path / "kept")]) == 0
    capsys.readouterr()
    assert main(run) == 0
    told = capsys.readouterr()
    assert "training" not in told.err
    assert "reward of 3 steps" in told.out
    assert f"text table: {tmp_path / 'run' / 'corrected.parquet'}" in told.out
    back = pd.read_parquet(tmp_path / "run" / "corrected.parquet")
    assert len(back) == len(frame)
    assert (back["version"] == 1).any()
    assert back.loc[(back["kind"] == "reason") & (back["version"] == 1), "reward"].between(0, 1).all()
    assert main([*command, "--texts", str(tmp_path / "others.parquet"), "--out", str(tmp_path / "other")]) == 2
    assert "keeps another model" in capsys.readouterr().err
