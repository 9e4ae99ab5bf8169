"""Texts as inputs, the regularizer, and both: ``python benchmarks/text_inputs.py --data FOLDER --texts FILE``.

KAR and LLM-CF give the model what texts say of users and items, the regularizer what an LLM thinks of their pairs. Does
one make the other unnecessary? One backbone in the plain form, with the adaptor of each, and each of these with the
regularizer (mode gated) on top, at the settings of `sllmr compare`. A text table without any language model, and so
without its knowledge, is made by

  sllmr texts --writer titles --interactions FOLDER/interactions.csv --items FOLDER/items.csv --out titles.parquet

First come two checks of the texts: how many users' texts have a text of a held-out item in them, and the AUC of the
cosine of a user's and an item's text, where nothing is trained. Then the AUC of the test interactions against drawn
items as mean ± standard deviation over seeds, and differences to the plain model and to the same inputs without the
regularizer. ``--checks-only`` stops after the first part.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from common import METRICS, spread

from sllmr_plugin import ScoreTable, SelectiveConfig, TextTable
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.datasets.interactions import Interactions, load_interactions
from sllmr_plugin.datasets.negatives import UnseenItems
from sllmr_plugin.evaluation.modes import Mode
from sllmr_plugin.evaluation.run import train_and_rank
from sllmr_plugin.evaluation.training import RunSettings
from sllmr_plugin.knowledge import EncodedTexts

MANY_ITEMS = 300  # drawn for each test interaction of the check
INPUTS = {"plain": "none", "kar": "kar", "llm_cf": "llm_cf"}


def show_checks(data: Interactions, texts: TextTable, encoded: EncodedTexts) -> None:
    """Print how many held-out items are in their users' texts, and what the texts alone know of the test."""
    users, items = texts.of("user"), texts.of("item")
    for name, part in (("validation", data.valid), ("test", data.test)):
        inside = [item in user for user, item in zip(users[part["user"]], items[part["item"]], strict=True)]
        print(f"text of the {name} item within that of its user: {np.mean(inside):.1%} of {len(part):,}")
    everything = pd.concat([part[["user", "item"]] for part in (data.train, data.valid, data.test)])
    seen = (everything["user"].to_numpy(), everything["item"].to_numpy())
    unseen = UnseenItems(*seen, n_users=data.n_users, n_items=data.n_items)
    user, item = (data.test[name].to_numpy() for name in ("user", "item"))
    beside = np.concatenate([item[:, None], unseen.draw(user, MANY_ITEMS, np.random.default_rng(0))], axis=1)
    unit = {kind: v / np.linalg.norm(v, axis=1, keepdims=True).clip(1e-9) for kind, v in encoded.vectors.items()}
    row = {kind: np.searchsorted(encoded.codes[kind], codes) for kind, codes in (("user", user), ("item", beside))}
    cosine = np.einsum("nd,nkd->nk", unit["user"][row["user"]], unit["item"][row["item"]])
    auc = (cosine[:, :1] > cosine[:, 1:]).mean() + (cosine[:, :1] == cosine[:, 1:]).mean() / 2
    print(f"cosine of a user's and an item's text, nothing trained: test AUC {auc:.4f} against {MANY_ITEMS} items\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="interactions.csv, items.csv, llm_scores.parquet")
    parser.add_argument("--texts", type=Path, required=True, help="text table of the same users and items")
    parser.add_argument("--backbone", default="deepfm")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1 (default: 3, at least 2)")
    parser.add_argument("--rank-items", type=int, default=300, help="unseen items ranked against (default: 300)")
    parser.add_argument("--checks-only", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    data = load_interactions(arguments.data / "interactions.csv", arguments.data / "items.csv")
    indexes = {"user_index": data.user_index, "item_index": data.item_index}
    scores = ScoreTable.read(arguments.data / "llm_scores.parquet", **indexes)
    table = TextTable.read(arguments.texts, **indexes)
    texts = EncodedTexts.of(table)
    show_checks(data, table, texts)
    if arguments.checks_only:
        return
    settings = RunSettings.quick(test_items=arguments.rank_items, valid_items=arguments.rank_items)

    def run(inputs: str, mode: str, seed: int) -> tuple[float, ...]:
        rows = training_rows(data, seed=seed)
        result = train_and_rank(
            data,
            rows,
            scores,
            backbone=arguments.backbone,
            config=SelectiveConfig.of_mode(mode),
            seed=seed,
            settings=settings,
            adaptor=Mode.of(INPUTS[inputs]).adaptor(data, rows, seed, texts=texts),
            verbose=False,
        )
        return tuple(getattr(result, metric) for metric in METRICS)

    print(f"{arguments.backbone:18}{'AUC':>14}{'cold users':>19}{'long-tail items':>19}")
    plain = None
    for inputs in INPUTS:
        alone, gated = (
            np.array([run(inputs, mode, seed) for seed in range(arguments.seeds)]) for mode in ("none", "gated")
        )
        plain = alone if plain is None else plain
        print(f"{inputs:18}{spread(alone).replace('+', ' ')}")
        if inputs != "plain":
            print(f"{'  minus plain':18}{spread(alone - plain)}")
        print(f"{inputs + ', gated':18}{spread(gated).replace('+', ' ')}")
        print(f"{'  minus ' + inputs:18}{spread(gated - alone)}", flush=True)


if __name__ == "__main__":
    main()
