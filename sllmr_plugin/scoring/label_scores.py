"""Scores from the first label of a ranking: how likely the model was to put each candidate first."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import LogprobsError
from .answer_text import Number, String
from .answers import Token, answer_of, answer_place, read_tokens
from .ranking_answers import parse_ranking, ranked_labels
from .requests import ScoredAnswer, ScoringRequest

_DIGITS = re.compile(r"[1-9][0-9]*")


def label_scores(
    tokens: Sequence[Mapping[str, Any]] | None, request: ScoringRequest, answer: str | None = None
) -> ScoredAnswer:
    r"""Return the softmax over the candidates' labels of the logits with which a ranking began.

    The alternatives of the token that holds the first label say which candidates the model might have put first
    ("normalized logits", paper Sec. 3.1). With :math:`p_i` the probability of the alternatives that begin with
    candidate i's label, its score is :math:`p_i / \sum_j p_j`. A label that is not among the alternatives is less
    likely than each of them, and its score is 0.

    Parameters
    ----------
    tokens : sequence of mapping, or None
        As in `expected_scores`.
    request : ScoringRequest
        What the model was asked.
    answer : str, optional
        As in `expected_scores`.

    Returns
    -------
    ScoredAnswer
        A score of every candidate, the sum of all being 1. What was dropped is counted as by `parse_ranking`.

    Raises
    ------
    AnswerError
        As `parse_ranking`.
    LogprobsError
        As `expected_scores`; or if labels are spelled digit by digit, so that a token does not say which label it
        begins.
    """
    read = read_tokens(tokens)
    text = "".join(token.text for token in read)
    starts = list(itertools.accumulate((len(token.text) for token in read), initial=0))
    start, end = answer_place(text, answer)
    inner = " " * start + text[start:end]
    ranking = parse_ranking(inner, request)
    labels = [label for label in ranked_labels(inner, len(request.item_ids)) if isinstance(label, Number | String)]
    places = [range(bisect_right(starts, label.start) - 1, bisect_left(starts, label.end)) for label in labels]
    lengths = [len(place) for label, place in zip(labels, places, strict=True) if label.end - label.start > 1]
    if len(request.item_ids) > 9 and (not lengths or max(lengths) > 1):
        raise LogprobsError(
            "the answer does not show that labels of two digits are one token, so a token may begin several labels. "
            "Ask about at most 9 candidates at a time, or score without log-probabilities."
        )
    if labels[0].start > min(label.start for label in labels):
        raise LogprobsError(
            "the ranking does not begin with the best candidate. Ask for a plain list of labels, or score without "
            "log-probabilities."
        )
    token, lead = read[places[0][0]], text[starts[places[0][0]] : labels[0].start]
    if all(other == token.text for other, _ in token.alternatives):
        raise LogprobsError(
            "the server gave no alternatives for the first label. Use a server that supports top_logprobs, or score "
            "without log-probabilities."
        )
    probability = dict.fromkeys(range(len(request.item_ids)), 0.0)
    for position, chance in _labels_begun(token, lead.strip()):
        if position in probability:
            probability[position] += chance
    total = sum(probability.values())
    if not total > 0:
        raise LogprobsError(
            "no alternative of the first label is a candidate's. Ask for more of them, or score without "
            "log-probabilities."
        )
    scores = {position: chance / total for position, chance in probability.items()}
    return answer_of(scores, request, ranking.n_unasked, ranking.n_duplicates)


def _labels_begun(token: Token, lead: str) -> Iterator[tuple[int, float]]:
    """Yield the position that each alternative of a token names, and its probability; `lead` precedes the label."""
    options = {token.text: token.probability, **dict(token.alternatives)}
    for other, chance in options.items():
        stripped = other.lstrip()
        match = _DIGITS.match(stripped[len(lead) :].lstrip(' "')) if stripped.startswith(lead) else None
        if match is not None:
            yield int(match[0]) - 1, chance
