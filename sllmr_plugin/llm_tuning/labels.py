"""Conversations as token ids, with labels at the answers alone (RecLM, "Tuning Strategy")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..scoring.prompts import Message

IGNORED = -100
"""The label of tokens that are no answer's; `torch.nn.functional.cross_entropy` passes over it."""


def prompt_text(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Return what stands before the next answer.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        With a chat template, which is applied; a system message that it refuses is put before the user's. Without one,
        every message is ``role: content`` on lines of its own.
    messages : sequence of Message
        The last is the user's.

    Returns
    -------
    str
        Ends where the answer begins.
    """
    if not tokenizer.chat_template:
        told = "".join(f"{message['role']}: {message['content']}\n\n" for message in messages)
        return f"{tokenizer.bos_token or ''}{told}assistant: "
    import jinja2

    def rendered(chat: Sequence[Message]) -> str:
        return str(tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True))

    try:
        return rendered(messages)
    except jinja2.TemplateError:  # such as Gemma's, which knows no system
        system, first, *rest = messages
        if system["role"] != "system":
            raise
        return rendered([{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest])


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Return the token ids of `prompt_text`, which has the special tokens already.

    Raises
    ------
    ConfigError
        If there is none.
    """
    ids = list(tokenizer(prompt_text(tokenizer, messages), add_special_tokens=False)["input_ids"])
    if all(id in tokenizer.all_special_ids for id in ids):
        raise ConfigError(
            f"the tokenizer ({type(tokenizer).__name__}) makes no token of the text of a question. Its files are not "
            "those of the model's class: give the tokenizer of the model."
        )
    return ids


def answer_ids(tokenizer: Any, answer: str) -> list[int]:
    """Return the token ids of an answer and the end-of-sequence token.

    Raises
    ------
    ConfigError
        If the tokenizer has no such token.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has no end-of-sequence token, by which answers end. Set its eos_token.")
    # What looks like a special token in a text that a model wrote is text.
    ids = tokenizer(answer, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def labelled(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Return a conversation as one sequence, and its labels.

    The labels are `IGNORED` but at each answer and the end-of-sequence token behind it, whatever the chat template
    puts there: they decode to exactly ``R1 + eos + R2 + eos``.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    messages : sequence of Message
        Of roles system, user and assistant; the last is an answer.

    Returns
    -------
    input_ids, labels : list of int
        Of the same length.
    """
    ids: list[int] = []
    labels: list[int] = []
    before = ""  # the text of what is in `ids`
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = prompt_text(tokenizer, messages[:place])
        if not prompt.startswith(before):  # a template that changes earlier turns: the new question alone
            prompt, before = prompt_text(tokenizer, messages[place - 1 : place]), ""
        rest = prompt[len(before) :]
        if before:
            rest = rest.removeprefix(tokenizer.eos_token)  # there already, behind the answer
        prompt_ids(tokenizer, messages[:place])  # refuses a tokenizer that does not fit
        asked = list(tokenizer(rest, add_special_tokens=False)["input_ids"])
        told = answer_ids(tokenizer, message["content"])
        ids += asked + told
        labels += [IGNORED] * len(asked) + told
        before = prompt + message["content"]
    return ids, labels


def padded(sequences: Sequence[Sequence[int]], fill: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Return sequences as one tensor, (n, longest) int64, and a mask of the same shape, 1 where one has a token."""
    longest = max(map(len, sequences))
    rows = torch.full((len(sequences), longest), fill)
    mask = torch.zeros_like(rows)
    for row, sequence in enumerate(sequences):
        place = slice(longest - len(sequence), longest) if left else slice(len(sequence))
        rows[row, place], mask[row, place] = torch.tensor(sequence), 1
    return rows, mask
