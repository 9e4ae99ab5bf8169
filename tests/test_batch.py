"""The Batch API against a server on loopback: merged into the ledger, found again after a kill, resubmitted in part."""

import asyncio
import json
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from sllmr_plugin.errors import ScoringStoppedError
from sllmr_plugin.scoring import batch as batch_module
from sllmr_plugin.scoring.batch import run_batches
from sllmr_plugin.scoring.client import OpenAIClient
from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.prices import Price, RunLimits, estimate_tokens
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.run import run

from .scoring_server import ScoringServer
from .test_scoring_run import requests, truth

QUESTIONS = Questions("tiny")


class Killed(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Return a function that runs requests through a server's batches."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-SECRETKEY-0123456789")
    monkeypatch.setattr(batch_module, "backoff", lambda failures, retry_after=None: 0.01)

    def ask(server, asked, *, questions=QUESTIONS, price=None, most=10**6, take=None, **limits):
        client = OpenAIClient("tiny", base_url=server.base_url, timeout=5)
        limits = RunLimits(**{"retries": 2, **limits})
        with Ledger(tmp_path / "a.sqlite") as ledger:
            return run_batches(
                asked,
                questions,
                client,
                ledger,
                limits=limits,
                price=price,
                poll_seconds=0.01,
                most_requests=most,
                verbose=False,
                take=take,
            )

    return ask


@pytest.fixture
def scores(tmp_path):
    def scores(asked, questions=QUESTIONS):
        with Ledger(tmp_path / "a.sqlite") as ledger:
            return {request.user_id: answer.scores for request, answer in questions.stored_answers(asked, ledger)}

    return scores


def test_answers_of_batches_are_those_of_the_chat_and_shared_with_it(ask, scores, tmp_path):
    asked = requests(10)
    with ScoringServer() as server:
        summary = ask(server, asked, most=4)
        assert len(server.batches) == 3
        assert (summary.requests, summary.asked, summary.unanswered) == (10, 10, 0)
        assert scores(asked) == truth(asked)
        assert ask(server, asked).asked == 0
        client = OpenAIClient("tiny", base_url=server.base_url)
        with Ledger(tmp_path / "a.sqlite") as ledger:
            assert run(asked, QUESTIONS, client, ledger, verbose=False).reused == 10
        assert len(server.seen) == 10


def test_what_fails_in_part_is_sent_again_alone(ask, scores):
    asked, tries = requests(8), {}

    def fails(custom_id):
        tries[custom_id] = tries.get(custom_id, 0) + 1
        return tries[custom_id] == 1 and int(custom_id, 16) % 2

    with ScoringServer() as server:
        server.batch_plan = {"fails": fails}
        ask(server, asked)
        expected = 8 + sum(int(key, 16) % 2 for key in tries)
        assert sum(tries.values()) == expected > 8
    assert scores(asked) == truth(asked)


def test_an_answer_that_cannot_be_used_is_asked_again_with_its_error(ask, scores):
    asked = requests(3)
    with ScoringServer(["extreme"]) as server:
        summary = ask(server, asked)
        assert [len(seen.body["messages"]) for seen in server.seen] == [2, 2, 2, 4]
    assert summary.asked == 4
    assert scores(asked) == truth(asked)


def test_an_expired_batch_keeps_what_came_and_asks_for_the_rest(ask, scores):
    asked = requests(9)
    with ScoringServer() as server:
        server.batch_plan = {"expires": 5}
        ask(server, asked)
        assert max(server.answered.values()) == 1
        assert len(server.batches) == 2
    assert scores(asked) == truth(asked)


@pytest.mark.parametrize("method", ["open_batch", "name_batch", "record", "close_batch"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_step_makes_no_second_batch_and_loses_no_answer(ask, scores, monkeypatch, method, when):
    asked = requests(6)
    original = getattr(Ledger, method)
    calls = []

    def killed(self, *arguments):
        calls.append(method)
        if len(calls) == (3 if method == "record" else 1):
            if when == "after":
                original(self, *arguments).result()
            raise Killed
        return original(self, *arguments)

    with ScoringServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, method, killed)
            with pytest.raises(Killed):
                ask(server, asked)
        ask(server, asked)
        assert len(server.batches) == 1
        assert max(server.answered.values()) == 1
    assert scores(asked) == truth(asked)


def test_a_batch_whose_making_was_cut_off_is_found_and_not_made_twice(ask, scores):
    asked = requests(4)
    with ScoringServer() as server:
        server.batch_plan = {"cut": True}
        ask(server, asked)
        assert len(server.batches) == 1
    assert scores(asked) == truth(asked)


@pytest.mark.parametrize("at_once", [False, True])
def test_batches_beyond_what_may_wait_at_the_server_are_made_smaller(ask, scores, at_once):
    asked = requests(23)
    with ScoringServer() as server:
        server.batch_plan = {"queue": 6, "refuses_at_once": at_once}
        assert ask(server, asked, retries=0).asked == 23
        assert max(server.answered.values()) == 1
        sizes = [content.count(b"custom_id") for content in server.files.values() if b'"url"' in content]
    assert scores(asked) == truth(asked)
    assert sizes[:2] == [23, 11]  # too much, and half of it, too
    assert max(sizes[2:]) == 5  # half of that


def test_the_limit_that_a_server_names_is_that_of_the_next_batch(ask):
    asked = requests(20)
    tokens = [estimate_tokens(QUESTIONS.messages(request)) for request in asked]
    with ScoringServer() as server:
        words = f"Enqueued token limit reached for tiny in org-x1y2z3. Limit: {3 * max(tokens):,} enqueued tokens."
        server.batch_plan = {"queue": 4, "words": words}
        ask(server, asked)
        lines = [content.count(b"custom_id") for content in server.files.values() if b'"url"' in content]
    assert lines[0] == 20
    assert set(lines[1:-1]) == {3}


def test_a_server_that_takes_not_even_one_request_ends_the_run(ask):
    with ScoringServer() as server:
        server.batch_plan = {"queue": 0}
        with pytest.raises(ScoringStoppedError, match="other batches of the account"):
            ask(server, requests(5))
        assert len(server.batches) == 3  # of 5, 2 and 1 requests


def test_a_cap_without_a_limit_of_length_begins_with_few(ask):
    asked, price = requests(60), Price(0, 1000)
    with ScoringServer(lambda number, body: f"thinks:{3000 + 10 * number}") as server:
        summary = ask(server, asked, questions=Questions("tiny", max_tokens=None), price=price, max_cost=100.0)
        sizes = [content.count(b"custom_id") for content in server.files.values() if b'"url"' in content]
    assert sizes[0] == 5
    # 5 answers of at most 3040 tokens cost 15.1; 13 more with 6.08 set aside for each fit into the other 84.9, and
    # what they leave over is for the next.
    assert sizes[1] == 13
    assert 90 < summary.total_cost <= 100


def test_it_runs_where_a_loop_is_running(ask, scores):
    asked = requests(3)

    async def notebook(server):
        return ask(server, asked)

    with ScoringServer() as server:
        assert asyncio.run(notebook(server)).asked == 3
    assert scores(asked) == truth(asked)


def test_ctrl_c_where_a_loop_is_running_ends_the_waiting_and_loses_nothing(ask, scores):
    asked = requests(3)

    async def notebook(server):
        return ask(server, asked)

    def press(server):
        while not server.batches or server.batches["batch_0"]["polls"] < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with ScoringServer() as server:
        server.batch_plan = {"polls": 10**6}
        threading.Thread(target=press, args=(server,)).start()
        loop = asyncio.new_event_loop()  # as in a notebook: nobody has asked it to look after Ctrl-C
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(notebook(server))
        loop.close()
        server.batch_plan = {}
        ask(server, asked)
        assert len(server.batches) == 1
    assert scores(asked) == truth(asked)


def test_a_refused_batch_says_why_and_can_be_sent_again(ask, scores):
    asked = requests(3)
    with ScoringServer() as server:
        server.batch_plan = {"rejected": lambda file: "no such model"}
        with pytest.raises(ScoringStoppedError, match="no such model"):
            ask(server, asked)
        server.batch_plan = {}
        ask(server, asked)
    assert scores(asked) == truth(asked)


MODERATION = (403, {"error": {"message": "Input was flagged by moderation"}})


@pytest.mark.parametrize("said", [MODERATION, (400, {"error": {"message": "?"}})])
def test_what_a_batch_refuses_for_good_is_kept_and_not_sent_again(ask, scores, said):
    asked = requests(6)
    with ScoringServer(lambda number, body: said if number in (0, 4) else None) as server:
        summary = ask(server, asked)
        assert (summary.asked, summary.refused, summary.unanswered, len(server.batches)) == (4, 2, 0, 1)
        again = ask(server, requests(7))
        assert (again.asked, again.refused, again.reused) == (1, 2, 4)
        assert len(server.seen) == 7
    assert scores(asked) == {user: found for user, found in truth(asked).items() if user not in ("u0", "u4")}


def test_a_batch_that_is_refused_for_its_form_is_made_again_in_another_one(ask, scores, tmp_path):
    asked = requests(3)
    said = (400, {"error": {"message": "Invalid argument"}})
    with ScoringServer(
        lambda number, body: said if "json_schema" in str(body.get("response_format")) else None
    ) as server:
        assert ask(server, asked).asked == 3
        assert len(server.batches) == 3  # the second one has a schema without bounds
        ask(server, requests(4))
        assert server.seen[-1].body["response_format"] == {"type": "json_object"}  # kept from the run before
        assert len(server.seen) == 10
    assert scores(asked) == truth(asked)


def test_a_batch_that_is_rejected_as_a_whole_for_its_form_is_made_again_in_another_one(ask, scores):
    asked = requests(3)
    with ScoringServer() as server:
        server.batch_plan = {
            "rejected": lambda file: "line 1: 'temperature' is not supported" if b'"temperature"' in file else None
        }
        summary = ask(server, asked)
        assert "temperature" not in server.seen[-1].body
        assert "takes no temperature" in str(summary)
        assert len(server.batches) == 2
    assert scores(asked) == truth(asked)


def test_a_batch_of_a_killed_run_is_noted_in_the_form_that_it_was_made_in(ask, scores, tmp_path, monkeypatch):
    asked, original, named = requests(3), Ledger.name_batch, []

    def killed(self, *arguments):
        original(self, *arguments).result()
        named.append(arguments)
        if len(named) == 2:
            raise Killed
        return original(self, *arguments)

    with ScoringServer() as server:
        server.batch_plan = {
            "rejected": lambda file: "line 1: 'temperature' is not supported" if b'"temperature"' in file else None
        }
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "name_batch", killed)
            with pytest.raises(Killed):
                ask(server, asked)
        summary = ask(server, asked)
        assert len(server.batches) == 2  # the one without a temperature was found again
        with Ledger(tmp_path / "a.sqlite") as ledger:
            noted = [ledger.get(QUESTIONS.first(request).key).request for request in asked]
            assert not ledger.form_of(server.base_url, "tiny").temperature
    assert [(one["left_out"], one["parameters"]["temperature"]) for one in noted] == [(["temperature"], None)] * 3
    assert "takes no temperature" in str(summary)
    assert scores(asked) == truth(asked)


def test_requests_with_the_very_same_words_share_an_answer_and_count_apart(ask, scores):
    one, other = requests(2)
    same = replace(one, user_id="twin", item_ids=tuple(f"{item}-twin" for item in one.item_ids))
    with ScoringServer(["extreme"]) as server:  # the first answer cannot be used, and is asked about again
        taken = []
        summary = ask(server, [one, other, same], take=lambda request, answer: taken.append(request.user_id))
        assert len(server.seen) == 3
    assert sorted(taken) == sorted(["u0", "twin", "u1"])
    assert (summary.requests, summary.asked, summary.unanswered, summary.failed) == (3, 3, 0, 0)
    assert scores([one, other, same]) == truth([one, other, same])


def test_prompts_of_a_batch_that_are_all_refused_are_told_with_the_way_out(ask):
    said = (400, {"error": {"message": "maximum context length is 9 tokens", "code": "context_length_exceeded"}})
    with ScoringServer(lambda number, body: said) as server:
        for _ in range(2):
            with pytest.raises(ScoringStoppedError, match="refuses every request.*context length.*forget-refused"):
                ask(server, requests(2))
        assert len(server.seen) == 2


def test_credit_that_ends_within_a_batch_marks_no_request_as_refused(ask):
    said = (429, {"error": {"message": "no credit", "code": "insufficient_quota"}})
    with ScoringServer(lambda number, body: said if number >= 2 else None) as server:
        with pytest.raises(ScoringStoppedError, match="Top up"):
            ask(server, requests(4))
        server.plan = lambda number, body: None
        summary = ask(server, requests(4))
        assert (summary.reused, summary.asked, summary.refused) == (2, 2, 0)


def test_batches_that_bring_nothing_come_to_an_end(ask):
    with ScoringServer() as server:
        server.batch_plan = {"fails": lambda custom_id: True}
        with pytest.raises(ScoringStoppedError, match="3 batches in a row"):
            ask(server, requests(3))
        assert len(server.batches) == 3


def test_a_batch_without_one_usable_answer_is_not_paid_for_again(ask):
    with ScoringServer(lambda number, body: "garbage") as server:
        with pytest.raises(ScoringStoppedError, match="not one of 12 answers"):
            ask(server, requests(12))
        assert len(server.seen) == 12


def test_the_cap_counts_what_is_in_batches(ask):
    asked, price = requests(50), Price(1000, 1000)
    with ScoringServer() as server:
        summary = ask(server, asked, price=price, max_cost=10.0)
        assert summary.stopped == "max_cost"
        assert 0 < summary.total_cost <= 10.0
        assert 0 < summary.asked < 50
        assert summary.asked == len(server.seen)
        assert summary.unanswered == 50 - summary.asked


def test_an_open_batch_of_another_command_is_left_alone_and_nothing_of_it_asked_in_chat(
    ask, scores, monkeypatch, tmp_path
):
    asked, others = requests(3), requests(6)[3:]

    async def gone(self, batch_id):
        raise Killed

    with ScoringServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(batch_module._Batches, "_ended", gone)
            with pytest.raises(Killed):
                ask(server, asked)
        client = OpenAIClient("tiny", base_url=server.base_url)
        with Ledger(tmp_path / "a.sqlite") as ledger, pytest.raises(ScoringStoppedError, match="pay twice"):
            run(asked, QUESTIONS, client, ledger, verbose=False)
        with pytest.raises(ScoringStoppedError, match="other requests"):
            ask(server, others)
        ask(server, asked)
        ask(server, others)
    assert scores(asked + others) == truth(asked + others)


def test_a_line_that_is_no_json_is_asked_again(ask, scores):
    asked = requests(5)
    with ScoringServer() as server:
        finish, spoilt = server._finish_batch, []

        def finish_and_spoil(batch):
            finish(batch)
            if not spoilt:
                spoilt.append(True)
                lines = server.files[batch["output_file_id"]].splitlines(keepends=True)
                odd = lines[0].replace(b'"response": {', b'"response": "gone", "was": {') + lines[0].replace(
                    b'"custom_id"', b'"custom_ids"'
                )
                assert odd.count(b"gone") == 1
                server.files[batch["output_file_id"]] = (
                    b"[1]\n\xff\xfe\n" + odd + lines[0][:50] + b"\n" + b"".join(lines[1:])
                )

        server._finish_batch = finish_and_spoil
        ask(server, asked)
        assert len(server.batches) == 2
    assert scores(asked) == truth(asked)


def test_the_file_holds_requests_as_the_api_wants_them(ask):
    with ScoringServer() as server:
        ask(server, requests(2))
        lines = [json.loads(line) for line in server.files["file-0"].splitlines()]
    assert {line["method"] + line["url"] for line in lines} == {"POST/v1/chat/completions"}
    assert len({line["custom_id"] for line in lines}) == 2
    assert lines[0]["body"]["response_format"]["type"] == "json_schema"
    assert b"SECRET" not in server.files["file-0"]


def test_it_can_run_after_another_loop(ask, scores):
    asyncio.run(asyncio.sleep(0))
    with ScoringServer() as server:
        ask(server, requests(1))
    assert scores(requests(1)) == truth(requests(1))
