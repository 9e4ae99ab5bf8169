"""CURec's adaptor against loops over rows, heads and reasons; who sees which reason."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import ConfigError, CoverageError, CoverageWarning
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.knowledge import CURecAdaptor, EncodedTexts, TextTable
from sllmr_plugin.knowledge.reasons import ReasonLists

from .test_adaptors import ITEMS, USERS, linear, randomised, softmax, vector
from .text_cases import N_ITEMS, N_USERS, NO_ITEM_TEXT, NO_USER_TEXT, encoded, interactions, reason_frame

FUSIONS = ("attention", "mean", "mlp", "self")


@pytest.fixture(scope="module")
def texts():
    return encoded(reasons=True)


@pytest.fixture(scope="module")
def rows():
    return training_rows(interactions())


def curec(texts, rows, **options):
    return CURecAdaptor(texts, *rows, user="user_id", item="item_id", **{"dim": 4, **options})


def predicted(adaptor):
    with torch.no_grad():
        return adaptor(USERS, ITEMS)


def reasons_of(texts, item, user):
    """Return the vectors of all reasons about an item but those of the user, as lists."""
    told = texts.reasons
    mine = (told.items == item) & (told.users != user)
    return told.vectors[mine].astype(float).tolist()


def rows_by_matrix(layer, x):
    return linear(layer, x) if layer.bias is not None else (layer.weight.detach().numpy() @ np.array(x)).tolist()


def attended(adaptor, query, keys, values, heads=2):
    """Multi-head attention of one query, by loops over heads."""
    width, out = len(query) // heads, []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = [sum(a * b for a, b in zip(query[part], key[part], strict=True)) / math.sqrt(width) for key in keys]
        weights = softmax(logits)
        out += [sum(w * v[k] for w, v in zip(weights, values, strict=True)) for k in range(part.start, part.stop)]
    return out


def mean_of(vectors):
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def by_loops(adaptor, texts, user, item):
    pattern = vector(texts.reasons.patterns, "user", user, adaptor.users.missing)
    seen, fusion = reasons_of(texts, item, user), adaptor.fusion
    if adaptor.fuse == "attention":
        if not seen:
            missing = adaptor.reasons.missing.tolist()
            return linear(fusion.output, missing + pattern) if fusion.with_pattern else missing
        keys, values = ([rows_by_matrix(layer, x) for x in seen] for layer in (fusion.key, fusion.value))
        context = attended(adaptor, linear(fusion.query, pattern), keys, values)
        return linear(fusion.output, context + pattern if fusion.with_pattern else context)
    if not seen:
        pooled = adaptor.reasons.missing.tolist()
    elif adaptor.fuse == "mean":
        pooled = mean_of(seen)
    elif adaptor.fuse == "mlp":
        pooled = mean_of([linear(fusion.each[2], [max(h, 0.0) for h in linear(fusion.each[0], x)]) for x in seen])
    else:
        keys, values = ([rows_by_matrix(layer, x) for x in seen] for layer in (fusion.key, fusion.value))
        pooled = mean_of([attended(adaptor, linear(fusion.query, x), keys, values) for x in seen])
    return linear(fusion.output, pooled + pattern)


@pytest.mark.parametrize(
    "options", [*({"fuse": fuse} for fuse in FUSIONS), {"with_pattern": False}], ids=[*FUSIONS, "query alone"]
)
def test_the_column_is_what_loops_over_rows_heads_and_reasons_give(texts, rows, options):
    adaptor = randomised(curec(texts, rows, **options))
    assert adaptor.widths == {"curec": 4}
    assert adaptor.sides == {}
    expected = [by_loops(adaptor, texts, *pair) for pair in zip(USERS.tolist(), ITEMS.tolist(), strict=True)]
    torch.testing.assert_close(predicted(adaptor), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_weights_are_those_of_the_column_and_only_of_what_is_seen(texts, rows):
    adaptor = randomised(curec(texts, rows))
    numbers, weights = adaptor.attention(USERS, ITEMS)
    assert weights.shape == (len(USERS), 2, numbers.shape[1])
    told = texts.reasons
    for row, (user, item) in enumerate(zip(USERS.tolist(), ITEMS.tolist(), strict=True)):
        there = numbers[row] >= 0
        mine = numbers[row][there].numpy()
        assert sorted(mine) == np.flatnonzero((told.items == item) & (told.users != user)).tolist()
        assert (weights[row][:, ~there] == 0).all()
        if there.any():
            torch.testing.assert_close(weights[row].sum(dim=1), torch.ones(2, dtype=torch.float64))
            value = adaptor.fusion.value(torch.from_numpy(told.vectors[mine]).double())  # (n, 4), heads of 2
            context = torch.cat([weights[row, head][there] @ value[:, 2 * head : 2 * head + 2] for head in (0, 1)])
            joined = torch.cat([context, adaptor.users(USERS[row : row + 1])[0]])
            torch.testing.assert_close(adaptor.fusion.output(joined), predicted(adaptor)[row])
    with pytest.raises(ConfigError, match="fuse='mean' no user attends"):
        curec(texts, rows, fuse="mean").attention(USERS, ITEMS)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fuse", FUSIONS)
def test_a_user_sees_nothing_of_reasons_about_that_user(texts, rows, fuse, training):
    told = texts.reasons
    user = 3
    mine = told.users == user
    others_items = set(told.items[mine].tolist())
    assert others_items
    changed = told.vectors.copy()
    changed[mine] = -3 * changed[mine]
    found = []
    for reasons in (told, replace(told, vectors=changed)):
        adaptor = randomised(curec(replace(texts, reasons=reasons), rows, fuse=fuse))
        with torch.set_grad_enabled(training):
            found.append(adaptor(USERS, ITEMS).detach())
    same = (found[0] == found[1]).all(dim=1)
    assert same[USERS == user].all()
    about = torch.isin(ITEMS, torch.tensor(sorted(others_items)))
    assert same[~about].all()
    assert (~same[about & (USERS != user)]).float().mean() > 0.5  # some leave just this reason out, in training


def test_the_order_of_the_file_does_not_matter(rows):
    data = interactions()
    index = {"user_index": data.user_index, "item_index": data.item_index}
    frame = reason_frame()
    shuffled = frame.sample(frac=1, random_state=3)
    assert frame["text"].tolist() != shuffled["text"].tolist()
    for options in ({}, {"most": 2}):
        one, other = (
            randomised(curec(EncodedTexts.of(TextTable.read(f, **index), ByText()), rows, **options))
            for f in (frame, shuffled)
        )
        for training in (True, False):
            with torch.set_grad_enabled(training):
                torch.testing.assert_close(one(USERS, ITEMS), other(USERS, ITEMS), rtol=1e-6, atol=1e-6)


class ByText:
    """Vectors that depend on the text alone."""

    def encode(self, texts):
        return np.stack([np.random.default_rng(list(text.encode())).normal(size=6) for text in texts])


@pytest.mark.parametrize("fuse", FUSIONS)
@pytest.mark.parametrize("training", [True, False])
def test_rows_do_not_see_each_other(texts, rows, fuse, training):
    adaptor = randomised(curec(texts, rows, fuse=fuse))
    with torch.set_grad_enabled(training):
        together = adaptor(USERS, ITEMS)
        alone = torch.cat([adaptor(USERS[k : k + 1], ITEMS[k : k + 1]) for k in range(len(USERS))])
        shuffle = torch.randperm(len(USERS), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(adaptor(USERS[shuffle], ITEMS[shuffle]), together[shuffle])
    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("fuse", FUSIONS)
def test_without_a_reason_there_is_a_learned_vector_that_starts_as_zeros(texts, rows, fuse):
    adaptor = curec(texts, rows, fuse=fuse, with_pattern=fuse != "attention")
    assert (adaptor.reasons.missing == 0).all()
    users, items = torch.tensor([1, 2, 2, 5]), torch.tensor([NO_ITEM_TEXT[0], 0, 10_000, -3])
    output = adaptor(users, items)
    if fuse == "attention":
        assert (output == 0).all()
    output.sum().backward()
    assert (adaptor.reasons.missing.grad != 0).any()
    lacking = torch.tensor([*NO_USER_TEXT, 0, 10_000])
    with torch.no_grad():
        torch.testing.assert_close(*(adaptor(lacking[k : k + 1], torch.tensor([2])) for k in (0, 3)))


# ------------------------------------------------------------------ balance


def lists(n_owners, n_takers, **options):
    """One item, 7, that so many users took, of whom some have a reason about it."""
    takers = np.arange(n_takers)
    owners = (takers[:n_owners], np.full(n_owners, 7))
    vectors = np.eye(n_owners, dtype=np.float32)
    taken = (takers, np.full(n_takers, 7)) if options.pop("balance", True) else None
    return ReasonLists(owners, vectors, np.full(n_owners, np.nan), taken, **{"most": 99, "width": 3, **options})


def test_in_training_other_rows_leave_out_as_many_reasons_as_positive_rows_do():
    """5 of 20 takers have a reason: a quarter of the others sees one less, each reason as often as any."""
    found = lists(5, 20)
    users = torch.arange(40_000)
    _, there = found.seen(users, torch.full_like(users, 7))
    n_seen = there.sum(dim=1)
    assert n_seen[:5].tolist() == [4] * 5
    assert n_seen[5:20].tolist() == [5] * 15
    others = there[20:]
    assert n_seen[20:].unique().tolist() == [4, 5]
    assert (n_seen[20:] == 4).float().mean().item() == pytest.approx(5 / 20, abs=0.01)
    left_out = (~others).float().sum(dim=0)
    assert (left_out / left_out.sum() - 1 / 5).abs().max() < 0.02
    with torch.no_grad():
        _, there = found.seen(users, torch.full_like(users, 7))
    assert there.sum(dim=1).tolist() == [4] * 5 + [5] * 39_995


def test_without_balance_the_number_of_reasons_tells_positive_rows():
    _, there = lists(5, 20, balance=False).seen(torch.arange(400), torch.full((400,), 7))
    assert there.sum(dim=1).tolist() == [4] * 5 + [5] * 395


def test_who_took_the_item_once_or_twice_is_one_taker():
    pairs = (np.array([1]), np.array([7]))
    taken = (np.array([1, 1, 2, 3, 4]), np.array([7, 7, 7, 7, 7]))
    found = ReasonLists(pairs, np.ones((1, 2), np.float32), np.full(1, np.nan), taken, most=4, width=2)
    assert found.share.tolist() == [0.25, 0.0]


def test_an_item_keeps_its_latest_reasons():
    pairs, position = (np.arange(6), np.full(6, 2)), np.array([4.0, np.nan, 9, 1, 7, 3])
    found = ReasonLists(pairs, np.eye(6, dtype=np.float32), position, None, most=3, width=2)
    assert found.lists[found.rows(torch.tensor([2]))].tolist() == [[2, 4, 0]]
    assert not found.known(torch.tensor([1, 3, -2, 90])).any()
    kept = []
    for seed in range(3):  # without positions a hash decides, the same one whatever the order
        order = np.random.default_rng(seed).permutation(6)
        found = ReasonLists(
            (order, np.full(6, 2)), np.eye(6, dtype=np.float32), np.full(6, np.nan), None, most=3, width=2
        )
        kept.append({int(order[number]) for number in found.lists[0]})
    assert len(kept[0]) == 3
    assert kept[0] == kept[1] == kept[2]


def test_a_reason_can_be_hidden_for_a_while(texts, rows):
    adaptor = randomised(curec(texts, rows))
    before = predicted(adaptor)
    numbers, _ = adaptor.attention(USERS, ITEMS)
    with adaptor.reasons.without([4]):
        hidden, _ = adaptor.attention(USERS, ITEMS)
        assert not (hidden == 4).any()
        changed = (predicted(adaptor) != before).any(dim=1)
    assert torch.equal(changed, (numbers == 4).any(dim=1))
    assert torch.equal(predicted(adaptor), before)


# ------------------------------------------------------------------ what is read and refused


def test_reasons_that_no_positive_row_bears_out_are_left_out(texts, rows):
    told = texts.reasons
    held_out = interactions().test.iloc[[0]]
    leaky = replace(
        told,
        users=np.append(told.users, held_out["user"]),
        items=np.append(told.items, held_out["item"]),
        positions=np.append(told.positions, np.nan),
        vectors=np.concatenate([told.vectors, told.vectors[:1]]),
        texts=(*told.texts, "a leak"),
    )
    with pytest.warns(CoverageWarning, match=rf"^1 of {len(told.users) + 1} reasons are left out: their interaction"):
        adaptor = curec(replace(texts, reasons=leaky), rows)
    assert "a leak" not in adaptor.texts
    torch.testing.assert_close(predicted(adaptor), predicted(curec(texts, rows)))
    only = {name: getattr(leaky, name)[-1:] for name in ("users", "items", "positions", "vectors")}
    leak = replace(texts, reasons=replace(leaky, **only, texts=("a leak",)))
    with pytest.raises(CoverageError, match="not one of 1 reasons is about a positive training row"):
        curec(leak, rows)
    with pytest.raises(CoverageError, match="have no reasons.*--kind pattern,reason.*--texts texts.parquet,reasons"):
        curec(encoded(), rows)


def test_coverage_is_told_of_patterns_and_reasons(texts, rows):
    adaptor = curec(texts, rows)
    with pytest.warns(CoverageWarning, match=r"^2 of 12 users and 1 of 10 items in the training rows have no text"):
        adaptor.check_coverage(np.arange(1, N_USERS + 1), np.arange(1, N_ITEMS + 1))


def test_profiles_stand_for_patterns_where_there_are_none(rows):
    data = interactions()
    index = {"user_index": data.user_index, "item_index": data.item_index}
    frame = reason_frame()
    as_users = frame.assign(kind=frame["kind"].replace({"pattern": "user"}))
    one, other = (curec(TextTable.read(f, **index), rows, encoder=ByText()) for f in (frame, as_users))
    assert torch.equal(predicted(one), predicted(other))
    both = pd.concat([frame, as_users.assign(text="something else")])
    assert torch.equal(predicted(curec(TextTable.read(both, **index), rows, encoder=ByText())), predicted(one))


def test_the_text_of_the_item_in_the_place_of_the_list(texts, rows):
    adaptor = randomised(curec(texts, rows, reasons="item", fuse="mean"))
    centred = texts.vectors["item"] - texts.vectors["item"].mean(axis=0)
    of_item = dict(zip(texts.codes["item"].tolist(), centred, strict=True))
    expected = []
    for user, item in zip(USERS.tolist(), ITEMS.tolist(), strict=True):
        pattern = vector(texts.reasons.patterns, "user", user, adaptor.users.missing)
        own = of_item.get(item)
        own = adaptor.reasons.missing.tolist() if own is None else (own / np.sqrt((own**2).mean())).tolist()
        expected.append(linear(adaptor.fusion.output, own + pattern))
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(adaptor(USERS, ITEMS), expected, rtol=1e-5, atol=1e-6)  # in training, too
    without = replace(texts, codes={**texts.codes, "item": np.zeros(0, np.int64)})
    with pytest.raises(CoverageError, match="reads texts of kind item"):
        curec(without, rows, reasons="item", fuse="mean")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"fuse": "sum"}, "fuse='sum' must be one of"),
        ({"reasons": "all"}, "reasons='all' one of"),
        ({"dim": 5}, "heads a divisor of dim"),
        ({"most": 0}, "at least 1"),
        ({"fuse": "mean", "with_pattern": False}, "has the pattern in any case"),
        ({"reasons": "item"}, "take 'mean'"),
    ],
)
def test_options_that_make_no_sense_are_refused(texts, rows, options, told):
    with pytest.raises(ConfigError, match=told):
        curec(texts, rows, **options)


def test_the_seed_decides_and_the_global_generator_is_left_alone(texts, rows):
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    one, same, other = (curec(texts, rows, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(predicted(one), predicted(same))
    assert not torch.equal(predicted(one), predicted(other))


def test_tables_without_reasons_are_encoded_as_before_and_with_them_only_these_are_new(texts):
    before = encoded()
    assert before.reasons is None
    for kind in ("user", "item"):
        np.testing.assert_array_equal(before.vectors[kind], texts.vectors[kind])
