"""A training session with a hand-made backbone: rows, pairs, losses, account and gate, against loops."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sllmr_plugin.config import SelectiveConfig
from sllmr_plugin.errors import (
    CoverageWarning,
    GateCollapsedWarning,
    HookNeverFiredError,
    InactiveWarning,
    NoPairsError,
)
from sllmr_plugin.regularizer.gates import BilevelGate, DisagreementGate, build_gate
from sllmr_plugin.regularizer.signals import REGIONS
from sllmr_plugin.training.session import TrainingSession

from .small_table import (
    CANDIDATES,
    COLD,
    CONTEXT,
    ITEM,
    N_ITEMS,
    N_USERS,
    PROBES,
    TAIL,
    USER,
    disagreements,
    evidence,
    importance_by_hand,
    many,
    probe_pairs,
    row_of,
    score,
    score_rows,
    usable,
)

ROOMY = {"users_per_step": 100, "candidates_per_user": 100, "pairs_per_user": 1000}


def session_of(parts=None, fitted=None, seed=0, mode="global", **settings):
    """Open an epoch's session; `fitted` is a gate of the test's own."""
    config = SelectiveConfig.of_mode(mode, {"weight": 0.5, **ROOMY, **settings})
    parts = usable() if parts is None else parts
    gate = fitted
    if gate is None:
        gate = build_gate(config.gate if config.gated else "none", has_probes=len(parts.probes) > 0)
    session = TrainingSession(config, gate, parts, user_column=USER, item_column=ITEM, score_rows=score_rows, seed=seed)
    session.begin_epoch(0)
    return session


def batch_of(*pairs, context=None):
    return torch.tensor([row_of(user, item, context) for user, item in pairs])


BATCH = batch_of((1, 3), (4, 4), (5, 5), (1, 5), (0, 1), (5, 1), (5, 11))


def run_step(session, batch=BATCH):
    """Do what a backend does: plan, one forward pass, add. Returns plan and input rows, batch first."""
    plan = session.plan(batch)
    rows = torch.cat([batch, plan.rows])
    logit = score(rows)
    session.add(plan, logit[plan.source], logit.sigmoid()[plan.source], None, len(batch))
    return plan, rows


def entries_of(plan, batch=BATCH):
    """Read back (user, item) of the plan's entries from the input rows that they point at."""
    rows = torch.cat([batch, plan.rows])[plan.source]
    return [(int(user), int(item)) for user, item in rows[:, [USER, ITEM]].tolist()]


def ordered_pairs(candidates, users=None):
    """All ((user, preferred item), (user, other item)) of some users."""
    return {
        ((user, i), (user, j))
        for user, items in candidates.items()
        if users is None or user in users
        for i, j in itertools.permutations(items, 2)
        if items[i] > items[j]
    }


def pairs_of(plan, batch=BATCH):
    entries = entries_of(plan, batch)
    return [(entries[i], entries[j]) for i, j in zip(plan.pairs.preferred, plan.pairs.other, strict=True)]


# ---------------------------------------------------------------------- rows and pairs of a step


@pytest.mark.parametrize("rule", ["largest", "uniform", "gap_weighted"])
def test_with_room_for_all_a_step_holds_every_pair_of_the_table(rule):
    plan = session_of(pair_rule=rule).plan(BATCH)
    pairs = pairs_of(plan)
    assert set(pairs) == ordered_pairs(CANDIDATES)
    assert len(pairs) == len(set(pairs))


def test_pairs_of_a_step_can_compete_with_those_of_all_users():
    pairs = pairs_of(session_of(pair_scope="batch", pairs_per_step=4).plan(BATCH))
    gap = {pair: CANDIDATES[pair[0][0]][pair[0][1]] - CANDIDATES[pair[1][0]][pair[1][1]] for pair in pairs}
    every = [CANDIDATES[i[0]][i[1]] - CANDIDATES[j[0]][j[1]] for i, j in ordered_pairs(CANDIDATES)]
    assert set(pairs) <= ordered_pairs(CANDIDATES)
    assert sorted(gap.values()) == pytest.approx(sorted(every)[-4:])


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_the_users_template_with_the_candidates_columns(seed):
    session = session_of(seed=seed, users_per_step=3, candidates_per_user=4, pairs_per_user=2, pair_rule="uniform")
    for _ in range(4):
        plan = session.plan(BATCH)
        entries = entries_of(plan)
        assert plan.rows.tolist() == [row_of(user, item) for user, item in entries]
        assert plan.source.tolist() == list(range(len(BATCH), len(BATCH) + len(entries)))
        assert plan.entries.llm.tolist() == pytest.approx([CANDIDATES[user][item] for user, item in entries])
        assert plan.entries.cold.tolist() == [COLD[user] for user, _ in entries]
        assert plan.entries.tail.tolist() == [TAIL[item] for _, item in entries]
        assert len(entries) == len(set(entries))
        # every row is there for a pair, and pairs are the LLM's, within K a user
        pairs = pairs_of(plan)
        assert set(pairs) <= ordered_pairs(CANDIDATES)
        assert set(entries) == {entry for pair in pairs for entry in pair}
        per_user = [sum(pair[0][0] == user for pair in pairs) for user in {user for user, _ in entries}]
        assert max(per_user) <= 2
        assert len(per_user) <= 3


@pytest.mark.parametrize("mode", ["pointwise_mse", "pointwise_bce", "kd"])
@pytest.mark.parametrize(("pairs_per_user", "most"), [(3, 4), (2, 4), (1, 2)])  # as many items as the pairs would have
def test_pointwise_modes_take_single_items(mode, pairs_per_user, most):
    session = session_of(mode=mode, pairs_per_user=pairs_per_user, candidates_per_user=4)
    plan, _ = run_step(session)
    entries = entries_of(plan)
    counts = {user: sum(owner == user for owner, _ in entries) for user in CANDIDATES}
    assert counts == {user: min(most, len(items)) for user, items in CANDIDATES.items()}
    assert len(plan.pairs) == 0
    session.take_loss()
    assert session.end_epoch()["sllmr_pairs"] == len(entries)


def test_users_of_the_batch_bring_their_own_template():
    batch = batch_of((5, 5), (4, 4), (1, 3), (5, 7), context=7.0)
    batch[3, CONTEXT] = 8.0  # the last row of user 5
    plan = session_of(user_source="batch").plan(batch)
    assert set(pairs_of(plan, batch)) == ordered_pairs(CANDIDATES, {1, 5})  # user 4 has no scores
    context = {1: 7.0, 5: 8.0}
    assert plan.rows.tolist() == [row_of(user, item, context[user]) for user, item in entries_of(plan, batch)]


def test_users_of_a_large_batch_are_sampled():
    batch = batch_of(*((user, 1) for user in CANDIDATES))
    session = session_of(user_source="batch", users_per_step=2)
    drawn = [frozenset(user for user, _ in entries_of(session.plan(batch), batch)) for _ in range(30)]
    assert all(len(users) <= 2 for users in drawn)
    assert set().union(*drawn) == {user for (user, _), _ in ordered_pairs(CANDIDATES)}


def test_a_batch_without_any_scored_user_adds_nothing():
    session = session_of(user_source="batch", in_batch_pairs=True)
    batch = batch_of((4, 4), (0, 1))
    plan, rows = run_step(session, batch)
    assert len(plan.pairs) == len(plan.source) == len(plan.rows) == 0
    assert rows.shape == (2, 4)
    assert session.take_loss().item() == 0


def test_pairs_within_the_batch_are_those_of_a_double_loop():
    batch = batch_of(
        (1, 3), (5, 4), (1, 5), (5, 2), (9, 4), (2, 2), (1, 4), (1, 3), (4, 4), (5, 8), (2, 4), (1, 7), (5, 1)
    )
    session = session_of(in_batch_pairs=True, users_per_step=1, pairs_per_user=1000)
    plan = session.plan(batch)
    found = {
        (int(plan.source[i]), int(plan.source[j]))
        for i, j in zip(plan.pairs.preferred, plan.pairs.other, strict=True)
        if plan.source[i] < len(batch)
    }
    expected = set()
    for i, j in itertools.permutations(range(len(batch)), 2):
        (u, a), (v, b) = batch[i, :2].int().tolist(), batch[j, :2].int().tolist()
        scores = CANDIDATES.get(u, {})
        if u == v and a in scores and b in scores and scores[a] > scores[b]:
            expected.add((i, j))
    assert found == expected
    assert len(expected) == 9
    for number, (user, item) in enumerate(entries_of(plan, batch)):
        assert plan.entries.llm[number].item() == pytest.approx(CANDIDATES[user][item])
        assert plan.entries.cold[number] == COLD[user]
        assert plan.entries.tail[number] == TAIL[item]


def test_a_plan_lies_where_the_batch_lies():
    plan = session_of(in_batch_pairs=False).plan(BATCH.to("meta"))
    tensors = [plan.rows, plan.source, plan.pairs.preferred, plan.pairs.other]
    tensors += [plan.entries.llm, plan.entries.cold, plan.entries.tail]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_the_seed_decides_and_torchs_own_generator_is_left_alone():
    def rows(seed):
        session = session_of(seed=seed, users_per_step=2, candidates_per_user=3, pairs_per_user=2)
        return torch.cat([session.plan(BATCH).rows for _ in range(4)])

    before = torch.get_rng_state()
    assert torch.equal(rows(1), rows(1))
    assert rows(1).tolist() != rows(2).tolist()
    assert rows(2**64 + 5).shape[1] == 4  # torch.initial_seed() can be as large as that
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------------- the loss of a step


@pytest.mark.parametrize("scale", ["batch_mean", "pair_sum"])
@pytest.mark.parametrize("space", ["logit", "probability"])
@pytest.mark.parametrize("loss", ["ranknet", "hinge"])
def test_the_loss_handed_out_is_weight_times_scale_times_mean(scale, space, loss):
    session = session_of(mode="gated", gate="fixed", weight_scale=scale, score_space=space, loss=loss, margin=0.3)
    _, rows = run_step(session)
    total, n = 0.0, 0
    for (user, i), (_, j) in ordered_pairs(CANDIDATES):
        s = [score(torch.tensor([row_of(user, item)])).item() for item in (i, j)]
        if space == "probability":
            s = [1 / (1 + math.exp(-x)) for x in s]
        margin = 0.3 - (s[0] - s[1])
        value = max(0.0, margin) if loss == "hinge" else math.log1p(math.exp(margin))
        total += value * (max(COLD[user], TAIL[i]) + max(COLD[user], TAIL[j])) / 2
        n += 1
    expected = 0.5 * (len(BATCH) * total / n if scale == "batch_mean" else total)
    assert session.take_loss().item() == pytest.approx(expected, rel=1e-5)
    assert rows.shape == (
        len(BATCH) + sum(len({i for p in ordered_pairs(CANDIDATES, {u}) for _, i in p}) for u in CANDIDATES),
        4,
    )


def test_a_loss_is_handed_out_once():
    session = session_of()
    assert session.take_loss() is None
    run_step(session)
    assert session.take_loss() is not None
    assert session.take_loss() is None


# ---------------------------------------------------------------------- epochs


def test_warm_up_and_decay_set_the_weight_of_an_epoch():
    session = session_of(weight=0.8, warmup_epochs=2, decay=0.5)
    weights = []
    for epoch in range(5):
        session.begin_epoch(epoch)
        weights.append(session.weight)
        if epoch < 2:  # the forward pass is the plain model's
            assert session.plan(BATCH) is None
            assert session.take_loss() is None
            idle = session.end_epoch()
            assert (idle["sllmr_pairs"], idle["sllmr_coverage"]) == (0, 0)
            assert all(math.isnan(idle[key]) for key in idle if key not in ("sllmr_pairs", "sllmr_coverage"))
    assert weights == [0.0, 0.0, 0.8, 0.4, 0.2]
    run_step(session)
    late = session.take_loss().item()
    assert set(session.end_epoch()) == set(idle)  # so the history has a value an epoch
    session.begin_epoch(2)
    run_step(session)
    assert session.take_loss().item() == pytest.approx(4 * late)


def test_pairs_can_wait_for_every_third_step_and_weigh_three_times_as_much():
    each, third = session_of(), session_of(every_steps=3)
    for _ in range(2):  # an epoch begins with pairs
        each.begin_epoch(0)
        third.begin_epoch(0)
        for step in range(7):
            if step % 3:
                assert third.plan(BATCH) is None
                assert third.take_loss() is None
                continue
            plan, _ = run_step(each)
            of_third, _ = run_step(third)
            assert torch.equal(plan.rows, of_third.rows)
            assert third.take_loss().item() == pytest.approx(3 * each.take_loss().item())
        assert third.end_epoch() == each.end_epoch()


FIXED = {
    "mode": "gated",
    "gate": "fixed",
    "users_per_step": 2,
    "candidates_per_user": 4,
    "pairs_per_user": 2,
    "weight_scale": "pair_sum",
}


def test_the_account_of_an_epoch():
    session = session_of(**FIXED)
    session._shutter = None  # so that all pairs are in the plans
    losses, counts, users = [], [], set()
    alphas = {region: [] for region in REGIONS}
    for _ in range(3):
        plan, _ = run_step(session)
        pairs = pairs_of(plan)
        losses.append(session.take_loss().item() / 0.5 / max(len(pairs), 1))
        counts.append(len(pairs))
        for (user, i), (_, j) in pairs:
            users.add(user)
            alpha = (max(COLD[user], TAIL[i]) + max(COLD[user], TAIL[j])) / 2
            tail = TAIL[i] or TAIL[j]
            for region, inside in zip(REGIONS, (True, COLD[user], tail, not (COLD[user] or tail)), strict=True):
                if inside:
                    alphas[region].append(alpha)
    logs = session.end_epoch()
    assert logs.pop("sllmr_loss") == pytest.approx(sum(losses) / 3)
    assert logs.pop("sllmr_pairs") == sum(counts)
    assert logs.pop("sllmr_coverage") == pytest.approx(len(users) / len(CANDIDATES))
    for region, values in alphas.items():
        mean = logs.pop("sllmr_gate" if region == "all" else f"sllmr_gate_{region}")
        assert mean == pytest.approx(np.mean(values)) if values else math.isnan(mean)
    assert logs == {}


def test_pairs_that_the_gate_is_closed_for_get_no_rows_and_count_all_the_same():
    session, whole = session_of(**FIXED), session_of(**FIXED)
    whole._shutter = None
    n_rows = n_shut = 0
    for _ in range(8):
        plan, rows = run_step(session)
        of_all, all_rows = run_step(whole)
        alphas = {
            (one, other): (max(COLD[one[0]], TAIL[one[1]]) + max(COLD[other[0]], TAIL[other[1]])) / 2
            for one, other in pairs_of(of_all)
        }
        assert sorted(pairs_of(plan)) == sorted(pair for pair, alpha in alphas.items() if alpha > 0)
        assert session.take_loss().item() == pytest.approx(whole.take_loss().item())
        n_shut += 0 if plan.shut is None else int(plan.shut[0])
        n_rows += len(all_rows) - len(rows)
        assert (plan.shut is None) == (min(alphas.values()) > 0)
    assert n_shut > 0
    assert n_rows > 0
    expected = whole.end_epoch()
    assert session.end_epoch() == {key: pytest.approx(value, nan_ok=True) for key, value in expected.items()}


def test_coverage_grows_until_every_user_had_a_turn():
    able = {user: CANDIDATES[user] for user in (1, 2, 3, 5)}
    for mode in ("global", "pointwise_bce"):
        shares = []
        for steps in (1, 2, 4, 7):
            session = session_of(usable(able), mode=mode, users_per_step=1)
            for _ in range(steps):
                run_step(session)
                session.take_loss()
            shares.append(session.end_epoch()["sllmr_coverage"])
        assert shares == [0.25, 0.5, 1.0, 1.0]


def test_an_epoch_starts_with_a_clean_account():
    session = session_of()
    logs = []
    for epoch in range(2):
        session.begin_epoch(epoch)
        run_step(session)
        session.take_loss()
        logs.append(session.end_epoch())
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)  # all pairs both times, summed in another order
    assert logs[0]["sllmr_pairs"] == len(ordered_pairs(CANDIDATES))


# ---------------------------------------------------------------------- doing nothing is loud


def test_a_loop_that_never_asks_for_the_loss_is_an_error():
    session = session_of()
    run_step(session)
    run_step(session)
    with pytest.raises(HookNeverFiredError, match="2 forward passes.*get_regularization_loss"):
        session.end_epoch()


def test_a_loop_that_never_runs_the_model_is_an_error():
    with pytest.raises(HookNeverFiredError, match="0 forward passes"):
        session_of().end_epoch()


def test_an_epoch_without_a_pair_is_an_error():
    batch = batch_of((4, 4), (0, 1))
    session = session_of(user_source="batch")
    run_step(session, batch)
    session.take_loss()
    with pytest.raises(NoPairsError, match="no user of any batch.*user_source='table'"):
        session.end_epoch()

    ties = session_of(usable({1: {1: 0.5, 2: 0.5}, 2: {3: 0.25}}, {}))
    run_step(ties)
    ties.take_loss()
    with pytest.raises(NoPairsError, match="no user drawn has two different scores"):
        ties.end_epoch()


def end_of_epoch(session):
    run_step(session)
    session.take_loss()
    return session.end_epoch()


@pytest.mark.parametrize("options", [{"mode": "global"}, {"mode": "joint"}, {"mode": "gated", "gate": "fixed"}])
def test_an_open_gate_does_not_warn(options):
    assert end_of_epoch(session_of(**options))["sllmr_gate"] >= 0.02  # warnings are errors here


@pytest.mark.parametrize(("alpha", "collapsed"), [(0.0201, False), (0.0199, True)])
def test_a_gate_has_collapsed_below_a_mean_of_two_percent(alpha, collapsed):
    session = session_of(mode="joint")
    session.gate.weight.data.zero_()
    session.gate.bias.data.fill_(math.log(alpha / (1 - alpha)))  # the logit of alpha, for every pair
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        logs = end_of_epoch(session)
    assert logs["sllmr_gate"] == pytest.approx(alpha, rel=1e-4)
    assert [warning.category for warning in told] == [GateCollapsedWarning] * collapsed


@pytest.mark.parametrize(("scale", "flat"), [(0.0, True), (1e-7, True), (1e-2, False)])
def test_a_model_that_scores_all_items_alike_warns_at_the_end_of_the_epoch(scale, flat):
    session = session_of()
    for step_scale in (1.0, scale):  # the last step counts
        plan = session.plan(BATCH)
        logit = 0.25 + step_scale * score(torch.cat([BATCH, plan.rows])).double()
        session.add(plan, logit[plan.source], logit.sigmoid()[plan.source], None, len(BATCH))
        session.take_loss()
    if flat:
        with pytest.warns(InactiveWarning, match=r"scores all items alike.*init_std"):
            session.end_epoch()
    else:
        session.end_epoch()  # warnings are errors here


def test_a_fixed_gate_that_meets_neither_cold_nor_tail_warns():
    parts = usable(cold=[False] * N_USERS, tail=[False] * N_ITEMS)
    with pytest.warns(GateCollapsedWarning, match=r"mean alpha 0\.0000.*Raise cold_threshold or tail_quantile"):
        logs = end_of_epoch(session_of(parts, mode="gated", gate="fixed"))
    assert logs["sllmr_gate"] == 0


@pytest.mark.parametrize("options", [{"mode": "joint"}, {"mode": "gated", "gate": "joint"}])
def test_a_closed_joint_gate_warns(options):
    session = session_of(**options)
    session.gate.bias.data.fill_(-6.0)
    with pytest.warns(GateCollapsedWarning, match="can only close it. Use gate='auto'"):
        logs = end_of_epoch(session)
    assert logs["sllmr_gate"] == pytest.approx(1 / (1 + math.exp(6)), rel=1e-4)


def test_a_closed_bilevel_gate_warns():
    session = session_of(mode="gated", gate="bilevel")
    session.gate.bias.fill_(-6.0)
    session.gate.calibrated = True
    with pytest.warns(GateCollapsedWarning, match="raises the loss on the probes.*gate='none'"):
        end_of_epoch(session)


def test_a_calibrated_gate_that_finds_the_llm_wrong_warns():
    # the LLM puts the held-out items last: where the backbone disagrees, the LLM is never right
    wrong = {user: dict.fromkeys(items, 0.0) for user, items in PROBES.items()}
    gate = DisagreementGate()
    with pytest.warns(GateCollapsedWarning, match="does not judge better.*gate='none'"):
        logs = end_of_epoch(session_of(usable(probes=wrong), gate, mode="gated"))
    assert gate.calibrated
    assert logs["sllmr_gate"] == 0


def test_probes_of_which_none_can_be_compared_warn():
    gate = DisagreementGate()
    with pytest.warns(GateCollapsedWarning, match="fewer than two users have .* use gate='fixed'"):
        end_of_epoch(session_of(usable(probes={7: {1: 0.7}}), gate, mode="gated"))
    assert not gate.calibrated

    session = session_of(usable(probes={7: {1: 0.7}}), BilevelGate(), mode="gated")
    assert session.held_out() is None
    with pytest.warns(CoverageWarning, match="no probe belongs to a user .* use gate='fixed'"):
        logs = end_of_epoch(session)
    assert logs["sllmr_gate"] == 0.5


# ---------------------------------------------------------------------- the gate's fit on probes


@pytest.mark.parametrize("seed", range(6))
def test_the_gate_is_fitted_on_the_disagreements_of_a_double_loop(seed):
    candidates, probes = many(seed)
    gate = DisagreementGate()
    session_of(usable(candidates, probes), gate, mode="gated")  # its first epoch fits
    pairs = disagreements(candidates, probes)
    design, right, user = evidence(pairs, candidates, probes)
    importance = importance_by_hand(probe_pairs(candidates, probes))
    assert 0 < right.sum() < len(right)
    centre = design.mean(axis=0)
    centred = np.column_stack([design - centre, np.ones(len(design))])
    reference = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000)
    one_a_user = [importance[pair] / (user == pair[0]).sum() for pair in pairs]
    weight = reference.fit(centred, right, sample_weight=one_a_user).coef_[0]
    expected = [*weight[:4], weight[4] - weight[:4] @ centre]
    np.testing.assert_allclose(list(gate.coefficients().values()), expected, atol=1e-3)


def test_the_gate_is_fitted_anew_at_the_start_of_every_epoch_with_a_weight():
    candidates, probes = many(0)
    fits = []

    class Counting(DisagreementGate):
        def fit(self, signals, llm_right, user):
            fits.append(len(llm_right))
            super().fit(signals, llm_right, user)

    session = session_of(usable(candidates, probes), Counting(), mode="gated", warmup_epochs=2)
    assert fits == []
    for epoch in range(5):
        session.begin_epoch(epoch)
        assert len(fits) == max(0, epoch - 1)
    assert fits == [len(disagreements(candidates, probes))] * 3  # this backbone never learns


def test_the_account_ends_with_the_gates_coefficients():
    candidates, probes = many(0)
    session = session_of(usable(candidates, probes), DisagreementGate(), mode="gated")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GateCollapsedWarning)
        logs = end_of_epoch(session)
    written = {key.removeprefix("sllmr_gate_w_"): value for key, value in logs.items() if "_w_" in key}
    assert written == session.gate.coefficients()
    assert list(written) == ["cold", "tail", "uncertainty", "gap", "bias"]
    assert any(value != 0 for value in written.values())
    assert not any("_w_" in key for key in end_of_epoch(session_of(mode="gated", gate="fixed")))


def test_probes_never_stand_in_a_plan():
    probes = {(user, item) for user, items in PROBES.items() for item in items}
    batch = batch_of(*probes)
    plan = session_of(in_batch_pairs=True).plan(batch)
    assert plan.source.min() >= len(batch)  # not even when they come along in the batch
    assert probes.isdisjoint(entries_of(plan, batch))
