"""What can be tested without Ray: how work is cut, models are taken apart, and partitions get into a ledger."""

import builtins
import doctest
import logging
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin import wrap
from sllmr_plugin.backends.broadcast import broadcast
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.demo import demo_paths, load_demo
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import EngineError, EvaluationError, LedgerError
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.parallel import engine as module
from sllmr_plugin.parallel.engine import cut
from sllmr_plugin.scoring import candidates
from sllmr_plugin.scoring.candidates import CandidateSettings, draw_candidates, read_categories
from sllmr_plugin.scoring.client import OpenAIClient
from sllmr_plugin.scoring.ledger import Ledger, PartitionFiles, merge_partitions, partition_folder, take_over
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.run import run
from sllmr_plugin.scoring.scorers import spread_scorer
from sllmr_plugin.zoo.deepctr import build_model, input_rows

from .evaluation_cases import TableModel, catalogue, interactions
from .scoring_server import ScoringServer
from .test_ledger import ANSWER
from .test_scoring_run import requests


class Pickling:
    """An engine of this process, which sends everything through pickle as a real one does."""

    def __init__(self, workers):
        self.workers = workers
        self.n_shards = 0

    def map(self, function, shared, shards):
        shared = pickle.dumps(shared)
        for shard in shards:
            self.n_shards += 1
            yield shard, pickle.loads(pickle.dumps(function(pickle.loads(shared), pickle.loads(pickle.dumps(shard)))))


@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
def test_slices_cover_everything_once_and_begin_at_multiples(n, workers, multiple, at_least):
    parts = list(cut(n, workers, multiple=multiple, at_least=at_least))
    assert [k for part in parts for k in range(part.start, part.stop)] == list(range(n))
    assert all(part.start % multiple == 0 for part in parts)
    assert all(part.stop - part.start >= at_least for part in parts[:-1])
    assert len(parts) <= 4 * workers


def test_the_examples_hold():
    assert doctest.testmod(module).failed == 0


# --- rankings


@pytest.fixture(scope="module")
def demo():
    return load_demo()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("options", [{}, {"n_items": 7}, {"split": "valid", "users": 11, "n_items": 5}])
def test_a_spread_ranking_is_the_same(workers, options):
    data = load_interactions(interactions(seed=3), catalogue())
    model = TableModel(np.random.default_rng(1).integers(0, 9, (data.n_users + 1, data.n_items + 1)))  # with ties
    model.feature_index = {"item_id": (0, 1), "user_id": (1, 2)}
    engine = Pickling(workers)
    options = {"rows_per_block": 25, "seed": 4, **options}
    there = full_ranking(model, data, **options, verbose=False, engine=engine)
    pd.testing.assert_frame_equal(there, full_ranking(model, data, **options, verbose=False), check_exact=True)
    assert engine.n_shards > 1


@pytest.mark.filterwarnings("ignore::sllmr_plugin.errors.SLLMRWarning")  # 256 rows are too few to learn from
def test_what_trains_a_model_is_left_behind_and_the_model_is_not_touched(demo):
    data, scores = demo
    model = build_model("din", data, embedding_dim=4, dropout=0.1)
    index = {"user_index": data.user_index, "item_index": data.item_index}
    model = wrap(model, scores, user="user_id", item="item_id", **index)
    model.compile("adam", "binary_crossentropy")
    columns, labels = training_rows(data, negatives=1)
    first = {name: column[:256] for name, column in input_rows(model, columns).items()}
    model.fit(first, labels[:256], batch_size=128, epochs=1, verbose=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sent = pickle.dumps(broadcast(model))
    n_bytes = sum(value.numel() * value.element_size() for value in before.values())
    assert len(sent) < 1.1 * n_bytes + 50_000  # an optimizer alone is twice as much, the score table and history more
    plain = pickle.loads(sent).model()
    assert type(plain).__name__ == "DIN"
    assert not hasattr(plain, "sllmr")
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.sllmr is not None
    assert model.optim.state
    here, there = (full_ranking(one, data, users=8, verbose=False) for one in (model, plain))
    pd.testing.assert_frame_equal(there, here, check_exact=True)


def test_a_model_elsewhere_or_diverged_is_an_error(demo):
    with pytest.raises(EngineError, match=r"the model is on meta.*--engine local"):
        broadcast(torch.nn.Linear(2, 1, device="meta"))
    data = load_interactions(interactions(), catalogue())
    values = np.zeros((data.n_users + 1, data.n_items + 1))
    values[5, 3] = np.nan
    with pytest.raises(EvaluationError, match=repr(data.user_ids[4])):
        full_ranking(TableModel(values), data, engine=Pickling(2), verbose=False)


# --- candidates and scorers


@pytest.mark.parametrize("change", [{}, {"users": 700, "cold_share": 0.9}, {"diverse_share": 0.0}, {"pool": 3}])
@pytest.mark.filterwarnings("ignore::sllmr_plugin.errors.CoverageWarning")
def test_spread_draws_are_the_same(demo, monkeypatch, change):
    monkeypatch.setattr(candidates, "_LEAST_USERS", 90)
    data, settings = demo[0], CandidateSettings(per_user=10, seed=2, **change)
    categories = read_categories(demo_paths().items)
    engine = Pickling(3)
    there = draw_candidates(data, **asdict(settings), categories=categories, engine=engine)
    here = draw_candidates(data, **asdict(settings), categories=categories)
    pd.testing.assert_frame_equal(there.frame, here.frame)
    assert there.summary == here.summary
    assert engine.n_shards > 5


class Lengths:
    def score(self, request):
        return {item: len(title) / 100 for item, title in zip(request.item_ids, request.titles, strict=True)}


def test_a_scorer_of_ones_own_is_made_by_name_in_each_process():
    asked = requests(450)
    found = list(spread_scorer(f"{__name__}:Lengths", asked, Pickling(2), verbose=False))
    assert [request for request, _ in found] == asked
    assert all(answer.scores == Lengths().score(request) for request, answer in found)


# --- partitions


def test_partitions_of_a_killed_run_are_merged_before_a_local_run_asks(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    path, asked, questions = tmp_path / "a.sqlite", requests(9), Questions("tiny")
    with ScoringServer() as server:

        def score(ledger, asked):
            return run(asked, questions, OpenAIClient("tiny", base_url=server.base_url), ledger, verbose=False)

        for number in range(2):  # two workers' answers, one of them to be had from both
            with Ledger(partition_folder(path) / f"{number}.sqlite") as part:
                score(part, asked[3 * number : 3 * number + 4])
        assert len(server.seen) == 8
        with Ledger(path) as ledger:
            assert score(ledger, asked).reused == 7
        assert len(server.seen) == 10
    assert not partition_folder(path).exists()


def test_a_worker_killed_before_or_while_it_wrote_leaves_a_partition_that_can_be_merged(tmp_path):
    folder = partition_folder(tmp_path / "a.sqlite")
    program = f"""
import os, signal
from dataclasses import replace
from sllmr_plugin.scoring.ledger import Ledger
from tests.test_ledger import ANSWER
ledger = Ledger({str(folder / "0.sqlite")!r})
for number in range(2500):  # more than are moved at a time
    done = ledger.record(replace(ANSWER, key=f"k{{number}}"))
done.result()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    (folder / "1.sqlite").touch()  # killed when it had only made the file
    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.record(replace(ANSWER, key="k7", response="was first")).result()
        assert merge_partitions(ledger, PartitionFiles(folder)) == 2499
        assert len(ledger.keys("", 10_000)) == 2500
        assert ledger.get("k7").response == "was first"
    assert not folder.exists()


def test_a_partition_that_is_being_written_or_is_none_is_an_error_and_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("sllmr_plugin.scoring.ledger._PATIENCE", 0.05)
    folder = partition_folder(tmp_path / "a.sqlite")
    with Ledger(tmp_path / "a.sqlite") as ledger:
        with Ledger(folder / "0.sqlite"), pytest.raises(LedgerError, match=r"0\.sqlite: another process"):
            merge_partitions(ledger, PartitionFiles(folder))
        (folder / "0.sqlite").write_text("something else entirely, and more than a few bytes of it" * 20)
        with pytest.raises(LedgerError, match=r"0\.sqlite"):
            merge_partitions(ledger, PartitionFiles(folder))
    assert (folder / "0.sqlite").exists()


def test_what_a_kill_has_cost_is_told_once_and_without_what_workers_had_received(tmp_path, caplog):
    path = tmp_path / "a.sqlite"
    with Ledger(path) as ledger:
        for number in range(3):
            ledger.mark_sent(f"k{number}", "u")[1].result()
    with Ledger(partition_folder(path) / "0.sqlite") as part:
        part.record(replace(ANSWER, key="k1")).result()
    with caplog.at_level(logging.INFO, "sllmr_plugin.scoring"), Ledger(path) as ledger:
        assert ledger.n_interrupted == 3
        take_over(ledger)
        take_over(ledger)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("1 answers that workers of the last run had received")
    assert "killed with 2 requests in flight" in told[1]


# --- the command line


def test_without_ray_the_error_names_the_extra(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def no_ray(name, *rest):
        if name.partition(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    paths = demo_paths()
    data = [
        "--interactions",
        str(paths.interactions),
        "--items",
        str(paths.items),
        "--out",
        str(tmp_path / "c.parquet"),
    ]
    assert main(["candidates", *data, "--engine", "ray"]) == 2
    assert "pip install 'sllmr-plugin[ray]'" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_combinations_that_make_no_sense_are_refused(tmp_path, capsys):
    paths = demo_paths()
    data = ["--interactions", str(paths.interactions), "--items", str(paths.items)]
    assert main(["candidates", *data, "--users", "40", "--out", str(tmp_path / "c.parquet"), "--workers", "2"]) == 2
    assert "--workers is for --engine ray" in capsys.readouterr().err
    assert main(["candidates", *data, "--users", "40", "--out", str(tmp_path / "c.parquet")]) == 0
    asked = ["score", *data, "--candidates", str(tmp_path / "c.parquet"), "--out", str(tmp_path / "s.parquet")]
    assert main([*asked, "--engine", "ray", "--batch"]) == 2
    assert "nothing to spread" in capsys.readouterr().err
    assert main([*asked, "--engine", "ray", "--scorer", "m:N", "--ledger", str(tmp_path / "l.sqlite")]) == 2
    assert "--engine local alone" in capsys.readouterr().err
