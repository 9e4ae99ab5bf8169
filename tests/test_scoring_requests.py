"""Requests: titles and histories against the interactions by hand, the shuffle, and every refusal."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import ConfigError, CoverageWarning, DataError
from sllmr_plugin.scoring.requests import plan_requests, prompt_order

ITEMS = pd.DataFrame({"item_id": range(10), "title": [f"title {item}" for item in range(10)]})
# User 7: 0, 1, 2 train, 3 valid, 4 test; user 5: 6 trains, 7 valid, 8 test; 9 was shown to user 5 and not taken.
CLICKS = pd.DataFrame(
    {
        "user_id": [7] * 5 + [5] * 4,
        "item_id": [0, 1, 2, 3, 4, 9, 6, 7, 8],
        "label": [1] * 5 + [0, 1, 1, 1],
        "split": ["train"] * 3 + ["valid", "test", "train", "train", "valid", "test"],
    }
)
PAIRS = pd.DataFrame(
    {
        "user_id": [7, 5, 7, 7, 5],
        "item_id": [5, 0, 6, 3, 4],
        "kind": ["candidate", "candidate", "candidate", "probe", "candidate"],
        "source": "by hand",
    }
)


@pytest.fixture
def data():
    return load_interactions(CLICKS, ITEMS)


def test_a_request_a_user_in_raw_ids_with_titles(data):
    first, second = plan_requests(PAIRS, data)
    assert (first.user_id, second.user_id) == (7, 5)  # in the order of the table
    assert first.history == ("title 0", "title 1", "title 2")
    assert second.history == ("title 6",)  # 9 was not taken
    assert sorted(first.item_ids) == [3, 5, 6]
    assert sorted(second.item_ids) == [0, 4]
    for request in (first, second):
        assert request.titles == tuple(f"title {item}" for item in request.item_ids)
        assert all(type(value) is int for value in (request.user_id, *request.item_ids))  # as JSON takes them
        assert request.repeat == 0


def test_text_ids_come_out_as_they_are():
    clicks, items = CLICKS.astype({"user_id": str, "item_id": str}), ITEMS.astype({"item_id": str})
    pairs = PAIRS.astype({"user_id": str, "item_id": str})
    first = next(iter(plan_requests(pairs, load_interactions(clicks, items))))
    assert first.user_id == "7"
    assert all(type(item) is str for item in first.item_ids)
    assert sorted(first.item_ids) == ["3", "5", "6"]


@pytest.mark.parametrize(("length", "expected"), [(2, ("title 1", "title 2")), (0, ()), (3, ("title 0",) * 1)])
def test_the_history_ends_with_the_latest(data, length, expected):
    history = next(iter(plan_requests(PAIRS, data, history_length=length))).history
    assert history[: len(expected)] == expected
    assert len(history) == length


def test_repeats_ask_everyone_again_in_another_order():
    items = pd.DataFrame({"item_id": range(30), "title": [f"t{item}" for item in range(30)]})
    data = load_interactions(CLICKS, items)
    pairs = pd.DataFrame({"user_id": [7] * 20 + [5] * 20, "item_id": [*range(10, 30)] * 2})
    plan = plan_requests(pairs, data, repeats=3, seed=4)
    requests = list(plan)
    assert len(plan) == len(requests) == 6
    assert [(r.repeat, r.user_id) for r in requests] == [(0, 7), (0, 5), (1, 7), (1, 5), (2, 7), (2, 5)]
    assert len({request.item_ids for request in requests}) == 6
    assert all(sorted(request.item_ids) == list(range(10, 30)) for request in requests)
    assert list(plan) == requests  # can be gone through again
    assert list(plan_requests(pairs, data, repeats=1, seed=4)) == requests[:2]  # more repeats keep the first
    assert next(iter(plan_requests(pairs, data, seed=5))).item_ids != requests[0].item_ids


def test_the_order_of_the_table_does_not_change_what_is_asked(data):
    shuffled = PAIRS.sample(frac=1, random_state=1)
    one, other = ({r.user_id: r for r in plan_requests(table, data)} for table in (PAIRS, shuffled))
    assert one == other


def test_probes_are_unmarked(data):
    """Nothing but the id tells a probe apart: with the kinds gone the same is asked of another data set."""
    with_probe = next(iter(plan_requests(PAIRS, data)))
    later = load_interactions(CLICKS.assign(split=CLICKS["split"].replace("valid", "test")), ITEMS)
    assert next(iter(plan_requests(PAIRS.assign(kind="candidate"), later))) == with_probe


@given(st.permutations(["a", "b", "c", "d"]), st.integers(0, 5))
def test_the_shuffle_depends_on_seed_user_and_repeat_alone(items, repeat):
    assert prompt_order("u", items, repeat=repeat) == prompt_order("u", ["a", "b", "c", "d"], repeat=repeat)


def test_every_place_is_as_likely():
    first = [prompt_order(user, list(range(5)))[0] for user in range(2000)]
    counts = pd.Series(first).value_counts()
    assert len(counts) == 5
    assert (counts - 400).abs().max() < 5 * (2000 * 0.2 * 0.8) ** 0.5


def test_the_shuffle_is_the_same_in_every_process():
    """Taken from a run: hash() of a text differs from process to process, and answers paid for hang on the order."""
    assert "".join(prompt_order("ann", list("abcdefgh"), repeat=1, seed=7)) == "edcfhbga"


def test_pairs_without_a_title_are_left_out_and_said():
    items = ITEMS.assign(title=ITEMS["title"].where(~ITEMS["item_id"].isin([1, 5, 4])))
    data = load_interactions(CLICKS, items)
    with pytest.warns(CoverageWarning, match=r"2 of 5 candidates are left out.*item 5.*Add the titles"):
        of = {request.user_id: request for request in plan_requests(PAIRS, data)}
    assert (sorted(of[7].item_ids), of[5].item_ids) == ([3, 6], (0,))
    assert of[7].history == ("title 0", "title 2")
    with pytest.raises(DataError, match="no candidate has a title"), pytest.warns(CoverageWarning):
        plan_requests(PAIRS[PAIRS["item_id"] == 5], data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": [7, 5, 7, 8, 5]}, r"row 3 .*user_id is 8, which the interactions do not hold \(an id of theirs"),
        ({"item_id": [5, 0, 6, 3, 99]}, "row 4 .*item_id is 99, which the items do not hold.*use the files"),
        ({"user_id": list("75775")}, r"user_id is '7' \(5 such rows\), which the interactions do not hold"),
        ({"item_id": [5, 0, 5, 3, 4]}, "row 2 .*item_id is 5, again for the same user; keep one row a pair"),
        ({"kind": ["candidate"] * 5}, "row 3 .*item_id is 3, a validation item of this user that is not a probe"),
        ({"kind": ["probe"] * 5}, r"row 0 .*item_id is 5 \(4 such rows\), a probe that is not a validation item"),
        ({"kind": ["other"] * 5}, r"kind is 'other' \(5 such rows\); write candidate or probe"),
    ],
)
def test_a_wrong_table_is_refused_with_row_and_remedy(data, change, message):
    with pytest.raises(DataError, match=message):
        plan_requests(PAIRS.assign(**change), data)


def test_a_test_item_as_probe_is_refused(data):
    pairs = pd.DataFrame({"user_id": [7, 7], "item_id": [5, 4], "kind": ["candidate", "probe"]})
    with pytest.raises(DataError, match="item_id is 4, a probe that is not a validation item of this user"):
        plan_requests(pairs, data)


def test_titles_are_needed(data):
    with pytest.raises(DataError, match="the items have no titles.*give an items file"):
        plan_requests(PAIRS, load_interactions(CLICKS, ITEMS[["item_id"]]))
    with pytest.raises(ConfigError, match="repeats is 0"):
        plan_requests(PAIRS, data, repeats=0)


def test_files_are_read_too(data, tmp_path):
    PAIRS.to_csv(tmp_path / "pairs.csv", index=False)
    PAIRS.to_parquet(tmp_path / "pairs.parquet")
    expected = list(plan_requests(PAIRS, data))
    assert list(plan_requests(tmp_path / "pairs.csv", data)) == expected
    assert list(plan_requests(str(tmp_path / "pairs.parquet"), data)) == expected
    with pytest.raises(DataError, match="nowhere.csv: no such file"):
        plan_requests(tmp_path / "nowhere.csv", data)
