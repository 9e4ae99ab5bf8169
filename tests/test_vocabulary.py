"""Raw ids are looked up in what FuxiCTR's own preprocessing has written."""

import json

import pandas as pd
import pytest
import torch

pytest.importorskip("fuxictr")

import polars as pl
from fuxictr.preprocess import FeatureProcessor

from sllmr_plugin import CoverageError, DataError, ScoreTable, wrap
from sllmr_plugin.backends.fuxictr.data import fuxictr_index
from sllmr_plugin.zoo.fuxictr import build_fuxictr


@pytest.fixture
def processed(tmp_path):
    """Have FuxiCTR encode text users, whole-number items and a numeric age."""
    columns = [
        {"name": "user", "active": True, "dtype": "str", "type": "categorical"},
        {"name": "item", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
        {"name": "age", "active": True, "dtype": "float", "type": "numeric"},
    ]
    processor = FeatureProcessor(
        columns, {"name": "click", "dtype": "float"}, dataset_id="shop", data_root=str(tmp_path)
    )
    frame = pl.LazyFrame(
        {
            "user": ["anne", "bob", "anne", "007", "7", "bob"],
            "item": [500, 30, 30, 7, 500, 7],
            "age": [1.0, 2, 1, 3, 4, 2],
            "click": [1.0, 0, 1, 0, 1, 1],
        }
    )
    processor.fit(processor.preprocess(frame))
    return processor


def test_the_index_is_the_tokenizers(processed):
    for feature in ("user", "item"):
        index = fuxictr_index(processed.data_dir, feature)
        tokenizer = processed.processor_dict[f"{feature}::tokenizer"]
        for raw in ("anne", "bob", "007", "7") if feature == "user" else (500, 30, 7):
            assert index[raw] == tokenizer.encode_category([raw])[0]
            assert index[str(raw)] == index[raw]
        assert not {"__PAD__", "__OOV__", tokenizer.vocab["__OOV__"]} & set(index) - {7}
    users = fuxictr_index(processed.data_dir, "user")
    assert users["007"] != users["7"] == users[7]  # text that is not a plain number stays text


def test_wrap_finds_it_and_leaves_unknown_ids_out(processed, tmp_path):
    feature_map = processed.feature_map
    scores = pd.DataFrame(
        {"user_id": ["anne", "anne", "bob", "zoe"], "item_id": [500, 7, 30, 30], "score": [0.1, 0.9, 0.5, 0.5]}
    )
    model = wrap(build_fuxictr("deepfm", feature_map, model_root=tmp_path), scores, user="user", item="item")
    tokenizers = [processed.processor_dict[f"{name}::tokenizer"] for name in ("user", "item")]
    table = model.sllmr.table.candidates
    users = table.users[table.user_of_entry].tolist()
    got = dict(zip(zip(users, table.items.tolist(), strict=True), table.scores.tolist(), strict=True))
    expected = {
        tuple(t.encode_category([raw])[0] for t, raw in zip(tokenizers, row[:2], strict=True)): row[2]
        for row in scores.iloc[:3].itertuples(index=False)
    }
    assert got == pytest.approx(expected)
    assert model.sllmr.table.coverage.dropped == {"user_id not in user_index": 1}


def test_a_table_of_codes_and_an_index_of_ones_own_come_first(processed, tmp_path):
    codes = ScoreTable.read(pd.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "score": [0.1, 0.9]}))
    model = wrap(build_fuxictr("deepfm", processed.feature_map, model_root=tmp_path), codes, user="user", item="item")
    assert model.sllmr.table.candidates.users.tolist() == [1]
    frame = pd.DataFrame({"user_id": ["x", "x"], "item_id": ["a", "b"], "score": [0.1, 0.9]})
    own = {"user_index": {"x": 2}, "item_index": {"a": 1, "b": 3}}
    model = wrap(
        build_fuxictr("deepfm", processed.feature_map, model_root=tmp_path), frame, user="user", item="item", **own
    )
    assert model.sllmr.table.candidates.users.tolist() == [2]
    with pytest.raises(CoverageError):
        wrap(build_fuxictr("deepfm", processed.feature_map, model_root=tmp_path), frame, user="user", item="item")


def test_files_that_are_none_of_fuxictrs_are_refused(processed, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        fuxictr_index(tmp_path, "user")
    with pytest.raises(DataError, match="no vocabulary of 'age'"):  # a number, so there is none
        fuxictr_index(processed.data_dir, "age")
    (tmp_path / "feature_vocab.json").write_text("[1, 2")
    with pytest.raises(DataError, match="is not JSON"):
        fuxictr_index(tmp_path, "user")
    (tmp_path / "feature_vocab.json").write_text(json.dumps({"user": {"anne": "one"}}))
    with pytest.raises(DataError, match="no vocabulary of 'user'"):
        fuxictr_index(tmp_path, "user")


def test_without_the_file_ids_are_codes(tmp_path, processed):
    (tmp_path / "shop" / "feature_vocab.json").unlink()
    frame = pd.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "score": [0.1, 0.9]})
    model = wrap(build_fuxictr("deepfm", processed.feature_map, model_root=tmp_path), frame, user="user", item="item")
    assert model.sllmr.table.candidates.items.tolist() == [1, 2]
    assert torch.is_tensor(model.sllmr.table.candidates.scores)
