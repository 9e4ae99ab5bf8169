"""Batches of users with their interactions: the order against a loop, and what a training sees of it."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from sllmr_plugin import ScoreTable, SelectiveConfig
from sllmr_plugin.datasets.features import training_rows, user_by_user
from sllmr_plugin.evaluation.training import BestEpoch, RunSettings, train

from .test_augmenting import score_frame
from .text_cases import interactions

BATCH = 16


def as_rows(x, y):
    return list(zip(x["user_id"].tolist(), x["item_id"].tolist(), y.tolist(), strict=True))


@pytest.mark.parametrize("seed", [0, (3, 1)])
def test_rows_of_a_user_stand_together_in_their_order(seed):
    rng = np.random.default_rng(0)
    x = {"user_id": rng.integers(1, 30, 200), "item_id": rng.permutation(200), "hist": rng.integers(0, 9, (200, 3))}
    y = rng.integers(0, 2, 200).astype(np.float32)
    ordered, labels = user_by_user(x, y, seed)
    runs = [(user, list(group)) for user, group in itertools.groupby(as_rows(ordered, labels), key=lambda row: row[0])]
    assert len({user for user, _ in runs}) == len(runs)
    for user, group in runs:
        assert group == [row for row in as_rows(x, y) if row[0] == user]
    of_item = dict(zip(x["item_id"].tolist(), x["hist"].tolist(), strict=True))
    assert [of_item[item] for item in ordered["item_id"].tolist()] == ordered["hist"].tolist()
    assert [user for user, _ in runs] != sorted(user for user, _ in runs)
    again, _ = user_by_user(x, y, seed)
    np.testing.assert_array_equal(again["item_id"], ordered["item_id"])
    other, _ = user_by_user(x, y, (seed, 9) if seed == 0 else (*seed, 9))
    assert other["user_id"].tolist() != ordered["user_id"].tolist()


@pytest.fixture
def trained(monkeypatch):
    """Return a function that trains, and returns the batches of (user, item) by epoch, and the logs."""
    seen = []

    class Spy(BestEpoch):
        def set_model(self, model):
            def watch(module, inputs):
                if torch.is_grad_enabled():
                    index = module.feature_index
                    columns = inputs[0][:, [index["user_id"][0], index["item_id"][0]]]
                    seen.append(list(map(tuple, columns.int().tolist())))

            if self.model is None:
                model.register_forward_pre_hook(watch)
            super().set_model(model)

    monkeypatch.setattr("sllmr_plugin.evaluation.training.BestEpoch", Spy)

    def run(config, **changes):
        seen.clear()
        data = interactions()
        settings = RunSettings.quick(
            **{"epochs": 2, "embedding_dim": 4, "batch_size": BATCH, "batches": "users"} | changes
        )
        rows = settings.rows(data, 0)
        table = ScoreTable.read(score_frame())
        options = {"backbone": "deepfm", "seed": 0, "settings": settings, "verbose": False}
        found = train(data, rows, table, config=config, **options)
        n = -(-len(rows[1]) // BATCH)
        return seen[:n], seen[n:], found.epochs

    return run


PLAIN = SelectiveConfig(weight=0.0)
PAIRS = SelectiveConfig(gate="none", weight=0.5, in_batch_pairs=True)


def n_users_in(epoch):
    return sum(len({user for user, _ in batch}) for batch in epoch)


@pytest.mark.parametrize("redraw", [False, True])
def test_a_batch_holds_whole_users_but_at_its_ends(trained, redraw):
    first, second, _ = trained(PLAIN, redraw=redraw)
    for epoch in (first, second):
        order = [user for user, _ in itertools.groupby(itertools.chain(*epoch), key=lambda row: row[0])]
        assert len(order) == len(set(order)) == 12
        assert all(len(batch) == BATCH for batch in epoch[:-1])
    users = [[user for user, _ in itertools.chain(*epoch)] for epoch in (first, second)]
    assert users[0] != users[1]
    pairs = [Counter(itertools.chain(*epoch)) for epoch in (first, second)]
    assert (pairs[0] == pairs[1]) == (not redraw)
    shuffled, _, _ = trained(PLAIN, redraw=redraw, batches="rows")
    assert n_users_in(first) < n_users_in(shuffled)


@pytest.mark.filterwarnings("ignore::sllmr_plugin.errors.SLLMRWarning")
@pytest.mark.parametrize("redraw", [False, True])
def test_plain_and_wrapped_see_the_same_batches_and_pairs_are_in_them(trained, redraw):
    plain = trained(PLAIN, redraw=redraw)[:2]
    *wrapped, logs = trained(PAIRS, redraw=redraw)
    assert list(plain) == wrapped
    *_, logs_of_rows = trained(PAIRS, redraw=redraw, batches="rows")
    assert logs[0]["sllmr_pairs"] > logs_of_rows[0]["sllmr_pairs"]


def test_rows_are_the_default_and_its_batches_are_torchs(trained):
    first, second, _ = trained(PLAIN, batches="rows")
    rows = as_rows(*training_rows(interactions(), seed=0))
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(rows, batch_size=BATCH, shuffle=True, collate_fn=list)
    for epoch in (first, second):
        assert epoch == [[row[:2] for row in batch] for batch in loader]
    assert RunSettings().batches == "rows"
