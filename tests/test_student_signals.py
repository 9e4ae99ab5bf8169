"""What the fitted gate sees of an extended table: whose a score is, and how far the students of its folds differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import sllmr_plugin
from sllmr_plugin import ScoreTable, SelectiveConfig, SLLMRError
from sllmr_plugin.errors import ScoreTableError
from sllmr_plugin.regularizer.gates import BilevelGate, DisagreementGate, build_gate
from sllmr_plugin.regularizer.pairs import OrderedPairs
from sllmr_plugin.regularizer.signals import PAIR_SIGNALS, STUDENT_SIGNALS, Entries, PairSignals, student_signals
from sllmr_plugin.training.probes import ProbePairs
from sllmr_plugin.training.session import TrainingSession
from sllmr_plugin.training.view import _usual_spread

from .matrix import backbones as zoo
from .small_table import ITEM, USER, score_rows, usable

NAN = float("nan")
ROWS = pd.DataFrame(
    {
        "user_id": [2, 0, 0, 1, 2, 2],
        "item_id": [3, 5, 1, 0, 1, 4],
        "score": [0.5, 0.25, 0.75, 1.0, 0.125, 0.875],
        "kind": ["candidate"] * 4 + ["probe"] * 2,
        "source": ["student", "llm", "student", "llm", "student", "llm"],
        "spread": [0.125, 0.25, NAN, NAN, 0.0625, 0.5],
    }
)
# by user and item; the LLM's own spread, over its repeats, is something else, and a missing one of a student is 0
CANDIDATES, PROBES = [0.0, NAN, NAN, 0.125], [0.0625, NAN]


def same(found, expected):
    np.testing.assert_array_equal(found.numpy(), np.array(expected, dtype=np.float32))


# ---------------------------------------------------------------------- the table


@pytest.mark.parametrize("form", ["frame", "csv", "folder"])
def test_the_table_has_the_spread_of_a_students_scores(form, tmp_path):
    source = ROWS
    if form == "csv":
        source = tmp_path / "scores.csv"
        ROWS.to_csv(source, index=False)
    if form == "folder":
        ROWS.to_parquet(tmp_path / "scores.parquet")
        ScoreTable.build(tmp_path / "scores.parquet", source := tmp_path / "table")
    table = ScoreTable.read(source)
    assert table.has_students
    same(table.candidates.spread, CANDIDATES)
    same(table.probes.spread, PROBES)
    some = table.candidates.select(torch.tensor([True, False, False, True]))
    same(some.spread, [0.0, 0.125])


@pytest.mark.parametrize("rows", [ROWS.drop(columns="source"), ROWS.assign(source="llm")], ids=["no column", "llm"])
def test_a_table_without_a_student_has_none(rows, tmp_path):
    rows.to_parquet(tmp_path / "scores.parquet")
    for table in (ScoreTable.read(rows), ScoreTable.build(tmp_path / "scores.parquet", tmp_path / "table")):
        assert not table.has_students
        assert table.candidates.spread is None
        assert table.probes.spread is None


def test_an_impossible_spread_of_a_student_is_refused_and_that_of_the_llm_is_not_looked_at():
    ScoreTable.read(ROWS.assign(spread=[0.1, 7.0, 0.1, 7.0, 0.1, 7.0]))
    with pytest.raises(ScoreTableError, match=r"row 2 .*: spread is 7\.0; write the deviation"):
        ScoreTable.read(ROWS.assign(spread=[0.1, 0.1, 7.0, 0.1, 0.1, 0.1]))


# ---------------------------------------------------------------------- the signals


def test_signals_of_scores_and_of_pairs():
    of_scores = student_signals(torch.tensor([NAN, 0.0, 0.1, 0.3]), 0.1)
    assert of_scores.flatten().tolist() == pytest.approx([0, 0, 1, 0, 1, 0.5, 1, 0.75])
    nobody = torch.zeros(4, dtype=torch.bool)
    entries = Entries(torch.tensor([0.9, 0.7, 0.4, 0.2]), nobody, nobody, student=of_scores)
    pairs = OrderedPairs(torch.tensor([0, 1]), torch.tensor([2, 3]))
    signals = PairSignals.of(entries, None, pairs, like=torch.zeros(0))
    assert signals.design().shape == (2, 4)
    expected = [[0, 0, 0, 0.5, 0.5, 0.25], [0, 0, 0, 0.5, 1, 0.375]]
    np.testing.assert_allclose(signals.design(student=True).numpy(), expected, atol=1e-6)
    own = replace(signals, student=None).design(student=True)
    np.testing.assert_allclose(own.numpy(), np.array(expected) * [1, 1, 1, 1, 0, 0], atol=1e-6)


def with_students(seed=0):
    """Return the small table with spreads of some of its scores."""
    rng = np.random.default_rng(seed)
    parts = usable()

    def some(n):
        return torch.tensor(np.where(rng.random(n) < 0.5, rng.random(n) / 4, NAN), dtype=torch.float32)

    table = replace(parts.candidates.table, spread=some(len(parts.candidates.table)))
    return replace(
        parts,
        candidates=replace(parts.candidates, table=table),
        probes=replace(parts.probes, spread=some(len(parts.probes))),
        usual_spread=_usual_spread(table),
    )


def by_hand(parts, group, user, item):
    table = parts.candidates.table
    spreads = [value for value in table.spread.tolist() if value == value]
    usual = sum(spreads) / len(spreads)
    owner = group.users[group.user_of_entry].tolist()
    pairs = list(zip(owner, group.items.tolist(), strict=True))
    spread = group.spread[pairs.index((user, item))].item()
    return [0.0, 0.0] if spread != spread else [1.0, spread / (spread + usual)]


def test_steps_and_probes_carry_them():
    parts = with_students()
    table = parts.candidates.table
    config = SelectiveConfig(users_per_step=100, candidates_per_user=100, pairs_per_user=1000)
    gate = build_gate("disagreement", has_probes=True, has_students=True)
    session = TrainingSession(config, gate, parts, user_column=USER, item_column=ITEM, score_rows=score_rows, seed=0)
    session.begin_epoch(0)
    session._shutter = None  # so that pairs which the gate is closed for are in the plan
    plan = session.plan(torch.zeros(4, 4))
    expected = [by_hand(parts, table, int(row[USER]), int(row[ITEM])) for row in plan.rows]
    np.testing.assert_allclose(plan.entries.student.numpy(), expected, atol=1e-6)
    assert plan.entries.student[:, 0].unique().tolist() == [0, 1]

    pairs = ProbePairs.of(parts)
    for k, (user, probe, item) in enumerate(pairs.keys.tolist()):
        mine = by_hand(parts, parts.probes, user, probe), by_hand(parts, table, user, item)
        found = pairs.entries.student[pairs.probe[k]], pairs.entries.student[pairs.candidate[k]]
        np.testing.assert_allclose(torch.stack(found).numpy(), mine, atol=1e-6)
    assert ProbePairs.of(usable()).entries.student is None


def test_the_usual_spread_is_the_mean_over_the_students_candidates():
    table = ScoreTable.read(ROWS).candidates
    assert _usual_spread(table) == pytest.approx((0.0 + 0.125) / 2)
    assert _usual_spread(replace(table, spread=torch.full((4,), NAN))) == 1.0
    assert _usual_spread(replace(table, spread=None)) == 1.0


# ---------------------------------------------------------------------- the gate


def disagreements(right, n=1200, seed=0):
    """Return pairs of 300 users, half of them a student's; `right(of_student, spread)` is the chance of being right."""
    rng = np.random.default_rng(seed)
    of_student = rng.random(n) < 0.5
    spread = rng.random(n) * of_student
    z = rng.random((n, 3))
    gap = rng.random(n)
    parts = (torch.tensor(part, dtype=torch.float32) for part in (z, z, gap))
    student = torch.tensor(np.stack([of_student, spread], axis=1), dtype=torch.float32)
    is_right = torch.from_numpy(rng.random(n) < right(of_student, spread))
    return PairSignals(*parts, student=student), is_right, torch.from_numpy(np.arange(n) % 300)


def test_the_gate_follows_the_llm_and_not_a_student_that_is_wrong():
    signals, right, user = disagreements(lambda of_student, spread: np.where(of_student, 0.2, 0.9))
    blind, seeing = (build_gate("disagreement", has_probes=True, has_students=sees) for sees in (False, True))
    of_student = signals.student[:, 0] == 1
    for gate in (blind, seeing):
        gate.fit(signals, right, user)
    assert list(seeing.coefficients()) == [*PAIR_SIGNALS, *STUDENT_SIGNALS, "bias"]
    assert list(blind.coefficients()) == [*PAIR_SIGNALS, "bias"]
    assert seeing(signals)[of_student].max() == 0
    assert seeing(signals)[~of_student].mean() > 0.5
    assert abs(blind(signals)[of_student].mean() - blind(signals)[~of_student].mean()) < 0.05


def test_the_gate_closes_where_the_students_differ():
    signals, right, user = disagreements(lambda of_student, spread: np.where(of_student, 1 - spread, 0.9))
    gate = build_gate("disagreement", has_probes=True, has_students=True)
    gate.fit(signals, right, user)
    assert gate.coefficients()["spread"] < -1
    sure = replace(signals, student=signals.student * torch.tensor([1.0, 0.0]))
    of_student = signals.student[:, 0] == 1
    assert gate(sure)[of_student].mean() > gate(signals)[of_student].mean() + 0.2


def test_only_the_fitted_gate_sees_them():
    assert build_gate("bilevel", has_probes=True, has_students=True).weight.shape == BilevelGate().weight.shape
    own = DisagreementGate()
    assert build_gate(own, has_probes=True, has_students=True).weight.shape == (6,)
    assert own.weight.shape == (4,)


def test_a_trained_gate_is_saved_with_its_table_and_refused_with_another(tmp_path):
    backbone = next(one for one in zoo.BACKBONES if one.name == "DeepFM")
    frame = zoo.score_frame()
    frame.loc[frame.groupby("user_id").tail(1).index, ["kind", "score"]] = ["probe", 0.99]
    extended = frame.assign(source=np.where(np.arange(len(frame)) % 2, "student", "llm"), spread=0.1)
    model = zoo.wrapped(backbone, zoo.build(backbone), SelectiveConfig(weight=0.5), extended)
    zoo.compile_model(backbone, model)
    history = zoo.fit(backbone, model, epochs=2).history
    assert history["sllmr_gate_w_student"][-1] == model.sllmr.gate.coefficients()["student"] != 0
    model.sllmr.save(tmp_path)
    again = sllmr_plugin.load(zoo.build(backbone), tmp_path)
    assert again.sllmr.gate.coefficients() == model.sllmr.gate.coefficients()
    np.testing.assert_array_equal(again.sllmr.table.candidates.spread, model.sllmr.table.candidates.spread)
    plain = zoo.wrapped(backbone, zoo.build(backbone), SelectiveConfig(weight=0.5), frame)
    with pytest.raises(SLLMRError, match="a gate of other signals"):
        plain.sllmr.load(tmp_path)
