"""Items that training has not seen: the split of two periods, and their ranking among themselves, by loops."""

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin import DataError
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.datasets.preparing import PrepareSettings, prepare
from sllmr_plugin.datasets.splits import by_period
from sllmr_plugin.errors import ConfigError
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.evaluation.unseen import rank_unseen, unseen_metrics
from sllmr_plugin.zoo.deepctr import build_model


def two_periods():
    """Ten users; items 0-7 in the first period, 0-3 and the new 8-12 in the second."""
    rows = [(f"u{u}", f"i{(u + k) % 8}", 10 * k + u % 3) for u in range(10) for k in range(5)]
    rows += [(f"u{u}", f"i{8 + (u + k) % 5}", 100 + 10 * k) for u in range(10) for k in range(2)]
    rows += [(f"u{u}", f"i{u % 4}", 130) for u in range(4, 8)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


def prepared(folder, **settings):
    two_periods().to_csv(folder / "raw.csv", index=False)
    out = prepare("csv", folder / "raw.csv", folder / "data", k_core=0, split="period", **settings)
    return out, pd.read_csv(out.interactions)


def test_the_second_period_is_test_and_the_end_of_the_first_valid(tmp_path):
    out, frame = prepared(tmp_path, valid_share=0.2)
    middle = frame["timestamp"].max() / 2  # times begin with 0
    assert (frame["split"] == "test").equals(frame["timestamp"] >= middle)
    first = frame[frame["timestamp"] < middle]
    assert (
        first.loc[first["split"] == "valid", "timestamp"].min()
        > first.loc[first["split"] == "train", "timestamp"].max()
    )
    assert 10 <= (frame["split"] == "valid").sum() <= 13  # 0.2 of 50, and what has the same time
    assert out.counts["items without training interaction"] == 5


def test_the_boundary_may_be_named_and_has_to_lie_between_interactions(tmp_path):
    _, frame = prepared(tmp_path, valid_share=0.0, boundary=105.0)
    assert (frame["split"] == "test").equals(frame["timestamp"] >= 105)
    assert not (frame["split"] == "valid").any()
    for boundary, where in ((0.0, "before"), (500.0, "after")):
        with pytest.raises(DataError, match=f"leaves no interaction {where} it: times go from 3 to 9.*--boundary"):
            by_period(np.array([3, 9]), boundary=boundary, valid_share=0.0)
    assert by_period(np.array([9, 3, 5]), boundary=5, valid_share=0.0).tolist() == [2, 0, 2]


def test_periods_need_times_and_the_boundary_needs_periods(tmp_path, capsys):
    (tmp_path / "raw.csv").write_text("user_id,item_id\na,b\na,c\n")
    with pytest.raises(DataError, match="split by period needs times.*--column timestamp=NAME"):
        prepare("csv", tmp_path / "raw.csv", tmp_path / "data", k_core=0, split="period")
    with pytest.raises(ConfigError, match="boundary=3 is for split='period'"):
        PrepareSettings(format="csv", boundary=3.0)
    arguments = ["--reviews", str(tmp_path / "raw.csv"), "--out", str(tmp_path / "data"), "--k-core", "0"]
    assert main(["prepare", "csv", *arguments, "--split", "period", "--boundary", "5"]) == 2
    assert "needs times" in capsys.readouterr().err


@pytest.fixture
def data(tmp_path):
    out, _ = prepared(tmp_path, valid_share=0.2)
    return load_interactions(out.interactions, out.items)


def test_unseen_items_are_ranked_among_themselves(data):
    model = build_model("deepfm", data, embedding_dim=4, seed=3)
    found = rank_unseen(model, data).set_index(["user", "item"]).sort_index()
    unseen = [code for code in range(1, data.n_items + 1) if code not in set(data.train["item"])]
    asked = data.test[data.test["item"].isin(unseen)]
    assert len(found) == len(asked) == 20
    held_out = pd.concat([data.valid, data.test])
    for user, item in asked.to_numpy().tolist():
        own = set(held_out.loc[held_out["user"] == user, "item"])
        codes = [item, *(code for code in unseen if code not in own)]
        x = {"user_id": np.full(len(codes), user), "item_id": np.array(codes)}
        score, *rivals = model.predict(x, batch_size=64).ravel().tolist()
        row = found.loc[(user, item)]
        assert (row["above"], row["tied"], row["negatives"]) == (sum(r > score for r in rivals), 0, 3)
        assert row["auc"] == pytest.approx(sum(r < score for r in rivals) / 3)
    some = rank_unseen(model, data, np.array([2, 5]))
    assert some["user"].tolist() == [2, 2, 5, 5]


def test_figures_of_unseen_items_are_means_and_missing_without_such_items(data):
    model = build_model("deepfm", data, embedding_dim=4, seed=3)
    ranking = full_ranking(model, data, "test", verbose=False)
    figures = unseen_metrics(model, data, ranking)
    of_unseen = [row.auc for row in ranking.itertuples() if row.item not in set(data.train["item"])]
    assert figures["auc_unseen"] == pytest.approx(sum(of_unseen) / 20)
    assert figures["n_unseen"] == 20
    assert figures["auc_among_unseen"] == pytest.approx(rank_unseen(model, data)["auc"].mean())
    assert figures["recall@20_among_unseen"] == 1.0  # there are five
    seen = ranking[ranking["item"].isin(data.train["item"])]
    assert unseen_metrics(model, data, seen) == {}
