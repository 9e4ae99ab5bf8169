"""`Conversation`: what is asked about a request, attempt by attempt; `Questions`: about scores or an order."""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from ..errors import AnswerError, ConfigError, LogprobsError, LogprobsWarning, PromptCutWarning, ServerError
from ..settings import Bounds, Settings
from .answer_text import ends_in_json
from .answers import expected_scores, keeps_to_the_form, parse_scores
from .client import Completion
from .label_scores import label_scores
from .ledger_file import Completions, LedgerAnswer, Refusal, ledger_key
from .prices import Spending, is_cut
from .prompts import SCHEMA_VERSION, AnswerForm, AnswerKind, Message, PromptTemplate, ask_again
from .ranking_answers import DEFAULT_TEMPERATURE, parse_ranking
from .requests import Request, ScoredAnswer, ScoringRequest
from .secrets import (
    hide_secrets,
)
from .servers import ServerForm

#: Parameters of a request that `extra_body` must not hold, and what sets them.
_SET_ELSEWHERE = {
    "model": "--model (model=) sets it",
    "messages": "--template (template=) sets them",
    "stream": "answers are read whole",
    "stream_options": "answers are read whole",
    "n": "--repeats asks again, each time in another order",
    "temperature": "--temperature (temperature=) sets it",
    "max_tokens": "--max-tokens (max_tokens=) sets it",
    "max_completion_tokens": "--max-tokens (max_tokens=) sets it",
    "logprobs": "--logprobs (top_logprobs=) sets it",
    "top_logprobs": "--logprobs (top_logprobs=) sets it",
    "response_format": "--answer (the template's answer=) decides it",
}


def checked_extra_body(extra_body: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a copy in plain JSON values, None if there is nothing in it; raise `ConfigError` if it cannot be sent."""
    if not extra_body and (extra_body is None or isinstance(extra_body, Mapping)):
        return None
    example = 'such as {"chat_template_kwargs": {"enable_thinking": false}}'
    if not isinstance(extra_body, Mapping) or not all(isinstance(name, str) for name in extra_body):
        raise ConfigError(f"extra_body is not a JSON object with names as keys. Give one {example}.")
    for name in extra_body:
        if name in _SET_ELSEWHERE:
            raise ConfigError(f"extra_body must not hold {name}: {_SET_ELSEWHERE[name]}. Leave it out.")
    try:
        return json.loads(json.dumps(dict(extra_body), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        # The error's own words could quote a value, which may be a secret.
        raise ConfigError(
            f"extra_body holds what JSON cannot say ({type(error).__name__}). Give plain values {example}."
        ) from None


_CUT = (
    "the server counted less than half the tokens that a prompt must have, so it has dropped a part of it and the "
    "answer is about the rest. Start it with a longer context (llama.cpp: -c, Ollama: num_ctx), or ask less at a time: "
    "--history-length, and --per-user of sllmr candidates."
)
_IN_THE_CONTENT = "Write the answer itself as the message's content, behind short thoughts."
R = TypeVar("R", bound=Request)


class Answers(Protocol):
    """Where answers are looked up: `Ledger` and `LedgerReader`."""

    def get(self, key: str) -> LedgerAnswer | None:
        """Return the answer to a question, or None."""
        ...

    def refusal(self, key: str) -> Refusal | None:
        """Return how a question was refused for good, or None."""
        ...

    def completions(self, model: str) -> Completions:
        """Return how long a model's answers without a limit are."""
        ...


@dataclass(frozen=True)
class Question(Generic[R]):
    """One prompt of a conversation about one request.

    Attributes
    ----------
    request : Request
        What it is about.
    messages : list of dict
        Chat messages.
    parameters : dict
        Generation parameters.
    key, first_key : str
        Ledger keys of this question and of the first one of the conversation.
    attempt : int
        0 for the first question.
    """

    request: R
    messages: list[Message]
    parameters: dict[str, Any]
    key: str
    first_key: str
    attempt: int


@dataclass(frozen=True)
class Conversation(Settings, ABC, Generic[R]):
    """Turns requests into questions, and completions into ledger entries; the kinds of answers are its subclasses.

    An answer that cannot be used is shown to the model together with what is wrong with it. Each such attempt is a
    question with a ledger key of its own, so a run that was killed takes up a conversation where it stopped.

    Parameters
    ----------
    model : str
        The model's name.
    temperature : float or None, default=0
        None leaves it to the server; some models take no other.
    max_tokens : int, "auto" or None, default="auto"
        Longest answer. "auto" is `longest_answer`; None sets no limit. Models that think before they answer need more.
    attempts : int, default=3
        How often a request is asked in all if its answers cannot be used. Raising it later lets the failed ones go
        on where they stopped.
    extra_body : mapping or None, default=None
        What else the body of each request holds, for servers that take more than OpenAI's parameters:
        ``{"chat_template_kwargs": {"enable_thinking": False}}``, ``{"reasoning_effort": "low"}``. Part of the ledger
        key. Secrets in it are sent, and hidden in what is stored.
    """

    #: Part of every ledger key: raised when an answer is asked for, or read, in another way than before.
    version: ClassVar[int]
    #: What to be told when the server counted too few tokens for the whole prompt.
    cut_prompt: ClassVar[str] = _CUT

    model: str
    temperature: Annotated[float, Bounds(least=0)] | None = field(default=0.0, kw_only=True)
    max_tokens: Annotated[int, Bounds(least=1)] | Literal["auto"] | None = field(default="auto", kw_only=True)
    attempts: Annotated[int, Bounds(least=1)] = field(default=3, kw_only=True)
    extra_body: Any = field(default=None, kw_only=True)  # checked where no message can show what it holds

    def __post_init__(self) -> None:
        """Check the fields; 0 and 0.0 become one temperature, so that they are one question with one ledger key."""
        super().__post_init__()
        object.__setattr__(self, "extra_body", checked_extra_body(self.extra_body))

    @functools.cached_property
    def stored_extra_body(self) -> dict[str, Any]:
        """What ledgers and tables keep of ``extra_body``, without secrets: empty if there is none."""
        return {"extra_body": hide_secrets(self.extra_body)} if self.extra_body else {}

    def recorded(self) -> dict[str, Any]:
        """Return what a table's origin says of how was asked."""
        return {"temperature": self.temperature, "attempts": self.attempts, **self.stored_extra_body}

    @property
    @abstractmethod
    def form(self) -> AnswerForm:
        """What an answer is, as the server's schema has it."""

    @abstractmethod
    def messages(self, request: R) -> list[Message]:
        """Return the chat messages of the first question about a request."""

    @abstractmethod
    def longest_answer(self, request: R) -> int:
        """Return the limit of an answer's tokens that "auto" stands for."""

    def parameters(self, request: R) -> dict[str, Any]:
        """Return what else decides the answer; ``max_tokens`` is among it, None if there is no limit."""
        longest = self.longest_answer(request) if self.max_tokens == "auto" else self.max_tokens
        return {"answer": self.form, "temperature": self.temperature, "max_tokens": longest}

    @abstractmethod
    def expected_completion(self, request: R) -> int:
        """Return how many tokens an answer probably has."""

    @abstractmethod
    def described(self, request: R) -> dict[str, Any]:
        """Return what the ledger notes of a request, for its reader; JSON values."""

    @abstractmethod
    def understood(self, completion: Completion, request: R) -> dict[str, Any]:
        """Return the fields of `LedgerAnswer` that an answer's content fills; raise `AnswerError` if it has none."""

    @abstractmethod
    def reread(self, answer: LedgerAnswer, request: R) -> dict[str, Any]:
        """Return what `understood` makes of a stored answer today, as far as it changes; raise `AnswerError` too."""

    def today(self, answer: LedgerAnswer, request: R) -> LedgerAnswer:
        """Return a stored answer as it is read today, which may refuse what an older version accepted."""
        if not answer.ok:
            return answer
        try:
            return replace(answer, **self.reread(answer, request))
        except AnswerError as problem:
            return replace(answer, scores=None, error=str(problem))

    def first(self, request: R) -> Question[R]:
        """Return the first question about a request."""
        messages, parameters = self.messages(request), self.parameters(request)
        if self.extra_body:
            parameters |= {"extra_body": self.extra_body}
        key = ledger_key(messages, self.model, parameters, self.version)
        return Question(request, messages, parameters, key, key, 0)

    def next(self, question: Question[R], answer: LedgerAnswer) -> Question[R] | None:
        """Return the question that follows an answer that cannot be used, or None after the last attempt."""
        if question.attempt + 1 >= self.attempts:
            return None
        messages = ask_again(question.messages, answer.response, AnswerError(answer.error))
        key = ledger_key(messages, self.model, question.parameters, self.version)
        return Question(question.request, messages, question.parameters, key, question.first_key, question.attempt + 1)

    def read(self, question: Question[R], completion: Completion, cost: float | None) -> LedgerAnswer:
        """Turn what a model wrote into what the ledger keeps, usable or not; warn if it saw a part of the prompt."""
        if is_cut(question.messages, completion.prompt_tokens):
            warnings.warn(self.cut_prompt, PromptCutWarning, stacklevel=2)
        content: dict[str, Any] = {}
        error = None
        try:
            content = self.understood(completion, question.request)
        except AnswerError as problem:
            error = f"{problem}"
            if completion.beside:
                error = f"the answer is empty, what was written lies in {completion.beside}. {_IN_THE_CONTENT}"
            elif completion.broken_off:
                error = f'the server ended the answer ("{completion.broken_off}"). {error}'
            if completion.cut_off:
                error = f"the answer was cut off after {completion.completion_tokens} tokens: be brief. {error}"
        return LedgerAnswer(
            **self._identified(question, completion.form),
            response=completion.text,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            cost=cost,
            error=error,
            **content,
        )

    def refused(self, question: Question[R], problem: ServerError) -> Refusal:
        """Return a refusal of the server as a ledger entry."""
        return Refusal(**self._identified(question), reason=problem.reason, cause=problem.cause)

    def _identified(self, question: Question[R], form: ServerForm | None = None) -> dict[str, Any]:
        """Return the fields that an answer and a refusal share: which question it is, and what is noted of it."""
        return {
            "key": question.key,
            "first_key": question.first_key,
            "attempt": question.attempt,
            "model": self.model,
            "user_id": question.request.subject,
            "repeat": question.request.repeat,
            "request": self._noted(question, form),
        }

    def _noted(self, question: Question[R], form: ServerForm | None) -> dict[str, Any]:
        """Return what the ledger notes of a question, which is never its text: with the parameters that were sent.

        The key is that of the question as it was meant, so that it is the same for every server.
        """
        parameters, left_out = question.parameters | self.stored_extra_body, []
        if form is not None and not form.temperature and parameters.get("temperature") is not None:
            parameters["temperature"] = None
            left_out.append("temperature")
        if form is not None and not form.system and any(one["role"] == "system" for one in question.messages):
            left_out.append("system")
        return {
            "messages_sha256": hashlib.sha256(json.dumps(question.messages).encode()).hexdigest(),
            "parameters": parameters,
            "schema_version": self.version,
            **({"left_out": left_out} if left_out else {}),
            **self.described(question.request),
        }

    def replay(
        self, request: R, ledger: Answers, spending: Spending | None = None
    ) -> tuple[Question[R] | None, LedgerAnswer | Refusal | None]:
        """Follow a conversation through the ledger.

        Parameters
        ----------
        request : Request
            What it is about.
        ledger : Ledger or LedgerReader
            Where its answers are.
        spending : Spending, optional
            Gets every answer that is found.

        Returns
        -------
        question : Question or None
            What has to be asked next; None if the request has its answer, no attempt is left or the server refuses it.
        answer : LedgerAnswer, Refusal or None
            The last answer, usable or not; or the server's refusal of the next question.
        """
        question: Question[R] | None = self.first(request)
        answer = None
        while question is not None:
            found = ledger.get(question.key)
            if found is None:
                refusal = ledger.refusal(question.key)
                if refusal is not None:
                    return None, refusal
                break
            if spending is not None:
                spending.add(found, question.messages)
            answer = self.today(found, request)
            question = None if answer.ok else self.next(question, answer)
        return question, answer


# An entry of an answer has 8 tokens or so; models that do not keep to the schema need some more.
_TOKENS_PER_CANDIDATE = 20
_TOKENS_AROUND = 200
_EXPECTED_PER_CANDIDATE = 8  # '"12": 0.35, '
_EXPECTED_AROUND = 10


@dataclass(frozen=True)
class Questions(Conversation[ScoringRequest]):
    """Turns requests into questions, and answers into scores.

    Parameters are those of `Conversation`, and

    Parameters
    ----------
    template : PromptTemplate
        The prompt.
    top_logprobs : int or None, default=None
        Ask for the log-probabilities of so many alternatives a token, and take the expected score of each candidate
        (`expected_scores`) in place of the one written, or of a ranking the probability that it comes first
        (`label_scores`). A warning says if the server returns none; the scores or ranks are then those written.
    ranking_temperature : float, default=0.5
        As in `soft_scores`, for templates that ask for a ranking. It is applied when answers are read, so
        changing it asks nothing again.
    """

    version = SCHEMA_VERSION
    #: What a template may ask for.
    answers: ClassVar[tuple[AnswerKind, ...]] = ("scores", "ranking")

    template: PromptTemplate = field(default_factory=PromptTemplate)
    top_logprobs: Annotated[int, Bounds(least=1)] | None = field(default=None, kw_only=True)
    ranking_temperature: Annotated[float, Bounds(above=0)] = field(default=DEFAULT_TEMPERATURE, kw_only=True)

    def __post_init__(self) -> None:
        """Check the fields, and that the template's answers are those that are read here."""
        super().__post_init__()
        if self.template.answer not in self.answers:
            raise ConfigError(
                f"{type(self).__name__} reads {' and '.join(self.answers)}, and the template asks for "
                f"{self.template.answer}. Give YesNoQuestions templates with answer='yes_no', and Questions the others."
            )

    @property
    def form(self) -> AnswerForm:
        """What the template asks for."""
        return self.template.answer

    def messages(self, request: ScoringRequest) -> list[Message]:
        """Return the template with the request's titles."""
        return self.template.render(request)

    def longest_answer(self, request: ScoringRequest) -> int:
        """Return 200 and 20 a candidate."""
        return _TOKENS_AROUND + _TOKENS_PER_CANDIDATE * request.n_candidates

    def parameters(self, request: ScoringRequest) -> dict[str, Any]:
        """Return the generation parameters."""
        return super().parameters(request) | ({"top_logprobs": self.top_logprobs} if self.top_logprobs else {})

    def recorded(self) -> dict[str, Any]:
        """Return what a table's origin says of how was asked."""
        ranking_temperature = self.ranking_temperature if self.form == "ranking" else None
        return super().recorded() | {
            "top_logprobs": self.top_logprobs,
            "answer": self.form,
            "ranking_temperature": ranking_temperature,
        }

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
        if keeps_to_the_form(
            answer.response, request.n_candidates, self.template.answer
        ):  # which is read alike by all versions
            return {}
        read = self._parse(answer.response, request, logprobs=False)
        return {} if self.top_logprobs else self._content(read, request)

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
        for request in requests:
            _, answer = self.replay(request, ledger, spending)
            if isinstance(answer, LedgerAnswer) and answer.ok:
                yield request, self.scored(answer, request)

    def _parse(self, text: str, request: ScoringRequest, logprobs: list | bool | None = False) -> ScoredAnswer:
        """Read an answer; `logprobs` is False where it is to be read as written."""
        is_ranking = self.template.answer == "ranking"
        if self.top_logprobs and not isinstance(logprobs, bool):
            try:
                return (label_scores if is_ranking else expected_scores)(logprobs, request, text)
            except LogprobsError as error:
                what = "ranks" if is_ranking else "scores"
                warnings.warn(f"the {what} are taken as written: {error}", LogprobsWarning, stacklevel=2)
        if is_ranking:
            return parse_ranking(text, request, temperature=self.ranking_temperature)
        return parse_scores(text, request)

    def scored(self, answer: LedgerAnswer, request: ScoringRequest) -> ScoredAnswer:
        """Return a usable answer as scores by item id."""
        if self.template.answer == "ranking" and not self.top_logprobs:  # the temperature may have changed since
            return self._parse(answer.response, request)
        pairs = list(zip(request.item_ids, answer.scores or (), strict=True))
        scores = {item: score for item, score in pairs if score is not None}
        missing = tuple(item for item, score in pairs if score is None)
        return ScoredAnswer(scores, missing, answer.n_unasked, answer.n_duplicates)
