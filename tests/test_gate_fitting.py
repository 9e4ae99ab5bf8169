"""What a gate is fitted on over epochs and trainings, and an LLM that teaches the backbone all it knows."""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import pytest
import torch

from sllmr_plugin.config import SelectiveConfig
from sllmr_plugin.errors import GateCollapsedWarning
from sllmr_plugin.regularizer.gates import DisagreementGate
from sllmr_plugin.training.probes import DisagreementMemory, GateFitter
from sllmr_plugin.training.session import TrainingSession

from .small_table import (
    CANDIDATES,
    ITEM,
    N_ITEMS,
    PROBES,
    USER,
    disagreements,
    evidence,
    many,
    opinion,
    probe_pairs,
    row_of,
    score,
    score_rows,
    usable,
)


class Backbone:
    """Scores as `small_table.score` does, turned upside down while `sign` is -1."""

    sign = 1.0

    def rows(self, rows):
        return opinion(self.sign * score(rows))

    def logit(self, user, item):
        return self.sign * score(torch.tensor([row_of(user, item)])).item()


class Recording(DisagreementGate):
    """Keeps what it is fitted on."""

    def fit(self, signals, llm_right, user):
        self.evidence = (signals.design().numpy(), llm_right.numpy(), user.numpy())
        super().fit(signals, llm_right, user)


def remembered(memory):
    return {tuple(key) for key in memory.keys[memory.seen].tolist()}


def assert_fitted_on(gate, pairs, candidates, probes, logit):
    expected = evidence(pairs, candidates, probes, logit)
    for found, by_hand in zip(gate.evidence, expected, strict=True):
        np.testing.assert_allclose(found, by_hand, atol=1e-5)


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize("seed", range(3))
def test_a_pair_that_once_disagreed_stays_evidence(seed):
    candidates, probes = many(seed)
    backbone, gate, memory = Backbone(), Recording(), DisagreementMemory()
    fitter = GateFitter(usable(candidates, probes), backbone.rows, memory)
    first = set(disagreements(candidates, probes, logit=backbone.logit))
    fitter.refit(gate)
    assert remembered(memory) == first
    assert_fitted_on(gate, memory.keys[memory.seen].tolist(), candidates, probes, backbone.logit)

    backbone.sign = -1.0  # agrees with the LLM where it did not, and vice versa
    second = set(disagreements(candidates, probes, logit=backbone.logit))
    assert second
    assert not second & first
    fitter.refit(gate)
    assert remembered(memory) == first | second
    # judged by today's uncertainty
    assert_fitted_on(gate, memory.keys[memory.seen].tolist(), candidates, probes, backbone.logit)


def test_memory_outlives_a_training_and_keeps_the_pairs_in_common():
    candidates, probes = many(0)
    backbone, memory = Backbone(), DisagreementMemory()
    GateFitter(usable(candidates, probes), backbone.rows, memory).refit(Recording())
    first = remembered(memory)
    assert first == set(disagreements(candidates, probes))

    GateFitter(usable(candidates, probes), backbone.rows, memory)  # the same table: nothing is lost
    assert remembered(memory) == first

    # other training rows: one user can no longer be used, a probe of another one is new
    fewer = {user: items for user, items in candidates.items() if user != 1}
    more = {**probes, 5: {**probes[5], next(i for i in range(N_ITEMS) if i not in probes[5] | fewer[5]): 0.5}}
    GateFitter(usable(fewer, more), backbone.rows, memory)
    assert remembered(memory) == first & set(probe_pairs(fewer, more))
    assert {key[0] for key in first} > {key[0] for key in remembered(memory)}
    assert len(memory.keys) == len(memory.seen) == len(probe_pairs(fewer, more))

    GateFitter(usable({8: {1: 0.5, 3: 0.25}}, {8: {0: 0.75}}), backbone.rows, memory)  # nothing in common
    assert remembered(memory) == set()


def test_fitters_do_not_share_a_memory_unless_given_one():
    backbone = Backbone()
    gates = [Recording(), Recording()]
    for gate, backbone.sign in zip(gates, (1.0, -1.0), strict=True):
        GateFitter(usable(), backbone.rows).refit(gate)
    assert len(gates[0].evidence[1]) == len(disagreements(CANDIDATES, PROBES))
    assert len(gates[1].evidence[1]) == len(disagreements(CANDIDATES, PROBES, logit=backbone.logit))


def test_copies_have_a_memory_of_their_own():
    memory = DisagreementMemory()
    GateFitter(usable(), score_rows, memory).refit(DisagreementGate())
    file = io.BytesIO()
    torch.save(memory, file)
    file.seek(0)
    for twin in (copy.deepcopy(memory), torch.load(file, weights_only=False)):
        assert remembered(twin) == remembered(memory) != set()
        twin.seen[:] = False
        assert remembered(memory)


def test_probes_without_candidates_leave_the_gate_alone():
    gate = DisagreementGate()
    fitter = GateFitter(usable(probes={7: {1: 0.7}}), score_rows)
    fitter.refit(gate)
    assert not gate.calibrated
    assert fitter.draw(torch.Generator()) is None


# ---------------------------------------------------------------------- held-out pairs


def test_held_out_pairs_are_probe_pairs_drawn_by_the_generator():
    candidates, probes = many(2)
    fitter = GateFitter(usable(candidates, probes), score_rows)
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(30):
        pairs = fitter.draw(generator)
        assert pairs.taken.shape == pairs.other.shape
        for taken, other in zip(pairs.taken.tolist(), pairs.other.tolist(), strict=True):
            assert taken == row_of(taken[USER], taken[ITEM])
            assert other == row_of(taken[USER], other[ITEM])
            drawn.append((int(taken[USER]), int(taken[ITEM]), int(other[ITEM])))
    assert set(drawn) == set(probe_pairs(candidates, probes))
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert counts.max() < 4 * counts.mean()  # each has its chance
    assert torch.equal(torch.get_rng_state(), before)
    again = GateFitter(usable(candidates, probes), score_rows).draw(torch.Generator().manual_seed(0))
    assert torch.equal(again.taken, fitter.draw(torch.Generator().manual_seed(0)).taken)


# ---------------------------------------------------------------------- an LLM that is a good teacher


def class_room(seed, n_users=200):
    """Simulate items of a true quality that users follow when they take their probe, and an LLM that half knows it."""
    rng = np.random.default_rng(seed)
    quality = rng.permutation(np.linspace(-1.5, 1.5, N_ITEMS))
    candidates, probes = {}, {}
    for user in range(n_users):
        chance = np.exp(1.2 * quality)
        taken = int(rng.choice(N_ITEMS, p=chance / chance.sum()))
        llm = 1 / (1 + np.exp(-(quality + rng.normal(0, 0.6, N_ITEMS))))
        others = rng.permutation([item for item in range(N_ITEMS) if item != taken])[:6].tolist()
        probes[user] = {taken: float(llm[taken])}
        candidates[user] = {item: float(llm[item]) for item in others}
    return candidates, probes


def taught(seed, forget, epochs=6):
    """Train a backbone of one number an item on the LLM's pairs alone; return mean alpha of every epoch.

    What one item earns with one user holds for all, so the backbone learns of probes too, though they never train.
    """
    candidates, probes = class_room(seed)
    value = torch.randn(N_ITEMS, generator=torch.Generator().manual_seed(seed)).requires_grad_()

    def rows_of(rows):
        return opinion(value.detach()[rows[:, ITEM].long()])

    memory = DisagreementMemory()
    session = TrainingSession(
        SelectiveConfig(users_per_step=40, weight_scale="pair_sum", weight=0.02),
        DisagreementGate(),
        usable(candidates, probes, cold=[False] * len(probes), tail=[False] * N_ITEMS),
        user_column=USER,
        item_column=ITEM,
        score_rows=rows_of,
        seed=seed,
        memory=memory,
    )
    alphas, open_disagreements = [], []
    batch = torch.zeros(1, 4)
    for epoch in range(epochs):
        if forget:
            memory.seen[:] = False
        session.begin_epoch(epoch)
        open_disagreements.append(int(session._fitter._pairs.judge(rows_of).disagree.sum()))
        for _ in range(30):
            plan = session.plan(batch)
            logit = value[torch.cat([batch, plan.rows])[plan.source][:, ITEM].long()]
            session.add(plan, logit, logit.sigmoid(), opinion(logit.detach())[2], len(batch))
            (slope,) = torch.autograd.grad(session.take_loss(), value)
            value = (value - 1.0 * slope).detach().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GateCollapsedWarning)
            alphas.append(session.end_epoch()["sllmr_gate"])
    return alphas, open_disagreements


def test_a_good_teacher_does_not_shut_its_own_gate():
    kept, lost = [], []
    for seed in range(5):
        with_memory, left = taught(seed, forget=False)
        without, _ = taught(seed, forget=True)
        assert left[-1] < 0.6 * left[0]  # the backbone has learnt what the LLM knows
        assert with_memory[0] == without[0] > 0.25  # nothing to remember yet
        kept.append(with_memory[-1] / with_memory[0])
        lost.append(without[-1] / without[0])
    assert min(kept) > 0.8
    assert max(lost) < 0.2  # fitted on what is left, it closes on its own success
