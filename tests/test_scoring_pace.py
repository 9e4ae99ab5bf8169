"""Whole runs against a server with a quota, on a clock that jumps: no second of it is waited for."""

import asyncio
from concurrent.futures import Future

import pytest

from sllmr_plugin.errors import ServerError
from sllmr_plugin.scoring.asking import ServerAsker
from sllmr_plugin.scoring.client import Completion
from sllmr_plugin.scoring.ledger_file import Completions
from sllmr_plugin.scoring.limits import CircuitBreaker, Left, Quota
from sllmr_plugin.scoring.prices import Price, RunLimits, estimate_tokens
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.runner import Runner
from sllmr_plugin.scoring.servers import ServerForm

from .test_scoring_run import requests

ANSWER = '{"scores": {"1": 0.5, "2": 0.5, "3": 0.5, "4": 0.5}}'
LATENCY, REFUSAL = 0.5, 0.01  # seconds


class JumpingLoop(asyncio.SelectorEventLoop):
    """When nothing is to be done, it is at once the time of the next timer."""

    now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0]._when)
        super()._run_once()


class NoLedger:
    """Commits at once, and to nowhere: a thread would not know of the clock."""

    path, n_marks = "nowhere", 0

    def spent(self):
        return 0.0

    def get(self, key):
        return None

    def refusal(self, key):
        return None

    def form_of(self, address, model):
        return None

    def completions(self, model):
        return Completions(0, 0, 0.0)

    def record(self, *arguments):
        done = Future()
        done.set_result(None)
        return done

    unmark = give_up = record

    def mark_sent(self, *arguments):
        self.n_marks += 1
        return self.n_marks, self.record()


class QuotaServer:
    """A client whose server has a bucket of tokens that fills up evenly, or a window of a minute."""

    address, answered = "somewhere", True

    def __init__(self, per_minute, burst=None, *, retry_after=False, tells=False, lengths=(10,)):
        self.per_minute, self.burst = per_minute, burst
        self.retry_after, self.tells, self.lengths = retry_after, tells, lengths
        self.quota, self.form = None, ServerForm()
        self.level, self.filled_at, self.window = burst, 0.0, None
        self.attempts = self.in_flight = 0
        self.seen_in_flight = []

    async def complete(self, messages, n_candidates, parameters):
        number, self.attempts = self.attempts, self.attempts + 1
        granted, left, wait, reset = self._take(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.seen_in_flight.append(self.in_flight)
        await asyncio.sleep(LATENCY if granted else REFUSAL)
        self.in_flight -= 1
        if self.tells:
            age = LATENCY if granted else REFUSAL
            self.quota = Quota(age, requests=Left(left, reset, self.burst or self.per_minute))
        if not granted:
            raise ServerError("slow down", "limited", wait if self.retry_after else None)
        return Completion(ANSWER, estimate_tokens(messages), self.lengths[number % len(self.lengths)])

    async def close(self):
        pass

    def _take(self, now):
        if self.burst is None:
            if self.window is None or now - self.window >= 60:
                self.window, self.level = now, self.per_minute
            granted = self.level >= 1
            self.level -= granted
            until = 60 - (now - self.window)
            return granted, self.level, until, until
        rate = self.per_minute / 60
        self.level = min(self.burst, self.level + (now - self.filled_at) * rate)
        self.filled_at = now
        granted = self.level >= 1
        self.level -= granted
        return granted, int(self.level), (1 - self.level) / rate, (self.burst - self.level) / rate


def run(server, n, *, max_tokens="auto", price=None, **limits):
    """Return the summary and the seconds that it would have taken."""
    questions = Questions("tiny", max_tokens=max_tokens)
    asker = ServerAsker(server, questions, price)
    runner = Runner(requests(n), questions, asker, NoLedger(), RunLimits(**limits), price, CircuitBreaker(), False)
    loop = JumpingLoop()
    try:
        return loop.run_until_complete(runner.main()), loop.now
    finally:
        loop.close()


@pytest.mark.parametrize("retry_after", [False, True])
@pytest.mark.parametrize("burst", [1, 10, 90, None])
def test_a_quota_that_nobody_tells_of_costs_few_attempts(burst, retry_after):
    server = QuotaServer(90, burst, retry_after=retry_after)
    summary, _ = run(server, 120, concurrency=32)
    assert (summary.asked, summary.unanswered) == (120, 0)
    assert server.attempts <= 1.1 * 120


@pytest.mark.parametrize("burst", [10, 90, None])
def test_a_quota_that_the_server_tells_of_is_kept_to(burst):
    server = QuotaServer(90, burst, tells=True)
    summary, _ = run(server, 200, concurrency=32)
    assert summary.asked == 200
    assert server.attempts <= 1.05 * 200


@pytest.mark.parametrize("tells", [False, True])
def test_the_quota_is_used(tells):
    _, seconds = run(QuotaServer(90, 10, tells=tells), 300, concurrency=32)
    shortest = (300 - 10) / 90 * 60
    assert shortest <= seconds <= 1.1 * shortest


def test_the_pace_recovers_when_the_quota_grows():
    server = QuotaServer(90, 1)
    take = server._take

    def take_and_grow(now):
        if server.attempts == 60:
            server.per_minute = 60_000
        return take(now)

    server._take = take_and_grow
    _, seconds = run(server, 300, concurrency=32)
    slow, fast = 60 / 1.5, 240 / 1.5
    assert seconds < 2 * slow + fast / 3  # hundreds of answers at the old pace would take 160 s


def test_no_server_gets_all_requests_at_the_same_moment():
    server, moments = QuotaServer(10**6, 10**6), []
    take = server._take
    server._take = lambda now: moments.append(now) or take(now)
    _, seconds = run(server, 65, concurrency=32)
    assert moments[0] == 0  # alone
    # The other 32 places are taken within the half second that the first answer took, and then kept filled.
    gaps = [later - earlier for earlier, later in zip(moments[1:33], moments[2:34], strict=True)]
    assert gaps == pytest.approx([LATENCY / 32] * 32)
    assert seconds == pytest.approx(4 * LATENCY, rel=0.1)


def test_more_and_more_answers_without_a_limit_are_asked_for_at_a_time():
    server = QuotaServer(10**6, 10**6, lengths=(500,))
    run(server, 40, max_tokens=None, price=Price(0, 1), max_cost=100.0, concurrency=16)
    assert server.seen_in_flight[:2] == [1, 1]  # after one nobody knows whether others are longer
    assert max(server.seen_in_flight[:4]) == 2
    assert max(server.seen_in_flight) == 16


def test_an_answer_longer_than_foreseen_makes_them_few_again():
    lengths = [500] * 20 + [5000] + [500] * 40
    server = QuotaServer(10**6, 10**6, lengths=lengths)
    run(server, 60, max_tokens=None, price=Price(0, 1), max_cost=100.0, concurrency=16)
    # The long answer leaves 15 in flight and room for 1. With every one of them that comes room grows by one, so that
    # the next is sent when half of them have come.
    assert min(server.seen_in_flight[16 + 5 :]) in (7, 8)


@pytest.mark.parametrize("lengths", [(900, 1800, 3000, 5000, 8000), (8000, 900), (5000, 7000, 9000, 6000)])
def test_the_cap_holds_for_answers_without_a_limit(lengths):
    # A dollar for a thousand tokens; none is more than twice as long as the longest before it.
    server = QuotaServer(10**6, 10**6, lengths=lengths)
    summary, _ = run(server, 200, max_tokens=None, price=Price(0, 1000), max_cost=300.0, concurrency=32)
    assert summary.stopped == "max_cost"
    assert 300 - 2 * max(lengths) / 1000 < summary.total_cost <= 300
