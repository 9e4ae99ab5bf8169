"""Interactions and features: against naive loops over rows, and every error with its place and remedy."""

import doctest
import gzip
import importlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin.datasets.features import template_rows, training_rows
from sllmr_plugin.datasets.interactions import Interactions, load_interactions
from sllmr_plugin.errors import DataError, IdWarning, ScoreTableError
from sllmr_plugin.scores.table import ScoreTable

CATALOGUE = pd.DataFrame({"item_id": range(12)})


def frame(**columns):
    return pd.DataFrame(columns)


def raw(data: Interactions, split: str) -> list[tuple]:
    """Give a split back in raw ids, in its order."""
    rows = getattr(data, split)
    columns = [data.user_ids[rows["user"] - 1], data.item_ids[rows["item"] - 1]]
    if split == "train":
        columns.append(rows["label"])
    return list(zip(*columns, strict=True))


# --- ids: what the file says is what the id is -----------------------------------------------------------


def clicks(tmp_path, users, items=("a", "b", "c"), name="clicks.csv"):
    path = tmp_path / name
    path.write_text("user_id,item_id\n" + "".join(f"{user},{item}\n" for user in users for item in items))
    return path


@pytest.mark.parametrize(
    "users",
    [
        ["007", "7", "0007", "08"],
        ['"007"', '"7"'],
        ["12e3", "12000", "13e2"],
        ["1_000", "1000", "0x10"],
        ["NA", "null", "None", "nan", "NaN", "n/a"],
        ["True", "False"],
        ["1.50", "1.5"],
        ["7.0", "7"],
        ["-0", "0", "+7"],
        [str(2**70), str(2**70 + 1), "5"],
        [str(2**63), "-1"],
        ["inf", "Infinity"],
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["clicks.csv", "clicks.csv.gz"])
def test_ids_of_csv_are_the_texts_that_stand_there(tmp_path, users, name):
    path = clicks(tmp_path, users)
    if name.endswith("gz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    data = load_interactions(tmp_path / name)
    assert data.user_ids.tolist() == sorted(user.strip('"') for user in users)
    assert len(data.train) == len(users)
    assert not data.dropped


@pytest.mark.parametrize(
    ("users", "dtype"),
    [(["7", "-3"], "int64"), ([str(2**63 + 5), str(2**64 - 1), "1"], "uint64"), (["7.0", "8.0"], "int64")],
    ids=str,
)
def test_ids_of_csv_that_are_all_whole_numbers_are_numbers(tmp_path, users, dtype):
    data = load_interactions(clicks(tmp_path, users))
    assert data.user_ids.dtype == dtype
    assert data.user_ids.tolist() == sorted(int(user.removesuffix(".0")) for user in users)


def test_the_items_of_two_files_have_one_form(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\n7,A\n007,B\n8,C\n9,D\n")
    path = clicks(tmp_path, ["u"], ["7", "8", "9"])  # numbers, were it not for 007 in the other file
    data = load_interactions(path, tmp_path / "items.csv")
    assert data.item_ids.tolist() == ["7", "007", "8", "9"]
    assert data.titles[data.train["item"]].tolist() == ["A"]
    numbers = pd.DataFrame({"user_id": ["u"] * 3, "item_id": [7, 8, 9]})
    with pytest.raises(
        DataError, match=r"items\.csv, line 3: item_id is '007', while the interactions .* has numbers; write"
    ):
        load_interactions(numbers, tmp_path / "items.csv")
    texts = numbers.astype({"item_id": str})
    assert load_interactions(texts, tmp_path / "items.csv").item_ids.tolist() == ["7", "007", "8", "9"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_floats_that_may_stand_for_several_ids_are_refused(dtype):
    first = 2**53 if dtype == "float64" else 2**24
    good = frame(user_id=np.array([first - 1] * 3, dtype=dtype), item_id=list("abc"))
    assert load_interactions(good).user_ids.tolist() == [first - 1]
    bad = frame(user_id=np.array([5, first, first], dtype=dtype), item_id=list("abc"))
    with pytest.raises(DataError, match=r"row 1 \(.*\): user_id is .* \(2 such rows\), a float so large .*dtype=str"):
        load_interactions(bad)


@pytest.mark.parametrize("big", [2**62 + 1, 2**63 + 1, 2**64 - 1, 2**70])
def test_big_numbers_of_tables_stay_what_they_are(tmp_path, big):
    table = frame(user_id=[big] * 3 + [big + 2 if big < 2**64 - 2 else 5] * 3, item_id=list("abc") * 2)
    expected = sorted(table["user_id"].unique().tolist())
    form = str if max(expected) >= 2**64 else int  # no table file holds more than 64 bits as a number
    assert load_interactions(table).user_ids.tolist() == sorted(map(form, expected))
    if form is int:
        table.astype({"user_id": "uint64"}).to_parquet(tmp_path / "clicks.parquet")
        assert load_interactions(tmp_path / "clicks.parquet").user_ids.tolist() == expected


@pytest.mark.parametrize(
    ("users", "says"),
    [
        (["1.23457E+15", "2.5E+15", "x"], r"2 different user_id\(s\) look like what spreadsheets"),
        (["1.2345678901234568e+17"], "for instance '1.2345678901234568e[+]17'"),
        (["123456789012345680.0"], "several ids may have become one"),
        (["ann", "ann ", "bob"], r"1 different user_id\(s\) differ .* in the blanks around them, for instance 'ann '"),
    ],
)
def test_ids_that_something_has_changed_are_kept_and_said(tmp_path, users, says):
    with pytest.warns(IdWarning, match=says):
        data = load_interactions(clicks(tmp_path, users))
    assert data.user_ids.tolist() == sorted(users)


@pytest.mark.parametrize("form", ["csv", "parquet", "frame"])
def test_titles_that_are_numbers_stay_as_they_are(tmp_path, form):
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\na,1984\nb,300\nc,\nd,2012\n")
    items = path
    if form != "csv":
        items = pd.read_csv(path)  # floats, for the gap
    if form == "parquet":
        items.astype({"title": "Int64"}).to_parquet(tmp_path / "items.parquet")
        items = tmp_path / "items.parquet"
    assert load_interactions(clicks(tmp_path, ["u"]), items).titles.tolist() == ["1984", "300", "", "2012"]


def test_recbole_files_are_read_as_they_are(tmp_path):
    rows = "u1 007 1.0 3\nu1 7 0.0 4\nu1 8 1.0 5\nu1 9 1.0 6\n"
    header = "user_id:token item_id:token label:float timestamp:float\n"
    for separator in (" ", "\t"):
        (tmp_path / "my.inter").write_text((header + rows).replace(" ", separator))
        data = load_interactions(tmp_path / "my.inter")
        assert raw(data, "train") == [("u1", "007", 1), ("u1", "7", 0)]
        assert raw(data, "test") == [("u1", "9")]


# --- splits -----------------------------------------------------------------------------------------------


def test_last_is_test_and_the_one_before_is_valid():
    data = load_interactions(
        frame(
            user_id=["a"] * 4 + ["b"] * 2 + ["c"],
            item_id=[5, 6, 7, 8, 5, 6, 7],
            position=[3, 2, 1, 0, 0, 1, 0],
        )
    )
    assert raw(data, "train") == [("a", 8, 1), ("a", 7, 1), ("b", 5, 1), ("c", 7, 1)]
    assert raw(data, "valid") == [("a", 6)]
    assert raw(data, "test") == [("a", 5), ("b", 6)]
    assert data.popularity.tolist() == [0, 1, 0, 2, 1]  # items 5, 6, 7, 8 after the padding
    assert data.history_length.tolist() == [0, 2, 1, 1]
    assert (data.n_users, data.n_items, data.has_negatives, data.dropped) == (3, 4, False, {})


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("position", [2.5, 0, 1]),
        ("timestamp", [1700000000, 1500000000, 1600000000]),
        ("timestamp", ["2021-05-01", "2019-12-31T10:00:00", "2020-01-01"]),
        ("timestamp", pd.to_datetime(["2021-05-01", "2019-12-31", "2020-01-01"])),
    ],
)
def test_order_within_a_user(column, values):
    data = load_interactions(frame(user_id=[1, 1, 1], item_id=[30, 10, 20], **{column: values}))
    assert [raw(data, split)[0][1] for split in ("train", "valid", "test")] == [10, 20, 30]


def test_file_order_counts_without_position_and_timestamp():
    data = load_interactions(frame(user_id=[2, 1, 2, 1, 2], item_id=[9, 9, 8, 7, 5]))
    assert raw(data, "train") == [(1, 9, 1), (2, 9, 1)]
    assert raw(data, "test") == [(1, 7), (2, 5)]


def test_given_split_is_kept_and_may_hold_out_cold_users():
    data = load_interactions(
        frame(user_id=[1, 1, 2], item_id=[1, 2, 1], split=["train", "test", "valid"]), items=CATALOGUE
    )
    assert (raw(data, "train"), raw(data, "valid"), raw(data, "test")) == ([(1, 1, 1)], [(2, 1)], [(1, 2)])
    assert data.history_length.tolist() == [0, 1, 0]
    assert data.n_items == 12


def test_repeats_keep_the_earliest_split_and_there_the_positive():
    data = load_interactions(
        frame(
            user_id=[1, 1, 1, 1, 1, 1, 1],
            item_id=[4, 4, 5, 5, 6, 7, 8],
            label=[0, 1, 1, 1, 0, 0, 0],
            split=["train", "train", "test", "valid", "test", "train", "valid"],
        )
    )
    assert raw(data, "train") == [(1, 4, 1), (1, 7, 0)]
    assert (raw(data, "valid"), raw(data, "test")) == ([(1, 5)], [])
    assert raw(data, "test_negatives") == [(1, 6)]
    assert data.dropped == {"repeated interactions": 2, "negatives in valid": 1}
    assert data.has_negatives


interaction_frames = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 6), st.integers(0, 5), st.booleans()), min_size=1, max_size=30
).map(lambda rows: pd.DataFrame(rows, columns=["user_id", "item_id", "position", "label"]))


def split_naively(table: pd.DataFrame) -> tuple[dict[str, list[tuple]], dict[str, int]]:
    """Apply the rules of the docstring user by user and row by row."""
    splits, repeats, late = {"train": [], "valid": [], "test": []}, 0, 0
    for user in sorted(set(table["user_id"])):
        rows = [r for r in table.itertuples() if r.user_id == user]
        rows.sort(key=lambda r: (r.position, r.Index))
        kept = []
        for r in rows:
            same = [o for o in rows if o.item_id == r.item_id]
            best = next((o for o in same if o.label), same[0])
            kept += [r] if best is r else []
        repeats += len(rows) - len(kept)
        positives = [r for r in kept if r.label]
        held = {}
        if len(positives) >= 2:
            held[positives[-1].Index] = "test"
        if len(positives) >= 3:
            held[positives[-2].Index] = "valid"
        future = False
        for r in kept:
            if r.Index in held:
                splits[held[r.Index]].append((user, r.item_id))
                future = True
            elif future and not r.label:
                late += 1
            else:
                splits["train"].append((user, r.item_id, int(r.label)))
    counts = {"repeated interactions": repeats, "negatives after the user's first held-out positive": late}
    return splits, {reason: count for reason, count in counts.items() if count}


@given(interaction_frames)
@settings(max_examples=150, deadline=None)
def test_splits_equal_a_naive_loop(table):
    expected, dropped = split_naively(table)
    if not any(label for _, _, label in expected["train"]):
        with pytest.raises(DataError, match="no positive to train on"):
            load_interactions(table)
        return
    data = load_interactions(table)
    assert {split: raw(data, split) for split in expected} == expected
    assert data.dropped == dropped
    assert data.has_negatives == any(label == 0 for _, _, label in expected["train"])


# --- encoding and files -----------------------------------------------------------------------------------


def test_codes_are_positions_plus_one():
    items = frame(item_id=["z", "x", "y"], title=["Zebra", None, "Yak"], price=[1, 2, 3])
    data = load_interactions(frame(user_id=[30, 7, 7], item_id=["x", "y", "x"], split=["train"] * 3), items=items)
    assert data.user_ids.tolist() == [7, 30]
    assert data.item_ids.tolist() == ["z", "x", "y"]
    assert data.user_index.to_dict() == {7: 1, 30: 2}
    assert data.item_index.to_dict() == {"z": 1, "x": 2, "y": 3}
    assert data.titles.to_dict() == {1: "Zebra", 2: "", 3: "Yak"}
    assert data.train.to_numpy().tolist() == [[1, 3, 1], [1, 2, 1], [2, 2, 1]]
    assert data.train.dtypes.astype(str).tolist() == ["int64", "int64", "int8"]
    assert data.popularity.tolist() == [0, 0, 2, 1]


def test_another_column_can_stand_for_titles():
    interactions = frame(user_id=["u"] * 3, item_id=["x", "y", "x"])
    items = frame(item_id=["x", "y"], title=["Xylophone", "Yak"], attributes=["a1 a2", None])
    assert load_interactions(interactions, items, titles_from="attributes").titles.to_dict() == {1: "a1 a2", 2: ""}
    with pytest.raises(DataError, match="brand"):
        load_interactions(interactions, items, titles_from="brand")


def test_every_kind_of_file_reads_the_same(tmp_path):
    table = frame(user_id=["ü1", "ü1", "NA"], item_id=[3, 4, 3], split=["train", "test", "train"])
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_csv(tmp_path / "b.csv.gz", index=False)
    table.to_parquet(tmp_path / "c.parquet")
    (tmp_path / "bom.csv").write_text("\ufeff" + (tmp_path / "a.csv").read_text("utf-8") + "\n\n", "utf-8")
    sources = [tmp_path / name for name in ("a.csv", "b.csv.gz", "c.parquet", "bom.csv")]
    for source in [*sources, str(sources[0]), table.set_index(pd.Index([9, 9, 9]))]:
        data = load_interactions(source)
        assert raw(data, "train") == [("NA", 3, 1), ("ü1", 3, 1)]
        assert raw(data, "test") == [("ü1", 4)]


@pytest.mark.parametrize(
    "ids",
    [
        pd.Series([1.0, 2.0, 1.0]),
        pd.Series([1, 2, 1], dtype="Int64"),
        pd.Series([1, 2, 1], dtype="uint8"),
        pd.Series([1, 2, 1], dtype="category"),
        pd.Series([1, 2, 1], dtype=object),
    ],
)
def test_whole_numbers_of_any_type_are_the_same_ids(ids):
    data = load_interactions(frame(user_id=ids, item_id=[1, 1, 2], split=["train"] * 3))
    assert data.user_index.to_dict() == {1: 1, 2: 2}
    assert data.user_ids.dtype == np.int64


# --- errors -----------------------------------------------------------------------------------------------

GOOD = "user_id,item_id,label,split\n1,5,1,train\n1,6,0,train\n2,5,1,test\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"f\.csv is empty; write the column names"),
        ("user_id,item_id\n", r"f\.csv holds no row; give interactions"),
        ("user;item_id\n1;2\n", r"f\.csv has no column 'user_id' and no column 'item_id' among .*commas"),
        (GOOD.replace("2,5,1", ",5,1"), r"f\.csv, line 4: user_id is empty; fill it in or delete"),
        (
            GOOD.replace(",6,", ",,").replace(",5,1,test", ",,1,test"),
            r"line 3: item_id is empty \(2 such rows\)",
        ),
        (GOOD + "\n3,5,1,train\n", r"f\.csv, line 5: user_id is empty"),
        (GOOD.replace("test", "val"), r"f\.csv, line 4: split is 'val'; write train, valid or test"),
        (GOOD.replace("test", ""), r"f\.csv, line 4: split is empty; write train"),
        (GOOD.replace("6,0", "6,4"), r"f\.csv, line 3: label is 4; write 1 .* ratings"),
        (GOOD.replace("6,0", "6,yes"), r"f\.csv, line 3: label is 'yes'; write 1"),
        (GOOD.replace("train", "test"), r"f\.csv leaves no positive to train on; .*split column"),
        ("user_id,item_id,position\n1,2,0\n1,3,x\n", r"f\.csv, line 3: position is 'x'; write a number$"),
        ("user_id,item_id,timestamp\n1,2,2020-01-01\n1,3,soon\n", r"timestamp is 'soon'; .* or an ISO date$"),
        (
            "user_id,item_id\n1,2\n1,2,3,4\n",
            r"f\.csv cannot be read \(.* in line 3, saw 4\); repair the file",
        ),
        (
            "user_id,item_id\n1,2,3\n1,2,3\n",
            r"f\.csv cannot be read \(line 2 has more fields .*; repair the file",
        ),
        ('user_id,item_id,note,split\n1,2,"a\nb",train\n1,3,c,no\n', r"f\.csv, line 4: split is 'no'"),
    ],
)
def test_errors_name_line_and_remedy(tmp_path, text, message):
    path = tmp_path / "f.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_interactions(path)


def test_rows_of_a_frame_are_counted_from_0():
    with pytest.raises(DataError, match=r"the interactions DataFrame, row 1 \(counted from 0\): label is 2;"):
        load_interactions(frame(user_id=[1, 1], item_id=[1, 2], label=[1, 2]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": ["a", 1], "item_id": [1, 2]}, "'user_id' holds mixed-integer values; make all ids"),
        ({"user_id": [True, False], "item_id": [1, 2]}, "'user_id' holds boolean values; make all ids"),
        ({"user_id": [1, 2], "item_id": pd.to_datetime(["2020", "2021"])}, "'item_id' holds datetime"),
    ],
)
def test_ids_of_other_types(columns, message):
    with pytest.raises(DataError, match=message):
        load_interactions(frame(**columns))


DOUBLED = {
    "f.csv": "user_id,item_id,label,item_id\n1,2,1,4\n",
    "g.csv": '"user_id",item_id,"an, a","an, a"\n1,2,x,y\n',  # quoted, and of no use here
    "h.inter": "user_id:token\titem_id:token\titem_id:float\n1\t2\t3\n",
}


@pytest.mark.parametrize(("name", "column"), [("f.csv", "item_id"), ("g.csv", "an, a"), ("h.inter", "item_id")])
def test_a_column_that_a_file_has_twice_is_named(tmp_path, name, column):
    (tmp_path / name).write_text(DOUBLED[name])
    with pytest.raises(DataError, match=rf"{name} has the column '{column}' more than once; keep one"):
        load_interactions(tmp_path / name)


def test_a_column_that_a_frame_or_a_parquet_file_has_twice_is_named(tmp_path):
    table = pd.DataFrame([[1, 2, 3]], columns=["user_id", "item_id", "item_id"])
    with pytest.raises(DataError, match="'item_id' more than once; keep one"):
        load_interactions(table)
    doubled = pa.table([[1], [2], [0.5], [0.7]], names=["user_id", "item_id", "score", "score"])
    pq.write_table(doubled, tmp_path / "s.pq")
    with pytest.raises(ScoreTableError, match=r"s\.pq .*'score' more than once"):
        ScoreTable.read(tmp_path / "s.pq")
    with pytest.raises(ScoreTableError, match=r"s\.pq has the column 'score' more than once"):
        ScoreTable.build(tmp_path, tmp_path / "table")
    scores = pd.DataFrame([[1, 2, 0.5, "x", "y"]], columns=["user_id", "item_id", "score", "note", "note"])
    with pytest.raises(ScoreTableError, match="scores DataFrame has the column 'note' more than once"):
        ScoreTable.read(scores)


def test_a_column_named_like_what_pandas_makes_of_a_second_one_is_kept(tmp_path):
    (tmp_path / "f.csv").write_text("user_id,item_id,item_id.1\n1,2,x\n1,3,y\n1,4,z\n")
    assert load_interactions(tmp_path / "f.csv").item_ids.tolist() == [2, 3, 4]


def test_columns_without_a_name_are_no_second_ones(tmp_path):
    (tmp_path / "f.csv").write_text(",user_id,item_id,\n0,1,2,\n1,1,3,\n2,1,4,\n")
    assert load_interactions(tmp_path / "f.csv").item_ids.tolist() == [2, 3, 4]


def test_unreadable_files(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: no such file; give the path"):
        load_interactions(tmp_path / "none.csv")
    (tmp_path / "f.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"f\.xlsx is of an unknown kind; give the interactions as \.csv"):
        load_interactions(tmp_path / "f.xlsx")
    (tmp_path / "f.parquet").write_bytes(b"user_id,item_id")
    with pytest.raises(DataError, match=r"f\.parquet cannot be read .*write it again"):
        load_interactions(tmp_path / "f.parquet")
    (tmp_path / "f.csv.gz").write_bytes(gzip.compress(GOOD.encode())[:-12])
    with pytest.raises(DataError, match=r"f\.csv\.gz cannot be read .*write it again"):
        load_interactions(tmp_path / "f.csv.gz")
    (tmp_path / "f.csv").write_bytes("user_id,item_id\nJosé,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"f\.csv is not UTF-8 text .*; save it as UTF-8"):
        load_interactions(tmp_path / "f.csv")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            frame(item_id=[5, 7]),
            r"row 1 \(counted from 0\): item_id is 6, which is not among the items; add it",
        ),
        (frame(item_id=[5, 6, 5]), r"items DataFrame, row 2 .*: item_id is 5, which is in a row above"),
        (
            frame(item_id=["5", "6"]),
            "items DataFrame has text as item_id, while the interactions .* has numbers",
        ),
        (frame(item=[5, 6]), "items DataFrame has no column 'item_id'"),
        (frame(item_id=[]), "items DataFrame holds no row"),
    ],
)
def test_items_that_do_not_fit(items, message):
    with pytest.raises(DataError, match=message):
        load_interactions(frame(user_id=[1, 1], item_id=[5, 6]), items=items)


# --- features ---------------------------------------------------------------------------------------------


def padded(history: list[int], length: int) -> list[int]:
    last = history[-length:]
    return last + [0] * (length - len(last))


@given(interaction_frames, st.integers(0, 3), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_training_rows_equal_a_naive_loop(table, negatives, length):
    try:
        data = load_interactions(table, items=CATALOGUE)
    except DataError:
        return
    x, y = training_rows(data, negatives=negatives, history_length=length, seed=3)
    expected, histories = [], {}
    for user, item, label in data.train.itertuples(index=False):
        history = histories.setdefault(user, [])
        row = (user, padded(history, length), min(len(history), length))
        expected.append((*row, item, label))
        if not data.has_negatives:
            expected += [(*row, None, 0)] * negatives
        if label:
            history.append(item)
    columns = (x["user_id"], x["hist_item_id"].tolist(), x["seq_length"], x["item_id"], y)
    found = list(zip(*columns, strict=True))
    assert [row[:3] + row[4:] for row in found] == [row[:3] + row[4:] for row in expected]
    seen = {tuple(pair) for pair in pd.concat([data.train[["user", "item"]], data.valid]).to_numpy().tolist()}
    for (user, _, _, item, _), (_, _, _, known, _) in zip(found, expected, strict=True):
        if known is None:
            assert 1 <= item <= data.n_items
            assert (user, item) not in seen
        else:
            assert item == known
    assert x["hist_item_id"].shape == (len(y), length)
    assert {values.dtype for values in x.values()} == {np.dtype("int32")}
    assert y.dtype == np.float32


@given(interaction_frames, st.integers(1, 4), st.sampled_from(["valid", "test"]))
@settings(max_examples=100, deadline=None)
def test_template_rows_equal_a_naive_loop(table, length, split):
    try:
        data = load_interactions(table)
    except DataError:
        return
    users = [data.n_users, 0, *range(1, data.n_users + 1)]
    rows = template_rows(data, users, split=split, history_length=length)
    for place, user in enumerate(users):
        history = [i for u, i, label in data.train.itertuples(index=False) if u == user and label]
        if split == "test":
            history += [i for u, i in data.valid.itertuples(index=False) if u == user]
        assert rows["user_id"][place] == user
        assert rows["item_id"][place] == 0
        assert rows["hist_item_id"][place].tolist() == padded(history, length)
        assert rows["seq_length"][place] == min(len(history), length)


def test_negatives_are_uniform_over_the_unseen_items():
    # User 1 has 2 and 5 in training and 7 in validation; 3, in test, is unseen as far as training knows.
    data = load_interactions(
        frame(
            user_id=[1, 1, 1, 1, 2],
            item_id=[2, 5, 7, 3, 1],
            split=["train", "train", "valid", "test", "train"],
        ),
        items=frame(item_id=[1, 2, 3, 4, 5, 6, 7, 8]),
    )
    n = 10_000
    x, y = training_rows(data, negatives=n, seed=1)
    drawn = np.bincount(x["item_id"][(x["user_id"] == 1) & (y == 0)], minlength=9)
    assert drawn[[0, 2, 5, 7]].tolist() == [0, 0, 0, 0]
    share, draws = 1 / 5, 2 * n
    five_sigma = 5 * np.sqrt(draws * share * (1 - share))
    assert np.abs(drawn[[1, 3, 4, 6, 8]] - draws * share).max() < five_sigma


def test_the_seed_decides_the_negatives():
    data = load_interactions(frame(user_id=np.repeat(np.arange(40), 3), item_id=np.tile([1, 2, 3], 40)), CATALOGUE)
    first, again, other = (training_rows(data, seed=seed)[0]["item_id"].tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_arguments_out_of_range():
    data = load_interactions(frame(user_id=["ann"] * 4, item_id=[1, 2, 3, 4], split=["train"] * 4))
    with pytest.raises(DataError, match="user 'ann' has interacted with all 4 items.*negatives=0"):
        training_rows(data)
    assert training_rows(data, negatives=0)[1].tolist() == [1, 1, 1, 1]
    with pytest.raises(DataError, match="negatives is -1; ask for 0 or more"):
        training_rows(data, negatives=-1)
    with pytest.raises(DataError, match="history_length is 0; keep at least 1"):
        training_rows(data, history_length=0)
    with pytest.raises(DataError, match="split is 'train'; rank 'valid' or 'test'"):
        template_rows(data, [1], split="train")
    with pytest.raises(DataError, match=r"user code 2 is not in 0 \.\. 1; look codes up"):
        template_rows(data, [1, 2], split="test")


@pytest.mark.parametrize("module", ["interactions", "features", "demo"])
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(f"sllmr_plugin.datasets.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
