"""The runner against a real server on loopback that misbehaves in every way we could think of."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import threading
import time
import warnings
from dataclasses import replace

import openai
import pytest
from aiohttp import web

from sllmr_plugin.errors import (
    ConfigError,
    LedgerError,
    LogprobsWarning,
    PriceError,
    PromptCutWarning,
    ScoringStoppedError,
    ServerError,
    SLLMRWarning,
)
from sllmr_plugin.scoring.answers import expected_scores
from sllmr_plugin.scoring.asking import Tally
from sllmr_plugin.scoring.client import Completion, OpenAIClient
from sllmr_plugin.scoring.label_scores import label_scores
from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.limits import CircuitBreaker, Pace
from sllmr_plugin.scoring.prices import Price, RunLimits, Spending
from sllmr_plugin.scoring.prompts import PromptTemplate, response_format
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.ranking_answers import parse_ranking
from sllmr_plugin.scoring.requests import ScoringRequest
from sllmr_plugin.scoring.run import estimate, run
from sllmr_plugin.scoring.text_questions import TextQuestions
from sllmr_plugin.scoring.text_requests import TextRequest

from .scoring_server import ScoringServer, content, logprobs, score_of

KEY = "sk-test-SECRETKEY-0123456789"
QUESTIONS = Questions("tiny")


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("sllmr_plugin.scoring.runner.backoff", lambda failures, retry_after=None: retry_after or 0.01)


def requests(n, n_candidates=4):
    return [
        ScoringRequest(
            f"u{user}",
            (f"History of {user}",),
            tuple(f"i{user}-{k}" for k in range(n_candidates)),
            tuple(f"Title {k} for {user}" for k in range(n_candidates)),
        )
        for user in range(n)
    ]


def truth(asked):
    return {
        request.user_id: dict(zip(request.item_ids, map(score_of, request.titles), strict=True)) for request in asked
    }


class Setting:
    """A server, a ledger file and a way to run requests through both."""

    def __init__(self, server, path):
        self.server, self.path = server, path

    def run(self, asked, questions=QUESTIONS, *, timeout=5.0, breaker=None, price=None, **limits):
        client = OpenAIClient(questions.model, base_url=self.server.base_url, timeout=timeout)
        limits = RunLimits(**{"concurrency": 4, **limits})
        with Ledger(self.path) as ledger:
            return run(asked, questions, client, ledger, limits=limits, price=price, breaker=breaker, verbose=False)

    def scores(self, asked, questions=QUESTIONS):
        with Ledger(self.path) as ledger:
            return {request.user_id: answer.scores for request, answer in questions.stored_answers(asked, ledger)}

    def everything_written(self):
        return b"".join(file.read_bytes() for file in self.path.parent.iterdir())


@pytest.fixture
def setting(tmp_path):
    """Return a function that starts a server."""
    servers = []

    def start(plan=(), **keywords):
        servers.append(ScoringServer(plan, **keywords).__enter__())
        return Setting(servers[-1], tmp_path / "ledger" / "a.sqlite")

    yield start
    for server in servers:
        server.__exit__()


def test_temperature_zero_is_one_question_however_it_is_written():
    request = requests(1)[0]
    keys = {Questions("tiny", temperature=t).first(request).key for t in (0, 0.0, -0.0 + 0)}
    assert len(keys) == 1
    assert Questions("tiny", temperature=1).first(request).key not in keys


def test_every_request_is_asked_once_and_never_again(setting):
    here, asked = setting(latency=0.02), requests(30)
    summary = here.run(asked)
    assert here.scores(asked) == truth(asked)
    assert (summary.requests, summary.asked, summary.reused, summary.failed) == (30, 30, 0, 0)
    assert len(here.server.seen) == 30
    assert 1 < here.server.most_in_flight <= 4
    again = here.run(asked + requests(40)[30:])
    assert (again.asked, again.reused) == (10, 30)
    assert len(here.server.seen) == 40
    assert max(here.server.answered.values()) == 1


def test_structured_output_is_asked_for_and_nothing_of_the_user_but_titles(setting):
    here, asked = setting(), requests(1)
    here.run(asked)
    body = here.server.seen[0].body
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["scores"]["required"] == ["1", "2", "3", "4"]
    assert body["temperature"] == 0
    assert "u0" not in json.dumps(body)
    assert "i0-" not in json.dumps(body)


@pytest.mark.parametrize(
    ("kind", "n_asked", "may_have_cost"),
    [
        ("429:0.05", 2, 0),
        ("429", 2, 0),
        ("500", 2, 0),
        ("502", 2, 0),
        ("503", 2, 0),
        ("hang:60", 2, 1),
        ("cut", 2, 1),
        ("half a body", 2, 1),
        ("bad json", 2, 1),
        ("html", 2, 1),
        ("no choices", 2, 1),
        ("null", 2, 1),
        ("deep", 2, 1),
        ("max_tokens", 2, 0),
        ("prose", 1, 0),
        ("wrong ids", 1, 0),
        ("duplicates", 1, 0),
        ("surrogate", 1, 0),
        ("extreme", 2, 0),
        ("negative", 2, 0),
        ("nan", 2, 0),
        ("garbage", 2, 0),
        ("empty", 2, 0),
        ("echo key", 1, 0),
    ],
)
def test_misbehaviour_is_survived_with_the_right_scores(setting, kind, n_asked, may_have_cost):
    here, asked = setting([None, kind]), requests(2)
    # a machine that does much else answers late, which is no misbehaviour of the server
    patience = 2.0 if kind.startswith("hang") else 60.0
    summary = here.run(asked, concurrency=1, timeout=patience, price=Price(1, 1))
    assert here.scores(asked) == truth(asked)
    assert (summary.requests, summary.failed, summary.unanswered) == (2, 0, 0)
    assert len(here.server.seen) == 1 + n_asked
    assert sqlite3.connect(here.path).execute("SELECT count(*) FROM unanswered").fetchone() == (may_have_cost,)
    assert KEY.encode() not in here.everything_written()


def test_an_error_is_fed_back_and_an_answer_that_fails_to_the_end_is_kept_as_failed(setting):
    here, asked = setting(lambda number, body: "extreme" if "Title 0 for 1" in json.dumps(body) else None), requests(3)
    summary = here.run(asked)
    assert summary.failed == 1
    assert set(here.scores(asked)) == {"u0", "u2"}
    assert "outside 0 to 1" in summary.last_problem
    conversation = [seen.body["messages"] for seen in here.server.seen if "Title 0 for 1" in seen.text]
    assert [len(messages) for messages in conversation] == [2, 4, 6]  # system, user; then the answer and the complaint
    assert "1e+308" in conversation[1][2]["content"]
    assert "outside 0 to 1" in conversation[1][3]["content"]
    assert here.run(asked).asked == 0  # paid once, not again
    more = here.run(asked, Questions("tiny", attempts=5))
    assert (more.asked, more.failed) == (2, 1)
    assert len([1 for seen in here.server.seen if "Title 0 for 1" in seen.text]) == 5


def test_a_conversation_is_taken_up_where_a_stop_left_it(setting):
    here, asked = setting(["garbage", "401"]), requests(1)
    with pytest.raises(ScoringStoppedError):
        here.run(asked)
    here.run(asked)
    assert [len(seen.body["messages"]) for seen in here.server.seen] == [2, 4, 4]
    assert here.scores(asked) == truth(asked)


def test_what_an_answer_leaves_out_is_missing_and_not_asked_again(setting):
    here, asked = setting(["leaves one out", "cut off"]), requests(2)
    here.run(asked, concurrency=1)
    with Ledger(here.path) as ledger:
        answers = {request.user_id: answer for request, answer in QUESTIONS.stored_answers(asked, ledger)}
    assert answers["u0"].missing == ("i0-0",)
    assert answers["u1"].missing == ("i1-2", "i1-3")
    assert len(here.server.seen) == 2


def test_a_server_without_structured_output_is_asked_otherwise_from_then_on(setting):
    here, asked = setting(refuses_formats=("json_schema", "json_object")), requests(10)
    here.run(asked)
    assert here.scores(asked) == truth(asked)
    formats = [seen.body.get("response_format") for seen in here.server.seen]
    assert formats[:2] == [response_format(4), response_format(4, limits="none")]  # maybe only its bounds are too much
    assert [form and form["type"] for form in formats[2:]] == ["json_object"] + [None] * 10


def test_a_server_that_keeps_no_bounds_is_given_the_scores_as_a_list_from_then_on(setting):
    here, asked = setting(["extreme"]), requests(3)
    here.run(asked, concurrency=1)
    assert here.scores(asked) == truth(asked)
    here.run(requests(4))  # remembered for the server
    sent = [seen.body["response_format"] for seen in here.server.seen]
    assert sent == [response_format(4)] + [response_format(4, limits="steps")] * 4


def test_bounds_that_are_broken_later_are_remembered_too(setting):
    here = setting([None, "extreme"])
    here.run(requests(2), concurrency=1)
    here.run(requests(3))
    sent = [seen.body["response_format"] for seen in here.server.seen]
    assert sent == [response_format(4)] * 2 + [response_format(4, limits="steps")] * 2


def test_a_server_that_refuses_the_bounds_alone_keeps_its_schema(setting):
    here = setting()
    original = here.server._respond

    async def respond(request, body, kind):
        if "minimum" in json.dumps(body["response_format"]):
            return web.json_response({"error": {"message": "unsupported keyword 'minimum'"}}, status=400)
        return await original(request, body, kind)

    here.server._respond = respond
    here.run(requests(3))
    assert [seen.body["response_format"] for seen in here.server.seen[1:]] == [response_format(4, limits="none")] * 3


def test_a_server_that_keeps_the_bounds_is_left_with_them(setting):
    here = setting(["garbage", "cut off", "leaves one out"])
    here.run(requests(3), concurrency=1)
    assert all(seen.body["response_format"] == response_format(4) for seen in here.server.seen)


def test_an_extra_body_is_sent_is_part_of_the_key_and_leaves_no_secret_behind(setting):
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "auth": {"api_key": "hunter22TOP", "ids": [1]}}
    here, asked = setting([None, "400"]), requests(2)
    questions = Questions("tiny", extra_body=extra | {"note": "of org-TOPSECRET42"})
    summary = here.run(asked, questions, concurrency=1)
    assert summary.refused == 1  # and its reason is in the ledger
    assert here.server.seen[0].body["chat_template_kwargs"] == {"enable_thinking": False}
    assert here.server.seen[0].body["auth"] == {"api_key": "hunter22TOP", "ids": [1]}
    assert here.run(asked[:1], questions).asked == 0
    assert here.run(asked[:1], Questions("tiny")).asked == 1
    written = here.everything_written()
    assert b"TOP" not in written
    assert b"enable_thinking" in written
    keys = {
        Questions("tiny", extra_body=body).first(asked[0]).key
        for body in (None, {}, {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, {"top_k": 1})
    }
    assert len(keys) == 4  # none and nothing are one
    assert Questions("tiny").first(asked[0]).key in keys


def test_what_a_server_says_of_a_secret_in_the_extra_body_is_not_told():
    client = OpenAIClient("tiny", base_url="http://localhost:1/v1")
    client.body([], 2, {"extra_body": {"headers": {"X-Token": "hunter22"}, "user": "anna"}})
    assert client.scrub("token hunter22 of anna is wrong") == "token *** of anna is wrong"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"model": "x"}, "must not hold model: --model"),
        ({"messages": []}, "messages"),
        ({"stream": True}, "stream"),
        ({"temperature": 1}, "--temperature"),
        ({"max_completion_tokens": 9}, "--max-tokens"),
        ({"response_format": {}}, "--answer"),
        ({"n": 2}, "--repeats"),
        ({"x": float("nan")}, "what JSON cannot say"),
        ({"x": {1, 2}}, "what JSON cannot say"),
        ({1: 2}, "names as keys"),
        ([1], "not a JSON object"),
        ("{}", "not a JSON object"),
    ],
)
def test_an_extra_body_that_cannot_be_sent_is_refused(body, told):
    with pytest.raises(ConfigError, match=told):
        Questions("tiny", extra_body=body)


def counting(here, tokens):
    """Let a server count a prompt's tokens as it likes."""
    original = here.server._respond

    async def respond(request, body, kind):
        response = await original(request, body, kind)
        payload = json.loads(response.text)
        payload["usage"]["prompt_tokens"] = tokens(json.dumps(body["messages"]))
        return web.json_response(payload)

    here.server._respond = respond


@pytest.mark.parametrize(
    ("tokens", "cut"), [(lambda text: len(text) // 5, 0), (lambda text: 0, 0), (lambda text: 64, 3)]
)
def test_prompts_that_the_server_has_cut_are_told_of(setting, tokens, cut):
    here, asked, spending = setting(), requests(3, n_candidates=20), Spending()
    counting(here, tokens)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        here.run(asked)
    ours = {one.category for one in told if issubclass(one.category, SLLMRWarning)}
    assert ours == ({PromptCutWarning} if cut else set())
    with Ledger(here.path) as ledger:
        assert len(list(QUESTIONS.stored_answers(asked, ledger, spending))) == 3
    assert spending.cut_prompts == cut
    assert spending.recorded().get("cut_prompts", 0) == cut
    assert len(spending.notes()) == bool(cut)


def test_reasoning_and_cached_tokens_are_read_wherever_a_server_counts_them():
    client = OpenAIClient("tiny", base_url="http://localhost:1/v1")

    def read(**usage):
        choice = {"index": 0, "message": {"role": "assistant", "content": "{}"}, "finish_reason": "stop"}
        head = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        found = client.read_body(head | {"usage": usage}, [])
        return found.prompt_tokens, found.completion_tokens, found.cached_tokens

    count = {"prompt_tokens": 100, "completion_tokens": 20}
    reasoning = {"completion_tokens_details": {"reasoning_tokens": 15}}
    assert read(**count, total_tokens=120, **reasoning) == (100, 20, 0)  # among the 20
    assert read(**count, total_tokens=135, **reasoning) == (100, 35, 0)  # beside them
    assert read(**count, total_tokens=120, prompt_tokens_details={"cached_tokens": 64}) == (100, 20, 64)
    assert read(**count, total_tokens=120, prompt_tokens_details={"cached_tokens": 640}) == (100, 20, 100)
    assert read(**count, total_tokens=120, prompt_cache_hit_tokens=64) == (100, 20, 64)
    assert read(**count, total_tokens=120, prompt_tokens_details=None) == (100, 20, 0)


def test_log_probabilities_refine_the_scores_and_their_absence_is_told(setting):
    questions = Questions("tiny", top_logprobs=5)
    here, asked = setting([None, "no logprobs"]), requests(2)
    with pytest.warns(LogprobsWarning, match="scores are taken as written"):
        here.run(asked, questions, concurrency=1)
    assert (here.server.seen[0].body["logprobs"], here.server.seen[0].body["top_logprobs"]) == (True, 5)
    text = content(here.server.seen[0].body["messages"], None)
    found = here.scores(asked, questions)
    assert found["u0"] == expected_scores(logprobs(text), asked[0]).scores
    assert found["u0"] != truth(asked)["u0"]
    assert found["u1"] == truth(asked)["u1"]


def test_log_probabilities_of_a_rankings_first_label_are_its_scores(setting):
    questions = Questions("tiny", template=PromptTemplate(answer="ranking"), top_logprobs=5)
    here, asked = setting([None, "no logprobs"]), requests(2)
    with pytest.warns(LogprobsWarning, match="the ranks are taken as written"):
        here.run(asked, questions, concurrency=1)
    text = content(here.server.seen[0].body["messages"], None)
    found = here.scores(asked, questions)
    assert found["u0"] == label_scores(logprobs(text), asked[0]).scores
    assert sum(found["u0"].values()) == pytest.approx(1)
    text = content(here.server.seen[1].body["messages"], None)
    assert found["u1"] == parse_ranking(text, asked[1]).scores


def test_two_requests_with_the_same_words_are_asked_once(setting):
    here = setting(latency=0.05)
    one = requests(1)[0]
    twin = ScoringRequest("twin", one.history, ("a", "b", "c", "d"), one.titles)
    here.run([one, twin])
    assert len(here.server.seen) == 1
    assert list(here.scores([one, twin])["twin"]) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(("kind", "word"), [("401", "OPENAI_API_KEY"), ("quota", "Top up"), ("404", "--model")])
def test_what_cannot_work_stops_at_the_first_request_and_names_the_remedy(setting, kind, word):
    here = setting(lambda number, body: kind)
    with pytest.raises(ScoringStoppedError, match=word) as caught:
        here.run(requests(50), concurrency=16)
    assert len(here.server.seen) == 1
    assert "SECRET" not in str(caught.value)
    assert b"SECRET" not in here.everything_written()


def test_a_key_that_dies_amid_a_run_stops_it_and_loses_no_answer(setting):
    here, asked = setting(lambda number, body: "401" if number > 20 else None, latency=0.02), requests(100)
    with pytest.raises(ScoringStoppedError, match="21 answers of this run"):
        here.run(asked)
    assert len(here.server.seen) <= 21 + 4
    assert len(here.scores(asked)) == 21


def test_nobody_listening_is_told_at_once(setting, tmp_path):
    here = setting()
    here.server.__exit__()
    with pytest.raises(ScoringStoppedError, match="Check --base-url"):
        here.run(requests(50), retries=2)


def test_a_server_that_stays_busy_stops_the_run(setting):
    here = setting(lambda number, body: "429:0.02")
    with pytest.raises(ScoringStoppedError, match="slow down"):
        here.run(requests(10), breaker=CircuitBreaker(patience=0.3))


def test_retry_after_holds_everyone_back(setting):
    here, asked = setting([None, None, "429:1"], latency=0.01), requests(12)
    here.run(asked)
    times = [seen.time for seen in here.server.seen]
    limited = times[2]
    others_in_flight = 4
    assert sum(limited + 0.1 < moment < limited + 0.95 for moment in times) == 0
    assert sum(moment > limited + 0.95 for moment in times) >= 12 - 2 - others_in_flight


def test_a_wait_that_is_too_long_is_left_to_the_user(setting):
    here = setting([None, "429:86400"])
    with pytest.raises(ScoringStoppedError, match="asks to wait 86400 s"):
        here.run(requests(3), concurrency=1)


def test_a_model_that_does_not_understand_is_not_paid_for_long(setting):
    here = setting(lambda number, body: "garbage")
    with pytest.raises(ScoringStoppedError, match="10 answers in a row cannot be used.*sllmr ledger failures"):
        here.run(requests(500))
    assert 10 <= len(here.server.seen) <= 10 + 4


def test_a_model_that_needs_to_be_told_each_time_stops_nothing(setting):
    here, asked = setting(lambda number, body: "garbage" if len(body["messages"]) == 2 else None), requests(60)
    here.run(asked)
    assert here.scores(asked) == truth(asked)


def test_a_limit_without_retry_after_is_met_with_growing_pauses(setting, monkeypatch):
    pauses = []

    def backoff(failures, retry_after=None):
        pauses.append(failures)
        return 0.2

    monkeypatch.setattr("sllmr_plugin.scoring.runner.backoff", backoff)
    here, asked = setting([None] + ["429"] * 12, latency=0.02), requests(12)
    here.run(asked)
    assert here.scores(asked) == truth(asked)
    assert pauses == sorted(pauses)
    assert pauses.count(1) <= 4  # what was in flight together counts once
    assert 3 <= max(pauses) <= 12


def test_ctrl_c_waits_for_what_is_in_flight_and_a_second_one_does_not(setting):
    def press_at_the_third(number, body):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    here, asked = setting(press_at_the_third, latency=0.1), requests(100)
    with pytest.raises(KeyboardInterrupt):
        here.run(asked, timeout=60)
    n_seen = here.server.n_seen
    assert 3 <= n_seen <= 3 + 2 * 4  # what is in flight, and what each of four workers was about to send
    assert len(here.scores(asked)) == n_seen

    def press_twice():
        while here.server.n_seen == n_seen:
            time.sleep(0.01)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # signals that come together count once

    here.server.latency = 600
    threading.Thread(target=press_twice).start()
    with pytest.raises(KeyboardInterrupt):
        here.run(asked, timeout=600)
    with Ledger(here.path) as ledger:
        assert 1 <= ledger.n_interrupted <= 4  # it did not wait for the answers


@pytest.mark.parametrize("limits", [{"concurrency": 0}, {"max_cost": -1}, {"retries": -1}, {"requests_per_minute": 0}])
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(ConfigError, match=next(iter(limits))):
        RunLimits(**limits)


def test_the_cap_is_not_exceeded_and_a_higher_one_goes_on(setting):
    here, asked = setting(latency=0.01), requests(200)
    price = Price(1000, 1000)
    summary = here.run(asked, price=price, max_cost=10.0, concurrency=8)
    assert summary.stopped == "max_cost"
    assert summary.unanswered <= 8
    each = summary.cost / summary.asked
    assert summary.cost <= 10.0
    most_reserved = 1.5 * each + 0.28 * 1000 / 1e3  # what one request with the longest answer would cost
    assert summary.cost > 10.0 - most_reserved
    again = here.run(asked, price=price, max_cost=10.0)
    assert (again.asked, again.total_cost) == (0, pytest.approx(summary.cost))
    assert here.run(asked, price=price, max_cost=100.0).asked == 200 - summary.asked
    assert len(here.server.seen) == 200


@pytest.mark.parametrize("lengths", [(900, 1800, 3000, 5000, 8000), (8000, 900)])
def test_the_cap_holds_for_answers_without_a_limit_that_get_longer_than_guessed(setting, lengths):
    here, asked = setting(lambda number, body: f"thinks:{lengths[number % len(lengths)]}", latency=0.03), requests(80)
    questions = Questions("tiny", max_tokens=None)
    price, cap = Price(0, 1000), 100.0  # a dollar for a thousand tokens
    summary = here.run(asked, questions, price=price, max_cost=cap, concurrency=32)
    assert summary.stopped == "max_cost"
    assert cap - 2 * max(lengths) / 1000 < summary.total_cost <= cap
    assert here.run(asked, questions, price=price, max_cost=cap, concurrency=32).asked == 0


def test_the_dry_run_says_how_long_it_takes_answers_to_be(setting):
    lengths = [2000, 4000, 9000]
    here, asked = setting(lambda number, body: f"thinks:{lengths[number]}"), requests(8)
    questions, price = Questions("tiny", max_tokens=None), Price(0, 1000)

    def dry_run(questions):
        with Ledger(here.path) as ledger:
            return estimate(asked, questions, ledger, price)

    assert "a model that thinks before it answers writes many times as much" in str(dry_run(questions))
    assert dry_run(questions).completion_tokens == 8 * (10 + 8 * 4)  # what the form needs
    here.run(asked[:3], questions, concurrency=1)
    assert "5000 tokens, the mean of the 3 without a limit" in str(dry_run(questions))
    assert "the longest has 9000" in str(dry_run(questions))
    assert dry_run(questions).completion_tokens == 5 * 5000
    assert dry_run(questions).cost == pytest.approx(25.0)
    limited = dry_run(Questions("tiny"))
    assert "no limit" not in str(limited)
    assert limited.completion_tokens == 8 * (10 + 8 * 4)


def test_a_request_that_is_lost_is_charged_to_the_cap(setting):
    here, asked = setting(lambda number, body: "cut" if number else None), requests(30)
    price = Price(0, 1000)  # the answers may have 280 tokens: 0.28 dollars each
    summary = here.run(asked, price=price, max_cost=2.0, concurrency=1, retries=0, breaker=CircuitBreaker(100))
    assert summary.stopped == "max_cost"
    answer = summary.completion_tokens / 1000
    lost = here.server.n_seen - 1
    assert lost == int((2.0 - answer) / 0.28)
    assert summary.cost == summary.total_cost == pytest.approx(answer + lost * 0.28)
    with Ledger(here.path) as ledger:
        assert ledger.spent() == pytest.approx(summary.total_cost)


def test_hundreds_at_a_time_share_small_pools_of_connections(setting):
    here, asked = setting(latency=0.3), requests(70)
    here.run(asked, concurrency=70, timeout=60)
    assert here.scores(asked) == truth(asked)
    client = OpenAIClient("tiny", base_url=here.server.base_url)
    with contextlib.ExitStack() as stack:
        lent = [id(stack.enter_context(client._connections._lent())) for _ in range(38)]
    assert sorted(lent.count(pool) for pool in set(lent)) == [6, 16, 16]
    with client._connections._lent() as pool:
        assert id(pool) in lent
    asyncio.run(client.close())


@pytest.mark.parametrize("kind", ["429:0.05", "500", "hang:30", "cut", "half a body", "bad json", "deep", "echo key"])
def test_misbehaviour_is_survived_without_aiohttp_too(setting, monkeypatch, kind):
    def missing(**keywords):
        raise RuntimeError("To use the aiohttp client you must have installed the package with the `aiohttp` extra")

    monkeypatch.setattr(openai, "DefaultAioHttpClient", missing, raising=False)  # earlier versions have none
    here, asked = setting([None, kind]), requests(3)
    here.run(asked, concurrency=1, timeout=2)
    assert here.scores(asked) == truth(asked)


def test_ctrl_c_where_a_loop_is_running_waits_for_what_is_in_flight(setting):
    here, asked = setting(latency=0.3), requests(100)

    async def notebook():
        return here.run(asked)

    def press():
        while here.server.n_seen < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    loop = asyncio.new_event_loop()  # as in a notebook: nobody has asked it to look after Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(notebook())
    loop.close()
    assert here.server.n_seen < 20
    assert len(here.scores(asked)) == here.server.n_seen


def test_a_cap_without_a_price_is_refused(setting):
    with pytest.raises(PriceError, match="--prices"):
        setting().run(requests(1), max_cost=1.0)


def test_costs_are_those_of_the_tokens_that_the_server_counted(setting):
    here, asked = setting(["garbage"]), requests(3)
    summary = here.run(asked, price=Price(2, 10))
    rows = sqlite3.connect(here.path).execute("SELECT prompt_tokens, completion_tokens, cost FROM answers").fetchall()
    assert len(rows) == 4
    assert all(cost == pytest.approx((2 * prompt + 10 * written) / 1e6) for prompt, written, cost in rows)
    assert summary.cost == pytest.approx(sum(row[2] for row in rows))
    assert summary.prompt_tokens == sum(row[0] for row in rows)


def test_a_server_that_does_not_count_is_estimated(setting):
    here = setting(usage=False)
    assert 100 < here.run(requests(1)).prompt_tokens < 1000


def test_requests_a_minute_are_spaced(setting):
    here = setting()
    start = time.monotonic()
    here.run(requests(6), requests_per_minute=60 / 0.1)
    times = [seen.time - start for seen in here.server.seen]
    assert all(moment >= 0.1 * number for number, moment in enumerate(times))


def test_requests_stay_spaced_when_a_hold_ends(setting, monkeypatch):
    """Whatever delays the machine adds: nothing is sent in a hold, and behind it nothing before its slot."""
    sent, held = [], []
    mark_sent, hold = Ledger.mark_sent, Pace.hold

    def noting(self, *arguments):
        sent.append(time.monotonic())
        return mark_sent(self, *arguments)

    def holding(self, seconds):
        held.append(time.monotonic())
        hold(self, seconds)

    monkeypatch.setattr(Ledger, "mark_sent", noting)
    monkeypatch.setattr(Pace, "hold", holding)
    here = setting([None, None, "429:1"])
    here.run(requests(16), timeout=60, requests_per_minute=60 / 0.1, concurrency=16)
    assert len(sent) == 16 + 1
    (began,) = held
    after = [moment - began for moment in sent if moment > began]
    assert len(after) >= 2
    assert all(moment >= 1.0 + 0.1 * number for number, moment in enumerate(after))


def test_a_ledger_that_cannot_be_written_stops_the_asking(setting, monkeypatch):
    here = setting(latency=0.01)
    record = Ledger.record

    def full(self, answer, mark=None):
        if here.server.n_seen < 10:
            return record(self, answer, mark)
        return self._submit([("INSERT INTO nowhere VALUES (1)", ())])

    monkeypatch.setattr(Ledger, "record", full)
    with pytest.raises(LedgerError, match="nowhere"):
        here.run(requests(100))
    assert len(here.server.seen) < 20


def test_it_runs_where_a_loop_is_running(setting):
    here, asked = setting(), requests(3)

    async def notebook():
        return here.run(asked)

    assert asyncio.run(notebook()).asked == 3


def test_requests_are_taken_as_they_are_needed(setting):
    here, taken = setting(latency=0.02), []

    def endless():
        for request in requests(60):
            taken.append(request.user_id)
            assert len(taken) <= here.server.n_seen + 4 + 1
            yield request

    here.run(endless())
    assert len(taken) == 60


def read(content, finish="stop", **message):
    """Return a completion as the client reads it, as of a server that sends this message."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    client = OpenAIClient("tiny", base_url="http://127.0.0.1:9/v1")
    return client.read_body({"id": "c", "object": "chat.completion", "model": "tiny", "choices": [choice]}, [])


GOOD = '{"scores": {"1": 0.5, "2": 0.25, "3": 1, "4": 0}}'


@pytest.mark.parametrize(
    "pieces",
    [
        [{"type": "text", "text": GOOD}],
        [{"type": "text", "text": GOOD[:20]}, {"type": "text", "text": GOOD[20:]}],
        [GOOD[:20], {"text": {"value": GOOD[20:]}}],
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": '{"1": 0.9}'}]},
            {"type": "reasoning", "text": '{"scores": {"1": 1, "2": 1, "3": 1, "4": 1}}'},
            {"type": "output_text", "text": GOOD},
        ],
    ],
)
def test_pieces_of_content_are_joined_and_thoughts_among_them_left_out(pieces):
    assert read(pieces).text == GOOD
    assert QUESTIONS.read(QUESTIONS.first(requests(1)[0]), read(pieces), None).scores == (0.5, 0.25, 1, 0)


@pytest.mark.parametrize("content", [7, {"text": GOOD}, [7], [{"type": "text", "text": 7}]])
def test_content_of_another_form_is_no_completion(content):
    with pytest.raises(ServerError, match="not a chat completion"):
        read(content)


@pytest.mark.parametrize(
    ("content", "message", "place"),
    [
        (None, {"reasoning_content": f"Maybe {GOOD}"}, "reasoning_content"),
        ("\n", {"reasoning": GOOD}, "reasoning"),
        (
            "",
            {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": GOOD}}]},
            "tool_calls",
        ),
        ([{"type": "thinking", "thinking": GOOD}], {}, "a piece of type thinking"),
    ],
)
def test_of_an_empty_answer_it_is_said_where_the_words_lie(content, message, place):
    answer = QUESTIONS.read(QUESTIONS.first(requests(1)[0]), read(content, **message), None)
    assert answer.scores is None
    assert answer.error == (
        f"the answer is empty, what was written lies in {place}. Write the answer itself as the message's content, "
        "behind short thoughts."
    )
    cut = QUESTIONS.read(QUESTIONS.first(requests(1)[0]), read(content, "length", **message), None)
    assert cut.error.startswith("the answer was cut off after")
    assert QUESTIONS.read(QUESTIONS.first(requests(1)[0]), read(GOOD, **message), None).scores == (0.5, 0.25, 1, 0)


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "error", "insufficient_system_resource"])
def test_an_answer_that_the_server_breaks_off_gives_no_text_and_its_complete_scores(reason):
    texts = TextQuestions("tiny")
    question = texts.first(TextRequest("item", "i", ("Chess",)))
    assert texts.read(question, read("A board game.", "stop"), None).ok
    assert (
        f'ended the answer ("{reason.lower()}")' in texts.read(question, read("A board game and", reason), None).error
    )
    scored = QUESTIONS.read(QUESTIONS.first(requests(1)[0]), read(GOOD[:35], reason), None)
    assert scored.scores == (0.5, 0.25, None, None)


@pytest.mark.parametrize("reason", ["length", "max_tokens", "content_filter"])
@pytest.mark.parametrize(
    ("text", "n_read"),
    [
        (GOOD, 4),
        (f"Sure:\n```json\n{GOOD}\n``", 4),
        (GOOD[:35], 2),
        (f"</think>{GOOD}", 4),
        (f"I would say {GOOD}, but wait: the third", None),  # thoughts, whose opening tag is in the prompt
        ("[3] > [1] > [4] > [2", None),
    ],
)
def test_an_answer_that_is_cut_off_behind_its_json_may_be_a_draft(text, n_read, reason):
    answer = QUESTIONS.read(QUESTIONS.first(requests(1)[0]), read(text, reason), None)
    assert (None if answer.scores is None else 4 - answer.scores.count(None)) == n_read
    assert (n_read is None) == (answer.error is not None)


def test_what_an_older_version_took_for_an_answer_is_read_again(setting):
    """A ledger in which the draft was taken, and one in which every score went to the item before."""
    here, asked = setting(), requests(3)
    draft = '{"scores": {"1": 0.9, "2": 0.9, "3": 0.9, "4": 0.9}}'
    stored = [f"<think>{draft}</think>{GOOD}", '{"scores": {"0": 0.1, "1": 0.2, "2": 0.3, "3": 0.4}}']
    with Ledger(here.path) as ledger:
        for request, text in zip(asked, stored, strict=False):
            question = QUESTIONS.first(request)
            old = replace(QUESTIONS.read(question, Completion(GOOD, 300, 9), 0.5), response=text, scores=(0.9,) * 4)
            ledger.record(old).result()
    summary = here.run(asked)
    assert (summary.asked, summary.reused) == (2, 1)
    assert "labels 0 to 3 are not" in here.server.seen[0].text + here.server.seen[1].text
    expected = truth(asked)
    expected["u0"] = dict(zip(asked[0].item_ids, (0.5, 0.25, 1, 0), strict=True))
    assert here.scores(asked) == expected
    assert here.run(asked).asked == 0


def test_scores_from_log_probabilities_are_kept_as_they_were(setting):
    here, asked, questions = setting(["prose", None]), requests(2), Questions("tiny", top_logprobs=2)
    here.run(asked, questions)
    before = here.scores(asked, questions)
    assert all(before[user] != scores for user, scores in truth(asked).items())
    assert here.run(asked, questions).asked == 0
    assert here.scores(asked, questions) == before


def test_what_comes_late_is_handed_on_without_another_count(tmp_path):
    """A worker may have received an answer that the run had given up waiting for."""
    (request,), taken, spending = requests(1), [], Spending()
    with Ledger(tmp_path / "a.sqlite") as ledger:
        tally = Tally(QUESTIONS, ledger, lambda *pair: taken.append(pair), spending)
        question = tally.begin(request)
        tally.settle(request, None)
        assert (tally.unanswered, taken) == ([request], [])
        completion = Completion('{"scores": {"1": 0.5}}', 700, 3)
        answer = QUESTIONS.read(question, completion, 0.25)
        ledger.record(answer).result()
        tally.look_up(request)
    assert taken == [(request, answer)]
    assert spending.cost == 0.25
    assert (tally.summary.requests, tally.summary.asked, tally.summary.unanswered) == (1, 0, 1)
