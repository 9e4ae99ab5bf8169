"""Scores from the first label of a ranking, against the probabilities that were put in."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.errors import AnswerError, LogprobsError
from sllmr_plugin.scoring.label_scores import label_scores
from sllmr_plugin.scoring.requests import ScoringRequest

from .test_scoring_logprobs import token


def request(n_candidates):
    items = tuple(f"i{k}" for k in range(1, n_candidates + 1))
    return ScoringRequest("u", ("Chess",), items, tuple(f"Game {item}" for item in items))


def ranking(first, *others, before=('{"', "ranking", '":', " [")):
    rest = [token(text) for label in others for text in (", ", label)]
    return [token(text) for text in before] + [first, *rest, token("]}")]


@given(st.lists(st.floats(0.01, 1), min_size=5, max_size=5))
def test_it_is_the_softmax_over_the_labels(logits):
    weights = [math.exp(x) for x in logits]
    chances = [0.9 * w / sum(weights) for w in weights]  # the rest is of words that are no label
    first = token("2", chances[1], **{"1": chances[0], "3": chances[2], "4": chances[3], "5": chances[4], "best": 0.1})
    read = label_scores(ranking(first, "1", "3", "5", "4"), request(5))
    assert list(read.scores.values()) == pytest.approx([w / sum(weights) for w in weights])
    assert (read.missing, read.n_unasked) == ((), 0)


@pytest.mark.parametrize(
    ("first", "before", "expected"),
    [
        (token("2", 0.6, **{"1": 0.2}), ('{"ranking": [',), [0.25, 0.75, 0.0]),  # 3 is not among the alternatives
        (
            token("2", 0.5, **{"1": 0.1, '"1': 0.1, " 2": 0.1, "9": 0.1, "0": 0.1}),
            ('{"ranking": [',),
            [0.25, 0.75, 0.0],
        ),
        (token(" [2", 0.6, **{" [1": 0.2, "[3": 0.2, "1": 0.1}), ('{"ranking":',), [0.2, 0.6, 0.2]),
        (token('"2', 0.6, **{'"1': 0.4}), ('{"ranking": [',), [0.4, 0.6, 0.0]),
    ],
)
def test_what_an_alternative_says(first, before, expected):
    others = ['"1"', '"3"'] if first["token"].startswith('"') else ["1", "3"]
    tokens = ranking(first, *others, before=before)
    if first["token"].startswith('"'):
        tokens.insert(len(before) + 1, token('"'))
    assert list(label_scores(tokens, request(3)).scores.values()) == pytest.approx(expected)


def test_thoughts_are_not_the_answer():
    thought = [token("<think>"), *ranking(token("3", 0.9, **{"1": 0.1}), "1", "2"), token("</think>")]
    answer = ranking(token("1", 0.75, **{"2": 0.25}), "2", "3")
    assert list(label_scores([*thought, *answer], request(3)).scores.values()) == pytest.approx([0.75, 0.25, 0.0])


def test_labels_of_two_digits_are_told_from_those_that_begin_like_them():
    others = [str(label) for label in range(1, 13) if label != 12]
    first = token("12", 0.5, **{"1": 0.25, "2": 0.25})
    scores = label_scores(ranking(first, *others), request(12)).scores
    assert {item: score for item, score in scores.items() if score} == pytest.approx(
        {"i1": 0.25, "i2": 0.25, "i12": 0.5}
    )
    digits = [text for label in others for text in (", ", *label)]
    split = [*map(token, ('{"ranking": [',)), token("1", 0.5, **{"2": 0.5}), token("2"), *map(token, digits)]
    for tokens in ([*split, token("]}")], ranking(token("2", 0.5, **{"1": 0.5}), "1", "3")):  # no label of two digits
        with pytest.raises(LogprobsError, match="labels of two digits"):
            label_scores(tokens, request(12))


def test_what_cannot_be_read_is_refused():
    with pytest.raises(LogprobsError, match="no log-probabilities"):
        label_scores(None, request(2))
    with pytest.raises(LogprobsError, match="no alternatives for the first label"):
        label_scores(ranking(token("1"), "2"), request(2))
    words = [token('{"ranking": ["'), token("item", 0.5, x=0.5), token(' 1", "2"]}')]
    with pytest.raises(LogprobsError, match="no alternative of the first label is a candidate's"):
        label_scores(words, request(2))
    objects = [token('[{"id": '), token("1", 0.5, **{"2": 0.5}), token(', "rank": 2}, {"id": 2, "rank": 1}]')]
    with pytest.raises(LogprobsError, match="does not begin with the best"):
        label_scores(objects, request(2))
    with pytest.raises(AnswerError, match="none of the 2 candidates is ranked"):
        label_scores([token("Sorry.")], request(2))
