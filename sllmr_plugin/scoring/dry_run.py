"""What a run would ask and cost, by a file of prices, without asking."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import PriceError
from .ledger_file import Completions, LedgerReader, Refusal
from .prices import Price, estimate_tokens
from .questions import Answers, Conversation, R


@dataclass(frozen=True)
class Estimate:
    """What a run would ask.

    Attributes
    ----------
    requests, known : int
        All requests, and those of them that the ledger has answers to.
    refused : int
        Requests that the server has refused for good, and that are not asked again.
    prompt_tokens, completion_tokens : int
        Of the requests to be asked, if every first answer can be used.
    cost : float or None
        USD for these tokens; None if the price is not known.
    first : list of list of dict
        The messages of the first requests.
    assumed : str
        What the length of an answer is taken to be.
    free : str
        What is done in place of asking, where no model is asked.
    """

    requests: int
    known: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0
    first: list[list[dict[str, str]]] = field(default_factory=list, repr=False)
    assumed: str = ""
    free: str = ""

    def __str__(self) -> str:
        if self.free:
            return f"{self.requests} {self.free}"
        lines = []
        for number, messages in enumerate(self.first, start=1):
            lines.append(f"--- prompt {number} ---")
            lines += [f"[{message['role']}]\n{message['content']}\n" for message in messages]
        money = (
            "the price of this model is not known (see --prices)" if self.cost is None else f"about ${self.cost:.4f}"
        )
        refused = f", {self.refused} refused by the server" if self.refused else ""
        lines.append(
            f"{self.requests} requests, {self.known} of them answered in the ledger{refused}; to be asked: "
            f"{self.requests - self.known - self.refused}\nabout {self.prompt_tokens} prompt tokens and "
            f"{self.completion_tokens} completion tokens: {money}\n(tokens are guessed from characters; "
            f"{self.assumed}; answers that have to be asked for again come on top. Nothing was sent.)"
        )
        return "\n".join(lines)


def estimate(
    requests: Iterable[R],
    questions: Conversation[R],
    ledger: Answers | None,
    price: Price | None,
    *,
    show: int = 2,
) -> Estimate:
    """Count what a run would ask.

    Parameters
    ----------
    requests : iterable of ScoringRequest or TextRequest
        What the run would be about.
    questions : Questions or TextQuestions
        As of the run.
    ledger : Ledger, LedgerReader or None
        What is there already.
    price : Price or None
        Of the model.
    show : int, default=2
        How many prompts to keep for display.
    """
    n_requests = known = refused = prompt_tokens = completion_tokens = 0
    first: list[list[dict[str, str]]] = []
    written = None if ledger is None else ledger.completions(questions.model)
    unlimited = False
    for request in requests:
        n_requests += 1
        question, last = (questions.first(request), None) if ledger is None else questions.replay(request, ledger)
        if len(first) < show:
            first.append(questions.messages(request))
        if isinstance(last, Refusal):
            refused += 1
        elif question is None:
            known += 1
        else:
            prompt_tokens += estimate_tokens(question.messages)
            expected = questions.expected_completion(request)
            if question.parameters["max_tokens"] is None:
                unlimited = True
                expected = round(written.mean) if written is not None and written.number else expected
            completion_tokens += expected
    cost = price.cost(prompt_tokens, completion_tokens) if price else None
    assumed = _assumed(unlimited, written)
    return Estimate(n_requests, known, refused, prompt_tokens, completion_tokens, cost, first, assumed)


def estimate_run(
    requests: Iterable[R], questions: Conversation[R], ledger: Path, price: Price | None, *, show: int = 2
) -> Estimate:
    """Count what a run with a ledger's file would ask; it need not exist, and is not made. See `estimate`."""
    if not ledger.exists():
        return estimate(requests, questions, None, price, show=show)
    with LedgerReader(ledger) as reader:
        return estimate(requests, questions, reader, price, show=show)


def _assumed(unlimited: bool, written: Completions | None) -> str:
    if not unlimited:
        return "an answer is taken to be as long as one that keeps to the form"
    if written is None or not written.number:
        return (
            "an answer is taken to be as long as one that keeps to the form and nothing else. There is no limit "
            "(--max-tokens none), and a model that thinks before it answers writes many times as much: ask about few "
            "first, then this counts from what they had"
        )
    return (
        f"an answer is taken to have {written.mean:.0f} tokens, the mean of the {written.number} without a limit in "
        f"the ledger, of which the longest has {written.longest}"
    )


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
