"""`ScoreTable`: what is read, kept, dropped and refused, against plain loops and dictionaries."""

from __future__ import annotations

import copy
import gzip
import pickle
import re

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import LabelEncoder

from sllmr_plugin.errors import CoverageError, ScoreTableError, SLLMRError
from sllmr_plugin.scores.table import ScoreTable, UserScores

NO_ID = "user_id or item_id is missing"
NO_SCORE = "score is missing"
UNKNOWN_USER = "user_id not in user_index"
UNKNOWN_ITEM = "item_id not in item_index"
SEEN = "pair seen before (the first is kept, a probe before a candidate)"


def frame(*rows, columns=("user_id", "item_id", "score", "kind")):
    return pd.DataFrame(list(rows), columns=list(columns)[: len(rows[0])])


def as_dict(group):
    """Read the compressed rows back, one user after the other."""
    result = {}
    for number, user in enumerate(group.users.tolist()):
        for entry in range(int(group.offsets[number]), int(group.offsets[number + 1])):
            result[user, int(group.items[entry])] = float(group.scores[entry])
    return result


def grouped(pairs):
    """Compress a dict of (user, item) -> score."""
    users, items = (np.array([key[k] for key in pairs], dtype=np.int64) for k in (0, 1))
    return UserScores.from_arrays(users, items, np.array(list(pairs.values()), dtype=np.float32))


EIGHTHS = st.integers(0, 8).map(lambda k: k / 8)  # exact in float32
PAIRS = st.dictionaries(st.tuples(st.integers(0, 9), st.integers(0, 9)), EIGHTHS, max_size=30)


# ---------------------------------------------------------------------- compressed rows


@given(PAIRS)
@settings(max_examples=80, deadline=None)
def test_compressed_rows_hold_the_pairs_sorted(pairs):
    group = grouped(pairs)
    assert as_dict(group) == pairs
    assert list(as_dict(group)) == sorted(pairs)
    assert len(group) == len(pairs)
    assert group.counts.tolist() == [sum(key[0] == user for key in pairs) for user in sorted({k[0] for k in pairs})]
    assert [group.users[k].item() for k in group.user_of_entry] == [key[0] for key in sorted(pairs)]


@given(PAIRS, st.lists(st.tuples(st.integers(-2, 12), st.integers(-12, 22)), max_size=40))
@settings(max_examples=80, deadline=None)
def test_locate_agrees_with_a_dictionary(pairs, asked):
    group = grouped(pairs)
    asked = asked + list(pairs)
    users, items = (torch.tensor([pair[k] for pair in asked], dtype=torch.int64) for k in (0, 1))
    entry, found = group.locate(users, items)
    assert found.tolist() == [pair in pairs for pair in asked]
    for pair, number, hit in zip(asked, entry.tolist(), found.tolist(), strict=True):
        if hit:
            assert group.scores[number].item() == pairs[pair]
            assert group.items[number].item() == pair[1]


def test_locate_finds_codes_of_hashed_ids():
    pairs = {(2**40, 2**31): 0.5, (2**40, 3): 0.25, (2**40 + 1, 2**31): 0.75}
    group = grouped(pairs)
    users, items = torch.tensor(sorted(pairs)).T.contiguous()
    entry, found = group.locate(users, items)
    assert found.all()
    assert group.scores[entry].tolist() == [pairs[key] for key in sorted(pairs)]


@given(PAIRS, st.data())
@settings(max_examples=80, deadline=None)
def test_a_block_holds_all_entries_of_its_users(pairs, data):
    group = grouped(pairs)
    some = data.draw(st.lists(st.integers(0, len(group.users) - 1), max_size=5)) if pairs else []
    entry, valid = group.block(torch.tensor(some, dtype=torch.int64))
    assert entry.shape == valid.shape
    assert entry.shape[0] == len(some)
    for number, cells, good in zip(some, entry, valid, strict=True):
        user = group.users[number].item()
        assert group.items[cells[good]].tolist() == sorted(key[1] for key in pairs if key[0] == user)
        assert ((cells >= group.offsets[number]) & (cells < group.offsets[number + 1])).all()  # padding too
    if some:
        assert entry.shape[1] == valid.sum(dim=1).max()


@given(PAIRS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_select_keeps_the_marked_entries(pairs, random):
    kept = {key: score for key, score in pairs.items() if random.random() < 0.5}
    group = grouped(pairs)
    selected = group.select(torch.tensor([key in kept for key in sorted(pairs)], dtype=torch.bool))
    assert as_dict(selected) == kept
    assert selected.users.tolist() == sorted({key[0] for key in kept})


# ---------------------------------------------------------------------- reading


USER_CODES = {"ann": 3, "bob": 0, "eve": 7}
ITEM_CODES = {"x": 5, "y": 1, "z": 2}
ROWS = st.lists(
    st.tuples(
        st.sampled_from([*USER_CODES, "nobody", None]),
        st.sampled_from([*ITEM_CODES, "nothing", None]),
        st.sampled_from([0.0, 0.25, 0.5, 1.0, None]),
        st.sampled_from(["candidate", "candidate", "probe"]),
    ),
    min_size=1,
    max_size=25,
)


def read_by_hand(rows):
    """Apply the documented rules row by row: candidates, probes and reasons of drops."""
    dropped = dict.fromkeys([NO_ID, NO_SCORE, UNKNOWN_USER, UNKNOWN_ITEM, SEEN], 0)
    left = []
    for user, item, score, kind in rows:
        if user is None or item is None:
            dropped[NO_ID] += 1
        elif score is None:
            dropped[NO_SCORE] += 1
        elif user not in USER_CODES:
            dropped[UNKNOWN_USER] += 1
        elif item not in ITEM_CODES:
            dropped[UNKNOWN_ITEM] += 1
        else:
            left.append((USER_CODES[user], ITEM_CODES[item], score, kind))
    kept = {"candidate": {}, "probe": {}}
    for wanted in ("probe", "candidate"):
        for user, item, score, kind in left:
            if kind != wanted:
                continue
            if (user, item) in kept["probe"] or (user, item) in kept["candidate"]:
                dropped[SEEN] += 1
            else:
                kept[kind][user, item] = score
    return kept["candidate"], kept["probe"], {reason: n for reason, n in dropped.items() if n}


@given(ROWS)
@settings(max_examples=80, deadline=None)
def test_reading_agrees_with_a_loop_over_the_rows(rows):
    candidates, probes, dropped = read_by_hand(rows)
    if not candidates:
        with pytest.raises(CoverageError):
            ScoreTable.read(frame(*rows), user_index=USER_CODES, item_index=ITEM_CODES)
        return
    table = ScoreTable.read(frame(*rows), user_index=USER_CODES, item_index=ITEM_CODES)
    assert as_dict(table.candidates) == candidates
    assert as_dict(table.probes) == probes
    coverage = table.coverage
    assert coverage.dropped == dropped
    assert coverage.n_read == len(rows) == len(candidates) + len(probes) + sum(dropped.values())
    assert (coverage.n_candidates, coverage.n_probes) == (len(candidates), len(probes))
    assert coverage.n_users == len({user for user, _ in candidates})
    assert coverage.n_items == len({item for _, item in candidates})
    assert coverage.n_probe_users == len({user for user, _ in probes})
    assert coverage.kept_share == pytest.approx((len(candidates) + len(probes)) / len(rows))
    assert all(f"dropped {n}: {reason}" in str(coverage) for reason, n in dropped.items())


SMALL = frame(("ann", "x", 0.5), ("ann", "y", 0.25), ("bob", "x", 1.0))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".pq", ".CSV", ".Parquet"])
def test_files_give_what_the_frame_gives(tmp_path, suffix):
    path = tmp_path / f"scores.v1{suffix}"
    if "csv" in suffix.lower():
        SMALL.to_csv(path, index=False)
    else:
        SMALL.to_parquet(path, engine="pyarrow")
    for given_path in (path, str(path)):
        table = ScoreTable.read(given_path, user_index=USER_CODES, item_index=ITEM_CODES)
        assert as_dict(table.candidates) == {(3, 5): 0.5, (3, 1): 0.25, (0, 5): 1.0}
        assert len(table.probes) == 0


def test_indexes_may_be_a_dict_a_series_or_an_encoder():
    encoder = LabelEncoder().fit(["ann", "bob", "eve"])
    as_codes = {"ann": 0, "bob": 1, "eve": 2}
    tables = [
        ScoreTable.read(SMALL, user_index=index, item_index=ITEM_CODES)
        for index in (as_codes, pd.Series(as_codes), encoder)
    ]
    assert [as_dict(table.candidates) for table in tables] == [{(0, 5): 0.5, (0, 1): 0.25, (1, 5): 1.0}] * 3


def test_codes_need_no_index_and_gaps_in_them_are_dropped():
    table = ScoreTable.read(frame((4, 2, 0.5), (None, 3, 0.5), (4, 1, 0.75), (-1, 1, 0.5)))  # a float column
    assert as_dict(table.candidates) == {(4, 2): 0.5, (4, 1): 0.75}
    assert table.coverage.dropped == {NO_ID: 1, "user_id is negative": 1}


@pytest.mark.parametrize("backend", ["numpy_nullable", "pyarrow"])
def test_nullable_columns_are_read(backend):
    rows = (
        ("ann", 1, 0.5, "candidate"),
        ("ann", 2, None, "probe"),
        (None, 3, 0.5, "candidate"),
        ("bob", None, 1.0, "probe"),
    )
    table = ScoreTable.read(
        frame(*rows, ("bob", 4, 0.25, "probe")).convert_dtypes(dtype_backend=backend), user_index=USER_CODES
    )
    assert as_dict(table.candidates) == {(3, 1): 0.5}
    assert as_dict(table.probes) == {(0, 4): 0.25}
    assert table.coverage.dropped == {NO_ID: 2, NO_SCORE: 1}


def test_numbers_written_as_text_and_other_columns_are_fine():
    rows = pd.DataFrame({"prompt": ["p", "q"], "score": ["0.5", "1"], "item_id": [1, 2], "user_id": [3, 3]})
    assert as_dict(ScoreTable.read(rows).candidates) == {(3, 1): 0.5, (3, 2): 1.0}


def test_a_frame_keeps_its_index_and_values():
    rows = SMALL.set_index(pd.Index([9, 9, 9]))
    before = rows.copy()
    ScoreTable.read(rows, user_index=USER_CODES, item_index=ITEM_CODES)
    pd.testing.assert_frame_equal(rows, before)


def test_a_probe_wins_over_a_candidate_of_the_same_pair():
    table = ScoreTable.read(frame((1, 1, 0.25, "candidate"), (1, 1, 0.75, "probe"), (1, 2, 0.5, "candidate")))
    assert as_dict(table.probes) == {(1, 1): 0.75}
    assert as_dict(table.candidates) == {(1, 2): 0.5}
    assert table.coverage.dropped == {SEEN: 1}


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            pd.DataFrame({"user_id": [1], "item": [2]}),
            r"no column 'item_id' and no column 'score' among .*; rename",
        ),
        (pd.DataFrame(), "holds no row; give scores"),
        (frame((1, 1, 0.5)).head(0), "holds no row; give scores"),
        (
            frame((1, 1, 0.5), (1, 2, 1.5), (1, 3, -1)),
            r"row 1 \(counted from 0\): score is 1\.5 \(2 such rows\); rescale",
        ),
        (
            frame((1, 1, 0.5), (1, 2, np.inf)),
            r"row 1 \(counted from 0\): score is inf; rescale",
        ),
        (frame((1, 1, -np.inf), (1, 2, 0.5)), r"row 0 \(counted from 0\): score is -inf; rescale"),
        (
            frame((1, 1, 0.5), (1, 2, "high")),
            r"row 1 \(counted from 0\): score is 'high'; write scores",
        ),
        (
            frame((1, 1, 0.5, "candidate"), (1, 2, 0.5, "prob")),
            r"row 1 \(counted from 0\): kind is 'prob'; write candidate",
        ),
        (
            frame((1, 1, 0.5, "candidate"), (1, 2, 0.5, None)),
            r"row 1 \(counted from 0\): kind is empty; write candidate",
        ),
        (frame(("a", 1, 0.5)), r"user_id holds 'a'.*Pass user_index="),
        (frame((1, "a", 0.5)), r"item_id holds 'a'.*Pass item_index="),
        (frame((1, 1, 0.5), (1.5, 1, 0.5)), r"user_id holds .*1\.5.*not an integer code"),
    ],
)
def test_what_cannot_be_meant_is_refused(rows, problem):
    with pytest.raises(ScoreTableError, match="(?s)" + problem):
        ScoreTable.read(rows)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (frame((1, 1, None), (None, 1, 0.5)), "every row lacks an id or a score. Check"),
        (frame((1, 1, 0.5, "probe")), "only probes. Probes never train; score candidates as well"),
        (frame((1, 1, 0.5, "probe"), (1, 1, 0.5, "candidate")), "only probes"),
        (frame((-1, 1, 0.5)), "none of its 1 pairs can be mapped"),
    ],
)
def test_tables_that_leave_nothing_to_train_on_are_refused(rows, problem):
    with pytest.raises(CoverageError, match=re.escape(problem)):
        ScoreTable.read(rows)


def test_ids_of_another_type_cover_nothing_and_the_error_shows_both():
    rows = frame((1, 10, 0.5), (2, 11, 0.5))
    with pytest.raises(CoverageError, match=r"user_id 1 \(int\) in the table, '1' \(str\) in the index.*same type"):
        ScoreTable.read(rows, user_index={"1": 0, "2": 1}, item_index={10: 0})
    with pytest.raises(CoverageError, match="none of its 2 pairs"):
        ScoreTable.read(rows, user_index={})


def test_names_such_as_none_are_ids_of_a_file_and_missing_scores_are_missing(tmp_path):
    (tmp_path / "scores.csv").write_text("user_id,item_id,score\nNA,null,0.5\nNone,nan,0.25\nNA,nan,NA\n,nan,0.75\n")
    table = ScoreTable.read(tmp_path / "scores.csv", user_index={"NA": 0, "None": 1}, item_index={"null": 0, "nan": 1})
    assert as_dict(table.candidates) == {(0, 0): 0.5, (1, 1): 0.25}
    assert table.coverage.dropped == {NO_ID: 1, "score is missing": 1}


def test_scores_in_csv_are_those_of_the_users_whose_ids_are_written_so(tmp_path):
    (tmp_path / "scores.csv").write_text("user_id,item_id,score\n007,1,0.5\n7,1,0.25\n1e1,2,0.75\n10,2,1\n")
    texts = ScoreTable.read(tmp_path / "scores.csv", user_index={"007": 0, "7": 1, "1e1": 2, "10": 3})
    assert as_dict(texts.candidates) == {(0, 1): 0.5, (1, 1): 0.25, (2, 2): 0.75, (3, 2): 1.0}
    numbers = ScoreTable.read(tmp_path / "scores.csv", user_index={7: 1, 10: 3})
    assert as_dict(numbers.candidates) == {(1, 1): 0.25, (3, 2): 1.0}
    assert numbers.coverage.dropped == {"user_id not in user_index": 2}


def test_float_ids_from_2_to_the_53_are_refused_by_row():
    one, other = 123456789012345677, 123456789012345678
    rows = pd.DataFrame({"user_id": np.array([7, other], dtype="float64"), "item_id": [0, 1], "score": [0.1, 0.5]})
    with pytest.raises(ScoreTableError, match=r"row 1 \(counted from 0\): user_id is 1\.23.*e\+17, a float so large"):
        ScoreTable.read(rows, user_index={one: 0})


def test_big_numbers_beside_a_missing_one_in_parquet_are_not_rounded(tmp_path):
    one, other = 2**60 + 1, 2**60 + 2
    rows = pyarrow.table({"user_id": [one, other, None], "item_id": [0, 0, 0], "score": [0.25, 0.5, 0.75]})
    pyarrow.parquet.write_table(rows, tmp_path / "scores.parquet")
    table = ScoreTable.read(tmp_path / "scores.parquet", user_index={one: 3, other: 4})
    assert as_dict(table.candidates) == {(3, 0): 0.25, (4, 0): 0.5}
    built = ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "out", user_index={one: 3, other: 4})
    assert as_dict(built.candidates) == {(3, 0): 0.25, (4, 0): 0.5}


def test_ids_that_only_blanks_keep_out_are_counted_apart():
    rows = frame(("ann", 0, 0.5), ("ann ", 1, 0.25), (" bob", 1, 1.0), ("eve ", 1, 1.0))
    coverage = ScoreTable.read(rows, user_index={"ann": 0, "bob": 1}).coverage
    reason = "user_id not in user_index"
    assert coverage.dropped == {f"{reason}, except for the blanks around it": 2, reason: 1}


FILES = {
    "absent.parquet": (None, ": no such file; give the path"),
    "empty.csv": (b"", " is empty; write the column names"),
    "headers.csv": (b"user_id,item_id,score\n", " holds no row; give scores"),
    "text.parquet": (b"user_id", " cannot be read ("),
    "text.csv.gz": (b"user_id", " cannot be read ("),
    "cut.csv.gz": (gzip.compress(b"user_id,item_id,score\n" + b"1,2,0.5\n" * 5000)[:-20], " cannot be read ("),
    "latin.csv": ("user_id,item_id,score\né,1,0.5\n".encode("latin-1"), " is not UTF-8 text"),
    "scores.json": (b"{}", " is of an unknown kind; give the scores as .csv, .csv.gz or .parquet"),
    "scores": (b"{}", " is of an unknown kind"),
    "outside.csv": (b"user_id,item_id,score\n1,2,3\n", ", line 2: score is 3; rescale"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_table_are_refused_by_name(tmp_path, name):
    content, problem = FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ScoreTableError, match=re.escape(name + problem)) as caught:
        ScoreTable.read(tmp_path / name)
    assert isinstance(caught.value, SLLMRError)


# ---------------------------------------------------------------------- within, copies


@given(PAIRS.filter(bool), st.integers(0, 10), st.integers(0, 10))
@settings(max_examples=50, deadline=None)
def test_within_drops_and_counts_codes_outside_the_vocabulary(pairs, n_users, n_items):
    table = ScoreTable.read(frame(*((user, item, score) for (user, item), score in pairs.items())))
    inside = {key: score for key, score in pairs.items() if key[0] < n_users and key[1] < n_items}
    if not inside:
        with pytest.raises(CoverageError, match=rf"vocabulary \({n_users} users, {n_items} items\).*Pass user_index="):
            table.within(n_users, n_items)
        return
    cut = table.within(n_users, n_items)
    assert as_dict(cut.candidates) == inside
    lost = len(pairs) - len(inside)
    assert cut.coverage.dropped == ({"code outside the model's vocabulary": lost} if lost else {})
    assert (cut is table) == (lost == 0)
    assert cut.coverage.n_read == len(pairs)


def test_within_counts_probes_and_adds_up():
    rows = [(1, item, 0.5, "candidate") for item in range(6)] + [(9, 2, 0.5, "probe"), (1, 9, 0.5, "probe")]
    table = ScoreTable.read(frame(*rows))
    once = table.within(10, 5)  # loses items 5 and 9
    assert once.coverage.dropped == {"code outside the model's vocabulary": 2}
    twice = once.within(5, 3)  # loses user 9 and items 3, 4
    assert twice.coverage.dropped == {"code outside the model's vocabulary": 5}
    assert (twice.coverage.n_candidates, twice.coverage.n_probes) == (3, 0)
    assert twice.coverage.n_read == 3 + 5


def test_copies_share_the_arrays_and_pickles_keep_them():
    table = ScoreTable.read(frame((1, 1, 0.5), (1, 2, 0.25)))
    assert copy.deepcopy({"table": table})["table"] is table
    assert as_dict(pickle.loads(pickle.dumps(table)).candidates) == as_dict(table.candidates)
