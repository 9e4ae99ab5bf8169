"""The FuxiCTR backbones of the zoo, the data sets written for them, and their ranking."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("fuxictr")

from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader

from sllmr_plugin import SelectiveConfig, wrap
from sllmr_plugin.backends.fuxictr.data import fuxictr_index
from sllmr_plugin.datasets.features import held_out_rows, item_table, template_rows, training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import BackboneError, MissingLibraryError
from sllmr_plugin.evaluation.metrics import predict_rows
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.zoo.fuxictr import FUXICTR_BACKBONES, build_fuxictr, import_fuxictr, read_settings, write_dataset

CONFIGS = Path(__file__).parent.parent / "model_zoo_configs" / "fuxictr"


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame([(f"u{u}", 10 * i) for u in range(8) for i in rng.permutation(12)[:6]])
    return load_interactions(frame.set_axis(["user_id", "item_id"], axis=1))


def built(name, data, folder, **options):
    splits = {"train": training_rows(data, history_length=3), "valid": held_out_rows(data, "valid", history_length=3)}
    feature_map = write_dataset(folder, data, splits, backbone=name)
    settings = read_settings(CONFIGS / f"{name}.yaml") | {"embedding_dim": 4, "hidden_units": [8]} | options
    return build_fuxictr(feature_map=feature_map, model_root=folder, **settings)


def spread(model):
    """Give a model weights whose scores differ."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


@pytest.mark.parametrize("name", FUXICTR_BACKBONES)
def test_every_configuration_trains_on_a_written_data_set(name, data, tmp_path):
    model = built(name, data, tmp_path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folder = model.feature_map.data_dir
    train, valid = (
        NpzDataLoader(model.feature_map, f"{folder}/{split}.npz", batch_size=16, shuffle=shuffle, num_workers=0)
        for split, shuffle in (("train", True), ("valid", False))
    )
    model.fit(train, epochs=1, validation_data=valid)
    after = model.state_dict()
    assert all(not torch.equal(after[key], before[key]) for key in before if key.endswith("weight"))
    x, y = training_rows(data, history_length=3)
    batch = {key: values[: len(y)] for key, values in next(iter(DataOrder(train))).items()}
    for key in model.feature_map.features:
        np.testing.assert_array_equal(batch[key], x[key])
    np.testing.assert_array_equal(batch["label"], y)


class DataOrder:
    """The whole of a generator's data in one batch, in stored order."""

    def __init__(self, generator):
        self.generator = generator

    def __iter__(self):
        dataset = self.generator.dataset
        yield self.generator.collate_fn([dataset[row] for row in range(len(dataset))])


@pytest.mark.parametrize("name", FUXICTR_BACKBONES)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_ranking_is_that_of_predict(name, wrapped, data, tmp_path):
    model = spread(built(name, data, tmp_path))
    if wrapped:
        scores = pd.DataFrame({"user_id": ["u0"] * 2, "item_id": [0, 10], "score": [0.2, 0.8]})
        model = wrap(model, scores, user="user_id", item="item_id")
    ranking = full_ranking(model, data, verbose=False)
    assert ranking["auc"].nunique() > 2
    for row in ranking.itertuples():
        rows = template_rows(data, np.full(data.n_items, row.user), split="test", history_length=3)
        rows["item_id"] = np.arange(1, data.n_items + 1)
        batch = {key: torch.from_numpy(rows[key]) for key in model.feature_map.features}
        predicted = model.predict([batch])
        seen = pd.concat([data.train[data.train["label"] == 1], data.valid, data.test]).query(f"user == {row.user}")
        rivals = np.delete(predicted, seen["item"].to_numpy() - 1)
        own = predicted[row.item - 1]
        assert row.auc == pytest.approx(((rivals < own) + 0.5 * (rivals == own)).mean())
    one = predict_rows(model, data, pd.DataFrame({"user": [row.user], "item": [row.item]}))
    assert one[0] == pytest.approx(own, rel=1e-5)


def test_the_written_vocabulary_is_the_datas(data, tmp_path):
    folder = built("din", data, tmp_path).feature_map.data_dir
    assert fuxictr_index(folder, "user_id") == data.user_index.to_dict()
    items = fuxictr_index(folder, "hist_item_id")
    assert {raw: items[raw] for raw in data.item_index.index} == data.item_index.to_dict()


def test_held_out_rows_are_positives_beside_unseen_items(data):
    x, y = held_out_rows(data, "valid", negatives=5, history_length=3)
    assert y.reshape(-1, 6).tolist() == [[1, 0, 0, 0, 0, 0]] * len(data.valid)
    items, users = x["item_id"].reshape(-1, 6), x["user_id"].reshape(-1, 6)
    np.testing.assert_array_equal(items[:, 0], data.valid["item"])
    positives = data.train[data.train["label"] == 1]
    for user, drawn in zip(users[:, 0], items[:, 1:], strict=True):
        known = {*positives["item"][positives["user"] == user], *data.valid["item"][data.valid["user"] == user]}
        assert not known & set(drawn.tolist())
    expected = template_rows(data, data.valid["user"].to_numpy(), split="valid", history_length=3)["hist_item_id"]
    np.testing.assert_array_equal(x["hist_item_id"].reshape(len(expected), 6, 3)[:, 4], expected)


def test_what_is_missing_is_said(monkeypatch, tmp_path, data):
    with pytest.raises(BackboneError, match="Valid names are deepfm, dcnv2, din"):
        build_fuxictr("deepfn", None, model_root=tmp_path)
    (tmp_path / "nothing.yaml").write_text("embedding_dim: 4")
    with pytest.raises(BackboneError, match="names no model"):
        read_settings(tmp_path / "nothing.yaml")
    with pytest.raises(BackboneError, match="cannot be read"):
        read_settings(tmp_path / "nowhere.yaml")
    with pytest.raises(BackboneError, match="cannot be read"):
        read_settings(tmp_path)  # a folder
    (tmp_path / "number.yaml").write_text("model: 3")
    with pytest.raises(BackboneError, match="names no model"):
        read_settings(tmp_path / "number.yaml")
    monkeypatch.setitem(sys.modules, "fuxictr", None)  # as if it were not installed
    with pytest.raises(MissingLibraryError, match=r"pip install 'sllmr-plugin\[fuxictr\]'"):
        import_fuxictr()
    with pytest.raises(MissingLibraryError):
        build_fuxictr("deepfm", None, model_root=tmp_path)


# ---------------------------------------------------------------------- attributes and histories


BRANDS = ["a", "b", "", "a", *"bcd" * 2, "", "d"]
TAGS = ["x y", "", "y", "x", *["z", "x z", ""] * 2, "z y", "y"]


@pytest.fixture(scope="module")
def featured():
    rng = np.random.default_rng(0)
    clicks = [(f"u{u}", 10 * i) for u in range(8) for i in rng.permutation(11)[:6]]
    items = pd.DataFrame({"item_id": [10 * i for i in range(12)], "brand": BRANDS, "tags": TAGS})
    frame = pd.DataFrame(clicks, columns=["user_id", "item_id"])
    return load_interactions(frame, items, attributes=["tags:space", "brand"])


def built_with_features(name, data, folder):
    x, y = training_rows(data, history_length=3)
    others = x["item_id"] != 12  # not as a negative either: no training row has the last item
    splits = {"train": ({key: values[others] for key, values in x.items()}, y[others])}
    feature_map = write_dataset(folder, data, splits, backbone=name, histories=True)
    settings = read_settings(CONFIGS / f"{name}.yaml") | {"embedding_dim": 4, "hidden_units": [8]}
    return build_fuxictr(feature_map=feature_map, model_root=folder, **settings)


def trained_on(model):
    file = f"{model.feature_map.data_dir}/train.npz"
    train, again = (
        NpzDataLoader(model.feature_map, file, batch_size=16, shuffle=shuffle, num_workers=0)
        for shuffle in (True, False)
    )
    torch.manual_seed(1)
    model.fit(train, epochs=2, validation_data=again)
    return model


@pytest.mark.parametrize("name", FUXICTR_BACKBONES)
def test_every_column_counts_and_histories_share_embeddings(name, featured, tmp_path):
    model = trained_on(built_with_features(name, featured, tmp_path))
    names = ["user_id", "item_id", "item_tags", "item_brand", "hist_item_id", "hist_item_tags", "hist_item_brand"]
    assert list(model.feature_map.features) == names
    embedding = getattr(model.embedding_layer, "embedding_layer", model.embedding_layer).embedding_layers
    assert all(embedding[f"hist_{feature}"] is embedding[feature] for feature in names[1:4])
    x, _ = training_rows(featured, history_length=3)
    rows = {key: torch.from_numpy(x[key]) for key in names}
    scores = spread(model).predict([rows])
    for column, values in rows.items():
        other = torch.where(values > 1, values - 1, 2 * values)  # another code, padding where there was padding
        assert not np.array_equal(model.predict([{**rows, column: other}]), scores), column


def test_first_order_weights_of_histories_start_as_small_as_the_others(featured, tmp_path):
    model = built_with_features("deepfm", featured, tmp_path)
    weights = model.fm.lr_layer.embedding_layer.embedding_layer.embedding_layers
    assert all(0 < table.weight.abs().max() < 1e-3 for table in weights.values())
    assert not any(table.weight[0].any() for table in weights.values())  # of padding


def test_a_pooled_sequence_is_the_mean_of_what_is_known(featured, tmp_path):
    model = built_with_features("dcnv2", featured, tmp_path)
    layer = model.embedding_layer.embedding_layer
    table = torch.nn.init.normal_(layer.embedding_layers["item_brand"].weight.data)
    table[0] = 0
    batch = {"hist_item_brand": torch.tensor([[2, 0, 3], [1, 0, 0], [0, 0, 0]])}
    pooled = layer(batch)["hist_item_brand"]
    assert torch.allclose(pooled, torch.stack([(table[2] + table[3]) / 2, table[1], torch.zeros(4)]))


def test_din_attends_to_items_and_single_values(featured, tmp_path):
    model = built_with_features("din", featured, tmp_path)
    assert model.din_target_field == ["item_id", "item_brand"]
    pooled = [name for name, spec in model.feature_map.features.items() if "feature_encoder" in spec]
    assert pooled == ["item_tags", "hist_item_tags"]
    feature_map = write_dataset(tmp_path / "pooled", featured, {"train": training_rows(featured)}, histories=True)
    with pytest.raises(BackboneError, match="no history to attend to. Write the data set with backbone='din'"):
        build_fuxictr("din", feature_map, model_root=tmp_path)


@pytest.mark.parametrize("name", FUXICTR_BACKBONES)
def test_a_ranking_gives_each_candidate_its_attributes(name, featured, tmp_path):
    model = spread(built_with_features(name, featured, tmp_path))
    ranking = full_ranking(model, featured, verbose=False)
    assert ranking["auc"].nunique() > 2
    for row in ranking.itertuples():
        rows = template_rows(featured, np.full(12, row.user), split="test", history_length=3)
        rows["item_id"] = np.arange(1, 13)
        rows["item_brand"] = np.array([["", "a", "b", "c", "d"].index(brand) for brand in BRANDS])
        tags = [[" xyz".index(tag) for tag in cell.split()] for cell in TAGS]
        rows["item_tags"] = np.array([[*cell, 0, 0][:2] for cell in tags])
        predicted = model.predict([{key: torch.from_numpy(rows[key]) for key in model.feature_map.features}])
        seen = pd.concat([featured.train, featured.valid, featured.test]).query(f"user == {row.user}")
        rivals = np.delete(predicted, seen["item"].to_numpy() - 1)
        own = predicted[row.item - 1]
        assert row.auc == pytest.approx(((rivals < own) + 0.5 * (rivals == own)).mean())


@pytest.mark.parametrize("name", FUXICTR_BACKBONES)
def test_extra_rows_carry_the_candidates_attributes_and_no_weight_is_the_plain_model(name, featured, tmp_path):
    plain = trained_on(built_with_features(name, featured, tmp_path / "plain")).state_dict()
    scores = pd.DataFrame([(f"u{u}", 10 * i, i / 12) for u in range(8) for i in (0, 4, 11)])
    scores = scores.set_axis(["user_id", "item_id", "score"], axis=1)
    table = item_table(featured)
    for weight in (0.0, 0.5):
        model = built_with_features(name, featured, tmp_path / str(weight))
        config = SelectiveConfig(weight=weight, gate="none")
        features = {"item_features": list(table), "item_table": table}
        model = wrap(model, scores, user="user_id", item="item_id", config=config, **features)
        seen, embedding = [], getattr(model.embedding_layer, "embedding_layer", model.embedding_layer)
        embedding.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        trained_on(model)
        if weight == 0:
            state = model.state_dict()
            assert all(torch.equal(plain[key], state[key]) for key in plain)
    rows = {key: np.concatenate([batch[key].numpy() for batch in seen]).astype(int) for key in seen[0]}
    assert (rows["item_id"] == 12).any()
    latest = template_rows(featured, np.arange(9), split="valid", history_length=20)
    for place, item in enumerate(rows["item_id"]):
        assert rows["item_brand"][place] == ["", "a", "b", "c", "d"].index(BRANDS[item - 1])
        assert {" xyz"[tag] for tag in rows["item_tags"][place]} - {" "} == set(TAGS[item - 1].split())
        if item == 12:  # a candidate: the history of the user's latest positive row, which has all but that row's item
            user = rows["user_id"][place]
            past = latest["hist_item_id"][user][: latest["seq_length"][user]][:-1][-3:]
            np.testing.assert_array_equal(rows["hist_item_id"][place], [*past, 0, 0, 0][:3])
