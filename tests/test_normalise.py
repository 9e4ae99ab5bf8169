"""Scores of each user on a scale of their own, against a loop over users."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin.config import SelectiveConfig
from sllmr_plugin.scores.normalise import normalise, normalised
from sllmr_plugin.scores.table import ScoreTable

from .matrix import backbones as zoo

DEEPFM = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")
SCORES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), max_size=25)


def by_hand(own, norm):
    """Return the normalised scores of one user."""
    if len(set(own)) == 1:
        return [0.5] * len(own)
    if norm == "minmax":
        return [(t - min(own)) / (max(own) - min(own)) for t in own]
    return [(sum(o < t for o in own) + (own.count(t) - 1) / 2) / (len(own) - 1) for t in own]


@given(SCORES, st.sampled_from(["rank", "minmax"]), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=200, deadline=None)
def test_it_is_what_a_loop_over_users_gives(pairs, norm, dtype):
    users = torch.tensor([user for user, _ in pairs], dtype=torch.int64) * 10**12
    scores = torch.tensor([score for _, score in pairs], dtype=dtype) / 8
    found = normalise(scores, users, norm)
    assert found.dtype == dtype
    for user in users.unique():
        own = users == user
        assert found[own].tolist() == pytest.approx(by_hand(scores[own].tolist(), norm))
        # no pair appears, goes or is turned round
        before, after = (values[own][:, None] - values[own] for values in (scores, found))
        assert torch.equal(before.sign(), after.sign())


def test_none_is_the_scores_themselves():
    scores = torch.rand(3)
    assert normalise(scores, torch.arange(3), "none") is scores


@pytest.mark.parametrize("norm", ["rank", "minmax"])
def test_neighbouring_floats_do_not_become_ties(norm):
    values = [0.1, 0.25, 0.3333, 0.5, 0.9]
    scores = torch.tensor([x for t in values for x in (np.float32(t), np.nextafter(np.float32(t), np.float32(1)))])
    found = normalise(scores, torch.zeros(len(scores), dtype=torch.int64), norm)
    assert (found.diff() > 0).all()


@pytest.mark.parametrize("in_folder", [False, True])
def test_candidates_and_probes_of_a_user_are_on_one_scale(tmp_path, in_folder):
    rows = [(1, 0, 0.25, "candidate"), (1, 1, 0.5, "candidate"), (1, 2, 0.75, "probe"), (2, 0, 0.5, "candidate")]
    rows += [(2, 3, 0.5, "candidate"), (3, 1, 0.1, "probe"), (4, 5, 0.875, "candidate"), (4, 6, 0.625, "candidate")]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "score", "kind"])
    frame.to_parquet(tmp_path / "scores.parquet")
    table = ScoreTable.read(frame)
    if in_folder:
        table = ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "table")
    for norm in ("rank", "minmax"):
        candidates, probes = normalised(table.candidates, table.probes, norm)
        assert candidates.scores.tolist() == [0.0, 0.5, 0.5, 0.5, 1.0, 0.0]
        assert probes.scores.tolist() == [1.0, 0.5]
        assert torch.equal(candidates.items, table.candidates.items)
        assert torch.equal(candidates.offsets, table.candidates.offsets)
    assert table.candidates.scores.tolist() == [0.25, 0.5, 0.5, 0.5, 0.875, 0.625]


@pytest.mark.parametrize("fields", [{"gate": "disagreement"}, {"loss": "mse"}])
@pytest.mark.parametrize("norm", ["rank", "minmax"])
def test_a_training_is_that_of_a_table_whose_scores_were_normalised_before(norm, fields):
    frame = zoo.score_frame()
    frame["score"] = (frame["score"] * 16).round() / 16 * 0.5 + frame["user_id"] % 3 / 8
    last = frame.groupby("user_id").tail(1).index
    frame.loc[last, ["score", "kind"]] = [0.875, "probe"]  # an LLM that is right, so that the gate opens
    frame.loc[frame["user_id"] == 4, "score"] = 0.25
    before = frame.copy()
    for rows in frame.groupby("user_id").groups.values():
        before.loc[rows, "score"] = by_hand(frame.loc[rows, "score"].tolist(), norm)

    def history(scores, **norm):
        config = SelectiveConfig(weight=0.5, seed=1, **fields, **norm)
        model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), config, scores)
        zoo.compile_model(DEEPFM, model)
        return zoo.fit(DEEPFM, model).history, model

    (logs, model), (expected, _) = history(frame, score_norm=norm), history(before)
    assert {name: values for name, values in logs.items() if name.startswith("sllmr")} == {
        name: values for name, values in expected.items() if name.startswith("sllmr")
    }
    assert logs["sllmr_loss"] != history(frame)[0]["sllmr_loss"]
    assert model.sllmr.table.candidates.scores.max() < 1  # the table itself stays
