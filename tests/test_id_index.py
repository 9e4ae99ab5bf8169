"""Raw ids to codes, against plain dictionaries."""

from __future__ import annotations

import decimal
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import LabelEncoder

from sllmr_plugin.errors import ScoreTableError
from sllmr_plugin.scores.ids import encode_ids, example_mismatch

STRINGS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=4)
INTEGERS = st.integers(-(2**62), 2**62)


def known_and_asked(ids):
    return st.tuples(st.lists(ids, min_size=1, max_size=12, unique=True), st.lists(ids, min_size=1, max_size=12))


@given(known_and_asked(STRINGS) | known_and_asked(INTEGERS), st.randoms())
@settings(max_examples=60, deadline=None)
def test_every_kind_of_index_agrees_with_a_dictionary(lists, random):
    known, asked = lists
    asked = [random.choice(known) if random.random() < 0.5 else value for value in asked]
    codes = random.sample(range(100), len(known))
    index = dict(zip(known, codes, strict=True))
    expected = [index.get(value, -1) for value in asked]
    for given_index in (index, pd.Series(index), pd.Series(index).astype("Int64")):
        result = encode_ids(pd.Series(asked), given_index, what="user_id")
        assert result.tolist() == expected
        assert result.dtype == np.int64

    encoder = LabelEncoder().fit(known)
    position = {value: code for code, value in enumerate(sorted(known))}  # LabelEncoder sorts
    assert encode_ids(pd.Series(asked), encoder, what="user_id").tolist() == [
        position.get(value, -1) for value in asked
    ]


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint32", "Int64", "float64", "float32", "int64[pyarrow]"])
def test_without_an_index_whole_numbers_are_codes(dtype):
    raw = pd.Series([3, 0, 101], dtype=dtype)
    result = encode_ids(raw, None, what="user_id")
    assert result.tolist() == [3, 0, 101]
    assert result.dtype == np.int64


def test_whole_floats_match_the_integers_of_an_index():
    # a column of integers with a gap is read as float
    assert encode_ids(pd.Series([2.0, 3.0, 2.5]), {2: 7, 5: 8}, what="item_id").tolist() == [7, -1, -1]


def test_categories_match_by_value():
    raw = pd.Series(["b", "a", "c"], dtype="category")
    assert encode_ids(raw, {"a": 4, "b": 5}, what="item_id").tolist() == [5, 4, -1]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([1.0, 2.5], "2.5"),
        ([1.0, np.inf], "inf"),
        ([1.0, np.nan], "nan"),
        (["a", "b"], "'a'"),
        ([True, False], "True"),
    ],
)
def test_ids_that_are_no_codes_need_an_index_and_the_culprit_is_shown(values, shown):
    with pytest.raises(ScoreTableError, match=re.escape(shown) + r".*not an integer code\. Pass item_index="):
        encode_ids(pd.Series(values), None, what="item_id")


@pytest.mark.parametrize("index", [{}, pd.Series(dtype="int64"), pd.Series(dtype="object")])
def test_an_empty_index_knows_no_id(index):
    assert encode_ids(pd.Series(["a", "b"]), index, what="user_id").tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ([("a", 1)], "is a list. Pass a dict or a Series"),
        (LabelEncoder(), "is a LabelEncoder. Pass .* fitted sklearn LabelEncoder"),
        ({"a": 1.5}, "maps to float64. Map every raw id to an integer code"),
        ({"a": "1"}, ".*Map every raw id to an integer code"),
        ({"a": 1, "b": None}, "maps to object"),
        (pd.Series([1, 2], index=["a", "a"]), "holds 'a' twice. Keep one code"),
    ],
)
def test_an_index_of_another_kind_is_refused(index, problem):
    with pytest.raises(ScoreTableError, match="index of user_id " + problem):
        encode_ids(pd.Series(["a"]), index, what="user_id")


NEIGHBOURS = [2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1000, 2**64 - 1]


@pytest.mark.parametrize("make", [np.uint64, int], ids=["uint64", "python"])
def test_numbers_beyond_63_bits_are_told_apart(make):
    raw = pd.Series([make(number) for number in NEIGHBOURS])
    index = {number: code for code, number in enumerate(NEIGHBOURS)}
    for known in (index, pd.Series(index), LabelEncoder().fit(np.array(NEIGHBOURS, dtype="uint64"))):
        assert encode_ids(raw, known, what="user_id").tolist() == [0, 1, 2, 3, 4, 5]
    del index[2**63]
    assert encode_ids(raw, index, what="user_id").tolist() == [0, 1, 2, -1, 4, 5]
    assert encode_ids(pd.Series([-(2**63), 5]), index, what="user_id").tolist() == [-1, -1]


def test_numbers_beyond_64_bits_are_told_apart_and_are_the_texts_that_a_file_has_of_them():
    index = {2**70: 4, 2**70 + 1: 5}
    assert encode_ids(pd.Series([2**70 + 1, 2**70, 2**70 + 2]), index, what="user_id").tolist() == [5, 4, -1]
    assert encode_ids(pd.Series([str(2**70)]), index, what="user_id").tolist() == [4]


@pytest.mark.parametrize(
    ("dtype", "first"), [("float64", 2**53), ("float32", 2**24), ("Float64", 2**53), ("double[pyarrow]", 2**53)]
)
def test_floats_that_may_stand_for_several_numbers_are_refused(dtype, first):
    below = pd.Series([first - 1, 3], dtype=dtype)
    assert encode_ids(below, {first - 1: 7}, what="user_id").tolist() == [7, -1]
    with pytest.raises(ScoreTableError, match="user_id holds .*may stand for several ids. Read the ids as integers"):
        encode_ids(pd.Series([3, first], dtype=dtype), {first: 7}, what="user_id")
    with pytest.raises(ScoreTableError, match="the index of user_id holds .*may stand for several"):
        encode_ids(pd.Series([3]), pd.Series([0], index=pd.Index([float(2**53)])), what="user_id")


def test_decimals_of_a_data_base_are_numbers():
    raw = pd.Series([decimal.Decimal(2**64 - 1), decimal.Decimal("7"), decimal.Decimal("7.00")])
    assert encode_ids(raw, {2**64 - 1: 1, 7: 2}, what="user_id").tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("index", "codes"),
    [
        ({7: 0, 12000: 1}, [-1, 0, -1, 1, -1]),
        ({"7": 0, "007": 1, "12e3": 2}, [1, 0, 2, -1, -1]),
        ({"7": 3, 7: 0, 12000: 1}, [-1, 3, -1, 1, -1]),  # as FuxiCTR's vocabulary: the text comes first
        ({7.0: 0, 12000.0: 1}, [-1, 0, -1, 1, -1]),  # an encoder that was fitted on a column with a gap
    ],
    ids=["numbers", "texts", "both", "floats"],
)
def test_what_a_text_file_says_is_found_as_it_stands_or_as_the_number_that_is_written_so(index, codes):
    written = pd.Series(["007", "7", "12e3", "12000", "7 "])
    assert encode_ids(written, index, what="user_id", written=True).tolist() == codes


def test_a_column_that_floats_have_written_is_found_by_its_numbers():
    assert encode_ids(pd.Series(["7.0", "8.0"]), {7: 1, 8: 2}, what="user_id", written=True).tolist() == [1, 2]
    assert encode_ids(pd.Series(["7.0", "7"]), {7: 1, 8: 2}, what="user_id", written=True).tolist() == [-1, 1]


def test_a_text_of_a_table_is_no_number():
    assert encode_ids(pd.Series(["7"]), {7: 1}, what="user_id").tolist() == [-1]
    assert encode_ids(pd.Series([7]), {"7": 1}, what="user_id").tolist() == [-1]


def test_the_mismatch_shows_both_sides_and_their_types():
    raw = pd.Series([7, 8])
    assert example_mismatch(raw, {"7": 0}, "user_id") == ("user_id 7 (int) in the table, '7' (str) in the index")
    assert "None" in example_mismatch(raw, {}, "user_id")
    assert "such as 7" in example_mismatch(raw, None, "user_id")
