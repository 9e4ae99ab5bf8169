"""Example users of a report: drawn whatever a model makes of them, ranked as a naive loop ranks them."""

import json

import numpy as np
import pytest

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.evaluation import examples as module
from sllmr_plugin.evaluation.examples import describe_examples, draw_examples, rank_examples
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.evaluation.store import RunFolder
from sllmr_plugin.evaluation.strata import stratify
from tests.evaluation_cases import N_ITEMS, N_USERS, TableModel, catalogue, interactions


@pytest.fixture
def data():
    items = catalogue()
    return load_interactions(
        interactions(), items.assign(title=["" if k % 3 == 0 else f"title {k}" for k in range(len(items))])
    )


def model(levels=4, seed=3):
    return TableModel(np.random.default_rng(seed).integers(0, levels, (N_USERS + 1, N_ITEMS + 1)))


def test_half_of_the_examples_are_cold_and_all_have_a_test_interaction(data):
    strata = stratify(data)
    users = draw_examples(data, strata)
    assert len(set(users)) == 4
    assert strata.cold[users].sum() == 2
    assert set(users) <= set(data.test["user"])
    assert draw_examples(data, strata).tolist() == users.tolist()
    assert any(draw_examples(data, strata, seed=seed).tolist() != users.tolist() for seed in range(1, 5))


def test_where_few_users_are_of_one_kind_the_others_fill_up(data):
    strata = stratify(data)
    strata.cold[:] = True
    assert len(draw_examples(data, strata)) == 4
    strata.cold[:] = False
    assert len(draw_examples(data, strata)) == 4


def test_a_catalogue_that_is_too_large_has_no_examples(data, monkeypatch):
    monkeypatch.setattr(module, "MOST_ITEMS", N_ITEMS - 1)
    users = draw_examples(data, stratify(data))
    assert len(users) == 0
    assert rank_examples(model(), data, users) == describe_examples(data, users, stratify(data)) == []


def test_places_and_first_items_are_those_of_a_naive_loop(data):
    users, table = draw_examples(data, stratify(data)), model()
    names = {code: data.titles[code] or str(data.item_ids[code - 1]) for code in range(1, data.n_items + 1)}
    auc = full_ranking(table, data, "test", verbose=False).drop_duplicates("user").set_index("user")
    for user, found in zip(users, rank_examples(table, data, users), strict=True):
        item = data.test[data.test["user"] == user]["item"].iloc[0]
        taken = set()
        for part in (data.train[data.train["label"] == 1], data.valid, data.test):
            taken |= set(part[part["user"] == user]["item"])
        open_items = [code for code in range(1, data.n_items + 1) if code not in taken or code == item]
        scores = {code: table.values[user, code].item() for code in open_items}
        assert found["of"] == len(open_items)
        assert found["rank"] == sum(score >= scores[item] for score in scores.values())
        assert found["top"] == [names[code] for code in sorted(open_items, key=lambda code: (-scores[code], code))[:5]]
        counted = auc.loc[user]  # of the ranking that AUC is made of: ties are half there and before the item here
        assert found["rank"] == 1 + counted["above"] + counted["tied"]


def test_examples_are_described_by_what_was_taken_before_the_test(data):
    strata = stratify(data)
    users = draw_examples(data, strata)
    for user, told in zip(users, describe_examples(data, users, strata), strict=True):
        train = data.train[(data.train["user"] == user) & (data.train["label"] == 1)]["item"].tolist()
        before = train + data.valid[data.valid["user"] == user]["item"].tolist()
        assert len(told["history"]) == min(10, len(before))
        held_out = data.test[data.test["user"] == user]["item"].iloc[0]
        assert told["held_out"] == (data.titles[held_out] or str(data.item_ids[held_out - 1]))
        assert told["user"] == str(data.user_ids[user - 1])
        assert told["cold"] == strata.cold[user]


def test_a_folder_keeps_the_first_seed_of_each_run_and_drops_what_other_users_saw(tmp_path):
    folder = RunFolder(tmp_path, {})
    assert folder.examples == {}
    folder.set_examples([{"user": "a"}])
    folder.add_examples("din", "none", 0, [{"rank": 3}])
    folder.add_examples("din", "none", 1, [{"rank": 9}])
    folder.add_examples("din", "gated", 1, [{"rank": 2}])
    again = RunFolder(tmp_path, {})
    again.set_examples([{"user": "a"}])
    assert [(run["mode"], run["seed"], run["ranked"]) for run in again.examples["runs"]] == [
        ("none", 0, [{"rank": 3}]),
        ("gated", 1, [{"rank": 2}]),
    ]
    again.set_examples([{"user": "b"}])
    assert json.loads((tmp_path / "examples.json").read_text()) == {"users": [{"user": "b"}], "runs": []}
