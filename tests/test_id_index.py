"""Raw ids to codes, against plain dictionaries."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import LabelEncoder

from sllmr_plugin.errors import ScoreTableError
from sllmr_plugin.id_index import encode_ids, example_mismatch

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
    with pytest.raises(ScoreTableError, match=re.escape(shown) + r".*no integer code\. Pass item_index="):
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


def test_the_mismatch_shows_both_sides_and_their_types():
    raw = pd.Series([7, 8])
    assert example_mismatch(raw, {"7": 0}, "user_id") == ("user_id 7 (int) in the table, '7' (str) in the index")
    assert "None" in example_mismatch(raw, {}, "user_id")
    assert "such as 7" in example_mismatch(raw, None, "user_id")
