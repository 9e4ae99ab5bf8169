"""`Runner`: many requests at a time, paced, within a budget, each answer committed before it counts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from tqdm import tqdm

from ..errors import ScoringStoppedError, ServerError
from .asking import Asker, Tally
from .ledger import Ledger
from .ledger_file import LedgerAnswer, Refusal
from .limits import CircuitBreaker, Pace, Quota, backoff
from .prices import AnswerLengths, Budget, Price, RunLimits, RunSummary, estimate_tokens
from .questions import Conversation, Question
from .requests import Request
from .servers import OF_ONE_REQUEST, ServerForm, with_remedy

logger = logging.getLogger("sllmr_plugin.scoring")

_LONGEST_RETRY_AFTER = 600.0
#: So many paid answers that cannot be used, with none between that can, mean that the rest would be no better.
UNUSABLE_IN_A_ROW = 10
# So many requests refused, with no answer between, mean that the rest would be refused, too. Refusals cost nothing.
_REFUSED_IN_A_ROW = 20


class Runner:
    """One run; parameters are those of `run.run`, but for the `Asker` in place of the client."""

    def __init__(
        self,
        requests: Iterable[Any],
        questions: Conversation[Any],
        asker: Asker,
        ledger: Ledger,
        limits: RunLimits,
        price: Price | None,
        breaker: CircuitBreaker,
        verbose: bool,
        tally: Tally[Any] | None = None,
    ) -> None:
        self._source: Iterator[Request] = iter(requests)
        self._total = len(requests) if isinstance(requests, Sized) else None
        self._questions, self._asker, self._ledger = questions, asker, ledger
        self._limits, self._price, self._breaker, self._verbose = limits, price, breaker, verbose
        self._tally: Tally[Any] = tally or Tally(questions, ledger)
        self._summary = self._tally.summary
        self._asking: dict[str, asyncio.Future[None]] = {}
        self._error: Exception | None = None
        self._why: str | None = None  # a reason to stop, of which the text is made when all that is paid is in
        self._answered_once = False
        self._unusable = CircuitBreaker(UNUSABLE_IN_A_ROW)
        self._refusals = CircuitBreaker(_REFUSED_IN_A_ROW)
        # Refused for a reason that could be the server's or the key's: theirs once another request is answered.
        self._held: dict[str, Refusal] = {}
        self._n_held = 0  # requests that wait for that
        self._last_refusal: ServerError | None = None
        self._limited_in_a_row = 0
        self._noted_form: ServerForm | None = None
        self._token_ratio = 1.0  # the largest ratio of counted to estimated prompt tokens seen
        self._in_flight = 0
        self._quota: Quota | None = None
        self._lengths = AnswerLengths(ledger.completions(questions.model))

    async def main(self) -> RunSummary:
        """Ask everything; the summary says whether and why the run stopped early."""
        # Made here, inside the loop that they belong to.
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._pace = Pace(self._limits.requests_per_minute, self._limits.tokens_per_minute, clock=self._clock)
        self._stop, self._alone, self._queue = asyncio.Event(), asyncio.Lock(), asyncio.Lock()
        self._landed = asyncio.Event()
        self._budget = Budget(self._ledger.spent(), self._limits.max_cost)
        known = self._ledger.form_of(self._asker.address, self._questions.model)
        if known is not None:
            self._asker.form = known
        else:
            self._noted_form = self._asker.form
        self._budget.unlimited = self._cost(0, self._lengths.longest)
        self._bar = tqdm(
            total=self._total, unit=" requests", disable=not self._verbose, file=sys.stderr, dynamic_ncols=True
        )
        self._workers = workers = [asyncio.ensure_future(self._work()) for _ in range(self._limits.concurrency)]
        try:
            with self._stopping_on_signals():
                await asyncio.gather(*workers)
        except asyncio.CancelledError:
            self._summary.stopped = "interrupted"
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            self._bar.close()
            await self._asker.close()
        self._summary.cost, self._summary.total_cost = self._budget.spent_here, self._budget.spent
        await self._conclude()
        if self._summary.stopped == "max_cost":
            for request in self._source:  # those that are not asked may have answers of earlier runs
                self._tally.look_up(request)
        return self._summary

    async def _conclude(self) -> None:
        """Settle what was open until the last answer came; raise what ended the run."""
        summary = self._summary
        if self._error is None and self._why is None:
            if self._answered_once:
                await self._keep_refusals()
            elif summary.refused and not summary.reused and summary.stopped is None:
                self._why = self._all_refused()
        summary.refused -= self._n_held
        summary.unanswered += self._n_held
        if self._error is not None:
            raise self._error
        if self._why is not None:
            raise ScoringStoppedError(
                f"stopped: {self._why} ({self._summary.asked} answers of this run are in {self._ledger.path} and not "
                "asked again)"
            )

    async def _work(self) -> None:
        """Take requests one after the other until there are none or the run stops."""
        try:
            while not self._stop.is_set() and (request := next(self._source, None)) is not None:
                await self._settle(request)
                self._bar.update()
                if self._summary.requests % 64 == 0:
                    await asyncio.sleep(0)  # requests that the ledger answers would keep the others waiting
        except Exception as error:  # answers in flight are paid for, so they are waited for
            self._fail(error)

    async def _settle(self, request: Request) -> None:
        """Hold the conversation about a request to its end."""
        question = self._tally.begin(request)
        while question is not None:
            answer = await self._answer(question)
            if isinstance(answer, LedgerAnswer):
                self._notice(answer)
                question = self._tally.go_on(question, answer)
            else:
                self._tally.settle(request, answer)
                self._n_held += answer is not None and answer.key in self._held
                break

    def _notice(self, answer: LedgerAnswer) -> None:
        """Stop paying a model that does not understand the question."""
        if answer.ok:
            self._unusable.success()
        elif self._unusable.failed():
            self._stop_because(
                f"{UNUSABLE_IN_A_ROW} answers in a row cannot be used, the last one because {answer.error} Look at "
                "them with `sllmr ledger failures`, then change model, template or --max-tokens"
            )

    async def _answer(self, question: Question) -> LedgerAnswer | Refusal | None:
        """Return the committed answer to a question, that the server refuses it, or None if nothing came."""
        while (others := self._asking.get(question.key)) is not None:
            await asyncio.shield(others)  # another request with the very same messages
        if (answer := self._ledger.get(question.key)) is not None:
            return answer
        if (refusal := self._held.get(question.key) or self._ledger.refusal(question.key)) is not None:
            return refusal
        self._asking[question.key] = asyncio.get_running_loop().create_future()
        try:
            if not self._answered_once:
                async with self._alone:
                    if not self._answered_once:
                        return await self._ask(question)
            return await self._ask(question)
        finally:
            self._asking.pop(question.key).set_result(None)

    async def _ask(self, question: Question) -> LedgerAnswer | Refusal | None:
        """Send a question until an answer or a refusal comes; None if neither does."""
        tokens = estimate_tokens(question.messages)
        limit = question.parameters["max_tokens"]
        failures = 0
        while not self._stop.is_set():
            expected = self._token_ratio * tokens, self._lengths.longest if limit is None else limit
            await self._turn(sum(expected), limited=limit is not None)
            start = self._clock()
            try:
                return await self._try(question, expected, limit is None)
            except ServerError as error:
                problem = error
            finally:
                self._in_flight -= 1
                self._landed.set()
                self._hear()
            if problem.kind == "refused":
                return await self._refused(question, problem)
            failures += problem.kind != "limited"
            if not self._worth_trying_again(problem, failures):
                return None
            if problem.kind == "limited":  # the limit is everybody's
                self._limited_in_a_row += self._pace.limited(self._clock() - start)
                self._pace.hold(backoff(max(self._limited_in_a_row, 1), problem.retry_after))
            else:
                await self._wait(backoff(failures, problem.retry_after))
        return None

    async def _try(self, question: Question, expected: tuple[float, float], unlimited: bool) -> LedgerAnswer | None:
        """Set money aside for a question and send it once; None if there is no money or the run has stopped."""
        prompt, completion = self._cost(expected[0], 0), self._cost(0, expected[1])
        reserved = prompt if unlimited else prompt + completion
        if self._stop.is_set() or not await self._budget.reserve(reserved, self._stop, unlimited=unlimited):
            self._out_of_money()
            return None
        try:
            answer = await self._send(question, prompt + completion)
        finally:
            await self._budget.release(reserved, unlimited=unlimited)
        self._pace.correct(answer.prompt_tokens + answer.completion_tokens - sum(expected))
        return answer

    def _cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        return self._price.cost(prompt_tokens, completion_tokens) if self._price else 0.0

    def _learn_lengths(self, question: Question, answer: LedgerAnswer) -> None:
        """Take the tokens of an answer into account, also for those in flight."""
        self._token_ratio = max(self._token_ratio, answer.prompt_tokens / estimate_tokens(question.messages))
        if question.parameters["max_tokens"] is None:
            self._lengths.note(answer.completion_tokens)
            self._budget.unlimited = self._cost(0, self._lengths.longest)

    async def _turn(self, tokens: float, *, limited: bool) -> None:
        """Wait until one more request may be in flight, and count it; they start in the order in which they came."""
        async with self._queue:
            while not self._stop.is_set():
                if self._in_flight >= self._room(limited):
                    self._landed.clear()
                    await self._landed.wait()
                    continue
                await self._wait(self._pace.book(tokens))
                if not self._pace.held() and self._in_flight < self._room(limited):
                    break
            self._in_flight += 1

    def _room(self, limited: bool) -> float:
        """Return how many requests may be in flight."""
        if limited or self._limits.max_cost is None:
            return self._pace.room
        return min(self._pace.room, self._lengths.room)  # the length of an answer, and so its cost, is not known yet

    def _hear(self) -> None:
        """Use what the server says about its quota, if that is new."""
        if (quota := self._asker.quota) is not self._quota and quota is not None:
            self._quota = quota
            self._pace.told(quota)

    async def _send(self, question: Question, estimated_cost: float) -> LedgerAnswer:
        """Send a question once and commit what comes of it."""
        mark, marked = self._ledger.mark_sent(question.key, question.request.subject, estimated_cost)
        await asyncio.wrap_future(marked)
        start = self._clock()
        try:
            answer = await self._asker.ask(question)
        except ServerError as error:
            if error.kind in ("lost", "unreadable"):
                self._budget.spent += estimated_cost
                await asyncio.wrap_future(self._ledger.give_up(mark, str(error)))
            else:
                await asyncio.wrap_future(self._ledger.unmark(mark))
            raise
        await asyncio.wrap_future(self._ledger.record(answer, mark))
        # Only what is committed counts.
        if not self._answered_once:
            self._pace.spread(self._limits.concurrency, self._clock() - start)
        self._answered_once = True
        self._pace.answered()
        self._learn_lengths(question, answer)
        self._breaker.success()
        self._refusals.success()
        self._limited_in_a_row = 0
        self._budget.spent += answer.cost or 0.0
        self._tally.received(answer)
        total = self._summary.prompt_tokens + self._summary.completion_tokens
        self._bar.set_postfix_str(f"{total} tokens, ${self._budget.spent_here:.4f}", refresh=False)
        if self._asker.form != self._noted_form:
            self._noted_form = self._asker.form
            await self._tally.note_form(self._asker.address, self._noted_form)
        if self._held:
            await self._keep_refusals()
        return answer

    async def _refused(self, question: Question, problem: ServerError) -> Refusal:
        """Note that the server refuses a question for good; stop the run if it seems to refuse all."""
        refusal = self._questions.refused(question, problem)
        self._last_refusal = problem
        self._summary.last_problem = str(problem)
        certain = problem.cause in OF_ONE_REQUEST
        if certain:
            await asyncio.wrap_future(self._ledger.refuse(refusal))
        else:
            self._held[question.key] = refusal
        if not (certain and self._answered_once) and self._refusals.failed():
            self._nothing_works(problem)
        return refusal

    async def _keep_refusals(self) -> None:
        """Commit the refusals of which it has turned out that they are those of single requests."""
        done = [self._ledger.refuse(refusal) for refusal in self._held.values()]
        self._held, self._n_held = {}, 0
        for future in done:
            await asyncio.wrap_future(future)

    def _out_of_money(self) -> None:
        if not self._stop.is_set():
            self._summary.stopped = "max_cost"
            self._stop.set()

    def _worth_trying_again(self, problem: ServerError, failures: int) -> bool:
        """Tell whether to send a question again; stop the run where nothing works any more."""
        self._summary.last_problem = str(problem)
        if problem.kind == "hopeless" or (problem.kind == "unreadable" and not self._answered_once):
            self._stop_because(str(problem))
        elif problem.retry_after is not None and problem.retry_after > _LONGEST_RETRY_AFTER:
            wait = f"The server asks to wait {problem.retry_after:.0f} s; run the same command then."
            self._stop_because(f"{problem}. {wait}")
        elif problem.kind == "limited":
            if self._breaker.busy():
                self._stop_because(f"{problem}, and nothing else for minutes. Check the account's limits.")
        elif failures > self._limits.retries:
            if self._breaker.failed() or not self._answered_once:
                self._nothing_works(problem)
            return False
        return not self._stop.is_set()

    def _nothing_works(self, problem: ServerError) -> None:
        self._stop_because(f"nothing works any more; the last problem: {with_remedy(problem)}")

    def _all_refused(self) -> str:
        problem, n_kept = self._last_refusal, self._summary.refused - self._n_held
        why = "the server refuses every request; the last problem: "
        why += f"{(self._summary.last_refusal or '').rstrip('.')}." if problem is None else with_remedy(problem)
        if n_kept:
            why += f" {n_kept} of them are not asked again before `sllmr ledger forget-refused {self._ledger.path}`."
        return why

    def _stop_because(self, why: str) -> None:
        """Ask nothing more, let what is in flight arrive, and say at the end why."""
        self._why = self._why or why
        self._stop.set()

    def _fail(self, error: Exception) -> None:
        """Ask nothing more, let what is in flight arrive, raise this at the end."""
        self._error = self._error or error
        self._stop.set()

    async def _wait(self, seconds: float) -> None:
        """Sleep, but not longer than the run."""
        if seconds > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), seconds)

    def interrupt(self) -> None:
        """Stop after the requests in flight, when called again at once; safe in any thread."""
        self._loop.call_soon_threadsafe(self._interrupted)

    def _interrupted(self) -> None:
        if self._summary.stopped == "interrupted":
            for worker in self._workers:
                worker.cancel()
            return
        self._summary.stopped = "interrupted"
        self._stop.set()
        logger.warning("stopping after %d requests in flight; again Ctrl-C drops them", self._budget.in_flight)

    @contextlib.contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        caught = []
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(NotImplementedError):  # on Windows Ctrl-C ends the run at once
                    self._loop.add_signal_handler(number, self._interrupted)
                    caught.append(number)
        try:
            yield
        finally:
            for number in caught:
                self._loop.remove_signal_handler(number)
