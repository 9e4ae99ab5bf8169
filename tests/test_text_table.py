"""The text table is read loudly: what cannot be used is refused or counted."""

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import LabelEncoder

from sllmr_plugin import CoverageError, TextTable, TextTableError
from sllmr_plugin.scoring.parquet import write_parquet

FRAME = pd.DataFrame(
    {
        "kind": ["item", "user", "user", "item", "user", "user", "item"],
        "id": ["b", "7", "9", "a", "7", "zz", None],
        "text": ["a kettle", "likes tea", "  ", "a tent", "second", "unknown", "nobody's"],
    }
)
INDEXES = {"user_index": {7: 3, 9: 4}, "item_index": {"a": 1, "b": 2}}


def test_texts_by_code_and_what_was_dropped():
    table = TextTable.read(FRAME, **INDEXES)
    assert table.users.to_dict() == {3: "likes tea"}
    assert table.items.to_dict() == {1: "a tent", 2: "a kettle"}
    assert table.items.index.tolist() == [1, 2]
    assert table.coverage.n_read == 7
    assert (table.coverage.n_users, table.coverage.n_items) == (1, 2)
    assert table.coverage.dropped == {
        "id is missing": 1,
        "text is missing or blank": 1,
        "user id not in user_index": 1,
        "user has a text already (the first is kept)": 1,
    }
    assert sum(table.coverage.dropped.values()) + 3 == 7
    assert "dropped 1: user id not in user_index" in str(table.coverage)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
def test_files_are_read_as_the_frame_is(tmp_path, suffix):
    path = tmp_path / f"texts{suffix}"
    if suffix == ".parquet":
        write_parquet(FRAME, path, {"model": "a-model"})
    else:
        FRAME.to_csv(path, index=False)
    table, expected = TextTable.read(path, **INDEXES), TextTable.read(FRAME, **INDEXES)
    pd.testing.assert_series_equal(table.users, expected.users, check_dtype=False)
    pd.testing.assert_series_equal(table.items, expected.items, check_dtype=False)
    assert table.coverage == expected.coverage
    assert table.origin.get("model") == ("a-model" if suffix == ".parquet" else None)


def test_a_text_that_looks_missing_is_a_text_in_a_csv(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("kind,id,text\nuser,1,None\nitem,2,NA\nitem,3,\n")
    table = TextTable.read(path)
    assert (table.users.to_dict(), table.items.to_dict()) == ({1: "None"}, {2: "NA"})
    assert table.coverage.dropped == {"text is missing or blank": 1}


@pytest.mark.parametrize("ids", [[5, 6], ["5", "6"], np.array([5, 6], dtype=np.int32)], ids=["int", "text", "int32"])
@pytest.mark.parametrize("keys", [[5, 6], ["5", "6"]], ids=["number_keys", "text_keys"])
def test_ids_meet_whether_written_as_numbers_or_texts(ids, keys):
    frame = pd.DataFrame({"kind": "user", "id": ids, "text": ["x", "y"]})
    for index in (dict(zip(keys, [1, 2], strict=True)), pd.Series([1, 2], index=keys), LabelEncoder().fit(keys)):
        first = 0 if isinstance(index, LabelEncoder) else 1
        assert TextTable.read(frame, user_index=index).users.to_dict() == {first: "x", first + 1: "y"}


def test_without_indexes_ids_are_codes():
    frame = pd.DataFrame({"kind": ["user", "item"], "id": ["4", "-2"], "text": ["x", "y"]})
    table = TextTable.read(frame)
    assert table.users.to_dict() == {4: "x"}
    assert table.coverage.dropped == {"item id is negative": 1}


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (FRAME.drop(columns="text"), "column.s. text missing.*Rename the columns"),
        (FRAME[:0], "holds no rows"),
        (FRAME.assign(kind="person"), r"kind is unknown in 7 row\(s\), first in row 0.*'person'. Use user, item or r"),
        (FRAME.assign(text=[*FRAME["text"][:4], 3.5, "x", "y"]), r"text is no text in 1 row\(s\), first in row 4"),
        ([1], "texts is a list"),
    ],
)
def test_what_cannot_be_read_is_refused(frame, told):
    with pytest.raises(TextTableError, match=told):
        TextTable.read(frame)


@pytest.mark.parametrize("name", ["missing.parquet", "texts.txt", "broken.parquet"])
def test_files_that_cannot_be_read_are_named(tmp_path, name):
    if not name.startswith("missing"):
        (tmp_path / name).write_text("kind")
    with pytest.raises(TextTableError, match=name):
        TextTable.read(tmp_path / name)


def test_no_text_left_is_an_error_with_the_counts():
    with pytest.raises(CoverageError, match="not one of its 7 texts is left.*user id not in user_index"):
        TextTable.read(FRAME, user_index={"x": 0}, item_index={"y": 0})
