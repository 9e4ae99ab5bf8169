"""Blocks of scores: how large, and that looking leaves no trace."""

import numpy as np
import pytest
import torch

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.evaluation.model_scores import ItemSide, default_rows_per_block, score_items, template_matrix
from sllmr_plugin.zoo.deepctr import BACKBONES, build_model
from tests.evaluation_cases import N_ITEMS, catalogue, interactions

DATA = load_interactions(interactions(), catalogue())
USERS = np.array([3, 1, 7])


def prepared(name, **options):
    model = build_model(name, DATA, **options)
    return model, template_matrix(model, DATA, USERS, "test")


@pytest.mark.parametrize(("name", "embedding_dim", "rows"), [("deepfm", 16, 1024), ("xdeepfm", 16, 256)])
def test_blocks_shrink_with_the_largest_layer(name, embedding_dim, rows):
    # xDeepFM's second CIN layer reads 128 * 2 channels of 16 floats: 16 KiB a row, of which 256 are 4 MiB.
    assert default_rows_per_block(*prepared(name, embedding_dim=embedding_dim)) == rows
    # the bounds
    assert default_rows_per_block(*prepared("xdeepfm", embedding_dim=128)) == 64
    assert default_rows_per_block(*prepared("dcn", embedding_dim=1)) == 1024


@pytest.mark.parametrize("name", BACKBONES)
def test_looking_leaves_no_trace(name):
    model, templates = prepared(name, embedding_dim=8)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert 64 <= default_rows_per_block(model, templates) <= 1024
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_hooks_go_even_when_the_model_fails():
    model, templates = prepared("deepfm")
    with pytest.raises(RuntimeError):
        default_rows_per_block(model, templates[:, :1])
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


@pytest.mark.parametrize("name", ["deepfm", "dcnmix"])  # DCNMix itself fails on a batch of one row
@pytest.mark.parametrize("rows_per_block", [1, 10, 1000])
def test_own_items_of_each_user_or_the_same_for_all(name, rows_per_block):
    model, templates = prepared(name)
    model.eval()
    side = ItemSide.of(model, DATA)
    catalogue_items = torch.arange(1, N_ITEMS + 1)
    with torch.no_grad():
        whole = score_items(model, templates, catalogue_items[None], side, rows_per_block)
        chosen = torch.tensor([[5, 1], [2, 2], [20, 7]])
        some = score_items(model, templates, chosen, side, rows_per_block)
        alone = score_items(model, templates[:1], torch.tensor([[5]]), side, rows_per_block)
    assert alone.item() == pytest.approx(whole[0, 4].item(), abs=1e-6)
    for row, user in enumerate(USERS):
        x = {"user_id": np.full(N_ITEMS, user), "item_id": catalogue_items.numpy()}
        assert whole[row].numpy() == pytest.approx(model.predict(x)[:, 0], abs=1e-6)
    assert some.numpy() == pytest.approx(whole.gather(1, chosen - 1).numpy(), abs=1e-6)
