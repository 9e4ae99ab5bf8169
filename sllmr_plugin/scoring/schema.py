"""The form of an answer, as a JSON schema and in words, and the form of request that a server takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

#: How an answer's form is asked for, best first.
ANSWER_FORMATS = ("json_schema", "json_object", "text")


#: What the limit of an answer's tokens may be called.
LIMIT_NAMES = ("max_tokens", "max_completion_tokens")


#: How a JSON schema bounds scores and the length of a ranking; see `answer_schema`.
SCHEMA_LIMITS: tuple[SchemaLimits, ...] = ("bounds", "steps", "none")


AnswerKind = Literal["scores", "ranking"]
ANSWER_KINDS: tuple[AnswerKind, ...] = ("scores", "ranking")
AnswerForm = Literal["scores", "ranking", "text"]
SchemaLimits = Literal["bounds", "steps", "none"]

#: Part of every ledger key of scores and rankings. Raise it when an answer is asked for, or read, in another way than
#: before.
SCHEMA_VERSION = 1
#: The same for texts.
TEXT_VERSION = 1

#: Under these names the objects of an answer may give a candidate's label, and its score.
ID_KEYS = ("id", "label", "item", "item_id", "candidate", "candidate_id")
SCORE_KEY = "score"
#: Under this name an answer gives a text.
TEXT_KEY = "text"
#: What names a candidate: its number, bare or as in "#3", "(3)" or "item 3".
LABEL = re.compile(r"\s*(?:(?:item|candidate|label|id)\s*)?[#(\[]?\s*([0-9]{1,9})\s*[)\]]?[.:]?\s*", re.IGNORECASE)

#: The scores of a schema that lists them: two decimals, as the words of `answer_format` ask for.
_STEPS = [step / 100 for step in range(101)]


def answer_schema(n_candidates: int, answer: AnswerForm = "scores", limits: SchemaLimits = "bounds") -> dict[str, Any]:
    """Return the JSON schema of an answer.

    Every label is a required property of a scores answer: held to the schema, a model can neither leave out a
    candidate nor add one, and an entry costs half the tokens of an ``{"id": ..., "score": ...}`` object.

    Parameters
    ----------
    n_candidates : int
        M, at least 1; the labels are 1 to M. A text has none.
    answer : {"scores", "ranking", "text"}, default="scores"
        ``scores`` asks for ``{"scores": {"1": 0.4, ...}}``, ``ranking`` for ``{"ranking": [3, 1, ...]}``, ``text`` for
        ``{"text": "..."}``.
    limits : {"bounds", "steps", "none"}, default="bounds"
        ``bounds`` says that a score is from 0 to 1 and that a ranking has as many labels as there are candidates.
        ``steps`` lists the scores instead, 0.00 to 1.00, for servers whose grammars know no bounds of numbers
        (llama.cpp's, and what is built on it). ``none`` leaves both to the parser, for servers that refuse the
        keywords.

    Returns
    -------
    dict
        The schema, ready for ``json.dumps``.
    """
    if answer == "text":
        return _object({TEXT_KEY: {"type": "string"}})
    labels = range(1, n_candidates + 1)
    if answer == "ranking":
        ranking: dict[str, Any] = {"type": "array", "items": {"type": "integer", "enum": list(labels)}}
        if limits != "none":
            ranking |= {"minItems": n_candidates, "maxItems": n_candidates}
        return _object({answer: ranking})
    score: dict[str, Any] = {"type": "number"}
    if limits == "bounds":
        score |= {"minimum": 0, "maximum": 1}
    elif limits == "steps":
        # Named once: a list at every label makes a grammar of thousands of words, which takes seconds to build.
        listed = {"$defs": {"score": {"type": "number", "enum": _STEPS}}}
        return _object({answer: _object({str(label): {"$ref": "#/$defs/score"} for label in labels})}) | listed
    return _object({answer: _object({str(label): dict(score) for label in labels})})


def response_format(
    n_candidates: int, answer: AnswerForm = "scores", limits: SchemaLimits = "bounds"
) -> dict[str, Any]:
    """Return the ``response_format`` of a chat completion that asks for structured output.

    Parameters are those of `answer_schema`.
    """
    schema = answer_schema(n_candidates, answer, limits)
    return {"type": "json_schema", "json_schema": {"name": f"item_{answer}", "strict": True, "schema": schema}}


def answer_format(n_candidates: int, answer: AnswerKind = "scores") -> str:
    """Say in words what `answer_schema` says; a prompt template's ``$answer_format``.

    The form is shown without a score, so that there is none to copy.
    """
    if answer == "scores":
        form = '{"scores": {' + _listed('"{}": <score>', n_candidates) + "}}"
        return (
            f"Answer with one JSON object and nothing else, of the form {form}. Give each label from 1 to "
            f"{n_candidates} exactly one score: a number with two decimals from 0 (no match at all) to 1 (a certain "
            "match). Use the whole range, and give two candidates the same score only if you cannot tell them apart."
        )
    return (
        'Answer with one JSON object and nothing else, of the form {"ranking": [<label>, ...]}: '
        f"all labels from 1 to {n_candidates}, each exactly once, the best match first."
    )


def has_meaning(text: str) -> bool:
    """Tell whether a string means something to the reader of answers when it stands there as a key or label."""
    return text.strip().lower() in (*ID_KEYS, SCORE_KEY, *ANSWER_KINDS) or LABEL.fullmatch(text) is not None


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _listed(entry: str, n_candidates: int) -> str:
    if n_candidates <= 2:
        return ", ".join(entry.format(label) for label in range(1, n_candidates + 1))
    return f"{entry.format(1)}, ..., {entry.format(n_candidates)}"


@dataclass(frozen=True)
class ServerForm:
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

    answer_format: str = "json_schema"
    limit_name: str = "max_tokens"
    temperature: bool = True
    system: bool = True
    schema_limits: SchemaLimits = "bounds"

    def __post_init__(self) -> None:
        known = self.answer_format in ANSWER_FORMATS and self.limit_name in LIMIT_NAMES
        if not known or self.schema_limits not in SCHEMA_LIMITS:
            raise ValueError(f"no form of request: {self}")

    def to_json(self) -> str:
        """Return the form as the ledger keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerForm:
        """Read what `to_json` wrote; fields of another version are left out, and a form that is none is the default."""
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
        """Return the next form to try after a refusal with a known cause, None where there is none."""
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
        """Return a form that was not tried yet, None where there is none.

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
