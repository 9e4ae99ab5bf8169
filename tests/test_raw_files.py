"""Raw files: lines, loose lines and the fields of each format, from files that the tests write themselves."""

import doctest
import gzip
import hashlib
import importlib
import json
import math

import pytest

from sllmr_plugin.datasets.raw import lines as lines_module
from sllmr_plugin.datasets.raw.amazon import AMAZON_2014, AMAZON_2023, parse_object
from sllmr_plugin.datasets.raw.delimited import Delimited, MovieLens
from sllmr_plugin.datasets.raw.lines import BadLine, RawFile, clean_text, is_page_source, raw_id, time
from sllmr_plugin.errors import DataError, MalformedLinesError


def raw(tmp_path, content, name="raw.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return RawFile(path, "reviews")


def table(**changes):
    return Delimited(**({"renames": {}, "header": None, "delimiter": ",", "typed": False} | changes))


class Everything(set):
    def __contains__(self, name):
        return True


ANY = Everything()


def faults(file):
    return {reason: where for reason, (_, where) in file.malformed.items()}


# --- lines ------------------------------------------------------------------------------------------------


def test_gzip_is_told_by_its_content_and_the_fingerprint_is_of_the_file(tmp_path):
    plain, packed = b"\xef\xbb\xbfone\n\ntwo", gzip.compress(b"one\n") + gzip.compress(b"\ntwo")
    for content, name in ((plain, "plain.gz"), (packed, "packed.json")):
        file = raw(tmp_path, content, name)
        assert list(file.lines()) == [(1, b"one\n"), (2, b"\n"), (3, b"two")]
        assert file.account()["sha256"] == hashlib.sha256(content).hexdigest()
        assert file.account()["bytes"] == len(content)


def test_a_cut_off_gzip_file_is_an_error(tmp_path):
    packed = gzip.compress(b"".join(hashlib.sha256(bytes([i])).hexdigest().encode() + b"\n" for i in range(200)))
    with pytest.raises(DataError, match=r"cannot be read after line \d+.*cut off or damaged: fetch it again"):
        list(raw(tmp_path, packed[: len(packed) // 2]).lines())


def test_a_line_that_is_too_long_is_passed_over_without_reading_it_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "MAX_LINE", 10)
    file = raw(tmp_path, b"a\n" + b"x" * 35 + b"\nb\n" + b"y" * 10 + b"\n" + b"z" * 11)
    assert [number for number, _ in file.lines()] == [1, 3]  # a break is part of the line
    assert list(faults(file).values()) == [[2, 4, 5]]


def test_malformed_lines_are_counted_by_reason_with_the_first_ten(tmp_path):
    def parse(line):
        if line.startswith(b"bad"):
            raise BadLine("it says so")
        return line.strip()

    file = raw(tmp_path, "good\n\n" + "bad\n" * 12 + "good\n")
    assert list(file.records(parse)) == [b"good", b"good"]
    assert file.malformed == {"it says so": (12, list(range(3, 13)))}
    assert file.malformed_share == 12 / 14  # the blank line is neither
    assert file.describe_malformed() == "  12 x it says so: line 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 ..."
    with pytest.raises(MalformedLinesError, match=r"(?s)12 of 14 lines \(85.71%\).*--max-bad-share 0.858"):
        file.check(0.5)
    file.check(0.858)


def test_a_file_of_another_format_is_given_up_early(tmp_path):
    file = raw(tmp_path, "nonsense\n" * 5000)
    with pytest.raises(MalformedLinesError, match=r"none of the first 1000 lines.*\n  1000 x neither a JSON object"):
        list(AMAZON_2014.interactions(file))


# --- loose objects ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        '{"asin": "B1", "title": "5\\" disk", "price": null}',
        "{'asin': 'B1', 'title': '5\" disk', 'price': None}",
        "{'asin': u'B1', 'title': \"5\\\" disk\", 'price': None}\r\n",
    ],
)
def test_json_and_python_dicts_say_the_same(line):
    assert parse_object(line.encode()) == {"asin": "B1", "title": '5" disk', "price": None}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"asin": "B1"', "neither"),
        (b"{'asin': open('/etc/passwd').read()}", "neither"),
        (b"{'asin': asin}", "neither"),
        (b"{[]: 1}", "neither"),
        (b"{1: " + b"[" * 5000 + b"]" * 5000 + b"}", "neither"),
        (b"{1: " + b"-" * 100_000 + b"1}", "neither"),
        (b"{1: " + b"1+" * 100_000 + b"1}", "neither"),
        (b"{1: '" + b"x" * (1 << 20) + b"'}", "neither"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "neither"),
        (b"['asin']", "neither"),
        (b"[1]", "not an object"),
        (b'{"asin": "\xff"}', "not UTF-8"),
    ],
)
def test_what_is_no_object_is_a_bad_line_and_nothing_worse(line, reason):
    with pytest.raises(BadLine, match=reason):
        parse_object(line)


# --- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Tom &amp; Jerry&#39;s\t\n  \u00a0 \"best\", 'of'", "Tom & Jerry's \"best\", 'of'"),
        ("\ud83d cut \x00 off\x1b[0m\u2028", "cut off [0m"),
        ("Pokémon 寿司 😀", "Pokémon 寿司 😀"),
        ("&amp;lt;", "&lt;"),  # what was escaped twice is unescaped once: this may be the title
        (None, ""),
        (["a"], ""),
    ],
)
def test_texts_come_to_one_clean_line(value, text):
    assert clean_text(value) == text


@pytest.mark.parametrize("value", [None, "", "  ", "a\nb", "\ud800", "a\x00", 1.5, True, ["a"]])
def test_ids_that_no_file_could_hold_are_bad(value):
    with pytest.raises(BadLine, match="user"):
        raw_id(value, "user")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("978300760", 978300760), (1.5, 1.5), ("1970-01-02", 86400), ("1970-01-01T02:00:00+01:00", 3600)],
)
def test_times_are_numbers_or_iso_dates_in_utc(value, seconds):
    assert time(value, "time") == seconds


@pytest.mark.parametrize("value", [None, "", "nan", "inf", "soon", True, [1]])
def test_times_that_are_none_are_bad(value):
    with pytest.raises(BadLine, match="time"):
        time(value, "time")


# --- formats ----------------------------------------------------------------------------------------------


def test_amazon_2014(tmp_path):
    review = {"reviewerID": "A1", "asin": "0001", "overall": 4.0, "unixReviewTime": 1400000000, "reviewText": "x"}
    without = {key: value for key, value in review.items() if key != "overall"}
    wrong = [{**review, "asin": None}, {**review, "unixReviewTime": "May"}, {**review, "overall": "good"}]
    file = raw(tmp_path, "\n".join([json.dumps(review), repr(without), *map(json.dumps, wrong)]))
    first, second = AMAZON_2014.interactions(file)
    assert first == ("A1", "0001", 4.0, 1400000000.0)
    assert second[:2] == ("A1", "0001")
    assert math.isnan(second[2])
    assert faults(file) == {"no asin": [3], "unixReviewTime is not a number": [4], "overall is not a number": [5]}


def test_amazon_2014_meta(tmp_path):
    full = {
        "asin": "0001",
        "title": "Shampoo &amp; more",
        "brand": "Acme",
        "categories": [["Beauty", "Hair Care", "Shampoos"], ["Beauty", "Gifts"]],
        "related": {"also_bought": ["0002"]},
    }
    file = raw(tmp_path, f"{full!r}\n{ {'asin': '0002'}!r}\n")
    assert list(AMAZON_2014.items(file, ANY)) == [
        (
            "0001",
            {
                "title": "Shampoo & more",
                "category": "Hair Care",
                "categories": "Beauty > Hair Care > Shampoos | Beauty > Gifts",
                "brand": "Acme",
            },
        ),
        ("0002", {"title": "", "category": "", "categories": "", "brand": ""}),
    ]


def test_meta_lines_of_items_that_nobody_wants_are_told_by_their_start(tmp_path):
    lines = [
        "{'asin': 'B1', 'title': 'one'}",
        "{'asin': 'B2', oops",
        "{'title': \"'asin': 'B2'\", 'asin': 'B1'}",
        "{'asin': 'B1, oops",
    ]
    file = raw(tmp_path, "\n".join(lines))
    assert [(name, texts.get("title")) for name, texts in AMAZON_2014.items(file, {"B1"})] == [
        ("B1", "one"),
        ("B2", None),
        ("B1", "'asin': 'B2'"),
    ]
    assert [where for _, where in file.malformed.values()] == [[4]]


def test_amazon_2023(tmp_path):
    review = {"user_id": "AE", "parent_asin": "B0P", "asin": "B0A", "rating": 5.0, "timestamp": 1588687728923}
    file = raw(tmp_path, json.dumps(review))
    assert list(AMAZON_2023.interactions(file)) == [("AE", "B0P", 5.0, 1588687728923.0)]
    items = [
        {"parent_asin": "B0P", "title": "Pad", "main_category": "Video Games", "categories": [], "store": "Nin"},
        {"parent_asin": "B0Q", "title": None, "main_category": None, "categories": ["Video Games", "PC"]},
    ]
    (_, first), (_, second) = AMAZON_2023.items(raw(tmp_path, "\n".join(map(json.dumps, items))), ANY)
    assert first == {"title": "Pad", "category": "Video Games", "categories": "", "brand": "Nin"}
    assert second == {"title": "", "category": "PC", "categories": "Video Games > PC", "brand": ""}


def test_movielens(tmp_path):
    ratings = raw(tmp_path, "1::1193::5::978300760\n1::661::3\n2::9::x::978302109\n")
    assert list(MovieLens().interactions(ratings)) == [("1", "1193", 5.0, 978300760.0)]
    assert faults(ratings) == {"3 fields between '::' instead of 4": [2], "Rating is not a number": [3]}
    movies = raw(tmp_path, "73::Misérables, Les (1995)::Drama|Musical\r\n".encode("latin-1"))
    assert list(MovieLens().items(movies, ANY)) == [
        ("73", {"title": "Misérables, Les (1995)", "category": "Drama", "categories": "Drama | Musical"})
    ]
    users = raw(tmp_path, "1::F::1::10::48067\n")
    assert list(MovieLens().users(users, ANY)) == [
        ("1", {"gender": "F", "age": "1", "occupation": "10", "zip_code": "48067"})
    ]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
def test_movielens_titles_are_read_in_either_encoding(tmp_path, encoding):
    films = "1::Am\u00e9lie (2001)::Comedy\n2::Mis\u00e8re & \u00c0 bout (1995)::Drama\n".encode(encoding)
    titles = [texts["title"] for _, texts in MovieLens().items(raw(tmp_path, films), ANY)]
    assert titles == ["Am\u00e9lie (2001)", "Mis\u00e8re & \u00c0 bout (1995)"]


def test_amazon_2018_meta_has_its_path_in_category_and_page_source_ends_it(tmp_path):
    line = {
        "asin": "B1",
        "category": ["Clothing", "Shoes & Bags", "</span></span></span>", "100% Cotton"],
        "title": "A",
    }
    bare = {"asin": "B2", "category": [], "main_cat": "Fashion", "title": "B"}
    file = raw(tmp_path, "".join(json.dumps(entry) + "\n" for entry in (line, bare)))
    items = dict(AMAZON_2014.items(file, ANY))
    assert (items["B1"]["category"], items["B1"]["categories"]) == ("Shoes & Bags", "Clothing > Shoes & Bags")
    assert items["B2"]["category"] == "Fashion"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("var aPageStart = (new Date()).getTime();", True),
        ("<script type='text/javascript'> P.when('A')", True),
        ('<img src="https://x/y.png" alt="Fashion" />', True),
        ('<div id="title', True),
        (".a-box-inner{background-color:#fff}", True),
        ("function f() { return 1; }", True),
        ("I <3 You", False),
        ("Toy (Age > 3) {2-Pack: red}", False),
        ("Functional Training; var. edition", False),
        ("The Window. Kit = 3", False),
        ("A <i>fine</i> spoon", False),
    ],
)
def test_page_source_is_told_from_titles(text, expected):
    assert is_page_source(text) == expected


def test_recbole_separators_are_found_in_line_1(tmp_path):
    for separator in ("\t", " ", ","):
        text = "user_id:token item_id:token timestamp:float\n007 7 3\n".replace(" ", separator)
        reader = table(typed=True, delimiter=None)
        assert list(reader.interactions(raw(tmp_path, text)))[0][:2] == ("007", "7")
    given = table(typed=True, delimiter=";")
    text = "user_id:token;item_id:token;timestamp:float\n007;7;3\n"
    assert list(given.interactions(raw(tmp_path, text)))[0][:2] == ("007", "7")


def test_recbole(tmp_path):
    reader = table(typed=True, delimiter="\t", renames={"title": "movie_title"})
    file = raw(tmp_path, 'user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t"7\t5\t978300760.0\n')
    assert list(reader.interactions(file)) == [("1", '"7', 5.0, 978300760.0)]  # a quote is a character like any other
    items = raw(tmp_path, "item_id:token\tmovie_title:token_seq\tclass:token_seq\n7\tToy Story\tAnimation Comedy\n")
    assert list(reader.items(items, ANY)) == [("7", {"title": "Toy Story", "class": "Animation Comedy"})]
    with pytest.raises(DataError, match=r"'user_id' has none of the types.*the format csv with --delimiter tab"):
        list(reader.interactions(raw(tmp_path, "user_id\titem_id\n1\t2\n")))


def test_csv_rows_over_several_lines_and_rows_that_are_none(tmp_path):
    text = 'item_id,title,shelf\n1,"Say ""hi"",\nyou",a\n2,x\n3,y,z\n\n,t,b\n'
    file = raw(tmp_path, text.encode() + b"4,\xff,c\n5,\xe2\x82\xac,d\n")
    assert list(table().items(file, ANY)) == [
        ("1", {"title": 'Say "hi", you', "shelf": "a"}),
        ("3", {"title": "y", "shelf": "z"}),
        ("5", {"title": "€", "shelf": "d"}),
    ]
    assert faults(file) == {"2 fields instead of 3": [4], "no item_id": [7], "not UTF-8": [8]}


def test_csv_columns_by_other_names_and_files_without_names(tmp_path):
    reader = table(renames={"user_id": "who", "timestamp": "day"}, delimiter=";")
    file = raw(tmp_path, "day;item_id;who;rating\n1970-01-02;x;ann;\n")
    ((user, item, rating, when),) = reader.interactions(file)
    assert (user, item, when) == ("ann", "x", 86400.0)
    assert math.isnan(rating)
    assert reader.unseen() == []
    bare = table(header=["user_id", "item_id", "rating", "timestamp"])
    assert list(bare.interactions(raw(tmp_path, "ann,x,4,7\n"))) == [("ann", "x", 4.0, 7.0)]
    assert table(renames={"title": "name"}).unseen() == ["name"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("user,item\n1,2\n", r"no column 'user_id' among \['user', 'item'\].*--column user_id=NAME"),
        ("user_id,item_id,user_id\n", "'user_id' is there twice"),
        ("user_id,item_id,label\n1,2,0\n", r"column 'label'.*--column rating=label --min-rating 1"),
    ],
)
def test_csv_that_cannot_be_understood(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        list(table().interactions(raw(tmp_path, text)))


def test_an_unclosed_quote_does_not_swallow_the_file(tmp_path):
    """A field ends at 128 KiB, the limit of the csv module; every line in it counts as malformed."""
    rows = "".join(f"u{number},i{number}\n" for number in range(20_000))
    file = raw(tmp_path, f'user_id,item_id\nu,x\n"u,x\n{rows}')
    read = [user for user, *_ in table().interactions(file)]
    assert read[-1] == "u19999"
    ((lost, where),) = file.malformed.values()
    assert (len(read) + lost, where) == (20_002, [3])
    assert 5_000 < len(read) < 15_000


@pytest.mark.parametrize("module", ["raw.lines", "raw.amazon", "splits", "preparing"])
def test_docstring_examples(module):
    result = doctest.testmod(importlib.import_module(f"sllmr_plugin.datasets.{module}"))
    assert result.failed == 0
    assert result.attempted > 0
