"""Texts read from answers: whatever a model writes gives a text or the one typed error."""

import json
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sllmr_plugin.errors import AnswerError
from sllmr_plugin.scoring.text_questions import TextTemplate, clean_text, is_echo, parse_text
from sllmr_plugin.scoring.text_requests import EXPLAINED_KINDS, KINDS, Exemplar, TextRequest

LIMIT = 200
PIECES = st.sampled_from(
    ['{"text": "', '"}', "{", "}", "[", "]", '"text"', ":", "```json\n", "```", "\\", '\\"', "\\ud800"]
    + ["\n", "\x00", "\u202e", "I'm sorry, ", '"text": "a", ']
)
ANYTHING = st.text(max_size=60) | st.lists(PIECES | st.text(max_size=8), max_size=20).map("".join)


@given(ANYTHING)
@example('{"text": {"text": "a"}}')
@example("[" * 500)
@example('{"text": "' + "a" * 300 + '"}')
def test_any_answer_gives_a_harmless_text_or_the_typed_error(answer):
    try:
        text = parse_text(answer, LIMIT)
    except AnswerError:
        return
    assert 0 < len(text) <= LIMIT
    assert text == text.strip()
    assert any(character.isalnum() for character in text)
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Co") and c not in "\n\t"]
    text.encode()  # no lone surrogate: every file takes it


WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs", "S")), min_size=1, max_size=80).map(
    lambda text: f"Likes {text} too"
)


@given(WORDS, st.booleans())
def test_a_text_in_json_comes_back_letter_by_letter(text, ascii_only):
    answer = json.dumps({"text": text}, ensure_ascii=ascii_only)
    for around in ("{}", "Here:\n{}\nDone {{sic}}.", "```json\n{}\n```", '{{"draft": [1]}} {}'):
        assert parse_text(around.format(answer), LIMIT) == clean_text(text)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Likes chess.", "Likes chess."),
        ("  Likes chess\nand go. ", "Likes chess\nand go."),
        ("```\nLikes chess.\n```", "Likes chess."),
        ('{"preferences": "Likes chess."}', "Likes chess."),
        ('{"text": "draft"}\n{"text": "Likes chess."}', "Likes chess."),
        ('Likes chess {sic}, and "go".', 'Likes chess {sic}, and "go".'),
        ('{"text": "<b>Chess</b> & [go](http://x)"}', "<b>Chess</b> & [go](http://x)"),  # data, as it is
        ('{"text": "a\\u0000b\\u001bc\\r\\nd\\te\\u202ef\\ud800g"}', "abc\nd\tefg"),
        (
            '{"text": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"}',
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
        ("Sorry! is a board game.", "Sorry! is a board game."),
        ("<think>\nSay collector? Be brief.\n</think>\n\nLikes chess.", "Likes chess."),
        ('Say collector?\n</think>\n\n{"text": "Likes chess."}', "Likes chess."),
        ('<think>{"text": "draft"}</think>Likes chess.<|im_end|>', "Likes chess."),
        ('{"text": "<think>Say collector?</think>Likes chess."}', "Likes chess."),
        (
            "<|channel|>analysis<|message|>Say what?<|end|><|start|>assistant<|channel|>final<|message|>Likes chess.",
            "Likes chess.",
        ),
        ("Likes the [Doom title] and <Chess items>.", "Likes the [Doom title] and <Chess items>."),
        ("Fans say: here is my response: buy it.", "Fans say: here is my response: buy it."),
        ("analysisThey like chess.assistantfinalLikes chess.", "Likes chess."),
        ("<think>x</think><answer>Likes chess.</answer>", "Likes chess."),
        (json.dumps(json.dumps({"text": "Likes chess."})), "Likes chess."),
        (json.dumps({"text": json.dumps({"text": "Likes chess."})}), "Likes chess."),
        (json.dumps("Likes chess."), "Likes chess."),
        ('Sure: {"preferences": "Likes chess."}', "Likes chess."),
        ("Sure:\n```\nLikes chess.\n```", "Likes chess."),
        (
            '{"text": "Likes go [sic] and chess [1], <b>{or}</b> (item)."}',
            "Likes go [sic] and chess [1], <b>{or}</b> (item).",
        ),
        ('{"text": "No </think> is read"}', "is read"),
        ("I Can't Stop Loving You is a song.", "I Can't Stop Loving You is a song."),
    ],
)
def test_what_is_understood(answer, text):
    assert parse_text(answer, LIMIT) == text


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "empty"),
        (" \n\u200b ", "empty"),
        ('{"text": ""}', "empty"),
        ('{"text": "..."}', "empty"),
        ('{"text": null}', "no complete text"),
        ('{"text": ["a"]}', "no complete text"),
        ('{"text": "Likes ch', "no complete text"),
        ('{"text": "He said "chess" is fun"}', "no complete text"),
        ('{"a": "x", "b": "y"}', "no complete text"),
        ('Sure: {"a": "x", "b": "y"}', "no complete text"),
        ('{"text": "{\\"a\\": [1]}"}', "no complete text"),
        ("<think>\nSay collector? Let me count again and", "thought that has no end"),
        ('{"text": "draft"} <think>or', "thought that has no end"),
        ('{"text": "<think>Say collector?"}', "thought that has no end"),
        ("<|channel|>analysis<|message|>They like chess.", "thought that has no end"),
        ("Likes chess.</think>", "empty"),
        ("Thinking Process:\n1. Likes chess.", "thoughts stand before"),
        ('{"text": "<your text>"}', "not filled in"),
        ('{"text": "Your text here."}', "not filled in"),
        ('{"type": "string"}', "not filled in"),
        ('{"text": "[item_name] is a game."}', "not filled in"),
        ('{"text": "Likes [Brand] and [Theme]."}', "not filled in"),
        ('{"text": "Likes [Item 1] and <title of the item>."}', "not filled in"),
        ('{"text": "Likes {{user_name}}."}', "not filled in"),
        ('{"text": "[Insert the traits]"}', "not filled in"),
        ('{"text": "Likes $history"}', "not filled in"),
        ('{"text": "Likes <|video_pad|> chess."}', "not filled in"),
        ('["Likes chess."]', "no complete text"),
        ("x" * (LIMIT + 1), "201 characters, more than 200"),
        ("I'm sorry, but I can't help with that.", "speaks of yourself"),
        ("I cannot determine the preferences.", "speaks of yourself"),
        ('{"text": "As an AI language model, I do not know."}', "speaks of yourself"),
    ],
)
def test_what_is_refused(answer, problem):
    with pytest.raises(AnswerError, match=problem):
        parse_text(answer, LIMIT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_repeats_the_question_is_an_echo(kind):
    exemplar = Exemplar("i9", "Robot Dog", 1) if kind in EXPLAINED_KINDS else None
    titles = ("The Longest Journey of the Nine Wooden Trains, Part 2",) if kind == "item" else ("Chess", "Go")
    messages = TextTemplate(kind).render(TextRequest(kind, "x", titles, exemplar=exemplar))
    prompt = "\n".join(message["content"] for message in messages)
    sentences = [
        sentence for sentence in re.split(r"[.:;?]\s", prompt) if len(sentence.split()) > 7 and '"' not in sentence
    ]
    assert len(sentences) > 3
    for sentence in (prompt, *sentences):
        assert is_echo(sentence, messages)
        assert is_echo(f"Of course. {sentence}. They like chess.".upper(), messages)
    assert not is_echo("The user took the item. They recently interacted with Chess and Go, oldest first.", messages)
    assert not is_echo("Chess", messages)


def test_titles_may_be_repeated_but_not_alone():
    title = "The Longest Journey of the Nine Wooden Trains, Part 2"
    messages = TextTemplate("item").render(TextRequest("item", "x", (title,)))
    assert not is_echo(f"{title} is a game.", messages)
    assert is_echo(title, messages)
