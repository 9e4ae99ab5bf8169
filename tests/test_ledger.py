"""The ledger: what is committed stays, one process at a time, nothing foreign is touched."""

import hashlib
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.errors import LedgerError
from sllmr_plugin.scoring.client import Completion
from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.ledger_file import (
    LedgerAnswer,
    LedgerReader,
    Refusal,
    failures,
    known_servers,
    ledger_key,
    refused,
)
from sllmr_plugin.scoring.prompts import PromptTemplate
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.requests import ScoringRequest
from sllmr_plugin.scoring.servers import ServerForm

ANSWER = LedgerAnswer(
    key="k1",
    first_key="k1",
    attempt=0,
    model="m",
    user_id="ann",
    repeat=0,
    request={"messages_sha256": "ab", "n_items": 2},
    response='{"1": 0.3}',
    scores=(0.1 + 0.2, None),
    prompt_tokens=11,
    completion_tokens=7,
    cost=0.25,
)

REFUSAL = Refusal(
    "k3", "k3", 0, "m", "bob", 0, {"messages_sha256": "cd"}, "the server answered 400: too long", "context"
)


def test_an_answer_comes_back_as_it_went_in_also_after_reopening(tmp_path):
    failed = replace(ANSWER, key="k2", attempt=1, scores=None, cost=None, error="no JSON")
    with Ledger(tmp_path / "deep" / "a.sqlite") as ledger:
        assert ledger.get("k1") is None
        ledger.record(ANSWER).result()
        ledger.record(failed).result()
        assert ledger.get("k1") == ANSWER
    with Ledger(tmp_path / "deep" / "a.sqlite") as ledger:
        assert ledger.get("k1") == ANSWER
        assert ledger.get("k2") == failed
        assert ledger.get("k1").ok
        assert not ledger.get("k2").ok


def test_the_first_answer_to_a_question_holds(tmp_path):
    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.record(ANSWER).result()
        ledger.record(replace(ANSWER, response="later", scores=(1.0, 1.0))).result()
        assert ledger.get("k1") == ANSWER


def test_money_spent_counts_answers_and_requests_that_were_never_answered(tmp_path):
    with Ledger(tmp_path / "a.sqlite") as ledger:
        marks = [ledger.mark_sent(f"k{number}", "ann", 0.5)[0] for number in range(4)]
        ledger.record(ANSWER, marks[0])
        ledger.unmark(marks[1])
        ledger.give_up(marks[2], "timed out").result()
        assert ledger.spent() == 0.25 + 2 * 0.5  # the answer, one given up, one still in flight


def test_what_a_killed_process_had_in_flight_is_counted_once(tmp_path):
    path = tmp_path / "a.sqlite"
    program = f"""
import os, signal
from sllmr_plugin.scoring.ledger import Ledger
ledger = Ledger({str(path)!r})
futures = [ledger.mark_sent(str(number), "ann", 0.5)[1] for number in range(3)]
for future in futures:
    future.result()
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    with Ledger(path) as ledger:
        assert ledger.n_interrupted == 3
        assert ledger.spent() == 1.5
        mark, done = ledger.mark_sent("again", "ann")
        done.result()
        ledger.record(ANSWER, mark).result()
    with Ledger(path) as ledger:
        assert ledger.n_interrupted == 0
        assert ledger.spent() == 1.75


def test_a_second_live_holder_is_refused_and_the_next_one_welcome(tmp_path):
    path = tmp_path / "a.sqlite"
    ledger = Ledger(path)
    with pytest.raises(LedgerError, match="another process is using"):
        Ledger(path)
    link = tmp_path / "link.sqlite"
    link.symlink_to(path)
    with pytest.raises(LedgerError, match="another process is using"):
        Ledger(link)
    other = multiprocessing.get_context("spawn").Pool(1)
    with other, pytest.raises(LedgerError, match="--ledger"):
        other.apply(Ledger, (path,))
    ledger.close()
    ledger.close()
    Ledger(path).close()


def test_foreign_newer_and_broken_files_are_left_alone(tmp_path):
    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE answers (mine)")
    connection.commit()
    connection.close()
    before = foreign.read_bytes()
    with pytest.raises(LedgerError, match="not a ledger of this package"):
        Ledger(foreign)
    assert foreign.read_bytes() == before
    newer = tmp_path / "newer.sqlite"
    Ledger(newer).close()
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LedgerError, match="version 99"):
        Ledger(newer)
    text = tmp_path / "notes.txt"
    text.write_text("remember the milk\n" * 100)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger(text)
    assert text.read_text() == "remember the milk\n" * 100
    with pytest.raises(LedgerError):
        Ledger(tmp_path)
    Ledger(tmp_path / "fine.sqlite").close()  # the refusals left no lock behind


def test_a_write_that_fails_is_told_to_all_who_wait_and_to_all_who_come_later(tmp_path):
    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.record(ANSWER).result()
        bad = ledger.record(replace(ANSWER, key="k9", prompt_tokens=10**30))
        with pytest.raises(LedgerError, match="too large"):
            bad.result()
        with pytest.raises(LedgerError):
            ledger.record(replace(ANSWER, key="k10")).result()
    with Ledger(tmp_path / "a.sqlite") as ledger:
        assert ledger.get("k1") == ANSWER
        assert ledger.get("k10") is None


def test_who_stops_waiting_does_not_stop_the_commit(tmp_path):
    with Ledger(tmp_path / "a.sqlite") as ledger:
        done = ledger.record(ANSWER)
        assert not done.cancel()
        try:
            done.result()
        except CancelledError:
            pytest.fail("the commit was cancelled")
        assert ledger.get("k1") == ANSWER


def test_thousands_of_answers_share_commits(tmp_path):
    with Ledger(tmp_path / "a.sqlite") as ledger:
        commits = []
        ledger._writer.set_trace_callback(lambda statement: commits.append(statement == "COMMIT"))
        futures = [ledger.record(replace(ANSWER, key=str(number))) for number in range(3000)]
        for future in futures:
            future.result()
        assert sum(commits) < 300
        assert all(ledger.get(str(number)) for number in range(3000))


@pytest.mark.parametrize("text", ["\ud800 lone", "nul \0 byte", "☃" * 1000, ""])
def test_any_text_can_be_kept(tmp_path, text):
    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.record(replace(ANSWER, response=text, user_id=text)).result()
        assert ledger.get("k1").response == text.replace("\ud800", "?")


def test_the_key_is_a_plain_hash_of_canonical_json():
    messages = [{"role": "user", "content": 'sc"ö'}]
    text = '[[{"content": "sc\\"\\u00f6", "role": "user"}], "m", {"a": 1, "b": null}, 3]'
    assert json.loads(text)[0] == messages
    assert ledger_key(messages, "m", {"b": None, "a": 1}, 3) == hashlib.sha256(text.encode()).hexdigest()


@given(st.text(), st.text(), st.integers(), st.floats(0, 2))
def test_any_change_of_a_part_changes_the_key(content, model, schema, temperature):
    def key(content=content, model=model, schema=schema, temperature=temperature):
        return ledger_key([{"role": "user", "content": content}], model, {"temperature": temperature}, schema)

    changed = {key(), key(content + "x"), key(model=model + "x"), key(schema=schema + 1), key(temperature=3.0)}
    assert len(changed) == 5
    assert key() == key()


def test_no_answer_is_half_there_after_a_kill_amid_commits(tmp_path):
    path = tmp_path / "a.sqlite"
    program = f"""
import sys
from dataclasses import replace
sys.path.insert(0, {os.getcwd()!r})
from tests.test_ledger import ANSWER, Ledger
ledger = Ledger({str(path)!r})
for number in range(10**6):
    mark, _ = ledger.mark_sent(str(number), "ann")
    ledger.record(replace(ANSWER, key=str(number)), mark).result()
    print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    told = [int(process.stdout.readline()) for _ in range(50)]
    process.kill()
    told += [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait()
    with Ledger(path) as ledger:
        assert all(ledger.get(str(number)) for number in told)
        assert ledger.n_interrupted <= 1
        assert ledger._reader.execute("SELECT count(*) FROM answers").fetchone()[0] <= len(told) + 1


# Ledgers that users have paid for hold these keys: whatever changes them makes all of it be paid for again.
def test_the_keys_of_paid_answers_stay_as_they_were_written():
    request = ScoringRequest("u7", ("Chess",), ("i1", "i2"), ("Go", "Doom"))
    scores, ranking = Questions("tiny"), Questions("tiny", PromptTemplate(answer="ranking"))
    first = scores.first(request)
    assert first.key == "0e31a42081f0138091b5b2f972d6597d7c2a543e447c888b4e95378fc1e43832"
    assert ranking.first(request).key == "55180b2df90c63c444dfc49c8ef3b6ebd2822ef44209eb0ea5282484106a67c7"
    assert Questions("tiny", temperature=0).first(request).key == first.key
    with_logprobs = Questions("tiny", top_logprobs=5).first(request)
    assert with_logprobs.key == "8f7bd3d83e44243cc907d8c801c972d6461a92ff7efc0cb65cece1362bd185cd"
    unusable = scores.read(first, Completion("nonsense", 300, 4), None)
    following = scores.next(first, unusable)
    assert following.key == "9e5d1783e289cfd623fc0af83dbf0b5b4e6fab26c92a1c83e6988563083f930e"
    assert scores.template.prompt_hash == "a56431f7bfa7e8664cd428697f4affd7607f1eaa7ec7b66fb50c8c19a49c3a23"


def test_a_text_is_kept_without_scores_and_counts_as_usable(tmp_path):
    text = replace(ANSWER, scores=None, request={"kind": "item"}, response='{"text": "a chess set"}')
    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.record(text).result()
        assert ledger.get("k1") == text
        assert ledger.get("k1").ok
    with LedgerReader(tmp_path / "a.sqlite") as reader:
        found = reader.connection.execute("SELECT status, scores FROM answers").fetchall()
    assert found == [("ok", None)]


def test_a_refusal_ends_the_flight_and_stays_until_it_is_forgotten(tmp_path):
    other = replace(REFUSAL, key="k4", reason="flagged \ud800", cause=None)
    with Ledger(tmp_path / "a.sqlite") as ledger:
        mark, _ = ledger.mark_sent("k3", "bob", 0.5)
        ledger.refuse(REFUSAL, mark).result()
        ledger.refuse(other).result()
        assert ledger.spent() == 0
    with Ledger(tmp_path / "a.sqlite") as ledger:
        assert ledger.n_interrupted == 0
        assert ledger.refusal("k3") == REFUSAL
        assert ledger.refusal("k4") == replace(other, reason="flagged ?")
        assert ledger.refusal("k5") is ledger.get("k3") is None
        assert ledger.forget_refused("Too LONG") == 1
        assert ledger.refusal("k3") is None
        assert ledger.refusal("k4") is not None
        assert ledger.forget_refused() == 1


def test_a_conversation_that_ends_with_a_refusal_is_listed_once(tmp_path):
    failed = replace(ANSWER, scores=None, error="no JSON")
    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.record(failed).result()
        ledger.refuse(replace(REFUSAL, first_key="k1", attempt=1)).result()
    with LedgerReader(tmp_path / "a.sqlite") as reader:
        assert len(failures(reader)) == 0
        assert refused(reader)[["user_id", "attempts", "cause"]].values.tolist() == [["bob", 2, "context"]]


def test_a_ledger_of_an_earlier_version_is_read_as_it_is_and_written_with_what_it_lacks(tmp_path):
    path = tmp_path / "old.sqlite"
    with Ledger(path) as ledger:
        ledger.record(ANSWER).result()
    connection = sqlite3.connect(path)
    connection.executescript("DROP TABLE refused; DROP TABLE servers;")
    connection.close()
    before = path.read_bytes()
    with LedgerReader(path) as reader:
        assert reader.get("k1") == ANSWER
        assert reader.refusal("k1") is None
        assert len(refused(reader)) == len(known_servers(reader)) == 0
    assert path.read_bytes() == before
    with Ledger(path) as ledger:
        assert ledger.get("k1") == ANSWER
        ledger.refuse(REFUSAL).result()
        ledger.remember_form("here", "m", ServerForm("text")).result()
    with LedgerReader(path) as reader:
        assert reader.refusal("k3") == REFUSAL
        assert known_servers(reader)["address"].tolist() == ["here"]


def test_the_form_that_a_server_takes_is_kept_by_address_and_model(tmp_path):
    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.remember_form("here", "m", ServerForm("json_object"))
        ledger.remember_form("here", "n", ServerForm(temperature=False))
        ledger.remember_form("here", "m", ServerForm("text")).result()
    with Ledger(tmp_path / "a.sqlite") as ledger:
        assert ledger.form_of("here", "m") == ServerForm("text")
        assert ledger.form_of("here", "n") == ServerForm(temperature=False)
        assert ledger.form_of("there", "m") is None
        assert ledger.forget_forms() == 2
        assert ledger.form_of("here", "m") is None
