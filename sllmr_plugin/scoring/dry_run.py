"""What a run would ask, and what that would cost, without asking."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .conversation import Answers, Conversation, R
from .ledger_file import Refusal
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
    """

    requests: int
    known: int
    refused: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    first: list[list[dict[str, str]]]

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
            f"{self.completion_tokens} completion tokens: {money}\n(tokens are guessed from characters; answers that "
            "have to be asked for again come on top. Nothing was sent.)"
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
            completion_tokens += questions.expected_completion(request)
    cost = price.cost(prompt_tokens, completion_tokens) if price else None
    return Estimate(n_requests, known, refused, prompt_tokens, completion_tokens, cost, first)
