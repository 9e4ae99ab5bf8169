"""The worker and the one who commands it, without Ray: what happens when a worker, or its machine, is lost."""

import asyncio
import types

import pytest

from sllmr_plugin.errors import LogprobsWarning, ScoringStoppedError, ServerError
from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.ray import RayAsker, Reply, ScoringWorker
from sllmr_plugin.scoring.servers import ServerForm
from sllmr_plugin.scoring.settings import ServerSettings

from .scoring_server import ScoringServer, score_of
from .test_ledger import ANSWER
from .test_scoring_run import requests

QUESTIONS = Questions("tiny")


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class ActorUnavailableError(RayActorError):
    pass


RAY = types.SimpleNamespace(
    exceptions=types.SimpleNamespace(
        RayError=RayError, RayActorError=RayActorError, ActorUnavailableError=ActorUnavailableError
    )
)


class Handle:
    """An actor's handle; what its methods bring is given beforehand, in order."""

    def __init__(self, ask=(), find=()):
        self.asked = []
        self.ask, self.find = self._method(list(ask)), self._method(list(find))

    def _method(self, results):
        async def call(question, *what_is_known_of_the_server):
            self.asked.append(question)
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

        return types.SimpleNamespace(remote=call)


def ask(*workers, question=None):
    asker = RayAsker(RAY, workers)
    question = question or QUESTIONS.first(requests(1)[0])
    return asker, lambda: asyncio.run(asker.ask(question))


def test_what_a_worker_says_is_said_here():
    warned = Reply(ANSWER, warnings=(LogprobsWarning("none here"),))
    _, once = ask(Handle([warned, Reply(problem=ServerError("slow down", "limited", 3.0)), RayError("a bug of ours")]))
    with pytest.warns(LogprobsWarning, match="none here"):
        assert once() == ANSWER
    with pytest.raises(ServerError, match="slow down") as caught:
        once()
    assert (caught.value.kind, caught.value.retry_after) == ("limited", 3.0)


def test_an_answer_that_a_dead_worker_had_received_counts():
    asker, once = ask(Handle([RayActorError()], [ActorUnavailableError(), Reply(ANSWER)]))
    assert once() == ANSWER
    assert len(asker._workers) == 1


def test_a_request_that_died_with_its_worker_is_lost_and_may_be_sent_again():
    _, once = ask(Handle([RayActorError(), Reply(ANSWER)], [Reply()]))
    with pytest.raises(ServerError, match="died while the request was in flight") as caught:
        once()
    assert caught.value.kind == "lost"
    assert once() == ANSWER


def test_when_a_machine_is_gone_the_others_take_over_until_there_are_none():
    gone = [Handle([RayActorError()], [RayActorError()]) for _ in range(2)]
    asker, once = ask(*gone)
    for left in (1, 0):
        with pytest.raises(ServerError, match="in flight"):
            once()
        assert len(asker._workers) == left
    with pytest.raises(ScoringStoppedError, match="all workers are gone"):
        once()


def test_the_very_same_words_go_to_one_worker_and_others_are_spread():
    asked = requests(40)
    workers = [Handle([Reply(ANSWER)] * 80) for _ in range(2)]
    asker = RayAsker(RAY, workers)

    async def all_of_them():
        for request in asked:
            first = QUESTIONS.first(request)
            unusable = types.SimpleNamespace(response="no", error="no JSON.")
            for question in (first, QUESTIONS.next(first, unusable)):
                await asker.ask(question)

    asyncio.run(all_of_them())
    users = [{question.request.user_id for question in worker.asked} for worker in workers]
    assert not users[0] & users[1]
    assert all(len(found) > 8 for found in users)


@pytest.fixture
def worker(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)

    def make(server, questions=QUESTIONS):
        settings = ServerSettings("tiny", base_url=server.base_url)
        return ScoringWorker(settings, questions, None, tmp_path / "a.parts" / "0.sqlite")

    return make


def test_a_worker_commits_before_it_answers_and_asks_nothing_twice(worker, tmp_path):
    (request,) = requests(1)
    question = QUESTIONS.first(request)

    async def work():
        one = worker(server)
        asking = asyncio.ensure_future(one.ask(question))
        await asyncio.sleep(0.05)
        found = await one.find(question.key)  # as after a connection that was lost for a moment
        reply = await asking
        await one.stop()
        with Ledger(tmp_path / "a.parts" / "0.sqlite") as partition:
            kept = partition.get(question.key)
        after = worker(server)  # the process that takes its place
        again = await after.ask(question), await after.find(question.key), await after.find("unknown")
        await after.stop()
        return found, reply, kept, again

    with ScoringServer(latency=0.3) as server:
        found, reply, kept, (asked, known, unknown) = asyncio.run(work())
        assert len(server.seen) == 1
    assert found.answer == reply.answer == kept == asked.answer == known.answer
    assert kept.scores == tuple(map(score_of, request.titles))
    assert unknown == Reply()


def test_a_workers_errors_and_warnings_are_values(worker, monkeypatch):
    plans = ["no logprobs", "429:7"]

    async def work():
        one = worker(server, Questions("tiny", top_logprobs=5))
        replies = [await one.ask(one._questions.first(request)) for request in requests(2)]
        await one.stop()
        monkeypatch.delenv("OPENAI_API_KEY")
        server.base_url = None
        return *replies, await worker(server).start()

    with ScoringServer(plans) as server:
        warned, limited, keyless = asyncio.run(work())
    assert warned.answer.ok
    assert [type(warning) for warning in warned.warnings] == [LogprobsWarning]
    assert (limited.problem.kind, limited.problem.retry_after, limited.answer) == ("limited", 7.0, None)
    assert isinstance(keyless, ServerError)
    assert "OPENAI_API_KEY" in str(keyless)


def test_what_one_worker_finds_out_of_the_server_is_told_to_all_and_its_refusals_are_values(worker):
    """The first one tries json_schema and json_object; the second one begins with what was found."""

    async def work():
        one, other = worker(server), worker(server)
        other._path = other._path.with_name("1.sqlite")
        asker = RayAsker(RAY, [as_actor(one)], "here")
        await asker.ask(QUESTIONS.first(requests(1)[0]))
        asker._workers = [as_actor(other)]
        with pytest.raises(ServerError) as caught:
            await asker.ask(QUESTIONS.first(requests(2)[1]))
        for actor in (one, other):
            await actor.stop()
        return asker.form, caught.value

    def as_actor(worker):
        async def remote(*arguments):
            return await worker.ask(*arguments)

        return types.SimpleNamespace(ask=types.SimpleNamespace(remote=remote))

    def plan(number, body):
        return (400, "?") if "response_format" in body or number == 4 else None

    with ScoringServer(plan) as server:
        form, problem = asyncio.run(work())
    assert [(seen.body.get("response_format") or {}).get("type") for seen in server.seen] == [
        "json_schema",
        "json_schema",  # without bounds
        "json_object",
        None,
        None,
    ]
    assert form == ServerForm("text")
    assert (problem.kind, problem.status) == ("refused", 400)


def test_an_address_is_told_without_its_password(monkeypatch):
    assert ServerSettings("tiny", "http://me:secret@host/v1").address() == "http://***host/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here/v1")
    assert ServerSettings("tiny").address() == "http://here/v1"
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert ServerSettings("tiny").address() == "OpenAI"
