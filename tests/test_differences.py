"""Differences to the plain model: pairing, strata and labels, against naive loops."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import DataError, EvaluationError
from sllmr_plugin.evaluation.differences import Difference, auc_by_label, differences_to_plain
from sllmr_plugin.evaluation.statistics import paired_differences
from sllmr_plugin.evaluation.store import RunFolder
from sllmr_plugin.evaluation.strata import label_test, read_labels
from tests.evaluation_cases import catalogue, interactions, ranking, result

N = 60


def rankings(runs, seed=0, undefined=()):
    """Random rankings of the same interactions, two of each user, for the (mode, seed) pairs in `runs`."""
    rng = np.random.default_rng(seed)
    users, tail = np.repeat([f"u{k:02d}" for k in range(N // 2)], 2), rng.random(N) < 0.3
    frames = {}
    for run in runs:
        auc = rng.random(N)
        auc[list(undefined)] = math.nan
        frame = pd.DataFrame({"user_id": users, "item_id": np.arange(N), "auc": auc})
        frames[run] = frame.assign(cold=np.repeat(np.arange(N // 2) < 10, 2), tail=tail)
    return frames


def test_differences_are_paired_by_interaction_and_seed():
    frames = rankings([(mode, seed) for seed in (0, 1) for mode in ("none", "gated", "global")], undefined=[3, 4])
    found = differences_to_plain("din", frames)
    assert [(d.stratum, d.mode) for d in found] == [
        (stratum, mode) for stratum in ("all", "cold", "tail") for mode in ("gated", "global")
    ]
    for difference in found:
        gains = []
        for seed in (0, 1):
            plain, mode = frames["none", seed], frames[difference.mode, seed]
            for k in range(N):
                inside = difference.stratum == "all" or plain[difference.stratum][k]
                if inside and not math.isnan(plain["auc"][k]):
                    gains.append(mode["auc"][k] - plain["auc"][k])
        assert difference.mean == pytest.approx(np.mean(gains))
        assert difference.n_interactions == len(gains) / 2
        assert difference.low < difference.mean < difference.high
        assert difference.seeds == [0, 1]
        assert difference.wins + difference.ties + difference.losses == difference.n_users
    kept = ~frames["none", 0]["auc"].isna().to_numpy()
    values = np.stack([(frames["gated", s]["auc"] - frames["none", s]["auc"])[kept] for s in (0, 1)])
    (alone,) = paired_differences(values[None], frames["none", 0]["user_id"][kept])
    assert (found[0].low, found[0].high) == (alone.low, alone.high)


def test_only_shared_seeds_are_compared_and_without_plain_runs_nothing():
    frames = rankings([("none", 0), ("none", 1), ("gated", 0), ("gated", 1), ("global", 1), ("joint", 7)])
    seeds = {d.mode: d.seeds for d in differences_to_plain("din", frames)}
    assert seeds == {"gated": [0, 1], "global": [1]}
    assert differences_to_plain("din", {key: f for key, f in frames.items() if key[0] != "none"}) == []
    assert differences_to_plain("din", {key: f for key, f in frames.items() if key[0] == "none"}) == []


def test_a_combined_mode_is_also_compared_with_what_it_adds_to():
    names = ["none", "init", "init+gated", "kar+gated"]
    frames = rankings([(mode, seed) for seed in (0, 1) for mode in names if (mode, seed) != ("init", 1)])
    found = {(d.baseline, d.mode): d for d in differences_to_plain("din", frames) if d.stratum == "all"}
    assert set(found) == {("none", mode) for mode in names[1:]} | {("init", "init+gated")}  # there is no kar
    added = found["init", "init+gated"]
    assert added.seeds == [0]  # the seed that both have
    assert added.mean == pytest.approx((frames["init+gated", 0]["auc"] - frames["init", 0]["auc"]).mean())
    assert Difference.from_json(added.to_json()) == added
    no_plain = {key: frame for key, frame in frames.items() if key[0] != "none"}
    assert {(d.baseline, d.mode) for d in differences_to_plain("din", no_plain)} == {("init", "init+gated")}


def test_rankings_of_other_interactions_are_refused():
    frames = rankings([("none", 0), ("gated", 0)])
    frames["gated", 0] = frames["gated", 0].iloc[::-1].reset_index(drop=True)
    with pytest.raises(EvaluationError, match="din gated seed 0 ranks other interactions"):
        differences_to_plain("din", frames)


def test_an_empty_stratum_is_left_out():
    frames = {key: f.assign(tail=False) for key, f in rankings([("none", 0), ("gated", 0)]).items()}
    assert {d.stratum for d in differences_to_plain("din", frames)} == {"all", "cold"}


@pytest.mark.parametrize(("low", "high", "clear"), [(-0.1, 0.1, False), (0.0, 0.1, False), (0.01, 0.1, True)])
def test_clear_is_an_interval_without_zero(low, high, clear):
    values = {"backbone": "din", "mode": "gated", "stratum": "all", "label": "", "seeds": [0], "p_value": 0.5}
    values |= {"n_interactions": 3, "n_users": 2, "mean": 0.1, "wins": 1, "ties": 0, "losses": 1}
    assert Difference(**values, low=low, high=high).clear is clear
    assert Difference(**values, low=-high, high=-low).clear is clear
    undefined = Difference(**values, low=math.nan, high=math.nan)
    assert not undefined.clear
    again = Difference.from_json(json.loads(json.dumps(undefined.to_json(), allow_nan=False)))
    assert math.isnan(again.low)
    assert again.seeds == [0]


# --- labels


def test_labels_of_users_items_and_interactions_reach_the_test_interactions():
    data = load_interactions(interactions(), catalogue())
    users = pd.DataFrame({"user_id": data.user_ids[:-1], "country": ["fr", "de"] * 11 + ["fr"]})
    items = pd.DataFrame({"item_id": data.item_ids, "kind": [k % 3 for k in range(20)]})
    labels = label_test(data, [users, items])
    assert labels[["user_id", "item_id"]].to_numpy().tolist() == [
        [data.user_ids[u - 1], data.item_ids[i - 1]] for u, i in data.test.to_numpy()
    ]
    country, kind = users.set_index("user_id")["country"], items.set_index("item_id")["kind"]
    assert labels["country"].tolist() == [country.get(user, "(none)") for user in labels["user_id"]]
    assert labels["kind"].tolist() == [str(kind[item]) for item in labels["item_id"]]

    frame = ranking([0.5] * len(labels), [False] * len(labels), [False] * len(labels))
    frame = frame.assign(user_id=labels["user_id"], item_id=labels["item_id"])
    rng = np.random.default_rng(0)
    frames = {(mode, 0): frame.assign(auc=rng.random(len(frame))) for mode in ("none", "gated")}
    shuffled = labels.sample(frac=1, random_state=0)  # found by ids, not by place
    for label in ("fr", "de", "(none)"):
        inside = (labels["country"] == label).to_numpy()
        for found in auc_by_label("din", frames, shuffled):
            if (found.stratum, found.label) == ("country", label):
                assert found.aucs == [pytest.approx(frames[found.mode, 0]["auc"][inside].mean())]
                assert found.n_interactions == inside.sum()
        (gain,) = [d for d in differences_to_plain("din", frames, shuffled) if d.label == label]
        expected = (frames["gated", 0]["auc"] - frames["none", 0]["auc"])[inside].mean()
        assert gain.mean == pytest.approx(expected)


def test_columns_are_found_in_the_items_first_and_a_pair_takes_its_test_row(tmp_path):
    clicks = pd.DataFrame(
        {
            "user_id": [1.0, 1, 1, 2, 2, 1],
            "item_id": [5, 6, 7, 5, 7, 8],
            "split": ["train", "train", "test", "train", "test", "valid"],
            "page": ["a", "b", "c", "d", "e", "f"],
        }
    )
    items = pd.DataFrame({"item_id": [5, 6, 7, 8], "page": ["w", "x", "y", "z"], "brand": [1, 1, 2, None]})
    (brand,) = read_labels(["brand"], clicks, items)
    assert brand.columns.tolist() == ["item_id", "brand"]
    (page,) = read_labels(["page"], clicks, items)
    assert page.columns.tolist() == ["item_id", "page"]
    repeated = pd.concat([clicks, clicks.iloc[[2]].assign(split="train", page="other")])
    labels = label_test(load_interactions(clicks), read_labels(["page"], repeated))
    assert labels["page"].tolist() == ["c", "e"]
    assert read_labels([], tmp_path / "nowhere.csv") == []
    with pytest.raises(DataError, match=r"no column 'price' .* the items DataFrame or the interactions DataFrame"):
        read_labels(["price"], clicks, items)


def test_labels_that_cannot_be_used():
    data = load_interactions(interactions(), catalogue())
    with pytest.raises(DataError, match="need user_id or item_id"):
        label_test(data, [pd.DataFrame({"country": ["fr"]})])
    with pytest.raises(DataError, match=r"'u01'.* two different labels"):
        label_test(data, [pd.DataFrame({"user_id": ["u01", "u01"], "country": ["fr", "de"]})])
    many = pd.DataFrame({"user_id": data.user_ids, "age": range(len(data.user_ids))})
    with pytest.raises(DataError, match=r"'age' has 24 different labels.*numbers into ranges"):
        label_test(data, [many])


def test_a_folder_with_labels_is_compared_by_them(tmp_path):
    folder = RunFolder(tmp_path, {})
    for mode, aucs in (("none", (0.5, 0.6, 0.7)), ("gated", (0.6, 0.5, 0.9))):
        folder.add(result(mode, ranking=ranking(aucs)))
    folder.set_labels(pd.DataFrame({"user_id": ["u0", "u1", "u2"], "item_id": "i", "sex": ["f", "m", "f"]}))
    comparison = folder.comparison(list(folder.runs))
    assert [(s.mode, s.label, s.n_interactions) for s in comparison.strata] == [
        ("none", "f", 2),
        ("gated", "f", 2),
        ("none", "m", 1),
        ("gated", "m", 1),
    ]
    by_sex = {d.label: d for d in comparison.differences if d.stratum == "sex"}
    assert by_sex["f"].mean == pytest.approx((0.1 + 0.2) / 2)
    assert by_sex["m"].mean == pytest.approx(-0.1)
    assert math.isnan(by_sex["m"].low)  # a single user

    folder.set_comparison(comparison.differences, comparison.strata)
    again = RunFolder(tmp_path, {})
    assert [d.mean for d in again.differences] == [d.mean for d in comparison.differences]
    assert again.strata == comparison.strata
    again.add(result("gated", 1))  # what was concluded before no longer holds
    assert (RunFolder(tmp_path, {}).differences, RunFolder(tmp_path, {}).strata) == ([], [])
