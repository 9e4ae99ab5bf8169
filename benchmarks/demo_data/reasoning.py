"""Write the demo's reasoning texts: simulated explanations of training interactions, and of items not taken.

No language model wrote them. A text holds words of the categories and themes of the user's earlier training items, of
the category and theme of the item, and of what decided most, as the generator knows and blurs it: taste, quality or
exposure. Half of the exemplars are training interactions; the others have an item that the user has no interaction
with. Validation and test interactions are never among them, and nothing of them is in a word.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .texts import CATEGORY_WORDS, THEME_WORDS, pick, stray

N_EACH = 1000
# What decided, by the share of the training utility: for the item, and against it.
REASON_WORDS = [
    (["fits", "kindred", "matching", "favourite"], ["foreign", "mismatch", "outside", "unlike"]),
    (["praised", "superb", "durable", "polished"], ["shoddy", "complaints", "brittle", "sloppy"]),
    (["everywhere", "bestseller", "promoted", "frontpage"], ["hidden", "obscure", "unseen", "backlist"]),
]
_READING_NOISE = 0.5
_HISTORY = 10


def generate_reasoning(
    reasons: list[np.ndarray],
    aspects: np.ndarray,
    taken: np.ndarray,
    n_train: np.ndarray,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
    seed: int,
) -> pd.DataFrame:
    """Write the texts about 1000 positive exemplars, and as many negative ones, less those that were drawn twice.

    Parameters
    ----------
    reasons : list of ndarray
        (n_users, n_items) each: what taste, quality and exposure add to the utility of an item in training.
    aspects : ndarray
        (n_items, 3) codes of category, theme and series.
    taken : ndarray
        (n_users, n) item numbers in time order; validation and test item follow `n_train` others.
    n_train : ndarray
        (n_users,) training interactions.
    user_ids, item_ids : ndarray of str
        Raw ids.
    seed : int
        Of generators of its own, so that the other files do not depend on these texts.

    Returns
    -------
    DataFrame
        ``kind, id, text, item_id, label``, positive exemplars first: the form of `sllmr_plugin.TextTable`.
    """
    # Moments at which there is something to reason from: all training interactions of a user but the first.
    users, position = np.nonzero((np.arange(taken.shape[1]) < n_train[:, None]) & (np.arange(taken.shape[1]) > 0))
    parts = []
    for label in (1, 0):
        generator = np.random.default_rng([seed, 2, label])
        chosen = generator.permutation(len(users))[:N_EACH]
        user, moment = users[chosen], position[chosen]
        item = taken[user, moment] if label else _not_taken(user, taken, n_train, len(item_ids), generator)
        # A negative item may have been drawn for two moments of a user.
        once = np.sort(np.unique(user * len(item_ids) + item, return_index=True)[1])
        user, moment, item = user[once], moment[once], item[once]
        texts = _write(user, moment, item, label, reasons, aspects, taken, generator)
        parts.append(pd.DataFrame({"id": user_ids[user], "text": texts, "item_id": item_ids[item], "label": label}))
    return pd.concat(parts, ignore_index=True).assign(kind="reasoning")[["kind", "id", "text", "item_id", "label"]]


def _not_taken(
    user: np.ndarray, taken: np.ndarray, n_train: np.ndarray, n_items: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw an item for each of the users, uniformly among those the user has in no split: (n,)."""
    lottery = generator.random((len(user), n_items))
    own = np.arange(taken.shape[1]) < n_train[user, None] + 2
    row, place = np.nonzero(own)
    lottery[row, taken[user[row], place]] = np.inf
    return np.argmin(lottery, axis=1)


def _write(
    user: np.ndarray,
    moment: np.ndarray,
    item: np.ndarray,
    label: int,
    reasons: list[np.ndarray],
    aspects: np.ndarray,
    taken: np.ndarray,
    generator: np.random.Generator,
) -> list[str]:
    words = []
    for column, groups, n_words in ((0, CATEGORY_WORDS, 1), (1, THEME_WORDS, 2)):
        kind = aspects[:, column]
        earlier = np.arange(taken.shape[1])
        shown = (earlier < moment[:, None]) & (earlier >= moment[:, None] - _HISTORY)
        counts = (np.eye(len(groups))[kind[taken[user]]] * shown[:, :, None]).sum(axis=1)  # (n, n_groups)
        usual = np.argmax(counts + 0.5 * generator.random(counts.shape), axis=1)
        words += [pick(np.array(groups)[usual], n_words, generator), pick(np.array(groups)[kind[item]], 1, generator)]
    felt = np.stack([reason[user, item] for reason in reasons], axis=1)  # (n, 3)
    felt = felt + _READING_NOISE * generator.normal(size=felt.shape)
    decisive = np.argmax(felt if label else -felt, axis=1)
    words.append(pick(np.array([group[1 - label] for group in REASON_WORDS])[decisive], 2, generator))
    outcome = "so it was taken" if label else "so it was left"
    return [
        f"Earlier {w[0]}, {w[2]} and {w[3]}; this is {w[1]} with {w[4]}. {w[5]}, {w[6]}: {outcome}. {w[7]} {w[8]}"
        for w in stray(np.concatenate(words, axis=1), generator).tolist()
    ]
