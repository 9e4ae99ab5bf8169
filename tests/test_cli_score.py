"""`sllmr score` and `sllmr ledger`, called in process against a server on loopback."""

import functools
import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin.cli import main
from sllmr_plugin.scores.origin import read_metadata
from sllmr_plugin.scoring import ledger_file
from sllmr_plugin.scoring.batch import run_batches
from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.ledger_file import LedgerReader
from sllmr_plugin.scoring.prompts import PromptTemplate

from .scoring_server import ScoringServer, score_of

KEY = "sk-test-SECRETKEY-0123456789"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Interactions, items and candidates as files; arguments that name them."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("sllmr_plugin.scoring.runner.backoff", lambda failures, retry_after=None: retry_after or 0.01)
    rng = np.random.default_rng(0)
    pairs = [(user, int(item)) for user in range(20) for item in rng.permutation(30)[: 3 + user % 4]]
    pd.DataFrame(pairs, columns=["user_id", "item_id"]).to_csv(tmp_path / "clicks.csv", index=False)
    pd.DataFrame({"item_id": range(30), "title": [f"Thing {k} of Ünder" for k in range(30)]}).to_csv(
        tmp_path / "items.csv", index=False
    )
    data = ["--interactions", str(tmp_path / "clicks.csv"), "--items", str(tmp_path / "items.csv")]
    # Of 30 items, so few that not every prompt has the title that a test has refused.
    shares = ["--catalogue-share", "0", "--tail-share", "0.3", "--diverse-share", "0.3"]
    assert main(["candidates", *data, "--per-user", "6", *shares, "--out", str(tmp_path / "c.parquet")]) == 0
    return ["--candidates", str(tmp_path / "c.parquet"), *data, "--out", str(tmp_path / "scores.parquet")]


@pytest.fixture
def server():
    with ScoringServer() as server:
        yield server


def test_the_papers_prompt_is_asked_by_its_name(files, server, tmp_path, capsys):
    arguments = ["score", *files, "--model", "tiny", "--base-url", server.base_url, "--template"]
    assert main([*arguments, "s-llmr"]) == 0
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert table["score"].tolist() == [score_of(f"Thing {item} of Ünder") for item in table["item_id"]]
    assert all(
        message["content"].startswith("Given that the user recently interacted with items [")
        for seen in server.seen
        for message in seen.body["messages"]
    )
    origin = read_metadata(tmp_path / "scores.parquet")
    assert origin["prompt_hash"] == PromptTemplate.of("s-llmr").prompt_hash
    assert main([*arguments, "paper"]) == 2
    assert "paper: no such file, and no template of that name" in capsys.readouterr().err


def test_a_table_comes_out_with_its_origin_and_a_second_run_asks_nothing(files, server, tmp_path, capsys):
    arguments = ["score", *files, "--model", "tiny", "--base-url", server.base_url]
    assert main(arguments) == 0
    table = pd.read_parquet(tmp_path / "scores.parquet")
    candidates = pd.read_parquet(tmp_path / "c.parquet")
    both = table.merge(candidates, on=["user_id", "item_id", "kind"], validate="1:1")
    assert len(both) == len(table) == len(candidates)
    assert table["score"].tolist() == [score_of(f"Thing {item} of Ünder") for item in table["item_id"]]
    metadata = read_metadata(tmp_path / "scores.parquet")
    assert (metadata["scorer"], metadata["model"]) == ("openai", "tiny")
    assert len(metadata["prompt_hash"]) == 64
    with LedgerReader(tmp_path / "scores.ledger.sqlite") as reader:
        counted = reader.connection.execute("SELECT sum(prompt_tokens), sum(completion_tokens) FROM answers").fetchone()
    assert metadata["tokens"] == {"prompt": counted[0], "completion": counted[1]}
    assert metadata["cost"] is None  # the price of tiny is not known
    n_users = candidates["user_id"].nunique()
    assert len(server.seen) == n_users
    printed = capsys.readouterr()
    assert f"{n_users} answers received" in printed.out
    assert "price of tiny is not known" in printed.out

    assert main([*arguments, "--repeats", "2"]) == 0
    assert len(server.seen) == 2 * n_users
    assert f"{n_users} taken from the ledger, {n_users} answers received" in capsys.readouterr().out
    again = pd.read_parquet(tmp_path / "scores.parquet")
    assert (again["n_answers"] == 2).all()
    assert np.allclose(again["spread"], 0)  # this model has no whims


def test_a_dry_run_sends_nothing_and_says_what_is_left(files, server, tmp_path, capsys):
    arguments = ["score", *files, "--base-url", server.base_url]
    assert main([*arguments, "--dry-run"]) == 0
    out = capsys.readouterr().out
    n_users = pd.read_parquet(tmp_path / "c.parquet")["user_id"].nunique()
    assert f"to be asked: {n_users}" in out
    assert '"1": "Thing' in out
    dollars = float(re.search(r"about \$([\d.]+)", out)[1])
    prompt, completion = (int(re.search(rf"(\d+) {kind} tokens", out)[1]) for kind in ("prompt", "completion"))
    assert dollars == pytest.approx((0.15 * prompt + 0.6 * completion) / 1e6, abs=1e-4)
    assert not server.seen
    assert not list(tmp_path.glob("*.sqlite*"))
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    assert "to be asked: 0" in capsys.readouterr().out


@pytest.mark.filterwarnings("default")
def test_the_cap_leaves_a_table_of_what_is_there_and_says_so(files, server, tmp_path, capsys):
    assert main(["score", *files, "--base-url", server.base_url, "--max-cost", "0.0012"]) == 0
    out, err = capsys.readouterr()
    assert "stopped at --max-cost" in out
    assert "not every request was answered" in err
    assert 0 < len(pd.read_parquet(tmp_path / "scores.parquet")) < len(pd.read_parquet(tmp_path / "c.parquet"))
    assert float(re.search(r"\$([\d.]+) in this ledger", out)[1]) <= 0.0012
    assert main(["score", *files, "--base-url", server.base_url, "--model", "x", "--max-cost", "1"]) == 2
    assert "--prices" in capsys.readouterr().err


def test_errors_are_one_line_with_a_remedy_and_without_the_key(files, tmp_path, capsys):
    with ScoringServer(lambda number, body: "401") as server:
        assert main(["score", *files, "--base-url", server.base_url]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("sllmr: error: stopped: the server answered 401")
    assert "Check OPENAI_API_KEY" in error
    assert "SECRET" not in error
    assert not (tmp_path / "scores.parquet").exists()
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"SECRET" not in written


def test_a_key_with_a_line_break_is_refused_without_being_shown(files, server, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-first\nSECRET-second")
    assert main(["score", *files, "--base-url", server.base_url]) == 2
    error = capsys.readouterr().err
    assert "OPENAI_API_KEY holds a line break" in error
    assert "SECRET" not in error


def test_the_table_does_not_replace_the_ledger(files, server, tmp_path, capsys):
    ledger = tmp_path / "scores.parquet"  # the very file of --out
    ledger.write_bytes(b"paid answers")
    assert main(["score", *files, "--base-url", server.base_url, "--ledger", str(ledger)]) == 2
    assert "would be lost; write to another one" in capsys.readouterr().err
    assert ledger.read_bytes() == b"paid answers"


def test_a_ledger_in_use_is_refused(files, server, tmp_path, capsys):
    with Ledger(tmp_path / "scores.ledger.sqlite"):
        assert main(["score", *files, "--base-url", server.base_url]) == 2
    assert "another process is using" in capsys.readouterr().err


def test_rankings_become_soft_scores_and_their_temperature_asks_nothing_anew(files, tmp_path, monkeypatch, capsys):
    def ranked(messages, kind):
        from . import scoring_server

        titles = scoring_server.candidates_of(messages)
        return json.dumps({"ranking": sorted(map(int, titles), key=lambda label: -score_of(titles[str(label)]))})

    monkeypatch.setattr("tests.scoring_server.content", ranked)
    with ScoringServer() as server:
        arguments = ["score", *files, "--base-url", server.base_url, "--answer", "ranking"]
        assert main(arguments) == 0
        mild = pd.read_parquet(tmp_path / "scores.parquet")
        assert main([*arguments, "--ranking-temperature", "0.1"]) == 0
        sharp = pd.read_parquet(tmp_path / "scores.parquet")
        assert len(server.seen) == mild["user_id"].nunique()
    for user, group in mild.groupby("user_id"):
        opinion = np.array([score_of(f"Thing {item} of Ünder") for item in group["item_id"]])
        score = group["score"].to_numpy()
        liked_more = opinion[:, None] > opinion
        assert (score[:, None] > score)[liked_more].all(), user
    assert sharp["score"].std() > 1.5 * mild["score"].std()


@pytest.mark.filterwarnings("default")
def test_the_ledger_tells_what_it_holds(files, tmp_path, capsys, monkeypatch):
    bad = "Thing 3 of"
    with ScoringServer(lambda number, body: "garbage" if bad in json.dumps(body) else None) as server:
        assert main(["score", *files, "--base-url", server.base_url, "--attempts", "2"]) == 0
    failed = {seen.text for seen in server.seen if bad in seen.text and len(seen.body["messages"]) == 2}
    ledger = str(tmp_path / "scores.ledger.sqlite")
    capsys.readouterr()
    assert main(["ledger", "stats", ledger]) == 0
    out = capsys.readouterr().out
    n_users = pd.read_parquet(tmp_path / "c.parquet")["user_id"].nunique()
    assert f"{n_users + len(failed)} answers, {n_users - len(failed)} usable, {2 * len(failed)} not" in out
    assert main(["ledger", "failures", ledger, "--limit", "1"]) == 0
    out = capsys.readouterr().out
    assert f"{len(failed)} requests without a usable answer" in out
    assert "2 attempts" in out
    assert "I would rather not" in out
    monkeypatch.setattr("sllmr_plugin.scoring.ledger_file._EXPORTED_AT_ONCE", 3)  # several parts
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert main(["ledger", "export", ledger, "--out", str(tmp_path / name)]) == 0
    frames = [
        pd.read_csv(tmp_path / "a.csv"),
        pd.read_json(tmp_path / "a.jsonl", lines=True),
        pd.read_parquet(tmp_path / "a.parquet"),
    ]
    assert [len(frame) for frame in frames] == [n_users + len(failed)] * 3
    assert all(frame["key"].tolist() == frames[0]["key"].tolist() for frame in frames)
    with LedgerReader(ledger) as reader:
        whole = pd.read_sql_query(ledger_file._ALL, reader.connection)
    kept, read = (frame.astype(object).where(frame.notna(), None) for frame in (frames[2], whole))
    assert kept.to_numpy().tolist() == read.to_numpy().tolist()
    assert frames[0].columns.tolist() == frames[1].columns.tolist() == whole.columns.tolist()
    assert main(["ledger", "export", ledger, "--out", str(tmp_path / "a.xlsx")]) == 2
    assert main(["ledger", "stats", str(tmp_path / "none.sqlite")]) == 2
    assert "no such ledger" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_refused_requests_show_in_exit_code_summary_and_ledger_until_they_are_forgotten(files, tmp_path, capsys):
    said = 403, {"error": {"message": "Input was flagged by moderation"}}
    with ScoringServer(lambda number, body: said if "Thing 3 of" in json.dumps(body) else None) as server:
        arguments = ["score", *files, "--base-url", server.base_url]
        assert main(arguments) == 1
        n_refused = len(server.seen) - sum(server.answered.values())
        assert n_refused > 5
        printed = capsys.readouterr()
        assert f"{n_refused} requests are refused by the server" in printed.out
        assert f"not every request was answered, {n_refused} refused by the server" in printed.err
        n_seen, ledger = len(server.seen), str(tmp_path / "scores.ledger.sqlite")
        assert main(arguments) == 1
        assert len(server.seen) == n_seen
        capsys.readouterr()
        assert main([*arguments, "--dry-run"]) == 0
        assert f"{n_refused} refused by the server; to be asked: 0" in capsys.readouterr().out
        assert main(["ledger", "stats", ledger]) == 0
        out = capsys.readouterr().out
        assert f"{n_refused} requests refused by the server and not asked again: 'the server answered 403: Input" in out
        assert f"{server.base_url} takes requests to gpt-4o-mini" not in out  # in the usual form: nothing to keep
        assert main(["ledger", "failures", ledger, "--limit", "1"]) == 0
        out = capsys.readouterr().out
        assert f"{n_refused} requests refused by the server" in out
        assert f"and {n_refused - 1} more" in out
        assert main(["ledger", "forget-refused", ledger, "--containing", "moderation"]) == 0
        assert f"{n_refused} refused requests" in capsys.readouterr().out
        server.plan = lambda number, body: None
        assert main(arguments) == 0
        assert len(server.seen) == n_seen + n_refused
        assert main(["ledger", "forget-servers", ledger]) == 0
    assert main(["ledger", "forget-refused", str(tmp_path / "none.sqlite")]) == 2
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.parametrize("errors_too", [False, True])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_reads_ends_a_command_without_a_traceback(tmp_path, errors_too, unbuffered):
    with Ledger(tmp_path / "a.sqlite"):
        pass
    command = [sys.executable, "-m", "sllmr_plugin", "ledger", "stats", str(tmp_path / "a.sqlite")]
    reading, writing = os.pipe()
    os.close(reading)
    with open(tmp_path / "err.txt", "w") as err:
        done = subprocess.run(
            command,
            stdout=writing,
            stderr=writing if errors_too else err,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    os.close(writing)
    assert done.returncode == 141
    assert (tmp_path / "err.txt").read_text() == ""


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch, tmp_path):
    def broken(path):
        raise BrokenPipeError("a worker is gone")

    monkeypatch.setattr("sllmr_plugin.cli.ledger.LedgerReader", broken)
    with pytest.raises(BrokenPipeError, match="a worker is gone"):
        main(["ledger", "stats", "x"])


def test_a_ledger_can_be_looked_into_while_it_is_written(files, tmp_path, capsys):
    with Ledger(tmp_path / "live.sqlite") as ledger:
        ledger.mark_sent("k", "ann", 0.5)[1].result()
        assert main(["ledger", "stats", str(tmp_path / "live.sqlite")]) == 0
    assert "1 requests without an answer, $0.5000 at most: in flight now" in capsys.readouterr().out


OWN = """
class Own:
    calls = 0
    def score(self, request):
        Own.calls += 1
        if request.user_id == {fails}:
            raise RuntimeError("out of memory")
        return {{item: 0.25 for item in request.item_ids[1:]}} | {{"foreign": 3}}
def half(request): ...
"""


def test_an_object_of_ones_own_scores_through_the_same_ledger(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_scorer_a.py").write_text(OWN.format(fails=7))
    (tmp_path / "own_scorer_b.py").write_text(OWN.format(fails=-1))
    ledger = ["--ledger", str(tmp_path / "own.sqlite")]
    assert main(["score", *files, "--scorer", "own_scorer_a:Own", *ledger]) == 2
    assert "failed for user 7: RuntimeError: out of memory" in capsys.readouterr().err
    assert main(["score", *files, "--scorer", "own_scorer_b:Own", *ledger]) == 0
    out = capsys.readouterr().out
    import own_scorer_b

    n_users = pd.read_parquet(tmp_path / "c.parquet")["user_id"].nunique()
    assert own_scorer_b.Own.calls == n_users
    assert f"{n_users} ids in answers that were not asked about" in out
    assert f"{n_users} pairs that no answer scores" in out
    assert main(["score", *files, "--scorer", "own_scorer_b:Own", *ledger]) == 0
    assert own_scorer_b.Own.calls == n_users
    assert capsys.readouterr().out == out
    for wrong in ("nowhere", "no_module_here:x", "own_scorer_b:none", "own_scorer_b:calls", "own_scorer_b:half"):
        assert main(["score", *files, "--scorer", wrong]) == 2


def test_batches_fill_the_same_ledger_at_half_the_price(files, server, tmp_path, capsys, monkeypatch):
    waits_less = functools.partial(run_batches, poll_seconds=0.01)
    monkeypatch.setattr("sllmr_plugin.scoring.run.run_batches", waits_less)
    arguments = ["score", *files, "--base-url", server.base_url]
    assert main([*arguments, "--batch"]) == 0
    assert len(server.batches) == 1
    in_batch = pd.read_parquet(tmp_path / "scores.parquet")
    n_seen = len(server.seen)
    assert main(arguments) == 0
    assert len(server.seen) == n_seen
    assert main([*arguments, "--ledger", str(tmp_path / "other.sqlite")]) == 0
    pd.testing.assert_frame_equal(in_batch, pd.read_parquet(tmp_path / "scores.parquet"))
    costs = []
    for name in ("scores.ledger.sqlite", "other.sqlite"):
        with Ledger(tmp_path / name) as ledger:
            costs.append(ledger.spent())
    assert read_metadata(tmp_path / "scores.parquet")["cost"] == pytest.approx(costs[1], abs=1e-6)
    assert costs[0] == pytest.approx(costs[1] / 2)


def test_help_names_every_flag_with_its_meaning(capsys):
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    out = capsys.readouterr().out
    assert all(flag in out for flag in ("--max-cost", "--dry-run", "--scorer lexical", "--attempts", "--ledger"))


def test_an_extra_body_goes_along_and_its_secrets_are_hidden_in_the_table(files, server, tmp_path):
    extra = '{"reasoning_effort": "low", "auth": {"password": "hunter22"}}'
    assert main(["score", *files, "--base-url", server.base_url, "--extra-body", extra]) == 0
    assert all(seen.body["reasoning_effort"] == "low" for seen in server.seen)
    settings = read_metadata(tmp_path / "scores.parquet")["settings"]
    assert settings["extra_body"] == {"reasoning_effort": "low", "auth": {"password": "***"}}
    assert b"hunter22" not in b"".join(file.read_bytes() for file in tmp_path.glob("scores*"))
    n_asked = len(server.seen)
    assert main(["score", *files, "--base-url", server.base_url]) == 0
    assert len(server.seen) == 2 * n_asked
    assert "extra_body" not in read_metadata(tmp_path / "scores.parquet")["settings"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{'reasoning_effort': 'SECRET'}", "not JSON: .* at character 2"),
        ('{"a": "SECRET"', "not JSON"),
        ('["SECRET"]', "JSON, but not an object"),
        ("3", "JSON, but not an object"),
        ('{"a": NaN}', "not JSON that can be sent"),
        ("", "not JSON"),
    ],
)
def test_an_extra_body_that_is_no_json_object_is_told_of_without_being_shown(files, text, told, capsys):
    with pytest.raises(SystemExit):
        main(["score", *files, "--extra-body", text])
    error = capsys.readouterr().err
    assert re.search(f"--extra-body: {told}", error)
    assert "single quotes" in error
    assert "SECRET" not in error


def test_an_extra_body_of_what_has_an_argument_of_its_own_is_refused(files, server, capsys):
    assert main(["score", *files, "--base-url", server.base_url, "--extra-body", '{"stream": true}']) == 2
    assert "must not hold stream" in capsys.readouterr().err
    assert not server.seen
