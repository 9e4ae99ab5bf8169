"""`Spending`: tokens and dollars of the answers that a table was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .ledger_file import LedgerAnswer
from .prices import is_cut


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
