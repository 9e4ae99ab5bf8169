"""On the bundled demo data, whose texts carry signal by construction, KAR and LLM-CF beat the plain model."""

from __future__ import annotations

import pytest

from sllmr_plugin import SelectiveConfig, TextTable
from sllmr_plugin.datasets.demo import demo_paths, load_demo
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.evaluation.modes import Mode
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.evaluation.training import RunSettings, train
from sllmr_plugin.knowledge import EncodedTexts
from sllmr_plugin.scores.table import ScoreTable


@pytest.fixture(scope="module")
def demo():
    data, scores = load_demo()
    indexes = {"user_index": data.user_index, "item_index": data.item_index}
    texts = EncodedTexts.of(TextTable.read(demo_paths().texts, **indexes))
    return data, ScoreTable.read(scores, **indexes), texts, training_rows(data, seed=0)


def test_texts_raise_the_test_auc(demo):
    data, scores, texts, rows = demo
    auc = {}
    for mode in ("none", "kar", "llm_cf"):
        trained = train(
            data,
            rows,
            scores,
            backbone="deepfm",
            config=SelectiveConfig(weight=0.0),
            seed=0,
            settings=RunSettings.quick(epochs=1, valid_users=50),
            adaptor=Mode.of(mode).adaptor(data, rows, 0, texts=texts),
            verbose=False,
        )
        auc[mode] = full_ranking(trained.model, data, "test", users=500, verbose=False)["auc"].mean()
    assert auc["kar"] > auc["none"] + 0.02
    assert auc["llm_cf"] > auc["none"] + 0.01
