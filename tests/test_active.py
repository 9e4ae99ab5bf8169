"""Whom to pay for next: what a gain is, who is never chosen, and the command."""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sllmr_plugin import ScoreTable, choose_users, draw_candidates, load_interactions
from sllmr_plugin.cli import main
from sllmr_plugin.errors import CoverageError, CoverageWarning, DataError
from sllmr_plugin.evaluation import active as module
from sllmr_plugin.evaluation.extend import fit_student, student_features
from sllmr_plugin.scores.origin import read_metadata

from .test_extend import planted, rule

SMALL = {"folds": 3, "seed": 0, "budget": 12}


class Fixed(nn.Module):
    """Scores an item by a function of its code."""

    def __init__(self, data, score):
        super().__init__()
        self.feature_index = {"user_id": (0, 1), "item_id": (1, 2)}
        values = [score(code) for code in range(data.n_items + 1)]
        self.values = nn.Parameter(torch.tensor(values, dtype=torch.float32), requires_grad=False)

    def forward(self, rows):
        return self.values[rows[:, 1].long()][:, None]


@pytest.fixture(scope="module")
def world():
    interactions, items, scores = planted(rule)
    data = load_interactions(interactions, items)
    drawn = draw_candidates(data, per_user=8, pool=20).frame
    features, _ = student_features(data)
    return data, scores, drawn, features


@pytest.fixture(scope="module")
def chosen(world):
    data, scores, drawn, features = world
    return choose_users(scores, drawn, data, features=features, **SMALL)


def test_scored_users_are_never_chosen_and_rows_stay_as_they_were(world, chosen):
    data, scores, drawn, _ = world
    ids = chosen.users.loc[chosen.users["chosen"], "user_id"]
    assert len(ids) == ids.nunique() == 12
    assert len(chosen.users) == data.n_users - scores["user_id"].nunique() == 50
    assert not set(chosen.users["user_id"]) & set(scores["user_id"])
    pd.testing.assert_frame_equal(chosen.frame, drawn[drawn["user_id"].isin(ids)].reset_index(drop=True))
    assert chosen.users["gain"].is_monotonic_decreasing
    assert chosen.users["chosen"].tolist() == [True] * 12 + [False] * 38


def test_rounds_never_come_back_to_a_user(world, chosen):
    """Neither to one who has been scored since, nor to one who was proposed and has no answer."""
    data, scores, drawn, features = world
    again = choose_users(scores, drawn, data, features=features, proposed=[chosen.frame], **SMALL)
    assert not set(again.frame["user_id"]) & set(chosen.frame["user_id"])
    answered = chosen.frame.drop(columns="source").assign(score=np.linspace(0, 1, len(chosen.frame)))
    after = choose_users(pd.concat([scores, answered]), drawn, data, features=features, **SMALL)
    assert len(after.users) == 50 - 12
    assert not set(after.frame["user_id"]) & set(chosen.frame["user_id"])


def test_the_same_seed_chooses_the_same_in_any_order_of_rows(world, chosen):
    data, scores, drawn, features = world
    same = choose_users(scores, drawn.sample(frac=1, random_state=3), data, features=features, **SMALL)
    pd.testing.assert_frame_equal(same.users, chosen.users)


def by_hand(world, opinion=None):
    """Return gain of each user who can be chosen, by loops."""
    data, scores, drawn, features = world
    table = ScoreTable.read(scores, user_index=data.user_index, item_index=data.item_index)
    student = fit_student(features, table, data.n_users, folds=3, seed=0)
    popularity = {code: int((data.train["item"] == code).sum()) for code in range(1, data.n_items + 1)}
    history = data.train.groupby("user").size().to_dict()
    rare = sorted(popularity.values())[int(np.ceil(0.1 * data.n_items)) - 1]

    def stratum(user, item):
        return history.get(user, 0) <= 3, popularity[item] <= rare

    asked = scores[scores["kind"] == "candidate"]
    told = [(data.user_index[u], data.item_index[i]) for u, i in zip(asked["user_id"], asked["item_id"], strict=True)]
    could = drawn[(drawn["kind"] == "candidate") & ~drawn["user_id"].isin(scores["user_id"])]
    could = [(data.user_index[u], data.item_index[i]) for u, i in zip(could["user_id"], could["item_id"], strict=True)]
    uncertainty, disagreement = {}, {}
    for user in {user for user, _ in could}:
        items = [item for owner, item in could if owner == user]
        score, spread = student.predict(np.full(len(items), user), np.array(items))
        weighed = []
        for item, value in zip(items, spread, strict=True):
            here = stratum(user, item)
            share = [sum(stratum(*pair) == here for pair in pairs) / len(pairs) for pairs in (could, told)]
            weighed.append(value * min(max(share[0] / max(share[1], 1e-12), 0.2), 5.0))
        uncertainty[user] = np.mean(weighed)
        if opinion is not None:
            apart = 0.0
            pairs = list(combinations(range(len(items)), 2))
            for a, b in pairs:
                if (score[a] - score[b]) * (opinion(items[a]) - opinion(items[b])) < 0:
                    apart += abs(score[a] - score[b])
            disagreement[user] = apart / len(pairs)
    return uncertainty, disagreement


def test_gains_are_what_the_docstring_says(world):
    data, scores, drawn, features = world

    def opinion(code):
        return float((code * 7) % 11)  # with ties

    found = choose_users(scores, drawn, data, features=features, model=Fixed(data, opinion), **SMALL)
    uncertainty, disagreement = by_hand(world, opinion)
    codes = [data.user_index[user] for user in found.users["user_id"]]
    np.testing.assert_allclose(found.users["uncertainty"], [uncertainty[code] for code in codes], rtol=1e-5)
    np.testing.assert_allclose(found.users["disagreement"], [disagreement[code] for code in codes], rtol=1e-5)

    def rank(values, code):
        lower = sum(other < values[code] for other in values.values())
        equal = sum(other == values[code] for other in values.values()) - 1
        return (lower + equal / 2) / (len(values) - 1)

    gains = [(rank(uncertainty, code) + rank(disagreement, code)) / 2 for code in codes]
    np.testing.assert_allclose(found.users["gain"], gains, atol=1e-9)
    assert found.model == "Fixed"
    assert "mean disagreement with Fixed" in str(found)


def test_a_stratum_without_evidence_counts_more(world):
    data, scores, drawn, features = world
    everything = ScoreTable.read(scores, user_index=data.user_index, item_index=data.item_index)
    table, student = everything.candidates, fit_student(features, everything, data.n_users, folds=3, seed=0)
    cold = np.zeros(data.n_users + 1, dtype=bool)
    tail = np.zeros(data.n_items + 1, dtype=bool)
    new = np.setdiff1d(np.arange(1, data.n_users + 1), table.users.numpy())
    cold[new[:5]] = True  # cold users of whom none is scored
    judged = module.UserScores.from_arrays(np.repeat(new, 2), np.tile([1, 2], len(new)), np.zeros(2 * len(new)))
    found, strata = module._gains(judged, table, student, cold, tail)
    assert strata.loc["cold, popular", ["scored", "open", "counts"]].tolist() == [0, 10, 5.0]
    assert strata.loc["warm, popular", "counts"] == pytest.approx(90 / 100)
    plain, _ = module._gains(judged, table, student, np.zeros_like(cold), tail)
    ratio = found["uncertainty"] / plain["uncertainty"]
    assert ratio[:5] == pytest.approx(5.0)
    assert ratio[5:] == pytest.approx(0.9)


def test_nothing_to_choose_is_an_error_and_less_than_the_budget_a_warning(world):
    data, scores, drawn, features = world
    with pytest.raises(CoverageError, match="none of its 40 users can be chosen"):
        choose_users(scores, drawn[drawn["user_id"].isin(scores["user_id"])], data, features=features, **SMALL)
    with pytest.warns(CoverageWarning, match="only 50 users can be chosen, of a budget of 51"):
        found = choose_users(scores, drawn, data, features=features, **{**SMALL, "budget": 51})
    assert found.users["chosen"].all()
    assert "50 of 50 users chosen" in str(found)
    few = scores[scores["user_id"].isin(scores["user_id"].unique()[:2])]
    with pytest.raises(CoverageError, match="has scores of 2 users, and folds=3"):
        choose_users(few, drawn, data, features=features, **SMALL)
    with pytest.raises(DataError, match="1 rows have a user or an item that"):
        choose_users(scores, drawn.assign(item_id=["?", *drawn["item_id"][1:]]), data, features=features, **SMALL)


def test_the_command_writes_candidates_that_can_be_scored(tmp_path, capsys):
    interactions, items, scores = planted(rule)
    files = {"interactions": interactions, "items": items, "scores": scores}
    for name, frame in files.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    given = [word for name in files for word in (f"--{name}", str(tmp_path / f"{name}.csv"))]
    small = ["--per-user", "8", "--pool", "20", "--budget", "10"]
    out = tmp_path / "next.parquet"
    assert main(["candidates", *given, *small, "--active", "--out", str(out)]) == 0
    assert "10 of 50 users chosen" in capsys.readouterr().out
    first = pd.read_parquet(out)
    assert list(first.columns) == ["user_id", "item_id", "kind", "source"]
    assert first["user_id"].nunique() == 10
    assert read_metadata(out)["active"] == {**asdict(module.ActiveSettings(budget=10)), "model": ""}
    more = [*given, *small, "--active", "--proposed", str(out), "--out", str(tmp_path / "third.parquet")]
    assert main(["candidates", *more]) == 0
    assert not set(pd.read_parquet(tmp_path / "third.parquet")["user_id"]) & set(first["user_id"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--active"], "give it with --scores"),
        (["--scores", "s.parquet"], "--scores is of --active"),
        (["--text-model", "use"], "--text-model is of --active"),
        (["--budget", "500"], "--budget is of --active"),
    ],
)
def test_flags_that_do_not_go_together(flags, message, tmp_path, capsys):
    given = ["--interactions", "a.csv", "--items", "b.csv", "--out", str(tmp_path / "c.parquet")]
    assert main(["candidates", *given, *flags]) != 0
    assert message in capsys.readouterr().err
