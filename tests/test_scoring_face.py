"""`draw_candidates`, `score_candidates` and `write_texts`: the commands in Python, against a server on loopback."""

import argparse
import asyncio
import dataclasses
import doctest
import functools
import importlib
import inspect
import json
import logging

import numpy as np
import pandas as pd
import pytest

import sllmr_plugin
from sllmr_plugin import scoring
from sllmr_plugin.cli import main
from sllmr_plugin.cli import score as score_command
from sllmr_plugin.cli import texts as texts_command
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import ConfigError, DataError, IncompleteWarning, ScoreTableError
from sllmr_plugin.scoring import draw_candidates, read_metadata, score_candidates, write_texts
from sllmr_plugin.scoring.batch import run_batches
from sllmr_plugin.scoring.ledger_file import LedgerReader
from sllmr_plugin.scoring.prompts import PromptTemplate
from sllmr_plugin.scoring.settings import ScoreSettings
from sllmr_plugin.scoring.text_questions import TextTemplate
from sllmr_plugin.scoring.texts import TextSettings

from .scoring_server import ScoringServer, score_of

KEY = "sk-test-SECRETKEY-0123456789"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("sllmr_plugin.scoring.runner.backoff", lambda failures, retry_after=None: retry_after or 0.01)


@pytest.fixture
def files(tmp_path):
    """Interactions and items as frames: 20 users, 30 items."""
    rng = np.random.default_rng(0)
    pairs = [(user, int(item)) for user in range(20) for item in rng.permutation(30)[: 3 + user % 4]]
    clicks = pd.DataFrame(pairs, columns=["user_id", "item_id"])
    return clicks, pd.DataFrame({"item_id": range(30), "title": [f"Thing {k}" for k in range(30)]})


@pytest.fixture
def server():
    with ScoringServer() as server:
        yield server


ask = functools.partial(score_candidates, verbose=False)
few = functools.partial(draw_candidates, probe_share=0, per_user=10)


def true_scores(table):
    return [score_of(f"Thing {item}") for item in table["item_id"]]


def test_candidates_are_scored_and_the_result_says_so_in_a_few_lines(files, server, tmp_path, capsys):
    clicks, items = files
    drawn = draw_candidates(clicks, items, per_user=6, probe_share=1, out=tmp_path / "c.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(drawn.path), drawn.frame)
    assert repr(drawn).splitlines()[0].startswith("120 candidates and ")
    assert str(tmp_path / "c.parquet") in repr(drawn)

    given = {"model": "gpt-4o-mini", "base_url": server.base_url, "out": tmp_path / "s.parquet"}
    result = ask(drawn.path, clicks, items, **given)
    assert result.table["score"].tolist() == true_scores(result.table)
    pd.testing.assert_frame_equal(pd.read_parquet(result.path), result.table)
    with LedgerReader(result.asked.ledger) as reader:
        (paid,) = reader.connection.execute("SELECT sum(cost) FROM answers").fetchone()
    assert result.asked.ledger == (tmp_path / "s.ledger.sqlite").resolve()
    assert result.cost == pytest.approx(paid)
    assert paid > 0
    lines = repr(result).splitlines()
    for told in (
        "20 answers received",
        "20 of 20 requests answered",
        f"AUC {result.probe_auc:.3f}",
        f"${paid:.4f}",
        str(result.path),
        str(result.asked.ledger),
    ):
        assert sum(told in line for line in lines) >= 1, told
    assert len(lines) < 15
    assert result.complete
    assert len(server.seen) == 20
    assert ask(drawn.frame, load_interactions(clicks, items), **given).asked.summary.reused == 20
    assert len(server.seen) == 20
    assert capsys.readouterr().out == ""


def test_in_a_notebook_a_loop_is_running_already(files, server, tmp_path):
    clicks, items = files

    async def cell():
        drawn = few(clicks, items, users=3)
        scored = ask(drawn.frame, clicks, items, base_url=server.base_url, out=tmp_path / "s.parquet")
        written = write_texts(
            clicks, items, base_url=server.base_url, out=tmp_path / "t.parquet", users=3, verbose=False, kind=["user"]
        )
        return scored, written

    scored, written = asyncio.run(cell())
    assert scored.counts.answered == written.counts.users == 3


def test_commands_and_functions_write_the_same(files, server, tmp_path, capsys):
    clicks, items = files
    clicks.to_csv(tmp_path / "clicks.csv", index=False)
    items.to_csv(tmp_path / "items.csv", index=False)
    data = ["--interactions", str(tmp_path / "clicks.csv"), "--items", str(tmp_path / "items.csv")]
    assert main(["candidates", *data, "--per-user", "5", "--seed", "3", "--out", str(tmp_path / "c.parquet")]) == 0
    told = capsys.readouterr().out
    drawn = draw_candidates(tmp_path / "clicks.csv", tmp_path / "items.csv", per_user=5, seed=3)
    pd.testing.assert_frame_equal(drawn.frame, pd.read_parquet(tmp_path / "c.parquet"))
    assert told.strip() == f"{drawn!r}\n\nCandidates: {tmp_path / 'c.parquet'}"

    flags = ["--repeats", "2", "--temperature", "none", "--base-url", server.base_url, "--history-length", "2"]
    asked = ["--candidates", str(tmp_path / "c.parquet"), *data, *flags]
    assert main(["score", *asked, "--out", str(tmp_path / "one.parquet")]) == 0
    settings = {"repeats": 2, "temperature": None, "base_url": server.base_url, "history_length": 2}
    result = ask(tmp_path / "c.parquet", *data[1::2], out=tmp_path / "other.parquet", **settings)
    pd.testing.assert_frame_equal(result.table, pd.read_parquet(tmp_path / "one.parquet"))
    one, other = read_metadata(tmp_path / "one.parquet"), read_metadata(result.path)
    assert one["settings"] == other["settings"]
    assert one["prompt_hash"] == other["prompt_hash"]

    assert (
        main(["texts", *data, "--base-url", server.base_url, "--users", "4", "--out", str(tmp_path / "t1.parquet")])
        == 0
    )
    written = write_texts(*data[1::2], base_url=server.base_url, users=4, out=tmp_path / "t2.parquet", verbose=False)
    pd.testing.assert_frame_equal(written.table, pd.read_parquet(tmp_path / "t1.parquet"))
    assert read_metadata(tmp_path / "t1.parquet")["settings"] == read_metadata(written.path)["settings"]


@pytest.mark.parametrize(("command", "settings"), [(score_command, ScoreSettings), (texts_command, TextSettings)])
def test_every_setting_is_a_flag_with_the_same_default(command, settings):
    parser = argparse.ArgumentParser()
    command.add(parser)
    flags = {action.dest: action.default for action in parser._actions}
    assert {field.name: flags[field.name] for field in dataclasses.fields(settings)} == {
        field.name: field.default for field in dataclasses.fields(settings)
    }
    beside = {"help", "candidates", "interactions", "items", "out", "dry_run"}
    assert flags.keys() - beside == {field.name for field in dataclasses.fields(settings)}


def test_settings_show_in_the_signature_and_unknown_ones_are_refused(files, tmp_path):
    shown = inspect.signature(score_candidates).parameters
    assert shown["model"].default == "gpt-4o-mini"
    assert shown["max_cost"].kind is inspect.Parameter.KEYWORD_ONLY
    assert "settings" not in shown
    assert inspect.signature(write_texts).parameters["max_words"].default == 120
    assert inspect.signature(draw_candidates).parameters["per_user"].default == 20
    with pytest.raises(TypeError, match="modle"):
        ask(*files, files[1], out=tmp_path / "s.parquet", modle="x")


def test_names_are_at_the_top_level_and_in_the_folder():
    for name in ("draw_candidates", "score_candidates", "write_texts"):
        assert getattr(sllmr_plugin, name) is getattr(scoring, name)
        assert name in sllmr_plugin.__all__
        assert name in scoring.__all__
    assert all(getattr(scoring, name) is not None for name in scoring.__all__)
    assert set(scoring.__all__) <= set(dir(scoring))
    with pytest.raises(AttributeError, match="no attribute 'score_candidate'"):
        scoring.score_candidate  # noqa: B018


def test_a_dry_run_sends_and_writes_nothing(files, server, tmp_path):
    clicks, items = files
    drawn = few(clicks, items, users=7)
    given = {"base_url": server.base_url, "out": tmp_path / "s.parquet", "dry_run": True}
    found = ask(drawn.frame, clicks, items, **given)
    assert (found.requests, found.known) == (7, 0)
    assert found.cost > 0
    free = ask(drawn.frame, clicks, items, scorer="lexical", **given)
    assert (free.requests, free.cost) == (7, 0.0)
    texts = write_texts(clicks, items, kind=["item"], base_url=server.base_url, out=given["out"], dry_run=True)
    assert texts.requests == 30
    assert not server.seen
    assert not list(tmp_path.iterdir())


def test_scorers_without_a_server(files, tmp_path):
    clicks, items = files
    drawn = few(clicks, items, users=5)

    class Half:
        def score(self, request):
            return dict.fromkeys(request.item_ids, 0.5)

    result = ask(drawn.frame, clicks, items, scorer=Half(), out=tmp_path / "s.parquet")
    assert (result.table["score"] == 0.5).all()
    assert read_metadata(result.path)["scorer"] == "Half"
    assert (result.asked, result.cost, result.complete) == (None, 0.0, True)
    assert repr(result).endswith(f"Score table: {result.path}")
    with pytest.raises(ConfigError, match=r"need a name.*score_with\(..., name=, ledger=\)"):
        ask(drawn.frame, clicks, items, scorer=Half(), ledger=tmp_path / "l.sqlite", out=tmp_path / "s.parquet")
    with pytest.raises(ConfigError, match="there is no scorer 'lexcal'"):
        ask(drawn.frame, clicks, items, scorer="lexcal", out=tmp_path / "s.parquet")
    with pytest.raises(ConfigError, match="engine='dask' is not one of 'local', 'ray'"):
        ask(drawn.frame, clicks, items, scorer="lexical", engine="dask", out=tmp_path / "s.parquet")
    with pytest.raises(DataError, match="would be lost"):
        ask(tmp_path / "c.parquet", clicks, items, out=tmp_path / "c.parquet")
    titles = write_texts(clicks, items, writer="titles", kind=["item"], out=tmp_path / "t.parquet")
    assert titles.table["text"].tolist()[:1] == [f"Thing {titles.table['id'].iloc[0]}"]
    with pytest.raises(ConfigError, match="writer='title' is not one of"):
        write_texts(clicks, items, writer="title", out=tmp_path / "t.parquet")


def test_settings_given_as_an_object_still_work_for_this_version(files):
    data = load_interactions(*files)
    with pytest.warns(DeprecationWarning, match=r"draw_candidates\(data, users=1000\)"):
        former = draw_candidates(data, scoring.CandidateSettings(users=5, seed=2, probe_share=0))
    pd.testing.assert_frame_equal(former.frame, draw_candidates(data, users=5, seed=2, probe_share=0).frame)


def test_a_table_of_nothing_is_an_error_that_says_what_came_of_the_run(files, tmp_path):
    clicks, items = files
    drawn = few(clicks, items, users=2)
    with (
        ScoringServer(lambda number, body: "garbage") as server,
        pytest.warns(IncompleteWarning),
        pytest.raises(ScoreTableError, match=r"(?s)not one of 20 pairs was scored.*2 requests failed: none of their"),
    ):
        ask(drawn.frame, clicks, items, base_url=server.base_url, attempts=2, out=tmp_path / "s.parquet")


def counted(monkeypatch, kind):
    """Count how often a template is rendered."""
    calls, render = [], kind.render
    monkeypatch.setattr(kind, "render", lambda self, request: calls.append(request) or render(self, request))
    return calls


@pytest.mark.parametrize("batch", [False, True])
def test_a_prompt_is_rendered_once_a_run(files, server, tmp_path, monkeypatch, batch):
    clicks, items = files
    monkeypatch.setattr("sllmr_plugin.scoring.run.run_batches", functools.partial(run_batches, poll_seconds=0.01))
    calls = counted(monkeypatch, PromptTemplate)
    drawn = draw_candidates(clicks, items)
    given = {"base_url": server.base_url, "out": tmp_path / "s.parquet", "batch": batch}
    first = ask(drawn.frame, clicks, items, **given)
    assert len(calls) == 20
    again = ask(drawn.frame, clicks, items, **given)
    assert len(calls) == 40
    pd.testing.assert_frame_equal(again.table, first.table)
    assert again.asked.spending.recorded() == first.asked.spending.recorded()
    assert first.table["score"].tolist() == true_scores(first.table)


def test_texts_stand_in_the_order_of_the_requests_however_they_come(files, server, tmp_path, monkeypatch):
    clicks, items = files
    rendered = counted(monkeypatch, TextTemplate)
    asked = {"base_url": server.base_url, "concurrency": 8, "kind": ["item"], "verbose": False}
    first = write_texts(clicks, items, out=tmp_path / "a.parquet", **asked)
    expected = [str(request.id) for request in dict.fromkeys(rendered)]
    assert first.table["id"].tolist() == expected
    again = write_texts(clicks, items, out=tmp_path / "b.parquet", ledger=first.asked.ledger, **asked)
    pd.testing.assert_frame_equal(again.table, first.table)


def test_a_run_that_stops_at_its_cap_still_has_the_later_answers_of_earlier_runs(files, server, tmp_path):
    clicks, items = files
    drawn = few(clicks, items, users=12)
    users = drawn.frame["user_id"].drop_duplicates().tolist()
    later = drawn.frame[drawn.frame["user_id"].isin(users[8:])]
    given = {"base_url": server.base_url, "ledger": tmp_path / "l.sqlite", "out": tmp_path / "s.parquet"}
    paid = ask(later, clicks, items, **given).cost
    n_seen = len(server.seen)
    with pytest.warns(IncompleteWarning):
        result = ask(drawn.frame, clicks, items, max_cost=paid * 1.01, **given)
    assert len(server.seen) == n_seen
    assert result.asked.summary.stopped == "max_cost"
    assert set(result.table["user_id"]) == set(users[8:])
    assert result.complete  # what the cap leaves out is no failure
    assert result.cost == pytest.approx(paid)


def test_what_a_killed_run_left_is_told_in_the_log_once(files, server, tmp_path, caplog):
    clicks, items = files
    drawn = few(clicks, items, users=2)
    ledger = tmp_path / "l.sqlite"
    with scoring.Ledger(ledger) as killed:
        killed.mark_sent("k", "u")[1].result()
    given = {"base_url": server.base_url, "ledger": ledger, "out": tmp_path / "s.parquet"}
    with caplog.at_level(logging.INFO, "sllmr_plugin.scoring"):
        for _ in range(2):
            ask(drawn.frame, clicks, items, **given)
    told = [record for record in caplog.records if "was killed with 1 requests in flight" in record.getMessage()]
    assert len(told) == 1
    assert told[0].name == "sllmr_plugin.scoring"


def refuse_temperature(number, body):
    said = {"error": {"message": "Only the default temperature is supported.", "param": "temperature"}}
    return (400, said) if "temperature" in body else None


@pytest.mark.parametrize("batch", [False, True])
def test_the_ledger_and_the_table_say_which_temperature_was_sent(files, tmp_path, monkeypatch, batch):
    clicks, items = files
    monkeypatch.setattr("sllmr_plugin.scoring.run.run_batches", functools.partial(run_batches, poll_seconds=0.01))
    drawn = few(clicks, items, users=4)
    with ScoringServer(refuse_temperature) as server:
        given = {"base_url": server.base_url, "out": tmp_path / "s.parquet", "batch": batch}
        result = ask(drawn.frame, clicks, items, **given)
        n_seen = len(server.seen)
        assert ask(drawn.frame, clicks, items, **given).asked.summary.reused == 4
        assert len(server.seen) == n_seen
    with LedgerReader(result.asked.ledger) as reader:
        noted = [json.loads(text) for (text,) in reader.connection.execute("SELECT request FROM answers")]
    assert [(one["parameters"]["temperature"], one["left_out"]) for one in noted] == [(None, ["temperature"])] * 4
    assert read_metadata(result.path)["own_temperature"] == 4
    assert "4 answers are at the server's own temperature" in repr(result)


def test_a_temperature_that_was_sent_is_noted_as_such(files, server, tmp_path, capsys):
    clicks, items = files
    drawn = few(clicks, items, users=2)
    result = ask(drawn.frame, clicks, items, base_url=server.base_url, out=tmp_path / "s.parquet", temperature=0.5)
    with LedgerReader(result.asked.ledger) as reader:
        noted = [json.loads(text) for (text,) in reader.connection.execute("SELECT request FROM answers")]
    assert [one["parameters"]["temperature"] for one in noted] == [0.5, 0.5]
    assert not any("left_out" in one for one in noted)
    assert "own_temperature" not in read_metadata(result.path)
    assert main(["ledger", "stats", str(result.asked.ledger)]) == 0
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("module", ["candidates", "run"])
def test_the_examples_in_the_docstrings(module):
    result = doctest.testmod(importlib.import_module(f"sllmr_plugin.scoring.{module}"))
    assert result.attempted > 2
    assert result.failed == 0


def test_settings_out_of_range_are_all_named_before_anything_is_read(tmp_path):
    with pytest.raises(
        ConfigError, match=r"concurrency=0 must be at least 1; timeout=-1.0 must be above 0; answer='rank'"
    ):
        ask("no.parquet", "no.csv", "no.csv", out=tmp_path / "s.parquet", concurrency=0, timeout=-1, answer="rank")
    with pytest.raises(ConfigError, match="kind='user' is text, but a list of texts is wanted"):
        write_texts("no.csv", "no.csv", out=tmp_path / "t.parquet", kind="user")
    with pytest.raises(ConfigError) as told:
        ask("no.parquet", "no.csv", "no.csv", out=tmp_path / "s.parquet", extra_body="api-key-9", concurrency=0)
    assert "api-key-9" not in str(told.value)
