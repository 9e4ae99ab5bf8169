"""The FuxiCTR backbones of the zoo, the data sets written for them, and their ranking."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("fuxictr")

from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader

from sllmr_plugin import wrap
from sllmr_plugin.backends.fuxictr.data import fuxictr_index
from sllmr_plugin.datasets.features import held_out_rows, template_rows, training_rows
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
