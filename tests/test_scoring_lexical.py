"""The lexical scorer: against TF-IDF worked out by hand, and where it has nothing to say."""

import doctest
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin.errors import DataError
from sllmr_plugin.scoring import scorers
from sllmr_plugin.scoring.requests import ScoringRequest
from sllmr_plugin.scoring.scorers import LexicalScorer

TITLES = ["red kite", "red rose", "kite string", "blue moon", "Blue Moon II"]


def grams(title):
    """Runs of 2 to 4 letters of each word, a blank set before and behind it (shorter words once, whole)."""
    found = Counter()
    for word in title.lower().split():
        padded = f" {word} "
        for length in (2, 3, 4):
            if len(padded) <= length:
                found[padded] += 1
                break
            found.update(padded[at : at + length] for at in range(len(padded) - length + 1))
    return found


def by_hand(history, title):
    n = len(TITLES)
    documents = Counter(gram for known in TITLES for gram in grams(known))

    def vector(text):
        weights = {
            gram: (1 + math.log(count)) * (math.log((1 + n) / (1 + documents[gram])) + 1)
            for gram, count in grams(text).items()
            if gram in documents
        }
        norm = math.sqrt(sum(weight**2 for weight in weights.values())) or 1
        return {gram: weight / norm for gram, weight in weights.items()}

    profile = Counter()
    for text in history:
        for gram, weight in vector(text).items():
            profile[gram] += weight
    length = math.sqrt(sum(weight**2 for weight in profile.values()))
    return sum(weight * profile[gram] for gram, weight in vector(title).items()) / length


def ask(history, titles):
    return ScoringRequest("u", tuple(history), tuple(range(len(titles))), tuple(titles))


@pytest.mark.parametrize("history", [["red kite"], ["red kite", "blue moon", "blue moon"], ["a red kitten, unknown"]])
def test_scores_are_the_cosine_worked_out_by_hand(history):
    candidates = [*TITLES, "an unknown kite"]
    answer = LexicalScorer(TITLES).score(ask(history, candidates))
    expected = [by_hand(history, title) for title in candidates]
    assert np.allclose([answer.scores[item] for item in range(len(candidates))], expected, atol=1e-6)
    assert answer.missing == ()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=4), st.lists(st.text(max_size=12), min_size=1, max_size=5))
def test_whatever_the_titles_scores_lie_in_range_or_are_missing(history, titles):
    answer = LexicalScorer(TITLES).score(ask(history, titles))
    assert set(answer.scores) | set(answer.missing) == set(range(len(titles)))
    assert not set(answer.scores) & set(answer.missing)
    assert all(type(score) is float and 0 <= score <= 1 for score in answer.scores.values())


def test_the_same_title_scores_one_and_nothing_in_common_zero():
    scores = LexicalScorer(TITLES).score(ask(["red rose"], ["red rose", "moon"])).scores
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert scores[1] == 0


@pytest.mark.parametrize("history", [[], ["####"]])
def test_without_a_usable_history_every_candidate_is_missing(history):
    answer = LexicalScorer(TITLES).score(ask(history, ["red rose", "blue moon"]))
    assert (answer.scores, answer.missing) == ({}, (0, 1))


def test_attributes_are_compared_as_whole_words():
    # a1 and a12 share letters and nothing else; a1 is in all four, a7 in two: idf 1 and ln(5 / 3) + 1.
    scorer = LexicalScorer(["a1 a7", "a1 a12", "a1 a7 a3", "a1"], words=True)
    scores = scorer.score(ScoringRequest("ann", ("a7",), (1, 2, 3), ("a12", "a1", "a1 a7"))).scores
    rare = math.log(5 / 3) + 1
    assert (scores[1], scores[2]) == (0, 0)
    assert scores[3] == pytest.approx(rare / math.hypot(1, rare))


def test_titles_are_needed():
    with pytest.raises(DataError, match="no titles to compare; give an items file"):
        LexicalScorer(["", ""])
    with pytest.raises(DataError, match="no titles to compare"):
        LexicalScorer([])
    with pytest.raises(DataError, match="no titles to compare"):
        LexicalScorer(["  "])


def test_the_example_in_the_docstring():
    result = doctest.testmod(scorers)
    assert result.attempted > 0
    assert result.failed == 0
