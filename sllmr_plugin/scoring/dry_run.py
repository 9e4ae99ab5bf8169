"""What a run would ask, and what that would cost, without asking."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .conversation import Answers, Conversation, R
from .ledger_file import Completions, Refusal
from .prices import Price, estimate_tokens


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
    """

    requests: int
    known: int
    refused: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    first: list[list[dict[str, str]]]
    assumed: str

    def __str__(self) -> str:
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
