"""The adaptors against loops over rows, experts and exemplars."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from sllmr_plugin import CoverageError, CoverageWarning
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.knowledge import KARAdaptor, LLMCFAdaptor

from .text_cases import N_ITEMS, N_USERS, NO_ITEM_TEXT, NO_USER_TEXT, encoded, interactions

USERS = torch.arange(1, N_USERS + 1).repeat_interleave(N_ITEMS)
ITEMS = torch.arange(1, N_ITEMS + 1).repeat(N_USERS)


@pytest.fixture(scope="module")
def texts():
    return encoded()


@pytest.fixture(scope="module")
def reasoned():
    return encoded(reasoning=True)


@pytest.fixture(scope="module")
def rows():
    return training_rows(interactions())


def randomised(adaptor):
    generator = torch.Generator().manual_seed(1)
    for parameter in adaptor.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    return adaptor.double()


def llm_cf(texts, rows, **sizes):
    return LLMCFAdaptor(texts, *rows, user="user_id", item="item_id", **{"dim": 3, "hidden": 5, **sizes})


def vector(texts, kind, code, missing):
    """Return the vector of a code as a list, from the arrays as they came from the encoder."""
    place = np.flatnonzero(texts.codes[kind] == code)
    return texts.vectors[kind][place[0]].astype(float).tolist() if len(place) else missing.tolist()


def linear(layer, x):
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def softmax(x):
    top = max(x)
    exponentials = [math.exp(v - top) for v in x]
    return [e / sum(exponentials) for e in exponentials]


def test_kar_is_the_gated_mixture_of_shared_and_own_experts(texts):
    adaptor = randomised(KARAdaptor(texts, dim=3, hidden=4, shared_experts=2, own_experts=1))
    assert adaptor.widths == {"kar_user": 3, "kar_item": 3}
    output = adaptor(USERS, ITEMS).detach()

    def side_of(kind, code):
        side = adaptor.user_side if kind == "user" else adaptor.item_side
        x = vector(texts, kind, code, side.vectors.missing)
        gate, mixed = softmax(linear(side.gate, x)), [0.0] * 3
        for weight, expert in zip(gate, [*adaptor.shared, *side.own], strict=True):
            out = linear(expert[2], [max(h, 0.0) for h in linear(expert[0], x)])
            mixed = [m + weight * o for m, o in zip(mixed, out, strict=True)]
        return mixed

    expected = [
        side_of("user", user) + side_of("item", item) for user, item in zip(USERS.tolist(), ITEMS.tolist(), strict=True)
    ]
    torch.testing.assert_close(output, torch.tensor(expected, dtype=torch.float64))


def test_the_shared_experts_are_one_and_the_gates_are_two(texts):
    adaptor = KARAdaptor(texts)
    assert all(a is b for a, b in zip(adaptor.user_side.shared, adaptor.item_side.shared, strict=True))
    adaptor(USERS, ITEMS)[:, :16].sum().backward()  # the user's column alone
    assert all(parameter.grad.abs().sum() > 0 for parameter in adaptor.shared.parameters())
    items_alone = (*adaptor.item_side.own.parameters(), *adaptor.item_side.gate.parameters())
    assert all(parameter.grad.abs().sum() == 0 for parameter in items_alone)


def cosine(a, b):
    length = math.sqrt(sum(v * v for v in a) * sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / length if length else 0.0


def retrieved_by_loops(texts, base, user, item, pool, n_each):
    """Two stages over all exemplars: similar items first, then the sum of both cosines, other users' only."""
    zero = torch.zeros(6)
    found = []
    for label in (1, 0):
        own = [e for e in range(len(base.label)) if int(base.label[e]) == label]
        of_item = {
            e: cosine(vector(texts, "item", item, zero), vector(texts, "item", int(base.item[e]), zero)) for e in own
        }
        near = sorted(own, key=lambda e: -of_item[e])[:pool]
        joint = {
            e: of_item[e] + cosine(vector(texts, "user", user, zero), vector(texts, "user", int(base.user[e]), zero))
            for e in near
            if int(base.user[e]) != user
        }
        found.append(sorted(joint.values(), reverse=True)[:n_each])
    return found


@pytest.mark.parametrize(("pool", "n_each"), [(100, 3), (100, 100)])
def test_exemplars_retrieved_are_the_most_similar_of_other_users(texts, rows, pool, n_each):
    adaptor = llm_cf(texts, rows, pool=pool, n_each=n_each, size=40)
    found, similarity = adaptor._retrieve(USERS, ITEMS)
    base = adaptor.exemplars
    for row, (user, item) in enumerate(zip(USERS.tolist(), ITEMS.tolist(), strict=True)):
        there = similarity[row] > -torch.inf
        labels = base.label[found[row][there]].tolist()
        assert labels == sorted(labels, reverse=True)
        assert user not in base.user[found[row][there]].tolist()
        own = similarity[row][there]
        for label, expected in zip((1, 0), retrieved_by_loops(texts, base, user, item, pool, n_each), strict=True):
            mine = own[torch.tensor(labels) == label].tolist()
            assert mine == pytest.approx(expected, abs=1e-5)


def test_the_pool_keeps_the_exemplars_of_the_most_similar_items(texts, rows):
    adaptor = llm_cf(texts, rows, pool=4, n_each=4, size=40)
    base = adaptor.exemplars
    for item in range(1, N_ITEMS + 1):
        pool = base.candidates[adaptor.items.rows(torch.tensor([item]))[0]]  # (2, 4)
        for label, members in zip((1, 0), pool.tolist(), strict=True):
            zero = torch.zeros(6)
            mine = vector(texts, "item", item, zero)
            all_of_label = sorted(
                (
                    cosine(mine, vector(texts, "item", int(base.item[e]), zero))
                    for e in range(len(base.label))
                    if int(base.label[e]) == label
                ),
                reverse=True,
            )
            own = sorted((cosine(mine, vector(texts, "item", int(base.item[e]), zero)) for e in members), reverse=True)
            assert own == pytest.approx(all_of_label[:4], abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*without a text of their user or item:sllmr_plugin.CoverageWarning")
@pytest.mark.parametrize("with_reasoning", [False, True])
def test_llm_cf_is_attention_over_the_exemplars(texts, reasoned, rows, with_reasoning):
    texts = reasoned if with_reasoning else texts
    adaptor = randomised(llm_cf(texts, rows, pool=6, n_each=2, size=30))
    assert adaptor.has_reasoning == with_reasoning
    output = adaptor(USERS, ITEMS).detach()
    found, similarity = adaptor._retrieve(USERS, ITEMS)
    base = adaptor.exemplars
    expected = []
    for row, (user, item) in enumerate(zip(USERS.tolist(), ITEMS.tolist(), strict=True)):

        def texts_of(user, item):
            return vector(texts, "user", user, adaptor.users.missing) + vector(
                texts, "item", item, adaptor.items.missing
            )

        own = linear(adaptor.query, texts_of(user, item))
        logits, values = [], []
        for e, cosines in zip(found[row].tolist(), similarity[row].tolist(), strict=True):
            if cosines == -math.inf:
                continue
            x = texts_of(int(base.user[e]), int(base.item[e]))
            key = linear(adaptor.key, x)
            learned = sum(a * b for a, b in zip(own, key, strict=True)) / math.sqrt(5)
            logits.append(learned + adaptor.similarity_scale.item() * cosines)
            parts = [linear(adaptor.value, x), adaptor.label.weight[int(base.label[e])].tolist()]
            if with_reasoning:
                about = (texts.reasoning.users == int(base.user[e])) & (texts.reasoning.items == int(base.item[e]))
                told = texts.reasoning.vectors[np.flatnonzero(about)[0]].astype(float)
                parts.append((adaptor.reasoning.weight.detach().numpy() @ told).tolist())
            values.append([sum(part) for part in zip(*parts, strict=True)])
        weights = softmax(logits)
        context = [sum(w * v[place] for w, v in zip(weights, values, strict=True)) for place in range(5)]
        hidden = [a + b for a, b in zip(own, linear(adaptor.after_attention, context), strict=True)]
        norm = adaptor.feed_forward[0]
        mean = sum(hidden) / 5
        variance = sum((h - mean) ** 2 for h in hidden) / 5
        scaled = [
            (h - mean) / math.sqrt(variance + norm.eps) * g + b
            for h, g, b in zip(hidden, norm.weight.tolist(), norm.bias.tolist(), strict=True)
        ]
        fed = linear(adaptor.feed_forward[3], [max(v, 0.0) for v in linear(adaptor.feed_forward[1], scaled)])
        expected.append(linear(adaptor.output, [a + b for a, b in zip(hidden, fed, strict=True)]))
    torch.testing.assert_close(output, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_exemplars_are_training_rows_with_their_labels_and_texts(texts, rows):
    data = interactions()
    x, y = rows
    labelled = {(u, i, int(label)) for u, i, label in zip(x["user_id"], x["item_id"], y, strict=True)}
    base = llm_cf(texts, rows, size=20).exemplars
    drawn = list(zip(base.user.tolist(), base.item.tolist(), base.label.tolist(), strict=True))
    assert len(drawn) == 20
    assert sum(label for _, _, label in drawn) == 10
    assert set(drawn) <= labelled
    assert not {user for user, _, _ in drawn} & set(NO_USER_TEXT)
    assert not {item for _, item, _ in drawn} & set(NO_ITEM_TEXT)
    held_out = {(u, i) for part in (data.valid, data.test) for u, i in part.itertuples(index=False)}
    assert not {(user, item) for user, item, label in drawn if label} & held_out


def test_exemplars_with_reasoning_are_those_of_the_table_that_training_rows_bear_out(reasoned, rows):
    """All that have both texts; what contradicts the rows is left out, loudly."""
    table = reasoned.reasoning
    x, y = rows
    positive = {(u, i) for u, i, label in zip(x["user_id"], x["item_id"], y, strict=True) if label}
    told = list(zip(table.users.tolist(), table.items.tolist(), table.labels.tolist(), strict=True))
    usable = {(u, i, label) for u, i, label in told if u not in NO_USER_TEXT and i not in NO_ITEM_TEXT}
    assert all(((u, i) in positive) == label for u, i, label in told)
    with pytest.warns(
        CoverageWarning, match=f"^{len(told) - len(usable)} of {len(told)} .* {len(told) - len(usable)} wit"
    ):
        adaptor = llm_cf(reasoned, rows, size=2)  # the size is that of a draw
    base = adaptor.exemplars
    taken = list(zip(base.user.tolist(), base.item.tolist(), base.label.tolist(), strict=True))
    assert set(taken) == usable
    assert len(taken) == len(usable)
    assert base.label.tolist() == sorted(base.label.tolist(), reverse=True)
    n_positive = sum(label for _, _, label in usable)
    expected = f"{n_positive} positive and {len(usable) - n_positive} negative exemplars, with reasoning"
    assert adaptor.extra_repr() == expected

    # A held-out interaction told as taken, and a training positive told as not taken.
    held_out = interactions().test.iloc[[0]]
    more = {"users": held_out["user"], "items": held_out["item"], "labels": [1], "vectors": table.vectors[:1]}
    leaky = replace(table, **{name: np.concatenate([getattr(table, name), part]) for name, part in more.items()})
    flipped = leaky.labels.copy()
    first = np.flatnonzero(flipped == 1)[0]
    flipped[first] = 0
    with pytest.warns(CoverageWarning, match="1 positive, but no positive .*; 1 negative, but a positive training row"):
        base = llm_cf(replace(reasoned, reasoning=replace(leaky, labels=flipped)), rows).exemplars
    left = set(zip(base.user.tolist(), base.item.tolist(), strict=True))
    assert left == {(u, i) for u, i, _ in usable} - {(int(table.users[first]), int(table.items[first]))}


@pytest.mark.parametrize(("label", "name"), [(1, "negative"), (0, "positive")])
def test_reasoning_about_one_label_alone_is_an_error(reasoned, rows, label, name):
    table = reasoned.reasoning
    mine = table.labels == label
    fields = ("users", "items", "labels", "vectors")
    one_label = replace(table, **{field: getattr(table, field)[mine] for field in fields})
    with pytest.raises(CoverageError, match=f"no {name} exemplar with a reasoning text can be used, of {mine.sum()}"):
        llm_cf(replace(reasoned, reasoning=one_label), rows)


@pytest.mark.filterwarnings("ignore:.*without a text of their user or item:sllmr_plugin.CoverageWarning")
def test_reasoning_adds_one_weight_and_leaves_the_others_as_they_start(texts, reasoned, rows):
    with_it, without = llm_cf(reasoned, rows), llm_cf(texts, rows)
    state, plain = ({n: t.clone() for n, t in a.state_dict().items()} for a in (with_it, without))
    assert state.keys() - plain.keys() == {"reasoning.weight"}
    assert state["reasoning.weight"].shape == (5, 6)
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())
    assert "without reasoning" in repr(without)
    torch.testing.assert_close(with_it(USERS, ITEMS), without(USERS, ITEMS))  # exemplars add nothing at first
    for _ in range(2):  # the first step opens the way to what the exemplars say
        with_it(USERS, ITEMS).square().sum().backward()
        with torch.no_grad():
            for parameter in with_it.parameters():
                parameter -= 0.01 * parameter.grad
    assert not torch.equal(with_it.reasoning.weight, state["reasoning.weight"])


def test_no_exemplars_taken_leave_the_texts_of_the_sample(texts, rows):
    adaptor = randomised(llm_cf(texts, rows, n_each=0))
    own = adaptor.query(torch.cat([adaptor.users(USERS), adaptor.items(ITEMS)], dim=1)) + adaptor.after_attention.bias
    torch.testing.assert_close(adaptor(USERS, ITEMS), adaptor.output(own + adaptor.feed_forward(own)))


def test_what_a_sample_is_given_does_not_depend_on_its_own_users_labels(texts, rows):
    """Other labels for all rows of a user change nothing for that user: no row can see its own label."""
    x, y = rows
    user = 3
    sizes = {"size": 10_000, "pool": 200}
    before = randomised(llm_cf(texts, rows, **sizes))
    flipped = np.where(x["user_id"] == user, 1 - y, y)
    after = randomised(llm_cf(texts, (x, flipped), **sizes))
    # An item without a text is as similar to all items; which of equals are taken depends on their order.
    mine = (USERS == user) & ~torch.isin(ITEMS, torch.tensor(NO_ITEM_TEXT))
    torch.testing.assert_close(after(USERS[mine], ITEMS[mine]), before(USERS[mine], ITEMS[mine]))
    others = USERS != user
    assert not torch.allclose(after(USERS[others], ITEMS[others]), before(USERS[others], ITEMS[others]))


def test_a_sample_without_any_exemplar_gets_finite_numbers(texts, rows):
    x, y = rows
    one_user = x["user_id"] == 3
    adaptor = llm_cf(texts, ({k: v[one_user] for k, v in x.items()}, y[one_user]))
    output = adaptor(torch.tensor([3, 5]), torch.tensor([1, 1]))
    assert output.isfinite().all()
    output.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in adaptor.parameters())


@pytest.mark.parametrize("build", [KARAdaptor, None], ids=["kar", "llm_cf"])
def test_rows_do_not_see_each_other_and_unknown_codes_are_one(texts, rows, build):
    adaptor = (build(texts) if build else llm_cf(texts, rows)).double()
    together = adaptor(USERS, ITEMS)
    alone = torch.cat([adaptor(USERS[k : k + 1], ITEMS[k : k + 1]) for k in range(len(USERS))])
    torch.testing.assert_close(alone, together)
    lacking = torch.tensor([NO_USER_TEXT[0], NO_USER_TEXT[1], 0, 10_000])
    items = torch.full((4,), 2)
    output = adaptor(lacking, items)
    with torch.no_grad():
        for parameter in (adaptor.users.missing, adaptor.items.missing):
            assert parameter.requires_grad
            assert parameter.abs().sum() == 0
    torch.testing.assert_close(output, output[:1].expand_as(output))


def test_the_seed_decides_and_the_global_generator_is_left_alone(texts, rows):
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    one, same, other = (KARAdaptor(texts, seed=seed) for seed in (1, 1, 2))
    llm_cf(texts, rows)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.shared[0][0].weight, other.shared[0][0].weight)


def test_coverage_of_training_rows_is_told(texts):
    adaptor = KARAdaptor(texts)
    users, items = np.arange(1, N_USERS + 1), np.arange(1, N_ITEMS + 1)
    with pytest.warns(CoverageWarning, match="^2 of 12 users and 1 of 10 items in the training rows have no text"):
        adaptor.check_coverage(users, items)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adaptor.check_coverage(np.array([1, 2]), np.array([1, 2]))
    with pytest.raises(CoverageError, match="none of the 2 users in the training rows has a text.*user_index="):
        adaptor.check_coverage(np.array(NO_USER_TEXT), items)
    with pytest.raises(CoverageError, match="none of the 1 items .*item_index="):
        adaptor.check_coverage(users, np.array(NO_ITEM_TEXT))


def test_no_exemplar_of_a_label_is_an_error(texts, rows):
    x, y = rows
    with pytest.raises(CoverageError, match="no negative training row has a text"):
        llm_cf(texts, (x, np.ones_like(y)))


def test_llm_cf_starts_from_the_texts_of_the_sample_alone(texts, rows):
    """Exemplars add nothing before the first step, and are learned from at the first."""
    adaptor = llm_cf(texts, rows)
    own = adaptor.query(torch.cat([adaptor.users(USERS), adaptor.items(ITEMS)], dim=1))
    torch.testing.assert_close(adaptor(USERS, ITEMS), adaptor.output(own + adaptor.feed_forward(own)))
    adaptor(USERS, ITEMS).square().sum().backward()
    assert adaptor.after_attention.weight.grad.abs().sum() > 0
