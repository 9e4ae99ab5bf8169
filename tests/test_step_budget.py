"""`step_budget`: users a step from the time of steps, by a clock of the test's own."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import sllmr_plugin
from sllmr_plugin import SelectiveConfig
from sllmr_plugin.errors import ConfigError, StepBudgetWarning
from sllmr_plugin.parallel.ranks import Ranks
from sllmr_plugin.regularizer.gates import OpenGate
from sllmr_plugin.training.budget import TIMED, StepBudget
from sllmr_plugin.training.session import TrainingSession

from .matrix import backbones as zoo
from .small_table import ITEM, USER, many, score_rows, usable

CPU = torch.device("cpu")
STEPS = 4 + TIMED  # until it is decided


class Machine:
    """Steps take `plain` seconds and `per_user` more for each user, unless they are slow once in a while."""

    def __init__(self, plain, per_user, budget, hiccup=0.0):
        self.plain, self.per_user, self.hiccup = plain, per_user, hiccup
        self.now, self.drawn = 0.0, []
        self.budget = StepBudget(budget, clock=lambda: self.now)

    def step(self, most=64):
        n_users = self.budget.users(most, CPU, Ranks())
        self.drawn.append(n_users)
        self.now += self.plain + self.per_user * n_users + (self.hiccup if len(self.drawn) % 7 == 0 else 0)
        return n_users

    def run(self, steps=STEPS + 1, most=64):
        return [self.step(most) for _ in range(steps)]


@pytest.mark.parametrize(
    ("plain", "per_user", "budget", "users"),
    [
        (0.010, 0.0001, 1.1, 8),  # 0.001 s are 10 users, and 8 is the power of two below
        (0.010, 0.0001, 1.161, 16),
        (0.010, 0.0001, 1.159, 8),
        (0.010, 0.0001, 1.7, 64),  # 70 would fit, and 64 are drawn without a budget
        (0.010, 0.0001, 1.5, 32),
        (0.010, 0.0, 1.01, 64),
        (0.010, 0.001, 1.1001, 1),
        (0.010, -0.00005, 1.01, 64),  # noise
    ],
)
def test_users_are_what_the_budget_pays_for(plain, per_user, budget, users):
    machine = Machine(plain, per_user, budget)
    drawn = machine.run()
    assert drawn[:STEPS] == [64, 16] * (STEPS // 2)
    assert drawn[STEPS:] == [users]
    cost = machine.budget.cost
    if per_user >= 0:
        assert (cost.plain, cost.per_user) == (pytest.approx(plain), pytest.approx(per_user, abs=1e-12))
        assert cost.share == pytest.approx(1 + users * per_user / plain)
        assert cost.share <= max(budget, 1 + per_user / plain)


def test_slow_steps_now_and_then_change_nothing():
    assert Machine(0.01, 0.0001, 1.1, hiccup=5.0).run()[-1] == 8


def test_one_user_is_drawn_and_a_warning_given_where_the_budget_pays_for_none():
    machine = Machine(0.010, 0.002, 1.1)
    machine.run(STEPS)
    with pytest.warns(StepBudgetWarning, match=r"takes 1\.2 times as long .* step_budget=1\.1 allows less"):
        assert machine.step() == 1


def test_few_users_are_enough_to_decide():
    machine = Machine(0.01, 0.0001, 1.1)
    assert machine.run(most=1)[-1] == 1
    assert Machine(0.01, 0.0001, 1.031).run(most=5)[-1] == 2  # 3.1 users


def test_a_pause_is_not_part_of_a_step():
    machine = Machine(0.01, 0.0001, 1.1)
    for _ in range(STEPS + 10):
        machine.step()
        machine.budget.pause()
        machine.now += 100
    assert machine.budget.n_timed == 0  # each step ended in a pause
    machine.run()
    assert machine.budget.cost.users == 8


def test_the_steps_that_are_timed_do_not_depend_on_time_and_a_decision_holds():
    fast, slow = Machine(0.01, 0.0001, 1.1), Machine(0.01, 0.001, 1.25)
    assert fast.run(STEPS) == slow.run(STEPS)
    assert (fast.step(), slow.step()) == (8, 2)
    fast.per_user = 1.0
    assert set(fast.run(100)) == {8}
    assert fast.step(most=3) == 3  # a short batch at the end


def test_the_session_draws_them():
    machine = Machine(0.01, 0.001, 1.25)
    config = SelectiveConfig(gate="none", step_budget=1.25, weight=0.5)
    session = TrainingSession(
        config,
        OpenGate(),
        usable(*many(0)),
        user_column=USER,
        item_column=ITEM,
        score_rows=score_rows,
        seed=0,
        budget=machine.budget,
    )
    session.begin_epoch(0)
    drawn = []
    for _ in range(STEPS + 3):
        plan = session.plan(torch.zeros(64, 4))
        drawn.append(len(plan.entries.user.unique()))
        machine.now += 0.01 + 0.001 * drawn[-1]
    assert drawn == [4, 1] * (STEPS // 2) + [2, 2, 2]  # a user for every 16 rows, and 2.5 for a quarter of 0.01 s


# ---------------------------------------------------------------------- settings, status, files


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_budget": 1.0}, "step_budget"),
        ({"step_budget": 1.1, "users_per_step": 8}, "both decide the users of a step"),
        ({"step_budget": 1.1, "user_source": "batch"}, "use user_source='table'"),
        ({"step_budget": 1.1, "every_steps": 2}, "some without pairs"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ConfigError, match=message):
        SelectiveConfig(**settings)


def test_the_decision_is_shown_saved_and_kept(tmp_path):
    backbone = next(one for one in zoo.BACKBONES if one.name == "DeepFM")
    config = SelectiveConfig(gate="none", step_budget=1.5)
    model = zoo.wrapped(backbone, zoo.build(backbone), config, zoo.score_frame())
    zoo.compile_model(backbone, model)
    assert "step budget: 1.5, not decided yet" in str(model.sllmr.status())
    with pytest.warns(StepBudgetWarning, match=r"step_budget=1\.5 is not decided yet: fit ended after"):
        zoo.fit(backbone, model, epochs=1)
    machine = Machine(0.010, 0.001, 1.5)
    machine.run()
    model.sllmr.budget = machine.budget  # decided by the test's clock
    with warnings.catch_warnings():
        warnings.simplefilter("error", StepBudgetWarning)
        zoo.fit(backbone, model, epochs=1)
    assert "step budget: 1.5, 4 users a step (10 ms without them, 1 ms a user)" in str(model.sllmr.status())
    model.sllmr.budget = StepBudget(1.5)
    model.sllmr.budget.restore(machine.budget.to_json())  # without the test's clock, which cannot be copied
    model.sllmr.save(tmp_path)
    for again in (sllmr_plugin.load(zoo.build(backbone), tmp_path), copy.deepcopy(model)):
        assert again.sllmr.budget.cost == machine.budget.cost
    model.sllmr.configure(weight=0.1)
    assert model.sllmr.budget.cost == machine.budget.cost
    model.sllmr.configure(step_budget=1.2)
    assert model.sllmr.budget.cost is None
    model.sllmr.configure(step_budget=None)
    assert model.sllmr.budget is None
    assert model.sllmr.status().step_budget == ""
