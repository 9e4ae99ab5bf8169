"""The form of an answer: as a JSON schema for servers that hold a model to it, and in words for all others."""

from __future__ import annotations

import re
from typing import Any, Literal

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
#: The number behind a label, or as much of it as there is.
_SCORE = re.compile(r'"[0-9]{1,9}"\s*:\s*([-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)')


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


def breaks_bounds(text: str) -> bool:
    """Tell whether an answer has a score outside 0 to 1, so that a schema's bounds were not kept.

    The text is looked at as it stands, since a model without bounds may write digits until it is cut off.

    Examples
    --------
    >>> breaks_bounds('{"scores": {"1": 0.5, "2": 85.0'), breaks_bounds('{"scores": {"1": 0.5, "2": 1.0}}')
    (True, False)
    """
    return any(not 0 <= float(score) <= 1 for score in _SCORE.findall(text))


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
