"""`SelectiveLoss` against a loop over users and pairs, and in training loops."""

import doctest
import itertools
import math

import pytest
import torch

from sllmr_plugin import SelectiveLoss
from sllmr_plugin.errors import ConfigError
from sllmr_plugin.regularizer import loss as module
from sllmr_plugin.regularizer.gates import DisagreementGate, JointGate


def entries(seed, n=60, n_users=7):
    generator = torch.Generator().manual_seed(seed)

    def draw(high):
        return torch.randint(high, (n,), generator=generator)

    scores = torch.randn(n, generator=generator, requires_grad=True)
    users = 3 + draw(n_users)
    cold = torch.rand(3 + n_users, generator=generator)[users] < 0.5
    return scores, draw(5) / 4, users, cold, draw(2).bool()


def by_hand(scores, llm, users, cold, tail, *, most, loss, alpha):
    """Loop over users, take the pairs of largest gap, and average alpha times loss."""
    scores, terms, gates = scores.detach(), [], []
    for user in sorted(set(users.tolist())):
        own = [e for e in range(len(users)) if users[e] == user]
        pairs = [(float(llm[i] - llm[j]), i, j) for i, j in itertools.permutations(own, 2) if llm[i] > llm[j]]
        gaps = sorted((gap for gap, _, _ in pairs), reverse=True)[:most]
        assert len(pairs) == len(gaps)  # no pair is left out, so ties in the gap cannot matter
        for _, i, j in pairs:
            gates.append((alpha(bool(cold[i]), bool(tail[i])) + alpha(bool(cold[j]), bool(tail[j]))) / 2)
            terms.append(gates[-1] * loss(float(scores[i] - scores[j])))
    return sum(terms) / len(terms), sum(gates) / len(gates), len(terms)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("name", "margin", "formula"),
    [
        ("ranknet", None, lambda d: math.log1p(math.exp(-d))),
        ("hinge", None, lambda d: max(0.0, 1 - d)),
        ("hinge", 0.3, lambda d: max(0.0, 0.3 - d)),
    ],
)
@pytest.mark.parametrize(
    ("gate", "alpha"), [("none", lambda cold, tail: 1.0), ("fixed", lambda cold, tail: float(cold or tail))]
)
def test_it_is_the_mean_over_pairs_of_a_loop(seed, name, margin, formula, gate, alpha):
    scores, llm, users, cold, tail = entries(seed)
    selective = SelectiveLoss(loss=name, margin=margin, gate=gate, pairs_per_user=1000)
    value = selective(scores, llm, users, cold=cold, tail=tail)
    expected, mean_alpha, n_pairs = by_hand(scores, llm, users, cold, tail, most=1000, loss=formula, alpha=alpha)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert selective.statistics["gate"].item() == pytest.approx(mean_alpha, rel=1e-5)
    assert selective.statistics["pairs"].item() == n_pairs


def test_no_more_pairs_of_a_user_than_asked_for_and_none_between_users():
    scores, llm, users, _, _ = entries(5)
    selective = SelectiveLoss(pairs_per_user=2)
    selective(scores, llm, users)
    ordered = [int((llm[users == user][:, None] > llm[users == user]).sum()) for user in users.unique()]
    assert selective.statistics["pairs"].item() == sum(min(2, n) for n in ordered) < sum(ordered)
    alone = SelectiveLoss()
    assert alone(scores, llm, torch.arange(len(users))).item() == 0
    assert alone.statistics["pairs"].item() == 0
    assert math.isnan(alone.statistics["gate"].item())


def test_pairs_can_be_counted_over_all_users():
    scores, _, users, _, _ = entries(5)
    llm = torch.rand(len(users), generator=torch.Generator().manual_seed(5))  # no two gaps alike
    gap, same = llm[:, None] - llm, users[:, None] == users
    largest = (gap * same).flatten().topk(3)
    i, j = largest.indices // len(users), largest.indices % len(users)
    selective = SelectiveLoss(pair_scope="batch", pairs_per_step=3)
    expected = torch.nn.functional.softplus(scores[j] - scores[i]).mean()
    assert selective(scores, llm, users).item() == pytest.approx(expected.item(), rel=1e-6)
    assert selective.statistics["pairs"].item() == 3


def test_order_of_entries_and_names_of_users_do_not_matter():
    scores, llm, users, cold, tail = entries(6)
    selective = SelectiveLoss(gate="fixed", pairs_per_user=1000)
    value = selective(scores, llm, users, cold=cold, tail=tail)
    order = torch.randperm(len(users), generator=torch.Generator().manual_seed(0))
    renamed = 1000 - users
    again = selective(scores[order], llm[order], renamed[order], cold=cold[order], tail=tail[order])
    assert again.item() == pytest.approx(value.item(), rel=1e-6)


def test_descent_on_it_orders_the_scores():
    scores, llm, users, _, _ = entries(7)
    selective, optimizer = SelectiveLoss(pairs_per_user=1000), torch.optim.SGD([scores], lr=20.0)
    first = selective(scores, llm, users).item()
    for _ in range(200):
        optimizer.zero_grad()
        selective(scores, llm, users).backward()
        optimizer.step()
    assert selective.statistics["loss"].item() < first / 4
    for user in users.unique():
        own = users == user
        assert torch.equal(scores[own][llm[own].argsort()].sort().values.diff() >= 0, torch.ones(own.sum() - 1) > 0)
        assert ((llm[own][:, None] > llm[own]) <= (scores[own][:, None] > scores[own])).all()


def test_a_gate_that_is_trained_is_a_part_of_the_module():
    scores, llm, users, cold, tail = entries(8)
    selective = SelectiveLoss(gate="joint")
    assert {name for name, _ in selective.named_parameters()} == {"gate.weight", "gate.bias"}
    selective(scores, llm, users, cold=cold, tail=tail).backward()
    assert selective.gate.bias.grad > 0  # the published objective closes its gate
    assert SelectiveLoss(gate=JointGate()).gate is not selective.gate


def test_a_gate_that_is_fitted_on_probes_is_passed_as_an_object():
    scores, llm, users, cold, tail = entries(9)
    selective = SelectiveLoss(gate=DisagreementGate())
    assert selective(scores, llm, users, cold=cold, tail=tail).item() == 0  # without evidence it is shut
    with pytest.raises(ConfigError, match=r"gate='disagreement'.*DisagreementGate\(\)"):
        SelectiveLoss(gate="disagreement")


@pytest.mark.parametrize("gate", ["open", "none "])
def test_unknown_gates_are_named(gate):
    with pytest.raises(ConfigError, match=f"gate='{gate}' is not one of .*'none'"):
        SelectiveLoss(gate=gate)
    with pytest.raises(ConfigError, match="gate='auto' is fitted on probes.* Take one of .*'fixed'"):
        SelectiveLoss(gate="auto")


def test_a_loss_of_single_items_is_that_of_all_entries_and_takes_no_gate():
    scores, llm, users, cold, _ = entries(11)
    selective = SelectiveLoss(loss="mse")
    assert selective(scores, llm, users).item() == pytest.approx(((scores.sigmoid() - llm) ** 2).mean().item())
    assert int(selective.statistics["pairs"]) == len(scores)
    with pytest.raises(ConfigError, match="loss='bce' looks at single items"):
        SelectiveLoss(loss="bce", gate="fixed")


def test_other_settings_are_checked_as_those_of_wrap():
    with pytest.raises(ConfigError, match="loss='rank'"):
        SelectiveLoss(loss="rank")
    with pytest.raises(ConfigError, match="pairs_per_user=0"):
        SelectiveLoss(pairs_per_user=0)
    with pytest.raises(ConfigError, match="pair_scope='step' is not one of 'user', 'batch'"):
        SelectiveLoss(pair_scope="step")
    for fields in ({"pairs_per_step": 0, "pair_scope": "batch"}, {"pairs_per_step": 8}):
        with pytest.raises(ConfigError, match="pairs_per_step=. must be None or, with pair_scope='batch', at least 1"):
            SelectiveLoss(**fields)


def test_wrong_input_says_what_to_pass():
    scores, llm, users, _, _ = entries(10)
    with pytest.raises(ConfigError, match=r"squeeze\(-1\)"):
        SelectiveLoss()(scores[:, None], llm, users)
    with pytest.raises(ConfigError, match="Pass cold=, tail= or both"):
        SelectiveLoss(gate="fixed")(scores, llm, users)


def test_nothing_scored_is_zero_and_keeps_the_graph():
    scores = torch.empty(0, requires_grad=True)
    value = SelectiveLoss()(scores, torch.empty(0), torch.empty(0, dtype=torch.int64))
    value.backward()
    assert value.item() == 0


def test_the_example_in_the_docstring():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
