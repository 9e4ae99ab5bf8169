"""What tokens cost, and what a table has cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import PriceError
from .ledger_file import LedgerAnswer

_DATE = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{8})$")
_ASCII_PER_TOKEN = 3.5
_TOKENS_PER_MESSAGE = 4  # the chat format's own
_MOST_PER_TOKEN = 7
_FIRST_WIDE = "\u2e80"  # from here on: Chinese, Japanese, Korean
_MOST_WIDE_PER_TOKEN = 3


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
    prompt, as servers do that have been started with a short context. A count of 0 is none.

    Examples
    --------
    >>> is_cut([{"role": "user", "content": "word " * 1000}], 512), is_cut([{"role": "user", "content": "word "}], 1)
    (True, False)
    """
    text = "".join(str(message["content"]) for message in messages)
    wide = sum(character >= _FIRST_WIDE for character in text) if not text.isascii() else 0
    return 0 < counted_tokens < (len(text) - wide) // _MOST_PER_TOKEN + wide // _MOST_WIDE_PER_TOKEN


def _amount(value: Any, most: float = 1e9) -> float:
    number = float(value)
    if not 0 <= number <= most:
        raise ValueError(f"{value} is not within 0 to {most:g}")
    return number


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
    """

    def __init__(self) -> None:
        self.prompt_tokens = self.completion_tokens = self.cut_prompts = 0
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
        self._cost = None if self._cost is None or answer.cost is None else self._cost + answer.cost

    def recorded(self) -> dict[str, Any]:
        """Return what a file's origin says: ``tokens``, and ``cost`` in USD, None where a price was not known.

        ``cut_prompts`` is there if it is not 0.
        """
        tokens = {"prompt": self.prompt_tokens, "completion": self.completion_tokens}
        cut = {"cut_prompts": self.cut_prompts} if self.cut_prompts else {}
        return {"tokens": tokens, "cost": None if self._cost is None else round(self._cost, 6), **cut}

    def notes(self) -> list[str]:
        """Return the lines of a summary on what is wrong with the answers although they can be used."""
        if not self.cut_prompts:
            return []
        return [
            f"  {self.cut_prompts} answers are to prompts of which the server dropped a part (it counted less than "
            "half the tokens): start it with a longer context, and ask anew with another --ledger"
        ]
