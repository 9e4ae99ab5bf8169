"""`TextQuestions`: a language model is asked for texts, and what its answers mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import AnswerError
from ..conversation import Answers, Conversation
from ..ledger_file import LedgerAnswer
from ..openai_client import Completion
from ..schema import TEXT_VERSION, AnswerForm
from ..spending import Spending
from ..template_text import Message
from .answers import is_echo, parse_text
from .prompts import TextTemplate
from .request import KINDS, Kind, TextRequest

_CHARACTERS_PER_TOKEN = 3  # of the longest text, so that a usable one is not cut off
_TOKENS_AROUND = 100
_TOKENS_PER_WORD = 4 / 3


@dataclass(frozen=True)
class TextQuestions(Conversation[TextRequest]):
    """Turns requests for texts into questions, and answers into texts.

    Parameters
    ----------
    model : str
        The model's name.
    templates : mapping of str to TextTemplate
        The prompt of each kind.
    temperature : float or None, default=0
        None leaves it to the server.
    max_tokens : int, "auto" or None, default="auto"
        Longest answer. "auto" is 100 and a token for 3 characters of the longest text; None sets no limit. Models that
        think before they answer need more.
    attempts : int, default=3
        How often a text is asked for in all if the answers cannot be used.
    extra_body : mapping or None, default=None
        What else the body of each request holds, for servers that take more than OpenAI's parameters:
        ``{"chat_template_kwargs": {"enable_thinking": False}}``, ``{"reasoning_effort": "low"}``. Part of the ledger
        key. Secrets in it are sent, and hidden in what is stored.
    """

    version = TEXT_VERSION

    model: str
    templates: Mapping[Kind, TextTemplate] = field(default_factory=lambda: {kind: TextTemplate(kind) for kind in KINDS})
    temperature: float | None = 0.0
    max_tokens: int | str | None = "auto"
    attempts: int = 3
    extra_body: Mapping[str, Any] | None = None

    @property
    def form(self) -> AnswerForm:
        """A text."""
        return "text"

    def messages(self, request: TextRequest) -> list[Message]:
        """Return the kind's template with the request's titles."""
        return self.templates[request.kind].render(request)

    def parameters(self, request: TextRequest) -> dict[str, Any]:
        """Return the generation parameters."""
        longest = self.max_tokens
        if longest == "auto":
            longest = _TOKENS_AROUND + self.templates[request.kind].max_characters // _CHARACTERS_PER_TOKEN
        return {"answer": self.form, "temperature": self.temperature, "max_tokens": longest}

    def expected_completion(self, request: TextRequest) -> int:
        """Return the tokens of an English text of the length that is asked for."""
        return round(_TOKENS_PER_WORD * self.templates[request.kind].max_words)

    def described(self, request: TextRequest) -> dict[str, Any]:
        """Return the kind."""
        return {"kind": request.kind}

    def understood(self, completion: Completion, request: TextRequest) -> dict[str, Any]:
        """Return nothing: the text is read from the answer whenever it is needed. Raise if there is none."""
        if completion.declined:
            raise AnswerError("it is a refusal. Write what the titles tell, without judging them.")
        if completion.cut_off:  # also where its beginning could be read
            raise AnswerError("the text has no end.")
        if completion.broken_off:
            raise AnswerError("the text has no end. Write what the titles tell, in plain words.")
        self._parse(completion.text, request)
        return {}

    def reread(self, answer: LedgerAnswer, request: TextRequest) -> dict[str, Any]:
        """Return nothing; raise if what is stored is no text."""
        self._parse(answer.response, request)
        return {}

    def stored_texts(
        self, requests: Iterable[TextRequest], ledger: Answers, spending: Spending | None = None
    ) -> Iterator[tuple[TextRequest, str]]:
        """Yield the requests that have a usable answer in the ledger, in their order, with its text."""
        for request, answer in self.usable(requests, ledger, spending):
            yield request, self._parse(answer.response, request)

    def _parse(self, answer: str, request: TextRequest) -> str:
        template = self.templates[request.kind]
        text = parse_text(answer, template.max_characters)
        if is_echo(text, template.render(request)):
            raise AnswerError("the text repeats the question. Write a text of your own.")
        return text
