"""Candidates: what may never be drawn, what must be covered, and that more users leave the others alone."""

import doctest
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin.cli import main
from sllmr_plugin.datasets.demo import demo_paths, load_demo
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import ConfigError, CoverageWarning, DataError
from sllmr_plugin.scores.origin import read_metadata
from sllmr_plugin.scoring import candidates as module
from sllmr_plugin.scoring.candidates import CandidateSettings, draw_candidates, read_categories


@pytest.fixture(scope="module")
def demo():
    data, _ = load_demo()
    return data, read_categories(demo_paths().items)


def raw_pairs(data, split):
    rows = getattr(data, split)
    return set(zip(data.user_ids[rows["user"] - 1], data.item_ids[rows["item"] - 1], strict=True))


def pairs_of(frame):
    return set(zip(frame["user_id"], frame["item_id"], strict=True))


def small(n_users=6, n_items=30, length=5, **columns):
    """Users 0, 1, ... with `length` items each, next to each other in the catalogue."""
    rows = [(user, (3 * user + step) % n_items) for user in range(n_users) for step in range(length)]
    items = pd.DataFrame({"item_id": range(n_items), "title": [f"title {item}" for item in range(n_items)], **columns})
    return load_interactions(pd.DataFrame(rows, columns=["user_id", "item_id"]), items), items


# --- what may never happen ----------------------------------------------------------------------------------


def test_own_items_are_never_candidates_and_probes_are_validation_items(demo):
    data, categories = demo
    drawn = draw_candidates(data, categories=categories).frame
    candidates, probes = (pairs_of(drawn[drawn["kind"] == kind]) for kind in ("candidate", "probe"))
    seen = raw_pairs(data, "train") | raw_pairs(data, "valid")
    assert len(candidates) == 20 * data.n_users
    assert not candidates & seen
    assert probes <= raw_pairs(data, "valid")
    assert not probes & raw_pairs(data, "test")
    assert not drawn.duplicated(["user_id", "item_id"]).any()
    assert ((drawn["source"] == "probe") == (drawn["kind"] == "probe")).all()


def test_test_items_are_drawn_like_any_unseen_item():
    """20 items, 4 popular ones and no other: each user's test item is one of the 4, and comes up by chance."""
    rows = [(user, item) for user in range(400) for item in (4 + user % 16, 4 + (user + 5) % 16, user % 4)]
    rows += [(1000 + user, user % 4) for user in range(200)]  # keeps the four most popular in training
    data = load_interactions(pd.DataFrame(rows, columns=["user_id", "item_id"]))
    test = raw_pairs(data, "test")
    drawn = draw_candidates(data, per_user=2, pool=4, tail_share=0, diverse_share=0, catalogue_share=0).frame
    asked = drawn[(drawn["user_id"] < 1000) & (drawn["kind"] == "candidate")]
    assert len(asked) == 800
    hits = len(pairs_of(asked) & test)
    assert abs(hits - 200) < 5 * np.sqrt(400 * 0.5 * 0.5)  # 2 of 4, for 400 users


def test_negatives_that_train_are_not_drawn_either():
    frame = pd.DataFrame(
        {"user_id": [1] * 6, "item_id": range(6), "label": [1, 0, 0, 1, 1, 1], "split": ["train"] * 4 + ["valid"] * 2}
    )
    data = load_interactions(frame, pd.DataFrame({"item_id": range(10)}))
    drawn = draw_candidates(data, per_user=4, probe_share=1, tail_share=0.5, diverse_share=0).frame
    assert sorted(drawn.loc[drawn["kind"] == "candidate", "item_id"]) == [6, 7, 8, 9]
    assert drawn.loc[drawn["kind"] == "probe", "item_id"].isin([4, 5]).tolist() == [True]


def test_items_without_title_are_not_drawn():
    data, items = small()
    items.loc[10:19, "title"] = ["", None] * 5
    data = load_interactions(pd.DataFrame({"user_id": [1, 1, 1], "item_id": [1, 2, 3]}), items)
    with pytest.warns(CoverageWarning, match="no user has a probe"):
        drawn = draw_candidates(data, per_user=18).frame
    assert set(drawn["item_id"]) == set(range(30)) - {1, 2} - set(range(10, 20))
    items["title"] = ""
    with pytest.raises(DataError, match="no item has a title"):
        draw_candidates(load_interactions(pd.DataFrame({"user_id": [1], "item_id": [1]}), items))


# --- what must be covered -----------------------------------------------------------------------------------


def test_sources_and_their_shares(demo):
    data, categories = demo
    frame = draw_candidates(data, pool=50, categories=categories).frame
    code = data.item_index[frame["item_id"]].to_numpy()
    history = data.history_length[data.user_index[frame["user_id"]].to_numpy()]
    popularity = data.popularity[1:]
    of = {source: (frame["source"] == source).to_numpy() for source in frame["source"].unique()}
    # At most 50 - 1 items are more popular than one of the pool; the tail is the least popular tenth, with ties.
    more_popular = (popularity[None, :] > data.popularity[code[of["popular"]]][:, None]).sum(axis=1)
    assert more_popular.max() < 50
    bound = np.sort(popularity)[int(0.1 * len(popularity)) - 1]
    assert data.popularity[code[of["long_tail"]]].max() <= bound
    assert set(code[of["long_tail"]]) == set(np.flatnonzero(popularity <= bound) + 1)
    assert history[of["cold_diverse"]].max() <= 3
    per_user = frame[frame["kind"] == "candidate"].groupby("user_id").size()
    assert (per_user == 20).all()
    tail_per_user = frame[of["long_tail"]].groupby("user_id").size()
    assert tail_per_user.max() == 4
    assert tail_per_user.mean() > 3.9  # fewer only where an item dealt is the user's own or dealt twice


def test_long_tail_items_get_about_as_many_users(demo):
    data, categories = demo
    drawn = draw_candidates(data, users=500, tail_share=0.3, diverse_share=0, pool=50, categories=categories)
    counts = drawn.frame.loc[drawn.frame["source"] == "long_tail", "item_id"].value_counts()
    # 3,000 deals over 40 items are 75 each; own items, few in the tail, can only take away.
    assert 60 <= counts.min() <= counts.max() <= 76


def test_every_item_of_the_pool_comes_up_about_as_often(demo):
    data, _ = demo
    settings = CandidateSettings(per_user=10, pool=100, tail_share=0, diverse_share=0, catalogue_share=0)
    frame = draw_candidates(data, **asdict(settings)).frame
    code = data.item_index[frame.loc[frame["source"] == "popular", "item_id"]].to_numpy()
    shown = np.bincount(code, minlength=data.n_items + 1)
    seen = pd.concat([data.train[["user", "item"]], data.valid]).drop_duplicates()
    could = data.n_users - np.bincount(seen["item"], minlength=data.n_items + 1)
    rate = shown[shown > 0] / could[shown > 0]
    assert len(rate) == 100
    assert np.abs(rate - 0.1).max() < 0.035  # 5 standard deviations of about 0.0067, and a little for own items


def test_diverse_items_span_categories_and_popularity(demo):
    data, categories = demo
    frame = draw_candidates(data, tail_share=0, diverse_share=0.3, categories=categories).frame
    diverse = frame[frame["source"] == "cold_diverse"]
    label = pd.Series(categories, index=data.item_ids)[diverse["item_id"]].to_numpy()
    # Six items over five categories: all five, but where the tries found the user's own items only.
    n_labels = pd.Series(label).groupby(diverse["user_id"].to_numpy()).nunique()
    assert n_labels.min() >= 4
    assert (n_labels == 5).mean() > 0.9
    # Within its category each of a user's items comes from another sixth of the popularity ranking.
    rank = pd.Series(data.popularity[1:]).groupby(categories).rank(method="min", ascending=False, pct=True)
    mean_rank = pd.Series(rank.to_numpy(), index=data.item_ids)[diverse["item_id"]].groupby(
        diverse["user_id"].to_numpy()
    )
    spread = mean_rank.max() - mean_rank.min()
    assert spread.median() > 0.6


def test_without_categories_each_band_of_popularity_gives_one():
    """24 items of popularity 24 .. 1 and 4 diverse items: one of each quarter, whatever the user."""
    rows = [(1000 + user, item) for item in range(24) for user in range(2 * (24 - item))]
    rows += [(user, 24 + user) for user in range(40)]  # cold users, whose own item is none of the 24
    items = pd.DataFrame({"item_id": range(64), "title": ["t"] * 24 + [""] * 40})  # only the 24 can be drawn
    train = pd.DataFrame(rows, columns=["user_id", "item_id"]).assign(split="train")
    data = load_interactions(train, items)
    only_cold = {"users": 42, "cold_share": 1, "cold_history": 1}  # the 40, and 2 who took item 0 alone
    settings = CandidateSettings(
        per_user=4, tail_share=0, diverse_share=1, catalogue_share=0, probe_share=0, **only_cold
    )
    frame = draw_candidates(data, **asdict(settings)).frame
    frame = frame[frame["user_id"] < 1000]
    assert set(frame["source"]) == {"cold_diverse"}
    quarters = (frame["item_id"] // 6).groupby(frame["user_id"]).agg(sorted)
    assert quarters.tolist() == [[0, 1, 2, 3]] * 40
    assert frame["item_id"].nunique() == 24


def test_the_whole_catalogue_is_drawn_from_alike_for_everyone(demo):
    """8 of 400 items for each of 2,000 users: one from each eighth by popularity, each item as often as any other."""
    data, _ = demo
    drawn = draw_candidates(data, per_user=20, tail_share=0, diverse_share=0.6).frame
    frame = drawn[drawn["source"] == "catalogue"]
    code = data.item_index[frame["item_id"]].to_numpy()
    seen = pd.concat([data.train[["user", "item"]], data.valid]).drop_duplicates()
    could = data.n_users - np.bincount(seen["item"], minlength=data.n_items + 1)[1:]
    rate = np.bincount(code, minlength=data.n_items + 1)[1:] / could
    expected = 8 / data.n_items
    warm = data.history_length[data.user_index[frame["user_id"]].to_numpy()] > 3
    assert 0.3 < warm.mean() < 0.7  # cold users and others
    assert rate.mean() == pytest.approx(expected, rel=0.1)
    assert np.abs(rate - rate.mean()).max() < 6 * np.sqrt(expected / data.n_users)
    band = pd.Series(data.popularity[1:]).rank(method="first", ascending=False).sub(1).floordiv(data.n_items / 8)
    bands = pd.Series(band.to_numpy()[code - 1]).groupby(frame["user_id"].to_numpy()).nunique()
    assert bands.mean() > 7  # but for ties, and where a diverse item is the same


def test_probes_are_taken_alike_from_cold_users_and_others(demo):
    data, categories = demo
    drawn = draw_candidates(data, users=1000, probe_share=0.25, categories=categories)
    users = data.user_index[drawn.frame.loc[drawn.frame["kind"] == "probe", "user_id"]].to_numpy()
    cold = (data.history_length[users] <= 3).sum()
    assert (cold, len(users) - cold) == (125, 125)
    assert (drawn.summary.cold_probes, drawn.summary.probes) == (125, 250)
    assert drawn.summary.known_cold_users == data.train["user"].value_counts().between(1, 3).sum()


def test_users_without_training_interactions_are_not_asked_about():
    rows = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 3], "split": ["train", "valid", "valid"]})
    data = load_interactions(rows, pd.DataFrame({"item_id": range(9)}))
    drawn = draw_candidates(data, per_user=5, probe_share=1)
    assert set(drawn.frame["user_id"]) == {1}
    assert drawn.summary.unknown_users == 1
    assert "(1 without are left out)" in str(drawn.summary)


@pytest.mark.parametrize(("cold_share", "users", "expected"), [(0.5, 200, 100), (0.0, 200, 0), (1.0, 1500, 1097)])
def test_cold_share_as_far_as_there_are_users(demo, cold_share, users, expected):
    summary = draw_candidates(demo[0], users=users, cold_share=cold_share).summary
    assert (summary.users, summary.cold_users) == (users, expected)


# --- the same again, and more -------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(fewer=st.integers(1, 60), more=st.integers(1, 60), seed=st.integers(0, 3))
def test_more_users_leave_the_others_as_they_were(fewer, more, seed):
    data, items = small(n_users=60, n_items=40, category=["a", "b", "c", "d"] * 10)
    fewer, more = sorted((fewer, more))
    categories = read_categories(items)
    drawn = [
        draw_candidates(data, users=users, per_user=8, pool=15, probe_share=1, seed=seed, categories=categories).frame
        for users in (fewer, more)
    ]
    common = drawn[1][drawn[1]["user_id"].isin(drawn[0]["user_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(common, drawn[0])
    assert drawn[0]["user_id"].nunique() == fewer


def test_the_seed_decides(demo):
    data, categories = demo
    first, again, other = (
        draw_candidates(data, users=100, seed=seed, categories=categories).frame for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    assert len(pairs_of(first) & pairs_of(other)) < 0.1 * len(first)


def test_ids_shared_by_users_and_items_do_not_tie_the_draws():
    """User 7 and item 9 must not be drawn just because user 9 and item 7 are."""
    data, _ = small(n_users=30, n_items=60)
    with pytest.warns(CoverageWarning, match="fewer than 20"):
        frame = draw_candidates(data, pool=15, tail_share=0, diverse_share=0, catalogue_share=0).frame
    frame = draw_candidates(data, per_user=6, pool=60, tail_share=0, diverse_share=0, catalogue_share=0).frame
    pairs = {pair for pair in pairs_of(frame) if max(pair) < 30}
    mirrored = sum((item, user) in pairs for user, item in pairs)
    assert mirrored < 0.4 * len(pairs)  # a symmetric key would make nearly all of them so; chance is a fifth


def test_users_stand_in_random_order(demo):
    frame = draw_candidates(demo[0]).frame
    users = demo[0].user_index[frame["user_id"].unique()].to_numpy()
    assert abs(np.corrcoef(np.arange(len(users)), users)[0, 1]) < 0.1
    assert (frame["user_id"] != frame["user_id"].shift()).sum() == frame["user_id"].nunique()  # together


# --- messages -----------------------------------------------------------------------------------------------


def test_settings_name_every_problem():
    with pytest.raises(ConfigError, match=r"users=0 must be at least 1; probe_share=1.5 must lie in \[0, 1\]"):
        CandidateSettings(users=0, probe_share=1.5)
    with pytest.raises(ConfigError, match="diverse_share and catalogue_share are more than 1 together, lower one"):
        CandidateSettings(tail_share=0.4, diverse_share=0.4, catalogue_share=0.3)
    with pytest.raises(ConfigError, match=r"seed=18446744073709551616 must lie in \[0, "):
        CandidateSettings(seed=2**64)
    with pytest.raises(ConfigError, match="pool=-1"):
        CandidateSettings(pool=-1)
    with pytest.raises(ConfigError, match="cold_share=nan"):
        CandidateSettings(cold_share=float("nan"))


def test_too_small_a_pool_is_said():
    data, _ = small()
    settings = CandidateSettings(per_user=20, pool=5, tail_share=0, diverse_share=0, catalogue_share=0)
    with pytest.warns(CoverageWarning, match="6 of 6 users get fewer than 20 candidates. Raise pool or lower per_user"):
        summary = draw_candidates(data, **asdict(settings)).summary
    assert summary.users_short == 6


def test_the_summary_counts_what_is_there(demo):
    data, categories = demo
    drawn = draw_candidates(data, users=300, categories=categories)
    frame, summary = drawn.frame, drawn.summary
    asked = frame[frame["kind"] == "candidate"]
    assert summary.users == frame["user_id"].nunique() == 300
    assert summary.candidates == len(asked)
    assert summary.items == asked["item_id"].nunique()
    tail = {item for item, count in zip(data.item_ids, data.popularity[1:], strict=True) if count <= 2}
    assert summary.tail_popularity == 2
    assert summary.catalogue_tail == len(tail)
    counts = asked.loc[asked["item_id"].isin(tail), "item_id"].value_counts()
    assert summary.tail_users[::2] == (counts.min(), counts.max())
    assert summary.tail_items == len(counts)
    text = str(summary)
    assert text.startswith(f"{len(asked)} candidates and {summary.probes} probes of 300 users: 300 prompts of about 20")
    assert "of 2000 (15%) with a training interaction" in text


def test_categories_are_read_in_the_order_of_the_codes():
    items = pd.DataFrame({"item_id": [3, 1, 2], "category": ["x", None, "y"]})
    assert read_categories(items).tolist() == ["x", "", "y"]
    assert read_categories(items[["item_id"]]) is None


def test_the_example_in_the_docstring():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_writes_the_file_and_prints_what_it_covers(tmp_path, capsys):
    paths, out = demo_paths(), tmp_path / "new" / "candidates.parquet"
    flags = ["--users", "50", "--per-user", "8", "--probe-share", "0.5", "--seed", "3", "--pool", "40"]
    files = ["--interactions", str(paths.interactions), "--items", str(paths.items)]
    assert main(["candidates", *files, *flags, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    settings = CandidateSettings(users=50, per_user=8, probe_share=0.5, seed=3, pool=40)
    expected = draw_candidates(load_demo()[0], **asdict(settings), categories=read_categories(paths.items))
    pd.testing.assert_frame_equal(pd.read_parquet(out), expected.frame)
    assert list(expected.frame.columns) == ["user_id", "item_id", "kind", "source"]
    assert str(expected.summary) in printed
    origin = read_metadata(out)
    assert CandidateSettings(**origin["settings"]) == settings
    assert origin["counts"]["probes"] == expected.summary.probes


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "x.csv"], "x.csv: cannot be written as parquet; give a file name that ends in .parquet"),
        (
            ["--out", "x.parquet", "--tail-share", "0.8"],
            "tail_share, diverse_share and catalogue_share are more than 1 together",
        ),
    ],
)
def test_the_command_refuses_in_one_line(flags, message, capsys):
    paths = demo_paths()
    assert main(["candidates", "--interactions", str(paths.interactions), "--items", str(paths.items), *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--probe-share", "2"], "argument --probe-share: 2.0 must lie in [0, 1]"),
        (["--users", "0"], "argument --users: 0 must be at least 1"),
        (["--per-user", "many"], "argument --per-user: 'many' is text, but a whole number is wanted"),
    ],
)
def test_a_flag_is_checked_as_its_setting_is(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["candidates", "--interactions", "x.csv", "--items", "y.csv", "--out", "z.parquet", *flags])
    assert message in capsys.readouterr().err
