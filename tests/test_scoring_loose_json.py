"""The loose JSON reader against the strict one, and on what only it reads."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.scoring.answer_text import Array, Number, Object, String, find_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: depth(value) <= 8)
OUTERMOST = st.lists(VALUES, max_size=4) | st.dictionaries(st.text(max_size=5), VALUES, max_size=4)
OUTERMOST = OUTERMOST.filter(lambda value: depth(value) <= 8)


def depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def plain(value):
    """Return a value as ``json.loads`` would, numbers as floats."""
    if isinstance(value, Object):
        return {plain(key): plain(found) for key, found in value.pairs}
    if isinstance(value, Array):
        return [plain(element) for element in value.elements]
    return value.value if isinstance(value, Number | String) else value


def strict(text):
    return json.loads(text, parse_int=float)


@given(OUTERMOST, st.booleans(), st.sampled_from([None, 0, 2]))
def test_valid_json_is_read_as_the_strict_reader_reads_it(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert [plain(found) for found in find_json(text)] == [strict(text)]


@given(OUTERMOST, OUTERMOST, st.text(st.characters(blacklist_characters='{}[]"'), max_size=20))
def test_prose_around_json_is_passed_over(first, second, prose):
    texts = json.dumps(first), json.dumps(second)
    found = find_json(f"{prose}{texts[0]}{prose} {texts[1]} {prose}")
    assert [plain(value) for value in found] == [strict(text) for text in texts]


@given(st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False) | st.text(max_size=4), max_size=5), st.data())
def test_what_was_cut_off_gives_its_complete_pairs_and_no_other(value, data):
    text = json.dumps(value)
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    (found,) = find_json(cut)
    pairs = [(plain(key), plain(entry)) for key, entry in found.pairs]
    assert pairs == list(value.items())[: len(pairs)]
    complete = [
        k for k in range(1, len(value) + 1) if json.dumps(dict(list(value.items())[:k]))[:-1] + "," in cut + " "
    ]
    assert len(pairs) >= max(complete, default=0)


@given(st.lists(st.sampled_from(["{", "}", "[", "]", ":", ",", '"', '"1"', "0.5", "-", "e9", "\\", " ", "x", "null"])))
def test_any_mixture_of_tokens_ends_without_an_exception(tokens):
    text = "".join(tokens)
    for value in find_json(text):
        assert isinstance(value, Object | Array)


def test_numbers_know_where_they_stand():
    text = 'so: {"1": 0.75, "2": "x", "3": [ -1e3]}'
    (value,) = find_json(text)
    numbers = [value.pairs[0][1], value.pairs[2][1].elements[0]]
    assert [text[n.start : n.end] for n in numbers] == ["0.75", "-1e3"]
    assert text[value.pairs[1][1].start : value.pairs[1][1].end] == "x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,}', [{"a": 1.0}]),
        ('{"a": 1 "b": 2}', [{"a": 1.0, "b": 2.0}]),
        ("{1: .5, 2: +1}", [{1.0: 0.5, 2.0: 1.0}]),
        ('{"a": None, "b": True}', [{"a": None, "b": True}]),
        ('{"a": "two\nlines", "b": "\\q"}', [{"a": "two\nlines", "b": "\\q"}]),
        ("[1] and {", [[1.0], {}]),
        ('{"a": {"b": 1}\nThat is all.', [{"b": 1.0}]),  # the outer bracket is never closed: no JSON
        ('{"a": [1, {"b": 2, "c": tru', [{"a": [1.0, {"b": 2.0}]}]),
        ("{'a': 1}", []),
        ('{"a": 85%}', []),
        ('{"a": 1.2.3} ', []),
        ('{"a": 08x}', []),
        ('{"a" 1}', []),
        ('{"a": : 1}', []),
        ("[1: 2]", []),
        ("{] [}", []),
        ("", []),
    ],
)
def test_what_is_forgiven_and_what_is_not(text, expected):
    assert [plain(value) for value in find_json(text)] == expected


@pytest.mark.parametrize("unit", ["[", '{"a":', "[[1,", "{[", '["', "[x", "{{}", "[]", "]", '{"a":[{"b":1},'])
def test_brackets_without_end_neither_recurse_nor_take_forever(unit):
    for value in find_json(unit * 20_000):
        assert isinstance(value, Object | Array)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"3": 0.2, "4": 0,8', {"3": 0.2}),
        ('{"3": 0.2, "4": 0,', {"3": 0.2}),
        ('{"3": 0.2, "4": 0.5, "5', {"3": 0.2, "4": 0.5}),
        ('{"3": 0.2, "4": 1e0, ', {"3": 0.2, "4": 1.0}),
        ('[["a", 0,8', [["a"]]),
    ],
)
def test_a_cut_that_may_have_split_a_decimal_comma_gives_no_number(text, expected):
    (found,) = find_json(text)
    assert plain(found) == expected
