"""Scores out of a model's answer, and nothing that was not asked: as written, or expected by log-probabilities."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import AnswerError, LogprobsError
from .answer_text import Array, Number, Object, String, Value, answer_span, final_answer, find_json
from .prompts import ID_KEYS, LABEL, SCORE_KEY, AnswerKind
from .requests import ScoredAnswer, ScoringRequest

_NUMBER = re.compile(r"\s*([-+]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*")
_INTEGER = re.compile(LABEL.pattern.replace("([0-9]", "([-+]?[0-9]"), re.IGNORECASE)  # also of no candidate
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
        As in `ScoredAnswer`.
    """

    numbers: dict[int, Number]
    n_unasked: int
    n_duplicates: int


def parse_scores(text: str, request: ScoringRequest) -> ScoredAnswer:
    """Read an answer to a prompt that asks for scores.

    Accepted are ``{"scores": {"1": 0.4, ...}}``, the same without the outer object, and a list of
    ``{"id": 1, "score": 0.4}`` objects or ``[1, 0.4]`` pairs, also one object a line; with prose or code fences around
    them, with numbers as strings, and with the other faults that `find_json` forgives. Thoughts are not read
    (`answer_span`). Of several such values in a text the one that names the most candidates counts, the last of them if
    there are more: models that think aloud end with their answer. An answer that was cut off gives its complete
    entries, the other candidates are missing.

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
        If a candidate's score is not a finite number in [0, 1], no candidate has a score, the labels are shifted
        (`check_labels`), scores that follow the answer contradict it, or a thought has no end. The message says so in
        words that a model can act on.

    Examples
    --------
    >>> request = ScoringRequest("u7", history=("Chess",), item_ids=("i1", "i2", "i3"), titles=("Go", "Doom", "Tag"))
    >>> parse_scores('Here you are: ```{"scores": {"1": 0.9, "3": "0.25", "7": 1, "2": 0.', request)
    ScoredAnswer(scores={'i1': 0.9, 'i3': 0.25}, missing=('i2',), n_unasked=1, n_duplicates=0)
    """
    plain = _plain_scores(text, len(request.item_ids))
    if plain is not None:
        return answer_of(plain, request, 0, 0)
    read = read_scores(final_answer(text), len(request.item_ids))
    by_position = {position: number.value for position, number in read.numbers.items()}
    return answer_of(by_position, request, read.n_unasked, read.n_duplicates)


def _plain_scores(text: str, n_candidates: int) -> dict[int, float] | None:
    """Read an answer that is what was asked for and nothing else, by position; None of any other.

    Most answers are, and the reader that forgives takes ten times as long to come to the same.
    """
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        return None
    scores = found.get("scores") if isinstance(found, dict) and len(found) == 1 else None
    positions = label_positions(n_candidates)
    if not isinstance(scores, dict) or not scores or not scores.keys() <= positions.keys():
        return None
    if not all(type(score) in (int, float) and 0 <= score <= 1 for score in scores.values()):
        return None
    return {positions[label]: float(score) + 0.0 for label, score in scores.items()}  # -0.0 becomes 0.0


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a repeated key")
    return found


@functools.lru_cache(maxsize=128)
def label_positions(n_candidates: int) -> dict[str, int]:
    """Return the labels that a prompt shows, each with its candidate's position; not to be changed."""
    return {str(position + 1): position for position in range(n_candidates)}


def keeps_to_the_form(text: str, n_candidates: int, answer: AnswerKind) -> bool:
    """Tell whether an answer is what was asked for and nothing else: most are, and a table has very many."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    inner = found.get(answer) if isinstance(found, dict) and len(found) == 1 else None
    if answer == "ranking":
        numbers = range(1, n_candidates + 1)
        return isinstance(inner, list) and len(inner) > 0 and sorted(inner, key=str) == sorted(numbers, key=str)
    return isinstance(inner, dict) and len(inner) > 0 and inner.keys() <= label_positions(n_candidates).keys()


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
    """Read the scores of an answer without thoughts by position in the prompt; `parse_scores` says how."""
    entries = _score_entries(text, n_candidates)
    check_labels([label for label, _ in entries], n_candidates)
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


def check_labels(labels: Sequence[Value], n_candidates: int) -> None:
    """Refuse labels that are not the candidates' own, so that no score goes to a neighbour.

    Of a model that counts from 0 every label but the first is another candidate's. So labels are refused if 0 is among
    them, if M + 1 is and 1 is not, if they all lie in a range of M that is not 1 to M, or if some candidate is not
    named and most of the labels do not belong to a candidate.

    Parameters
    ----------
    labels : sequence of Value
        All that an answer names.
    n_candidates : int
        M.

    Raises
    ------
    AnswerError
        If they are such labels.
    """
    named = {number for label in labels if (number := _integer(label)) is not None}
    strange = [number for number in named if not 1 <= number <= n_candidates]
    n_asked = len(named) - len(strange)
    if not strange or not n_asked:
        return
    low, high = min(named), max(named)
    counts_from_two = n_candidates + 1 in named and 1 not in named
    mostly_strange = n_asked < min(len(strange), n_candidates)
    if 0 in named or counts_from_two or high - low < n_candidates or mostly_strange:
        raise AnswerError(
            f"the labels {low} to {high} are not those of the candidates. Answer again with the labels from 1 to "
            f"{n_candidates} as they stand before the titles, each exactly once."
        )


def _integer(label: Value) -> int | None:
    if isinstance(label, Number):
        return int(label.value) if label.value.is_integer() else None
    match = _INTEGER.fullmatch(label.value) if isinstance(label, String) else None
    return None if match is None else int(match[1])


def fullest(
    answers: list[list[Entry]], n_candidates: int, contradicts: Callable[[list[Entry], list[Entry]], bool]
) -> list[Entry]:
    """Return the answer that names the most candidates, the last of them if there are more; [] of none.

    Parameters
    ----------
    answers : list of list of Entry
        In the order in which they stand in the text.
    n_candidates : int
        M.
    contradicts : callable
        Tells whether a later answer says something else than the fullest one, as a correction does.

    Raises
    ------
    AnswerError
        If one that follows contradicts it.
    """

    def n_named(entries: list[Entry]) -> int:
        return len({position_of(label, n_candidates) for label, _ in entries} - {None})

    best = max(reversed(range(len(answers))), key=lambda number: n_named(answers[number]), default=None)
    if best is None:
        return []
    for later in answers[best + 1 :]:
        if contradicts(answers[best], later):
            raise AnswerError("it holds two answers that differ. Give one answer with all candidates, and no draft.")
    return answers[best]


def statements(text: str, n_candidates: int) -> list[list[Object | Array]]:
    """Return the JSON values of a text in the order in which they end, those that make up one answer together.

    That are objects that speak of one candidate each; where one names a candidate again, as after a draft, the next
    answer begins. Any other value is an answer of its own.
    """
    found: list[tuple[int, list[Object | Array]]] = []
    together, named = -1, set[int | None]()
    for number, value in enumerate(find_json(text)):
        label = entry_label(value)
        position = None if label is None else position_of(label, n_candidates)
        if label is None:
            found.append((number, [value]))
        elif together < 0 or position in named:
            together, named = len(found), {position} - {None}
            found.append((number, [value]))
        else:  # remarks may stand between the objects
            found[together][1].append(value)
            found[together] = number, found[together][1]
            named |= {position} - {None}
    return [values for _, values in sorted(found, key=lambda statement: statement[0])]


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
    answers = [
        [entry for value in values for entry in _entries(value, n_candidates)]
        for values in statements(text, n_candidates)
    ]

    def contradicts(answer: list[Entry], later: list[Entry]) -> bool:
        said = {position_of(label, n_candidates): _said(score) for label, score in reversed(answer)}
        return any(
            _said(score) not in (None, said.get(position))
            for label, score in later
            if (position := position_of(label, n_candidates)) is not None and position in said
        )

    return fullest(answers, n_candidates, contradicts)


def _said(score: Value) -> object:
    """Return a score's number, or what else stands there."""
    if isinstance(score, String):
        return float(match[1]) if (match := _NUMBER.fullmatch(score.value)) else score.value
    return score.value if isinstance(score, Number) else score


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


def only_one(value: Object, name: str) -> Object | Array | None:
    """Return the list or object under a key that has a name in it, None if there is none; refuse several of them."""
    found = [
        inner
        for key, inner in value.pairs
        if isinstance(key, String) and name in key.value.lower() and isinstance(inner, Object | Array)
    ]
    if len(found) > 1:
        raise AnswerError(f"it has {len(found)} {name}s that may be the answer. Give one answer, and no draft.")
    return found[0] if found else None


def _unwrapped(value: Object, n_candidates: int) -> Value:
    """Return what stands under ``scores``, or the only list or object of an object without labels."""
    if (scores := only_one(value, "score")) is not None:
        return scores
    if any(position_of(key, n_candidates) is not None for key, _ in value.pairs):
        return None
    containers = [found for _, found in value.pairs if isinstance(found, Object | Array)]
    return containers[0] if len(containers) == 1 else None


_PLAIN = re.compile(r"[0-9]*\.?[0-9]+")
_BEGINNING = re.compile(r"[0-9]*\.?[0-9]*")


def expected_scores(
    tokens: Sequence[Mapping[str, Any]] | None, request: ScoringRequest, answer: str | None = None
) -> ScoredAnswer:
    r"""Return the mean of the scores that the model might have written, in place of the one that it wrote.

    A model that writes 0.8 may have been about to write 0.7. The alternatives of each token of a number say how
    likely that was ("normalized logits", paper Sec. 3.1). With :math:`p_j(a)` the probability of alternative a at the
    number's token j, normalised over the alternatives that continue the number, and :math:`c_j` the token
    that was written,

    .. math:: E = \sum_j \Big(\prod_{k<j} p_k(c_k)\Big) \sum_{a \ne c_j} p_j(a)\, v_j(a) + \prod_j p_j(c_j)\, v,

    where v is the number written and :math:`v_j(a)` the one that alternative a leads to. What would have followed a
    is unknown, so digits that are still to come count as equally likely: 0.7 begun in an answer with two
    decimals is the mean of 0.70 to 0.79. Scores get finer than the two decimals that models write, and ties rare.

    Parameters
    ----------
    tokens : sequence of mapping, or None
        ``choices[0].logprobs.content`` of a chat completion that was asked for with ``logprobs`` and
        ``top_logprobs``: each with ``token``, ``logprob``, ``top_logprobs`` (a list of the same) and, optionally,
        ``bytes``.
    request : ScoringRequest
        What the model was asked.
    answer : str, optional
        The text of the answer. Servers that keep thoughts apart from it may give the tokens of both; only those
        of the answer count.

    Returns
    -------
    ScoredAnswer
        As in `parse_scores` for the same text, with expected scores.

    Raises
    ------
    AnswerError
        As `parse_scores`.
    LogprobsError
        If the tokens are not of that form, do not spell the answer, or no score has an alternative, so that there is
        nothing to average.
    """
    answer_tokens = read_tokens(tokens)
    text = "".join(token.text for token in answer_tokens)
    starts = list(itertools.accumulate((len(token.text) for token in answer_tokens), initial=0))
    start, end = answer_place(text, answer)
    read = read_scores(" " * start + text[start:end], len(request.item_ids))  # the numbers' places are those in `text`
    plain = {
        position: number
        for position, number in read.numbers.items()
        if _PLAIN.fullmatch(written := text[number.start : number.end]) and float(written) == number.value
    }  # the others have exponents or escapes: rare, and taken as written
    decimals = max((len(_fraction(text[number.start : number.end])) for number in plain.values()), default=0)
    expected = {position: number.value for position, number in read.numbers.items()}
    any_alternative = False
    for position, number in plain.items():
        parts = slice(bisect_right(starts, number.start) - 1, bisect_left(starts, number.end))
        any_alternative |= any(other != token.text for token in answer_tokens[parts] for other, _ in token.alternatives)
        steps = _steps(text, number, decimals, answer_tokens[parts], starts[parts])
        expected[position] = _mean(number.value, steps)
    if not any_alternative:
        raise LogprobsError(
            "the server gave no alternatives for any score's tokens. Use a server that supports top_logprobs, or score "
            "without log-probabilities."
        )
    return answer_of(expected, request, read.n_unasked, read.n_duplicates)


def answer_place(text: str, answer: str | None) -> tuple[int, int]:
    """Return where the answer stands among the tokens' bytes."""
    decoded = text.encode("latin-1").decode("utf-8", "surrogateescape")
    if answer is None:
        answer = decoded
    at = decoded.rfind(answer)
    if at < 0:
        raise LogprobsError(
            "the log-probabilities are those of another text than the answer. Use a server that returns those of "
            "the answer's tokens, or score without log-probabilities."
        )
    start, end = answer_span(answer)
    n_before, n_behind = (len(decoded[: at + n].encode("utf-8", "surrogateescape")) for n in (start, end))
    return n_before, n_behind


def read_tokens(tokens: Sequence[Mapping[str, Any]] | None) -> list[Token]:
    """Return the tokens of an answer with their alternatives, see `expected_scores`.

    Raises
    ------
    LogprobsError
        If there are none, or they are of another form.
    """
    if not tokens:
        raise LogprobsError(
            "the server returned no log-probabilities. Ask it for logprobs and top_logprobs, or score without them."
        )
    return [Token.read(token) for token in tokens]


@dataclass(frozen=True)
class Token:
    """A token of an answer, and what else the model might have written there."""

    text: str  # a character a byte, so that a token may end inside a character
    probability: float
    alternatives: tuple[tuple[str, float], ...]  # texts and probabilities

    @classmethod
    def read(cls, token: Mapping[str, Any]) -> Token:
        """Read one as a server gives it."""
        try:
            text, probability = _text_and_probability(token)
            return cls(text, probability, tuple(map(_text_and_probability, token.get("top_logprobs") or ())))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise LogprobsError(
                f"a token's log-probability cannot be read ({type(error).__name__}). Use a server whose logprobs have "
                "the form of OpenAI's chat completions, or score without log-probabilities."
            ) from None


def _text_and_probability(token: Mapping[str, Any]) -> tuple[str, float]:
    raw = token.get("bytes")
    text = bytes(list(raw) if raw is not None else token["token"].encode("utf-8", "replace")).decode("latin-1")
    logprob = float(token["logprob"])
    if math.isnan(logprob):
        raise ValueError("NaN")
    return text, math.exp(min(logprob, 0.0))


_Step = tuple[float, list[tuple[float, float]]]  # probability of what was written; (probability, value) of the others


def _mean(written: float, steps: Iterable[_Step]) -> float:
    total, so_far = 0.0, 1.0
    for probability, others in steps:
        mass = probability + sum(p for p, _ in others)
        if mass > 0:
            total += so_far * sum(p * value for p, value in others) / mass
            so_far *= probability / mass
    return min(total + so_far * written, 1.0)  # rounding may leave the last digit above 1


def _steps(text: str, number: Number, decimals: int, tokens: list[Token], starts: list[int]) -> Iterator[_Step]:
    """Yield what each of the tokens that hold a number says; `starts` is where they stand in the text."""
    for token, start in zip(tokens, starts, strict=True):
        before = text[number.start : start]
        lead = text[start : number.start].strip()
        own = text[number.start : min(start + len(token.text), number.end)]
        probability = token.probability
        others = []
        for other, p in token.alternatives:
            if other == token.text or (begun := _begun(before, lead, other)) is None:
                continue
            digits, ends = begun
            if not ends and digits.rstrip(".") == own.rstrip("."):
                probability += p  # the same digits in another cut, such as "0." for "0"
            elif (value := _value(digits, ends, decimals)) is not None:
                others.append((p, value))
        yield probability, others


def _begun(before: str, lead: str, other: str) -> tuple[str, bool] | None:
    """Return the number that an alternative token begins or continues, and whether it ends it; None if neither.

    Parameters
    ----------
    before : str
        What of the number stands in earlier tokens.
    lead : str
        What of the token that was written stands before the number, such as a colon.
    other : str
        The alternative.
    """
    other = other.lstrip()
    if not other.startswith(lead):
        return None
    written = before + other[len(lead) :].lstrip()
    match = _BEGINNING.match(written)
    digits = match[0] if match else ""
    ends = len(digits) < len(written)
    if not any(char.isdigit() for char in digits) or (ends and digits.endswith(".")):
        return None
    return digits, ends


def _value(digits: str, ends: bool, decimals: int) -> float | None:
    """Return the number in [0, 1] that begins with some digits, those to come being any; None if it is larger."""
    low = float(digits)
    if low > 1:
        return None
    n_fraction = len(_fraction(digits))
    if ends or low == 1 or n_fraction >= decimals:
        return low
    return low + (10.0**-n_fraction - 10.0**-decimals) / 2  # the mean of 0.70, 0.71, ..., 0.79


def _fraction(number: str) -> str:
    return number.partition(".")[2]
