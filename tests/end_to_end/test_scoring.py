"""The whole path on the bundled data without a key: candidates, lexical scores, coverage, comparison."""

import json

import pandas as pd

from sllmr_plugin.cli import main
from sllmr_plugin.datasets.demo import demo_paths
from sllmr_plugin.scores.origin import read_metadata


def test_candidates_lexical_scores_and_a_comparison(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    interactions, items, _ = demo_paths()
    data = ["--interactions", str(interactions), "--items", str(items)]
    candidates, scores = str(tmp_path / "candidates.parquet"), str(tmp_path / "llm_scores.parquet")
    assert main(["candidates", *data, "--users", "400", "--probe-share", "0.5", "--out", candidates]) == 0
    assert main(["score", "--candidates", candidates, *data, "--scorer", "lexical", "--out", scores]) == 0
    assert read_metadata(scores)["scorer"] == "lexical"
    asked, scored = pd.read_parquet(candidates), pd.read_parquet(scores)
    pairs = ["user_id", "item_id", "kind"]
    assert scored[pairs].merge(asked[pairs]).shape[0] == len(scored)
    assert scored["score"].between(0, 1).all()
    assert scored["score"].nunique() > 100
    capsys.readouterr()
    assert main(["coverage", *data, "--scores", scores]) == 0
    assert f"{len(scored)} scored pairs read, {len(scored)} kept (100.0%)" in capsys.readouterr().out

    settings = [
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--eval-users",
        "100",
        "--modes",
        "none,gated",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(["compare", *data, "--scores", scores, *settings]) == 0
    runs = {run["mode"]: run for run in json.loads((tmp_path / "run" / "results.json").read_text())["runs"]}
    assert runs["gated"]["auc"] != runs["none"]["auc"]  # the scores did reach the training


def test_items_without_titles_are_scored_by_their_attributes(tmp_path, capsys):
    pairs = [(f"u{user}", f"i{(user * 3 + step * step) % 12:02d}") for user in range(20) for step in range(5)]
    pd.DataFrame(pairs, columns=["user_id", "item_id"]).to_csv(tmp_path / "interactions.csv", index=False)
    items = pd.DataFrame({"item_id": [f"i{item:02d}" for item in range(12)]})
    items["attributes"] = [f"a{item % 3} a{item}{item}" for item in range(12)]
    items.to_csv(tmp_path / "items.csv", index=False)
    data = ["--interactions", str(tmp_path / "interactions.csv"), "--items", str(tmp_path / "items.csv")]
    candidates, scores = str(tmp_path / "candidates.parquet"), str(tmp_path / "llm_scores.parquet")
    assert main(["candidates", *data, "--per-user", "4", "--out", candidates]) == 0
    asked = ["score", "--candidates", candidates, *data, "--out", scores, "--scorer"]
    assert main([*asked, "lexical"]) == 2
    assert "the items have no titles" in capsys.readouterr().err
    assert main([*asked, "attributes"]) == 0
    assert read_metadata(scores)["scorer"] == "attributes"
    # Of the five steps the last two are held out, so every history has a0 and a1 and none has a2.
    scored = pd.read_parquet(scores)
    shares = scored["item_id"].str[1:].astype(int) % 3 != 2
    assert ((scored["score"] > 0) == shares).all()
    assert 0 < shares.sum() < len(scored)
