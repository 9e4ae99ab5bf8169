"""`run_batches`: the same questions through a Batch API, for half the price and an answer within a day."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import itertools
import json
import logging
import math
import re
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from ..errors import ScoringStoppedError, ServerError
from .asking import ServerAsker, Tally, check_price, in_a_loop
from .client import OpenAIClient
from .ledger import Ledger, take_over
from .ledger_file import LedgerAnswer
from .limits import backoff
from .prices import AnswerLengths, Price, RunLimits, RunSummary, Spending, estimate_tokens
from .questions import Conversation, Question, R
from .runner import UNUSABLE_IN_A_ROW
from .servers import OF_ONE_REQUEST, OF_THE_FORM, FormSearch, ServerForm

logger = logging.getLogger("sllmr_plugin.scoring")
_ENDED = ("completed", "failed", "expired", "cancelled")
_SEARCHED = 500  # batches of the account among which to look for one of ours


MOST_REQUESTS = 50_000  # of one batch, at OpenAI
_MOST_BYTES = 150_000_000
# Requests in the first batch under a cap, while the length, and so the cost, of answers without a limit is unknown.
FIRST_UNLIMITED = 5
# What a server says to a batch that would take the account above the tokens that may wait in batches.
_QUEUE_FULL = re.compile(r"enqueued|token_limit_exceeded", re.IGNORECASE)
_QUEUE_LIMIT = re.compile(r"limit\D{0,20}(\d[\d,]*)", re.IGNORECASE)


def run_batches(
    requests: Iterable[R],
    questions: Conversation[R],
    client: OpenAIClient,
    ledger: Ledger,
    *,
    limits: RunLimits | None = None,
    price: Price | None = None,
    poll_seconds: float = 30.0,
    most_requests: int = MOST_REQUESTS,
    verbose: bool = True,
    take: Callable[[R, LedgerAnswer], None] | None = None,
    spending: Spending | None = None,
) -> RunSummary:
    """Ask all requests through a server's Batch API.

    A batch is noted in the ledger, with its requests, before it is made, and carries a token of ours, so that a run
    that was killed at any moment finds it again and makes no second one. Its answers go into the same ledger
    as those of `run`. What a batch leaves without an answer, or with one that cannot be used, goes into
    the next batch.

    Parameters
    ----------
    requests : iterable of ScoringRequest or TextRequest
        Gone through once; those without an answer are kept until they have one.
    questions, client, ledger
        As in `run`.
    limits : RunLimits, optional
        Used are `retries` (how many batches in a row may bring nothing, and how often a call is repeated) and
        `max_cost`.
    price : Price, optional
        With the discount of batches already taken off.
    poll_seconds : float, default=30
        How often to ask for a batch's state.
    most_requests : int, default=50000
        Of one batch.
    verbose : bool, default=True
        Show progress.
    take, spending
        As in `run`.

    Returns
    -------
    RunSummary

    Raises
    ------
    ScoringStoppedError
        If the server refuses a batch or cannot be reached. What was made goes on there, and the same
        command finds it.
    """
    limits = limits or RunLimits()
    check_price(questions, limits, price)
    take_over(ledger)
    tally = Tally(questions, ledger, take, spending)
    batches = _Batches(requests, questions, client, ledger, limits, price, poll_seconds, most_requests, verbose, tally)
    try:
        return in_a_loop(batches.main, batches.interrupt)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


class _Batches:
    def __init__(
        self,
        requests: Iterable[Any],
        questions: Conversation[Any],
        client: OpenAIClient,
        ledger: Ledger,
        limits: RunLimits,
        price: Price | None,
        poll_seconds: float,
        most_requests: int,
        verbose: bool,
        tally: Tally[Any],
    ) -> None:
        self._requests, self._questions, self._client, self._ledger = requests, questions, client, ledger
        self._limits, self._price = limits, price
        self._asker = ServerAsker(client, questions, price)
        self._poll_seconds, self._verbose = poll_seconds, verbose
        self._tally, self._summary = tally, tally.summary
        self._waiting: dict[str, list[Question]] = {}  # by key; requests with the very same messages wait together
        self._library = client.library
        self._refused: list[tuple[Question, int, ServerError]] = []  # of the batch that is being read
        self._size = BatchSize(most_requests)

    async def main(self) -> RunSummary:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        start = self._ledger.spent()
        fruitless = 0
        self._client.form = self._ledger.form_of(self._client.address, self._questions.model) or ServerForm()
        self._search = FormSearch(self._client.form)
        self._bar = tqdm(unit=" answers", disable=not self._verbose, file=sys.stderr, dynamic_ncols=True)
        try:
            for request in self._requests:
                self._wait_for(self._tally.begin(request))
            while True:
                for token, batch_id in self._ledger.open_batches():
                    most = self._size.tokens
                    fruitful = await self._finish(token, batch_id)
                    if self._size.tokens == most:
                        fruitless = 0 if fruitful else fruitless + 1
                chunk = self._affordable()
                if not chunk:
                    break
                if fruitless > self._limits.retries:
                    raise self._stopped(
                        f"{fruitless} batches in a row brought no answer; the last problem: "
                        f"{self._summary.last_problem}. Look at the batches in your account"
                    )
                await self._submit(chunk)
        finally:
            self._bar.close()
            await self._client.close()
        for question in itertools.chain.from_iterable(self._waiting.values()):
            self._tally.settle(question.request, None)
        summary = self._summary
        summary.total_cost = self._ledger.spent()
        summary.cost = summary.total_cost - start
        if summary.refused and not (summary.asked or summary.reused or summary.stopped):
            raise self._stopped(
                f"the server refuses every request; the last problem: {summary.last_problem or summary.last_refusal} "
                f"Have them asked again with `sllmr ledger forget-refused {self._ledger.path}` once that is changed"
            )
        return summary

    def interrupt(self) -> None:
        """Stop waiting; safe in any thread. The batch goes on at the server."""
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    def _wait_for(self, question: Question | None) -> None:
        """Have a question be in one of the next batches, unless its answer has come with that of another request."""
        while question is not None and (answer := self._ledger.get(question.key)) is not None:
            question = self._tally.go_on(question, answer)
        if question is not None:
            self._waiting.setdefault(question.key, []).append(question)

    def _affordable(self) -> list[tuple[Question, float, bytes]]:
        """Return questions for one batch, each with its highest cost and its line of the file."""
        left = None if self._limits.max_cost is None else self._limits.max_cost - self._ledger.spent()
        chunk: list[tuple[Question, float, bytes]] = []
        written = self._ledger.completions(self._questions.model)
        size = total_tokens = 0
        for question, *_ in self._waiting.values():
            limit, tokens = question.parameters["max_tokens"], estimate_tokens(question.messages)
            cost = self._price.cost(tokens, limit or AnswerLengths(written).longest) if self._price else 0.0
            unknown = limit is None and not written.number and left is not None
            total_tokens += tokens
            if unknown and len(chunk) == FIRST_UNLIMITED:
                break
            if left is not None and cost > left:
                self._summary.stopped = "max_cost" if not chunk else None
                break
            body = self._client.body(question.messages, question.request.n_candidates, question.parameters)
            text = written_line(question.key, body)
            size += len(text)
            if not self._size.allows(len(chunk) + 1, size, total_tokens):
                break
            left = None if left is None else left - cost
            chunk.append((question, cost, text))
        return chunk

    async def _submit(self, chunk: list[tuple[Question, float, bytes]]) -> None:
        """Make a batch: noted first, then uploaded, then made."""
        content = b"".join(text for _, _, text in chunk)
        file = await self._call(
            lambda: self._library.files.create(file=("requests.jsonl", io.BytesIO(content)), purpose="batch")
        )
        token = uuid.uuid4().hex
        marks = [(question.key, question.request.subject, cost) for question, cost, _ in chunk]
        await asyncio.wrap_future(self._ledger.open_batch(token, marks))

        async def make_unless_there() -> Any:
            return await self._find(token) or await self._library.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"sllmr_token": token, "sllmr_form": self._client.form.to_json()},
            )

        try:
            batch = await self._call(make_unless_there)
        except ScoringStoppedError as error:
            if says_queue_is_full(str(error)):
                await asyncio.wrap_future(self._ledger.close_batch(token))
                self._make_smaller([question for question, _, _ in chunk], str(error))
                return
            if isinstance(error.__cause__, ServerError) and error.__cause__.kind in ("refused", "hopeless"):
                await asyncio.wrap_future(self._ledger.close_batch(token))
            raise
        await asyncio.wrap_future(self._ledger.name_batch(token, batch.id))
        logger.info("%s: %d requests sent; Ctrl-C is safe, the same command waits on", batch.id, len(chunk))

    async def _finish(self, token: str, batch_id: str | None) -> bool:
        """Wait for a batch and put its answers into the ledger; return whether it brought anything."""
        marks = self._ledger.batch_marks(token)
        self._usable, before = 0, self._summary.asked
        if marks and not marks.keys() & self._waiting.keys():
            raise self._stopped(
                f"the ledger has an open batch ({batch_id}) of other requests. Run the command that made it first, or "
                "give this one another --ledger"
            )
        if batch_id is None:  # killed between making it and hearing of it
            found = await self._call(lambda: self._find(token))
            if found is None:
                await asyncio.wrap_future(self._ledger.close_batch(token))
                return False
            batch_id = str(found.id)
            await asyncio.wrap_future(self._ledger.name_batch(token, batch_id))
        batch = await self._ended(batch_id)
        if batch.status == "failed":
            await asyncio.wrap_future(self._ledger.close_batch(token))
            told = getattr(batch.errors, "data", None) or []
            problems = "; ".join(str(getattr(one, "message", one)) for one in told) or "it does not say why"
            codes = " ".join(str(getattr(one, "code", "")) for one in told)
            if says_queue_is_full(f"{codes} {problems}"):
                self._make_smaller([self._waiting[key][0] for key in marks if key in self._waiting], problems)
                return False
            cause = self._client.refusal(400, problems).cause
            other = self._search.next(self._client.form, cause, guess=False) if cause in OF_THE_FORM else None
            if other is None:
                raise self._stopped(f"the server refused {batch_id}: {self._client.scrub(problems)}. Correct that")
            self._client.form, self._summary.last_problem = other, self._client.scrub(problems)
            return False
        # An earlier run may have made it, before it was known what the server takes.
        made_in = (batch.metadata or {}).get("sllmr_form")
        form = ServerForm.from_json(made_in) if made_in else self._client.form
        if not self._client.answered:
            self._client.form = form
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id:
                response = await self._call(functools.partial(self._library.files.content, file_id))
                for entry in read_lines(response.content):
                    await self._merge(entry, marks, form)
        received = self._summary.asked - before
        settled, why = await self._settle_refused(received > 0)
        if set(self._ledger.batch_marks(token)) - self._waiting.keys():
            # Answers to requests that this command does not have; their own command will take them.
            self._summary.last_problem = f"{batch_id} also holds requests of another command"
            return received + settled > 0
        await asyncio.wrap_future(self._ledger.close_batch(token))
        if why is not None:
            raise self._stopped(why)
        if received >= UNUSABLE_IN_A_ROW and not self._usable:
            raise self._stopped(
                f"not one of {received} answers of {batch_id} can be used. Look at them with `sllmr ledger failures`, "
                "then change model, template or --max-tokens"
            )
        return received + settled > 0

    async def _settle_refused(self, answered: bool) -> tuple[int, str | None]:
        """Commit the refusals of a batch that are those of single requests.

        Where the batch brought no answer, the others may lie in the form of its requests: the next one has another.

        Returns
        -------
        settled : int
            How many were committed.
        why : str or None
            A reason to make no further batch.
        """
        refused, self._refused = self._refused, []
        done, others = [], []
        for question, mark, problem in refused:
            if problem.kind == "refused" and (answered or problem.cause in OF_ONE_REQUEST):
                refusal = self._questions.refused(question, problem)
                done.append(self._ledger.refuse(refusal, mark))
                for one in self._waiting.pop(question.key, []):
                    self._tally.settle(one.request, refusal)
            else:
                others.append(problem)
        for future in done:
            await asyncio.wrap_future(future)
        if answered:
            await self._tally.note_form(self._client.address, self._client.form)
        if not others:
            return len(done), None
        other = None if answered else self._search.next(self._client.form, others[0].cause, guess=True)
        if other is None or (others[0].kind != "refused" and others[0].cause not in OF_THE_FORM):
            return len(done), f"the server refuses the requests of a batch; the last problem: {others[0]}"
        self._client.form = other
        return len(done), None

    def _make_smaller(self, questions: Sequence[Question], said: str) -> None:
        """Have the next batches be smaller than one that the server found too large for its queue."""
        said = self._client.scrub(said)
        if len(questions) < 2:
            raise self._stopped(
                f"the server takes no batch of even one request now: {said}. Wait until other batches of the account "
                "have ended"
            )
        self._size.lower(sum(estimate_tokens(question.messages) for question in questions), said)
        logger.info("the server takes no batch of %d requests; the next is smaller", len(questions))

    async def _ended(self, batch_id: str) -> Any:
        while True:
            batch = await self._call(lambda: self._library.batches.retrieve(batch_id))
            counts = getattr(batch, "request_counts", None)
            done = f", {counts.completed} of {counts.total}" if counts is not None else ""
            self._bar.set_postfix_str(f"{batch_id} {batch.status}{done}")
            if batch.status in _ENDED:
                return batch
            await asyncio.sleep(self._poll_seconds)

    async def _merge(self, entry: dict[str, Any], marks: dict[str, int], form: ServerForm) -> None:
        """Commit one answer of a batch; a line without an answer waits for the next batch."""
        key = str(entry.get("custom_id"))
        if key not in self._waiting or key not in marks:
            return
        question, mark = self._waiting[key][0], marks[key]
        response = entry.get("response")
        try:
            if not isinstance(response, dict) or response.get("status_code") != 200:
                body = response.get("body") if isinstance(response, dict) else response
                status = response.get("status_code") if isinstance(response, dict) else None
                said = {"error": entry["error"]} if entry.get("error") else body or "no response"
                raise self._client.refusal(status, said)
            completion = self._client.read_body(response.get("body"), question.messages, form)
            answer = self._asker.read(question, completion)
        except ServerError as error:
            self._summary.last_problem = str(error)
            if error.kind in ("refused", "hopeless") or error.cause == "logprobs":
                self._refused.append((question, mark, error))
            return
        await asyncio.wrap_future(self._ledger.record(answer, mark))
        self._client.answered = True
        self._usable += answer.ok
        self._tally.received(answer)
        for one in self._waiting.pop(key):
            self._wait_for(self._tally.go_on(one, answer))
        self._bar.update()

    async def _find(self, token: str) -> Any:
        """Return the batch that carries a token, or None."""
        searched = 0
        async for batch in self._library.batches.list(limit=100):
            if (batch.metadata or {}).get("sllmr_token") == token:
                return batch
            searched += 1
            if searched >= _SEARCHED:
                break
        return None

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Call the server, again after failures that pass."""
        failures = 0
        while True:
            try:
                return await call()
            except Exception as error:
                problem = self._client.failure(error)
            failures += 1
            refused = problem.kind in ("refused", "hopeless") or says_queue_is_full(str(problem))
            if refused or failures > self._limits.retries:
                raise self._stopped(f"{problem}") from problem
            await asyncio.sleep(backoff(failures, problem.retry_after))

    def _stopped(self, why: str) -> ScoringStoppedError:
        return ScoringStoppedError(
            f"stopped: {why}; then run the same command again ({self._summary.asked} answers of this run are in "
            f"{self._ledger.path})."
        )


class BatchSize:
    """The most that the next batch may hold.

    Parameters
    ----------
    requests : int
    """

    def __init__(self, requests: int) -> None:
        self.requests = requests
        self.tokens = math.inf

    def allows(self, requests: int, n_bytes: int, tokens: int) -> bool:
        """Tell whether a batch may hold so much; a single request always may."""
        return requests <= self.requests and n_bytes <= _MOST_BYTES and (requests == 1 or tokens <= self.tokens)

    def lower(self, tokens: int, said: str) -> None:
        """Allow half the tokens of a batch that was refused, and no more than the server says it takes."""
        self.tokens = tokens / 2
        named = _QUEUE_LIMIT.search(said)
        if named and (limit := float(named[1].replace(",", ""))) > 0:
            self.tokens = min(self.tokens, limit)


def says_queue_is_full(text: str) -> bool:
    """Tell whether a server refuses a batch because too much would wait there."""
    return _QUEUE_FULL.search(text) is not None


def written_line(key: str, body: Mapping[str, Any]) -> bytes:
    """Return a request as a line of a batch's file."""
    line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode() + b"\n"


def read_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; other lines are skipped, and their requests asked again."""
    for line in content.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry
