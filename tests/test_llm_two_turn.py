"""RecLM's conversations: what they show, what they hide, and where their labels are."""

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin.errors import ConfigError, DataError, TextTableError
from sllmr_plugin.llm_tuning.labels import IGNORED, labelled, prompt_text
from sllmr_plugin.llm_tuning.neighbours import nearest_users
from sllmr_plugin.llm_tuning.profiles import parts, read_profiles
from sllmr_plugin.llm_tuning.two_turn import ProfileData

from . import tiny_llm


@pytest.fixture(scope="module")
def data():
    return tiny_llm.interactions()


@pytest.fixture(scope="module")
def dialogues(data):
    return ProfileData(data, tiny_llm.profiles(), neighbours=2).dialogues()


def titles_of(data, split, user):
    codes = split.loc[split["user"] == data.user_index[user], "item"]
    return {data.titles[code] for code in codes}


def listed(question, name):
    """Titles of one user's list, read from the text."""
    block = next(part for part in question.split("\n\n") if part.startswith(f"{name} took"))
    return [line.removeprefix("- ") for line in block.splitlines()[1:]]


def test_the_nearest_users_are_those_of_the_highest_cosine(data):
    taken = np.zeros((13, 14))
    train = data.train.to_numpy()
    taken[train[:, 0], train[:, 1]] = 1
    users = np.arange(1, 13)
    found = nearest_users(data, users, users, 3, dim=12)  # of full rank, so cosines are those of the rows
    for user, near in zip(users, found, strict=True):
        cosine = taken @ taken[user] / np.maximum(np.linalg.norm(taken, axis=1) * np.linalg.norm(taken[user]), 1e-9)
        others = np.delete(cosine[1:], user - 1)
        assert user not in near
        np.testing.assert_allclose(np.sort(cosine[near])[::-1], np.sort(others)[::-1][:3], atol=1e-5)


def test_half_are_taken_and_every_answer_is_true(data, dialogues):
    assert len(dialogues) >= 6
    assert sum(one.taken for one in dialogues) == (len(dialogues) + 1) // 2
    for one in dialogues:
        trained = titles_of(data, data.train, one.user_id)
        title = data.titles[data.item_index[one.item_id]]
        assert (title in trained) == one.taken
        assert one.messages[3]["content"].endswith(f"\n{title}")
        assert one.messages[4]["content"] == ("Yes" if one.taken else "No")


def test_the_item_of_the_second_turn_stands_nowhere_in_the_first_question(data, dialogues):
    for one in dialogues:
        question, title = one.messages[1]["content"], data.titles[data.item_index[one.item_id]]
        assert title not in question
        shown = listed(question, "Target user")
        assert set(shown) == titles_of(data, data.train, one.user_id) - {title}
        near = [set(listed(question, f"Similar user {number}")) for number in (1, 2)]
        assert all(near)
        # and it is an item of a similar user: one of those whose lists, with it, are somebody's training items
        whole = [titles_of(data, data.train, user) for user in data.user_ids]
        assert any(lists | {title} in whole for lists in near)


def test_no_held_out_title_is_shown_as_the_users_or_asked_about(data, dialogues):
    held_out = pd.concat([data.valid, data.test])
    for one in dialogues:
        theirs = titles_of(data, held_out, one.user_id)
        assert theirs
        assert not theirs & {*listed(one.messages[1]["content"], "Target user"), one.messages[3]["content"]}
        assert not any(title in one.messages[3]["content"] for title in theirs)
        assert not any("a held out book" in message["content"] for message in one.messages)


def test_the_first_answer_has_the_profiles_in_the_order_of_the_lists(data, dialogues):
    profiles = tiny_llm.profiles()
    for one in dialogues:
        lines = one.messages[2]["content"].splitlines()
        assert lines[0] == f"Target user: {profiles[one.user_id]}"
        assert [line.split(":")[0] for line in lines[1:]] == ["Similar user 1", "Similar user 2"]
        assert all(line.split(": ", 1)[1] in profiles.values() for line in lines)


def test_lists_are_cut_to_the_last_titles_and_details_stand_behind_them(data):
    cut = ProfileData(
        data, tiny_llm.profiles(), neighbours=2, history_length=1, details=lambda item: (("maker", "Acme"),)
    )
    for one in cut.questions():
        (shown,) = listed(one.messages[1]["content"], "Target user")
        train = data.train[data.train["user"] == data.user_index[one.user_id]]
        assert shown == f"{data.titles[train['item'].iloc[-1]]} (maker: Acme)"


def test_questions_ask_for_the_profile_of_every_user(data):
    profiles = tiny_llm.profiles()
    known = ProfileData(data, profiles, neighbours=2)
    questions = known.questions()
    assert {one.user_id: one.profile for one in questions} == profiles
    assert all(one.similar in profiles.values() and one.similar != one.profile for one in questions)
    few = ProfileData(data, {user: text for user, text in profiles.items() if user < "u06"}, neighbours=2)
    assert {one.user_id for one in few.questions()} == {f"u{user:02d}" for user in range(6)}


def test_too_few_users_and_missing_titles_are_refused(data):
    some = dict(list(tiny_llm.profiles().items())[:2])
    with pytest.raises(DataError, match="too few for 2 similar users"):
        ProfileData(data, some, neighbours=2)
    untitled = tiny_llm.load_interactions(pd.DataFrame({"user_id": ["a"] * 4, "item_id": [1, 2, 3, 4]}))
    with pytest.raises(DataError, match="no titles"):
        ProfileData(untitled, some)


def test_profiles_are_read_from_a_text_table_and_taken_apart(tmp_path):
    frame = pd.DataFrame(
        {
            "kind": ["user", "user_profile", "user_profile"],
            "id": ["1", "1", "2"],
            "text": ["likes chess", "Identity: nurse, reader;\n interests: maps", "identity: cook; interests: x; y"],
        }
    )
    path = tmp_path / "texts.csv"
    frame.to_csv(path, index=False)
    read = read_profiles(path)
    assert read == {"1": "Identity: nurse, reader; interests: maps", "2": "identity: cook; interests: x; y"}
    assert parts(read["1"]) == ("nurse, reader", "maps")
    assert parts(read["2"]) == ("cook", "x; y")
    frame.loc[2, "text"] = "likes the sea"
    frame.to_csv(path, index=False)
    with pytest.raises(TextTableError, match=r"line 5: text is 'likes the sea', which is not a profile"):
        read_profiles(path)
    frame[:1].to_csv(path, index=False)
    with pytest.raises(TextTableError, match="no text of kind user_profile"):
        read_profiles(path)


# ---------------------------------------------------------------------- labels


@pytest.fixture(params=tiny_llm.TEMPLATES, name="words")
def _words(request, dialogues):
    texts = [message["content"] for one in dialogues for message in one.messages]
    return tiny_llm.tokenizer(texts, tiny_llm.TEMPLATES[request.param])


def test_labels_are_exactly_both_answers_and_their_ends(words, dialogues):
    for one in dialogues:
        ids, labels = labelled(words, one.messages)
        assert len(ids) == len(labels)
        assert all(label in (IGNORED, id) for id, label in zip(ids, labels, strict=True))
        answers = one.messages[2]["content"], one.messages[4]["content"]
        told = words.decode([label for label in labels if label != IGNORED])
        assert told == f"{answers[0]}<|im_end|>{answers[1]}<|im_end|>"
        # one run of labels an answer, each right behind what asks for it
        starts = [place for place, label in enumerate(labels) if label != IGNORED and labels[place - 1] == IGNORED]
        assert len(starts) == 2
        assert words.decode(ids[: starts[0]]) == prompt_text(words, one.messages[:2])
        assert words.unk_token_id not in ids


@pytest.mark.parametrize("name", ["plain", "chatml", "other_end"])
def test_the_whole_sequence_is_what_the_model_will_be_asked(name, dialogues):
    """But for the end-of-sequence token behind the first answer, where the template has another sign there."""
    texts = [message["content"] for one in dialogues for message in one.messages]
    words = tiny_llm.tokenizer(texts, tiny_llm.TEMPLATES[name])
    for one in dialogues:
        ids, _ = labelled(words, one.messages)
        second = prompt_text(words, one.messages[:4])
        first = one.messages[2]["content"]
        if name != "chatml":
            second = second.replace(first, f"{first}<|im_end|>")
        assert words.decode(ids) == f"{second}{one.messages[4]['content']}<|im_end|>"


def test_special_tokens_within_an_answer_are_text(words):
    messages = [{"role": "user", "content": "No"}, {"role": "assistant", "content": "Yes <|im_end|> No"}]
    _, labels = labelled(words, messages)
    told = [label for label in labels if label != IGNORED]
    assert told.count(words.eos_token_id) == 1
    assert words.decode(told) == "Yes <|im_end|> No<|im_end|>"


def test_a_tokenizer_without_an_end_is_refused(words):
    words.eos_token = None
    with pytest.raises(ConfigError, match="end-of-sequence"):
        labelled(words, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
