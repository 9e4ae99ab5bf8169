"""How fast to ask, how long to wait after a failure, and when to stop asking."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime


class Pace:
    """Spaces requests evenly so that neither requests nor tokens a minute exceed their limits.

    It only does the sums, and never sleeps: `book` says how long to wait. Slots are spaced instead of saved up, so
    that no minute, whenever it begins, holds more than its share.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute : float or None, default=None
        None is no limit.
    clock : callable, default=time.monotonic
        Seconds.

    Examples
    --------
    >>> pace = Pace(requests_per_minute=60, clock=lambda: 0.0)
    >>> [pace.book(tokens=100) for _ in range(3)]
    [0.0, 1.0, 2.0]
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._next_request = self._next_token = self._held_until = clock()

    def book(self, tokens: float) -> float:
        """Take the next free slot for a request of so many tokens; return the seconds until then."""
        now = self._clock()
        start = max(now, self._next_request, self._next_token, self._held_until)
        self._next_request = start + self._per_request
        self._next_token = start + self._per_token * tokens
        return start - now

    def correct(self, tokens: float) -> None:
        """Book so many tokens more, or fewer, than a request was estimated to have."""
        self._next_token += self._per_token * tokens

    def hold(self, seconds: float) -> None:
        """Start nothing for so long: the server has asked for it."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    def held(self) -> float:
        """Return for how many more seconds nothing may start."""
        return max(0.0, self._held_until - self._clock())


def backoff(
    failures: int,
    retry_after: float | None = None,
    *,
    base: float = 0.5,
    longest: float = 60.0,
    rng: random.Random | None = None,
) -> float:
    """Return the seconds to wait before a request is sent again.

    Half of the wait doubles with every failure, the other half is drawn at random from as much, so that requests
    that failed together do not come back together. A server's Retry-After is never undercut.

    Parameters
    ----------
    failures : int
        How often this request has failed, from 1.
    retry_after : float or None
        Seconds that the server asked for.
    base : float, default=0.5
        Mean wait after the first failure is three quarters of it.
    longest : float, default=60
        Longest wait that is not the server's wish.
    rng : random.Random or None
        Source of the jitter.
    """
    ceiling = min(longest, base * 2.0 ** min(failures - 1, 30))
    jittered = ceiling / 2 + (rng or random).uniform(0, ceiling / 2)
    if retry_after is None:
        return jittered
    return retry_after + (rng or random).uniform(0, min(1.0, ceiling))


def read_retry_after(headers: object, now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds of a Retry-After header, given in seconds or as a date, or of retry-after-ms.

    Parameters
    ----------
    headers : mapping
        Response headers, looked up in lower case.
    now : callable, default=time.time
        Unix time.

    Returns
    -------
    float or None
        At least 0; None if there is none that can be understood.
    """
    get = headers.get  # type: ignore[attr-defined]
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = get(name)
        if text is None:
            continue
        try:
            seconds = float(text) / unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - now()
            except (ValueError, OverflowError):
                continue
        if seconds == seconds and seconds != float("inf"):  # no NaN
            return max(0.0, seconds)
    return None


class CircuitBreaker:
    """Tells when a run should stop because nothing works any more.

    Parameters
    ----------
    threshold : int, default=5
        Requests in a row that failed for good, with no answer to any other in between.
    patience : float, default=300
        Seconds without any answer during which the server only says that it is busy.
    clock : callable, default=time.monotonic
        Seconds.
    """

    def __init__(
        self, threshold: int = 5, patience: float = 300.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold, self._patience, self._clock = threshold, patience, clock
        self._failures = 0
        self._busy_since: float | None = None

    def success(self) -> None:
        """Note an answer."""
        self._failures = 0
        self._busy_since = None

    def failed(self) -> bool:
        """Note a request that failed for good; return whether to stop."""
        self._failures += 1
        return self._failures >= self._threshold

    def busy(self) -> bool:
        """Note that the server was busy; return whether to stop."""
        if self._busy_since is None:
            self._busy_since = self._clock()
        return self._clock() - self._busy_since >= self._patience
