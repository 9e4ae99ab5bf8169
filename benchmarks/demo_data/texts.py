"""Write the demo's texts: simulated item facts and user preferences whose words carry what the generator knows.

No language model wrote them. An item's text holds words of its category, of its theme and of its quality; a user's
text holds words of the categories and themes that the generator gave the user a taste for, not those of what the user
interacted with: so it says as much of a cold user as of others, and it is not made from test interactions. All of
it is blurred: tastes and quality are read with noise, and a tenth of the words are drawn from anywhere.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

# In the order of PRODUCTS and THEMES of the generator.
CATEGORY_WORDS = [
    ["tabletop", "players", "strategy", "cards", "dice", "rulebook"],
    ["chapters", "narrator", "plot", "prose", "characters", "bookshelf"],
    ["cooking", "baking", "pantry", "recipes", "utensil", "stove"],
    ["hiking", "camping", "trail", "waterproof", "lightweight", "expedition"],
    ["writing", "paper", "sketching", "ink", "journaling", "desk"],
]
THEME_WORDS = [
    ["ocean", "sailors", "waves", "lighthouse", "shells", "tides"],
    ["woodland", "moss", "foxes", "ferns", "mushrooms", "oaks"],
    ["alpine", "peaks", "glacier", "summit", "ravines", "goats"],
    ["dunes", "caravan", "oasis", "heat", "scorpions", "mirage"],
    ["stars", "planets", "telescope", "comets", "midnight", "constellations"],
    ["roses", "bees", "orchard", "herbs", "hedges", "petals"],
    ["snow", "frost", "skates", "fireplace", "icicles", "wool"],
    ["cobbles", "clocktower", "trams", "alleys", "lanterns", "market"],
]
QUALITY_WORDS = [  # from poor to excellent
    ["flimsy", "disappointing", "returned", "careless"],
    ["mediocre", "dated", "uneven", "forgettable"],
    ["decent", "ordinary", "fair", "usual"],
    ["solid", "recommended", "reliable", "charming"],
    ["acclaimed", "beloved", "outstanding", "award"],
]
FILLER = [
    "often",
    "people",
    "made",
    "small",
    "new",
    "popular",
    "gift",
    "season",
    "home",
    "weekend",
    "friends",
    "colour",
]
_READING_NOISE, _STRAY_WORDS = 0.5, 0.1


def generate_texts(
    taste: np.ndarray,
    quality: np.ndarray,
    aspects: np.ndarray,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Write a text for every user and every item.

    Parameters
    ----------
    taste : ndarray
        (n_users, n_items) what users like.
    quality : ndarray
        (n_items,) standardised.
    aspects : ndarray
        (n_items, 3) codes of category, theme and series.
    user_ids, item_ids : ndarray of str
        Raw ids.
    generator : numpy.random.Generator
        One of its own, so that the other files do not depend on the texts.

    Returns
    -------
    DataFrame
        ``kind, id, text``, users first: the form of `sllmr_plugin.TextTable`.
    """
    users = [_words_liked(taste, aspects[:, 0], CATEGORY_WORDS, 2, generator)]
    users.append(_words_liked(taste, aspects[:, 1], THEME_WORDS, 3, generator))
    read = quality + _READING_NOISE * generator.normal(size=len(quality))
    level = np.searchsorted(np.quantile(read, [0.2, 0.4, 0.6, 0.8]), read)
    items = [
        pick(np.array(words)[codes], 2, generator)
        for words, codes in ((CATEGORY_WORDS, aspects[:, 0]), (THEME_WORDS, aspects[:, 1]), (QUALITY_WORDS, level))
    ]
    user_words, item_words = (stray(np.concatenate(parts, axis=1), generator) for parts in (users, items))
    user_texts = [
        f"Looks for {', '.join(words[:4])}; drawn to {', '.join(words[4:10])}. {' '.join(words[10:])}"
        for words in user_words.tolist()
    ]
    item_texts = [
        f"About {words[0]} and {words[1]}, with {words[2]} and {words[3]}; readers say {words[4]}, {words[5]}. "
        + " ".join(words[6:])
        for words in item_words.tolist()
    ]
    return pd.DataFrame(
        {
            "kind": ["user"] * len(user_ids) + ["item"] * len(item_ids),
            "id": [*user_ids, *item_ids],
            "text": [*user_texts, *item_texts],
        }
    )


def _words_liked(
    taste: np.ndarray, codes: np.ndarray, words: list[list[str]], n_liked: int, generator: np.random.Generator
) -> np.ndarray:
    """Return two words of each of the groups that a user likes best, read with noise: (n_users, 2 * n_liked)."""
    members = np.eye(len(words))[codes]
    liking = taste @ members / members.sum(axis=0)
    liking = liking / liking.std() + _READING_NOISE * generator.normal(size=liking.shape)
    best = np.argsort(-liking, axis=1)[:, :n_liked]
    return np.concatenate([pick(np.array(words)[best[:, place]], 2, generator) for place in range(n_liked)], axis=1)


def pick(words: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Draw n different words of each row: (n_rows, n)."""
    order = np.argsort(generator.random(words.shape), axis=1)[:, :n]
    return np.take_along_axis(words, order, axis=1)


def stray(words: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Replace some words by any others, and append two that mean nothing."""
    everything = np.concatenate([np.ravel(group) for group in (CATEGORY_WORDS, THEME_WORDS, QUALITY_WORDS)])
    stray = generator.random(words.shape) < _STRAY_WORDS
    replaced = np.where(stray, generator.choice(everything, words.shape), words)
    return np.concatenate([replaced, generator.choice(FILLER, (len(words), 2))], axis=1)
