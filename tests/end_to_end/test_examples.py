"""The examples run as they stand, and the two-line change is two lines."""

import difflib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ..scoring_server import ScoringServer

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_the_change_to_a_plain_script_is_two_lines():
    plain, changed = (
        (EXAMPLES / name).read_text().split('"""', 2)[2].splitlines()
        for name in ("deepfm_plain.py", "deepfm_with_llm.py")
    )
    changes = [line for line in difflib.ndiff(plain, changed) if line[0] in "+-"]
    assert changes == [
        "+ from sllmr_plugin import wrap",
        '+ model = wrap(model, paths.scores, user="user_id", item="item_id", user_index=users, item_index=items)',
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deepfm_plain.py", ["test: {'auc'"]),
        ("two_tower_loss.py", ["epoch 5: {'loss'", "'gate_neither': 0.0"]),
        ("deepfm_with_llm.py", ["test: {'auc'", "sllmr - loss"]),
        (
            "initialise_deepfm.py",
            ["initialised embedding_dict.item_id.weight", "item rows", "test: {'auc'", "sllmr - loss"],
        ),
        ("din_histories.py", ["DIN wrapped: loss ranknet, gate auto", "fitted on probes", "epoch 2: loss"]),
        (
            "kar_texts.py",
            ["4400 texts read", "KAR: test AUC 0.7", "served by DeepFM with", "predicts the same: True"],
        ),
        (
            "synthetic_rows.py",
            ["(checked)", "item to item, nearest 20", "judge: AUC 0.6", "synthetic rows", "refined  "],
        ),
        (
            "own_scores.py",
            [
                "dropped 1: score is missing",
                "dropped 1: user_id not in user_index",
                "epoch 1: plain",
                "'model.pt', 'sllmr/sllmr_config.yaml', 'sllmr/sllmr_gate.safetensors'",
            ],
        ),
    ],
)
def test_example_runs(name, expected, capsys):
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    for text in expected:
        assert text in printed


def test_the_example_for_several_processes_trains_as_one_process_does(capsys):
    script = str(EXAMPLES / "torchrun_deepfm.py")
    runpy.run_path(script, run_name="__main__")
    alone = capsys.readouterr().out
    together = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,  # only ends what would never end
    )
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("test: {'auc'") == 1
    losses = [[float(v) for v in re.findall(r"s - loss: +(\S+)", out)] for out in (alone, together.stdout)]
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)  # printed to four digits


def test_the_fuxictr_example_gains_on_the_bundled_data(monkeypatch, capsys):
    pytest.importorskip("fuxictr")
    monkeypatch.setattr(sys, "argv", ["fuxictr_din.py", "--epochs", "1", "--rank-users", "400"])
    runpy.run_path(str(EXAMPLES / "fuxictr_din.py"), run_name="__main__")
    printed = capsys.readouterr().out
    plain, wrapped = (float(line.split("AUC ")[1][:6]) for line in printed.splitlines() if ": AUC " in line)
    assert wrapped > plain + 0.02
    assert "DIN wrapped: loss ranknet, gate auto" in printed
    assert "fitted on probes" in printed


def test_the_scoring_example_runs_with_a_server_and_asks_it_once(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ScoringServer() as server:
        arguments = ["--base-url", server.base_url, "--users", "10", "--out", str(tmp_path)]
        for _ in range(2):
            monkeypatch.setattr(sys, "argv", ["score_with_local_server.py", *arguments])
            runpy.run_path(str(EXAMPLES / "score_with_local_server.py"), run_name="__main__")
        assert len(server.seen) == 10
    assert "10 taken from the ledger, 0 answers received" in capsys.readouterr().out
    for name in ("llm_scores.parquet", "own_scores.parquet"):
        assert len(pd.read_parquet(tmp_path / name)) >= 10 * 8
