"""Triples: read from both forms, as sparse features of models, and vectors smoothed against loops and by hand."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pandas as pd
import pytest
from deepctr_torch import models

from sllmr_plugin import CoverageWarning, DataError, Triples, Vectors, VectorsError, initialise, sparse_columns
from sllmr_plugin.scores.origin import write_parquet

from .matrix import backbones as zoo


def frame(rows, columns=("head", "relation", "tail", "confidence")):
    return pd.DataFrame(rows, columns=list(columns)[: len(rows[0])])


TRIPLES = frame(
    [
        ("a", "genre", "shooter", 0.9),
        ("a", "genre", "puzzle", 0.4),
        ("b", "genre", "shooter", 0.5),
        ("b", "platform", "Wii", 1.0),
        ("c", "platform", "Wii", 1.0),
        ("c", "genre", "racing", 1.0),
    ]
)


def test_both_forms_say_the_same(tmp_path):
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "genre": ["x | y", "", "y"], "brand": ["p", "p", None]})
    read = Triples.read(items, attributes=["genre:pipe", "brand"])
    long = frame(
        [("a", "genre", "x"), ("a", "genre", "y"), ("c", "genre", "y"), ("a", "brand", "p"), ("b", "brand", "p")]
    )
    for one in (read, Triples.read(long), Triples.read(read)):
        assert one.heads.tolist() == ["a", "a", "c", "a", "b"]
        assert one.relations.tolist() == ["genre"] * 3 + ["brand"] * 2
        assert one.tails.tolist() == ["x", "y", "y", "p", "p"]
        assert one.confidences.tolist() == [1.0] * 5
    # What `sllmr attributes` writes says which of its columns these are.
    origin = {"settings": {"vocabulary": {"genre:pipe": ["x", "y"]}}}
    write_parquet(items.assign(genre=["x|y", "", "y"]), tmp_path / "sorted.parquet", origin)
    assert Triples.read(tmp_path / "sorted.parquet").tails.tolist() == ["x", "y", "y"]
    long.to_csv(tmp_path / "long.csv", index=False)
    assert repr(Triples.read(tmp_path / "long.csv")).endswith("long.csv: 5 of 3 items (genre: 3, brand: 2)")


def test_of_a_statement_that_occurs_twice_the_higher_confidence_counts():
    rows = [("a", "genre", "x", 0.2), ("a", "genre", "x", 0.7), ("b", "genre", "x", 0.1)]
    assert Triples.read(frame(rows)).confidences.tolist() == [0.7, 0.1]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("a", "genre", "", 1.0)], r"row 0 .*tail is ''.* says nothing"),
        ([("a", "genre", "x", 1.0), ("b", " ", "x", 1.0)], r"row 1 .*relation is ' '"),
        ([("a", "genre", "x", 0.0)], r"row 0 .*confidence is 0.0; give a number above 0"),
        ([("a", "genre", "x", 1.5)], "confidence is 1.5"),
        ([("a", "genre", "x", math.nan)], "confidence is empty"),
        ([(None, "genre", "x", 1.0)], "head is empty"),
    ],
)
def test_rows_that_say_nothing_are_refused_by_name(rows, told):
    with pytest.raises(DataError, match=told):
        Triples.read(frame(rows))


def test_tables_that_do_not_say_what_they_hold_are_refused(tmp_path):
    items = pd.DataFrame({"item_id": [1, 2], "brand": ["p", "q"], "empty": ["", ""]})
    with pytest.raises(DataError, match=r"no column 'head', and nothing says.*attributes=\['brand'"):
        Triples.read(items)
    with pytest.raises(DataError, match="no column 'maker'"):
        Triples.read(items, attributes=["maker"])
    with pytest.raises(DataError, match="neither COLUMN nor"):
        Triples.read(items, attributes=["brand:"])
    with pytest.raises(DataError, match="the columns empty are empty"):
        Triples.read(items, attributes=["empty"])
    with pytest.raises(DataError, match="attributes= are columns"):
        Triples.read(TRIPLES, attributes=["genre"])
    with pytest.raises(DataError, match="no column 'tail'"):
        Triples.read(TRIPLES.drop(columns="tail"))
    with pytest.raises(DataError, match="no relation 'mood'. Take some of 'genre', 'platform'"):
        Triples.read(TRIPLES).of_relations("mood")


# ---------------------------------------------------------------------- features


def test_features_are_the_tails_of_highest_confidence_that_items_share():
    features = Triples.read(TRIPLES).features(item_index={"a": 5, "b": 2, "c": 7}, most=2, least=1)
    genres = ("puzzle", "racing", "shooter")
    assert features.vocabularies == {"genre_0": genres, "genre_1": genres, "platform_0": ("Wii",)}
    rows = features.table.set_index("item_id")[["genre_0", "genre_1", "platform_0"]]
    assert rows.loc["a"].tolist() == [3, 1, 0]  # shooter before puzzle, by confidence
    assert rows.loc["b"].tolist() == [3, 0, 1]
    assert rows.loc["c"].tolist() == [2, 0, 1]
    assert features.codes[5].tolist() == [3, 1, 0]
    shared = Triples.read(TRIPLES).features(item_index={"a": 5, "b": 2, "c": 7})
    assert shared.vocabularies == {"genre_0": ("shooter",), "platform_0": ("Wii",)}  # puzzle, racing: one item each


def test_features_that_cannot_be_are_refused():
    read = Triples.read(TRIPLES)
    with pytest.raises(DataError, match="no tail belongs to 3 items"):
        read.features(least=3)
    with pytest.raises(DataError, match="most=0"):
        read.features(most=0)
    with pytest.raises(DataError, match="the relation 'is.a' has a dot"):
        Triples.read(TRIPLES.assign(relation="is.a")).features()


def test_ids_of_a_text_file_are_codes_without_an_index(tmp_path):
    rows = [("3", "genre", "x"), ("1", "genre", "x")]
    frame(rows).to_csv(tmp_path / "t.csv", index=False)
    read = Triples.read(tmp_path / "t.csv")
    assert read.features().codes[:, 0].tolist() == [0, 1, 0, 1]
    # In the form of an index that has one: numbers, texts, or both for the same code, as FuxiCTR's.
    for index, ids in (({3: 1, 9: 2}, [3]), ({"3": 1, "1": 2}, ["3", "1"]), ({"3": 4, 3: 4, "1": 2, 1: 2}, ["3", "1"])):
        features = read.features(item_index=index)
        assert features.table["item_id"].tolist() == ids
        assert np.flatnonzero(features.codes[:, 0]).tolist() == sorted(index[raw] for raw in ids)
    with pytest.raises(DataError, match="none of the items in the table is in the index"):
        read.features(item_index={"other": 1})


def test_a_model_reads_them_as_sparse_columns():
    rows = [(item, "genre", f"g{item % 3}", 1.0) for item in range(1, zoo.N_ITEMS + 1)]
    features = Triples.read(frame(rows)).features()
    with contextlib.redirect_stdout(io.StringIO()):
        columns = [*zoo._columns(dense=False), *sparse_columns(features, zoo.DIM)]
        model = models.DeepFM(columns, columns, dnn_hidden_units=(4,), device="cpu")
        model.compile("adam", "binary_crossentropy")
        x, _ = zoo.samples()
        before = model.embedding_dict["genre_0"].weight.detach().clone()
        x = features.add({name: x[name] for name in model.feature_index if name in x})
        assert x["genre_0"].tolist() == [1 + item % 3 for item in x["item_id"]]
        model.fit(x, zoo.labels(zoo.BACKBONES[0]), batch_size=48, epochs=1, verbose=0)
    moved = (model.embedding_dict["genre_0"].weight != before).any(dim=1)
    assert moved[1:].all()


# ---------------------------------------------------------------------- vectors


def test_smoothing_by_hand():
    # a and b share x, of confidence 1 and 1; c has a tail of its own. d_x = 2, W_ab = 1 * 1 / 2, D_a = D_b = 1/2, so
    # D^-1/2 W D^-1/2 is 1 between a and b. The mean of the vectors is 0.
    triples = frame([("a", "genre", "x"), ("b", "genre", "x"), ("c", "genre", "y")])
    vectors = {"a": [2.0, 0.0], "b": [0.0, 1.0], "c": [-2.0, -1.0]}
    found = Triples.read(triples).smooth(vectors, own=0.75)
    np.testing.assert_allclose(found.items.matrix, [[1.5, 0.25], [0.5, 0.75], [-2.0, -1.0]], atol=1e-6)
    twice = Triples.read(triples).smooth(vectors, own=0.75, hops=2)
    np.testing.assert_allclose(twice.items.matrix[0], [0.75 * 1.5 + 0.25 * 0.5, 0.75 * 0.25 + 0.25 * 0.75], atol=1e-6)
    np.testing.assert_allclose(Triples.read(triples).smooth(vectors, own=1).items.matrix, list(vectors.values()))
    assert found.source == "a mapping smoothed by the triples DataFrame"


@pytest.mark.parametrize("hops", [1, 3])
def test_smoothing_is_that_of_loops(hops):
    rng = np.random.default_rng(2)
    n = 12
    rows = {
        (int(i), "genre", f"t{t}"): float(c)
        for i, t, c in zip(rng.integers(0, 10, 30), rng.integers(0, 6, 30), rng.uniform(0.1, 1, 30), strict=True)
    }
    rows |= {
        (1, "mood", "t1"): 0.5,
        (2, "mood", "t1"): 0.5,
        (3, "complements", "4"): 0.8,
        (4, "complements", "11"): 0.3,
    }
    triples = Triples.read(frame([(*key, value) for key, value in rows.items()]))
    matrix = rng.normal(size=(n, 3)).astype(np.float32)
    weights = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            for (head, relation, tail), c in rows.items():
                if relation == "complements":
                    weights[i, j] += c * ((head, int(tail)) in ((i, j), (j, i)))
                elif head == i and (j, relation, tail) in rows:
                    of_tail = sum(v for (_, r, t), v in rows.items() if (r, t) == (relation, tail))
                    weights[i, j] += c * rows[j, relation, tail] / of_tail
    degree = weights.sum(axis=1)
    values = matrix - matrix.mean(axis=0, dtype=np.float64)
    for _ in range(hops):
        after = values.copy()
        for i in np.flatnonzero(degree > 0):
            around = sum(
                weights[i, j] / math.sqrt(degree[i] * degree[j]) * values[j] for j in np.flatnonzero(weights[i])
            )
            after[i] = 0.4 * values[i] + 0.6 * around
        values = after
    assert (degree == 0).any()
    found = triples.smooth(dict(enumerate(matrix)), hops=hops, own=0.4, between=["complements"])
    np.testing.assert_allclose(found.items.matrix, values + matrix.mean(axis=0), atol=1e-5)


def test_ids_match_as_text_and_users_keep_their_vectors():
    texts = frame([("item", "7", "red car"), ("item", "8", "blue car"), ("user", "7", "red")], ("kind", "id", "text"))
    before = Vectors.read(texts)
    found = Triples.read(frame([(7, "genre", "x"), (8, "genre", "x"), (9, "genre", "x")])).smooth(before)
    np.testing.assert_allclose(found.items.matrix[0], found.items.matrix[1], atol=1e-6)  # own 0.5, one neighbour each
    assert found.users is before.users
    assert found.texts == before.texts


def test_what_cannot_be_smoothed_is_refused():
    read = Triples.read(TRIPLES)
    for wrong in ({"hops": 0}, {"own": 1.5}):
        with pytest.raises(VectorsError, match=f"{next(iter(wrong))}="):
            read.smooth({"a": [1.0]}, **wrong)
    with pytest.raises(VectorsError, match="no two of the 2 items of a mapping share a tail"):
        read.smooth({"other": [1.0, 0.0], "b": [0.0, 1.0]})
    vectors = {name: np.eye(7)[k] for k, name in enumerate("abcdefg")}
    with pytest.warns(CoverageWarning, match="3 of 7 items of a mapping share a tail"):
        read.smooth(vectors)


def test_initialise_reads_smoothed_vectors():
    rows = [(item, "genre", f"g{item % 3}", 1.0) for item in range(1, zoo.N_ITEMS + 1)]
    matrix = np.random.default_rng(0).normal(size=(zoo.N_ITEMS, 6))
    smoothed = Triples.read(frame(rows)).smooth(dict(enumerate(matrix, start=1)), own=0.0)
    model = zoo.build(zoo.BACKBONES[0])
    done = initialise(model, smoothed, user="user_id", item="item_id")
    assert done.n_items == zoo.N_ITEMS
    table = model.embedding_dict["item_id"].weight.detach()[1:]
    cosine = table @ table.T / (table.norm(dim=1)[:, None] * table.norm(dim=1)[None])
    same = np.subtract.outer(np.arange(zoo.N_ITEMS), np.arange(zoo.N_ITEMS)) % 3 == 0
    assert cosine.numpy()[same].mean() > cosine.numpy()[~same].mean() + 0.3
