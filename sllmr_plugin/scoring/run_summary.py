"""What a scoring run is allowed, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True)
class RunLimits:
    """How a run may ask.

    Attributes
    ----------
    concurrency : int, default=16
        Requests in flight at a time. Also the most that a kill can make a run ask again.
    requests_per_minute, tokens_per_minute : float or None, default=None
        None is no limit.
    retries : int, default=6
        How often a request that got no answer is sent again, with growing waits. A server that is merely busy (429)
        is waited for without counting, for as long as other requests are answered.
    max_cost : float or None, default=None
        USD. Nothing is sent that could make the ledger's total, earlier runs included, exceed it.

    Raises
    ------
    ConfigError
        If a number is out of range.
    """

    concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    retries: int = 6
    max_cost: float | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute", "max_cost"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; give a number above 0.")
        if self.retries < 0:
            raise ConfigError(f"retries is {self.retries}; give at least 0.")


@dataclass
class RunSummary:
    """What became of a run.

    Attributes
    ----------
    requests : int
        Requests that were looked at.
    reused : int
        Of them, those that the ledger had all answers to.
    asked : int
        Answers received and committed, usable or not.
    failed : int
        Requests whose every attempt gave an answer that cannot be used, in this run or an earlier one.
    refused : int
        Requests that the server refuses for good, in this run or an earlier one; they are not asked again.
    unanswered : int
        Requests that got no answer; the next run asks them again.
    prompt_tokens, completion_tokens : int
        Of the answers received.
    cost : float
        USD of this run: answers, and requests that may have been charged without one.
    total_cost : float
        USD of the ledger, this run included.
    last_problem : str or None
        The last failure, for the reader.
    last_refusal : str or None
        What the server said to the last of the refused requests.
    adapted : str or None
        What had to be left out of the requests for the server to take them, where that changes answers.
    stopped : {None, "max_cost", "interrupted"}
        Why the run stopped early.
    """

    requests: int = 0
    reused: int = 0
    asked: int = 0
    failed: int = 0
    refused: int = 0
    unanswered: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    total_cost: float = 0.0
    last_problem: str | None = None
    last_refusal: str | None = None
    adapted: str | None = None
    stopped: str | None = None

    def __str__(self) -> str:
        lines = [
            f"{self.requests} requests: {self.reused} taken from the ledger, {self.asked} answers received "
            f"({self.prompt_tokens} + {self.completion_tokens} tokens, ${self.cost:.4f}; "
            f"${self.total_cost:.4f} in this ledger so far)"
        ]
        if self.failed:
            lines.append(
                f"  {self.failed} requests failed: none of their answers can be used. `sllmr ledger failures` lists "
                "them; a larger --attempts lets them go on."
            )
        if self.refused:
            reason = (self.last_refusal or "").rstrip(".")
            lines.append(
                f"  {self.refused} requests are refused by the server and not asked again; the last one: {reason}. "
                "`sllmr ledger failures` lists them; `sllmr ledger forget-refused` lets them be asked again."
            )
        if self.adapted:
            lines.append(f"  {self.adapted}.")
        if self.unanswered:
            lines.append(f"  {self.unanswered} requests got no answer. The same command asks them again.")
        if self.stopped == "max_cost":
            lines.append("  stopped at --max-cost. A higher one goes on from here.")
        return "\n".join(lines)
