"""Rankings without training: scores against naive loops, the choice of the weight, what has no content."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import DataError
from sllmr_plugin.evaluation.ranking import full_ranking, summarize
from sllmr_plugin.evaluation.untrained import (
    POPULARITY_WEIGHTS,
    UntrainedModel,
    choose_popularity_weight,
    item_texts,
    untrained_models,
)
from sllmr_plugin.knowledge import TextTable
from sllmr_plugin.knowledge.id_vectors import Vectors

TITLES = ["red racing car", "blue racing car", "red sports car game", "farm animals", "farm tractor game", ""]


def frame(seed=0, n_users=30, n_items=6):
    """Every user keeps to the cars or to the farm, and leaves one item for validation and one for test."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        items = generator.permutation([0, 1, 2] if user % 2 else [3, 4, 5])
        splits = ["train", "valid", "test"]
        rows += [(f"u{user}", f"i{item}", split) for item, split in zip(items, splits, strict=True)]
    rows.append(("lurker", "i1", "test"))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "split"])


@pytest.fixture
def data():
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(6)], "title": TITLES})
    return load_interactions(frame(), items)


def scores_of(model, user, data):
    rows = torch.tensor([[user, item] for item in range(1, data.n_items + 1)], dtype=torch.float32)
    return model(rows).squeeze(1).numpy()


def naive_z(data, texts, user):
    """Cosines in plain Python: sublinear term frequency, smoothed inverse document frequency, unit vectors."""
    counts = [Counter(text.split()) for text in texts]
    documents = Counter(word for count in counts for word in count)
    idf = {word: np.log((1 + len(texts)) / (1 + n)) + 1 for word, n in documents.items()}
    vectors = [{word: (1 + np.log(n)) * idf[word] for word, n in count.items()} for count in counts]
    vectors = [
        {word: value / np.sqrt(sum(v * v for v in vector.values())) for word, value in vector.items()}
        for vector in vectors
    ]
    taken = data.train[(data.train["user"] == user) & (data.train["label"] == 1)]["item"]
    mean = Counter()
    for item in taken:
        for word, value in vectors[item - 1].items():
            mean[word] += value
    length = np.sqrt(sum(value * value for value in mean.values())) or 1.0
    cosine = np.array([sum(mean[word] * value for word, value in vector.items()) / length for vector in vectors])
    return (cosine - cosine.mean()) / (cosine.std() or 1.0)


def test_scores_equal_a_naive_computation(data):
    for weight in (0.0, 0.7):
        model = UntrainedModel(data, TITLES, popularity_weight=weight)
        for user in range(1, data.n_users + 1):
            popularity = [sum(data.train["item"] == item) for item in range(1, data.n_items + 1)]
            expected = naive_z(data, TITLES, user) + weight * np.log1p(popularity)
            assert scores_of(model, user, data) == pytest.approx(expected, abs=1e-5)


def test_rows_in_any_order_give_the_same_scores(data):
    model = UntrainedModel(data, TITLES)
    rows = torch.tensor([[u, i] for u in range(1, data.n_users + 1) for i in range(1, data.n_items + 1)])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(rows[order].float()), model(rows.float())[order])


def test_popularity_alone_ranks_as_counting_does(data):
    ranking = full_ranking(UntrainedModel(data), data, "test", verbose=False)
    popularity = data.popularity
    for row in ranking.itertuples():
        own = {*data.train[data.train["user"] == row.user]["item"], *data.valid[data.valid["user"] == row.user]["item"]}
        rivals = [item for item in range(1, data.n_items + 1) if item not in own | {row.item}]
        below = [np.sign(popularity[row.item] - popularity[item]) / 2 + 0.5 for item in rivals]
        assert row.auc == pytest.approx(np.mean(below))


def test_content_tells_the_cars_from_the_farm(data):
    models = untrained_models(data, TITLES)
    assert list(models) == ["popularity", "content", "content+popularity"]
    auc = {name: summarize(full_ranking(model, data, "test", verbose=False))["auc"] for name, model in models.items()}
    assert auc["content"] > 0.7 > auc["popularity"]


def test_the_weight_is_the_best_on_validation_and_looks_at_no_test_interaction(data):
    aucs = [
        full_ranking(UntrainedModel(data, TITLES, popularity_weight=w), data, "valid", verbose=False)["auc"].mean()
        for w in POPULARITY_WEIGHTS
    ]
    chosen = choose_popularity_weight(data, TITLES)
    assert aucs[POPULARITY_WEIGHTS.index(chosen)] == max(aucs)
    interactions = frame()
    interactions = interactions[(interactions["split"] != "test") | (interactions["user_id"] == "u1")]
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(6)], "title": TITLES})
    assert choose_popularity_weight(load_interactions(interactions, items), TITLES) == chosen


def test_a_user_without_history_sees_popularity_alone(data):
    lurker = int(data.user_index["lurker"])
    assert scores_of(UntrainedModel(data, TITLES, popularity_weight=0), lurker, data).tolist() == [0.0] * 6
    scores = scores_of(UntrainedModel(data, TITLES, popularity_weight=2), lurker, data)
    assert scores == pytest.approx(2 * np.log1p(data.popularity[1:]))


def test_without_texts_there_is_popularity_alone(data):
    assert list(untrained_models(data, None)) == list(untrained_models(data, [""] * 6)) == ["popularity"]


def test_content_reads_what_the_models_start_from_where_no_other_texts_are_given(data):
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(6)], "title": TITLES})
    told = pd.DataFrame({"kind": "item", "id": ["i4", "i0", "elsewhere"], "text": ["plough", "wheels", "nothing"]})
    titled = Vectors.read(told, titles=items)
    expected = ["red racing car. wheels", *TITLES[1:4], "farm tractor game. plough", ""]
    assert item_texts(data, vectors=titled) == expected
    assert item_texts(data, vectors=Vectors.read(told)) == ["wheels", *TITLES[1:4], "plough", ""]  # titles elsewhere
    assert item_texts(data, vectors=Vectors.read({"i0": [1.0, 2.0]})) == TITLES  # vectors have no texts
    texts = TextTable.read(told[:1], user_index=data.user_index, item_index=data.item_index)
    assert item_texts(data, texts, titled) == item_texts(data, texts)


def test_texts_that_cannot_be_compared_are_refused(data):
    with pytest.raises(DataError, match="2 texts for 6 items"):
        UntrainedModel(data, ["a car", "a farm"])
    with pytest.raises(DataError, match="no words"):
        UntrainedModel(data, ["?"] * 6)
