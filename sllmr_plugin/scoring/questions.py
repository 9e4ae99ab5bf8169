"""`Questions`: a language model is asked for scores or an order, and what its answers mean."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import AnswerError, ConfigError, LogprobsError, LogprobsWarning
from .answer_text import ends_in_json
from .answers import label_positions, parse_scores
from .client import Completion
from .conversation import Answers, Conversation
from .ledger_file import LedgerAnswer
from .logprobs import expected_scores
from .prices import Spending
from .prompts import Message, PromptTemplate
from .ranking_answers import DEFAULT_TEMPERATURE, parse_ranking
from .requests import ScoredAnswer, ScoringRequest
from .schema import SCHEMA_VERSION, AnswerForm

# An entry of an answer has 8 tokens or so; models that do not keep to the schema need some more.
_TOKENS_PER_CANDIDATE = 20
_TOKENS_AROUND = 200
_EXPECTED_PER_CANDIDATE = 8  # '"12": 0.35, '
_EXPECTED_AROUND = 10


@dataclass(frozen=True)
class Questions(Conversation[ScoringRequest]):
    """Turns requests into questions, and answers into scores.

    Parameters
    ----------
    model : str
        The model's name.
    template : PromptTemplate
        The prompt.
    temperature : float or None, default=0
        None leaves it to the server; some models take no other.
    max_tokens : int, "auto" or None, default="auto"
        Longest answer. "auto" is 200 and 20 a candidate; None sets no limit. Models that think before they
        answer need more.
    attempts : int, default=3
        How often a request is asked in all if its answers cannot be used. Raising it later lets the failed ones go
        on where they stopped.
    top_logprobs : int or None, default=None
        Ask for the log-probabilities of so many alternatives a token, and take the expected score of each candidate
        (`expected_scores`) in place of the one written. A server that has none is told of once, and then
        the scores are those written.
    ranking_temperature : float, default=0.5
        As of `soft_scores`, for templates that ask for a ranking. It is applied when answers are read, so
        changing it asks nothing anew.
    extra_body : mapping or None, default=None
        What else the body of each request holds, for servers that take more than OpenAI's parameters:
        ``{"chat_template_kwargs": {"enable_thinking": False}}``, ``{"reasoning_effort": "low"}``. Part of the ledger
        key. Secrets in it are sent, and hidden in what is stored.
    """

    version = SCHEMA_VERSION

    model: str
    template: PromptTemplate = field(default_factory=PromptTemplate)
    temperature: float | None = 0.0
    max_tokens: int | str | None = "auto"
    attempts: int = 3
    top_logprobs: int | None = None
    ranking_temperature: float = DEFAULT_TEMPERATURE
    extra_body: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.top_logprobs and self.template.answer == "ranking":
            raise ConfigError("log-probabilities refine scores, not rankings; leave out one of the two.")
        super().__post_init__()

    @property
    def form(self) -> AnswerForm:
        """What the template asks for."""
        return self.template.answer

    def messages(self, request: ScoringRequest) -> list[Message]:
        """Return the template with the request's titles."""
        return self.template.render(request)

    def parameters(self, request: ScoringRequest) -> dict[str, Any]:
        """Return the generation parameters."""
        longest = self.max_tokens
        if longest == "auto":
            longest = _TOKENS_AROUND + _TOKENS_PER_CANDIDATE * request.n_candidates
        parameters = {"answer": self.template.answer, "temperature": self.temperature, "max_tokens": longest}
        return parameters | ({"top_logprobs": self.top_logprobs} if self.top_logprobs else {})

    def expected_completion(self, request: ScoringRequest) -> int:
        """Return the tokens of an answer that keeps to the schema."""
        return _EXPECTED_AROUND + _EXPECTED_PER_CANDIDATE * request.n_candidates

    def described(self, request: ScoringRequest) -> dict[str, Any]:
        """Return the number of candidates."""
        return {"n_candidates": request.n_candidates}

    def understood(self, completion: Completion, request: ScoringRequest) -> dict[str, Any]:
        """Return the scores by position in the prompt, and what was dropped."""
        answer = self._parse(completion.text, request, completion.logprobs)
        if (completion.cut_off or completion.broken_off) and not ends_in_json(completion.text):
            # A model whose thoughts have no tag before their end: this may be a draft among them.
            raise AnswerError("words follow the answer, which may be a draft. Give the answer alone.")
        return self._content(answer, request)

    def reread(self, answer: LedgerAnswer, request: ScoringRequest) -> dict[str, Any]:
        """Return what `understood` makes of the text today; scores from log-probabilities are kept."""
        if self._keeps_to_the_form(answer.response, request):  # which is read alike by all versions
            return {}
        read = self._parse(answer.response, request, logprobs=False)
        return {} if self.top_logprobs else self._content(read, request)

    def _keeps_to_the_form(self, text: str, request: ScoringRequest) -> bool:
        """Tell whether an answer is what was asked for and nothing else: most are, and a table has very many."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return False
        inner = found.get(self.template.answer) if isinstance(found, dict) and len(found) == 1 else None
        if self.template.answer == "ranking":
            numbers = range(1, request.n_candidates + 1)
            return isinstance(inner, list) and len(inner) > 0 and sorted(inner, key=str) == sorted(numbers, key=str)
        return (
            isinstance(inner, dict) and len(inner) > 0 and inner.keys() <= label_positions(request.n_candidates).keys()
        )

    @staticmethod
    def _content(answer: ScoredAnswer, request: ScoringRequest) -> dict[str, Any]:
        return {
            "scores": tuple(answer.scores.get(item) for item in request.item_ids),
            "n_unasked": answer.n_unasked,
            "n_duplicates": answer.n_duplicates,
        }

    def stored_answers(
        self, requests: Iterable[ScoringRequest], ledger: Answers, spending: Spending | None = None
    ) -> Iterator[tuple[ScoringRequest, ScoredAnswer]]:
        """Yield the requests that have a usable answer in the ledger, in their order, with its scores."""
        for request, answer in self.usable(requests, ledger, spending):
            yield request, self._scored(answer, request)

    def _parse(self, text: str, request: ScoringRequest, logprobs: list | bool | None = False) -> ScoredAnswer:
        """Read an answer; `logprobs` is False where it is to be read as written."""
        if self.template.answer == "ranking":
            return parse_ranking(text, request, temperature=self.ranking_temperature)
        if self.top_logprobs and not isinstance(logprobs, bool):
            try:
                return expected_scores(logprobs, request, text)
            except LogprobsError as error:
                warnings.warn(f"the scores are taken as written: {error}", LogprobsWarning, stacklevel=2)
        return parse_scores(text, request)

    def _scored(self, answer: LedgerAnswer, request: ScoringRequest) -> ScoredAnswer:
        if self.template.answer == "ranking":  # the temperature may have changed since
            return self._parse(answer.response, request)
        pairs = list(zip(request.item_ids, answer.scores or (), strict=True))
        scores = {item: score for item, score in pairs if score is not None}
        missing = tuple(item for item, score in pairs if score is None)
        return ScoredAnswer(scores, missing, answer.n_unasked, answer.n_duplicates)
