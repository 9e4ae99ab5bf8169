"""Rankings leave out the padding of histories where that changes no score, and only there."""

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.evaluation.history_columns import HistoryColumns
from sllmr_plugin.evaluation.model_scores import evaluation_mode, template_matrix
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.zoo.deepctr import build_model

N_ITEMS = 12


def data(attributes=("brand", "genres:pipe")):
    """Users with 3 to 10 interactions, items with a brand and up to three genres, some of them without."""
    rng = np.random.default_rng(0)
    rows = [(user, item) for user in range(8) for item in rng.permutation(N_ITEMS)[: 3 + user]]
    items = pd.DataFrame(
        {
            "item_id": range(N_ITEMS),
            "title": [f"title {item}" for item in range(N_ITEMS)],
            "brand": ["", "b1", "b2", "b3"] * 3,
            "genres": ["g1|g2|g3", "", "g2"] * 4,
        }
    )
    return load_interactions(pd.DataFrame(rows, columns=["user_id", "item_id"]), items, attributes=attributes)


def build(backbone, data):
    model = build_model(backbone, data, embedding_dim=4, histories=True)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


@pytest.mark.parametrize("backbone", ["din", "dien", "deepfm"])
def test_scores_are_those_with_padding(backbone):
    # DIEN takes no column of several values
    interactions = data(["brand"] if backbone == "dien" else ["brand", "genres:pipe"])
    model = build(backbone, interactions)
    templates = template_matrix(model, interactions, np.arange(1, 9), "test")
    templates[:, model.feature_index["item_id"][0]] = 5
    histories = HistoryColumns.of(model, templates)
    layout, read = dict(model.feature_index), []
    for row in templates:  # one user at a time, so that every length occurs
        rows = row.repeat(2, 1)
        with evaluation_mode(model):
            whole = model(rows)
            with histories.cut(model, rows):
                first, end = model.feature_index["hist_item_id"]
                read.append(end - first)
                cut = model(rows)
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-6)
    assert model.feature_index == layout
    assert read == [2 + user for user in range(8)]  # all but the test interaction
    assert {"hist_item_id", "hist_item_brand"} <= set(histories.spans)


def test_histories_of_one_length_are_cut_together_and_an_empty_one_keeps_a_column():
    model = torch.nn.Module()
    model.feature_index = {
        "hist_item_id": (0, 3),
        "hist_item_brand": (3, 6),
        "hist_item_genres": (6, 12),
        "u": (12, 13),
    }
    histories = HistoryColumns({name: span for name, span in model.feature_index.items() if name != "u"})
    rows = torch.tensor([[7, 0, 0, 0, 2, 0, *[0] * 6, 1], [7, 0, 0, 0, 0, 0, *[0] * 6, 1]])
    with histories.cut(model, rows):
        assert model.feature_index == {
            "hist_item_id": (0, 2),
            "hist_item_brand": (3, 5),  # the first item has no brand, the second no code: both stay
            "hist_item_genres": (6, 7),
            "u": (12, 13),
        }


class CountsColumns(torch.nn.Module):
    """A model for which padding counts."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.feature_index = {"user_id": (0, 1), "item_id": (1, 2), "hist_item_id": (2, 22)}

    def forward(self, rows):
        first, end = self.feature_index["hist_item_id"]
        history = rows[:, first:end]
        return self.weight * (rows[:, 1:2] / 100 + history.mean(dim=1, keepdim=True))


def test_a_model_for_which_padding_counts_reads_all_of_it():
    interactions, model = data(), CountsColumns()
    templates = template_matrix(model, interactions, np.arange(1, 9), "test")
    assert HistoryColumns.of(model, templates).spans == {}


def test_the_layout_is_whole_again_after_an_error():
    interactions = data()
    model = build("din", interactions)
    layout = dict(model.feature_index)
    with torch.no_grad():
        model.dnn_linear.weight.fill_(float("nan"))
    with pytest.raises(Exception, match="not all finite"):
        full_ranking(model, interactions, "test", verbose=False)
    assert model.feature_index == layout
