"""`model.sllmr.save` and `sllmr_plugin.load`: training goes on where it stopped, and other models are refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import sllmr_plugin
from sllmr_plugin import AlreadyWrappedError, SelectiveConfig, SLLMRError, WrapError, load, wrap
from sllmr_plugin.scores.table import ScoreTable

from .matrix import backbones as zoo

BY_NAME = {backbone.name: backbone for backbone in zoo.BACKBONES}
DEEPFM, DIN, MMOE = (BY_NAME[name] for name in ("DeepFM", "DIN", "MMOE"))


def with_probes():
    frame = zoo.score_frame()
    frame.loc[frame.groupby("user_id").head(2).index, "kind"] = "probe"
    return frame


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def trained(backbone, config, frame=None):
    model = zoo.wrapped(backbone, zoo.build(backbone), config, with_probes() if frame is None else frame)
    zoo.compile_model(backbone, model)
    zoo.fit(backbone, model, epochs=1)
    return model


@pytest.mark.filterwarnings("ignore::sllmr_plugin.GateCollapsedWarning")
@pytest.mark.parametrize("backbone", [DEEPFM, DIN, MMOE], ids=lambda backbone: backbone.name)
@pytest.mark.parametrize("gate", ["none", "disagreement", "joint"])
def test_training_goes_on_where_it_stopped(tmp_path, backbone, gate):
    model = trained(backbone, SelectiveConfig(gate=gate, weight=0.5, pair_rule="uniform", seed=3))
    model.sllmr.save(tmp_path)
    torch.save(model.state_dict(), tmp_path / "model.pt")

    other = zoo.build(backbone, seed=99) if backbone is DEEPFM else zoo.build(backbone)
    other = load(other, tmp_path)
    other.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert other.sllmr.config == model.sllmr.config
    for one in (model, other):
        zoo.compile_model(backbone, one)  # a new optimizer for both
        zoo.fit(backbone, one, epochs=1)
    first, second = state(model), state(other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert model.sllmr.epochs == other.sllmr.epochs
    assert model.sllmr.gate.coefficients() == other.sllmr.gate.coefficients()


def test_counts_and_item_tables_are_kept(tmp_path):
    items = pd.DataFrame({"item_id": range(1, zoo.N_ITEMS + 1)})
    items["category"] = 1 + items["item_id"] % zoo.N_CATEGORIES
    items["price"] = (items["item_id"] / zoo.N_ITEMS).astype(np.float32)
    model = wrap(
        zoo.build(DEEPFM),
        zoo.score_frame(),
        user="user_id",
        item="item_id",
        item_features=["item_id", "category", "price"],
        item_table=items,
    )
    model.sllmr.set_counts(history_length={1: 7}, popularity={3: 5})
    model.sllmr.save(tmp_path)
    other = load(zoo.build(DEEPFM), tmp_path)
    assert other.sllmr.features == model.sllmr.features
    for mine, theirs in zip(model.sllmr.item_values, other.sllmr.item_values, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert torch.equal(other.sllmr.history_length, model.sllmr.history_length)
    assert torch.equal(other.sllmr.popularity, model.sllmr.popularity)
    assert str(other.sllmr.table.coverage) == str(model.sllmr.table.coverage)


def test_a_table_in_a_folder_is_opened_where_it_lies_or_where_it_went(tmp_path):
    zoo.score_frame().to_parquet(tmp_path / "scores.parquet")
    table = ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "table")
    model = wrap(
        zoo.build(DEEPFM), table, user="user_id", item="item_id", item_features=["item_id", "category", "price"]
    )
    model.sllmr.save(tmp_path / "saved")
    other = load(zoo.build(DEEPFM), tmp_path / "saved")
    assert other.sllmr.table.folder == (tmp_path / "table").resolve()
    (tmp_path / "table").rename(tmp_path / "moved")
    with pytest.raises(SLLMRError, match="table"):
        load(zoo.build(DEEPFM), tmp_path / "saved")
    moved = load(zoo.build(DEEPFM), tmp_path / "saved", scores=ScoreTable.open(tmp_path / "moved"))
    assert len(moved.sllmr.table) == len(table)


def test_another_model_is_refused_and_left_as_it_is(tmp_path):
    trained(DEEPFM, SelectiveConfig(gate="none")).sllmr.save(tmp_path)
    other = zoo.build(BY_NAME["WDL"])
    with pytest.raises(WrapError, match="of a DeepFM, and the model is a WDL"):
        load(other, tmp_path)
    assert type(other).__name__ == "WDL"
    recipe = json.loads((tmp_path / "sllmr_recipe.json").read_text())
    recipe["features"]["layout"]["colour"] = recipe["features"]["layout"].pop("hour")
    (tmp_path / "sllmr_recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(WrapError, match="lacks 'colour', adds 'hour'; the one that was saved has"):
        load(zoo.build(DEEPFM), tmp_path)
    with pytest.raises(AlreadyWrappedError):
        load(zoo.wrapped(DEEPFM, zoo.build(DEEPFM), SelectiveConfig()), tmp_path)


def test_files_that_are_missing_or_altered_are_refused(tmp_path):
    trained(DEEPFM, SelectiveConfig(gate="none")).sllmr.save(tmp_path)
    recipe, table = tmp_path / "sllmr_recipe.json", tmp_path / "sllmr_table.safetensors"
    assert json.loads(recipe.read_text())["version"] == sllmr_plugin.__version__
    good = table.read_bytes()
    table.write_bytes(good[:-4] + b"\0\0\0\1")
    with pytest.raises(SLLMRError, match="is not the file that save"):
        load(zoo.build(DEEPFM), tmp_path)
    table.write_bytes(good)
    load(zoo.build(DEEPFM), tmp_path)
    text = recipe.read_text()
    recipe.write_text(text.replace('"layout"', '"lay"'))
    with pytest.raises(SLLMRError, match="not what save"):
        load(zoo.build(DEEPFM), tmp_path)
    recipe.unlink()
    with pytest.raises(SLLMRError, match="no such file.*those of earlier ones"):
        load(zoo.build(DEEPFM), tmp_path)


def test_a_folder_of_an_earlier_version_still_loads_on_a_wrapped_model(tmp_path):
    model = trained(DEEPFM, SelectiveConfig(gate="joint", weight=0.5))
    model.sllmr.save(tmp_path)
    for name in ("sllmr_recipe.json", "sllmr_table.safetensors"):
        (tmp_path / name).unlink()
    other = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), SelectiveConfig(), with_probes())
    other.sllmr.load(tmp_path)
    assert other.sllmr.gate.coefficients() == model.sllmr.gate.coefficients()


def test_what_a_person_sees_in_a_notebook():
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), SelectiveConfig(gate="none"), with_probes())
    assert repr(model.sllmr) == str(model.sllmr.status())
    table = model.sllmr.table
    assert len(table) == len(with_probes())
    assert repr(table).startswith("ScoreTable: ")
    assert str(len(table)) in repr(table)
