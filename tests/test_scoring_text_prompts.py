"""Prompts for texts: training titles as data on lines of their own; plans that no held-out item gets into."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import ConfigError, DataError, PromptError
from sllmr_plugin.scoring.text_questions import TextTemplate, answer_format
from sllmr_plugin.scoring.text_requests import Exemplar, TextRequest, plan_texts, read_attributes
from sllmr_plugin.scoring.texts import write_titles

from .test_scoring_prompts import HOSTILE

USER = TextRequest("user", "user-4711", ("Chess for Two", "Marbles"))
ITEM = TextRequest("item", "item-77", ("Chess for Two",), (("category", "board games"),))
TOLD = TextRequest(
    "reasoning", "user-4711", ("Marbles", "Go"), (("category", "board games"),), Exemplar("item-77", "Chess for Two", 0)
)


def test_what_a_model_sees():
    system, user = TextTemplate("user").render(USER)
    assert user["content"].split("\n\n") == [
        'The user recently interacted with these items, oldest first:\n[\n"Chess for Two",\n"Marbles"\n]',
        answer_format(120),
    ]
    item = TextTemplate("item", max_words=50).render(ITEM)[1]["content"]
    assert json.loads(re.search(r"^\{.*?^\}", item, re.MULTILINE | re.DOTALL)[0]) == {
        "title": "Chess for Two",
        "category": "board games",
    }
    assert "at most 50 words" in item
    assert "4711" not in json.dumps([system, user])
    assert "77" not in item
    told = TextTemplate("reasoning").render(TOLD)
    assert told[1]["content"].split("\n\n") == [
        'The user interacted with these items before, oldest first:\n[\n"Marbles",\n"Go"\n]',
        'The item:\n{\n"title": "Chess for Two",\n"category": "board games"\n}',
        "What came of it: the user did not take the item.",
        answer_format(120),
    ]
    assert "4711" not in json.dumps(told)
    assert "77" not in json.dumps(told)
    taken = TextTemplate("reasoning").render(replace(TOLD, exemplar=Exemplar("item-77", "Chess for Two", 1)))
    assert "What came of it: the user took the item." in taken[1]["content"]


def test_what_a_model_sees_of_patterns_and_reasons():
    pattern = TextTemplate("pattern").render(replace(USER, kind="pattern"))
    assert pattern[1]["content"] == TextTemplate("user").render(USER)[1]["content"]
    assert pattern[0] != TextTemplate("user").render(USER)[0]
    taken = replace(TOLD, kind="reason", exemplar=Exemplar("item-77", "Chess for Two", 1))
    system, user = TextTemplate("reason").render(taken)
    assert user["content"].split("\n\n") == [
        'The user interacted with these other items, oldest first:\n[\n"Marbles",\n"Go"\n]',
        'The user also took this item:\n{\n"title": "Chess for Two",\n"category": "board games"\n}',
        answer_format(120),
    ]
    assert "4711" not in json.dumps([system, user])
    assert "77" not in json.dumps([system, user])
    with pytest.raises(PromptError, match="cannot be asked about with a template of kind reason"):
        TextTemplate("reason").render(replace(taken, exemplar=None))
    with pytest.raises(PromptError, match="cannot be asked about with a template of kind pattern"):
        TextTemplate("pattern").render(replace(taken, kind="pattern"))


@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_title_or_attribute_changes_its_own_line_only(title):
    cases = [
        (TextRequest("user", 1, ("Harmless", "Marbles")), TextRequest("user", 1, (title, "Marbles"))),
        (TextRequest("item", 1, ("Harmless",)), TextRequest("item", 1, (title,))),
        (TextRequest("item", 1, ("Go",), (("c", "Harmless"),)), TextRequest("item", 1, ("Go",), (("c", title),))),
        (replace(TOLD, titles=("Harmless", "Go")), replace(TOLD, titles=(title, "Go"))),
        (replace(TOLD, exemplar=Exemplar(1, "Harmless", 0)), replace(TOLD, exemplar=Exemplar(1, title, 0))),
        (
            replace(TOLD, kind="reason", titles=("Harmless", "Go")),
            replace(TOLD, kind="reason", titles=(title, "Go")),
        ),
    ]
    for harmless, hostile in cases:
        template = TextTemplate(harmless.kind)
        expected, sent = template.render(harmless), template.render(hostile)
        assert sent[0] == expected[0]
        lines, others = sent[1]["content"].split("\n"), expected[1]["content"].split("\n")
        assert len(lines) == len(others)
        changed = [number for number, line in enumerate(others) if "Harmless" in line]
        assert [number for number, line in enumerate(lines) if line != others[number]] == changed
        assert len(changed) == 1


def test_a_template_of_ones_own(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("[system]\nBe brief.\n[user]\nBought: $history\n$answer_format costs $$1\n")
    system, user = TextTemplate.from_file(path, "user", max_words=9).render(USER)
    assert system["content"] == "Be brief."
    assert user["content"] == f'Bought: [\n"Chess for Two",\n"Marbles"\n]\n{answer_format(9)} costs $1'
    for text, problem in (
        ("$history", r"prompt\.txt.*\$answer_format is missing"),
        ("$histori $answer_format", r"\$histori \(did you mean \$history\?\)"),
        ("[system]\n$history $answer_format", r"no \[user\] section"),
    ):
        path.write_text(text)
        with pytest.raises(PromptError, match=problem):
            TextTemplate.from_file(path, "user")
    with pytest.raises(PromptError, match=r"\$item is missing"):
        TextTemplate("item", user="$answer_format")
    with pytest.raises(PromptError, match="max_words=0 must be at least 1"):
        TextTemplate("item", max_words=0)
    with pytest.raises(PromptError, match=r"\$label is missing"):
        TextTemplate("reasoning", user="$history $item $answer_format")
    with pytest.raises(PromptError, match="user 'user-4711' cannot be asked about"):
        TextTemplate("item").render(USER)
    for lacking in (replace(TOLD, exemplar=None), replace(TOLD, titles=())):
        with pytest.raises(PromptError, match="cannot be asked about with a template of kind reasoning"):
            TextTemplate("reasoning").render(lacking)


def test_the_hash_changes_with_all_that_is_sent():
    hashes = [
        TextTemplate("user").prompt_hash,
        TextTemplate("item").prompt_hash,
        TextTemplate("reasoning").prompt_hash,
        TextTemplate("pattern").prompt_hash,
        TextTemplate("reason").prompt_hash,
        TextTemplate("user", max_words=9).prompt_hash,
        TextTemplate("user", system="Be brief.").prompt_hash,
        TextTemplate("user", max_title_characters=20).prompt_hash,
    ]
    assert len(set(hashes)) == len(hashes)


@pytest.fixture
def tables():
    """Interactions and items; the title of an item names the item, so that a leak can be seen."""
    rng = np.random.default_rng(0)
    rows = [(user, int(item)) for user in range(40) for item in rng.permutation(60)[: 1 + user % 9]]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id"])
    titles = [f"Title-{item}-end" if item % 10 else "" for item in range(60)]
    items = pd.DataFrame({"item_id": range(60), "title": titles, "category": ["a", None, "c"] * 20, "brand": "B"})
    return interactions, items


def test_no_validation_or_test_item_is_ever_shown(tables):
    interactions, items = tables
    interactions["label"] = (np.arange(len(interactions)) % 7 > 0).astype(int)
    data = load_interactions(interactions, items)
    planned = plan_texts(data, ["user"], history_length=4)
    by_user = {
        name: frame.groupby("user")["item"].agg(list).to_dict()
        for name, frame in (("taken", data.train[data.train["label"] == 1]), ("valid", data.valid), ("test", data.test))
    }
    assert by_user["valid"]
    assert by_user["test"]
    for request in planned.users:
        code = data.user_index[request.id]
        told = [f"Title-{item - 1}-end" for item in by_user["taken"].get(code, []) if (item - 1) % 10][-4:]
        assert list(request.titles) == told
        held_out = [*by_user["valid"].get(code, []), *by_user["test"].get(code, [])]
        prompt = json.dumps(TextTemplate("user").render(request))
        assert not [item for item in held_out if f"Title-{item - 1}-end" in prompt]
    without = {code for code in range(1, 41) if not any((item - 1) % 10 for item in by_user["taken"].get(code, []))}
    assert planned.untitled_users == len(without)
    assert len(planned.users) == 40 - len(without)


@pytest.mark.parametrize("own_negatives", [False, True])
def test_exemplars_are_training_interactions_and_what_was_before_them(tables, own_negatives):
    """By loops over the splits: half taken, half not; shown is the user's past alone, and nothing that is held out."""
    interactions, items = tables
    if own_negatives:
        interactions["label"] = (np.arange(len(interactions)) % 4 > 0).astype(int)
    data = load_interactions(interactions, items)
    assert data.has_negatives == own_negatives
    n_each = 20
    planned = plan_texts(data, ["reasoning"], exemplars=n_each, history_length=3, attributes=read_attributes(items))
    labels = [request.exemplar.label for request in planned]
    assert labels == [1, 0] * n_each
    assert len({(request.id, request.exemplar.item_id) for request in planned}) == 2 * n_each
    rows = list(data.train.itertuples(index=False))
    held_out = {(user, item) for part in (data.valid, data.test) for user, item in part.itertuples(index=False)}
    everything = {(row.user, row.item) for row in rows} | held_out
    titled = {code for code in range(1, 61) if (code - 1) % 10}
    for request in planned:
        user, item = data.user_index[request.id], data.item_index[request.exemplar.item_id]
        label = request.exemplar.label
        assert request.exemplar.title == f"Title-{item - 1}-end"
        assert dict(request.attributes).get("category", "") == items["category"].fillna("")[item - 1]
        mine = [row for row in rows if row.user == user]
        places = [place for place, row in enumerate(mine) if row.item == item]
        if label or own_negatives:
            assert [mine[place].label for place in places] == [label]
            possible = places
        else:
            assert (user, item) not in everything
            possible = [place for place, row in enumerate(mine) if row.label]  # the moment of any of them
        pasts = [
            [f"Title-{row.item - 1}-end" for row in mine[:place] if row.label and row.item in titled][-3:]
            for place in possible
        ]
        assert list(request.titles) in pasts
        assert request.titles
        prompt = json.dumps(TextTemplate("reasoning").render(request))
        shown = {int(number) + 1 for number in re.findall(r"Title-(\d+)-end", prompt)}
        assert shown == {item, *(int(title.split("-")[1]) + 1 for title in request.titles)}
        assert not {(user, code) for code in shown} & held_out
    untold = 0
    for user in range(1, 41):
        past = 0
        for row in rows:
            if row.user == user and row.label:
                untold += row.item not in titled or past == 0
                past += row.item in titled
    assert planned.untold_exemplars == untold


@pytest.mark.parametrize("own_negatives", [False, True])
def test_reasons_are_of_training_interactions_that_were_taken_and_show_the_users_other_items(tables, own_negatives):
    """By loops over the splits: nothing that is held out, and not the item itself among the others."""
    interactions, items = tables
    if own_negatives:
        interactions["label"] = (np.arange(len(interactions)) % 4 > 0).astype(int)
    data = load_interactions(interactions, items)
    planned = plan_texts(data, ["reason"], reasons_per_item=3, history_length=2, attributes=read_attributes(items))
    held_out = {(user, item) for part in (data.valid, data.test) for user, item in part.itertuples(index=False)}
    taken = {}
    for row in data.train.itertuples(index=False):
        if row.label:
            taken.setdefault(row.user, []).append(row.item)
    titled = {code for code in range(1, 61) if (code - 1) % 10}
    possible = {
        (user, item)
        for user, mine in taken.items()
        for item in mine
        if item in titled and any(other in titled and other != item for other in mine)
    }
    found = {}
    for request in planned:
        user, item = data.user_index[request.id], data.item_index[request.exemplar.item_id]
        assert (user, item) in possible
        assert request.exemplar.label == 1
        others = [other for other in taken[user] if other in titled and other != item][-2:]
        assert list(request.titles) == [f"Title-{other - 1}-end" for other in others]
        prompt = json.dumps(TextTemplate("reason").render(request))
        shown = {int(number) + 1 for number in re.findall(r"Title-(\d+)-end", prompt)}
        assert shown == {item, *others}
        assert not {(user, code) for code in shown} & held_out
        found.setdefault(item, []).append(user)
    available = pd.Series([item for _, item in possible]).value_counts()
    assert {item: len(users) for item, users in found.items()} == available.clip(upper=3).to_dict()
    assert available.max() > 3
    n_pairs = len({(user, item) for user, mine in taken.items() for item in mine})
    assert planned.untold_reasons == n_pairs - len(possible)
    codes = [data.item_index[request.exemplar.item_id] for request in planned]
    assert len(set(codes[: len(found)])) == len(found)  # one of each item comes before any second one


def test_more_reasons_an_item_include_the_fewer_and_other_items_change_none(tables):
    interactions, items = tables
    data = load_interactions(interactions, items)
    few, more = (plan_texts(data, ["reason"], reasons_per_item=n).reasons for n in (1, 3))
    assert more[: len(few)] == few
    assert len(more) > len(few)
    patterns = plan_texts(data, ["pattern", "user"], users=7)
    assert [replace(one, kind="user") for one in patterns.patterns] == list(patterns.users)
    assert [request.kind for request in patterns][:4] == ["user", "pattern"] * 2
    only = plan_texts(data, ["pattern"], users=7)
    assert (len(only.patterns), len(only.users), len(only)) == (7, 0, 7)
    with pytest.raises(ConfigError, match="reasons_per_item is 0"):
        plan_texts(data, ["reason"], reasons_per_item=0)
    alone = interactions.drop_duplicates("user_id").assign(split="train")
    with pytest.raises(DataError, match="no training interaction that a reason could be written about"):
        plan_texts(load_interactions(alone, items), ["reason"])


def test_more_exemplars_include_the_fewer_and_other_users_change_none(tables):
    interactions, items = tables
    data = load_interactions(interactions, items)
    few, more = (plan_texts(data, ["reasoning"], exemplars=n).exemplars for n in (5, 15))
    assert more[:10] == few
    everything = plan_texts(data, ["reasoning"], exemplars=10_000).exemplars
    n_taken = sum(request.exemplar.label for request in everything)
    assert n_taken < 150
    assert everything[:30] == more
    without = load_interactions(interactions[interactions["user_id"] != 39], items)
    fewer = plan_texts(without, ["reasoning"], exemplars=10_000).exemplars
    assert set(fewer) == {request for request in everything if request.id != 39}


def test_of_all_that_was_not_taken_any_is_drawn():
    """A user with two of eight items gets the six others alike, over many users."""
    rng = np.random.default_rng(1)
    pairs = [(user, int(item), "train") for user in range(600) for item in rng.permutation(6)[:2]]
    frame = pd.DataFrame([*pairs, (0, 7, "test")], columns=["user_id", "item_id", "split"])
    data = load_interactions(frame, pd.DataFrame({"item_id": range(8), "title": [f"t{k}" for k in range(8)]}))
    drawn = [request for request in plan_texts(data, ["reasoning"]) if not request.exemplar.label]
    assert len(drawn) == 600  # one moment each: the second interaction
    counts = np.bincount([request.exemplar.item_id for request in drawn], minlength=8)
    expected = 600 / 6 * np.array([4 / 6] * 6 + [1, 1])  # of an item below 6, a third of the users have it
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


def test_more_users_include_the_fewer_and_kinds_come_in_turn(tables):
    data = load_interactions(*tables)
    few, more = plan_texts(data, users=7), plan_texts(data, users=20)
    assert more.users[:7] == few.users
    assert len(few.users) == 7
    assert few.items == more.items
    assert len(few.items) == 54
    assert few.untitled_items == 6
    assert [request.kind for request in few][:16] == ["user", "item"] * 7 + ["item"] * 2
    assert len(list(few)) == len(few) == 61
    three = plan_texts(data, ["item", "reasoning", "user"], users=7, exemplars=2)
    assert [request.kind for request in three][:14] == ["user", "item", "reasoning"] * 4 + ["user", "item"]
    assert len(three) == 61 + 4
    popularity = [data.popularity[data.item_index[request.id]] for request in few.items]
    assert popularity == sorted(popularity, reverse=True)


def test_attributes_are_those_of_the_items_file(tables):
    interactions, items = tables
    data = load_interactions(interactions, items)
    found = {
        request.id: request.attributes
        for request in plan_texts(data, ["item"], attributes=read_attributes(items)).items
    }
    assert found[1] == ()
    assert found[2] == (("category", "c"),)
    both = plan_texts(data, ["item"], attributes=read_attributes(items, ["brand", "category"]))
    assert {request.id: request.attributes for request in both.items}[3] == (("brand", "B"), ("category", "a"))
    with pytest.raises(DataError, match="maker"):
        read_attributes(items, ["maker"])


def test_what_cannot_be_planned_says_so(tables):
    interactions, items = tables
    data = load_interactions(interactions, items)
    for wrong in ({"kinds": ["story"]}, {"kinds": []}, {"users": 0}, {"history_length": 0}, {"exemplars": 0}):
        with pytest.raises(ConfigError):
            plan_texts(data, **wrong)
    with pytest.raises(DataError, match="no titles"):
        plan_texts(load_interactions(interactions))
    with pytest.raises(DataError, match="no user and no item has a title"):
        plan_texts(load_interactions(interactions, items.assign(title="")))
    with pytest.raises(DataError, match="no positive training interaction can be reasoned about"):
        plan_texts(load_interactions(interactions, items.assign(title="")), ["reasoning"])
    whole = pd.DataFrame({"user_id": 1, "item_id": [1, 2, 3], "split": "train"})
    with pytest.raises(DataError, match="no negative training interaction"):
        plan_texts(load_interactions(whole, items[1:4]), ["reasoning"])


def test_titles_stand_in_for_texts():
    written = dict(write_titles([USER, ITEM, TOLD]))
    assert written == {
        USER: "Chess for Two; Marbles",
        ITEM: "Chess for Two; category: board games",
        TOLD: "not taken: Chess for Two; category: board games; after: Marbles; Go",
    }
