"""`prepare` and `sllmr prepare`: raw files in, what the loader reads out, checked row by row."""

import gzip
import hashlib
import json
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin.cli import main
from sllmr_plugin.datasets import prepare
from sllmr_plugin.datasets import prepared as prepared_folder
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.datasets.preparing import PrepareSettings
from sllmr_plugin.datasets.raw.lines import clean_text
from sllmr_plugin.errors import ConfigError, DataError, MalformedLinesError, MalformedLinesWarning
from sllmr_plugin.scoring.candidates import read_categories

N_USERS, N_ITEMS = 50, 15


@pytest.fixture(scope="module")
def purchases():
    """Every user with 7 of 15 items, a 5-core: (user, item, rating, day), days with ties."""
    draw = random.Random(0)
    return [
        (f"A{user:03}", f"B{item:03}", float(draw.randint(1, 5)), 86400 * draw.randint(1, 30))
        for user in range(N_USERS)
        for item in draw.sample(range(N_ITEMS), 7)
    ]


@pytest.fixture
def amazon(tmp_path, purchases):
    """The purchases as a review file of 2014, and a meta file of Python dicts."""
    reviews = [
        json.dumps({"reviewerID": user, "asin": item, "overall": rating, "unixReviewTime": day})
        for user, item, rating, day in purchases
    ]
    meta = [
        repr(
            {"asin": f"B{item:03}", "title": f"It's &quot;{item}&quot;,\nnew", "categories": [["All", f"C{item % 3}"]]}
        )
        for item in range(N_ITEMS - 1)  # the last item has none
    ]
    (tmp_path / "reviews.json.gz").write_bytes(gzip.compress("\n".join(reviews).encode()))
    (tmp_path / "meta.json").write_text("\n".join(meta))
    return tmp_path


def write_csv(path, pairs, header="user_id,item_id"):
    path.write_text("\n".join([header, *(",".join(map(str, pair)) for pair in pairs)]) + "\n")
    return path


def raw_rows(data, split):
    rows = getattr(data, split)
    return list(zip(data.user_ids[rows["user"] - 1], data.item_ids[rows["item"] - 1], strict=True))


# --- what comes out ---------------------------------------------------------------------------------------


def test_amazon_reviews_become_what_the_loader_reads(amazon, purchases):
    prepared = prepare("amazon2014", amazon / "reviews.json.gz", amazon / "out", meta=amazon / "meta.json")
    data = load_interactions(prepared.interactions, prepared.items)
    expected = {"train": [], "valid": [], "test": []}
    for user in sorted({user for user, *_ in purchases}):
        mine = sorted((row for row in purchases if row[0] == user), key=lambda row: row[3])  # stable
        names = ["train"] * 5 + ["valid", "test"]
        for name, (_, item, _, _) in zip(names, mine, strict=True):
            expected[name].append((user, item))
    for name, rows in expected.items():
        assert raw_rows(data, name) == rows
    assert data.titles.iloc[data.item_ids.get_loc("B003")] == 'It\'s "3", new'
    assert data.titles.iloc[data.item_ids.get_loc("B014")] == ""
    assert read_categories(prepared.items)[data.item_ids.get_loc("B004")] == "C1"
    assert prepared.counts == {
        "users": 50,
        "items": 15,
        "interactions": 350,
        "train": 250,
        "valid": 50,
        "test": 50,
        "users without training interaction": 0,
        "items without training interaction": 0,
        "items without metadata": 1,
        "items without title": 1,
        "items without category": 1,
    }
    assert "50 users, 15 items, 350 interactions" in str(prepared)


def test_the_record_says_what_was_read_and_written(amazon):
    prepared = prepare("amazon2014", amazon / "reviews.json.gz", amazon / "out", seed=3)
    record = json.loads((amazon / "out" / "prepared.json").read_text())
    assert record == prepared.record
    (source,) = record["sources"]
    assert source["sha256"] == hashlib.sha256((amazon / "reviews.json.gz").read_bytes()).hexdigest()
    assert (source["records"], source["malformed"]["lines"]) == (350, 0)
    assert record["settings"]["seed"] == 3
    for name, file in record["files"].items():
        content = (amazon / "out" / name).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert file["rows"] == content.count(b"\n") - 1
    assert sorted(path.name for path in (amazon / "out").iterdir()) == [
        "interactions.csv",
        "items.csv",
        "prepared.json",
    ]


def test_filters_are_counted_and_applied_in_order(tmp_path):
    rows = [
        ("u", "a", 5, 30),  # repeated below, earlier
        ("u", "b", 2, 10),  # rated too low
        ("u", "a", 4, 20),
        ("u", "c", 5, 20),  # at the same time as the row above: after it
        ("v", "a", 5, 1),
        ("v", "c", "", 2),  # not rated
        ("v", "d", 5, 3),  # the only one with d: outside the core
        ("v", "c", 5, 9),
    ]
    path = write_csv(tmp_path / "raw.csv", rows, "user_id,item_id,rating,timestamp")
    prepared = prepare("csv", path, tmp_path / "out", min_rating=3, k_core=2, split="none")
    assert prepared.record["dropped"] == {
        "rated below 3 or not at all": 2,
        "repeated interactions": 1,
        "outside the 2-core": 1,
    }
    written = pd.read_csv(prepared.interactions)
    assert written.values.tolist() == [
        ["u", "a", 4, 20, 0],
        ["u", "c", 5, 20, 1],
        ["v", "a", 5, 1, 0],
        ["v", "c", 5, 9, 1],
    ]
    assert list(written) == ["user_id", "item_id", "rating", "timestamp", "position"]


def test_split_by_time_leaves_late_users_without_training(tmp_path):
    early = [(f"u{user}", f"i{item}", 10 * user + item) for user in range(8) for item in range(4)]
    late = [("new", f"i{item}", 1000 + item) for item in range(4)]
    path = write_csv(tmp_path / "raw.csv", early + late, "user_id,item_id,timestamp")
    prepared = prepare("csv", path, tmp_path / "out", k_core=0, split="time", test_share=0.125, valid_share=0.125)
    data = load_interactions(prepared.interactions, prepared.items)
    # 36 rows: the last 4 or 5 (0.125 of 36 is 4.5) are test, 9 are held out in all
    assert set(raw_rows(data, "test")) == {(user, item) for user, item, _ in late}
    assert [user for user, _ in raw_rows(data, "valid")] == ["u6"] * 1 + ["u7"] * 4
    assert prepared.counts["users without training interaction"] == 2
    assert (len(data.train), len(data.valid), len(data.test)) == (27, 5, 4)


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
@pytest.mark.parametrize("split", ["leave-last-out", "time", "none"])
def test_negatives_are_rows_that_the_loader_takes(amazon, purchases, split, sampling, capsys):
    arguments = {"split": split, "negative_sampling": sampling, "k_core": 0, "min_rating": 4}
    file = amazon / "reviews.json.gz"
    without = prepare("amazon2014", file, amazon / "plain", **arguments)
    prepared = prepare("amazon2014", file, amazon / "out", negatives=1, seed=5, **arguments)
    written = pd.read_csv(prepared.interactions)
    positives = {(user, item) for user, item, rating, _ in purchases if rating >= 4}
    is_negative = written["label"] == 0
    pairs = list(zip(written["user_id"], written["item_id"], strict=True))
    assert {pair for pair, negative in zip(pairs, is_negative, strict=True) if not negative} == positives
    assert not positives & {pair for pair, negative in zip(pairs, is_negative, strict=True) if negative}
    assert len(set(pairs)) == len(pairs) == 2 * len(positives)
    assert written["rating"].isna().equals(is_negative)
    # A negative stands behind its positive and shares all that is not the item.
    shared = ["user_id", "timestamp", "position", *(["split"] if split != "none" else [])]
    assert written[~is_negative][shared].values.tolist() == written[is_negative][shared].values.tolist()
    plain, data = (load_interactions(made.interactions, made.items) for made in (without, prepared))
    assert data.has_negatives
    assert "repeated interactions" not in data.dropped
    for name in ("train", "valid", "test"):
        rows = getattr(data, name)
        mine = rows[rows["label"] == 1] if name == "train" else rows
        assert mine[["user", "item"]].values.tolist() == getattr(plain, name)[["user", "item"]].values.tolist()
    again = prepare("amazon2014", file, amazon / "again", negatives=1, seed=5, **arguments)
    other = prepare("amazon2014", file, amazon / "other", negatives=1, seed=6, **arguments)
    assert again.interactions.read_bytes() == prepared.interactions.read_bytes()
    assert other.interactions.read_bytes() != prepared.interactions.read_bytes()


def test_too_few_items_for_negatives_is_an_error(amazon):
    with pytest.raises(DataError, match=r"user 'A000' needs 14 different negatives and only 8 items are left.*50 such"):
        prepare("amazon2014", amazon / "reviews.json.gz", amazon / "out", negatives=2)
    assert not (amazon / "out").exists()


def test_movielens_with_users_and_parquet(tmp_path):
    ratings = [
        f"{user}::{item}::{1 + (user + item) % 5}::{978300000 + item}" for user in range(1, 7) for item in range(5)
    ]
    (tmp_path / "ratings.dat").write_text("\n".join(ratings))
    (tmp_path / "movies.dat").write_bytes("0::Misérables, Les (1995)::Drama\n1::B (2000)::Comedy|War".encode("latin-1"))
    (tmp_path / "users.dat").write_text("".join(f"{user}::F::25::{user}::1000{user}\n" for user in range(1, 6)))
    prepared = prepare(
        "movielens1m",
        tmp_path / "ratings.dat",
        tmp_path / "out",
        meta=tmp_path / "movies.dat",
        users=tmp_path / "users.dat",
        file_format="parquet",
    )
    data = load_interactions(prepared.interactions, prepared.items)
    assert data.item_ids.tolist() == [0, 1, 2, 3, 4]  # whole numbers, as CSV would give them
    assert data.titles.tolist() == ["Misérables, Les (1995)", "B (2000)", "", "", ""]
    users = pd.read_parquet(tmp_path / "out" / "users.parquet")
    assert users[users["user_id"] == 3].values.tolist() == [[3, "F", "25", "3", "10003"]]
    assert prepared.counts["users without attributes"] == 1
    assert prepared.counts["items without metadata"] == 3


@settings(deadline=None, max_examples=25)
@given(
    titles=st.lists(
        st.text(max_size=30) | st.sampled_from(['a,"b"\n', "NA", "'", "1.0", "null"]), min_size=2, max_size=6
    )
)
@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_odd_titles_come_back(tmp_path_factory, file_format, titles):
    folder = tmp_path_factory.mktemp("titles")
    titles = ["a plain one", *titles]
    items = [json.dumps({"parent_asin": f"i{number}", "title": title}) for number, title in enumerate(titles)]
    (folder / "meta.jsonl").write_text("\n".join(items))
    reviews = [
        json.dumps({"user_id": "u", "parent_asin": f"i{number}", "timestamp": number}) for number in range(len(titles))
    ]
    (folder / "reviews.jsonl").write_text("\n".join(reviews))
    prepared = prepare(
        "amazon2023",
        folder / "reviews.jsonl",
        folder / "out",
        meta=folder / "meta.jsonl",
        k_core=0,
        file_format=file_format,
    )
    data = load_interactions(prepared.interactions, prepared.items)
    assert data.titles.tolist() == [clean_text(title) for title in titles]


@pytest.mark.parametrize(
    ("ids", "form"),
    [
        (["1", "2", "30"], int),
        (["x1", "2", "30"], str),
        (["NA", "nan", "null"], str),
        (["007", "a", 'say "hi", you'], str),
    ],
)
def test_ids_come_back_as_they_were(tmp_path, ids, form):
    path = tmp_path / "raw.csv"
    pd.DataFrame({"user_id": np.repeat(ids, 3), "item_id": ids * 3}).to_csv(path, index=False)
    prepared = prepare("csv", path, tmp_path / "out", k_core=0)
    data = load_interactions(prepared.interactions, prepared.items)
    assert data.item_ids.tolist() == [form(name) for name in ids]


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
@pytest.mark.parametrize("ids", [["007", "008", "1"], ["1e3", "7"], ["True", "False"], ["NA", "null"], [str(2**70)]])
def test_ids_that_look_like_something_else_come_back_as_they_were(tmp_path, ids, file_format):
    path = tmp_path / "raw.csv"
    path.write_text("user_id,item_id\n" + "".join(f"{name},{item}\n" for name in ids for item in "abc"))
    prepared = prepare("csv", path, tmp_path / "out", k_core=0, file_format=file_format)
    assert load_interactions(prepared.interactions, prepared.items).user_ids.tolist() == sorted(ids)


def test_page_source_in_the_place_of_titles_is_counted_and_said(tmp_path):
    reviews = [{"reviewerID": f"u{u}", "asin": f"B{i}", "unixReviewTime": i} for u in range(2) for i in range(3)]
    titles = ["Spoon", "var aPageStart = (new Date()).getTime();", "<span id='x'>"]
    meta = [{"asin": f"B{i}", "title": title, "category": ["Home", "Kitchen"]} for i, title in enumerate(titles)]
    for name, rows in (("reviews.json", reviews), ("meta.json", meta)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare("amazon2014", tmp_path / "reviews.json", tmp_path / "out", meta=tmp_path / "meta.json", k_core=0)
    assert load_interactions(prepared.interactions, prepared.items).titles.tolist() == ["Spoon", "", ""]
    assert prepared.counts["items with page source as title"] == prepared.counts["items without title"] == 2
    assert "2 items with page source as title" in str(prepared)
    assert set(pd.read_csv(prepared.items)["category"]) == {"Kitchen"}


@pytest.mark.parametrize("has_rating", [False, True])
def test_what_is_advised_for_recbole_files_with_labels_works(tmp_path, has_rating):
    lines = [f"u{u}\ti{i}\t{(u + i) % 2}.0\t{i}" + "\t4.0" * has_rating for u in range(4) for i in range(6)]
    header = "user_id:token\titem_id:token\tlabel:float\ttimestamp:float" + "\trating:float" * has_rating
    path = tmp_path / "my.inter"
    path.write_text("\n".join([header, *lines]) + "\n")
    with pytest.raises(DataError, match=r"--interactions .*my\.inter\. Or .*--column rating=label --min-rating 1"):
        prepare("recbole", path, tmp_path / "out", k_core=0)
    positives = {(f"u{u}", f"i{i}") for u in range(4) for i in range(6) if (u + i) % 2}
    prepared = prepare("recbole", path, tmp_path / "out", k_core=0, columns={"rating": "label"}, min_rating=1)
    rows = pd.read_csv(prepared.interactions)
    assert sorted(zip(rows["user_id"], rows["item_id"], strict=True)) == sorted(positives)
    data = load_interactions(path)
    assert (data.has_negatives, data.n_items) == (True, 6)


# --- what is refused --------------------------------------------------------------------------------------


def break_lines(path, share):
    """Cut every so many lines of a gzipped file in half; return their numbers."""
    lines = gzip.decompress(path.read_bytes()).splitlines()
    step = round(1 / share)
    broken = list(range(step - 1, len(lines), step))
    for place in broken:
        lines[place] = lines[place][: len(lines[place]) // 2]
    path.write_bytes(gzip.compress(b"\n".join(lines)))
    return [place + 1 for place in broken]


@pytest.mark.filterwarnings("default")
def test_two_percent_of_broken_lines_are_refused_and_can_be_put_up_with(amazon, capsys):
    broken = break_lines(amazon / "reviews.json.gz", 0.02)
    command = ["prepare", "amazon2014", "--reviews", str(amazon / "reviews.json.gz"), "--out", str(amazon / "out")]
    assert main(command) == 2
    said = capsys.readouterr().err
    where = ", ".join(map(str, broken))
    assert "7 of 350 lines (2.00%) are malformed, more than the 1.00% allowed" in said
    assert f"7 x neither a JSON object nor a Python dict: line {where}" in said
    assert "--max-bad-share 0.02" in said
    assert "Traceback" not in said
    assert not (amazon / "out").exists()

    assert main([*command, "--max-bad-share", "0.02"]) == 0
    printed, said = capsys.readouterr()
    assert (
        f"7 malformed lines (2.00%) are left out:\n  7 x neither a JSON object nor a Python dict: line {where}" in said
    )
    assert "343 reviews, 7 malformed lines" in printed
    record = json.loads((amazon / "out" / "prepared.json").read_text())
    assert record["sources"][0]["malformed"] == {
        "lines": 7,
        "reasons": {"neither a JSON object nor a Python dict": {"lines": 7, "first": broken}},
    }
    assert record["counts"]["interactions"] == 343
    assert len(pd.read_csv(amazon / "out" / "interactions.csv")) == 343


def test_broken_meta_lines_count_for_themselves(amazon):
    text = (amazon / "meta.json").read_text().splitlines()
    (amazon / "meta.json").write_text("\n".join(["{oops", *text[1:]]))
    arguments = ("amazon2014", amazon / "reviews.json.gz", amazon / "out")
    with pytest.raises(MalformedLinesError, match=r"meta.json: 1 of 14 lines"):
        prepare(*arguments, meta=amazon / "meta.json")
    assert not (amazon / "out").exists()
    with pytest.warns(MalformedLinesWarning, match=r"meta.json: 1 malformed lines \(7.14%\)"):
        prepared = prepare(*arguments, meta=amazon / "meta.json", max_bad_share=0.1)
    assert prepared.counts["items without metadata"] == 2


def test_a_folder_is_replaced_only_when_asked_and_then_whole(amazon):
    arguments = ("amazon2014", amazon / "reviews.json.gz", amazon / "out")
    prepare(*arguments)
    before = (amazon / "out" / "interactions.csv").read_bytes()
    (amazon / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"has interactions.csv, items.csv, prepared.json already.*--replace"):
        prepare(*arguments, split="time")
    assert (amazon / "out" / "interactions.csv").read_bytes() == before
    prepared = prepare(*arguments, file_format="parquet", replace=True)
    names = sorted(path.name for path in (amazon / "out").iterdir())
    assert names == ["interactions.parquet", "items.parquet", "notes.txt", "prepared.json"]
    assert prepared.interactions.name == "interactions.parquet"


def test_a_failure_while_writing_leaves_what_was_there(amazon, monkeypatch):
    arguments = ("amazon2014", amazon / "reviews.json.gz", amazon / "out")
    prepare(*arguments)
    before = {path.name: path.read_bytes() for path in (amazon / "out").iterdir()}

    def full(file, chunks):
        file.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(prepared_folder, "_write_csv", full)
    with pytest.raises(DataError, match="out: cannot be written .No space left on device.; choose another folder"):
        prepare(*arguments, replace=True)
    assert {path.name: path.read_bytes() for path in (amazon / "out").iterdir()} == before
    with pytest.raises(DataError, match="No space left"):
        prepare(*arguments[:2], amazon / "new")
    assert not (amazon / "new").exists()


def test_the_raw_file_is_never_replaced(tmp_path):
    path = write_csv(tmp_path / "interactions.csv", [("u", item) for item in "abc"])
    before = path.read_bytes()
    with pytest.raises(DataError, match="would be replaced by what is made of it"):
        prepare("csv", path, tmp_path, k_core=0, replace=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "amazon"}, "format='amazon' is not one of 'amazon2014'"),
        ({"split": "random"}, "split='random' is not one of"),
        ({"k_core": -1, "negatives": -2}, "k_core=-1 must be at least 0; negatives=-2 must"),
        ({"test_share": 0}, r"test_share=0\.0 must lie in \(0, 1\)"),
        ({"valid_share": float("nan")}, "valid_share=nan is not a finite number"),
        ({"test_share": 0.6, "valid_share": 0.4}, "leave nothing to train on"),
        ({"max_bad_share": 2}, r"max_bad_share=2\.0 must lie in \[0, 1\]"),
        ({"columns": {"user": "who"}}, "columns names 'user', which is not one of user_id"),
        ({"columns": {"user_id": "a", "item_id": "a"}}, "two names to one column"),
        ({"format": "amazon2014", "columns": {"user_id": "a"}}, "no meaning for amazon2014"),
        ({"format": "recbole", "header": ["user_id"]}, "no meaning for recbole"),
        ({"delimiter": "::"}, "one character"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ConfigError, match=message):
        PrepareSettings(**({"format": "csv"} | changes))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([("u", "a"), ("u", "b")], [], "no interaction is left of 2: 2 outside the 5-core. Lower --k-core"),
        ([("u", "a"), ("u", "b")], ["--k-core", "0", "--split", "time"], "needs times, and the interactions have none"),
        ([("u", "a")], ["--k-core", "0", "--column", "rating=stars"], "no file has the column 'stars'"),
        ([("u", "a")], ["--k-core", "0", "--meta", "{folder}/other.csv"], "has none of the 1 ids that are left"),
        ([("u", "a")], ["--meta", "{folder}/none.csv"], "none.csv is not a file"),
        ([], [], "holds no record"),
    ],
)
def test_the_command_says_what_is_wrong_and_writes_nothing(tmp_path, capsys, rows, options, message):
    path = write_csv(tmp_path / "raw.csv", rows)
    write_csv(tmp_path / "other.csv", [("z", "t")], "item_id,title")
    options = [option.format(folder=tmp_path) for option in options]
    assert main(["prepare", "csv", "--reviews", str(path), "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_every_option_of_the_command_reaches_the_settings(tmp_path, capsys):
    text = "u;i;t;s\n" + "".join(f"u{u};i{i};{u * i};{1 + i % 5}\n" for u in range(6) for i in range(8))
    (tmp_path / "raw.csv").write_text(text)
    options = (
        "--k-core 3 --min-rating 2 --split time --test-share 0.2 --valid-share 0.15 --negatives 0 --seed 4 "
        "--negative-sampling popularity --max-bad-share 0.02 --file-format parquet --delimiter ; "
        "--column user_id=u --column item_id=i --column timestamp=t --column rating=s"
    )
    command = ["prepare", "csv", "--reviews", str(tmp_path / "raw.csv"), "--out", str(tmp_path / "out")]
    assert main([*command, *options.split()]) == 0
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["settings"] == {
        "format": "csv",
        "k_core": 3,
        "split": "time",
        "boundary": None,
        "test_share": 0.2,
        "valid_share": 0.15,
        "min_rating": 2.0,
        "negatives": 0,
        "negative_sampling": "popularity",
        "seed": 4,
        "max_bad_share": 0.02,
        "file_format": "parquet",
        "columns": {"user_id": "u", "item_id": "i", "timestamp": "t", "rating": "s"},
        "header": None,
        "delimiter": ";",
    }
    assert "next: sllmr candidates" in capsys.readouterr().out
