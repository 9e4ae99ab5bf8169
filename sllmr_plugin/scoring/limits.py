"""How fast to ask, how long to wait after a failure, and when to stop asking."""

from __future__ import annotations

import math
import random
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

# When the server says that it was too much: of the rate that was, and of that at which answers came since it said so
# before. The lower one is taken.
_DECREASE, _BELOW = 0.9, 0.95
_INCREASE = 0.01  # of that rate, with every answer that follows
_FASTER_AFTER = 10  # answers without such a refusal: from then on twice as much is added
_SLOWEST = 1 / 60  # requests a second; below, what the server asks to wait decides
_SMALLEST_STEP = 0.002  # requests a second
_RESERVE = 0.1  # of a quota: when no more is left, it is spread over the time until there is more
_LONGEST_SPREAD = 60.0  # seconds between requests at most; a server that wants more pause has to refuse one
_REMEMBERED = 10_000  # requests
_AMOUNT = r"(\d+(?:\.\d*)?)"
_DURATION = re.compile("".join(rf"(?:{_AMOUNT}{unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms")))
_UNIX_TIME = 1e9  # a number from here on is a moment, not a duration


@dataclass(frozen=True)
class Left:
    """What a server says of one of its quotas.

    Attributes
    ----------
    amount : float
        Requests or tokens that may still be asked for.
    seconds : float
        Until there is as much again as at first.
    most : float or None
        How much that is.
    """

    amount: float
    seconds: float
    most: float | None = None


@dataclass(frozen=True)
class Quota:
    """What the headers of a response say of the server's quota.

    Attributes
    ----------
    age : float
        Seconds from sending the request to its response: what was sent meanwhile is not counted in it.
    requests, tokens : Left or None
    """

    age: float
    requests: Left | None = None
    tokens: Left | None = None


class Pace:
    """Decides when the next request may start; it only computes, and never sleeps.

    Three things set the pace, and the slowest of them counts:

    - the limits that are given. Slots are spaced evenly instead of saved up, so that no minute, whenever it begins,
      holds more than its share;
    - the rate that the server was found to accept. Nothing is known of it until the server refuses a request as one too
      many. Then all requests wait, and the rate falls by a tenth, and below that at which answers came since the
      refusal before (multiplicative decrease). Each answer adds a hundredth of it (additive increase), after ten
      answers without a refusal two hundredths, after twenty four. One request goes alone first, and with every answer
      one more may be in flight;
    - the quota that the server tells of in its headers. While more than a tenth of it is left it changes nothing; the
      rest is spread over the time until there is more.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute : float or None, default=None
        None sets no limit.
    clock : callable, default=time.monotonic
        Seconds.

    Attributes
    ----------
    room : float
        How many requests may be in flight.

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
        self._next_request = self._next_token = self._held_until = self._limited_at = clock()
        self.room = math.inf
        self._rate: float | None = None  # requests a second that the server accepts, as far as is known
        self._step = 0.0
        self._answers = 0  # since it was one too many
        self._spreading, self._spread = 0, 0.0
        self._requests, self._tokens = _Allowance(), _Allowance()

    def book(self, tokens: float) -> float:
        """Take the next free slot for a request of so many tokens; return the seconds until then."""
        now = self._clock()
        start = max(
            now,
            self._next_request,
            self._next_token,
            self._held_until,
            self._requests.earliest(1, now),
            self._tokens.earliest(tokens, now),
        )
        gap = max(self._per_request, 1 / self._rate if self._rate else 0.0)
        if self._spreading:
            self._spreading -= 1
            gap = max(gap, self._spread)
        self._next_request = start + gap
        self._next_token = start + self._per_token * tokens
        self._requests.take(1, start)
        self._tokens.take(tokens, start)
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

    def spread(self, requests: int, seconds: float) -> None:
        """Start the next so many requests evenly over a time, for a server that cannot take all of them at once."""
        self._spreading, self._spread = requests, seconds / requests

    def answered(self) -> None:
        """Note an answer: the server accepts this rate, and maybe a higher one."""
        self._answers += 1
        self.room += 1
        if self._rate is not None:
            self._rate += self._step * 2 ** min(self._answers // _FASTER_AFTER, 20)

    def limited(self, sent_ago: float) -> bool:
        """Note that the server refused a request that was sent so long ago because there were too many.

        Returns
        -------
        bool
            Whether that is news. Of a request that was sent before the last such refusal came it is not.
        """
        now = self._clock()
        if now - sent_ago < self._limited_at or self.held():
            return False
        if self._answers:
            borne = self._answers / max(now - self._limited_at, 1e-3)  # what was saved up and pauses are in it
            self._rate = max(_SLOWEST, min(_BELOW * borne, _DECREASE * (self._rate or math.inf)))
            self._step = max(_INCREASE * self._rate, _SMALLEST_STEP)
        self._answers, self.room, self._limited_at = 0, 1, now
        return True

    def told(self, quota: Quota) -> None:
        """Use what the server says about its quota from now on."""
        now = self._clock()
        for allowance, left in ((self._requests, quota.requests), (self._tokens, quota.tokens)):
            if left is not None:
                allowance.set(left, now - quota.age, now)


class _Allowance:
    """One quota of a server, kept up between what it says of it."""

    def __init__(self) -> None:
        self._left = self._most = 0.0
        self._told_at = self._until = self._last = -math.inf
        self._seconds = 0.0
        # When how much was taken: what a response says does not count what was sent after its request.
        self._taken: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)

    def set(self, told: Left, sent: float, now: float) -> None:
        """Take over what a response to a request says that was sent at that time."""
        if sent < self._told_at or sent + told.seconds <= now:
            return
        while self._taken and self._taken[0][0] <= sent:
            self._taken.popleft()
        self._told_at, self._seconds, self._until = sent, told.seconds, sent + told.seconds
        self._most = told.most if told.most is not None else max(told.amount, self._most)
        self._left = told.amount - sum(amount for _, amount in self._taken)

    def earliest(self, amount: float, now: float) -> float:
        """Return when so much may be taken."""
        amount = min(amount, self._most)
        if self._until <= now or (self._left >= amount and self._left >= _RESERVE * self._most):
            return now
        start = self._until
        if self._left >= amount > 0:
            start = max(now, self._last + (self._until - self._last) * amount / self._left)
        return min(start, now + _LONGEST_SPREAD)

    def take(self, amount: float, at: float) -> None:
        """Take so much at a time that `earliest` has allowed."""
        if self._until <= at:
            self._left, self._until = self._most, at + self._seconds
        self._left -= amount
        self._last = at
        self._taken.append((at, amount))


def read_quota(headers: Mapping[str, str], age: float, now: Callable[[], float] = time.time) -> Quota | None:
    """Return what response headers say of the server's quota: ``x-ratelimit-remaining-requests`` and its like.

    Parameters
    ----------
    headers : mapping
        Looked up in lower case.
    age : float
        Seconds from sending the request to this response.
    now : callable, default=time.time
        Unix time.

    Returns
    -------
    Quota or None
        None if no header says both what is left and for how long.

    Examples
    --------
    >>> headers = {"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1m0.5s"}
    >>> read_quota(headers, age=0.0)
    Quota(age=0.0, requests=Left(amount=59.0, seconds=60.5, most=None), tokens=None)
    """
    requests = (
        _left(headers, "x-ratelimit-{}-requests", now)
        or _left(headers, "anthropic-ratelimit-requests-{}", now)
        or _left(headers, "x-ratelimit-{}", now)
        or _left(headers, "ratelimit-{}", now)
    )
    tokens = _left(headers, "x-ratelimit-{}-tokens", now) or _left(headers, "anthropic-ratelimit-tokens-{}", now)
    return Quota(age, requests, tokens) if requests or tokens else None


def _left(headers: Mapping[str, str], name: str, now: Callable[[], float]) -> Left | None:
    amount = _number(headers.get(name.format("remaining")))
    seconds = _seconds(headers.get(name.format("reset")), now)
    most = _number(headers.get(name.format("limit")))
    return None if amount is None or seconds is None else Left(amount, seconds, most or None)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _seconds(text: str | None, now: Callable[[], float]) -> float | None:
    """Read a duration ("6m0s", "17ms", "1.5") or a moment (Unix time in s or ms, ISO 8601) as seconds from now."""
    if not text:
        return None
    if (number := _number(text)) is not None:
        if number >= _UNIX_TIME:
            number = (number / 1000 if number >= 1000 * _UNIX_TIME else number) - now()
        return max(0.0, number)
    if match := _DURATION.fullmatch(text.strip()):
        parts = [float(part or 0) for part in match.groups()]
        return sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1, 0.001), strict=True))
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - now()) if moment.tzinfo else None


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
        At least 0; None if there is no header that can be understood.
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
