"""Answers that rank, and the soft scores of ranks against the formula, a number at a time."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.errors import AnswerError, ConfigError
from sllmr_plugin.scoring.ranking_answers import parse_ranking, soft_scores
from sllmr_plugin.scoring.requests import ScoringRequest

REQUEST = ScoringRequest("u", ("Chess",), ("a", "b", "c", "d"), ("Go", "Doom", "Kite", "Tag"))
# sigma((4 + 1 - 2r) / (4 * 0.5)) for r = 1, 2, 3, 4
SOFT = [1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(1.5))]


@given(st.integers(1, 60), st.floats(0.05, 50))
def test_soft_scores_follow_the_formula(n, temperature):
    expected = [1 / (1 + math.exp(-(n + 1 - 2 * r) / (n * temperature))) for r in range(1, n + 1)]
    assert soft_scores(n, temperature) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 60), st.floats(0, exclude_min=True, allow_infinity=False))
def test_soft_scores_fall_and_are_symmetric(n, temperature):
    scores = soft_scores(n, temperature)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores) <= 0).all()
    assert scores + scores[::-1] == pytest.approx(np.ones(n))


@pytest.mark.parametrize(("temperature", "name"), [(0.1, "0.1"), (0.5, "0.5 (default)"), (2, "2")])
def test_the_table_in_the_documentation(temperature, name):
    documented = (Path(__file__).parent.parent / "docs" / "scoring_prompts.md").read_text()
    row = [f"{1 / (1 + math.exp(-(21 - 2 * r) / (20 * temperature))):.2f}" for r in (1, 5, 10, 11, 16, 20)]
    assert f"| {name} | {' | '.join(row)} |" in documented


def test_temperatures_at_the_ends():
    assert soft_scores(4, 1e-300).tolist() == [1, 1, 0, 0]
    assert soft_scores(4, 1e300).tolist() == [0.5] * 4


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
def test_temperatures_that_make_no_sense(temperature):
    with pytest.raises(ConfigError, match="above 0"):
        parse_ranking('{"ranking": [1]}', REQUEST, temperature=temperature)


@pytest.mark.parametrize(
    "text",
    [
        '{"ranking": [3, 1, 4, 2]}',
        "[3, 1, 4, 2]",
        'Sure: ```json\n{"ranking": ["3", "item 1", "#4", 2,]}\n``` as [1] shows',
        '{"order": [{"id": 3}, {"id": "1", "why": "x"}, {"id": 4}, {"id": 2}], "n": 4}',
        '{"unsure": [1, 2, 3, 4], "ranking": [3, 1, 4, 2]}',
        '<think>[1, 2, 3, 4]</think> {"ranking": [3, 1, 4, 2]}',
        '{"ranking": [3, 1, 4, 2]}, so [3] before [2] and [3, 2]',
        '{"ranking": [1, 2, 3, 4]} or rather {"ranking": [3, 1, 4, 2]}',
        "[3] > [1] > [4] > [2]",
        "Ranking: 3 > 1 > 4 > 2.",
        "Item 3 >> Item 1 >> Item 4 >> Item 2",
        "#3 -> #1 -> #4 -> #2",
        "<think>[1] > [2] > [3] > [4]</think>\n[3] > [1] > [4] > [2]",
        "[1] > [2] > [3] > [4]? No: [3] > [1] > [4] > [2]",
        "[3]\n[1]\n[4]\n[2]",
        "[3], [1], [4], [2]",
        "- [3]\n- [1]\n- [4]\n- [2]",
        "1. [3] Kite\n2. [1] Go\n3. [4] Tag\n4. [2] Doom",
        "1) **[3]** Kite\n2) **[1]** Go\n3) **[4]** Tag\n4) **[2]** Doom",
        "Order:\n1. Item 3: Kite\n2. Item 1: Go\n3. Item 4: Tag\n4. Item 2: Doom",
        "[[3], [1], [4], [2]]",
        '{"ranking": [["3"], ["1"], ["4"], ["2"]]}',
        '{"ranking": ["[3]", "[1]", "[4]", "[2]"]}',
        '{"ranking": "[3] > [1] > [4] > [2]"}',
        '[{"id": 1, "rank": 2}, {"id": 2, "rank": 4}, {"id": 3, "rank": 1}, {"id": 4, "rank": "3"}]',
        '{"ranking": [{"rank": 3, "item": 4}, {"rank": 0, "item": 3}, {"rank": 1, "item": 1}, {"rank": 9, "item": 2}]}',
        '{"id": 1, "rank": 2}\n{"id": 2, "rank": 4}\n{"id": 3, "rank": 1}\n{"id": 4, "rank": 3}',
        '[{"id": 3, "score": 0.9}, {"id": 1, "score": 0.5}, {"id": 4, "score": 0.5}, {"id": 2, "score": 0.1}]',
    ],
)
def test_rankings_that_are_understood(text):
    answer = parse_ranking(text, REQUEST)
    assert answer.scores == pytest.approx({"c": SOFT[0], "a": SOFT[1], "d": SOFT[2], "b": SOFT[3]})
    assert (answer.missing, answer.n_unasked, answer.n_duplicates) == ((), 0, 0)


def test_ranks_close_up_over_what_is_dropped_and_the_rest_is_missing():
    answer = parse_ranking('{"ranking": [9, 3, 3, "Doom", 2, ', REQUEST)
    assert answer.scores == pytest.approx({"c": SOFT[0], "b": SOFT[1]})
    assert (answer.missing, answer.n_unasked, answer.n_duplicates) == (("a", "d"), 2, 1)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "[7, 8]", '{"1": 2, "2": 1}', '["Go", "Doom"]', "3, 1, 4, 2", "[2]", "The best is [3], then [1]"]
    + ['{"id": 2}', '{"id": 2, "rank": 1}', "3 < 1 < 4 < 2", "3 > 1 = 4 > 2", "1. Kite\n2. Go\n3. Tag\n4. Doom"]
    # which of the numbers are ranks, which labels?
    + [
        "1. 3\n2. 1\n3. 4\n4. 2",
        "1: 3\n2: 1",
        "3. [1]\n1. [2]\n4. [3]",
        "1. [3]\n7. [2]\n2. [1]",
        '{"draft": [1, 2, 3], "final": [3, 1, 2]}',
    ],
)
def test_answers_that_rank_nothing(text):
    with pytest.raises(AnswerError, match="none of the 4 candidates is ranked. Answer with"):
        parse_ranking(text, REQUEST)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"ranking": [1, 2, 3, 4, 3, 1, 4, 2]}', "two orders that differ"),  # a draft and the order in one list
        ("[1] > [2] > [3] > [4] > [3] > [1]", "two orders that differ"),
        ('{"ranking": [1, 2, 3, 4]} or rather {"ranking": [3, 1]}', "two answers that differ"),
        ('1 > 2 > 3 > 4, no: {"ranking": [3, 1, 4, 2]}', "two orders that differ"),
        ('{"ranking": [1, 2, 3, 4], "final_ranking": [3, 1, 4, 2]}', "2 ranks that may be the answer"),
        ('{"ranking": [[3, 1], [4, 2]]}', "several labels stand in one place"),
        ('{"ranking": [0.9, 0.1, 1, 0.5]}', "0.9 is no label"),
        ('[{"id": 3, "rank": 1}, {"id": 1}, {"id": 4, "rank": 2}]', "rank of label 1.0 is None"),
        ('[{"id": 3, "rank": 1}, {"id": 1, "rank": 1}]', "share a rank"),
        ('[{"id": 1, "position": 2}, {"id": 2, "position": 4}, {"id": 3, "position": 1}]', 'not that of "position"'),
        ('[{"id": 1, "score": 0.1}, {"id": 2, "score": 0.9}]', 'not that of "score"'),
    ],
)
def test_orders_that_are_not_certain_are_refused(text, problem):
    with pytest.raises(AnswerError, match=rf"{problem}.*\. Give"):
        parse_ranking(text, REQUEST)


@pytest.mark.parametrize("text", ['{"ranking": [3, 1]}', "[3] > [1]", "1. [3]\n2. [1]", '{"ranking": [3, 1, 3, 1, 3, '])
def test_a_ranking_of_fewer_is_partial(text):
    answer = parse_ranking(text, REQUEST)
    assert answer.scores == pytest.approx({"c": SOFT[0], "a": SOFT[1]})
    assert answer.missing == ("b", "d")


@given(st.permutations(range(6)), st.floats(0.1, 5))
def test_scores_order_the_items_as_the_ranking_does(order, temperature):
    request = ScoringRequest("u", (), tuple("abcdef"), tuple("ABCDEF"))
    answer = parse_ranking(json.dumps({"ranking": [k + 1 for k in order]}), request, temperature=temperature)
    assert sorted(answer.scores, key=answer.scores.get, reverse=True) == ["abcdef"[k] for k in order]
