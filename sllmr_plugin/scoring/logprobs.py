"""Expected scores from the log-probabilities of an answer's tokens, for servers that return them."""

from __future__ import annotations

import itertools
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import LogprobsError
from .answer_text import answer_span
from .answers import answer_of, read_scores
from .loose_json import Number
from .requests import ScoredAnswer, ScoringRequest

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
        As of `parse_scores` for the same text, with expected scores.

    Raises
    ------
    AnswerError
        As `parse_scores`.
    LogprobsError
        If the tokens are not of that form, do not spell the answer, or no score has an alternative, so that there is
        nothing to average.
    """
    if not tokens:
        raise LogprobsError(
            "the server returned no log-probabilities. Ask it for logprobs and top_logprobs, or score without them."
        )
    read_tokens = [_Token.read(token) for token in tokens]
    text = "".join(token.text for token in read_tokens)
    starts = list(itertools.accumulate((len(token.text) for token in read_tokens), initial=0))
    start, end = _span(text, answer)
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
        any_alternative |= any(other != token.text for token in read_tokens[parts] for other, _ in token.alternatives)
        steps = _steps(text, number, decimals, read_tokens[parts], starts[parts])
        expected[position] = _mean(number.value, steps)
    if not any_alternative:
        raise LogprobsError(
            "the server gave no alternatives for any score's tokens. Use a server that supports top_logprobs, or score "
            "without log-probabilities."
        )
    return answer_of(expected, request, read.n_unasked, read.n_duplicates)


def _span(text: str, answer: str | None) -> tuple[int, int]:
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


@dataclass(frozen=True)
class _Token:
    text: str  # a character a byte, so that a token may end inside a character
    probability: float
    alternatives: tuple[tuple[str, float], ...]  # texts and probabilities

    @classmethod
    def read(cls, token: Mapping[str, Any]) -> _Token:
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


def _steps(text: str, number: Number, decimals: int, tokens: list[_Token], starts: list[int]) -> Iterator[_Step]:
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
