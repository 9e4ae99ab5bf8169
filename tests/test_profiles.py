"""Profiles of users and items: who is shown beside whom, the form of the answer, and the two commands."""

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin import ConfigError, TextTable
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import AnswerError
from sllmr_plugin.scoring.profiles import nearest_users, parse_profile
from sllmr_plugin.scoring.text_questions import TextTemplate
from sllmr_plugin.scoring.text_requests import plan_texts

from .scoring_server import ScoringServer

N_USERS = 14


def frames():
    """Users of two tastes; each one's held-out items are nobody else's, and the last item is nobody's."""
    taken = [(u, f"{'sea' if u % 2 else 'tea'}{(u + k) % 9}") for u in range(N_USERS) for k in range(4)]
    held = [(u, f"held{u}{k}") for u in range(N_USERS) for k in range(2)]
    items = sorted({item for _, item in taken + held}) + ["new"]
    title = {item: f"Held {item}" if item.startswith("held") else f"{item[:3]} story {item[3:]}" for item in items}
    title["new"] = "Another sea story"
    interactions = pd.DataFrame(taken + held, columns=["user_id", "item_id"])
    interactions["split"] = ["train"] * len(taken) + ["valid", "test"] * N_USERS
    return interactions, pd.DataFrame({"item_id": items, "title": [title[item] for item in items]})


@pytest.fixture(scope="module")
def data():
    return load_interactions(*frames())


def profiles_of(data, users=range(N_USERS)):
    rows = [("user_profile", str(user), f"identity: reader {user}; interests: stories") for user in users]
    return pd.DataFrame(rows, columns=["kind", "id", "text"])


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("identity: a man, b; interests: x", "identity: a man, b; interests: x"),
        ("  IDENTITY :PC  player ,collector;INTERESTS: chess.", "identity: PC player, collector; interests: chess"),
    ],
)
def test_profiles_are_read_in_their_form(text, profile):
    assert parse_profile(text) == profile


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Likes chess.", "not of the form"),
        ("identity: a man", "not of the form"),
        ("interests: chess; identity: a man", "not of the form"),
        ("identity: ; interests: chess", "not of the form"),
        ("identity: a man,; interests: chess", "not of the form"),
        ("identity: a man; interests: chess; pattern: more", "not of the form"),
        ("identity: a man; interests: " + ", ".join("abcdefghijk"), "1 to 10 short entries"),
        ("Identity: a, b, c; Interests: x, y, z.", "not filled in"),
    ],
)
def test_what_is_not_in_the_form_is_refused(text, problem):
    with pytest.raises(AnswerError, match=problem):
        parse_profile(text)


def test_nearest_users_are_those_of_a_full_decomposition(data):
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame({"user_id": np.repeat(range(40), 6), "item_id": rng.integers(0, 25, 240)}).drop_duplicates()
    many = load_interactions(pairs)
    train = np.zeros((40, 25))
    train[many.train["user"] - 1, many.train["item"] - 1] = 1
    scaled = train / np.sqrt(np.maximum(train.sum(1, keepdims=True) * train.sum(0, keepdims=True), 1))
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    factors = left[:, :25] * values[:25]
    cosine = factors @ factors.T / np.linalg.norm(factors, axis=1) / np.linalg.norm(factors, axis=1)[:, None]
    np.fill_diagonal(cosine, -2)
    found = nearest_users(many, np.arange(1, 41), 3)
    for user, near in enumerate(found):
        assert len(set(near)) == 3
        assert [cosine[user, other - 1] for other in near] == pytest.approx(sorted(cosine[user])[:-4:-1], abs=1e-5)
    assert nearest_users(many, np.array([7]), 3) == [found[6]]
    assert all(
        user % 2 == near % 2 for user in range(1, N_USERS + 1) for near in nearest_users(data, np.array([user]), 2)[0]
    )


def test_prompts_show_training_titles_alone(data):
    planned = plan_texts(data, ("user_profile", "item_profile"), profiles=profiles_of(data), neighbours=2)
    assert len(planned.user_profiles) == N_USERS
    for request in planned.user_profiles:
        prompt = TextTemplate("user_profile").render(request)[1]["content"]
        assert "Held" not in prompt
        assert len(request.beside) == 2
        taste = "sea" if request.id % 2 else "tea"
        assert all(title.startswith(taste) for titles in (request.titles, *request.beside) for title in titles)
    for request in planned.item_profiles:
        held = [title for title in data.titles if title.startswith("Held") and title != request.titles[0]]
        prompt = TextTemplate("item_profile").render(request)[1]["content"]
        assert not any(f'"{title}"' in prompt or f"{title}" in prompt for title in held)


def test_items_are_shown_with_users_who_took_them_and_others_with_those_of_similar_items(data):
    planned = plan_texts(data, ("item_profile",), profiles=profiles_of(data, range(8)), neighbours=2)
    by_id = {request.id: request for request in planned.item_profiles}
    taken = data.train.assign(user=data.user_ids[data.train["user"] - 1], item=data.item_ids[data.train["item"] - 1])
    for item in taken["item"].unique():
        owners = {u for u in taken.loc[taken["item"] == item, "user"] if u < 8}
        shown = by_id[item].beside
        assert len(shown) == min(2, len(owners)) == len(set(shown))
        assert {profile for (profile,) in shown} <= {f"identity: reader {u}; interests: stories" for u in owners}
    new = by_id["new"].beside
    assert [title[:9] for title, _ in new] == ["sea story"] * 2
    for title, profile in new:
        assert profile == by_id[title.replace(" story ", "")].beside[0][0]
    assert planned.lonely_items == len(data.titles) - len(by_id) == 2 * N_USERS  # held-out titles are like no other


def test_profiles_of_items_need_those_of_users_and_say_how_to_get_them(data):
    for kinds in (("item_profile",), ("user_profile", "item_profile")):
        with pytest.raises(ConfigError, match="--kind user_profile --out profiles.parquet first, then"):
            plan_texts(data, kinds)
    items = pd.DataFrame({"kind": ["item"], "id": ["new"], "text": ["A story."]})
    with pytest.raises(ConfigError, match="no texts of kind user_profile"):
        plan_texts(data, ("item_profile",), profiles=items)


def test_two_commands_write_profiles_which_are_asked_again_where_they_have_no_form(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setattr("sllmr_plugin.scoring.runner.backoff", lambda failures, retry_after=None: 0.01)
    for name, frame in zip(("clicks", "items"), frames(), strict=True):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    users, items = (tmp_path / f"{name}.parquet" for name in ("users", "profiles"))
    common = ["texts", "--interactions", str(tmp_path / "clicks.csv"), "--items", str(tmp_path / "items.csv")]

    def plan(number, body):
        first, again = body["messages"][1]["content"], len(body["messages"]) > 2
        return None if "tea story 1" in first and not again else "profile"

    with ScoringServer(plan) as server:
        common += ["--base-url", server.base_url]
        for_items = [*common, "--kind", "item_profile", "--out", str(items)]
        assert main(for_items) == 2
        assert "--kind user_profile --out profiles.parquet first" in capsys.readouterr().err
        assert not server.seen
        assert main([*common, "--kind", "user_profile", "--out", str(users)]) == 0
        assert f"user profiles: {N_USERS} of {N_USERS}" in capsys.readouterr().out
        complaints = [seen.body["messages"][-1]["content"] for seen in server.seen if len(seen.body["messages"]) > 2]
        assert complaints
        assert all("not of the form identity: a, b, c; interests: x, y, z" in told for told in complaints)
        n_paid = len(server.seen)
        assert n_paid == N_USERS + len(complaints)
        assert main([*common, "--kind", "user_profile", "--out", str(users)]) == 0
        assert len(server.seen) == n_paid  # nothing is paid twice
        assert main([*for_items, "--profiles", str(users)]) == 0
    data = load_interactions(tmp_path / "clicks.csv", tmp_path / "items.csv")
    table = TextTable.read([users, items], user_index=data.user_index, item_index=data.item_index)
    assert len(table.user_profiles) == N_USERS
    assert table.coverage.n_item_profiles == 19  # eighteen that are taken, and one like them
    texts = [*table.user_profiles, *table.item_profiles]
    assert all(text == parse_profile(text) and text.endswith("; interests: chess, sea") for text in texts)
