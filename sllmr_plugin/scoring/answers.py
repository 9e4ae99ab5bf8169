"""Reads the scores out of a language model's answer, and nothing that was not asked."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from ..errors import AnswerError
from .loose_json import Array, Number, Object, String, Value, find_json
from .request import ScoredAnswer, ScoringRequest
from .schema import ID_KEYS, LABEL, SCORE_KEY

_NUMBER = re.compile(r"\s*([-+]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*")
_SHOWN_CHARACTERS = 40

Entry = tuple[Value, Value]  # what an answer gives as a label, and as its score


@dataclass(frozen=True)
class ReadScores:
    """What an answer says, by position in the prompt.

    Attributes
    ----------
    numbers : dict of int to Number
        Position of a candidate (from 0) -> its score, in [0, 1].
    n_unasked, n_duplicates : int
        As of `ScoredAnswer`.
    """

    numbers: dict[int, Number]
    n_unasked: int
    n_duplicates: int


def parse_scores(text: str, request: ScoringRequest) -> ScoredAnswer:
    """Read an answer to a prompt that asks for scores.

    Understood are ``{"scores": {"1": 0.4, ...}}``, the same without the outer object, and a list of
    ``{"id": 1, "score": 0.4}`` objects or ``[1, 0.4]`` pairs, also one object a line; with prose or code fences around
    them, with numbers as strings, and whatever else `find_json` forgives. Of several such values in a text the
    one that names the most candidates counts, the last of them if there are more: models that think aloud end with
    their answer. An answer that was cut off gives its complete entries, the other candidates are missing.

    Labels other than those of the request's candidates are dropped and counted. A label that comes up again is
    counted, its first score stands. A score of null is a missing score.

    Parameters
    ----------
    text : str
        What the model wrote.
    request : ScoringRequest
        What it was asked.

    Returns
    -------
    ScoredAnswer
        At least one score.

    Raises
    ------
    AnswerError
        If a candidate's score is no finite number in [0, 1], or no candidate is scored at all. The
        message says so in words that a model can act on.

    Examples
    --------
    >>> request = ScoringRequest("u7", history=("Chess",), item_ids=("i1", "i2", "i3"), titles=("Go", "Doom", "Tag"))
    >>> parse_scores('Here you are: ```{"scores": {"1": 0.9, "3": "0.25", "7": 1, "2": 0.', request)
    ScoredAnswer(scores={'i1': 0.9, 'i3': 0.25}, missing=('i2',), n_unasked=1, n_duplicates=0)
    """
    read = read_scores(text, len(request.item_ids))
    by_position = {position: number.value for position, number in read.numbers.items()}
    return answer_of(by_position, request, read.n_unasked, read.n_duplicates)


def answer_of(
    by_position: dict[int, float], request: ScoringRequest, n_unasked: int, n_duplicates: int
) -> ScoredAnswer:
    """Return scores by position in the prompt as scores by item id, in prompt order."""
    scores: dict[Hashable, float] = {}
    missing = []
    for position, item in enumerate(request.item_ids):
        if position in by_position:
            scores[item] = by_position[position]
        else:
            missing.append(item)
    return ScoredAnswer(scores, tuple(missing), n_unasked, n_duplicates)


def read_scores(text: str, n_candidates: int) -> ReadScores:
    """Read the scores of an answer by position in the prompt; `parse_scores` says how."""
    entries = _score_entries(text, n_candidates)
    numbers: dict[int, Number] = {}
    n_unasked = n_duplicates = 0
    for label, score in entries:
        position = position_of(label, n_candidates)
        if position is None:
            n_unasked += 1
        elif position in numbers:
            n_duplicates += 1
        elif score is not None:
            numbers[position] = _score_number(label, score)
    if not numbers:
        raise AnswerError(
            f"none of the {n_candidates} candidates has a score. Answer with one JSON object that has a "
            f"score for each label from 1 to {n_candidates}."
        )
    return ReadScores(numbers, n_unasked, n_duplicates)


def position_of(label: Value, n_candidates: int) -> int | None:
    """Return the position (from 0) of the candidate that a label names; None if it names none."""
    if isinstance(label, Number):
        number = label.value
    elif isinstance(label, String) and (match := LABEL.fullmatch(label.value)):
        number = float(match[1])
    else:
        return None
    return int(number) - 1 if number.is_integer() and 1 <= number <= n_candidates else None


def fullest(answers: list[list[Entry]], n_candidates: int) -> list[Entry]:
    """Return the answer that names the most candidates, the last of them if there are more; [] of none."""

    def n_named(entries: list[Entry]) -> int:
        return len({position_of(label, n_candidates) for label, _ in entries} - {None})

    return max(reversed(answers), key=n_named, default=[])


def entry_label(value: Value) -> Number | String | None:
    """Return the label of an object that speaks of one candidate, ``{"id": ..., ...}``; None of anything else."""
    if not isinstance(value, Object):
        return None
    named = {key.value: found for key, found in reversed(value.pairs) if isinstance(key, String)}  # the first stands
    label = next((named[name] for name in ID_KEYS if name in named), None)
    wraps = SCORE_KEY not in named and any(isinstance(found, Object | Array) for found in named.values())
    return label if isinstance(label, Number | String) and not wraps else None


def shown(value: Value) -> str:
    """Return a value from an answer in few plain characters, fit for a message or a log."""
    if isinstance(value, Object | Array):
        return "an object" if isinstance(value, Object) else "a list"
    plain = value.value if isinstance(value, Number | String) else value
    text = ascii(plain)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _score_number(label: Value, score: Value) -> Number:
    number = score
    if isinstance(score, String) and (match := _NUMBER.fullmatch(score.value)):
        # Escapes may have moved the digits; then only the value is known, not the place of each digit.
        number = Number(float(match[1]), score.start + match.start(1), score.start + match.end(1))
    remedy = "Give every candidate a plain number between 0 and 1."
    if not isinstance(number, Number):
        raise AnswerError(f"the score of label {shown(label)} is {shown(score)}, which is no number. {remedy}")
    if not 0 <= number.value <= 1:  # NaN is not, either
        raise AnswerError(f"the score of label {shown(label)} is {shown(number)}, outside 0 to 1. {remedy}")
    return Number(number.value + 0.0, number.start, number.end)  # -0.0 becomes 0.0


def _score_entries(text: str, n_candidates: int) -> list[Entry]:
    answers: list[list[Entry]] = []
    one_by_one: list[Entry] = []  # objects with one entry each belong together
    for value in find_json(text):
        entries = list(_entries(value, n_candidates))
        if entry_label(value) is not None:
            one_by_one += entries
        else:
            answers.append(entries)
    return fullest([*answers, one_by_one], n_candidates)


def _entries(value: Value, n_candidates: int) -> Iterator[Entry]:
    if isinstance(value, Array):
        for element in value.elements:
            if isinstance(element, Array) and len(element.elements) == 2:
                yield element.elements[0], element.elements[1]
            elif isinstance(element, Object):
                yield from _entries(element, n_candidates)
    elif isinstance(value, Object):
        label = entry_label(value)
        if label is not None:
            yield label, named(value, SCORE_KEY)
        elif (inner := _unwrapped(value, n_candidates)) is not None:
            yield from _entries(inner, n_candidates)
        else:
            for key, found in value.pairs:
                yield key, named(found, SCORE_KEY) if isinstance(found, Object) else found


def named(value: Object, name: str) -> Value:
    """Return the first value of an object under a name; None if there is none."""
    return next((found for key, found in value.pairs if isinstance(key, String) and key.value == name), None)


def _unwrapped(value: Object, n_candidates: int) -> Value:
    """Return what stands under ``scores``, or the only list or object of an object without labels."""
    if isinstance(scores := named(value, "scores"), Object | Array):
        return scores
    if any(position_of(key, n_candidates) is not None for key, _ in value.pairs):
        return None
    containers = [found for _, found in value.pairs if isinstance(found, Object | Array)]
    return containers[0] if len(containers) == 1 else None
