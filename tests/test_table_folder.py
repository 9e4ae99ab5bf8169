"""Score tables in folders: the table that `read` makes, for any files and pieces; nothing broken opens."""

import copy
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import torch

from sllmr_plugin import ScoreTable, SelectiveConfig, wrap
from sllmr_plugin.errors import CoverageError, ScoreTableError
from sllmr_plugin.scores.build import build_table

from .matrix import backbones as zoo

DEEPFM = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")


def frame(n=400, seed=0):
    """Rows of 20 known and 4 unknown users, with gaps, repeats and probes."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "user_id": [f"u{k}" for k in rng.integers(0, 24, n)],
            "item_id": rng.integers(0, 30, n),
            "score": rng.integers(0, 9, n) / 8,
            "kind": np.where(rng.random(n) < 0.1, "probe", "candidate"),
            "note": "ignored",
        }
    )
    rows.loc[rng.random(n) < 0.03, "user_id"] = None
    rows.loc[rng.random(n) < 0.03, "score"] = np.nan
    return rows


USER_INDEX = {f"u{k}": (7 * k) % 20 for k in range(20)}
ITEM_INDEX = pd.Series(np.arange(25) + 1, index=np.arange(25))
INDEXES = {"user_index": USER_INDEX, "item_index": ITEM_INDEX}


def scatter(rows, folder, sizes=(90, 1, 200)):
    """Write rows into several files, in the order of their names."""
    folder.mkdir()
    bounds = [0, *np.cumsum(sizes), len(rows)]
    for number, (first, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        rows[first:end].to_parquet(folder / f"part-{number}.parquet", index=False, row_group_size=40)
    return folder


def assert_same_table(got, expected):
    for mine, theirs in ((got.candidates, expected.candidates), (got.probes, expected.probes)):
        for part in ("users", "offsets", "items", "scores"):
            assert getattr(mine, part).dtype == getattr(theirs, part).dtype
            assert torch.equal(getattr(mine, part), getattr(theirs, part)), part
    assert got.coverage == expected.coverage


# ---------------------------------------------------------------------- building


@pytest.mark.parametrize("run_rows", [1, 50, 10**6])
def test_the_table_is_the_one_that_read_makes(tmp_path, run_rows):
    rows = frame()
    build_table(scatter(rows, tmp_path / "in"), tmp_path / "out", verbose=False, run_rows=run_rows, **INDEXES)
    built = ScoreTable.open(tmp_path / "out", verify=True)
    assert_same_table(built, ScoreTable.read(rows, **INDEXES))
    assert len(built.coverage.dropped) == 5
    assert not list(tmp_path.glob(".*"))


def test_ids_can_be_codes_and_a_single_file_a_source(tmp_path):
    rows = frame().dropna().assign(user_id=lambda r: r["user_id"].str[1:].astype(int)).drop(columns="kind")
    rows.to_parquet(tmp_path / "scores.parquet")
    built = ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "out")
    assert_same_table(built, ScoreTable.read(rows))
    assert len(built.probes) == 0


@pytest.mark.parametrize("others", [["007", "8"], [7.0, 2.0**60]], ids=["text", "floats"])
def test_files_that_write_ids_in_different_forms_are_refused(tmp_path, others):
    (tmp_path / "in").mkdir()
    for name, ids in (("a", [7, 8]), ("b", others)):
        rows = pd.DataFrame({"user_id": ids, "item_id": [0, 1], "score": 0.5})
        rows.to_parquet(tmp_path / "in" / f"{name}.parquet")
    with pytest.raises(ScoreTableError, match=r"b\.parquet: user_id is written as .*a\.parquet as whole numbers"):
        ScoreTable.build(tmp_path / "in", tmp_path / "out")


def test_ids_as_a_level_of_folders_are_refused_where_they_would_change(tmp_path):
    for user in ("007", "7"):
        (tmp_path / "in" / f"user_id={user}").mkdir(parents=True)
        rows = pd.DataFrame({"item_id": [0, 1], "score": [0.5, 0.25]})
        rows.to_parquet(tmp_path / "in" / f"user_id={user}" / "0.parquet")
    with pytest.raises(ScoreTableError, match="user_id is a level of folders, of which 007 would be read as 7"):
        ScoreTable.build(tmp_path / "in", tmp_path / "out")


def test_a_level_of_folders_can_be_a_column(tmp_path):
    rows = frame()
    for kind, part in rows.groupby("kind"):
        (tmp_path / "in" / f"kind={kind}").mkdir(parents=True)
        part.drop(columns="kind").to_parquet(tmp_path / "in" / f"kind={kind}" / "0.parquet")
    built = ScoreTable.build(tmp_path / "in", tmp_path / "out", **INDEXES)
    assert_same_table(built, ScoreTable.read(rows.sort_values("kind", kind="stable"), **INDEXES))


def test_the_origin_is_that_of_the_first_file(tmp_path):
    table = pyarrow.Table.from_pandas(frame(), preserve_index=False).replace_schema_metadata({"model": "some-llm"})
    pyarrow.parquet.write_table(table, tmp_path / "scores.parquet")
    assert ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "out", **INDEXES).origin == {"model": "some-llm"}


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [("score", 1.5, r"score is 1\.5; rescale"), ("kind", "guess", "kind is 'guess'; write candidate")],
)
def test_a_bad_row_is_refused_by_file_and_number_and_nothing_is_left(tmp_path, column, value, says):
    rows = frame()
    rows.loc[200, column] = value
    scatter(rows, tmp_path / "in")
    with pytest.raises(ScoreTableError, match=rf"part-2\.parquet, row 109 \(counted from 0\): {says}"):
        ScoreTable.build(tmp_path / "in", tmp_path / "out", **INDEXES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_ids_that_are_no_codes_are_refused_by_file(tmp_path):
    scatter(frame(), tmp_path / "in")
    with pytest.raises(ScoreTableError, match=r"part-0\.parquet: user_id holds 'u\d+', which is not an integer code"):
        ScoreTable.build(tmp_path / "in", tmp_path / "out")


def test_other_sources_are_refused(tmp_path):
    rows = frame()
    with pytest.raises(ScoreTableError, match="no such file or folder"):
        ScoreTable.build(tmp_path / "in", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScoreTableError, match="holds no rows"):
        ScoreTable.build(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ScoreTableError, match="cannot be read as parquet"):
        ScoreTable.build(tmp_path / "broken.parquet", tmp_path / "out")
    rows.drop(columns="score").to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(ScoreTableError, match="no column 'score' among"):
        ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "out", **INDEXES)
    rows.to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(CoverageError, match="none of its 400 pairs can be mapped"):
        ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "out", user_index={"nobody": 0}, item_index=ITEM_INDEX)
    rows.assign(kind="probe").to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(CoverageError, match="only probes"):
        ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "out", **INDEXES)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(ScoreTableError, match="is there already"):
        ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "out", **INDEXES)


def test_a_killed_build_leaves_nothing_that_opens(tmp_path):
    scatter(frame(4000), tmp_path / "in", sizes=(1000,))
    program = (
        "import sys, time\n"
        "from sllmr_plugin.scores import build as table_build\n"
        "merged = table_build._merged\n"
        "def slow(*args):\n"
        "    for rows in merged(*args):\n"
        "        yield rows\n"
        "        print('merging', flush=True); time.sleep(60)\n"
        "table_build._merged = slow\n"
        "index = {f'u{k}': k for k in range(20)}\n"
        "table_build.build_table(*sys.argv[1:], user_index=index, item_index=None, verbose=False, run_rows=500)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "in"), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "merging\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    (left,) = tmp_path.glob(".out.*.partial")
    with pytest.raises(ScoreTableError, match="not a finished score table"):
        ScoreTable.open(left)
    ScoreTable.build(tmp_path / "in", tmp_path / "out", **INDEXES)  # what is left does not stand in the way


# ---------------------------------------------------------------------- opening


@pytest.fixture
def folder(tmp_path):
    frame().to_parquet(tmp_path / "scores.parquet")
    ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "table", **INDEXES)
    return tmp_path / "table"


def alter(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


ARRAYS = [f"{group}.{part}" for group in ("candidates", "probes") for part in ("users", "offsets", "entries")]


@pytest.mark.parametrize("name", ARRAYS)
def test_a_truncated_array_is_refused(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(ScoreTableError, match=rf"{name}: holds {len(data) - 1} bytes where {len(data)} were written"):
        ScoreTable.open(folder, verify=False)
    (folder / name).unlink()
    with pytest.raises(ScoreTableError, match=f"{name}: cannot be read"):
        ScoreTable.open(folder)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_altered_array_is_refused(folder, name):
    time.sleep(0.01)  # clocks of file systems are coarse
    alter(folder / name)
    with pytest.raises(ScoreTableError, match=f"{name}: was altered"):
        ScoreTable.open(folder)


def test_an_alteration_that_hides_its_time_is_found_on_request(folder):
    path = folder / "candidates.entries"
    before = path.stat()
    alter(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    ScoreTable.open(folder)
    with pytest.raises(ScoreTableError, match="was altered"):
        ScoreTable.open(folder, verify=True)


def test_a_copy_opens_whether_or_not_it_keeps_the_times(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert_same_table(ScoreTable.open(tmp_path / "copy"), ScoreTable.read(folder))


def test_the_description_is_guarded(folder):
    path = folder / "table.json"
    content = json.loads(path.read_text())

    def refused(text, says):
        path.write_text(text)
        with pytest.raises(ScoreTableError, match=says):
            ScoreTable.open(folder)

    refused(json.dumps({**content, "version": 2}), "has version 2, and this package reads 1")
    refused(json.dumps({**content, "coverage": {}}), "was altered")
    refused("{", "cannot be read")
    refused("[]", "does not describe a score table")
    path.unlink()
    with pytest.raises(ScoreTableError, match="not a finished score table"):
        ScoreTable.read(folder)


def test_codes_are_no_raw_ids(folder):
    with pytest.raises(ScoreTableError, match="ids are codes already"):
        ScoreTable.read(folder, user_index=USER_INDEX)


def test_copies_and_pickles_refer_to_the_folder(folder):
    table = ScoreTable.open(folder)
    assert copy.deepcopy(table) is table
    data = pickle.dumps(table)
    assert len(data) < 1000
    assert_same_table(pickle.loads(data), table)


def test_codes_outside_the_vocabulary_are_refused(folder):
    table = ScoreTable.open(folder)
    assert table.within(20, 26) is table
    for sizes in ((19, 26), (20, 25)):
        with pytest.raises(ScoreTableError, match="codes outside the model's vocabulary"):
            table.within(*sizes)


def test_a_model_trains_from_a_folder_as_from_memory(tmp_path):
    scores = zoo.score_frame()
    scores.to_parquet(tmp_path / "scores.parquet")
    ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "table")
    outcomes = []
    for source in (scores, tmp_path / "table"):
        model = zoo.build(DEEPFM)
        features = zoo.item_features(model)
        wrap(model, source, user="user_id", item="item_id", item_features=features, config=SelectiveConfig(weight=0.5))
        zoo.compile_model(DEEPFM, model)
        zoo.fit(DEEPFM, model)
        digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values()))
        outcomes.append((digest.hexdigest(), model.history.history["sllmr_pairs"]))
    assert outcomes[0] == outcomes[1]
    assert min(outcomes[0][1]) > 0
