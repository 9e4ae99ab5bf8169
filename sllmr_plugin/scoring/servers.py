"""What is known of a server: the form of request that it takes, what it refuses, and what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from ..errors import ServerError
from ..settings import Settings
from .limits import read_retry_after
from .prompts import (
    SchemaLimits,
)

AnswerFormat = Literal["json_schema", "json_object", "text"]
#: How an answer's form is asked for, best first.
ANSWER_FORMATS: tuple[AnswerFormat, ...] = ("json_schema", "json_object", "text")

LimitName = Literal["max_tokens", "max_completion_tokens"]
#: What the limit of an answer's tokens may be called.
LIMIT_NAMES: tuple[LimitName, ...] = ("max_tokens", "max_completion_tokens")

#: How a JSON schema bounds scores and the length of a ranking; see `answer_schema`.
SCHEMA_LIMITS: tuple[SchemaLimits, ...] = ("bounds", "steps", "none")


@dataclass(frozen=True)
class ServerForm(Settings):
    """The form of request that a server takes for a model.

    Every field's default is what is tried first, and a field holds one of a few plain JSON values, so the ledger can
    keep a form from one run to the next and a new field needs no change there.

    Parameters
    ----------
    answer_format : {"json_schema", "json_object", "text"}, default="json_schema"
        How the form of the answer is asked for; ``text`` is by the prompt alone.
    limit_name : {"max_tokens", "max_completion_tokens"}, default="max_tokens"
        What the limit of the answer's tokens is called.
    temperature : bool, default=True
        Whether a temperature may be given.
    system : bool, default=True
        Whether there may be a system message; otherwise its text goes in front of the first user message.
    schema_limits : {"bounds", "steps", "none"}, default="bounds"
        How the JSON schema bounds an answer: ``steps`` where an answer has shown that bounds of numbers are not kept,
        ``none`` where a schema with bounds is refused.
    """

    answer_format: AnswerFormat = "json_schema"
    limit_name: LimitName = "max_tokens"
    temperature: bool = True
    system: bool = True
    schema_limits: SchemaLimits = "bounds"

    def to_json(self) -> str:
        """Return the form as the ledger keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerForm:
        """Read what `to_json` wrote; fields of another version are left out, and what cannot be read is the default."""
        try:
            values = json.loads(text)
            return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
        except (ValueError, TypeError):
            return cls()

    def messages(self, messages: Sequence[Any]) -> list[Any]:
        """Return chat messages as the server takes them."""
        messages = list(messages)
        if self.system or len(messages) < 2 or messages[0]["role"] != "system":
            return messages
        first, second, *rest = messages
        return [{**second, "content": f"{first['content']}\n\n{second['content']}"}, *rest]

    def told(self) -> str | None:
        """Say in what a request of this form differs from what was asked for, where that changes the answers."""
        told = []
        if not self.temperature:
            told.append("the server takes no temperature, so it uses its own (--temperature none asks for that)")
        if not self.system:
            told.append("the server takes no system message, so its text is in front of the user message")
        return "; ".join(told) or None

    def without(self, cause: str) -> ServerForm | None:
        """Return the next form to try after a refusal with a known cause, None if there is none."""
        if cause == "format":
            return next(self._lower_formats(), None)
        if cause == "limit":
            return replace(self, limit_name=LIMIT_NAMES[1 - LIMIT_NAMES.index(self.limit_name)])
        if cause == "temperature" and self.temperature:
            return replace(self, temperature=False)
        if cause == "system" and self.system:
            return replace(self, system=False)
        return None

    def others(self) -> Iterator[ServerForm]:
        """Yield the forms to try after refusals that do not say what is wrong: one change each, then all of them."""
        yield from self._lower_formats()
        other_limit = LIMIT_NAMES[1 - LIMIT_NAMES.index(self.limit_name)]
        yield replace(self, limit_name=other_limit)
        yield replace(self, temperature=False)
        yield replace(self, system=False)
        for limit_name in (self.limit_name, other_limit):
            yield ServerForm(ANSWER_FORMATS[-1], limit_name, temperature=False, system=False)

    def _lower_formats(self) -> Iterator[ServerForm]:
        """Yield the forms that ask for less of the answer's form: first a schema without bounds, then none."""
        if self.answer_format == "json_schema" and self.schema_limits != "none":
            yield replace(self, schema_limits="none")
        for answer_format in ANSWER_FORMATS[ANSWER_FORMATS.index(self.answer_format) + 1 :]:
            yield replace(self, answer_format=answer_format, schema_limits=SCHEMA_LIMITS[0])


class FormSearch:
    """Which form to try after each refusal of one and the same question.

    Parameters
    ----------
    start : ServerForm
        What was sent first.
    """

    def __init__(self, start: ServerForm) -> None:
        self._tried = {start}
        self._others: Iterator[ServerForm] | None = None

    def next(self, sent: ServerForm, cause: str | None, *, guess: bool) -> ServerForm | None:
        """Return a form that was not tried yet, None if there is none.

        Parameters
        ----------
        sent : ServerForm
            What was refused.
        cause : str or None
            What the server named as the reason.
        guess : bool
            Whether to go on to other forms where the server names none of its parts.
        """
        named = sent.without(cause) if cause else None
        if named is not None and named not in self._tried:
            self._tried.add(named)
            self._others = None  # from there on
            return named
        if not guess:
            return None
        if self._others is None:
            self._others = sent.others()
        found = next((form for form in self._others if form not in self._tried), None)
        if found is not None:
            self._tried.add(found)
        return found


_LONGEST_MESSAGE = 500
_NO_QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated")
#: Causes that lie in one request: the others may well be answered.
OF_ONE_REQUEST = ("context", "filter")
#: Causes that lie in a part of the form, which can be left out.
OF_THE_FORM = ("format", "limit", "temperature", "system")
# Causes that every request has, until the command is changed.
_OF_ALL_REQUESTS = ("model", "key", "logprobs", "thinking", "temperature", "limit")
# The first pattern that is found decides, so those come first whose texts also hold words of later ones.
_CAUSES = (
    (
        "context",
        r"context[ _-]?(?:length|window|size)|maximum context|too many (?:input |prompt )?tokens|"
        r"(?:prompt|input|request|messages?)(?: is| are| was)? too (?:long|large)|(?:prompt|input) (?:length|token)|"
        r"reduce the length|maximum (?:input|prompt|sequence) length|max_model_len|string_above_max_length",
    ),
    (
        "filter",
        r"content[ _-]?(?:filter|policy|management)|moderat|\bflagged\b|safety|responsible.?ai|inappropriate|"
        r"data_?inspection|sensitive (?:content|words?|information)|harmful|prohibited[ _]content|"
        r"content exists risk|violat\w*\b.{0,60}(?:polic|guideline|terms)|jailbreak",
    ),
    ("credit", r"insufficient[ _](?:balance|credit|fund|quota)|(?:more|no|enough) credits?\b|\bbilling|arrears"),
    (
        "model",
        r"(?:invalid|unknown|unsupported|no such|not a valid) model|model[ _]not[ _](?:found|exist|supported)|"
        r"model\b.{0,80}(?:not found|(?:does|do) not exist|not exist|is not available|unknown|not a valid|no access)",
    ),
    (
        "key",
        r"api[ _-]?key|incorrect key|authenticat|unauthori[sz]ed|credential|"
        r"(?:invalid|expired) (?:\w+ ){0,2}(?:token|key)\b|\b(?:token|key) (?:\w+ ){0,2}(?:invalid|expired|not valid)",
    ),
    ("logprobs", r"log_?prob"),
    ("thinking", r"enable_thinking|chat_template_kwargs|thinking (?:mode|must)"),
    ("temperature", r"temperature"),
    (
        "format",
        r"response_?format|json[ _-]?schema|json_object|json[ _]mode|structured|\bschema|grammar|guided|"
        r"generate json|json_validate",
    ),
    ("limit", r"max_(?:completion_|output_|new_)?tokens"),
    (
        "system",
        r"system[ _-]?(?:role|message|prompt|instruction)|role\b.{0,40}\bsystem|developer instruction|"
        r"roles must alternate|only user and assistant",
    ),
)
_PATTERNS = tuple((cause, re.compile(pattern, re.IGNORECASE | re.DOTALL)) for cause, pattern in _CAUSES)
_ADVICE = {
    "context": "Shorten the prompt with a smaller --history-length or fewer candidates (--per-user of sllmr "
    "candidates), lower --max-tokens, or give the server a longer context.",
    "filter": "The server's filter does not let this prompt pass; another model or server may.",
    "credit": "The account has no credit left. Top up the account, or use another key.",
    "model": "Check --model {model} and --base-url.",
    "key": "Check OPENAI_API_KEY, and that it may use the model.",
    "logprobs": "Leave out --logprobs: the scores are then taken as they are written. --answer yes_no does not work "
    "without: lower the number, or use another answer or server.",
    "thinking": 'Switch thinking off with --extra-body \'{{"chat_template_kwargs": {{"enable_thinking": false}}}}\' '
    "or, where the server wants it at the top, --extra-body '{{\"enable_thinking\": false}}'.",
    "temperature": "Leave the temperature to the server with --temperature none, or give one that it takes.",
    "format": "",
    "limit": "Give a smaller --max-tokens, or leave the limit to the server with --max-tokens none.",
    "system": "Give a --template without a [system] section.",
}
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_PAGE = re.compile(r"\s*<(?:!doctype|html|head|body)\b", re.IGNORECASE)
_STREAM = re.compile(r"\s*(?:data|event|id|retry)?:\s?", re.IGNORECASE)


class ErrorReader:
    """Reads what a server says about a request that it does not answer.

    Parameters
    ----------
    model : str
        For advice.
    scrub : callable
        Takes secrets out of a text.
    """

    def __init__(self, model: str, scrub: Callable[[str], str]) -> None:
        self._model, self._scrub = model, scrub

    def read(self, status: int | None, body: Any, headers: Mapping[str, str], *, answered: bool) -> ServerError:
        """Return an error in our terms, without secrets.

        Parameters
        ----------
        status : int or None
            HTTP status; None where an error came without one.
        body : JSON values or str
            What came with it, in any form.
        headers : mapping
            Of the response.
        answered : bool
            Whether the server has answered other requests of this run. Then what it says is about this request.
        """
        said, code = self.shortened(words(body)), _code(body)
        cause = "context" if status == 413 else cause_of(f"{said} {code}")
        message = f"the server answered {status or 'with an error'}: {said or 'nothing more'}"
        wait = read_retry_after(headers)
        kind = _kind(status, code, cause, answered, wait)
        if status == 402 or code in _NO_QUOTA:
            cause = "credit"
        elif status == 401:
            cause = "key"
        elif kind == "hopeless" and status in (404, 405):
            cause = "model"
        return self.error(message, kind, wait, status, cause)

    def error(
        self, message: str, kind: str, wait: float | None = None, status: int | None = None, cause: str | None = None
    ) -> ServerError:
        """Return an error with the advice that fits its cause."""
        told = cause or ("key" if status == 403 else None)
        advice = _ADVICE[told].format(model=self._model) if told and kind in ("hopeless", "refused") else ""
        return ServerError(message, kind, wait, status, cause, advice)

    def in_an_answer(self, body: Any, *, answered: bool) -> ServerError | None:
        """Return what is wrong with the body of an answer (status 200) that is not a chat completion, else None.

        Parameters
        ----------
        body : JSON values or str
            Text if it is not JSON.
        answered : bool
            As in `read`.
        """
        kind = "lost" if answered else "unreadable"
        if isinstance(body, str):
            if _PAGE.match(body):
                what = f"a web page in place of an answer ({self.shortened(words(body))})"
                return ServerError(
                    f"the server sent {what}",
                    kind,
                    advice="Check --base-url: it is probably the address of a login page or of a proxy, or lacks /v1.",
                )
            if _STREAM.match(body):
                return ServerError(
                    "the server sent its answer as a stream of events, which was not asked for",
                    kind,
                    advice="Switch streaming off in the server or proxy.",
                )
            return ServerError("the answer is not JSON" if body.strip() else "the answer is empty", "lost")
        if isinstance(body, list) and body and isinstance(body[0], Mapping) and body[0].get("error"):
            body = body[0]
        if not isinstance(body, Mapping):
            return ServerError(f"the answer is not a chat completion but {self.shortened(json.dumps(body))}", "lost")
        choices = body.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        for holder in (body, first):
            if isinstance(holder, Mapping) and holder.get("error"):
                return self.read(_status_in(holder), {"error": holder["error"]}, {}, answered=answered)
        if isinstance(first, Mapping):
            return None
        if choices == []:
            return ServerError("the server's answer is empty: its list of choices has no entry", "lost")
        if said := words({name: body[name] for name in ("detail", "message", "msg") if name in body}):
            return self.read(_status_in(body), said, {}, answered=answered)
        return ServerError(f"the answer is not a chat completion: {self.shortened(json.dumps(body))}", "lost")

    def shortened(self, text: str) -> str:
        """Return a text on one line, without secrets, cut after 500 characters."""
        text = " ".join(self._scrub(text).split())
        return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + " ..."


def words(body: Any) -> str:
    """Return what an error's body says, in any of its forms.

    Known are OpenAI's error object, a list of them (Gemini), the error as text, FastAPI's ``detail`` as text or list,
    an error within an error (gateways), web pages and plain text; any other JSON is returned as a whole.

    Examples
    --------
    >>> words([{"error": {"code": 400, "message": "API key not valid."}}])
    'API key not valid.'
    >>> words({"detail": [{"loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]})
    'body.max_tokens: Extra inputs are not permitted'
    """
    if body is None:
        return ""
    if isinstance(body, str):
        return _without_tags(body) if _PAGE.match(body) else body
    if isinstance(body, list):
        return "; ".join(text for text in map(words, body) if text)
    if not isinstance(body, Mapping):
        return json.dumps(body)
    names = ("error", "errors", "detail", "message", "msg", "error_message", "error_msg", "title")
    told = (words(body[name]) for name in names if body.get(name) and not isinstance(body[name], bool))
    texts = list(dict.fromkeys(text for text in told if text))
    if texts:
        place = body.get("loc")
        where = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
        also = [words(body[name]) for name in ("param", "metadata") if body.get(name)]
        return where + "; ".join(texts) + "".join(f" ({text})" for text in also if text not in " ".join(texts))
    for name in ("raw", "reasons"):  # what the server behind a gateway has said
        if body.get(name):
            return words(body[name])
    return json.dumps(body) if body else ""


def cause_of(said: str) -> str | None:
    """Return what a server means, None where that cannot be told.

    Returns
    -------
    {"context", "filter", "credit", "model", "key", "logprobs", "thinking", "temperature", "format", "limit", \
"system"} or None
    """
    return next((cause for cause, pattern in _PATTERNS if pattern.search(said)), None)


def _kind(status: int | None, code: str, cause: str | None, answered: bool, wait: float | None) -> str:
    """Return the `kind` of `ServerError`."""
    if code in _NO_QUOTA or status in (401, 402):
        return "hopeless"
    if status in (408, 409, 425, 429):
        return "limited" if status == 429 or wait is not None else "busy"
    if cause in OF_ONE_REQUEST:
        return "refused"
    if status is not None and status >= 500:
        return "limited" if wait is not None else "busy"
    if status == 403 and answered:  # the key has worked: this is about the request
        return "refused"
    if status in (404, 405) or cause in ("model", "key", "credit") or (cause in _OF_ALL_REQUESTS and not answered):
        return "hopeless"
    return "refused" if status is not None else "busy"


def _code(body: Any) -> str:
    """Return the codes and types that an error carries, for the search for a cause."""
    if isinstance(body, list) and body:
        return _code(body[0])
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    code = inner.get("code") if isinstance(inner, Mapping) else None
    return code if isinstance(code, str) else ""


def _status_in(body: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that an error within an answer names."""
    inner = body.get("error")
    for holder in (inner, body):
        if isinstance(holder, Mapping):
            for name in ("code", "status", "status_code"):
                text = str(holder.get(name, ""))
                if re.fullmatch(r"[45]\d\d", text):
                    return int(text)
    return None


def _without_tags(page: str) -> str:
    title = re.search(r"<title[^>]*>(.*?)</title>", page, re.IGNORECASE | re.DOTALL)
    return " ".join((title[1] if title else _TAGS.sub(" ", page)).split())


def with_remedy(problem: ServerError) -> str:
    """Return what a server said, with what to do about it."""
    if problem.advice:
        return str(problem)
    return f"{problem.reason.rstrip('.')}. Check --base-url and the server, then run the same command again."
