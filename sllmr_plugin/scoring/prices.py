"""What answers cost: prices by model, limits of a run, what it has spent and may spend, and its summary."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml

from ..errors import PriceError
from ..settings import Bounds, Settings
from .ledger_file import Completions, LedgerAnswer


@dataclass(frozen=True)
class Price:
    """USD per million tokens.

    Attributes
    ----------
    prompt, completion : float
        Of the tokens sent and of the tokens that the model writes, reasoning included.
    cached : float or None, default=None
        Of the tokens sent that the provider had in its cache; None: as `prompt`.
    """

    prompt: float
    completion: float
    cached: float | None = None

    def cost(self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
        """Return USD; `cached_tokens` are those of the prompt tokens that came from a cache.

        Examples
        --------
        >>> Price(0.15, 0.60).cost(2_000_000, 500_000)
        0.6
        >>> Price(0.15, 0.60, cached=0.05).cost(2_000_000, 500_000, cached_tokens=1_000_000)
        0.5
        """
        cached_price = self.prompt if self.cached is None else self.cached
        fresh_tokens = prompt_tokens - cached_tokens
        return (self.prompt * fresh_tokens + cached_price * cached_tokens + self.completion * completion_tokens) / 1e6


_DATE = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{8})$")


@dataclass(frozen=True)
class Prices:
    """Prices by model name.

    Attributes
    ----------
    models : dict of str to Price
        As in the file.
    batch_discount : float, default=0.5
        Share that the Batch API takes off.
    source : str
        The file, for messages.
    providers : tuple of str
        What may stand before a model's name, with a slash behind it.
    """

    models: Mapping[str, Price] = field(default_factory=dict)
    batch_discount: float = 0.5
    source: str = "the bundled prices"
    providers: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | Path | None = None) -> Prices:
        """Read a file of the form of ``sllmr_plugin/scoring/prices.yaml``, by default that one.

        Raises
        ------
        PriceError
            If it cannot be read, has another form, or holds a price that is negative or no number.
        """
        file = Path(__file__).with_name("prices.yaml") if path is None else Path(path)
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            models = {
                str(name): Price(
                    _amount(price["prompt"]),
                    _amount(price["completion"]),
                    None if price.get("cached") is None else _amount(price["cached"]),
                )
                for name, price in content["models"].items()
            }
            providers = content.get("providers", [])
            if not isinstance(providers, list):
                raise TypeError("providers is not a list")
            discount = _amount(content.get("batch_discount", 0.5), most=1)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise PriceError(f"{file}: cannot be read ({error}). Give a YAML file with --prices.") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PriceError(
                f"{file}: not a file of prices ({type(error).__name__}: {error}). "
                "Write 'models:' and under it lines such as 'gpt-4o-mini: {prompt: 0.15, completion: 0.60}'."
            ) from None
        source = "the bundled prices" if path is None else str(file)
        return cls(models, discount, source, tuple(map(str, providers)))

    def of(self, model: str) -> Price | None:
        """Return the price of a model, None if it is not in the file.

        A name that is not there is looked up without the date at its end, with hyphens for points
        (``claude-sonnet-4.5``), and without providers before it, one after the other, so that a file's own
        ``openai/gpt-4o`` comes before its ``gpt-4o``.
        """
        while True:
            undated = _DATE.sub("", model)
            for name in (model, undated, undated.replace(".", "-")):
                if name in self.models:
                    return self.models[name]
            provider, slash, rest = model.partition("/")
            if not slash or provider.lower() not in self.providers:
                return None
            model = rest


def in_batches(price: Price | None, discount: float) -> Price | None:
    """Return a price with the discount of the Batch API taken off."""
    if price is None:
        return None
    cached = None if price.cached is None else price.cached * (1 - discount)
    return Price(price.prompt * (1 - discount), price.completion * (1 - discount), cached)


def _amount(value: Any, most: float = 1e9) -> float:
    number = float(value)
    if not 0 <= number <= most:
        raise ValueError(f"{value} is not within 0 to {most:g}")
    return number


@dataclass(frozen=True, kw_only=True)
class RunLimits(Settings):
    """How a run may ask.

    Attributes
    ----------
    concurrency : int, default=16
        Requests in flight at a time. Also the most that a kill can make a run ask again.
    requests_per_minute, tokens_per_minute : float or None, default=None
        None sets no limit.
    retries : int, default=6
        How often a request that got no answer is sent again, with growing waits. A server that is merely busy (429)
        is waited for without counting, for as long as other requests are answered.
    max_cost : float or None, default=None
        USD. Nothing is sent that could make the ledger's total, earlier runs included, exceed it.

    Raises
    ------
    ConfigError
        If numbers are out of range; all of them are named.
    """

    concurrency: Annotated[int, Bounds(least=1)] = 16
    requests_per_minute: Annotated[float, Bounds(above=0)] | None = None
    tokens_per_minute: Annotated[float, Bounds(above=0)] | None = None
    retries: Annotated[int, Bounds(least=0)] = 6
    max_cost: Annotated[float, Bounds(above=0)] | None = None


_ASCII_PER_TOKEN = 3.5
_TOKENS_PER_MESSAGE = 4  # the chat format's own
_MOST_PER_TOKEN = 7
_FIRST_WIDE = "\u2e80"  # from here on: Chinese, Japanese, Korean
_MOST_WIDE_PER_TOKEN = 3


def estimate_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Guess how many tokens chat messages have, without any model's tokenizer; meant to err high.

    A token for 3.5 ASCII characters (English titles in JSON have nearer to 4), one for any other character, and a
    few for each message. Only estimates and `--max-cost` ahead of an answer rest on it, never what was spent:
    that is what the server counted.

    Examples
    --------
    >>> estimate_tokens([{"role": "user", "content": "seven c"}])
    6
    """
    texts = [str(message["content"]) for message in messages]
    ascii_characters = sum(len(text.encode("ascii", "ignore")) for text in texts)
    others = sum(map(len, texts)) - ascii_characters
    return math.ceil(ascii_characters / _ASCII_PER_TOKEN) + others + _TOKENS_PER_MESSAGE * len(texts)


def is_cut(messages: Sequence[Mapping[str, Any]], counted_tokens: int) -> bool:
    """Tell whether a server's count of a prompt's tokens is too low for the whole prompt.

    No tokenizer in use puts more than 7 characters into a token on average, or 3 of Chinese, Japanese or Korean. A
    count below that, half of what `estimate_tokens` guesses of English, means that the server dropped a part of the
    prompt, as servers do that have been started with a short context. A count of 0 is taken for a missing one.

    Examples
    --------
    >>> is_cut([{"role": "user", "content": "word " * 1000}], 512), is_cut([{"role": "user", "content": "word "}], 1)
    (True, False)
    """
    text = "".join(str(message["content"]) for message in messages)
    wide = sum(character >= _FIRST_WIDE for character in text) if not text.isascii() else 0
    return 0 < counted_tokens < (len(text) - wide) // _MOST_PER_TOKEN + wide // _MOST_WIDE_PER_TOKEN


class Spending:
    """Adds up answers, each once however many requests share it.

    Answers that could not be used count, since they were charged. Requests that were sent and never answered do
    not: `sllmr ledger stats` has those.

    Attributes
    ----------
    prompt_tokens, completion_tokens : int
        As the server counted them.
    cut_prompts : int
        Prompts of which the server dropped a part, see `is_cut`.
    own_temperature : int
        Answers at the server's own temperature, since it did not take the one asked for.
    """

    def __init__(self) -> None:
        self.prompt_tokens = self.completion_tokens = self.cut_prompts = self.own_temperature = 0
        self._cost: float | None = 0.0
        self._seen: set[str] = set()

    def add(self, answer: LedgerAnswer, messages: Sequence[Mapping[str, Any]]) -> None:
        """Count an answer to some messages."""
        if answer.key in self._seen:
            return
        self._seen.add(answer.key)
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.cut_prompts += is_cut(messages, answer.prompt_tokens)
        self.own_temperature += "temperature" in answer.request.get("left_out", ())
        self._cost = None if self._cost is None or answer.cost is None else self._cost + answer.cost

    @property
    def cost(self) -> float | None:
        """USD; None if a price was not known."""
        return self._cost

    def recorded(self) -> dict[str, Any]:
        """Return what a file's origin says: ``tokens``, and ``cost`` in USD, None where a price was not known.

        ``cut_prompts`` and ``own_temperature`` are there if they are not 0.
        """
        tokens = {"prompt": self.prompt_tokens, "completion": self.completion_tokens}
        counts = {name: getattr(self, name) for name in ("cut_prompts", "own_temperature") if getattr(self, name)}
        return {"tokens": tokens, "cost": None if self._cost is None else round(self._cost, 6), **counts}

    def notes(self) -> list[str]:
        """Return the lines of a summary on what is wrong with the answers although they can be used."""
        notes = []
        if self.cut_prompts:
            notes.append(
                f"  {self.cut_prompts} answers are to prompts of which the server dropped a part (it counted less than "
                "half the tokens): start it with a longer context, and ask again with another --ledger"
            )
        if self.own_temperature:
            notes.append(
                f"  {self.own_temperature} answers are at the server's own temperature, since it did not take the one "
                "asked for"
            )
        return notes


_GUESSED_COMPLETION = 1000  # tokens of an answer without a limit, as long as there has been none
_LENGTHENED = 2


class AnswerLengths:
    """How long answers without a limit of their length get, as far as is known.

    Parameters
    ----------
    so_far : Completions
        What the ledger has of them.
    """

    def __init__(self, so_far: Completions) -> None:
        self._longest, self._foreseen = so_far.longest, so_far.number

    @property
    def longest(self) -> float:
        """Tokens to set aside for an answer: twice those of the longest so far."""
        return _LENGTHENED * self._longest or _GUESSED_COMPLETION

    @property
    def room(self) -> int:
        """How many may be in flight under a cap: one more with every answer that is not longer than foreseen."""
        return 1 + self._foreseen

    def note(self, tokens: int) -> None:
        """Take the tokens of an answer into account."""
        unforeseen = not self._longest or tokens > self.longest
        self._foreseen = 0 if unforeseen else self._foreseen + 1
        self._longest = max(self._longest, tokens)


class Budget:
    """What has been spent, and what may be.

    Parameters
    ----------
    spent : float
        USD spent so far.
    most : float or None
        USD that must not be exceeded; None sets no cap.

    Attributes
    ----------
    spent : float
        USD.
    in_flight : int
        Requests that money is set aside for.
    unlimited : float
        USD set aside for an answer without a limit of its length. Set it again when longer ones occur: it counts for
        those in flight, too.
    """

    def __init__(self, spent: float, most: float | None) -> None:
        self.spent = self._start = spent
        self.in_flight = 0
        self._most = most
        self.unlimited = 0.0
        self._n_unlimited = 0
        self._reserved = 0.0
        self._changed = asyncio.Condition()

    @property
    def spent_here(self) -> float:
        """USD spent since this budget was made."""
        return self.spent - self._start

    async def reserve(self, cost: float, stop: asyncio.Event, *, unlimited: bool = False) -> bool:
        """Set money aside for a request, waiting for those in flight if they leave too little.

        Parameters
        ----------
        cost : float
            The most that it may cost, in USD; without the answer, if that is unlimited.
        stop : asyncio.Event
            Ends the waiting.
        unlimited : bool, default=False
            Whether the answer may have any length.

        Returns
        -------
        bool
            False if there is too little even with nothing in flight, or `stop` was set meanwhile.
        """
        async with self._changed:
            while self._most is not None and self._committed(self._n_unlimited + unlimited) + cost > self._most:
                if self.in_flight == 0 or stop.is_set():
                    return False
                await self._changed.wait()
            self._reserved += cost
            self._n_unlimited += unlimited
            self.in_flight += 1
        return True

    async def release(self, cost: float, *, unlimited: bool = False) -> None:
        """Give back what `reserve` has set aside; what the request did cost is added to `spent` before."""
        async with self._changed:
            self.in_flight -= 1
            self._n_unlimited -= unlimited
            self._reserved = self._reserved - cost if self.in_flight else 0.0  # no rounding piles up
            self._changed.notify_all()

    def _committed(self, n_unlimited: int) -> float:
        """Return the USD that are spent or set aside with so many unlimited answers in flight."""
        return self.spent + self._reserved + n_unlimited * self.unlimited


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
