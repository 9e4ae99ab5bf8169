"""Where `initialise` should take its vectors from: ``python benchmarks/vector_sources.py --data FOLDER --out FOLDER``.

DeepFM, trained as ``sllmr compare --epochs 8 --patience 3 --negatives 4 --redraw --rank-items 300`` does, with the item
rows started from titles, from the descriptions of ``llm_texts.parquet`` and from both, the user rows from the mean of
what the users took, from the users' profiles (where the table has them) and from nothing, and the texts encoded by
TF-IDF and by ``--encoder``. Parts, of which ``--parts`` chooses some:

  sources   titles, descriptions, both
  users     user rows from profiles and from nothing (texts: both), where `sources` takes the means of histories
  encoders  the three sources again, by ``--encoder``
  scales    0.1, 0.2, 0.5 and 1.0 (texts: both) in place of 0.3, with the validation AUC, by which one may choose
  new       a tenth of the items is kept out of training entirely, and gets rows by `Initialisation.embed_new` then

Prints AUC of the test interactions overall, of cold users and of long-tail items as mean ± standard deviation over
seeds. Part new prints the AUC of the test interactions of the items kept out, against one another and against the whole
catalogue, and of all test interactions: with the rows that these items had when the training ended (no row of a batch
was theirs), and with those of `embed_new`; beside popularity and content, where nothing is trained. Finished runs are
kept in ``results.jsonl`` of the folder and not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sllmr_plugin import ScoreTable, SelectiveConfig, Vectors, initialise
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.datasets.interactions import Interactions, load_interactions
from sllmr_plugin.evaluation.metrics import predict_rows
from sllmr_plugin.evaluation.modes import Start
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.evaluation.run import train_and_rank
from sllmr_plugin.evaluation.training import BestEpoch, RunSettings
from sllmr_plugin.evaluation.untrained import UNTRAINED, untrained_models
from sllmr_plugin.knowledge.vectors import find_encoder
from sllmr_plugin.zoo.deepctr import build_model, input_rows

PARTS = ("sources", "users", "encoders", "scales", "new")
SOURCES = ("titles", "descriptions", "both")
SCALES = (0.1, 0.2, 0.5, 1.0)
KEPT_OUT = 0.1
NEGATIVES = 4
IDS = {"user": "user_id", "item": "item_id"}


class Measured:
    """Runs by name and seed: those that are in the file are read, the others made and appended to it."""

    def __init__(self, folder: Path, seeds: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self._seeds = folder / "results.jsonl", seeds
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._known = {(entry["name"], entry["seed"]): entry["values"] for entry in map(json.loads, lines)}

    def of(self, name: str, run: Callable[[int], dict[str, float]]) -> pd.DataFrame:
        """Return what all seeds measured, a row each."""
        for seed in range(self._seeds):
            if (name, seed) not in self._known:
                self._known[name, seed] = run(seed)
                with self._file.open("a") as file:
                    file.write(json.dumps({"name": name, "seed": seed, "values": self._known[name, seed]}) + "\n")
        return pd.DataFrame([self._known[name, seed] for seed in range(self._seeds)])

    def show(self, name: str, run: Callable[[int], dict[str, float]]) -> None:
        """Print means and standard deviations over the seeds as a row of a Markdown table."""
        found = self.of(name, run)
        print(f"| {name} | {' | '.join(spread_of(found[key]) for key in found)} |", flush=True)


def spread_of(values: pd.Series) -> str:
    if values.isna().any():
        return ""
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else "")


def header(*columns: str) -> None:
    print(f"\n| | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}", flush=True)


class Bench:
    """The data of a folder, its texts as vectors, and trainings from them."""

    def __init__(self, folder: Path) -> None:
        self.items = pd.read_csv(folder / "items.csv")
        self.interactions = pd.read_csv(folder / "interactions.csv")
        self.texts = pd.read_parquet(folder / "llm_texts.parquet")
        self.data = load_interactions(self.interactions, self.items)
        self.settings = RunSettings(
            epochs=8, patience=3, negatives=NEGATIVES, redraw=True, test_items=300, valid_items=300
        )

    def texts_of(self, source: str, items: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
        """Return what `Vectors.read` takes for a source: a table of some items, and its options."""
        if source == "titles":
            return items, {}
        others = self.texts["kind"].eq("item") & ~self.texts["id"].isin(items["item_id"].astype(str))
        return self.texts[~others], {"titles": items} if source == "both" else {}

    def vectors(self, source: str, encoder: str, items: pd.DataFrame | None = None, *, users: bool = True) -> Vectors:
        """Encode the texts of a source about all items or about some, and with descriptions the profiles of users."""
        table, options = self.texts_of(source, self.items if items is None else items)
        if not users and "kind" in table:
            table = table[table["kind"] == "item"]
        return Vectors.read(table, encoder=find_encoder(encoder), **options)

    def descriptions_behind_titles(self, items: pd.DataFrame) -> list[str]:
        """Return the text of each item, as source both has it."""
        described = self.texts[self.texts["kind"] == "item"].set_index("id")["text"]
        behind = described.reindex(items["item_id"].astype(str)).fillna("")
        return [f"{title}. {text}" for title, text in zip(items["title"].fillna(""), behind, strict=True)]

    def starts(self, part: str, encoder: str) -> dict[str, Start]:
        """Return the rows of a part by name."""
        if part == "sources":
            return {source: Start(self.vectors(source, "tfidf")) for source in SOURCES}
        if part == "encoders":
            return {f"{source}, {encoder}": Start(self.vectors(source, encoder, users=False)) for source in SOURCES}
        both = self.vectors("both", "tfidf")
        if part == "scales":
            return {f"both, scale {scale:g}": Start(both, scale=scale) for scale in SCALES}
        ways = {"profiles": "vectors", "nothing": "none"} if both.users is not None else {"nothing": "none"}
        return {f"both, users from {name}": Start(both, users=users) for name, users in ways.items()}

    def train(self, start: Start | None) -> Callable[[int], dict[str, float]]:
        """Return what trains from a start with a seed, and measures."""

        def run(seed: int) -> dict[str, float]:
            result = train_and_rank(
                self.data,
                training_rows(self.data, negatives=NEGATIVES, seed=seed),
                ScoreTable.empty(),
                backbone="deepfm",
                config=SelectiveConfig(weight=0.0),
                seed=seed,
                settings=self.settings,
                start=start,
                verbose=False,
            )
            valid = result.epochs[result.epoch - 1]["valid_auc"]
            return {"auc": result.auc, "cold": result.auc_cold, "tail": result.auc_tail, "valid": valid}

        return run


def without(data: Interactions, items: np.ndarray) -> Interactions:
    """Return the data as they were before the last items of the catalogue came, given their codes."""
    n_before = data.n_items - len(items)
    train, valid, test = (part[~part["item"].isin(items)] for part in (data.train, data.valid, data.test))
    titles = None if data.titles is None else data.titles.iloc[:n_before]
    return replace(data, train=train, valid=valid, test=test, item_ids=data.item_ids[:n_before], titles=titles)


def fit_before(bench: Bench, before: Interactions, data: Interactions, vectors: Vectors | None, seed: int) -> Any:
    """Train a model with room for all items on the data before the new ones came; return it and its start."""
    model = build_model("deepfm", data, embedding_dim=bench.settings.embedding_dim, seed=seed)
    x, y = training_rows(before, negatives=NEGATIVES, seed=seed)
    done = None
    if vectors is not None:
        index = {"user_index": data.user_index, "item_index": data.item_index}
        done = initialise(model, vectors, user="user_id", item="item_id", x=x, y=y, **index)
    model.compile(torch.optim.Adam(model.parameters(), lr=bench.settings.learning_rate), "binary_crossentropy")

    def validate(model: Any) -> float:
        return full_ranking(model, before, "valid", users=1500, n_items=300, verbose=False)["auc"].mean()

    best = BestEpoch(validate, lambda epoch, auc: None, bench.settings.patience)
    torch.manual_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()):  # DeepCTR-Torch prints even with verbose=0
        for epoch in range(bench.settings.epochs):
            x, y = training_rows(before, negatives=NEGATIVES, seed=(seed, epoch) if epoch else seed)
            options = {"batch_size": bench.settings.batch_size, "verbose": 0, "callbacks": [best]}
            model.fit(input_rows(model, x), y, initial_epoch=epoch, epochs=epoch + 1, **options)
            if best.is_over:
                break
    model.load_state_dict(best.state)
    return model, done


def among(model: Any, data: Interactions, codes: np.ndarray) -> float:
    """Return the AUC of the test interactions of some items, each against those of them that its user has not taken."""
    asked = data.test[data.test["item"].isin(codes)].reset_index(names="asked")
    pairs = asked[["asked", "user"]].merge(pd.DataFrame({"item": codes}), how="cross")
    taken = pd.concat([part[["user", "item"]] for part in (data.train, data.valid, data.test)])
    pairs = pairs.merge(taken.drop_duplicates().assign(taken=True), on=["user", "item"], how="left")
    others = pairs[pairs["taken"].isna()]
    own = pd.Series(predict_rows(model, data, asked), index=asked["asked"])[others["asked"]].to_numpy()
    score = predict_rows(model, data, others)
    share = pd.Series((own > score) + 0.5 * (own == score)).groupby(others["asked"].to_numpy()).mean()
    return float(share.mean())


def new_items(bench: Bench, way: str) -> Callable[[int], dict[str, float]]:
    """Return what trains without a tenth of the items and measures how their test interactions are ranked, and others.

    `way` is a source of vectors, ``"plain"`` for a model that starts from none, or a name of `UNTRAINED`.
    """

    def run(seed: int) -> dict[str, float]:
        shuffled = bench.items.sample(frac=1, random_state=seed)
        n_new = round(KEPT_OUT * len(shuffled))
        known, new = shuffled.iloc[:-n_new], shuffled.iloc[-n_new:]
        data = load_interactions(bench.interactions, shuffled)  # in the order of the items: the new ones come last
        codes = np.arange(data.n_items - n_new + 1, data.n_items + 1)
        before = without(data, codes)

        def rank(model: Any) -> dict[str, float]:
            ranking = full_ranking(model, data, "test", n_items=300, verbose=False)
            late = ranking["item"].isin(codes)
            return {
                "new among new": among(model, data, codes),
                "new among all": float(ranking["auc"][late].mean()),
                "all among all": float(ranking["auc"].mean()),
            }

        if way in UNTRAINED:
            texts = bench.descriptions_behind_titles(shuffled)
            model = untrained_models(replace(data, train=before.train, valid=before.valid), texts, n_items=300)[way]
        else:
            vectors = None if way == "plain" else bench.vectors(way, "tfidf", known)
            model, done = fit_before(bench, before, data, vectors, seed)
        found = rank(model)
        if way in SOURCES:
            table, options = bench.texts_of(way, new)
            done.embed_new(model, table, **options)
            embedded = rank(model)
        else:
            embedded = dict.fromkeys(found, float("nan"))
        return found | {f"{name}, embed_new": value for name, value in embedded.items()}

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of interactions.csv, items.csv, llm_texts.parquet"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, another one for other data")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"(default: {','.join(PARTS)})")
    parser.add_argument("--encoder", default="use", help="of part encoders, see `find_encoder` (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1 (default: 3)")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: {', '.join(unknown)} is none of {', '.join(PARTS)}")
    bench, measured = Bench(arguments.data), Measured(arguments.out, arguments.seeds)
    trained = [part for part in parts if part != "new"]
    if trained:
        header("AUC", "cold users", "long-tail items", "validation AUC")
        measured.show("plain", bench.train(None))
    for part in trained:
        for name, start in bench.starts(part, arguments.encoder).items():
            measured.show(name, bench.train(start))
    if "new" in parts:
        kinds = ("new among new", "new among all", "all among all")
        header(*kinds, *(f"{kind}, embed_new" for kind in kinds))
        for way in ("plain", *SOURCES, *UNTRAINED):
            measured.show(f"new: {way}", new_items(bench, way))


if __name__ == "__main__":
    main()
