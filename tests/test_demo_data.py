"""The bundled demo data: what the generator makes, and as uneven as its documentation says."""

import re

import numpy as np
import pandas as pd
import pytest

from benchmarks.demo_data import __main__ as demo_generator
from benchmarks.demo_data.reasoning import REASON_WORDS
from benchmarks.demo_data.texts import CATEGORY_WORDS, QUALITY_WORDS, THEME_WORDS
from sllmr_plugin.datasets.demo import demo_paths, load_demo


@pytest.fixture(scope="module")
def world():
    return demo_generator.generate_demo()


@pytest.fixture(scope="module")
def bundled():
    paths = demo_paths()
    return pd.read_csv(paths.interactions), pd.read_csv(paths.items), pd.read_parquet(paths.scores)


def test_the_bundled_texts_are_what_the_generator_writes(world):
    pd.testing.assert_frame_equal(world.texts, pd.read_parquet(demo_paths().texts))
    assert world.texts["kind"].value_counts().to_dict() == {"user": 2000, "item": 400, "reasoning": 2000}


def test_the_words_of_the_texts_carry_tastes_themes_and_quality(world):
    """Words alone, by a loop: overlap of a user's and an item's text goes with suitability, praise with quality."""
    texts = world.texts[world.texts["kind"] != "reasoning"].set_index("id")["text"]
    words = {key: set(re.findall(r"[a-z]+", text.lower())) for key, text in texts.items()}
    telling = {word for group in (*CATEGORY_WORDS, *THEME_WORDS) for word in group}
    overlap = np.zeros((200, 400))
    for user in range(200):
        for item in range(400):
            overlap[user, item] = len(words[f"u{user + 1:04d}"] & words[f"i{item + 1:03d}"] & telling)
    taste = world.suitability[:200] - world.suitability.mean(axis=0)  # what of it is not shared by all users
    assert np.corrcoef(overlap.ravel(), taste.ravel())[0, 1] > 0.2
    level = [
        np.mean([level for level, group in enumerate(QUALITY_WORDS) for word in group if word in words[key]] or [2])
        for key in world.items["item_id"]
    ]
    assert np.corrcoef(level, world.suitability.mean(axis=0))[0, 1] > 0.5


def test_texts_do_not_depend_on_what_users_took(world, monkeypatch):
    draw = demo_generator._draw_interactions

    def draw_others(*arguments):
        return draw(*arguments[:-1], np.random.default_rng(99))

    monkeypatch.setattr(demo_generator, "_draw_interactions", draw_others)
    other = demo_generator.generate_demo()
    assert not other.interactions["item_id"].equals(world.interactions["item_id"])
    about_both = (frame[frame["kind"] != "reasoning"] for frame in (other.texts, world.texts))
    pd.testing.assert_frame_equal(*about_both)


def test_reasoning_is_about_training_interactions_and_items_of_no_split(world):
    told = world.texts[world.texts["kind"] == "reasoning"]
    splits = {name: set() for name in ("train", "valid", "test")}
    first = {}
    for user, item, split in world.interactions[["user_id", "item_id", "split"]].itertuples(index=False):
        splits[split].add((user, item))
        first.setdefault(user, item)
    pairs = list(zip(told["id"], told["item_id"], strict=True))
    assert len(set(pairs)) == 2000
    for (user, item), label in zip(pairs, told["label"], strict=True):
        assert ((user, item) in splits["train"]) == label
        assert (user, item) not in splits["valid"] | splits["test"]
        assert first[user] != item  # something came before it
    assert told["label"].value_counts().to_dict() == {1: 1000, 0: 1000}


def test_reasoning_knows_nothing_of_what_is_held_out(world, monkeypatch):
    """Other validation and test interactions change no text, but for the items that are not to be called not taken."""
    draw = demo_generator._draw_interactions

    def other_held_out(taste, quality, exposure, n_train, generator):
        taken = draw(taste, quality, exposure, n_train, generator)
        for user, n in enumerate(n_train):
            taken[user, n : n + 2] = np.setdiff1d(np.arange(400), taken[user, : n + 2])[:2]
        return taken

    monkeypatch.setattr(demo_generator, "_draw_interactions", other_held_out)
    other = demo_generator.generate_demo()
    held_out, told = set(), []
    for made in (world, other):
        late = made.interactions[made.interactions["split"] != "train"]
        held_out |= set(zip(late["user_id"], late["item_id"], strict=True))
        texts = made.texts[made.texts["kind"] == "reasoning"].reset_index(drop=True)
        told.append({(user, item): text for _, user, text, item, _ in texts.itertuples(index=False)})
    assert len(held_out) == 8000
    one, two = told
    assert all(one[pair] == two[pair] for pair in one.keys() & two.keys())
    moved = one.keys() ^ two.keys()
    assert 0 < len(moved) < 100
    # Whose negative item has changed had a held-out one, which was drawn again.
    assert {user for user, _ in moved} == {user for user, _ in moved & held_out}


def test_the_words_of_reasoning_tell_the_label_and_why(world):
    """By counting: reasons for go with taken; praise with quality, what all see with popularity."""
    told = world.texts[world.texts["kind"] == "reasoning"]
    popularity = world.interactions.loc[world.interactions["split"] == "train", "item_id"].value_counts()
    quality = dict(zip(world.items["item_id"], world.suitability.mean(axis=0), strict=True))
    words = told["text"].str.findall(r"[a-z]+")
    has = {
        (reason, for_it): words.map(lambda found, group=group: len(set(found) & set(group)) > 0)
        for reason, groups in enumerate(REASON_WORDS)
        for for_it, group in zip((1, 0), groups, strict=True)
    }
    assert all((told["label"][mask] == for_it).mean() > 0.95 for (_, for_it), mask in has.items())
    assert all(mask.sum() > 50 for mask in has.values())
    goodness, fame = told["item_id"].map(quality), told["item_id"].map(popularity).fillna(0)
    for for_it in (1, 0):
        others = told["label"] == for_it
        sign = 1 if for_it else -1
        assert sign * (goodness[has[1, for_it]].mean() - goodness[others].mean()) > 0.1
        assert sign * (fame[has[2, for_it]].mean() - fame[others].mean()) > 1


def test_the_bundled_files_are_what_the_generator_makes(world, bundled):
    for made, stored in zip((world.interactions, world.items, world.scores), bundled, strict=True):
        pd.testing.assert_frame_equal(made, stored, check_dtype=False)


def test_the_command_writes_the_files_and_prints_the_documented_reliability(tmp_path, capsys):
    demo_generator.main(["--out", str(tmp_path / "new")])
    for path in (*demo_paths(), demo_paths().texts):
        made = tmp_path / "new" / path.name
        if path.name == "items.csv":
            assert made.read_bytes() == path.read_bytes()
        assert made.stat().st_size > 0
    printed = re.findall(r"(cold|warm)\s+(head|tail)\s+(\d+)\s+([\d.]+)", capsys.readouterr().out)
    documented = re.findall(r"^(cold|warm)\s+(head|tail)\s+(\d+)\s+([\d.]+)$", demo_generator.__doc__, re.MULTILINE)
    assert len(printed) == 4
    assert printed == documented


def test_the_files_stay_small():
    assert sum(path.stat().st_size for path in (*demo_paths(), demo_paths().texts)) < 600_000


def test_what_load_demo_gives():
    data, scores = load_demo()
    assert (data.n_users, data.n_items, data.dropped) == (2000, 400, {})
    assert len(data.valid) == len(data.test) == 2000
    assert (data.history_length[1:] < 3).sum() == 800
    assert (data.popularity[1:] == 0).sum() >= 20
    assert data.popularity.max() > 20 * np.median(data.popularity[1:])  # a long tail
    assert data.titles.is_unique
    assert scores["user_id"].isin(data.user_ids).all()
    assert scores["item_id"].isin(data.item_ids).all()


def test_candidates_are_never_the_users_own_and_probes_are_validation_items(bundled):
    interactions, _, scores = bundled
    own, valid = {}, {}
    for user, item, split in interactions[["user_id", "item_id", "split"]].itertuples(index=False):
        own.setdefault(user, set()).add(item)
        if split == "valid":
            valid[user] = item
    per_user = {}
    for user, item, score, kind in scores.itertuples(index=False):
        assert 0 <= score <= 1
        assert kind in ("candidate", "probe")
        if kind == "probe":
            assert item == valid[user]
        else:
            assert item not in own[user]
            per_user.setdefault(user, set()).add(item)
    assert len(per_user) == 700
    assert {len(items) for items in per_user.values()} == {20}
    assert set(scores.loc[scores["kind"] == "probe", "user_id"]) <= set(per_user)
    assert (scores["kind"] == "probe").sum() == 250


def test_probes_show_what_a_gate_should_find(bundled):
    """Region by region from the bundled files alone, by a loop over the probes."""
    interactions, items, scores = bundled
    training = interactions[interactions["split"] == "train"]
    history = training["user_id"].value_counts()
    popularity = training["item_id"].value_counts().reindex(items["item_id"], fill_value=0)
    # the smallest popularity up to which a fifth of the catalogue lies
    threshold = min(v for v in popularity if (popularity <= v).mean() >= 0.2)
    right = {}
    for user, rows in scores.groupby("user_id"):
        probe = rows[rows["kind"] == "probe"]
        if len(probe):
            region = (history[user] < 3, popularity[probe["item_id"].iloc[0]] <= threshold)
            others = rows.loc[rows["kind"] == "candidate", "score"]
            said = probe["score"].iloc[0]
            right.setdefault(region, []).append(((said > others) + 0.5 * (said == others)).mean())
    cold_head, cold_tail = (np.mean(right[True, tail]) for tail in (False, True))
    warm_head, warm_tail = (np.mean(right[False, tail]) for tail in (False, True))
    assert min(cold_head, cold_tail, warm_tail) > 0.65
    assert warm_head < 0.45
    assert sum(len(rates) for rates in right.values()) == 250


def test_content_knows_what_popularity_does_not(world):
    """Full-ranking AUC on test of the truth behind the scores, and of training popularity."""
    data, _ = load_demo()
    users, items = data.test["user"].to_numpy() - 1, data.test["item"].to_numpy() - 1
    taken = np.zeros((data.n_users, data.n_items), dtype=bool)
    for split in (data.train, data.valid, data.test):
        taken[split["user"] - 1, split["item"] - 1] = True

    def auc(scores):
        own, others = scores[users, items][:, None], scores[users]
        right = (own > others) + 0.5 * (own == others)
        return np.where(taken[users], 0, right).sum(axis=1) / (~taken[users]).sum(axis=1)

    by_popularity = auc(np.broadcast_to(data.popularity[1:], taken.shape))
    by_content = auc(world.suitability)
    tail = world.tail[items]
    assert 0.6 < by_popularity.mean() < 0.75
    assert by_popularity[tail].mean() < 0.2
    assert by_content.mean() > 0.8
    assert by_content[tail].mean() > 0.8
    assert tail.sum() > 200
