"""`run`: ask a server all questions that the ledger has no answer to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ..errors import PriceError, ScoringStoppedError
from .asking import Client, ServerAsker, Tally
from .ledger import Ledger, LedgerAnswer
from .limits import CircuitBreaker
from .partitions import take_over
from .prices import Price, RunLimits, RunSummary, Spending
from .questions import Conversation, R
from .runner import Runner

T = TypeVar("T")


def run(
    requests: Iterable[R],
    questions: Conversation[R],
    client: Client,
    ledger: Ledger,
    *,
    limits: RunLimits | None = None,
    price: Price | None = None,
    breaker: CircuitBreaker | None = None,
    verbose: bool = True,
    take: Callable[[R, LedgerAnswer], None] | None = None,
    spending: Spending | None = None,
) -> RunSummary:
    """Ask a server about all requests; the answers are in the ledger afterwards.

    Answers that the workers of a killed `run_on_ray` have left on this machine are taken into the ledger first.
    Requests are taken from the iterable as they are needed, so memory does not grow with their number. The
    first request goes alone: a wrong key or address costs one request. Ctrl-C stops after the requests in flight; a
    second one drops them.

    Parameters
    ----------
    requests : iterable of Request or TextRequest
        With a length, if the progress bar is to show the time left.
    questions : Questions or TextQuestions
        What to ask, and how to read the answers.
    client : Client
        Whom to ask; closed at the end.
    ledger : Ledger
        Answers there are not asked for again.
    limits : RunLimits, optional
        Concurrency, pace, retries, cost.
    price : Price, optional
        Without it costs count as nothing.
    breaker : CircuitBreaker, optional
        When to stop because nothing works.
    verbose : bool, default=True
        Show progress.
    take : callable, optional
        Called with every request that has a usable answer, and that answer, once it is committed.
    spending : Spending, optional
        Gets every answer to these requests, earlier and unusable ones included.

    Returns
    -------
    RunSummary

    Raises
    ------
    ScoringStoppedError
        If nothing works any more (bad key, no quota, server away), or a batch of `run_batches` is still open. What
        was answered is in the ledger.
    LedgerError
        If the ledger cannot be written. Nothing more is asked then.
    PriceError
        If `limits` caps the cost and there is no price.
    KeyboardInterrupt
        After Ctrl-C, when the requests in flight have been answered.
    """
    limits = limits or RunLimits()
    check_can_run(questions, ledger, limits, price)
    take_over(ledger)
    asker, tally = ServerAsker(client, questions, price), Tally(questions, ledger, take, spending)
    breaker = breaker or CircuitBreaker()
    return settle(Runner(requests, questions, asker, ledger, limits, price, breaker, verbose, tally))


def check_can_run(questions: Conversation[Any], ledger: Ledger, limits: RunLimits, price: Price | None) -> None:
    """Raise what `run` raises before anything is asked."""
    check_price(questions, limits, price)
    if ledger.open_batches():
        raise ScoringStoppedError(
            f"{ledger.path} waits for a batch, so asking now would pay twice for its requests. Run with --batch "
            "(run_batches) until it is in, or use another --ledger."
        )


def check_price(questions: Conversation[Any], limits: RunLimits, price: Price | None) -> None:
    """Raise `PriceError` if costs are to be capped and are not known."""
    if limits.max_cost is not None and price is None:
        raise PriceError(
            f"the price of {questions.model} is not known, so no cost can be capped. Add it to a copy of the file of "
            "prices and give that with --prices (0 for a server of your own)."
        )


def settle(runner: Runner) -> RunSummary:
    """Let a runner ask everything; raise KeyboardInterrupt if it was stopped by one."""
    summary = in_a_loop(runner.main, runner.interrupt)
    if summary.stopped == "interrupted":
        raise KeyboardInterrupt
    return summary


def in_a_loop(main: Callable[[], Coroutine[Any, Any, T]], interrupt: Callable[[], None]) -> T:
    """Run a coroutine to its end, also where a loop is running already.

    Parameters
    ----------
    main : callable
        Makes the coroutine.
    interrupt : callable
        Called at Ctrl-C where the coroutine runs in another thread and hears nothing of it.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    with ThreadPoolExecutor(1) as thread:  # a notebook: its loop is running already, ours gets a thread of its own
        result = thread.submit(lambda: asyncio.run(main()))
        while True:
            try:
                return result.result()
            except KeyboardInterrupt:
                if result.done():
                    raise
                interrupt()
