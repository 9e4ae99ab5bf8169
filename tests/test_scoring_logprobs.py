"""Expected scores against the sum over all numbers that a small model could have written."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.errors import AnswerError, LogprobsError
from sllmr_plugin.scoring.answers import expected_scores, parse_scores
from sllmr_plugin.scoring.requests import ScoringRequest

REQUEST = ScoringRequest("u", ("Chess",), ("a", "b"), ("Go", "Doom"))


def token(text, probability=1.0, **others):
    """Return a token as a server does: the one written is among its alternatives."""
    options = {text: probability, **others}
    return {
        "token": text,
        "logprob": math.log(probability),
        "bytes": list(text.encode()),
        "top_logprobs": [
            {"token": t, "logprob": math.log(p), "bytes": list(t.encode())} for t, p in options.items() if p > 0
        ],
    }


def answer(*number, tail=("}",)):
    return [token(t) for t in ('{"', "1", '":')] + [token(" ")] + list(number) + [token(t) for t in tail]


def score(*number, tail=("}",)):
    return expected_scores(answer(*number, tail=tail), REQUEST).scores["a"]


weights = st.lists(st.floats(0.01, 1), min_size=10, max_size=10).map(lambda w: [x / sum(w) for x in w])


@given(weights, weights, st.floats(0.01, 0.99), st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_digit_by_digit_it_is_the_mean_over_all_numbers(first, second, one, d1, d2, together):
    """A model that writes 1 or 0.d1d2; off the written path all digits are equally likely, as is assumed."""
    expected = one * 1.0
    for a, b in itertools.product(range(10), repeat=2):
        expected += (1 - one) * first[a] * (second[b] if a == d1 else 0.1) * (a / 10 + b / 100)
    digits = {str(a): p for a, p in enumerate(first)}
    start = token("0", 1 - one, **{"1": one})
    tens = token(str(d1), digits.pop(str(d1)), **digits)
    digits = {str(b): p for b, p in enumerate(second)}
    units = token(str(d2), digits.pop(str(d2)), **digits)
    assert score(start, token("."), tens, units) == pytest.approx(expected)

    if together:  # the decimals as one token: the alternatives are whole numbers
        both = {f"{a}{b}": first[a] * second[b] for a, b in itertools.product(range(10), repeat=2)}
        expected = one + (1 - one) * sum(p * int(digits) / 100 for digits, p in both.items())
        written = f"{d1}{d2}"
        assert score(start, token("."), token(written, both.pop(written), **both)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        # 0.80 with 3/4, 0.60 with 1/4
        ([token("0."), token("80", 0.75, **{"60": 0.25})], 0.75),
        # what continues no number is left out and the rest shares its mass: (0.6 * 0.8 + 0.2 * 0.6) / 0.8
        ([token("0."), token("80", 0.6, **{"60": 0.2, "x": 0.1, '"': 0.1})], 0.75),
        # an alternative above 1 is none: 9 would begin 9.
        ([token("0", 0.5, **{"9": 0.5}), token(".80")], 0.80),
        # "1" ends at 1; "0" in another cut agrees with what was written
        ([token("0", 0.5, **{"1": 0.25, "0.": 0.25}), token(".80")], 0.75 * 0.8 + 0.25),
        # after 0.8 the number could have ended: 0.80 with 1/2, 0.85 with 1/2
        ([token("0.8"), token("5", 0.5, **{"}": 0.5})], 0.825),
        # 0.7 begun in an answer with two decimals: 0.70 to 0.79, whose mean is 0.745
        ([token("0."), token("8", 0.5, **{"7": 0.5}), token("5")], (0.85 + 0.745) / 2),
        # three decimals in an answer with two: taken as they are
        ([token("0."), token("80", 0.5, **{"805": 0.5})], (0.8 + 0.805) / 2),
        # a token that begins before the number and one that ends behind it
        ([token(" 0", 0.5, **{"1": 0.25, " 1": 0.25}), token(".80"), token("}", 1.0)], 0.9),
    ],
)
def test_by_hand(number, expected):
    assert score(*number) == pytest.approx(expected)


def test_a_token_that_holds_a_colon_and_a_digit():
    tokens = [token('{"1"'), token(":0", 0.5, **{":1": 0.5, "0": 0.3}), token(".50}")]
    assert expected_scores(tokens, REQUEST).scores["a"] == pytest.approx(0.75)


def test_rounding_makes_no_score_above_one():
    # the shares of three ways to write 1 add up to 1 + 2e-16
    assert score(token("1", 0.18, **{"1}": 0.04, "1,": 0.05})) == 1.0


def test_several_scores_missing_ones_and_bytes_of_split_characters():
    tokens = [token('{"note": "'), token("é"), token('", "scores": {"2": '), token("0.50", 0.5, **{"0.70": 0.5})]
    half = [{**token("x"), "token": "\\xc3", "bytes": [0xC3]}, {**token("x"), "token": "\\xa9", "bytes": [0xA9]}]
    for middle in ([tokens[1]], half):
        found = expected_scores([tokens[0], *middle, *tokens[2:], token(', "7": 1}}')], REQUEST)
        assert found.scores == pytest.approx({"b": 0.6})
        assert (found.missing, found.n_unasked) == (("a",), 1)


def test_without_bytes_the_tokens_texts_count():
    tokens = [{**t, "bytes": None} for t in answer(token("0.50", 0.5, **{"0.70": 0.5}))]
    del tokens[0]["bytes"]
    assert expected_scores(tokens, REQUEST).scores["a"] == pytest.approx(0.5 * 0.5 + 0.5 * 0.7)


def test_numbers_with_exponents_or_escapes_are_taken_as_written():
    other = token('", "2": "0.5', 0.5, **{"x": 0.5})
    tokens = [token('{"1": 5e-1, "2": "'), token("\\u0020\\u0020\\u00200.5"), token('"}')]
    with pytest.raises(LogprobsError, match="no alternatives|gave no"):
        expected_scores(tokens, REQUEST)
    tokens = [
        token('{"1": "'),
        token("\\u0"),
        token("020", 0.5, **{"1": 0.5}),
        token("\\u0020" * 2 + "0.5"),
        other,
        token('"}'),
    ]
    assert expected_scores(tokens, REQUEST).scores["a"] == 0.5


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        (None, "returned no log-probabilities"),
        ([], "returned no log-probabilities"),
        ([{**t, "top_logprobs": []} for t in answer(token("0.5"))], "no alternatives for any score"),
        ([{"token": "x"}], "KeyError"),
        (["x"], "AttributeError"),
        ([{"token": "x", "logprob": None}], "TypeError"),
        ([{"token": "x", "logprob": math.nan}], "ValueError"),
        ([{"token": "x", "logprob": 10**400}], "OverflowError"),
        ([{"token": "x", "logprob": 0, "bytes": [256]}], "ValueError"),
        ([{"token": "x", "logprob": 0, "bytes": 10**12}], "TypeError"),
        ([{"token": "x", "logprob": 0, "top_logprobs": [{}]}], "KeyError"),
    ],
)
def test_log_probabilities_that_cannot_be_used(tokens, problem):
    with pytest.raises(LogprobsError, match=problem) as caught:
        expected_scores(tokens, REQUEST)
    assert "without" in str(caught.value).split(". ")[-1]


def test_an_answer_that_cannot_be_used_is_the_answer_s_error():
    with pytest.raises(AnswerError, match="outside 0 to 1"):
        expected_scores([token('{"1": 7}', 0.5, x=0.5)], REQUEST)


PIECES = st.sampled_from(
    ["0", "1", ".", "5", "85", "0.", ",", "}", " ", '"', ' "2": ', ":0", "x", "9" * 400, "1.0", "é"]
)
OPTIONS = st.lists(st.tuples(PIECES, st.floats(-1e4, 1, width=32) | st.just(-math.inf)), max_size=5)


@given(st.lists(st.tuples(PIECES, st.floats(-1e4, 1, width=32), OPTIONS), max_size=8))
def test_fuzz_the_items_of_the_plain_answer_with_scores_in_range(pieces):
    tokens = [{"token": '{"1": ', "logprob": 0.0}] + [
        {"token": text, "logprob": p, "top_logprobs": [{"token": t, "logprob": q} for t, q in options]}
        for text, p, options in pieces
    ]
    try:
        found = expected_scores(tokens, REQUEST)
    except (AnswerError, LogprobsError):
        return
    written = parse_scores("".join(t["token"] for t in tokens), REQUEST)
    assert set(found.scores) == set(written.scores)
    assert all(0 <= value <= 1 for value in found.scores.values())
    assert (found.missing, found.n_unasked, found.n_duplicates) == (
        written.missing,
        written.n_unasked,
        written.n_duplicates,
    )


DRAFT = [
    token("<think>"),
    token("é "),
    token('{"1": '),
    token("0.90", 0.5, **{"0.10": 0.5}),
    token("}"),
    token("</think>"),
]
NUMBER = token("0.50", 0.5, **{"0.70": 0.5})


def test_numbers_in_thoughts_are_no_scores():
    # 0.50 with 1/2, 0.70 with 1/2
    assert expected_scores([*DRAFT, *answer(NUMBER)], REQUEST).scores == pytest.approx({"a": 0.6})
    with pytest.raises(AnswerError, match="no end"):
        expected_scores([*DRAFT[:-1]], REQUEST)


def test_the_tokens_of_thoughts_that_the_server_keeps_apart_do_not_count():
    tail = [token("<|im_end|>")]
    for thoughts in (DRAFT, DRAFT[1:-1]):  # with and without the tags
        tokens = [*thoughts, *answer(NUMBER), *tail]
        assert expected_scores(tokens, REQUEST, '{"1": 0.50}').scores == pytest.approx({"a": 0.6})


def test_of_the_same_words_twice_the_last_are_the_answer():
    draft = answer(token("0.50", 0.5, **{"0.10": 0.5}))
    assert expected_scores([*draft, *answer(NUMBER)], REQUEST, '{"1": 0.50}').scores == pytest.approx({"a": 0.6})


def test_tokens_that_do_not_spell_the_answer_are_not_used():
    with pytest.raises(LogprobsError, match="another text"):
        expected_scores(answer(NUMBER), REQUEST, '{"1": 0.51}')
