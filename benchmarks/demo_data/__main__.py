"""Make the demo data: invented items, users of known tastes, simulated LLM scores of uneven reliability.

Nothing here is real. Titles are composed of invented names, interactions are drawn from preferences that the
generator knows, and no language model was asked for anything: the *simulated* LLM scores are the true
preferences, blurred by an amount that depends on the region, so that a gate has something to find.

The truth has three parts: a user's taste in categories and themes, an item's quality (shared by everyone,
alike within a series), and its exposure. Exposure follows a power law and draws most training interactions;
in the last two interactions of a user, validation and test, it counts for less and quality for more. A model
that knows only ids learns exposure from the training data, hardly the quality of what was seldom shown, and
nothing of `N_NEW` items that came later: that is what scores which judge by content can add.

How often the simulated LLM puts a held-out item (validation and test) above the 20 candidates of its user, as
`reliability` measures it on the 700 scored users:

========  ===============  ====  =====
users     held-out items      n    AUC
========  ===============  ====  =====
cold      head              604  0.803
cold      tail               96  0.772
warm      head              572  0.333
warm      tail              128  0.849
========  ===============  ====  =====

So it helps with cold users and with tail items, and misleads about the well-known items of users with a
history. The titles carry category and theme; quality can be read from nothing but the simulated scores and, with
noise, the simulated texts (`texts`, `reasoning`), which have random generators of their own and change no
other file.
For orientation, a plain DeepFM on user and item id (embedding 16, batch 256, three epochs) has a full-ranking
test AUC of 0.660: 0.680 for cold users, 0.05 for tail items (342 of the 2,000 test interactions).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sllmr_plugin.regions import cold_users, tail_threshold

from .reasoning import generate_reasoning
from .texts import generate_texts

# Of the seeds 1 to 6, the one with the most tail items among the test interactions (342 of 2,000).
SEED = 2
N_USERS = 2000
COLD_SHARE = 0.4
N_NEW = 24
N_SCORED_COLD, N_SCORED_WARM = 350, 350
N_PROBES = 250

# What taste, quality and exposure add to the utility of an item, besides Gumbel noise of scale 1.
TRAINING_UTILITY = (1.0, 0.4, 0.9)
HELD_OUT_UTILITY = (1.0, 1.2, 0.5)

# Correlation of the simulated LLM with the true suitability, by (cold user, tail item): right where training
# says little, misleading about what a user with a history thinks of well-known items.
FIDELITY = {(True, True): 0.75, (True, False): 0.75, (False, True): 0.65, (False, False): -0.5}

THEMES = {
    "sea": ["Saltmarsh", "Tidewater", "Gullwing Bay", "Drowned Bell", "Kelp Harbour"],
    "forest": ["Fernhollow", "Mosswick", "Old Badger Wood", "Thistledown", "Owl and Acorn"],
    "mountain": ["Cragfall", "Greystone Pass", "Last Chalet", "Goatherd", "Thin Air Ridge"],
    "desert": ["Amber Dune", "Dry Well", "Scarab Road", "Sandglass", "Seven Camels"],
    "night sky": ["Comet Lane", "Moonwright", "Far Meridian", "Lamplit Star", "Quiet Orbit"],
    "garden": ["Rosehip Row", "Bumble Court", "Plum Trellis", "Quincewood", "Wheelbarrow"],
    "winter": ["Snowbell", "Frostwick", "Icehouse", "Mitten and Sledge", "Long December"],
    "old town": ["Clockmaker", "Cobble Street", "Chimneypot", "Tram Nine", "Lantern Square"],
}
PRODUCTS = {
    "board games": [
        "{}: The Board Game",
        "{}: Two-Player Duel",
        "{}: The Card Game",
        "{}: Dice Edition",
        "{}: Night Falls (Expansion)",
        "{}: Cooperative Adventure",
        "{}: Family Edition",
    ],
    "novels": [
        "The {} Letters (Novel)",
        "Return to {} (Novel)",
        "The Heirs of {} (Novel)",
        "A Stranger in {} (Novel)",
        "The {} Mystery (Paperback)",
        "Tales from {} (Short Stories)",
        "{}: The Complete Saga (Hardcover)",
    ],
    "kitchen": [
        "{} Enamel Kettle",
        "{} Bread Tin",
        "{} Stoneware Mugs, Set of 4",
        "{} Cast-Iron Pan",
        "{} Paring Knife",
        "{} Spice Rack",
        "{} Linen Apron",
    ],
    "outdoor": [
        "{} Two-Person Tent",
        "{} Trekking Poles",
        "{} Down Sleeping Bag",
        "{} Camp Stove",
        "{} 30-Litre Rucksack",
        "{} Head Torch",
        "{} Rain Jacket",
    ],
    "stationery": [
        "{} Dotted Notebook",
        "{} Fountain Pen",
        "{} Watercolour Set",
        "{} Wall Calendar",
        "{} Washi Tape, 6 Rolls",
        "{} Letter Paper and Envelopes",
        "{} Sketchbook",
    ],
}
SERIES_PER_THEME, ITEMS_PER_SERIES = 2, 5  # 5 categories x 8 themes x 2 series x 5 items = 400 items


@dataclass(frozen=True)
class DemoWorld:
    """Everything the generator knows; users and items are counted from 0 here.

    Parameters
    ----------
    items : pandas.DataFrame
        ``item_id, title, category``, one row an item.
    interactions : pandas.DataFrame
        ``user_id, item_id, position, split``, by user and in time order.
    scores : pandas.DataFrame
        The *simulated* LLM scores that are bundled: ``user_id, item_id, score, kind``.
    texts : pandas.DataFrame
        The *simulated* LLM texts that are bundled: ``kind, id, text``, and of reasoning texts ``item_id, label``.
    suitability : numpy.ndarray
        (n_users, n_items) float64, how well an item suits a user, exposure apart: taste and quality as they
        count in held-out interactions, with mean 0 and variance 1 over all pairs.
    simulated_scores : numpy.ndarray
        (n_users, n_items) float64 in [0, 1], what the *simulated* LLM says of any pair.
    cold : numpy.ndarray
        (n_users,) bool, fewer than 3 training interactions.
    tail : numpy.ndarray
        (n_items,) bool, the least popular fifth of the catalogue in training (ties included).
    """

    items: pd.DataFrame
    interactions: pd.DataFrame
    scores: pd.DataFrame
    texts: pd.DataFrame
    suitability: np.ndarray
    simulated_scores: np.ndarray
    cold: np.ndarray
    tail: np.ndarray


def generate_demo(seed: int = SEED) -> DemoWorld:
    """Make the whole demo data set.

    Parameters
    ----------
    seed : int, default SEED
        The bundled files are the ones of the default.

    Returns
    -------
    DemoWorld
        Items, interactions and simulated LLM scores, with the truth behind them.
    """
    generator = np.random.default_rng(seed)
    items, aspects = _make_items(generator)
    taste = _draw_tastes(aspects, generator)
    quality = _draw_quality(aspects, generator)
    exposure = -np.log(generator.permutation(len(items)) + 1.0)
    n_train = _history_lengths(generator)
    taken = _draw_interactions(taste, quality, exposure, n_train, generator)
    is_training = np.arange(taken.shape[1]) < n_train[:, None]
    popularity = np.bincount(taken[is_training], minlength=len(items))
    cold, tail = cold_users(n_train, 3), popularity <= tail_threshold(popularity, 0.2)
    suitability = HELD_OUT_UTILITY[0] * taste + HELD_OUT_UTILITY[1] * quality
    suitability = (suitability - suitability.mean()) / suitability.std()
    simulated = _simulate_llm(suitability, cold, tail, generator)

    user_ids = np.array([f"u{number:04d}" for number in range(1, N_USERS + 1)])
    item_ids = items["item_id"].to_numpy()
    interactions = _interaction_frame(taken, n_train, user_ids, item_ids)
    users, candidates, is_probe = _choose_pairs(taken, n_train, cold, popularity, generator)
    scores = pd.DataFrame(
        {
            "user_id": user_ids[users],
            "item_id": item_ids[candidates],
            "score": simulated[users, candidates],
            "kind": np.where(is_probe, "probe", "candidate"),
        }
    )
    texts = generate_texts(taste, quality, aspects, user_ids, item_ids, np.random.default_rng([seed, 1]))
    reasons = [taste, quality, (exposure - exposure.mean()) / exposure.std()]
    reasons = [
        weight * np.broadcast_to(part, taste.shape) for weight, part in zip(TRAINING_UTILITY, reasons, strict=True)
    ]
    reasoning = generate_reasoning(reasons, aspects, taken, n_train, user_ids, item_ids, seed)
    texts = pd.concat([texts, reasoning], ignore_index=True).astype({"label": "Int8"})
    return DemoWorld(items, interactions, scores, texts, suitability, simulated, cold, tail)


def _make_items(generator: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Compose the catalogue: items, and (n_items, 3) codes of category, theme and series."""
    rows, aspects, series = [], [], 0
    for category_code, (category, products) in enumerate(PRODUCTS.items()):
        for theme_code, names in enumerate(THEMES.values()):
            for name in generator.choice(names, SERIES_PER_THEME, replace=False):
                for product in generator.choice(products, ITEMS_PER_SERIES, replace=False):
                    rows.append((product.format(name), category))
                    aspects.append((category_code, theme_code, series))
                series += 1
    order = generator.permutation(len(rows))  # else neighbours in the file would be neighbours in content
    items = pd.DataFrame([rows[place] for place in order], columns=["title", "category"])
    items.insert(0, "item_id", [f"i{number:03d}" for number in range(1, len(items) + 1)])
    return items, np.array(aspects)[order]


def _draw_tastes(aspects: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw what every user likes in categories and themes: (n_users, n_items), standardised within a user."""
    taste = np.zeros((N_USERS, len(aspects)))
    for codes in (aspects[:, 0], aspects[:, 1]):
        taste += generator.normal(size=(N_USERS, codes.max() + 1))[:, codes]
    return (taste - taste.mean(axis=1, keepdims=True)) / taste.std(axis=1, keepdims=True)


def _draw_quality(aspects: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw how good every item is, mostly by its series: (n_items,), standardised."""
    series = aspects[:, 2]
    quality = generator.normal(size=series.max() + 1)[series] + 0.5 * generator.normal(size=len(series))
    return (quality - quality.mean()) / quality.std()


def _history_lengths(generator: np.random.Generator) -> np.ndarray:
    """Draw the training interactions of each user, (n_users,): 1-2 for cold ones, 3 to 20 for warm ones."""
    cold = generator.permutation(N_USERS) < COLD_SHARE * N_USERS
    warm_lengths = np.minimum(3 + generator.geometric(0.25, N_USERS) - 1, 20)
    return np.where(cold, generator.integers(1, 3, N_USERS), warm_lengths)


def _draw_interactions(
    taste: np.ndarray,
    quality: np.ndarray,
    exposure: np.ndarray,
    n_train: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Draw every user's items in time order, the validation and the test item after `n_train` others.

    The items of largest utility plus Gumbel noise are a draw without replacement from the softmax of the
    utility.

    Returns
    -------
    numpy.ndarray
        (n_users, n_train.max() + 2) item numbers; what follows a user's test item means nothing.
    """
    training, held_out = (
        weights[0] * taste + weights[1] * quality + weights[2] * exposure + generator.gumbel(size=taste.shape)
        for weights in (TRAINING_UTILITY, HELD_OUT_UTILITY)
    )
    training[:, generator.choice(len(quality), N_NEW, replace=False)] = -np.inf
    taken = np.argsort(-training, axis=1)[:, : n_train.max() + 2]
    is_training = np.arange(taken.shape[1]) < n_train[:, None]
    # the strongest wish need not come first: shuffle a user's training items
    lottery = np.where(is_training, generator.random(taken.shape), 1.0)
    taken = np.take_along_axis(taken, np.argsort(lottery, axis=1), axis=1)
    users, position = np.nonzero(is_training)
    held_out[users, taken[users, position]] = -np.inf
    last_two = np.argsort(-held_out, axis=1)[:, :2]
    np.put_along_axis(taken, n_train[:, None] + np.arange(2), last_two, axis=1)
    return taken


def _simulate_llm(
    suitability: np.ndarray, cold: np.ndarray, tail: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Blur the true suitability by region, squash it into [0, 1] and round it as a language model would."""
    fidelity = np.empty_like(suitability)
    for (of_cold, of_tail), value in FIDELITY.items():
        fidelity[np.ix_(cold == of_cold, tail == of_tail)] = value
    opinion = fidelity * suitability + np.sqrt(1 - fidelity**2) * generator.normal(size=fidelity.shape)
    return np.round(1 / (1 + np.exp(1.2 - 1.3 * opinion)), 2)


def _interaction_frame(
    taken: np.ndarray, n_train: np.ndarray, user_ids: np.ndarray, item_ids: np.ndarray
) -> pd.DataFrame:
    users, position = np.nonzero(np.arange(taken.shape[1]) < n_train[:, None] + 2)
    split = np.array(["train", "valid", "test"])[np.maximum(position - n_train[users] + 1, 0)]
    return pd.DataFrame(
        {
            "user_id": user_ids[users],
            "item_id": item_ids[taken[users, position]],
            "position": position,
            "split": split,
        }
    )


def _choose_pairs(
    taken: np.ndarray,
    n_train: np.ndarray,
    cold: np.ndarray,
    popularity: np.ndarray,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose what the simulated LLM scores: (n_pairs,) users, items and whether the pair is a probe.

    A user gets 8 of the 60 most popular items, 6 of the rest at random and 6 of the 20% least popular ones,
    none of them the user's own. Probes are the validation items of some of these users, half of them cold.
    """
    n_items = len(popularity)
    scored = np.concatenate(
        [
            generator.choice(np.flatnonzero(cold), N_SCORED_COLD, replace=False),
            generator.choice(np.flatnonzero(~cold), N_SCORED_WARM, replace=False),
        ]
    )
    by_popularity = np.argsort(-popularity, kind="stable")
    least = by_popularity[-(n_items // 5) :]
    own = np.zeros((N_USERS, n_items), dtype=bool)
    users, position = np.nonzero(np.arange(taken.shape[1]) < n_train[:, None] + 2)
    own[users, taken[users, position]] = True
    chosen = own[scored]
    for pool, size in ((by_popularity[:60], 8), (least, 6), (np.arange(n_items), 6)):
        lottery = np.full(chosen.shape, np.inf)
        lottery[:, pool] = generator.random((len(scored), len(pool)))
        lottery[chosen] = np.inf
        np.put_along_axis(chosen, np.argsort(lottery, axis=1)[:, :size], True, axis=1)
    row, candidates = np.nonzero(chosen & ~own[scored])

    half = N_PROBES // 2
    probed = np.concatenate([scored[:half], scored[N_SCORED_COLD : N_SCORED_COLD + half]])
    users = np.concatenate([scored[row], probed])
    items = np.concatenate([candidates, taken[probed, n_train[probed]]])
    is_probe = np.arange(len(users)) >= len(row)
    order = np.lexsort((items, users))
    return users[order], items[order], is_probe[order]


def reliability(world: DemoWorld) -> pd.DataFrame:
    """Measure the simulated LLM on held-out items: how often it puts them above a user's candidates.

    Returns
    -------
    pandas.DataFrame
        One row a region (cold or warm user, tail or head held-out item): ``n`` held-out items of scored users
        and ``auc``, the share of (held-out item, candidate) pairs in the right order, ties counting one half.
    """
    held_out = world.interactions[world.interactions["split"] != "train"]
    candidates = world.scores.loc[world.scores["kind"] == "candidate", ["user_id", "score"]]
    pairs = held_out.merge(candidates, on="user_id")
    user = pairs["user_id"].str[1:].astype(int).to_numpy() - 1
    item = pairs["item_id"].str[1:].astype(int).to_numpy() - 1
    said = world.simulated_scores[user, item]
    pairs["right"] = (said > pairs["score"]) + 0.5 * (said == pairs["score"])
    pairs["users"] = np.where(world.cold[user], "cold", "warm")
    pairs["held-out items"] = np.where(world.tail[item], "tail", "head")
    single = pairs.groupby(["users", "held-out items", "user_id", "item_id"])["right"].mean()
    return single.groupby(["users", "held-out items"]).agg(n="size", auc="mean").reset_index()


def write_demo(folder: Path, world: DemoWorld) -> None:
    """Write ``interactions.csv.gz``, ``items.csv``, ``llm_scores.parquet`` and ``llm_texts.parquet`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # mtime: else the same frame gives other bytes at every run
    world.interactions.to_csv(folder / "interactions.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})
    world.items.to_csv(folder / "items.csv", index=False)
    world.scores.to_parquet(folder / "llm_scores.parquet", index=False)
    world.texts.to_parquet(folder / "llm_texts.parquet", index=False)


def main(arguments: list[str] | None = None) -> None:
    """Write the demo files and print how reliable the simulated LLM is in each region."""
    parser = argparse.ArgumentParser(description="Make the demo data (simulated LLM scores and texts included).")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the files to")
    parser.add_argument("--seed", type=int, default=SEED, help="default: the seed of the bundled files")
    options = parser.parse_args(arguments)
    world = generate_demo(options.seed)
    write_demo(options.out, world)
    print(reliability(world).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
