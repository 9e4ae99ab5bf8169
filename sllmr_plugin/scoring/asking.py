"""Where answers come from (`ServerAsker`), what becomes of requests (`Tally`), and what every way of asking shares."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import pandas as pd

from ..errors import DataError, PriceError, ScoreTableError, ScoringStoppedError
from .client import Completion
from .ledger import Ledger
from .ledger_file import LedgerAnswer, Refusal
from .limits import Quota
from .prices import Price, RunLimits, RunSummary, Spending
from .questions import Conversation, Question, R
from .servers import ServerForm

T = TypeVar("T")


class Client(Protocol):
    """What asking needs of a client; `OpenAIClient` is one.

    Attributes
    ----------
    address : str
        Of the server, without secrets.
    form : ServerForm
        The form of request that the server is taken to want; set from the ledger before the first request.
    answered : bool
        Whether the server has answered in that form.
    """

    address: str
    form: ServerForm
    answered: bool

    @property
    def quota(self) -> Quota | None:
        """What the server has told last of what may be asked."""
        ...

    async def complete(self, messages: list, n_candidates: int, parameters: dict) -> Completion:
        """Ask once; raise `ServerError` if no answer comes."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class ServerAsker:
    """Asks a server from this process.

    Parameters
    ----------
    client : Client
        Asks the server; closed with this object.
    questions : Questions
        How to read the answers.
    price : Price or None
        What they cost; without it that is not known.
    """

    def __init__(self, client: Client, questions: Conversation[Any], price: Price | None) -> None:
        self._client, self._questions, self._price = client, questions, price
        self.address = client.address

    @property
    def form(self) -> ServerForm:
        """The client's."""
        return self._client.form

    @form.setter
    def form(self, form: ServerForm) -> None:
        self._client.form = form

    def begin_with(self, form: ServerForm, *, answered: bool) -> None:
        """Ask in this form from now on, which another process has found out if `answered`."""
        if not self._client.answered:
            self._client.form, self._client.answered = form, answered

    async def ask(self, question: Question) -> LedgerAnswer:
        """Ask once, and read the answer; raise `ServerError` if none comes."""
        return self.read(question, await self.complete(question))

    @property
    def quota(self) -> Quota | None:
        """The client's."""
        return self._client.quota

    async def complete(self, question: Question) -> Completion:
        """Ask once; raise `ServerError` if no answer comes."""
        return await self._client.complete(question.messages, question.request.n_candidates, question.parameters)

    def read(self, question: Question, completion: Completion) -> LedgerAnswer:
        """Read an answer, and compute its cost."""
        used = completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens
        return self._questions.read(question, completion, self._price.cost(*used) if self._price else None)

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.close()


class Asker(Protocol):
    """What the runner needs of an object that asks.

    Attributes
    ----------
    address, form
        As in `Client`.
    """

    address: str
    form: ServerForm

    @property
    def quota(self) -> Quota | None:
        """What the server has told last of what may be asked."""
        ...

    async def ask(self, question: Question) -> LedgerAnswer:
        """Ask once, and read the answer; raise `ServerError` if none comes."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class Tally(Generic[R]):
    """Follows the conversations about requests, counts what becomes of them, and hands usable answers on.

    Whoever asks, one at a time or in batches, goes through these methods, so each request is rendered, looked up and
    read once a run.

    Parameters
    ----------
    questions : Conversation
    ledger : Ledger
    take : callable, optional
        Gets every request that has a usable answer, with that answer, once it is committed, in the order in which they
        come.
    spending : Spending, optional
        Gets every answer to these requests, earlier ones and unusable ones included.

    Attributes
    ----------
    summary : RunSummary
        The counts so far.
    unanswered : list of Request
        Those that got no answer.
    """

    def __init__(
        self,
        questions: Conversation[R],
        ledger: Ledger,
        take: Callable[[R, LedgerAnswer], None] | None = None,
        spending: Spending | None = None,
    ) -> None:
        self._questions, self._ledger, self._take, self._spending = questions, ledger, take, spending
        self.summary = RunSummary()
        self.unanswered: list[R] = []

    def begin(self, request: R) -> Question[R] | None:
        """Return what has to be asked about a request; None if the ledger settles it."""
        self.summary.requests += 1
        question, answer = self._questions.replay(request, self._ledger, self._spending)
        if question is None:
            self.summary.reused += not isinstance(answer, Refusal)
            self.settle(request, answer)
        return question

    def received(self, answer: LedgerAnswer) -> None:
        """Count an answer that has come and is committed."""
        self.summary.asked += 1
        self.summary.prompt_tokens += answer.prompt_tokens
        self.summary.completion_tokens += answer.completion_tokens

    def go_on(self, question: Question[R], answer: LedgerAnswer) -> Question[R] | None:
        """Return what to ask after a committed answer; None if it settles the request."""
        if self._spending is not None:
            self._spending.add(answer, question.messages)
        following = None if answer.ok else self._questions.next(question, answer)
        if following is None:
            self.settle(question.request, answer)
        return following

    def settle(self, request: R, answer: LedgerAnswer | Refusal | None) -> None:
        """Count what a request has come to: an answer, a refusal, or nothing."""
        if answer is None:
            self.summary.unanswered += 1
            self.unanswered.append(request)
        elif isinstance(answer, Refusal):
            self.summary.refused += 1
            self.summary.last_refusal = answer.reason
        elif not answer.ok:
            self.summary.failed += 1
            self.summary.last_problem = answer.error
        elif self._take is not None:
            self._take(request, answer)

    def look_up(self, request: R) -> None:
        """Hand on the answer that the ledger has to a request that is not asked, without counting the request."""
        _, answer = self._questions.replay(request, self._ledger, self._spending)
        if self._take is not None and isinstance(answer, LedgerAnswer) and answer.ok:
            self._take(request, answer)

    async def note_form(self, address: str, form: ServerForm) -> None:
        """Have the next run begin with the form of request that a server took."""
        self.summary.adapted = form.told()
        if form != (self._ledger.form_of(address, self._questions.model) or ServerForm()):
            await asyncio.wrap_future(self._ledger.remember_form(address, self._questions.model, form))


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


class Running(Protocol):
    """Something that asks everything, and can be stopped; `Runner` is one."""

    async def main(self) -> RunSummary:
        """Ask everything."""
        ...

    def interrupt(self) -> None:
        """Stop early; safe in any thread."""
        ...


def settle(runner: Running) -> RunSummary:
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
        Called at Ctrl-C if the coroutine runs in another thread, which does not receive the signal.
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


@dataclass(frozen=True)
class Asked:
    """What came of asking a server.

    Attributes
    ----------
    summary : RunSummary
        Of the run.
    spending : Spending
        Tokens and dollars of all answers to its requests, those of earlier runs included.
    ledger : pathlib.Path
        Where they are.
    price : Price or None
        Of the model.
    model : str
    """

    summary: RunSummary
    spending: Spending
    ledger: Path
    price: Price | None
    model: str

    @property
    def complete(self) -> bool:
        """Whether every request that `max_cost` lets be asked was answered, usably or not."""
        cut_off = self.summary.unanswered > 0 and self.summary.stopped != "max_cost"
        return not (self.summary.refused or cut_off)

    @contextlib.contextmanager
    def told_in_errors(self) -> Iterator[None]:
        """Add what came of asking to the error of a table that cannot be made of the answers."""
        try:
            yield
        except (DataError, ScoreTableError) as error:
            raise type(error)(f"{error}\n{self}") from None

    def __str__(self) -> str:
        lines = [str(self.summary)]
        if self.price is None:
            lines.append(f"  the price of {self.model} is not known, so it counts as nothing here; see --prices")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False, repr=False)
class WrittenTable:
    """A table that is written to a file, and how it came about; its ``repr`` says so in a few lines.

    Attributes
    ----------
    path : pathlib.Path
        The parquet file.
    table : pandas.DataFrame
        Its rows.
    counts : object
        What became of the requests.
    asked : Asked or None
        What came of asking the server; None where none was asked.
    """

    path: Path
    table: pd.DataFrame
    counts: Any
    asked: Asked | None = None
    name: ClassVar[str]

    @property
    def cost(self) -> float | None:
        """USD of all answers behind the table, those of earlier runs included; None if the price is not known."""
        return self.asked.spending.cost if self.asked is not None else 0.0

    @property
    def complete(self) -> bool:
        """Whether nothing was left unanswered, see `Asked.complete`."""
        return self.asked is None or self.asked.complete

    def __repr__(self) -> str:
        counts, where = str(self.counts), f"{self.name}: {self.path}"
        if self.asked is None:
            return f"{counts}\n{where}"
        lines = [str(self.asked), counts, *self.asked.spending.notes(), where, f"Ledger: {self.asked.ledger}"]
        return "\n".join(lines)
