"""Pace, backoff, Retry-After, breaker, budget: worked out with a clock that the test moves."""

import asyncio
import random
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.scoring.limits import CircuitBreaker, Left, Pace, Quota, backoff, read_quota, read_retry_after
from sllmr_plugin.scoring.prices import Budget


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def starts(pace, clock, arrivals, tokens):
    """Times at which requests start that arrive after the given pauses."""
    moments = []
    for pause, size in zip(arrivals, tokens, strict=True):
        clock.now += pause
        moments.append(clock.now + pace.book(size))
    return moments


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 3000)), min_size=1, max_size=80),
    st.integers(1, 300),
    st.integers(3000, 50_000),
)
def test_no_minute_holds_more_than_its_share(calls, per_minute, tokens_per_minute):
    clock = Clock()
    pace = Pace(per_minute, tokens_per_minute, clock=clock)
    tokens = [size for _, size in calls]
    moments = starts(pace, clock, [pause for pause, _ in calls], tokens)
    assert moments == sorted(moments)
    for first in moments:
        window = [(moment, size) for moment, size in zip(moments, tokens, strict=True) if 0 <= moment - first < 59.999]
        assert len(window) <= per_minute + 1e-6
        # the last one of a window may reach over its end
        assert sum(size for _, size in window[:-1]) <= tokens_per_minute


def test_without_limits_nothing_waits_and_a_hold_is_for_everyone():
    clock = Clock()
    pace = Pace(clock=clock)
    assert pace.book(10**9) == pace.book(1) == 0
    pace.hold(7)
    pace.hold(3)
    assert pace.held() == 7
    assert pace.book(1) == 7
    clock.now += 7
    assert pace.held() == pace.book(1) == 0


def test_a_refusal_lowers_the_pace_to_what_was_borne_and_answers_raise_it():
    clock = Clock()
    pace = Pace(clock=clock)
    for _ in range(40):
        assert pace.book(1) == 0
        pace.answered()
    clock.now += 10
    assert pace.limited(sent_ago=1)
    assert not pace.limited(sent_ago=5)  # in flight with it
    assert pace.room == 1
    # 40 answers in 10 s are 4/s, 0.95 of them 3.8/s
    assert [pace.book(1), pace.book(1)] == [0, pytest.approx(1 / 3.8)]
    clock.now += 1
    for _ in range(5):
        pace.answered()
    assert pace.room == 6
    rate = 3.8 * 1.05
    assert [pace.book(1), pace.book(1)] == [0, pytest.approx(1 / rate)]
    clock.now += 1.5
    assert pace.limited(sent_ago=0.1)  # 5 answers in 2.5 s are 2/s
    assert [pace.book(1), pace.book(1)] == [0, pytest.approx(1 / 1.9)]
    clock.now += 100
    assert pace.limited(sent_ago=0.1)  # no answer since: that says nothing of the rate
    assert [pace.book(1), pace.book(1)] == [0, pytest.approx(1 / 1.9)]


def test_a_quota_that_is_told_is_used_up_evenly_at_its_end_and_not_exceeded():
    clock = Clock()
    pace = Pace(clock=clock)
    clock.now += 1
    pace.told(Quota(0.0, requests=Left(23, 60, 100)))
    waits = [pace.book(1) for _ in range(13)]
    assert waits == [0] * 13  # until 10 of 100 are left
    assert pace.book(1) == 0
    assert pace.book(1) == pytest.approx(60 / 9)  # the other 9 within the 60 s
    clock.now += 61
    assert [pace.book(1) for _ in range(80)] == [0] * 80  # a new minute


def test_what_was_sent_since_the_request_is_taken_off_a_quota():
    clock = Clock()
    pace = Pace(clock=clock)
    for _ in range(5):
        clock.now += 1
        pace.book(1)
    # The response to the second of them: the three after it are not in its count, so nothing is left for 30 s.
    pace.told(Quota(3.0, requests=Left(3, 33, 10)))
    assert pace.book(1) == pytest.approx(30)


def test_a_quota_of_tokens_holds_too_and_a_request_larger_than_it_passes():
    clock = Clock()
    pace = Pace(clock=clock)
    clock.now += 1
    pace.told(Quota(0.0, tokens=Left(1000, 20, 1000)))
    assert pace.book(600) == 0
    assert pace.book(600) == 20
    clock.now += 41
    assert pace.book(5000) == 0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "1s",
            },
            Quota(0, Left(59, 1, 60)),
        ),
        (
            {"x-ratelimit-remaining-tokens": "149984", "x-ratelimit-reset-tokens": "6m0s"},
            Quota(0, None, Left(149984, 360)),
        ),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "17ms"}, Quota(0, Left(0, 0.017))),
        (
            {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1d2h3m4.5s"},
            Quota(0, Left(3, 93784.5)),
        ),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "1767225630"}, Quota(0, Left(7, 30))),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "1767225630000"}, Quota(0, Left(7, 30))),
        ({"ratelimit-remaining": "7", "ratelimit-reset": "12"}, Quota(0, Left(7, 12))),
        (
            {
                "anthropic-ratelimit-requests-remaining": "5",
                "anthropic-ratelimit-requests-reset": "2026-01-01T00:01:00Z",
            },
            Quota(0, Left(5, 60)),
        ),
        ({"x-ratelimit-remaining-requests": "5"}, None),
        ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-reset-requests": "1s"}, None),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "soon"}, None),
        ({}, None),
    ],
)
def test_what_servers_say_of_their_quota_is_read(headers, expected):
    assert read_quota(headers, 0, now=lambda: 1767225600.0) == expected  # 2026-01-01T00:00:00Z


def test_a_wrong_estimate_is_made_up_for():
    pace = Pace(None, 60, clock=Clock())
    pace.book(10)
    pace.correct(+5)
    assert pace.book(1) == pytest.approx(15)


@given(st.integers(1, 5000), st.integers(0, 2**32))
def test_backoff_grows_to_its_limit_and_is_jittered(failures, seed):
    ceiling = min(60.0, 0.5 * 2.0 ** min(failures - 1, 20))
    assert ceiling / 2 <= backoff(failures, rng=random.Random(seed)) <= ceiling


@given(st.floats(0, 1e4), st.integers(1, 50))
def test_retry_after_is_never_undercut(seconds, failures):
    assert seconds <= backoff(failures, seconds) <= seconds + 1


def test_waits_of_many_differ():
    assert len({backoff(3) for _ in range(100)}) > 90


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "-4"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "x", "retry-after": "2"}, 2),
        ({}, None),
    ],
)
def test_retry_after_is_read(headers, seconds):
    assert read_retry_after(headers) == seconds


def test_retry_after_as_a_date():
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    text = format_datetime(now + timedelta(seconds=90), usegmt=True)
    assert read_retry_after({"retry-after": text}, now=now.timestamp) == 90
    assert read_retry_after({"retry-after": text}, now=lambda: now.timestamp() + 1000) == 0


def test_the_breaker_counts_failures_in_a_row_and_busy_time():
    clock = Clock()
    breaker = CircuitBreaker(3, 10, clock=clock)
    assert [breaker.failed(), breaker.failed()] == [False, False]
    breaker.success()
    assert [breaker.failed(), breaker.failed(), breaker.failed()] == [False, False, True]
    breaker.success()
    assert not breaker.busy()
    clock.now += 9
    assert not breaker.busy()
    breaker.success()
    clock.now += 9
    assert not breaker.busy()
    clock.now += 10
    assert breaker.busy()


@given(st.lists(st.tuples(st.floats(0.01, 3), st.floats(0, 1)), max_size=40), st.floats(0, 20), st.floats(0, 10))
def test_whatever_requests_cost_the_cap_holds(costs, most, before):
    async def scenario():
        budget, stop = Budget(before, most), asyncio.Event()
        refused = []

        async def spend(estimate, share):
            if await budget.reserve(estimate, stop):
                await asyncio.sleep(0)
                budget.spent += estimate * share
                await budget.release(estimate)
            else:
                refused.append(estimate)

        await asyncio.gather(*(spend(*cost) for cost in costs))
        assert budget.spent <= max(most, before)
        assert all(budget.spent + estimate > most for estimate in refused)
        assert budget.in_flight == 0
        assert budget.spent_here == pytest.approx(budget.spent - before)

    asyncio.run(scenario())
