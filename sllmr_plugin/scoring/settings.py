"""Settings of scoring: the keyword arguments of `score_candidates`, and the flags of `sllmr score`."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from ..parallel.engine import RayEngine, open_engine
from ..settings import Bounds
from .client import OpenAIClient, server_address
from .content import CONTENT, WITH_POPULARITY
from .prices import Price, Prices, RunLimits, in_batches
from .prompts import AnswerForm, AnswerKind, PromptTemplate
from .questions import Questions
from .ranking_answers import DEFAULT_TEMPERATURE
from .yes_no import ALTERNATIVES, YesNoQuestions


@dataclass(frozen=True)
class ServerSettings:
    """The server to ask, without any key: each process reads its own from ``OPENAI_API_KEY``.

    Attributes
    ----------
    model, base_url, timeout, answer
        As in `OpenAIClient`.
    """

    model: str
    base_url: str | None = None
    timeout: float = 60.0
    answer: AnswerForm = "scores"

    def client(self) -> OpenAIClient:
        """Return a client with this process's key."""
        return OpenAIClient(self.model, base_url=self.base_url, timeout=self.timeout, answer=self.answer)

    def address(self) -> str:
        """Return the address that this process would ask, without secrets."""
        return server_address(self.base_url)


logger = logging.getLogger("sllmr_plugin.scoring")

F = TypeVar("F", bound=Callable[..., Any])


_Path: TypeAlias = str | os.PathLike
_Count: TypeAlias = Annotated[int, Bounds(least=1)]
_Rate: TypeAlias = Annotated[float, Bounds(above=0)]


@dataclass(frozen=True, kw_only=True)
class RequestSettings(RunLimits):
    """The server to ask, for whatever it is asked; how fast and for how much are the fields of `RunLimits`.

    Parameters
    ----------
    model : str, default="gpt-4o-mini"
        As the server calls it.
    base_url : str, optional
        A server of your own, such as ``http://localhost:8000/v1``; no key is needed then. By default
        ``OPENAI_BASE_URL``, else OpenAI, with the key from ``OPENAI_API_KEY``.
    attempts : int, default=3
        How often to ask if the answer cannot be used.
    extra_body : mapping, optional
        What else each request holds, for servers that take it, such as ``{"reasoning_effort": "low"}``; another one
        asks again.
    ledger : path, optional
        SQLite file of all answers, each committed before it counts. By default beside the table, named
        ``.ledger.sqlite`` in place of ``.parquet``. The same call with the same ledger pays for no answer twice.
    prices : path, optional
        YAML of USD per million tokens; by default the bundled one.
    timeout : float, default=60
        Seconds for one request.
    """

    model: str = "gpt-4o-mini"
    base_url: str | None = None
    attempts: _Count = 3
    extra_body: Any = None  # checked where no message can show what it holds
    ledger: _Path | None = None
    prices: _Path | None = None
    timeout: _Rate = 60.0

    def limits(self) -> RunLimits:
        """Return how a run may ask."""
        return RunLimits(**{field.name: getattr(self, field.name) for field in fields(RunLimits)})

    def price(self) -> Price | None:
        """Return what the model costs; None if that is not known."""
        return self._prices().of(self.model)

    def ledger_beside(self, table: Path) -> Path:
        """Return where the answers behind a table are kept."""
        return Path(self.ledger) if self.ledger else table.with_suffix(".ledger.sqlite")

    def _prices(self) -> Prices:
        return Prices.read(None if self.prices is None else Path(self.prices))


@dataclass(frozen=True, kw_only=True)
class AskSettings(RequestSettings):
    """How a language model is asked, with the fields of `RequestSettings`; the error of an unusable answer is fed back.

    Parameters
    ----------
    history_length : int, default=10
        Titles of the user's last items that a prompt shows.
    temperature : float or None, default=0
        Of the model; None leaves it to the server.
    max_tokens : int, "auto" or None, default="auto"
        Longest answer. None sets no limit; models that think before they answer need more than "auto".
    batch : bool, default=False
        Use the server's Batch API: half the price at OpenAI, answers within a day. The call waits, and may be stopped
        and made again meanwhile.
    """

    history_length: Annotated[int, Bounds(least=0)] = 10
    temperature: Annotated[float, Bounds(least=0)] | None = 0.0
    max_tokens: _Count | Literal["auto"] | None = "auto"
    batch: bool = False

    def price(self) -> Price | None:
        """Return what the model costs, with the discount of batches if they are used; None if that is not known."""
        price = super().price()
        return in_batches(price, self._prices().batch_discount) if self.batch else price

    def server(self, answer: AnswerForm) -> ServerSettings:
        """Return the server to ask for answers of a form."""
        return ServerSettings(self.model, self.base_url, self.timeout, answer)

    def asking(self) -> dict[str, Any]:
        """Return what `Questions` and `TextQuestions` share."""
        names = ("model", "temperature", "max_tokens", "attempts", "extra_body")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(AskSettings):
    """Settings of `score_candidates`, with those of `AskSettings`.

    Parameters
    ----------
    scorer : str or Scorer, default="openai"
        ``"openai"`` is any server with chat completions; ``"lexical"``, ``"attributes"``, ``"content"`` and
        ``"content+popularity"`` use no model at all (`LexicalScorer`, `ContentScorer`);
        ``"MODULE:NAME"`` is an object of your own with a method ``score(request)``, which may also be given itself.
    texts : path, optional
        For the scorers of content: a text table, ``kind, id, text``, whose descriptions of items are put behind their
        titles.
    popularity_weight : float, optional
        Of scorer ``content+popularity``; by default chosen on the validation interactions of other users.
    missing : {"leave_out", "half"}, default="leave_out"
        Candidates that an answer leaves out get no row, or 0.5 as in the paper (Sec. 4.3).
    engine : {"local", "ray"}, default="local"
        ``"ray"`` spreads the requests over the processes of a Ray cluster, with the same result.
    workers : int, optional
        Of engine ray; by default as many as the cluster has CPUs.
    template : str or path, optional
        ``"s-llmr"``, the paper's prompt, or a prompt of your own, a text file with placeholders. ``"yes_no"`` is that
        of the answer of this name.
    answer : {"scores", "ranking", "yes_no"}, default="scores"
        What to ask for: scores of all candidates of a user, their order, or, in a question about each pair, whether the
        item suits the user. The score is then P(yes) / (P(yes) + P(no)).
    ranking_temperature : float, default=0.5
        Of the soft scores that a ranking is turned into.
    logprobs : int, optional
        Take expected scores over so many of the likeliest tokens, where the server tells them; of a ranking the
        probability that a candidate comes first. A yes or no is always scored by them, by default by 20.
    repeats : int, default=1
        Ask so often, each time in another order, and average; not for a yes or no, which has no order.
    seed : int, default=0
        Decides the orders.
    """

    scorer: Any = "openai"
    texts: _Path | None = None
    popularity_weight: Annotated[float, Bounds(least=0)] | None = None
    missing: Literal["leave_out", "half"] = "leave_out"
    engine: Literal["local", "ray"] = "local"
    workers: _Count | None = None
    template: _Path | None = None
    answer: AnswerKind = "scores"
    ranking_temperature: _Rate = DEFAULT_TEMPERATURE
    logprobs: _Count | None = None
    repeats: _Count = 1
    seed: int = 0

    def problems(self) -> list[str]:
        """Return what does not go together."""
        problems = []
        if self.ledger and not isinstance(self.scorer, str):
            problems.append(
                "answers in a ledger need a name that changes with the scorer: give the scorer as MODULE:NAME, or pass "
                "the object to score_with(..., name=, ledger=)"
            )
        if self.texts and not self.scores_content:
            problems.append("--texts are read by --scorer content and content+popularity alone: leave them out")
        if self.popularity_weight is not None and self.scorer != WITH_POPULARITY:
            problems.append("--popularity-weight is of --scorer content+popularity alone: leave it out")
        if self.scores_content and self.ledger:
            problems.append(
                "scores of content cost nothing and change with the interactions, so there is nothing to keep: leave "
                "out --ledger"
            )
        if self.answer == "yes_no" and self.scorer != "openai":
            problems.append(
                f"--answer yes_no is what a language model is asked, and the scorer is {self.scorer_name}: leave out "
                "one of the two"
            )
        if self.engine == "ray" and self.batch:
            problems.append(
                "--batch hands all requests to the server at once, so there is nothing to spread: leave out "
                "--engine ray"
            )
        if self.engine == "ray" and self.scorer != "openai" and self.ledger:
            problems.append(
                "answers of a scorer of your own are kept in a --ledger by --engine local alone: leave out one of the "
                "two"
            )
        return problems

    @property
    def scores_content(self) -> bool:
        """Whether the scorer is one of `ContentScorer`."""
        return self.scorer in (CONTENT, WITH_POPULARITY)

    @property
    def scorer_name(self) -> str:
        """The scorer as a table's origin names it."""
        return self.scorer if isinstance(self.scorer, str) else type(self.scorer).__name__

    def questions(self) -> Questions:
        """Return what to ask."""
        template = PromptTemplate.of(self.template, answer=self.answer)
        if self.answer == "yes_no":
            return YesNoQuestions(template=template, top_logprobs=self.logprobs or ALTERNATIVES, **self.asking())
        return Questions(
            template=template,
            top_logprobs=self.logprobs,
            ranking_temperature=self.ranking_temperature,
            **self.asking(),
        )


def opened_engine(engine: str, workers: int | None) -> contextlib.AbstractContextManager[RayEngine | None]:
    """Connect to an engine as `open_engine` does, and log how many workers it has; None is this process."""
    local = engine == "local" and workers is None
    return contextlib.nullcontext() if local else _opened(engine, workers)


@contextlib.contextmanager
def _opened(engine: str, workers: int | None) -> Iterator[RayEngine | None]:
    with open_engine(engine, workers) as opened:
        if opened is not None:
            logger.info("engine ray: %d workers", opened.workers)
        yield opened


def takes(settings: type) -> Callable[[F], F]:
    """Show the fields of a settings class as keyword arguments of a function that hands its ``**settings`` to it."""

    def show(function: F) -> F:
        own = inspect.signature(function)
        named = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        shown = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in fields(settings)
        ]
        function.__signature__ = own.replace(parameters=[*named, *shown])  # type: ignore[attr-defined]
        return function

    return show
