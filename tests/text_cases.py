"""Twelve users and ten items with texts, some of them missing, and training rows over their codes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.knowledge import EncodedTexts, TextTable
from sllmr_plugin.knowledge.id_vectors import IdVectors, Vectors

N_USERS, N_ITEMS = 12, 10
NO_USER_TEXT, NO_ITEM_TEXT = (4, 9), (7,)  # codes, counted from 1
WORDS = ["sea", "forest", "stars", "chess", "novel", "kettle", "tent", "paper"]


def interactions():
    pairs = [(f"u{user:02d}", f"i{(user * 3 + step) % N_ITEMS:02d}") for user in range(N_USERS) for step in range(5)]
    items = pd.DataFrame({"item_id": [f"i{item:02d}" for item in range(N_ITEMS)]})
    return load_interactions(pd.DataFrame(pairs, columns=["user_id", "item_id"]), items)


def text_frame():
    rng = np.random.default_rng(5)
    rows = [
        (kind, f"{kind[0]}{number:02d}", " ".join(rng.choice(WORDS, 4)))
        for kind, n, missing in (("user", N_USERS, NO_USER_TEXT), ("item", N_ITEMS, NO_ITEM_TEXT))
        for number in range(n)
        if number + 1 not in missing
    ]
    return pd.DataFrame(rows, columns=["kind", "id", "text"])


def reasoning_frame():
    """A text about every second training interaction, and as many about items that their users do not have."""
    data = interactions()
    taken = data.train[["user", "item"]].iloc[::2]
    everything = pd.concat([data.train, data.valid, data.test])
    own = set(zip(everything["user"], everything["item"], strict=True))
    free = [(user, item) for user in range(1, N_USERS + 1) for item in range(1, N_ITEMS + 1) if (user, item) not in own]
    rng = np.random.default_rng(6)
    pairs = [(*pair, 1) for pair in taken.to_numpy().tolist()] + [
        (*free[k], 0) for k in rng.permutation(len(free))[:18]
    ]
    rows = [
        ("reasoning", data.user_ids[user - 1], " ".join(rng.choice(WORDS, 6)), data.item_ids[item - 1], label)
        for user, item, label in (pairs[k] for k in rng.permutation(len(pairs)))
    ]
    return pd.DataFrame(rows, columns=["kind", "id", "text", "item_id", "label"])


def reason_frame():
    """A pattern of each user with a text, and a reason for four of five training interactions with items that have one.

    The file's order is no order of anything.
    """
    data = interactions()
    rng = np.random.default_rng(7)
    taken = data.train[~data.train["item"].isin(NO_ITEM_TEXT)]
    pairs = [pair for k, pair in enumerate(taken[["user", "item"]].to_numpy().tolist()) if k % 5]
    rows = [
        ("reason", data.user_ids[user - 1], " ".join(rng.choice(WORDS, 5)), data.item_ids[item - 1], 1)
        for user, item in (pairs[k] for k in rng.permutation(len(pairs)))
    ]
    rows += [
        ("pattern", data.user_ids[user - 1], " ".join(rng.choice(WORDS, 3)), None, None)
        for user in range(1, N_USERS + 1)
        if user not in NO_USER_TEXT
    ]
    return pd.DataFrame(rows, columns=["kind", "id", "text", "item_id", "label"])


def encoded(dim=6, *, reasoning=False, reasons=False):
    """Encode the texts by random vectors, which depend on the text alone."""
    data = interactions()
    frame = pd.concat([text_frame(), *([reasoning_frame()] * reasoning), *([reason_frame()] * reasons)])

    class Vectors:
        def encode(self, texts):
            return np.stack([np.random.default_rng(len(t) * 31 + sum(map(ord, t))).normal(size=dim) for t in texts])

    table = TextTable.read(frame, user_index=data.user_index, item_index=data.item_index)
    return EncodedTexts.of(table, Vectors())


def id_vectors(dim=6):
    """Return vectors whose raw ids are the codes of those that have a text."""
    texts = encoded(dim)
    return Vectors(*(IdVectors(pd.Series(texts.codes[kind]), texts.vectors[kind]) for kind in ("item", "user")))
