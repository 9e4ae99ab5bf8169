"""The engine ray against the local one, on two workers of this machine; workers, a driver and a task are killed."""

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin import wrap
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.demo import load_demo
from sllmr_plugin.errors import EngineError, EvaluationError
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.parallel.engine import RayEngine
from sllmr_plugin.scoring.candidates import CandidateSettings, draw_candidates
from sllmr_plugin.scoring.ledger import Ledger, PartitionFiles, merge_partitions
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.ray import BatchStages, score_in_rounds
from sllmr_plugin.zoo.deepctr import build_model

from ..scoring_server import ScoringServer
from ..test_ledger import ANSWER
from ..test_ray_llm import generate
from ..test_scoring_run import requests, truth
from .test_kill import committed, keys_of

ray = pytest.importorskip("ray", reason="the engine ray needs sllmr-plugin[ray]")

KEY = "sk-test-SECRETKEY-0123456789"
CONCURRENCY = 4
N_USERS = 120
N_KILLS = 2  # of workers, and one of the process that commands them


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs of this machine; the workers inherit the key from this environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("OPENAI_API_KEY", KEY), ("RAY_USAGE_STATS_ENABLED", "0")):
            patch.setenv(name, value)
        patch.delenv("OPENAI_BASE_URL", raising=False)
        context = ray.init(
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        yield context
        ray.shutdown()


@pytest.fixture
def files(tmp_path):
    """Interactions, items and candidates; the arguments of `sllmr score` that name them."""
    draw = np.random.default_rng(7)
    pairs = [(user, int(item)) for user in range(N_USERS) for item in draw.permutation(40)[:4]]
    pd.DataFrame(pairs, columns=["user_id", "item_id"]).to_csv(tmp_path / "clicks.csv", index=False)
    titles = pd.DataFrame({"item_id": range(40), "title": [f"Thing {k}" for k in range(40)]})
    titles.to_csv(tmp_path / "items.csv", index=False)
    data = ["--interactions", str(tmp_path / "clicks.csv"), "--items", str(tmp_path / "items.csv")]
    assert main(["candidates", *data, "--per-user", "5", "--out", str(tmp_path / "c.parquet")]) == 0
    return ["--candidates", str(tmp_path / "c.parquet"), *data]


def score(files, tmp_path, name, server, *more):
    out = ["--out", str(tmp_path / f"{name}.parquet"), "--concurrency", str(CONCURRENCY)]
    return ["score", *files, "--model", "tiny", "--base-url", server.base_url, *out, *more]


# --- the same results


def test_rankings_and_candidates_are_those_of_the_local_engine(cluster):
    data, scores = load_demo()
    model = build_model("deepfm", data, embedding_dim=4)
    wrapped = wrap(
        build_model("deepfm", data, embedding_dim=4, seed=1),
        scores,
        user="user_id",
        item="item_id",
        user_index=data.user_index,
        item_index=data.item_index,
    )
    wrapped.compile("adam", "binary_crossentropy")
    with RayEngine(workers=2) as engine:
        for one, options in ((model, {"users": 150}), (wrapped, {"users": 150, "n_items": 20, "split": "valid"})):
            here = full_ranking(one, data, **options, verbose=False)
            there = full_ranking(one, data, **options, verbose=False, engine=engine)
            pd.testing.assert_frame_equal(there, here, check_exact=True)  # one thread here and there
        assert wrapped.sllmr is not None
        settings = CandidateSettings(per_user=12, seed=3)
        here, there = (
            draw_candidates(data, **asdict(settings)),
            draw_candidates(data, **asdict(settings), engine=engine),
        )
        pd.testing.assert_frame_equal(there.frame, here.frame)
        assert there.summary == here.summary
    assert ray.is_initialized()  # the cluster was there before


def kill_once(marker, shard):
    """Die with the first shard that comes, the first time."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return shard * shard
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(_, shard):
    if shard == 3:
        raise EvaluationError("shard 3 cannot be ranked. Leave it out.")
    if shard == 5:
        raise KeyError("no such thing")
    return shard


def test_a_shard_whose_worker_dies_is_done_again_and_errors_come_back_typed(cluster, tmp_path):
    engine = RayEngine(workers=2)
    found = list(engine.map(kill_once, tmp_path / "killed", range(9)))
    assert (tmp_path / "killed").exists()
    assert found == [(k, k * k) for k in range(9)]
    with pytest.raises(EvaluationError, match=r"^shard 3 cannot be ranked\. Leave it out\.$"):
        list(engine.map(refuse, None, range(5)))
    with pytest.raises(EngineError, match="KeyError"):
        list(engine.map(refuse, None, range(5, 7)))
    with pytest.raises(EngineError, match="2 CPUs, too few for 3 workers"):
        RayEngine(workers=3)


def test_a_comparison_on_ray_has_the_same_figures(cluster, tmp_path):
    draw = np.random.default_rng(1)
    rows = [(user, int(item)) for user in range(60) for item in draw.permutation(30)[:5]]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    frame.to_csv(tmp_path / "clicks.csv", index=False)
    frame.assign(item_id=29 - frame["item_id"], score=0.5).drop_duplicates().to_csv(tmp_path / "s.csv", index=False)
    data = ["--interactions", str(tmp_path / "clicks.csv"), "--scores", str(tmp_path / "s.csv")]
    figures = []
    for engine in ("local", "ray"):
        out = tmp_path / engine
        sizes = ["--modes", "none", "--seeds", "1", "--epochs", "1", "--embedding-dim", "4", "--out", str(out)]
        assert main(["compare", *data, *sizes, "--engine", engine]) == 0
        (run,) = json.loads((out / "results.json").read_text())["runs"]
        figures.append({name: value for name, value in run.items() if name != "seconds"})
    assert figures[0] == figures[1]
    assert 0 < figures[0]["auc"] < 1


def test_lexical_scores_are_those_of_the_local_engine(cluster, files, tmp_path):
    for engine in ("local", "ray"):
        out = ["--scorer", "lexical", "--out", str(tmp_path / f"{engine}.parquet"), "--engine", engine]
        assert main(["score", *files, *out]) == 0
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "ray.parquet"), pd.read_parquet(tmp_path / "local.parquet")
    )


def test_the_stages_of_the_vllm_example_run_on_ray_data(cluster, tmp_path):
    """With a stand-in for the engine between them; the engine's real configuration is built, and not started."""
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "score_with_ray_vllm.py"))
    config = example["engine_config"]("some/model", 2)
    assert (config.model_source, config.concurrency) == ("some/model", 2)
    asked, stages = [*requests(6, 3), *requests(9)[6:]], BatchStages(Questions("tiny"))

    def process(rows):
        return ray.data.from_items(rows).map(stages.preprocess).map(generate).map(stages.postprocess).iter_rows()

    with Ledger(tmp_path / "a.sqlite") as ledger:
        assert score_in_rounds(asked, stages, ledger, process) == 9
        found = {request.user_id: one.scores for request, one in stages.questions.stored_answers(asked, ledger)}
    assert found == truth(asked)


# --- partitions of another machine


def test_answers_left_on_a_machine_are_taken_over_once(cluster, tmp_path):
    with Ledger(tmp_path / "there.parts" / "3.sqlite") as left:
        left.record(ANSWER).result()
    reader = ray.remote(num_cpus=0)(PartitionFiles).remote(tmp_path / "there.parts")
    from sllmr_plugin.scoring.ray import RemotePartitions

    with Ledger(tmp_path / "main.sqlite") as ledger:
        ledger.mark_sent(ANSWER.key, "ann", 0.5)[1].result()  # sent by a process that was killed
        remote = RemotePartitions(RayEngine(workers=1), reader)
        assert merge_partitions(ledger, remote) == 1
        assert ledger.get(ANSWER.key) == ANSWER
        assert ledger.spent() == ANSWER.cost  # and not what the request might have cost
        assert merge_partitions(ledger, remote) == 0
    assert not (tmp_path / "there.parts").exists()


# --- kills


def holders(path):
    """Ids of the processes that have a file open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.path.realpath(link) == str(path) for link in folder.iterdir()):
                found.append(int(folder.parent.name))
        except OSError:  # gone meanwhile
            continue
    return found


def received(ledger):
    """Keys of all answers that the client side has on disk."""
    return committed(ledger).union(*(committed(part) for part in Path(f"{ledger}.parts").glob("*.sqlite")))


def wait_for(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the workers through /proc")
def test_kills_lose_nothing_and_the_table_is_that_of_a_quiet_local_run(cluster, files, tmp_path, monkeypatch, capsys):
    rng = random.Random(7)
    ledger = tmp_path / "killed.ledger.sqlite"
    environment = {**os.environ, "RAY_ADDRESS": cluster.address_info["gcs_address"], "OMP_NUM_THREADS": "1"}
    monkeypatch.setattr("sllmr_plugin.scoring.runner.backoff", lambda failures, retry_after=None: retry_after or 0.01)

    # Every ninth answer cannot be used, so kills fall into conversations as well.
    def plan(number, body):
        return "garbage" if number % 9 == 8 and len(body["messages"]) == 2 else None

    kills = []  # at each: how much the server had seen, and what was on disk

    def kill(process):
        os.kill(process, signal.SIGKILL)
        time.sleep(0.1)  # what the server was at when its client died
        kills.append((len(server.seen), received(ledger)))

    with ScoringServer(plan, latency=0.05) as server:
        arguments = score(files, tmp_path, "killed", server, "--engine", "ray", "--workers", "2")
        # Ctrl-C, to all of the terminal's processes
        command = [sys.executable, "-m", "sllmr_plugin", *arguments]
        driver = subprocess.Popen([*command[:-1], "1"], env=environment, start_new_session=True, stderr=-1)
        wait_for(lambda: len(server.seen) > 10)
        os.killpg(driver.pid, signal.SIGINT)
        said = driver.communicate(timeout=600)[1].decode()
        assert driver.returncode == 130, said
        assert "Traceback" not in said
        assert set(keys_of(server.seen)) == committed(ledger)
        assert not Path(f"{ledger}.parts").exists()

        # kill -9 of the process that commands the workers
        seen = len(server.seen)
        driver = subprocess.Popen(command, env=environment, stderr=-1)
        wait_for(lambda: len(server.seen) > seen + 20)
        kill(driver.pid)
        driver.communicate()
        time.sleep(0.5)
        kills[-1] = len(server.seen), received(ledger)  # its workers were at work a moment longer
        assert Path(f"{ledger}.parts").exists()

        def kill_worker(part, n_seen):
            wait_for(lambda: len(server.seen) >= n_seen and set(holders(part)) - {os.getpid()})
            kill((set(holders(part)) - {os.getpid()}).pop())

        def kill_workers():
            for number in range(N_KILLS):
                kill_worker(Path(f"{ledger}.parts") / f"{number}.sqlite", len(server.seen) + rng.randint(5, 15))

        killer = threading.Thread(target=kill_workers)
        killer.start()
        assert main(arguments) == 0
        killer.join(60)
        assert len(kills) == 1 + N_KILLS
        asked = keys_of(server.seen)
        for n_seen, known in kills:
            assert not set(asked[n_seen:]) & known, "an answer that was there has been asked for again"
        assert set(asked) == committed(ledger)
        assert len(asked) - len(set(asked)) <= CONCURRENCY * len(kills)
        assert not Path(f"{ledger}.parts").exists()
        assert "Traceback" not in capsys.readouterr().err

    with ScoringServer() as server:  # another server, which never gives garbage: same scores
        assert main(score(files, tmp_path, "quiet", server)) == 0
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "killed.parquet"), pd.read_parquet(tmp_path / "quiet.parquet")
    )


# --- money and secrets


@pytest.mark.filterwarnings("default::sllmr_plugin.errors.IncompleteWarning")
def test_the_cost_is_capped_over_all_workers_and_no_key_is_written(cluster, files, tmp_path, capsys):
    (tmp_path / "prices.yaml").write_text("models:\n  tiny: {prompt: 1000, completion: 1000}\n")
    money = ["--prices", str(tmp_path / "prices.yaml"), "--max-cost", "30", "--engine", "ray"]
    treatment = []
    with ScoringServer(lambda number, body: treatment[-1] if treatment else None) as server:
        assert main(score(files, tmp_path, "capped", server, *money)) == 0
        n_asked = len(server.seen)
        with Ledger(tmp_path / "capped.ledger.sqlite") as ledger:
            spent = ledger.spent()
        assert 30 * 0.8 < spent <= 30
        assert len(server.answered) == n_asked < N_USERS
        assert "stopped at --max-cost" in capsys.readouterr().out
        treatment.append("401")  # and the server repeats the key in what it says
        assert main(score(files, tmp_path, "refused", server, "--engine", "ray", "--workers", "1")) == 2
        assert len(server.seen) == n_asked + 1  # the first request goes alone
        assert server.seen[-1].headers["Authorization"] == f"Bearer {KEY}"
    said = capsys.readouterr()
    assert "server answered 401" in said.err
    written = said.out + said.err
    session = Path(cluster.address_info["session_dir"])
    looked_at = [path for folder in (session, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name.startswith("worker-") for path in looked_at)
    assert any(path.name.endswith(".sqlite") for path in looked_at)
    for path in looked_at:
        assert b"SECRETKEY" not in path.read_bytes(), path
    assert "SECRETKEY" not in written
