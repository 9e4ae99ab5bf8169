"""Semantic ids against a naive assignment, and features of items as sparse columns of models."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
import torch
from deepctr_torch import models

from sllmr_plugin import (
    DataError,
    ItemFeatures,
    SelectiveConfig,
    SemanticIds,
    Vectors,
    VectorsError,
    sparse_columns,
    wrap,
)

from .matrix import backbones as zoo


@pytest.fixture(scope="module")
def matrix():
    """Two groups of two groups of vectors, far apart and near each other, with a little noise."""
    rng = np.random.default_rng(3)
    coarse, fine = np.repeat([0, 1], 12), np.tile(np.repeat([0, 1], 6), 2)
    rows = np.zeros((24, 4))
    rows[np.arange(24), coarse] += 5
    rows[np.arange(24), 2 + fine] += 1
    return (rows + 0.01 * rng.normal(size=rows.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors(matrix):
    return {f"i{number}": row for number, row in enumerate(matrix, start=1)}


def test_codes_go_from_coarse_groups_to_fine_ones(vectors):
    table = SemanticIds.fit(vectors, levels=2, codes=2).assign(vectors)
    assert list(table) == ["item_id", "sid_0", "sid_1"]
    assert table["item_id"].tolist() == list(vectors)
    groups = table[["sid_0", "sid_1"]].to_numpy().reshape(4, 6, 2)
    assert (groups == groups[:, :1]).all()  # each group of six has its codes
    first, second = groups[:, 0].T.tolist()
    assert first[0] == first[1] != first[2] == first[3]
    assert second[0] == second[2] != second[1] == second[3]
    assert set(first) == set(second) == {1, 2}


def test_codes_are_the_nearest_centres_of_what_is_left(vectors, matrix):
    ids = SemanticIds.fit(vectors, levels=3, codes=5, seed=4)
    table = ids.assign(vectors)
    centre = matrix.mean(axis=0, dtype=np.float64)
    for row, vector in enumerate(matrix.astype(np.float64)):
        left = vector - centre
        left = left / np.sqrt((left**2).mean())
        for level, codebook in enumerate(ids.codebooks):
            distances = [float(((left - entry) ** 2).sum()) for entry in codebook]
            code = distances.index(min(distances))
            assert table[f"sid_{level}"][row] == code + 1
            left = left - codebook[code]
    # A centre is the mean of what it is nearest to.
    away = matrix - centre
    away = away / np.sqrt((away**2).mean(axis=1, keepdims=True))
    for code, entry in enumerate(ids.codebooks[0], start=1):
        np.testing.assert_allclose(entry, away[table["sid_0"] == code].mean(axis=0), atol=1e-6)


def test_the_seed_decides_and_later_items_are_assigned_by_the_same_codebooks(vectors, tmp_path):
    ids, same = (SemanticIds.fit(vectors, codes=5, seed=1) for _ in range(2))
    pd.testing.assert_frame_equal(ids.assign(vectors), same.assign(vectors))
    other = SemanticIds.fit(vectors, codes=5, seed=2)
    assert not np.allclose(other.codebooks[0], ids.codebooks[0])
    ids.save(tmp_path / "codebooks.npz")
    loaded = SemanticIds.load(tmp_path / "codebooks.npz")
    assert repr(loaded) == repr(ids) == "SemanticIds(sid_0: 5, sid_1: 5, sid_2: 5 codes)"
    later = {"new": vectors["i3"], "other": vectors["i20"]}
    table = loaded.assign(later, item="movie")
    assert table["movie"].tolist() == ["new", "other"]
    known = ids.assign(vectors).set_index("item_id")
    assert table.set_index("movie").to_numpy().tolist() == known.loc[["i3", "i20"]].to_numpy().tolist()


def test_fewer_different_vectors_than_codes_make_fewer_codes():
    ids = SemanticIds.fit({1: [0.0, 1.0], 2: [0.0, 1.0], 3: [1.0, 0.0]}, levels=2, codes=8)
    assert {name: len(codes) for name, codes in ids.vocabularies.items()} == {"sid_0": 2, "sid_1": 1}


def test_texts_of_later_items_are_assigned_in_the_space_of_the_first():
    frame = pd.DataFrame({"item_id": [1, 2, 3, 4], "title": ["red car", "red bus", "blue pen", "blue ink"]})
    vectors = Vectors.read(frame)
    ids = SemanticIds.fit(vectors, levels=1, codes=2)
    known = ids.assign(vectors).set_index("item_id")["sid_0"]
    assert known[1] == known[2] != known[3] == known[4]
    later = ids.assign(vectors.more(pd.DataFrame({"item_id": [9], "title": ["blue pen and ink"]})))
    assert later["sid_0"].tolist() == [known[3]]


def test_what_makes_no_sense_is_refused(vectors, tmp_path):
    for wrong in ({"levels": 0}, {"codes": 1}):
        with pytest.raises(VectorsError, match=f"{next(iter(wrong))}="):
            SemanticIds.fit(vectors, **wrong)
    with pytest.raises(VectorsError, match="vectors of 2 numbers, and the codebooks are of 4.*Vectors.more"):
        SemanticIds.fit(vectors).assign({1: [0.0, 1.0]})
    np.savez(tmp_path / "other.npz", ids=[1])
    for path in (tmp_path / "other.npz", tmp_path / "nowhere.npz"):
        with pytest.raises(VectorsError, match="holds no codebooks"):
            SemanticIds.load(path)


# ---------------------------------------------------------------------- features of items as sparse columns


@pytest.fixture
def features(matrix):
    vectors = dict(enumerate(matrix, start=1))
    ids = SemanticIds.fit({code: row for code, row in vectors.items() if code != 5}, levels=2, codes=3)
    return ItemFeatures.of(
        ids.assign({code: row for code, row in vectors.items() if code != 5}), vocabularies=ids.vocabularies
    )


def test_codes_are_looked_up_by_item(features):
    x, _ = zoo.samples()
    wider = features.add(x)
    assert list(wider) == [*x, "sid_0", "sid_1"]
    by_item = features.table.set_index("item_id")
    for row, item in enumerate(x["item_id"].tolist()):
        expected = [0, 0] if item == 5 else by_item.loc[item].tolist()
        assert [wider["sid_0"][row], wider["sid_1"][row]] == expected
    history = features.add({"item_id": np.array([[1, 0, -1], [5, 99, 24]])})
    first, last = by_item.loc[1, "sid_0"], by_item.loc[24, "sid_0"]
    assert history["sid_0"].tolist() == [[first, 0, 0], [0, 0, last]]


def test_values_are_encoded_by_a_vocabulary_that_later_items_share():
    frame = pd.DataFrame({"item_id": ["a", "b", "c", "z"], "genre": ["war", None, "art", "art"], "age": [7, 3, 3, 3]})
    first = ItemFeatures.of(frame, item_index={"a": 4, "b": 1, "c": 2})
    assert first.vocabularies == {"genre": ("art", "war"), "age": (3, 7)}
    assert first.table.to_numpy().tolist() == [["a", 2, 2], ["b", 0, 1], ["c", 1, 1]]
    assert first.codes.tolist() == [[0, 0], [0, 1], [1, 1], [0, 0], [2, 2]]
    later = pd.DataFrame({"item_id": ["d"], "genre": ["war"], "age": [9]})
    second = ItemFeatures.of(
        later, item_index={"d": 0}, vocabularies={"genre": first.vocabularies["genre"], "age": (3, 7, 9)}
    )
    assert second.codes.tolist() == [[2, 3]]


def test_tables_of_items_that_cannot_be_used_are_refused():
    frame = pd.DataFrame({"item_id": [1, 2], "genre": ["war", "art"]})
    with pytest.raises(DataError, match="lack 'movie'"):
        ItemFeatures.of(frame, item="movie")
    with pytest.raises(DataError, match="lack 'age'"):
        ItemFeatures.of(frame, vocabularies={"age": [1]})
    with pytest.raises(DataError, match="lack any feature beside the id"):
        ItemFeatures.of(frame[["item_id"]])
    with pytest.raises(DataError, match="none of the items in the table is in the index"):
        ItemFeatures.of(frame, item_index={3: 1})
    with pytest.raises(DataError, match="item 1 more than once"):
        ItemFeatures.of(pd.concat([frame, frame[:1]]))
    with pytest.raises(DataError, match="no item has a known value of 'genre'"):
        ItemFeatures.of(frame, vocabularies={"genre": ["peace"]})
    with pytest.raises(DataError, match="vocabulary of 'genre' has a value twice"):
        ItemFeatures.of(frame, vocabularies={"genre": ["war", "art", "war"]})
    with pytest.raises(DataError, match="column 'genre' holds values of several types.*pass vocabularies="):
        ItemFeatures.of(frame.assign(genre=[1, "war"]))


@pytest.mark.parametrize("model_class", [models.DeepFM, models.AFM, models.AFN, models.IFM])
def test_models_train_with_them_and_candidates_have_their_own(model_class, features):
    """Backbones without dense inputs too; the regularizer's rows take the candidates' codes."""
    columns = [column for column in zoo._columns(dense=False) if column.name in ("user_id", "item_id")]
    columns += sparse_columns(features, zoo.DIM)
    model = model_class(columns, columns, seed=1)
    wrap(
        model,
        zoo.score_frame(),
        user="user_id",
        item="item_id",
        item_features=["item_id", *features.vocabularies],
        item_table=features.table,
        config=SelectiveConfig(gate="none", weight=1.0),
    )
    model.compile("adam", "binary_crossentropy")
    x, y = zoo.samples()
    wider = {name: features.add(x)[name] for name in model.feature_index}
    before = model.embedding_dict["sid_0"].weight.clone()
    seen = {"item_id": [], "sid_1": []}
    for name, codes in seen.items():
        model.embedding_dict[name].register_forward_hook(lambda _, inputs, __, codes=codes: codes.append(inputs[0]))
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        history = model.fit(wider, y, batch_size=32, epochs=1, verbose=0).history
    assert history["sllmr_pairs"][0] > 0
    assert seen["item_id"][0].numel() > 32  # rows of candidates behind those of the batch
    for items, codes in zip(*seen.values(), strict=True):
        np.testing.assert_array_equal(codes.flatten(), features.codes[items.flatten(), 1])
    changed = (model.embedding_dict["sid_0"].weight != before).any(dim=1)
    assert changed[1:].all()
