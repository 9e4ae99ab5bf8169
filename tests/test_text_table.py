"""The text table is read loudly: what cannot be used is refused or counted."""

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import LabelEncoder

from sllmr_plugin import CoverageError, TextTable, TextTableError
from sllmr_plugin.scores.origin import write_parquet

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
        (FRAME.drop(columns="text"), "no column 'text' among .*; rename"),
        (FRAME[:0], "holds no row; give texts"),
        (FRAME.assign(kind="person"), r"row 0 .*: kind is 'person' \(7 such rows\); write user, item, r"),
        (
            FRAME.assign(text=[*FRAME["text"][:4], 3.5, "x", "y"]),
            r"row 4 \(.*\): text is 3\.5; write texts",
        ),
        ([1], "texts is a int"),
        ({}, "texts is a dict"),
        ([], "texts is an empty list"),
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


TOLD = pd.DataFrame(
    {
        "kind": [
            "reasoning",
            "user",
            "reasoning",
            "reasoning",
            "reasoning",
            "reasoning",
            "reasoning",
            "reasoning",
            "item",
        ],
        "id": ["7", "7", "7", "zz", "7", "9", "7", "9", "a"],
        "text": [
            "took it for tea",
            "likes tea",
            "again",
            "unknown user",
            "unknown item",
            " ",
            "no item",
            "left it",
            "x",
        ],
        "item_id": ["b", "a", "b", "a", "zz", "a", None, "b", None],
        "label": [1, None, 0, 1, 1, 1, 1, 0, None],
    }
)


@pytest.mark.parametrize("form", ["frame", ".parquet", ".csv"])
def test_reasoning_is_by_user_and_item_and_carries_a_label(tmp_path, form):
    source = TOLD if form == "frame" else tmp_path / f"texts{form}"
    if form == ".parquet":
        write_parquet(TOLD.astype({"label": "Int8"}), source, {})
    elif form == ".csv":
        TOLD.to_csv(source, index=False)
    table = TextTable.read(source, **INDEXES)
    assert table.reasoning.to_dict("list") == {
        "user": [3, 4],
        "item": [2, 2],
        "label": [1, 0],
        "text": ["took it for tea", "left it"],
    }
    assert (table.users.to_dict(), table.items.to_dict()) == ({3: "likes tea"}, {1: "x"})
    coverage = table.coverage
    assert (coverage.n_users, coverage.n_items, coverage.n_taken, coverage.n_not_taken) == (1, 1, 1, 1)
    assert coverage.dropped == {
        "text is missing or blank": 1,
        "reasoning: item_id is missing": 1,
        "reasoning: user id not in user_index": 1,
        "reasoning: item id not in item_index": 1,
        "reasoning: user and item have a text already (the first is kept)": 1,
    }
    assert sum(coverage.dropped.values()) + 4 == coverage.n_read
    assert "and the reasoning about 1 positive and 1 negative exemplars" in str(coverage)


def test_whole_numbers_that_gaps_made_floats_are_ids():
    frame = pd.DataFrame({"kind": ["user", "reasoning"], "id": [5, 5], "text": ["x", "y"], "label": [None, 1.0]})
    frame["item_id"] = [np.nan, 8]
    for index in ({8: 2}, {"8": 2}):
        told = TextTable.read(frame, user_index={5: 1}, item_index=index).reasoning
        assert told[["user", "item", "label"]].to_numpy().tolist() == [[1, 2, 1]]
    assert TextTable.read(frame).reasoning["item"].tolist() == [8]


def test_a_table_without_reasoning_has_none_whatever_its_other_columns_hold():
    table = TextTable.read(FRAME.assign(item_id="b", label="liked"), **INDEXES)
    assert table.coverage == TextTable.read(FRAME, **INDEXES).coverage
    assert len(table.reasoning) == 0
    assert "exemplars" not in str(table.coverage)


@pytest.mark.parametrize(
    ("frame", "error", "told"),
    [
        (
            TOLD.drop(columns=["label", "item_id"]),
            TextTableError,
            "item_id, label missing, which say what the 7 reason",
        ),
        (
            TOLD.assign(label=[1, None, 0, 1, 2, 1, 1, 0, None]),
            TextTableError,
            r"row 4 \(counted from 0\): label is 2\.0; for a reasoning write 1",
        ),
        (TOLD.assign(label=None), TextTableError, r"row 0 .*: label is empty \(7 such rows\); for a reasoning"),
        (
            TOLD[TOLD["kind"] == "reasoning"],
            CoverageError,
            "the 2 exemplars with a reasoning could be retrieved.*--kind",
        ),
    ],
)
def test_reasoning_that_cannot_be_used_is_refused(frame, error, told):
    with pytest.raises(error, match=told):
        TextTable.read(frame, **INDEXES)


REASONS = pd.DataFrame(
    [
        ("pattern", "7", "tea, always tea", None, None, None),
        ("reason", "7", "a first guess", "b", 1, None),
        ("reason", "9", "for the hills", "a", 1, 0),
        ("reason", "7", "corrected", "b", 1, 2),
        ("reason", "7", "corrected, and again", "b", 1, 2),
        ("pattern", "7", "tea and kettles", None, None, 1),
        ("reason", "zz", "of nobody", "b", 1, 0),
        ("reason", "9", "  ", "b", 1, 9),
        ("reason", "7", "of nothing", None, 1, 0),
    ],
    columns=["kind", "id", "text", "item_id", "label", "version"],
)


@pytest.mark.parametrize("form", ["frame", ".parquet", ".csv"])
def test_of_patterns_and_reasons_the_latest_version_counts(tmp_path, form):
    frame = REASONS.assign(position=[None, 3, 5, 4, 4, None, 1, 2, 1], reward=[None, 0.5, None, 0.75, 1, None, 0, 0, 0])
    source = frame if form == "frame" else tmp_path / f"texts{form}"
    if form == ".parquet":
        write_parquet(frame.astype({"label": "Int8", "version": "Int16"}), source, {})
    elif form == ".csv":
        frame.to_csv(source, index=False)
    table = TextTable.read(source, **INDEXES)
    assert table.patterns.to_dict() == {3: "tea and kettles"}
    assert table.reasons.drop(columns=["version", "reward"]).to_dict("list") == {
        "user": [4, 3],
        "item": [1, 2],
        "text": ["for the hills", "corrected"],
        "position": [5.0, 4.0],
    }
    assert table.reasons["version"].tolist() == [0.0, 2.0]
    assert np.isnan(table.reasons["reward"][0])
    assert table.reasons["reward"][1] == 0.75
    coverage = table.coverage
    assert (coverage.n_patterns, coverage.n_reasons, coverage.n_users, coverage.n_items) == (1, 2, 0, 0)
    assert "and 1 patterns and 2 reasons" in str(coverage)
    assert coverage.dropped == {
        "text is missing or blank": 1,
        "user has a pattern already (the latest version is kept, of equals the first)": 1,
        "reason: item_id is missing": 1,
        "reason: user id not in user_index": 1,
        "reason: user and item have a text already (the latest version, of equals the first, is kept)": 2,
    }
    assert sum(coverage.dropped.values()) + 3 == coverage.n_read


def test_a_reason_needs_no_label_and_no_numbers():
    plain = TextTable.read(REASONS[["kind", "id", "text", "item_id"]], **INDEXES).reasons
    assert plain["text"].tolist() == ["a first guess", "for the hills"]
    assert plain[["version", "position", "reward"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (REASONS.drop(columns="item_id"), "item_id missing, which say what the 7 reason texts are about"),
        (
            REASONS.assign(label=[None, 1, 0, 1, 1, None, 1, 1, 1]),
            r"row 2 .*: label is 0\.0; reasons are of items that w",
        ),
        (REASONS.assign(version="new"), r"row 0 .*: version is 'new' \(9 such rows\); write numbers"),
    ],
)
def test_reasons_that_cannot_be_used_are_refused(frame, told):
    with pytest.raises(TextTableError, match=told):
        TextTable.read(frame, **INDEXES)


def test_several_tables_are_read_as_one(tmp_path):
    """Ids meet whether one table has numbers and another texts; the first text counts, the faulty table is named."""
    users = pd.DataFrame({"kind": "user", "id": [7, 9], "text": ["likes tea", "likes hills"]})
    write_parquet(users, tmp_path / "users.parquet", {"model": "one"})
    REASONS.to_csv(tmp_path / "reasons.csv", index=False)
    write_parquet(FRAME, tmp_path / "others.parquet", {"model": "two"})
    paths = [tmp_path / name for name in ("users.parquet", "reasons.csv", "others.parquet")]
    table = TextTable.read(paths, **INDEXES)
    assert table.users.to_dict() == {3: "likes tea", 4: "likes hills"}
    assert table.items.to_dict() == {1: "a tent", 2: "a kettle"}
    assert table.reasons["text"].tolist() == ["for the hills", "corrected"]
    assert table.coverage.n_read == len(users) + len(REASONS) + len(FRAME)
    assert table.coverage.dropped["user has a text already (the first is kept)"] == 2
    assert table.origin["model"] == "one, two"
    alone = TextTable.read([tmp_path / "users.parquet"], **INDEXES)
    assert alone.origin["model"] == "one"
    assert "tables" not in alone.origin
    REASONS.assign(label=0).to_csv(tmp_path / "reasons.csv", index=False)
    with pytest.raises(TextTableError, match=r"reasons\.csv, line 3: label is 0"):
        TextTable.read(paths, **INDEXES)
