"""A language model of two layers, 32 wide, whose tokenizer knows the words of given texts; and who took what."""

from __future__ import annotations

import re

import pandas as pd
import pytest
import torch

from sllmr_plugin.datasets.interactions import load_interactions

_PIECE = r"\w+|\s|[^\w\s]"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (  # as Llama 2: blanks around the answer; the system message is refused
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% if m.role == 'user' %}<|im_start|>[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} <|im_end|>"
    "{% endif %}{% endfor %}"
)
OTHER_END = (  # a turn ends with a token that is not the tokenizer's end of sequence
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {"plain": None, "chatml": CHATML, "no_system": NO_SYSTEM, "other_end": OTHER_END}


def tokenizer(texts, template=None):
    """Pieces are words, single blanks and signs, so that decoding gives the text back to the letter."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs sllmr-plugin[llm]")
    transformers = pytest.importorskip("transformers", reason="needs sllmr-plugin[llm]")
    special = ["<|pad|>", "<|im_end|>", "<|unk|>", "<|im_start|>", "<|turn|>"]
    roles = "system user assistant \n : [ ] / INST < | > im_end Yes No"
    pieces = sorted({piece for text in [*texts, roles] for piece in re.findall(_PIECE, text)} - set(special))
    words = {piece: number for number, piece in enumerate([*special, *pieces])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<|unk|>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(_PIECE), "isolated")
    made.decoder = tokenizers.decoders.Fuse()
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        unk_token="<|unk|>",
        additional_special_tokens=special[3:],
    )
    found.chat_template = template
    return found


def save_model(folder, texts, template=CHATML, *, seed=0):
    """Write such a model with random weights; return the folder as text."""
    pytest.importorskip("peft", reason="needs sllmr-plugin[llm]")
    transformers = pytest.importorskip("transformers", reason="needs sllmr-plugin[llm]")
    words = tokenizer(texts, template)
    config = transformers.LlamaConfig(  # of Qwen2 the library makes a tokenizer that splits by letters
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,  # 0.02 is for wide models: the words of this one would all be equally likely
        tie_word_embeddings=False,
        eos_token_id=words.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


TOPICS = ("sea", "star")
KINDS = ("tale", "chart", "game", "song", "map", "film")


def interactions():
    """Twelve users of two tastes; each takes five of six items of a topic, the last two are held out."""
    items = [(f"{topic}{n}", f"{topic} {kind}") for topic in TOPICS for n, kind in enumerate(KINDS)]
    rows = []
    for user in range(12):
        topic = TOPICS[user % 2]
        for step in range(5):
            rows.append((f"u{user:02d}", f"{topic}{(user // 2 + step) % 6}"))
    catalogue = pd.DataFrame([*items, ("lost", "a held out book")], columns=["item_id", "title"])
    rows.append(("u00", "lost"))  # the test item of u00, and of nobody else
    return load_interactions(pd.DataFrame(rows, columns=["user_id", "item_id"]), catalogue)


def profiles():
    names = ("student", "sailor", "pilot", "nurse", "cook", "clerk")
    return {
        f"u{user:02d}": f"identity: {names[user // 2]}, reader; interests: {TOPICS[user % 2]}, {KINDS[user % 6]}"
        for user in range(12)
    }
