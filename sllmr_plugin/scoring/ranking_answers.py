"""Reads an answer that ranks the candidates, and turns the ranks into soft scores."""

from __future__ import annotations

import math

import numpy as np

from ..errors import AnswerError, ConfigError
from .answers import Entry, answer_of, entry_label, fullest, named, position_of
from .loose_json import Array, Object, Value, find_json
from .request import ScoredAnswer, ScoringRequest

DEFAULT_TEMPERATURE = 0.5


def parse_ranking(text: str, request: ScoringRequest, *, temperature: float = DEFAULT_TEMPERATURE) -> ScoredAnswer:
    """Read an answer to a prompt that asks for a ranking.

    Understood are ``{"ranking": [3, 1, ...]}``, another name in place of ``ranking``, and the bare list; the labels may
    be strings, or objects such as ``{"id": 3}``. What `parse_scores` says of prose, several values, answers cut off
    and labels that were not asked or come up again holds here too; the ranks of the others close up.

    Parameters
    ----------
    text : str
        What the model wrote.
    request : ScoringRequest
        What it was asked.
    temperature : float, default=0.5
        As of `soft_scores`.

    Returns
    -------
    ScoredAnswer
        At least one score. Candidates that the answer does not rank are missing.

    Raises
    ------
    AnswerError
        If no candidate is ranked.
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
    for label, _ in _ranked(text, n_candidates):
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

    a logistic curve over the ranks, spread evenly over (-1, 1) whatever M is. It is 1/2 in the middle of the
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


def _ranked(text: str, n_candidates: int) -> list[Entry]:
    rankings = [_labels(value) for value in find_json(text)]
    return fullest([[(label, None) for label in labels] for labels in rankings], n_candidates)


def _labels(value: Object | Array) -> list[Value]:
    inner: Value = value
    if isinstance(value, Object):
        lists = [found for _, found in value.pairs if isinstance(found, Array)]
        inner = named(value, "ranking") or (lists[0] if len(lists) == 1 else None)
    if not isinstance(inner, Array):
        return []
    return [entry_label(element) if isinstance(element, Object) else element for element in inner.elements]
