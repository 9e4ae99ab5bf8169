"""Input rows of (user, candidate) pairs, against loops over plain rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin.errors import ItemTableWarning, SLLMRError, WrapError
from sllmr_plugin.training.rows import (
    ArrayRows,
    Features,
    Unlisted,
    encode_item_table,
    item_columns,
    known_item_values,
)
from sllmr_plugin.training.sampler import RowBuilder

# user, item, two columns of tags, price, hour
LAYOUT = {"user": (0, 1), "item": (1, 2), "tags": (2, 4), "price": (4, 5), "hour": (5, 6)}
MATRIX = np.array(
    [
        [1, 3, 7, 0, 0.5, 9],
        [2, 1, 5, 6, 1.5, 8],
        [1, 1, 5, 6, 1.5, 7],
        [2, 3, 7, 8, 0.5, 6],  # item 3 with other tags than above
        [4, 2, 4, 4, 2.5, 5],
        [1, 2, 4, 4, 2.5, 4],
    ]
)
LABELS = np.array([1, 1, 0, 1, 0, 0], dtype=np.float32)

WAYS = {
    "one matrix": [MATRIX],
    "a column each": list(MATRIX.T),
    "columns of shape (n, 1)": [column[:, None] for column in MATRIX.T],
    "a sequence as a matrix": [MATRIX[:, 0], MATRIX[:, 1], MATRIX[:, 2:4], MATRIX[:, 4], MATRIX[:, 5:]],
    "mixed types": [
        MATRIX[:, :2].astype(np.int32),
        MATRIX[:, 2:4].astype(np.int64).tolist(),
        pd.Series(MATRIX[:, 4], dtype=np.float32),
        torch.from_numpy(MATRIX[:, 5]),
    ],
}


def training(arrays=(MATRIX,), labels=LABELS, **options):
    return ArrayRows(arrays, labels, LAYOUT, **options)


# ---------------------------------------------------------------------- reading what fit was given


@pytest.mark.parametrize("way", WAYS)
def test_however_the_input_is_cut_the_rows_are_the_same(way):
    rows = training(WAYS[way])
    for name, (first, end) in LAYOUT.items():
        expected = MATRIX[:, first] if end - first == 1 else MATRIX[:, first:end]
        np.testing.assert_array_equal(rows.column(name), expected)
    gathered = rows.gather(np.array([4, 0, 0]))
    assert gathered.dtype == np.float32
    np.testing.assert_array_equal(gathered, MATRIX[[4, 0, 0]].astype(np.float32))
    assert rows.gather(np.array([], dtype=np.int64)).shape == (0, 6)


@pytest.mark.parametrize("way", WAYS)
def test_validation_rows_at_the_end_are_cut_off(way):
    rows = training(WAYS[way], n_rows=4)
    assert rows.n_rows == len(rows.column("user")) == len(rows.positive) == 4
    assert rows.latest(rows.column("user").astype(np.int64), 5).tolist() == [-1, 0, 3, -1, -1]


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_positives_by_label(shape):
    assert training(labels=LABELS.reshape(shape)).positive.tolist() == [True, True, False, True, False, False]


def test_positives_of_a_task():
    labels = np.stack([LABELS, 1 - LABELS], axis=1)
    assert training(labels=labels, task=0).positive.tolist() == (LABELS == 1).tolist()
    assert training(labels=labels, task=1).positive.tolist() == (LABELS == 0).tolist()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=25), st.integers(6, 8))
@settings(max_examples=100, deadline=None)
def test_the_template_is_the_last_positive_row_else_the_last_row(rows, n_codes):
    codes = np.array([code for code, _ in rows])
    labels = np.array([float(label) for _, label in rows])
    expected = []
    for code in range(n_codes):
        own = [number for number, (value, _) in enumerate(rows) if value == code]
        positive = [number for number in own if rows[number][1]]
        expected.append(positive[-1] if positive else own[-1] if own else -1)
    latest = ArrayRows([codes], labels, {"user": (0, 1)}).latest(codes, n_codes)
    assert latest.tolist() == expected
    assert latest.dtype == np.int64


# ---------------------------------------------------------------------- what looks item-side


def test_features_that_the_item_alone_decides_are_named():
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 12, 200), rng.integers(0, 9, 200)
    x = {
        "user": user,
        "item": item,
        "category": item % 3,
        "age": user % 5,  # the user's
        "hour": rng.integers(0, 24, 200),  # of neither
        "country": np.ones(200, dtype=int),  # the same everywhere: no harm either way
        "both": item * 100 + user,  # of the pair
        "history": np.stack([user, user % 3], axis=1),  # the user's, in several columns
        "genres": np.stack([item % 2, item // 4 + 1], axis=1),  # the item's, in several columns
        "rare": (np.arange(200) == 7).astype(int),  # hardly varies, so nothing is known of it
    }
    layout, first = {}, 0
    for name, values in x.items():
        width = 1 if values.ndim == 1 else values.shape[1]
        layout[name] = (first, first + width)
        first += width
    rows = ArrayRows(list(x.values()), np.ones(200), layout)
    assert rows.unlisted("user", "item", ["item"]) == Unlisted(["category", "genres"], ["both"])
    assert rows.unlisted("user", "item", ["item", "category", "genres"]) == Unlisted([], ["both"])
    x["category"][150] += 1  # dirty rows do not hide a feature
    x["genres"][[3, 90], 1] = 77
    assert rows.unlisted("user", "item", ["item"]) == Unlisted(["category", "genres"], ["both"])
    rng.shuffle(x["genres"])
    assert rows.unlisted("user", "item", ["item"]).item_side == ["category"]
    assert rows.unlisted("user", "item", ["item"], max_rows=5) == Unlisted()  # too few rows to say anything


def with_context(n_rows=400, n_users=20, n_items=9):
    """Lay out rows of which most (user, item) pairs come back, at other hours."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, n_users, n_rows), rng.integers(0, n_items, n_rows)
    return {
        "user": user,
        "item": item,
        "category": item % 3,
        "price": item / 7,
        "hour": rng.integers(0, 24, n_rows),
        "evening": (rng.random(n_rows) < 0.05).astype(int),  # nearly always the same
        "tastes": np.stack([item * user % 7, (item + user) % 5], axis=1),  # of the pair, in several columns
    }


def decided(x):
    layout, first = {}, 0
    for name, values in x.items():
        layout[name] = (first, first + values[0].size)
        first = layout[name][1]
    return ArrayRows(list(x.values()), np.ones(len(x["user"])), layout).unlisted("user", "item", ["item"])


def test_copied_rows_do_not_make_context_a_feature_of_the_pair():
    assert decided(with_context()) == Unlisted(["category", "price"], ["tastes"])
    copied = {name: np.concatenate([values, values]) for name, values in with_context().items()}
    assert decided(copied) == Unlisted(["category", "price"], ["tastes"])


@pytest.mark.parametrize("n_dirty", [1, 12])
def test_dirty_rows_do_not_hide_what_decides_a_feature(n_dirty):
    x = with_context()
    dirty = np.linspace(5, 395, n_dirty).astype(int)
    for name in ("category", "price", "tastes"):
        x[name][dirty] = 99
    assert decided(x) == Unlisted(["category", "price"], ["tastes"])


def test_rows_without_repetition_tell_nothing():
    layout = {"user": (0, 1), "item": (1, 2), "hour": (2, 3)}
    once = ArrayRows([np.arange(6), np.arange(6), np.array([3, 1, 4, 1, 5, 9])], np.ones(6), layout)
    assert once.unlisted("user", "item", ["item"]) == Unlisted()


# ---------------------------------------------------------------------- building rows


def test_item_columns_follow_the_order_of_the_features():
    assert item_columns(LAYOUT, ["item"]).tolist() == [1]
    assert item_columns(LAYOUT, ["price", "item", "tags"]).tolist() == [4, 1, 2, 3]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_rows_are_templates_with_the_items_columns_replaced(data):
    n_users, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    columns = data.draw(st.lists(st.integers(0, width - 1), min_size=1, max_size=width, unique=True))
    codes = sorted(data.draw(st.lists(st.integers(0, 50), min_size=1, max_size=6, unique=True)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    stored, given_rows = (
        torch.rand(n_users, width, generator=generator),
        torch.rand(3, width, generator=generator),
    )
    values = torch.rand(len(codes), len(columns), generator=generator)
    builder = RowBuilder(stored, torch.tensor(columns), torch.tensor(codes), values)
    before = stored.clone(), given_rows.clone()
    for templates, source in ((None, stored), (given_rows, given_rows)):
        users = data.draw(st.lists(st.integers(0, len(source) - 1), max_size=8))
        items = [data.draw(st.sampled_from(codes)) for _ in users]
        built = builder.rows(torch.tensor(users, dtype=torch.int64), torch.tensor(items, dtype=torch.int64), templates)
        assert built.shape == (len(users), width)
        for row, user, item in zip(built.tolist(), users, items, strict=True):
            expected = source[user].tolist()
            for column, value in zip(columns, values[codes.index(item)].tolist(), strict=True):
                expected[column] = value
            assert row == expected
    assert torch.equal(before[0], stored)  # a step must not write into what the next one reads
    assert torch.equal(before[1], given_rows)


# ---------------------------------------------------------------------- the item's columns


def features(names=("item", "tags", "price"), **more):
    return Features("user", "item", tuple(names), LAYOUT, n_users=10, n_items=100, **more)


def test_an_item_that_is_its_id_needs_no_training_row():
    codes, values = known_item_values(training(), features(["item"]), np.array([2, 3, 90]), None)
    assert codes.tolist() == [2, 3, 90]
    assert values.tolist() == [[2], [3], [90]]


def test_item_values_come_from_the_latest_training_row():
    codes, values = known_item_values(training(), features(), np.array([1, 2, 3, 90]), None)
    assert codes.tolist() == [1, 2, 3]  # 90 never occurs
    # item 1: its positive row, although a later negative one exists; item 2: the last of its negative rows
    assert values.tolist() == [[1, 5, 6, 1.5], [2, 4, 4, 2.5], [3, 7, 8, 0.5]]
    assert values.dtype == np.float32


def test_the_item_table_comes_before_the_training_rows():
    table = (np.array([90, 3]), np.array([[90, 1, 1, 9.5], [3, 2, 2, 8.5]], dtype=np.float32))
    codes, values = known_item_values(training(), features(), np.array([2, 3, 90, 91]), table)
    assert codes.tolist() == [2, 3, 90]
    assert values.tolist() == [[2, 4, 4, 2.5], [3, 2, 2, 8.5], [90, 1, 1, 9.5]]


def test_an_item_table_out_of_the_scale_of_the_training_rows_is_told_of():
    wanted = np.array([2, 3, 90])  # prices of 2 and 3 in the training rows: 2.5 and 0.5

    def values_of(price):
        table = (np.array([90]), np.array([[90, 1, 1, price]]))
        return known_item_values(training(), features(), wanted, table)[1][:, 3].tolist()

    for fine in (2.5 + 5 * 2, 0.5 - 5 * 2):
        assert values_of(fine) == [2.5, 0.5, fine]
    for far in (13, -10, 50000):
        with pytest.warns(ItemTableWarning, match=rf"column price runs from {far} to {far}, .* from 0.5 to 2.5. Scale"):
            assert values_of(far) == [2.5, 0.5, far]


def test_nothing_wanted_gives_nothing():
    codes, values = known_item_values(training(), features(["item", "price"]), np.array([], dtype=np.int64), None)
    assert (codes.shape, values.shape) == ((0,), (0, 2))


# ---------------------------------------------------------------------- the item table


def encode(table, index=None, **vocabularies):
    return encode_item_table(pd.DataFrame(table), features(vocabularies=vocabularies), index)


@pytest.mark.parametrize("empty", [[], (), np.array([]), 0])
def test_cells_of_sequences_are_padded(empty):
    codes, values = encode(
        {"price": [1, 2, 3], "tags": [[4, 5], empty, np.array([6])], "item": [7, 9, 8], "title": "t"}
    )
    assert codes.tolist() == [7, 9, 8]
    assert values.tolist() == [[7, 4, 5, 1], [9, 0, 0, 2], [8, 6, 0, 3]]  # features in the order given
    assert values.dtype == np.float64


def test_raw_ids_are_mapped_and_unknown_ones_left_out():
    table = {"item": ["x", "nothing", "y"], "tags": [[1], [1, 2, 3], [2]], "price": [0.5, np.nan, 1.5]}
    codes, values = encode(table, {"x": 3, "y": 0})  # what is wrong with an unknown item does no harm
    assert codes.tolist() == [3, 0]
    assert values.tolist() == [[3, 1, 0, 0.5], [0, 2, 0, 1.5]]


def test_a_single_column_may_hold_lists_of_one():
    _, values = encode({"item": [1, 2], "tags": [3, 4], "price": [[0.5], [1.5]]})
    assert values.tolist() == [[1, 3, 0, 0.5], [2, 4, 0, 1.5]]


GOOD = {"item": [1, 2], "tags": [[3], [4]], "price": [0.5, 1.5]}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tags": None, "price": None}, r"lacks the column\(s\) tags, price\. Add them"),
        ({"item": [2, 2]}, "lists item .*2.* more than once. Keep one row"),
        ({"tags": [[1, 2, 3], [1]]}, "column tags holds 3 values where the model takes 2. Truncate"),
        ({"price": [[0.5, 0.5], [1]]}, "column price holds 2 values where the model takes 1. Truncate"),
        ({"price": [0.5, np.nan]}, "empty cell for item .*2.*Fill it in"),
        ({"price": pd.array([None, 2], dtype="Int64")}, "empty cell for item .*1.*Fill it in"),
        ({"price": [0.5, np.inf]}, "the value inf for item 2 in column price. Fill it in with a finite number"),
        ({"price": [-1e39, 1.5]}, r"the value -1e\+39 for item 1 in column price"),  # infinite in float32
        ({"tags": [[3], [4, -np.inf]]}, "the value -inf for item 2 in column tags"),
        ({"tags": [[3], [np.nan]]}, "empty cell for item .*2.*Fill it in"),
        ({"tags": [[3], ["new"]]}, r"column tags holds \['new'\]. Encode it"),
        ({"price": ["cheap", "dear"]}, r"column price holds \['cheap'\]. Encode it"),
        ({"tags": [[3], None]}, "empty cell for item .*2.*Fill it in"),
    ],
)
def test_item_tables_that_cannot_be_fed_are_refused(change, problem):
    table = {name: values for name, values in {**GOOD, **change}.items() if values is not None}
    with pytest.raises(WrapError, match=problem):
        encode(table)


@pytest.mark.parametrize(("tags", "told"), [([4, 9], "9"), ([4, -1], "-1"), ([4, 1.5], "1.5")])
def test_codes_outside_of_a_vocabulary_are_refused(tags, told):
    table = {**GOOD, "item": [7, 99], "tags": [[3], tags]}
    assert encode({**table, "tags": [[3], [8, 0]]}, tags=9)[1].tolist() == [[7, 3, 0, 0.5], [99, 8, 0, 1.5]]
    with pytest.raises(WrapError, match=f"the value {told} for item 99 in column tags, whose codes are 0 to 8 in the"):
        encode(table, tags=9)
    encode({**table, "item": [7, 100]}, tags=9)  # the model has no item 100, so nothing is looked up for it


def test_codes_have_no_scale():
    table = (np.array([90]), np.array([[90, 5000, 1, 2.5]]))
    arguments = training(), np.array([2, 3, 90]), table
    with pytest.warns(ItemTableWarning, match="column tags runs from 5000"):
        known_item_values(arguments[0], features(), *arguments[1:])
    _, values = known_item_values(arguments[0], features(vocabularies={"tags": 5001}), *arguments[1:])
    assert values[2].tolist() == [90, 5000, 1, 2.5]


def test_raw_ids_without_an_index_are_refused():
    with pytest.raises(SLLMRError, match="holds 'x'.*Pass item_index="):
        encode({**GOOD, "item": ["x", "y"]})
