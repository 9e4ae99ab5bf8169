"""Adaptors on FuxiCTR models: the plain model with its columns filled in, in training, prediction, copies and files."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("fuxictr")

from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader

from sllmr_plugin import (
    AugmentError,
    CoverageError,
    CURecAdaptor,
    EmbedAdaptor,
    ItemFeatures,
    KARAdaptor,
    LLMCFAdaptor,
    RecLMAdaptor,
    SelectiveConfig,
    augment,
    dense_features,
    materialize,
    serving_table,
    sparse_features,
    unaugment,
    unwrap,
    wrap,
)
from sllmr_plugin.backends.base import row_model
from sllmr_plugin.knowledge import Adaptor, EncodedTexts
from sllmr_plugin.knowledge.vectors import EncodedReasons
from sllmr_plugin.zoo.fuxictr_models import DIN, DCNv2, DeepFM

from .matrix import backbones as shared
from .matrix import fuxictr_backbones as zoo

IDS = {"user": "user_id", "item": "item_id"}
BACKBONES = {backbone.build: backbone for backbone in zoo.BACKBONES}
# The logistic regression of a DeepFM takes numbers, the others take vectors.
CASES = [(DeepFM, True), (DCNv2, False), (DCNv2, True), (DIN, False), (zoo.OwnStep, True), (zoo.TwoTasks, False)]
pytestmark = pytest.mark.filterwarnings("ignore::sllmr_plugin.CoverageWarning")


def encoded():
    """Vectors of all users but the first, and of all items but the first two."""
    rng = np.random.default_rng(2)
    codes = {"user": np.arange(2, shared.N_USERS + 1), "item": np.arange(3, shared.N_ITEMS + 1)}
    return EncodedTexts(codes, {kind: rng.normal(size=(len(own), 6)).astype(np.float32) for kind, own in codes.items()})


def with_reasons(x, y):
    """Vectors of patterns of all users but the first, and of reasons for two of three positive rows."""
    texts = encoded()
    pairs = np.unique(np.stack([x["user_id"], x["item_id"]], axis=1)[y > 0.5], axis=0).astype(np.int64)
    users, items = pairs[np.arange(len(pairs)) % 3 > 0].T
    vectors = np.random.default_rng(3).normal(size=(len(users), 5)).astype(np.float32)
    patterns = EncodedTexts({"user": texts.codes["user"]}, {"user": texts.vectors["user"]})
    told = ("",) * len(texts.codes["user"]), users, items, np.full(len(users), np.nan), vectors, ("",) * len(users)
    return replace(texts, reasons=EncodedReasons(patterns, *told))


def embed(**options):
    texts = encoded()
    vectors = dict(zip(texts.codes["item"].tolist(), texts.vectors["item"], strict=True))
    return EmbedAdaptor(vectors, dim=3, hidden=4, **options)


def adaptor_of(kind):
    if kind == "embed":
        return embed()
    if kind == "kar":
        return KARAdaptor(encoded(), dim=3, hidden=4)
    x, y = shared.samples()
    if kind == "reclm":
        return RecLMAdaptor(encoded(), x, y, **IDS, dim=8, hidden=8)
    if kind == "curec":
        return CURecAdaptor(with_reasons(x, y), x, y, **IDS, dim=4)
    return LLMCFAdaptor(encoded(), x, y, **IDS, dim=3, hidden=4, size=30)


class Fixed(Adaptor):
    """Fills one column with numbers that depend on the codes and are not trained."""

    def __init__(self):
        super().__init__(encoded())
        self.widths = {"fixed": 2}

    def forward(self, users, items):
        return torch.stack([users / 10, items % 3], dim=1).to(self.users.vectors.dtype)


def build(model_class, adaptor, numeric=False):
    """Build a model with room for an adaptor; the data know nothing of it."""
    backbone = BACKBONES[model_class]
    plain_map = zoo.data_set(backbone.history, 1 if backbone.task is None else 2)
    with pytest.MonkeyPatch.context() as patch:
        extended = dense_features(plain_map, adaptor, **IDS, numeric=numeric)
        patch.setattr(zoo, "data_set", lambda *_: extended)
        return zoo.build(backbone)


def fit(model, model_class, epochs=2, feature_map=None, folder=None):
    """Train on loaders of the plain feature map, or of one whose data have the columns."""
    backbone = BACKBONES[model_class]
    plain_map = feature_map or zoo.data_set(backbone.history, 1 if backbone.task is None else 2)
    path = str(Path(folder or plain_map.data_dir) / "rows.npz")
    train, valid = (
        NpzDataLoader(plain_map, path, batch_size=48, shuffle=shuffle, num_workers=0) for shuffle in (True, False)
    )
    torch.manual_seed(3)
    model.fit(train, epochs=epochs, validation_data=valid)


def bare(model):
    """Return a batch of the shared samples without the adaptor's columns."""
    x, _ = shared.samples()
    names = [name for name in model.feature_map.features if name in x]
    return {name: torch.from_numpy(np.asarray(x[name], dtype=np.float64)) for name in names}


def predict(model, more=()):
    more = {name: torch.from_numpy(values) for name, values in dict(more).items()}
    predicted = model.predict([{**bare(model), **more}])
    return np.stack(list(predicted.values())) if isinstance(predicted, dict) else predicted


@pytest.mark.parametrize(("model_class", "numeric"), CASES)
def test_training_is_the_plain_models_on_the_same_columns_bit_for_bit(model_class, numeric, tmp_path):
    adaptor = Fixed()
    model = augment(build(model_class, adaptor, numeric), adaptor, **IDS)
    plain = build(model_class, adaptor, numeric)
    assert list(model.state_dict()) == list(plain.state_dict())
    x, _ = shared.samples()
    columns = np.stack([x["user_id"] / 10, x["item_id"] % 3], axis=1).astype(np.float32)
    added = {"fixed_0": columns[:, 0], "fixed_1": columns[:, 1]} if numeric else {"fixed": columns}
    with np.load(Path(model.feature_map.data_dir) / "rows.npz") as file:
        np.savez(tmp_path / "rows.npz", **dict(file), **added)
    fit(plain, model_class, feature_map=plain.feature_map, folder=tmp_path)
    fit(model, model_class)
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    np.testing.assert_array_equal(predict(model), predict(plain, added))


@pytest.mark.parametrize("kind", ["embed", "kar", "llm_cf", "curec", "reclm"])
@pytest.mark.parametrize(("model_class", "numeric"), CASES)
def test_every_backbone_trains_and_is_served_with_materialised_columns(model_class, numeric, kind):
    adaptor = adaptor_of(kind)
    plain_keys = list(build(model_class, adaptor, numeric).state_dict())
    model = augment(build(model_class, adaptor, numeric), adaptor, **IDS)
    before = copy.deepcopy(adaptor.state_dict())
    fit(model, model_class)
    assert [key for key, value in adaptor.state_dict().items() if not torch.equal(value, before[key])] == list(before)
    expected = predict(model)
    x, _ = shared.samples()
    columns = materialize(model, x)
    plain = unaugment(model)
    assert type(plain) is model_class
    assert list(plain.state_dict()) == plain_keys
    assert len(plain.optimizer.param_groups) == 1
    np.testing.assert_allclose(predict(plain, columns), expected, rtol=1e-5)


def test_the_weights_of_the_best_epoch_bring_the_adaptors():
    """FuxiCTR ends a fit with the checkpoint of the best validation."""
    adaptor = embed()
    model = augment(build(DCNv2, adaptor), adaptor, **IDS)
    model._save_best_only, model._monitor_mode = True, "max"
    seen = []

    def judged(*_, **__):
        seen.append({name: value.detach().clone() for name, value in adaptor.named_parameters()})
        return {"AUC": [0.6, 0.9, 0.7][len(seen) - 1]}

    model.evaluate = judged
    fit(model, DCNv2, epochs=3)
    del model.evaluate
    assert all(torch.equal(value, seen[1][name]) for name, value in adaptor.named_parameters())
    assert any(not torch.equal(value, seen[2][name]) for name, value in adaptor.named_parameters())


def test_the_adaptor_joins_another_optimizer():
    adaptor = embed()
    model = augment(build(DCNv2, adaptor), adaptor, **IDS)
    model.compile("adam", "binary_crossentropy", 0.01)
    assert {id(p) for p in model.optimizer.param_groups[1]["params"]} == {id(p) for p in adaptor.parameters()}
    model.optimizer = torch.optim.Adam(model.parameters(), 0.01)
    fit(model, DCNv2, epochs=1)
    assert all(parameter in model.optimizer.state for parameter in adaptor.parameters())


@pytest.mark.parametrize("how", ["deepcopy", "torch.save"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["augmented", "wrapped_too"])
def test_copies_are_whole_and_their_own(how, wrapped, tmp_path):
    adaptor = embed()
    model = augment(build(DIN, adaptor), adaptor, **IDS)
    if wrapped:
        wrap(model, shared.score_frame(), **IDS, config=SelectiveConfig(gate="none"))
    fit(model, DIN)
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        torch.save(model, tmp_path / "model.pt")
        twin = torch.load(tmp_path / "model.pt", weights_only=False)
    assert type(twin) is type(model)
    expected = predict(model)
    np.testing.assert_array_equal(predict(twin), expected)
    before = twin.augmentation.adaptor.items.missing.clone()
    fit(twin, DIN, epochs=1)
    assert not torch.equal(before, twin.augmentation.adaptor.items.missing)
    np.testing.assert_array_equal(predict(model), expected)


@pytest.mark.parametrize(("model_class", "numeric"), CASES[:4])
def test_without_weight_a_wrapped_augmented_model_is_the_augmented_one(model_class, numeric):
    adaptors = [embed(), embed()]
    models = [augment(build(model_class, adaptor, numeric), adaptor, **IDS) for adaptor in adaptors]
    wrap(models[1], shared.score_frame(), **IDS, config=SelectiveConfig(gate="none", weight=0))
    for model in models:
        fit(model, model_class)
    np.testing.assert_array_equal(predict(models[1]), predict(models[0]))


@pytest.mark.parametrize(("model_class", "numeric"), CASES[:4])
def test_extra_rows_of_the_regularizer_get_their_own_columns(model_class, numeric):
    adaptor, asked = embed(), []
    model = augment(build(model_class, adaptor, numeric), adaptor, **IDS)
    wrap(model, shared.score_frame(), **IDS, item_features=["item_id", "category", "price"], config=SelectiveConfig())
    model.sllmr.configure(gate="none", weight=1.0)
    adaptor.register_forward_hook(lambda _, codes, __: asked.append([code.clone() for code in codes]))
    fit(model, model_class, epochs=1)
    assert model.sllmr.epochs[0]["sllmr_pairs"] > 0
    scored = set(shared.score_frame()[["user_id", "item_id"]].itertuples(index=False, name=None))
    users, items = next(codes for codes in asked if len(codes[0]) > 48)
    assert len(users) > 48
    assert set(zip(users[48:].tolist(), items[48:].tolist(), strict=True)) <= scored
    unwrap(model)
    assert type(model).__name__.startswith("Augmented")
    assert len(model.optimizer.param_groups) == 2
    unwrap(model)
    assert type(model) is model_class


def test_rows_of_a_model_are_those_of_its_batches():
    """What ranks a model feeds it rows without the adaptor's columns."""
    adaptor = embed()
    model = augment(build(DCNv2, adaptor), adaptor, **IDS)
    fit(model, DCNv2, epochs=1)
    scorer = row_model(model)
    assert list(scorer.feature_index) == list(zoo.data_set(False, 1).features)
    rows = torch.stack([bare(model)[name] for name in scorer.feature_index], dim=1)
    model.eval()
    with torch.no_grad():
        np.testing.assert_allclose(scorer(rows)[:, 0], predict(model), rtol=1e-6)
    table = serving_table(model, "item_id", {"raw": 7})
    torch.testing.assert_close(
        torch.from_numpy(table["embed_item"][0]), adaptor(torch.tensor([0]), torch.tensor([7]))[0].detach()
    )


# ---------------------------------------------------------------------- refusals


class OneSide(DCNv2):
    """Reads the user's features alone."""

    def get_inputs(self, inputs, feature_source=None):
        return {name: value for name, value in super().get_inputs(inputs).items() if not name.startswith("embed")}

    def logit(self, X):
        return super().logit({**X, "embed_item": torch.zeros(len(X["user_id"]), 3)})


def test_what_does_not_reach_the_output_is_refused():
    adaptor = embed()
    with pytest.raises(AugmentError, match=r"DeepFM.forward fails with these columns.*numeric=True"):
        augment(build(DeepFM, adaptor), adaptor, **IDS)
    model = build(DCNv2, adaptor)
    model.__class__ = OneSide
    before = dict(vars(model))
    with pytest.raises(AugmentError, match="OneSide.forward does not read 'embed_item', so the adaptor would do noth"):
        augment(model, adaptor, **IDS)
    assert vars(model) == before
    assert all(module.training for module in model.modules())


def test_all_problems_come_at_once():
    adaptor = embed()
    with pytest.raises(AugmentError) as error:
        augment(zoo.build(BACKBONES[DCNv2]), adaptor, user="price", item="movie")
    told = str(error.value)
    assert "no feature 'movie'" in told
    assert "'price' is of type numeric" in told
    assert "no 'embed_item' of 3 numbers. Build the model with dense_features(" in told
    with pytest.raises(AugmentError, match="no 'embed_item' of 3 numbers"):
        augment(build(DCNv2, EmbedAdaptor({3: [1.0, 0.0]}, dim=2)), adaptor, **IDS)
    with pytest.raises(AugmentError, match="user and item are both"):
        augment(build(DCNv2, adaptor), adaptor, user="user_id", item="user_id")
    extended = dense_features(zoo.data_set(False, 1), adaptor, **IDS)
    with pytest.raises(AugmentError, match="has embed_item already"):
        dense_features(extended, adaptor, **IDS)


def test_vectors_of_other_ids_are_told():
    adaptor = EmbedAdaptor({900: [0.0, 1.0], 901: [1.0, 0.0]}, dim=3)
    model = augment(build(DCNv2, adaptor), adaptor, **IDS)
    with pytest.raises(CoverageError, match="none of the 24 items in the training rows has a text or vector"):
        fit(model, DCNv2)


# ---------------------------------------------------------------------- feature maps


def test_columns_stand_at_the_end_of_a_copy_with_the_source_of_their_side():
    plain_map = zoo.data_set(False, 1)
    plain_map.features["item_id"]["source"] = "item"
    try:
        adaptor = KARAdaptor(encoded(), dim=3)
        vectors = dense_features(plain_map, adaptor, **IDS)
        numbers = dense_features(plain_map, adaptor, **IDS, numeric=True)
    finally:
        plain_map.features["item_id"]["source"] = ""
    assert list(vectors.features) == [*plain_map.features, "kar_user", "kar_item"]
    assert list(numbers.features)[-6:] == [f"kar_{side}_{n}" for side in ("user", "item") for n in range(3)]
    assert [vectors.features[name]["source"] for name in ("kar_user", "kar_item")] == ["", "item"]
    assert vectors.num_fields == plain_map.num_fields + 2
    assert numbers.num_fields == plain_map.num_fields + 6
    assert vectors.input_length == numbers.input_length == plain_map.input_length + 6
    assert "kar_user" not in plain_map.features


def test_features_of_the_item_are_categorical_ones_that_train(tmp_path):
    codes = pd.DataFrame({"item_id": range(1, shared.N_ITEMS + 1), "sid_0": [1 + n % 3 for n in range(shared.N_ITEMS)]})
    features = ItemFeatures.of(codes, vocabularies={"sid_0": range(1, 5)})
    plain_map = zoo.data_set(False, 1)
    extended = sparse_features(plain_map, features)
    assert extended.features["sid_0"] == {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "data_set", lambda *_: extended)
        model = zoo.build(BACKBONES[DeepFM])
    with np.load(Path(plain_map.data_dir) / "rows.npz") as file:
        np.savez(tmp_path / "rows.npz", **features.add(dict(file)))
    table = model.embedding_layer.embedding_layer.embedding_layers["sid_0"].weight
    before = table.detach().clone()
    fit(model, DeepFM, feature_map=extended, folder=tmp_path)
    assert (table != before).any(dim=1).tolist() == [False, True, True, True, True]  # the penalty moves the last
