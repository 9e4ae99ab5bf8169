"""Rows in pieces answer what the same rows in one array do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.backends.fuxictr.data import StreamedRows
from sllmr_plugin.training.rows import ArrayRows, Unlisted

LAYOUT = {"user": (0, 1), "item": (1, 2), "tags": (2, 4), "price": (4, 5)}


def rows_of(seed, n):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 9, (n, 5)).astype(np.float64)
    return matrix, rng.integers(0, 2, n).astype(np.float64)


def in_pieces(matrix, labels, cuts):
    edges = [0, *sorted(cut % (len(labels) + 1) for cut in cuts), len(labels)]
    return [(matrix[a:b], labels[a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)]


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    wanted=st.sets(st.integers(0, 12)),
)
def test_latest_rows_ids_and_labels_are_those_of_one_array(seed, n, cuts, wanted):
    matrix, labels = rows_of(seed, n)
    codes = np.array(sorted(wanted), dtype=np.int64)
    streamed = StreamedRows(in_pieces(matrix, labels, cuts), LAYOUT, {"user": codes, "item": codes[:3]})
    whole = ArrayRows([matrix], labels, LAYOUT, dtype=np.float64)
    np.testing.assert_array_equal(streamed.positive, whole.positive)
    for name, some in (("user", codes), ("item", codes[:3])):
        np.testing.assert_array_equal(streamed.column(name), whole.column(name))
        for got, expected in zip(streamed.latest_rows(name, some), whole.latest_rows(name, some), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("cuts", [[], [1], [3, 5]])
def test_the_template_is_the_last_positive_row_else_the_last(cuts):
    matrix = np.array(
        [[1, 0, 0, 0, 10], [1, 0, 0, 0, 11], [2, 0, 0, 0, 12], [1, 0, 0, 0, 13], [2, 0, 0, 0, 14], [3] * 5]
    )
    labels = np.array([0, 1, 0, 0, 0, 1.0])
    wanted = np.array([1, 2, 4])
    rows = StreamedRows(in_pieces(matrix, labels, cuts), LAYOUT, {"user": wanted, "item": wanted})
    found, latest = rows.latest_rows("user", wanted)
    assert found.tolist() == [True, True, False]
    assert latest[:, 4].tolist() == [11, 14]


def test_ids_that_float32_cannot_hold_stay_apart():
    big = 2**24 + 1
    rows = StreamedRows(
        [(np.array([[big, 1, 0, 0, 0]]), np.ones(1))], LAYOUT, {"user": np.array([big - 1, big]), "item": np.array([1])}
    )
    found, latest = rows.latest_rows("user", np.array([big - 1, big]))
    assert found.tolist() == [False, True]
    assert latest[0, 0] == big


def test_no_rows_at_all():
    codes = np.array([1])
    rows = StreamedRows([], LAYOUT, {"user": codes, "item": codes})
    assert rows.latest_rows("user", codes)[0].tolist() == [False]
    assert len(rows.column("item")) == len(rows.positive) == 0
    assert rows.unlisted("user", "item", ["item"]) == Unlisted()
