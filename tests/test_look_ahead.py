"""The look-ahead of a bilevel gate: gradients worked out one by one, no trace in the model, and what it learns."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from sllmr_plugin import SelectiveConfig, unwrap
from sllmr_plugin.regularizer.gates import BilevelGate

from .matrix import backbones as zoo

BY_NAME = {backbone.name: backbone for backbone in zoo.BACKBONES}
BILEVEL = SelectiveConfig(gate="bilevel", weight=0.5, users_per_step=12)


def scores_with_probes():
    frame = zoo.score_frame()
    frame.loc[frame.groupby("user_id").tail(1).index, "kind"] = "probe"
    return frame


def rows_of(model):
    return torch.from_numpy(np.concatenate([v.reshape(len(v), -1) for v in zoo.inputs(model).values()], axis=1)).float()


class Recording(BilevelGate):
    """Keeps what it is told."""

    def look_ahead(self, signals, alignment):
        self.told = (signals, alignment)


def in_a_step(backbone, config=BILEVEL, epochs=6):
    """Train until there are gradients to speak of, open a session, plan a step; return model, batch and plan."""
    model = zoo.wrapped(backbone, zoo.build(backbone), config, scores_with_probes())
    zoo.compile_model(backbone, model)
    zoo.fit(backbone, model, epochs=epochs, validate=False)
    data = {"x": list(zoo.inputs(model).values()), "y": zoo.labels(backbone), "validation_split": 0.0}
    model.sllmr.gate = Recording()
    session = model.sllmr.session = model._open_session({**data, "validation_data": None})
    session.begin_epoch(0)
    batch = rows_of(model)[:48]
    return model, batch, session.plan(batch)


# ---------------------------------------------------------------------- the alignment

MARGIN = 1.0
PAIR_LOSS = {
    "ranknet": lambda difference, margin: F.softplus(margin - difference),
    "hinge": lambda difference, margin: F.relu(margin - difference),
}


@pytest.mark.parametrize("name", ["DeepFM", "DIN", "MMOE"])
@pytest.mark.parametrize(("loss", "space"), [("ranknet", "logit"), ("hinge", "logit"), ("ranknet", "probability")])
def test_the_alignment_is_the_inner_product_of_two_gradients(name, loss, space):
    config = BILEVEL.replace(loss=loss, score_space=space, margin=MARGIN, weight=0.02)
    model, batch, plan = in_a_step(BY_NAME[name], config)
    session, held_out = model.sllmr.session, None
    draw = session.held_out

    def drawn():
        nonlocal held_out
        held_out = draw()
        return held_out

    session.held_out = drawn
    model._sllmr_passes._look_ahead(model.sllmr.session, batch, plan, torch.zeros(len(plan.source)))
    signals, alignment = model.sllmr.gate.told
    assert alignment.shape == (len(plan.pairs),) == signals.gap.shape

    session.held_out = draw
    model.sllmr.session = None
    plain = unwrap(copy.deepcopy(model)).double().eval()
    task = BY_NAME[name].task or 0

    def logits(rows):
        return torch.logit(plain(rows.double()).reshape(len(rows), -1)[:, task])

    def gradient(value):
        parts = torch.autograd.grad(value, list(plain.parameters()), retain_graph=True, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(parts, plain.parameters(), strict=True)]

    held = [
        F.softplus(logits(other[None]) - logits(taken[None]))[0]
        for taken, other in zip(held_out.taken, held_out.other, strict=True)
    ]
    wanted = gradient(sum(held) / len(held))
    score = logits(torch.cat([batch, plan.rows])[plan.source])
    score = score if space == "logit" else score.sigmoid()
    by_hand = []
    for i, j in zip(plan.pairs.preferred.tolist(), plan.pairs.other.tolist(), strict=True):
        own = gradient(PAIR_LOSS[loss](score[i] - score[j], MARGIN))
        by_hand.append(sum((a * b).sum().item() for a, b in zip(own, wanted, strict=True)))
    by_hand = np.array(by_hand)
    scale = np.abs(by_hand).max()
    assert scale > 1e-4
    assert (by_hand != 0).mean() > 0.3
    # the step carries a few pairs over a kink of a ReLU or of the hinge, where no derivative is to be found
    assert np.abs(alignment.numpy() - by_hand).sum() < (0.03 if name == "DeepFM" else 0.1) * np.abs(by_hand).sum()
    assert np.isclose(alignment.numpy(), by_hand, rtol=0.02, atol=0.01 * scale).mean() > 0.75


@pytest.mark.filterwarnings("ignore:at the end of this epoch the model scores all items alike")  # a fresh DIEN may
@pytest.mark.parametrize("name", ["DeepFM", "DIN", "DIEN", "DIEN_negsampling", "PLE"])
def test_a_look_leaves_no_trace(name):
    model, batch, plan = in_a_step(BY_NAME[name])
    model.train()
    next(model.modules()).training = True
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Dropout))
    first.eval()  # training modes need not be all the same
    model.aux_loss = torch.full((1,), 0.25)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    gradients = [parameter.grad for parameter in model.parameters()]
    random = torch.get_rng_state()
    aux_loss = model.aux_loss
    model._sllmr_passes._look_ahead(model.sllmr.session, batch, plan, torch.zeros(len(plan.source)))
    assert name == "DIEN_negsampling" or model.sllmr.gate.told[1].abs().max() > 0  # that one can begin flat
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.grad for parameter in model.parameters()] == gradients
    assert torch.equal(torch.get_rng_state(), random)
    assert model.aux_loss is aux_loss
    assert model.sllmr.session._pending is None


def test_gates_that_do_not_look_ahead_cost_nothing():
    model, batch, _ = in_a_step(BY_NAME["DeepFM"])
    passes = []
    model.out.register_forward_hook(lambda *_: passes.append(1))
    for looks_ahead, expected in ((True, 4), (False, 1)):  # one is the step's own
        passes.clear()
        model.sllmr.gate.looks_ahead = looks_ahead
        model(batch)
        assert len(passes) == expected


# ---------------------------------------------------------------------- what it learns


@pytest.mark.parametrize("cold_is_right", [True, False])
def test_alpha_rises_where_the_llm_serves_the_held_out_loss_and_falls_where_it_opposes_it(cold_is_right):
    """Every user takes low item codes; the LLM knows that of one half of them and says the opposite of the other.

    The cold signal tells the halves apart.
    """
    halves = {user: user <= zoo.N_USERS // 2 for user in range(1, zoo.N_USERS + 1)}
    rows = []
    rng = np.random.default_rng(0)
    for user, cold in halves.items():
        taken = int(rng.integers(1, zoo.N_ITEMS // 2 + 1))
        rows.append((user, taken, 0.5, "probe"))
        for item in rng.permutation(np.setdiff1d(np.arange(1, zoo.N_ITEMS + 1), taken))[:10].tolist():
            liked = 1 - item / (zoo.N_ITEMS + 1)
            rows.append((user, item, liked if cold == cold_is_right else 1 - liked, "candidate"))
    scores = pd.DataFrame(rows, columns=["user_id", "item_id", "score", "kind"])
    backbone = BY_NAME["DeepFM"]
    config = SelectiveConfig(gate="bilevel", weight=0.05, tail_quantile=0.0)
    model = zoo.wrapped(backbone, zoo.build(backbone), config, scores)
    model.sllmr.set_counts(history_length={user: 0 if cold else 9 for user, cold in halves.items()})
    zoo.compile_model(backbone, model)
    history = zoo.fit(backbone, model, epochs=20).history
    cold, warm = history["sllmr_gate_cold"], history["sllmr_gate_neither"]
    right, wrong = (cold, warm) if cold_is_right else (warm, cold)
    assert right[-1] > 0.55 > 0.25 > wrong[-1]
    assert right[-1] > right[0]
    assert wrong[-1] < wrong[0]
    assert (history["sllmr_gate_w_cold"][-1] > 0) == cold_is_right
    assert history["sllmr_gate_w_cold"][-1] == model.sllmr.gate.coefficients()["cold"]
    assert len(history["sllmr_gate_w_bias"]) == 20
    assert model.sllmr.status().calibrated
