"""Reads an answer that ranks the candidates, and turns the ranks into soft scores."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import AnswerError, ConfigError
from .answer_text import Array, Number, Object, String, Value, final_answer
from .answers import (
    Entry,
    answer_of,
    check_labels,
    entry_label,
    fullest,
    named,
    only_one,
    position_of,
    shown,
    statements,
)
from .prompts import SCORE_KEY
from .requests import ScoredAnswer, ScoringRequest

DEFAULT_TEMPERATURE = 0.5

# A label in an order that is not JSON. Titles cannot hold square brackets or ">" (`clean_title`), so no title that a
# model repeats is such an order.
_WORD = r"(?:(?:item|candidate|label|id)\s*)?"
_LABEL = rf"(?:\[{_WORD}\#?[0-9]{{1,9}}\]|{_WORD}\#?(?<![\w.])[0-9]{{1,9}}(?!\w|\.[0-9]))"
_CHAIN = re.compile(rf"{_LABEL}(?:\s*[-=]?>+\s*{_LABEL})+", re.IGNORECASE)
_BRACKETED = re.compile(r"\[\#?[0-9]{1,9}\](?:(?:[,;]\s{0,4}|\s{0,4}\n\s{0,4}(?:[-*•]\s{0,4})?)\[\#?[0-9]{1,9}\])+")
_RELATION = re.compile(r"[<>=~≈≥≤|]")
_NUMBERED = re.compile(r"^[ \t]*(?:\*\*)?(?:rank[ \t]*)?\#?([0-9]{1,4})[.)][ \t]*(.*)$", re.IGNORECASE | re.MULTILINE)
_BRACKETED_LABEL = re.compile(rf"(?:\*\*)?\[{_WORD}\#?([0-9]{{1,9}})\]", re.IGNORECASE)
_NAMED_LABEL = re.compile(r"(?:\*\*)?(?:item|candidate|label|id)\s*\#?([0-9]{1,9})(?!\w|[.,][0-9])", re.IGNORECASE)
# Numbers beside the labels of a ranking that have to agree with its order.
_RISING = ("position", "place", "order", "ranking")
_FALLING = (SCORE_KEY, "relevance", "rating", "probability", "likelihood")
_DIGITS = re.compile(r"[0-9]+")


def parse_ranking(text: str, request: ScoringRequest, *, temperature: float = DEFAULT_TEMPERATURE) -> ScoredAnswer:
    """Read an answer to a prompt that asks for a ranking.

    Accepted are ``{"ranking": [3, 1, ...]}``, another name in place of ``ranking``, and the bare list; the labels may
    be strings, lists of one, or objects such as ``{"id": 3}``, which go by their ``rank`` where they have one. Where
    there is no JSON: ``[3] > [1] > ...``, labels in brackets, and a numbered list such as ``1. [3] Doom``. What
    `parse_scores` says of thoughts, prose, several values, answers cut off and labels that were not asked or come up
    again holds here too; the ranks of the others close up. A ranking of fewer than all candidates ranks those alone.

    Parameters
    ----------
    text : str
        What the model wrote.
    request : ScoringRequest
        What it was asked.
    temperature : float, default=0.5
        As in `soft_scores`.

    Returns
    -------
    ScoredAnswer
        At least one score. Candidates that the answer does not rank are missing.

    Raises
    ------
    AnswerError
        If no candidate is ranked, or the order is not certain: labels that are shifted (`check_labels`) or come up
        again in another order, ranks that are missing or shared, two orders that differ.
    ConfigError
        If the temperature is not a positive number.

    Examples
    --------
    >>> request = ScoringRequest("u7", history=("Chess",), item_ids=("i1", "i2"), titles=("Doom", "Go"))
    >>> {item: round(score, 2) for item, score in parse_ranking('{"ranking": [2, 1]}', request).scores.items()}
    {'i1': 0.27, 'i2': 0.73}
    """
    n_candidates = len(request.item_ids)
    by_rank = soft_scores(n_candidates, temperature)
    rank: dict[int, int] = {}  # position in the prompt -> rank from 0
    n_unasked = n_duplicates = 0
    labels = ranked_labels(final_answer(text), n_candidates)
    check_labels(labels, n_candidates)
    _check_repeats([position_of(label, n_candidates) for label in labels])
    for label in labels:
        position = position_of(label, n_candidates)
        if position is None:
            n_unasked += 1
        elif position in rank:
            n_duplicates += 1
        else:
            rank[position] = len(rank)
    if not rank:
        raise AnswerError(
            f"none of the {n_candidates} candidates is ranked. Answer with one JSON object that lists the labels from "
            f'1 to {n_candidates} under "ranking", the best match first.'
        )
    return answer_of({position: float(by_rank[r]) for position, r in rank.items()}, request, n_unasked, n_duplicates)


def soft_scores(n_candidates: int, temperature: float = DEFAULT_TEMPERATURE) -> np.ndarray:
    r"""Return temperature-scaled soft scores of ranks (paper Sec. 3.1, "temperature-scaled soft ranking").

    The paper gives no formula. Here rank r = 1, ..., M of M candidates has the score

    .. math:: \sigma\left(\frac{M + 1 - 2 r}{M\,T}\right),

    a logistic curve over the ranks, spread evenly over (-1, 1) for any M. It is 1/2 in the middle of the
    ranking, which agrees with 0.5 for a missing candidate (Sec. 4.3), and the scores of ranks r and M + 1 - r add
    up to 1.

    Parameters
    ----------
    n_candidates : int
        M, all candidates that were asked, ranked or not.
    temperature : float, default=0.5
        T. Small: the upper half of the ranking close to 1, the lower half close to 0. Large: all scores close to 0.5,
        with gaps proportional to the ranks'. At 0.5 the best of 20 candidates has 0.87, the worst 0.13.

    Returns
    -------
    ndarray
        (n_candidates,) float64 in [0, 1], not increasing, the best rank first.

    Raises
    ------
    ConfigError
        If the temperature is not a positive number.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature is {temperature!r}. Set it to a number above 0; 0.5 is the default.")
    ranks = np.arange(1, n_candidates + 1)
    with np.errstate(over="ignore"):  # a tiny temperature: infinity, whose logistic is 0 or 1
        logit = (n_candidates + 1 - 2 * ranks) / n_candidates / temperature
    return (1 + np.tanh(logit / 2)) / 2  # the logistic function, without its overflow


def ranked_labels(text: str, n_candidates: int) -> list[Value]:
    """Return the labels of an answer, the best first."""
    orders = [_labels(values) for values in statements(text, n_candidates)]
    order = _fullest([labels for labels in orders if labels], n_candidates)
    in_words = _fullest(_orders_in_words(text, n_candidates), n_candidates)
    if order and in_words and _differ(order, in_words, n_candidates):
        raise _two_orders()
    return order or in_words


def _fullest(orders: list[list[Value]], n_candidates: int) -> list[Value]:
    def contradicts(order: list[Entry], later: list[Entry]) -> bool:
        return _differ([label for label, _ in order], [label for label, _ in later], n_candidates)

    return [label for label, _ in fullest([[(label, None) for label in o] for o in orders], n_candidates, contradicts)]


def _differ(order: list[Value], other: list[Value], n_candidates: int) -> bool:
    """Tell whether two orders rank the candidates that both have in different ways."""
    first = [position_of(label, n_candidates) for label in order]
    second = [position_of(label, n_candidates) for label in other]
    both = (set(first) & set(second)) - {None}
    return list(dict.fromkeys(p for p in first if p in both)) != list(dict.fromkeys(p for p in second if p in both))


def _two_orders() -> AnswerError:
    return AnswerError("it holds two orders that differ. Give one order of all candidates, and no draft.")


def _check_repeats(positions: list[int | None]) -> None:
    """Refuse an order in which candidates come up again in another order, as behind a draft in the same list."""
    asked = [position for position in positions if position is not None]
    once = list(dict.fromkeys(asked))
    again = list(dict.fromkeys(reversed(asked)))[::-1]
    over_and_over = all(position == once[k % len(once)] for k, position in enumerate(asked))
    if once != again and not over_and_over:
        raise _two_orders()


def _labels(values: list[Object | Array]) -> list[Value]:
    """Return the labels of one answer in JSON, the best first; of a bare list of one none, as it is a remark."""
    value = values[0]
    if entry_label(value) is not None:  # an object for each candidate
        return _by_rank(values) if len(values) > 1 else []
    if isinstance(value, Array):
        return _by_rank(value.elements) if len(value.elements) > 1 else []
    lists = [found for _, found in value.pairs if isinstance(found, Array)]
    inner = only_one(value, "rank") or (lists[0] if len(lists) == 1 else None)
    return _by_rank(inner.elements) if isinstance(inner, Array) else []


def _by_rank(elements: Sequence[Value]) -> list[Value]:
    """Return the labels that elements of a ranking name, by their ranks where they have some."""
    if not all(isinstance(element, Object) for element in elements):
        return [_label(element) for element in elements]
    labels = [entry_label(element) for element in elements]
    ranks = [named(element, "rank") for element in elements if isinstance(element, Object)]
    if any(rank is not None for rank in ranks):
        numbers = [_rank(rank, label) for rank, label in zip(ranks, labels, strict=True)]
        if len(set(numbers)) < len(numbers):
            raise AnswerError("two candidates share a rank. Give each of them a rank of its own.")
        return [label for _, label in sorted(zip(numbers, labels, strict=True), key=lambda pair: pair[0])]
    for names, falls in ((_RISING, False), (_FALLING, True)):
        for name in names:
            found = [named(element, name) for element in elements if isinstance(element, Object)]
            numbers = [-value.value if falls else value.value for value in found if isinstance(value, Number)]
            if any(later < earlier for earlier, later in itertools.pairwise(numbers)):
                raise AnswerError(f'the order is not that of "{name}". Give the order alone, the best match first.')
    return list(labels)


def _rank(rank: Value, label: Value) -> float:
    written = rank.value if isinstance(rank, Number | String) else None
    if isinstance(written, str) and _DIGITS.fullmatch(written.strip()):
        written = float(written)
    if not isinstance(written, float) or not math.isfinite(written):
        raise AnswerError(f"the rank of label {shown(label)} is {shown(rank)}. Give each candidate a rank of its own.")
    return written


def _label(element: Value) -> Value:
    if isinstance(element, Array):
        if len(element.elements) != 1:
            raise AnswerError("several labels stand in one place. Give one list of labels, the best match first.")
        element = element.elements[0]
    if isinstance(element, Number) and not element.value.is_integer():
        raise AnswerError(f"{shown(element)} is no label. Give the labels of the candidates, the best match first.")
    return entry_label(element) if isinstance(element, Object) else element


def _orders_in_words(text: str, n_candidates: int) -> list[list[Value]]:
    """Return the orders of two or more candidates that a text gives without JSON, in their order."""
    found: list[tuple[int, list[Value]]] = []
    for chain in _CHAIN.finditer(text):
        around = text[: chain.start()].rstrip()[-1:], text[chain.end() :].lstrip()[:1]
        if not any(map(_RELATION.fullmatch, around)):  # else a part of something else, such as 3 > 1 = 2
            found.append((chain.start(), _numbers(text, chain)))
    for row in _BRACKETED.finditer(text):
        labels = _numbers(text, row)
        if {position_of(label, n_candidates) for label in labels} == set(range(n_candidates)):  # no footnotes
            found.append((row.start(), labels))
    for start, labels, bracketed in _numbered_lists(text):
        if bracketed or {position_of(label, n_candidates) for label in labels} == set(range(n_candidates)):
            found.append((start, labels))
    return [labels for _, labels in sorted(found, key=lambda order: order[0])]


def _numbers(text: str, match: re.Match[str]) -> list[Value]:
    digits = _DIGITS.finditer(text, match.start(), match.end())
    return [Number(float(number[0]), *number.span()) for number in digits]


def _numbered_lists(text: str) -> Iterator[tuple[int, list[Value], bool]]:
    """Yield where numbered lists of two labels or more stand, the labels, and whether all of these are in brackets."""
    lists: list[list[re.Match[str]]] = []
    for line in _NUMBERED.finditer(text):
        if lists and int(line[1]) == len(lists[-1]) + 1:
            lists[-1].append(line)
        elif int(line[1]) == 1:
            lists.append([line])
        elif lists:  # its numbers are not ranks
            lists.append([])
    for lines in lists:
        bracketed = [_BRACKETED_LABEL.match(line[2]) for line in lines]
        labels = [found or _NAMED_LABEL.match(line[2]) for found, line in zip(bracketed, lines, strict=True)]
        if len(lines) > 1 and None not in labels:
            numbers: list[Value] = [Number(float(label[1]), *label.span(1)) for label in labels if label is not None]
            yield lines[0].start(), numbers, None not in bracketed
