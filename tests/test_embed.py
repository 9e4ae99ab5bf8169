"""`EmbedAdaptor` against a naive perceptron, and the table that it is served from."""

from __future__ import annotations

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import (
    AugmentError,
    CoverageError,
    CoverageWarning,
    EmbedAdaptor,
    KARAdaptor,
    LLMCFAdaptor,
    NotAugmentedError,
    Vectors,
    VectorsError,
    augment,
    serving_table,
    unaugment,
)
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.zoo.deepctr import build_model, input_rows

from .text_cases import N_ITEMS, N_USERS, NO_ITEM_TEXT, NO_USER_TEXT, encoded, id_vectors, interactions

USERS = torch.tensor([1, 4, 4, 12, 9, 3, 10_000])
ITEMS = torch.tensor([2, 7, 3, 10, 7, 1, 0])


@pytest.fixture(scope="module")
def data():
    return interactions()


@pytest.fixture(scope="module")
def rows(data):
    return training_rows(data, history_length=3)


def randomised(adaptor):
    """Give every weight, those that start as zeros too, a random value, in double precision."""
    generator = torch.Generator().manual_seed(8)
    for parameter in adaptor.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return adaptor.double()


def naive(read, layers, missing, code):
    """Compute the perceptron's output of one code with loops; `read` are the vectors of its kind, and the items'."""
    own, items = read
    centre = [sum(column) / len(items) for column in zip(*items.matrix.tolist(), strict=True)]
    if code in own.ids.tolist():
        vector = own.matrix[own.ids.tolist().index(code)].tolist()
        away = [v - c for v, c in zip(vector, centre, strict=True)]
        size = math.sqrt(sum(v * v for v in away) / len(away))
        vector = [v / size for v in away]
    else:
        vector = missing.tolist()

    def linear(layer, x):
        rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        return [sum(w * v for w, v in zip(row, x, strict=True)) + bias for row, bias in rows]

    return linear(layers[2], [max(v, 0.0) for v in linear(layers[0], vector)])


def test_columns_are_perceptrons_of_the_direction_from_the_items_mean():
    read = id_vectors()
    adaptor = randomised(EmbedAdaptor(read, dim=3, hidden=5))
    assert adaptor.widths == {"embed_item": 3, "embed_user": 3}
    expected = [
        naive((read.items, read.items), adaptor.item_side, adaptor.items.missing, item)
        + naive((read.users, read.items), adaptor.user_side, adaptor.users.missing, user)
        for user, item in zip(USERS.tolist(), ITEMS.tolist(), strict=True)
    ]
    torch.testing.assert_close(adaptor(USERS, ITEMS), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_ids_without_a_vector_share_one_that_starts_as_zeros_and_is_learned():
    adaptor = EmbedAdaptor(id_vectors(), dim=3)
    lacking = torch.tensor([NO_ITEM_TEXT[0], 0, 10_000])
    users = torch.full((3,), 1)
    assert adaptor.items.missing.abs().sum() == 0
    output = adaptor(users, lacking)
    torch.testing.assert_close(output, output[:1].expand_as(output))
    with torch.no_grad():
        bias = adaptor.item_side[0].bias
        torch.testing.assert_close(output[0, :3], adaptor.item_side[2](bias.relu()))
    output.sum().backward()
    assert adaptor.items.missing.grad.abs().sum() > 0


def test_users_have_a_column_only_where_they_have_vectors():
    both = id_vectors()
    items_only = Vectors(both.items)
    for adaptor in (EmbedAdaptor(items_only, dim=3), EmbedAdaptor(both, users="none", dim=3)):
        assert adaptor.widths == {"embed_item": 3}
        assert adaptor(USERS, ITEMS).shape == (7, 3)
        assert not [name for name, _ in adaptor.named_parameters() if "user" in name]
        with pytest.warns(CoverageWarning, match="^1 of 10 items in the training rows have no text or vector"):
            adaptor.check_coverage(np.array(NO_USER_TEXT), np.arange(1, N_ITEMS + 1))
    torch.testing.assert_close(  # the items' weights do not hang on whether there are users
        EmbedAdaptor(both, dim=3)(USERS, ITEMS)[:, :3], EmbedAdaptor(items_only, dim=3)(USERS, ITEMS)
    )
    with pytest.raises(VectorsError, match="has none of users. Use users='history' with x and y"):
        EmbedAdaptor(items_only, users="vectors")


def test_vectors_are_read_by_raw_id_and_what_makes_no_sense_is_refused():
    ids = {"a": [0.0, 1.0], "b": [1.0, 0.0], "unknown": [1.0, 1.0]}
    adaptor = EmbedAdaptor(ids, item_index={"b": 2, "a": 5}, dim=2)
    assert adaptor.items.known(torch.tensor([0, 2, 5])).tolist() == [False, True, True]
    with pytest.raises(VectorsError, match="none of the 3 items has a code .the first is 'a'.. Pass item_index="):
        EmbedAdaptor(ids, item_index={"c": 1})
    for wrong in ({"users": "means"}, {"dim": 0}, {"hidden": 0}):
        with pytest.raises(VectorsError, match=f"{next(iter(wrong))}="):
            EmbedAdaptor(ids, item_index={"a": 1}, **wrong)
    with pytest.raises(CoverageError, match="none of the 1 items in the training rows has a text or vector"):
        adaptor.check_coverage(np.array([1]), np.array([3]))


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    one, same, other = (EmbedAdaptor(id_vectors(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.item_side[0].weight, other.item_side[0].weight)


# ---------------------------------------------------------------------- users by what they took


def histories(rows, **options):
    x, y = rows
    return randomised(EmbedAdaptor(Vectors(id_vectors().items), users="history", x=x, y=y, dim=3, **options))


def naive_mean(read, rows, user, without=None):
    """Return the mean direction of what a user took, None if that is nothing."""
    centre = read.items.matrix.mean(axis=0, dtype=np.float64)
    known = read.items.ids.tolist()
    taken = [
        read.items.matrix[known.index(item)] - centre
        for u, item, label in zip(rows[0]["user_id"], rows[0]["item_id"], rows[1], strict=True)
        if u == user and label == 1 and item in known and item != without
    ]
    if not taken:
        return None
    total = sum(vector / np.sqrt((vector**2).mean()) for vector in taken)
    return total / np.sqrt((total**2).mean())


def test_users_are_means_of_what_they_took_and_a_row_that_trains_does_not_see_its_item(rows):
    x, y = rows
    # Some took an item twice, user 13 took one only, user 14 one without a vector.
    more = {
        "user_id": np.concatenate([x["user_id"], x["user_id"][:3], [13, 14]]),
        "item_id": np.concatenate([x["item_id"], x["item_id"][:3], [3, NO_ITEM_TEXT[0]]]),
    }
    rows = more, np.concatenate([y, y[:3], [1, 1]])
    adaptor, read = histories(rows), id_vectors()
    assert adaptor.widths == {"embed_item": 3, "embed_user": 3}
    users, items = (torch.from_numpy(more[name]) for name in ("user_id", "item_id"))
    for training in (True, False):
        with torch.set_grad_enabled(training):
            output = adaptor(users, items)[:, 3:]
        for row, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
            mean = naive_mean(read, rows, user, item if training else None)
            vector = adaptor.histories.missing if mean is None else torch.from_numpy(mean)
            torch.testing.assert_close(output[row], adaptor.user_side(vector), rtol=1e-5, atol=1e-5)


def test_an_item_beyond_those_that_were_taken_leaves_every_mean_as_it_is():
    rows = {"user_id": np.array([1, 2, 2]), "item_id": np.array([1, 2, 3])}, np.array([1, 1, 1])
    adaptor = histories(rows)
    beyond = torch.tensor([4 + 2])  # were codes not checked, user 1 with it would be user 2 with item 2
    expected = adaptor.user_side(torch.from_numpy(naive_mean(id_vectors(), rows, 1)))
    torch.testing.assert_close(adaptor(torch.tensor([1]), beyond)[0, 3:], expected, rtol=1e-5, atol=1e-5)


def test_users_without_a_history_share_a_vector_that_is_learned(rows):
    x, y = rows
    mine = x["user_id"] == 3
    only = {name: x[name][mine] for name in ("user_id", "item_id")}, y[mine]
    adaptor = EmbedAdaptor(Vectors(id_vectors().items), users="auto", x=only[0], y=only[1])
    assert adaptor.histories.missing.abs().sum() == 0
    lacking = torch.tensor([1, 4, 10_000, -1])
    output = adaptor(lacking, torch.full((4,), 2))
    torch.testing.assert_close(output, output[:1].expand_as(output))
    output.sum().backward()
    assert adaptor.histories.missing.grad.abs().sum() > 0
    assert adaptor.histories.known(torch.tensor([3, 4])).tolist() == [True, False]
    with pytest.warns(CoverageWarning, match="^11 of 12 users and 1 of 10 items in the training rows have no text"):
        adaptor.check_coverage(np.arange(1, N_USERS + 1), np.arange(1, N_ITEMS + 1))


def test_histories_need_rows(rows):
    x, y = rows
    items = Vectors(id_vectors().items)
    with pytest.raises(VectorsError, match="needs x and y"):
        EmbedAdaptor(items, users="history", x=x)
    with pytest.raises(VectorsError, match="a label a row"):
        EmbedAdaptor(items, users="history", x=x, y=y[:-1])
    assert EmbedAdaptor(items).widths == {"embed_item": 32}
    own = EmbedAdaptor(id_vectors(), x=x, y=y)  # vectors of their own come first
    assert own.histories is None


# ---------------------------------------------------------------------- served from a table


def trained(data, rows, adaptor):
    model = build_model("deepfm", data, embedding_dim=4, seed=2, dense=adaptor.widths)
    model = augment(model, adaptor, user="user_id", item="item_id")
    model.compile(torch.optim.Adam(model.parameters(), lr=0.01), "binary_crossentropy")
    torch.manual_seed(3)
    with pytest.warns(CoverageWarning):
        model.fit(input_rows(model, rows[0]), rows[1], batch_size=16, epochs=2, verbose=0)
    return model


BUILD = {
    "vectors": lambda rows: EmbedAdaptor(id_vectors(), dim=3),
    "history": lambda rows: EmbedAdaptor(id_vectors(), users="history", x=rows[0], y=rows[1], dim=3),
    "kar": lambda rows: KARAdaptor(encoded(), dim=3),
}


@pytest.mark.parametrize("kind", BUILD)
def test_a_table_by_raw_id_has_what_the_trained_adaptor_gives_bit_for_bit(kind, data, rows, tmp_path):
    model = copy.deepcopy(trained(data, rows, BUILD[kind](rows)))
    adaptor = model.augmentation.adaptor
    item_column, user_column = (
        next(name for name, side in adaptor.sides.items() if side == kind) for kind in ("item", "user")
    )
    items = serving_table(model, "item_id", data.item_index)
    users = serving_table(model, "user_id", data.user_index)
    assert list(items) == ["item_id", item_column]
    assert items["item_id"].tolist() == data.item_ids.tolist()
    assert users["user_id"].tolist() == data.user_ids.tolist()
    everyone, everything = torch.arange(1, N_USERS + 1), torch.arange(1, N_ITEMS + 1)
    first = dict(zip(adaptor.widths, (0, 3), strict=True))
    with torch.no_grad():
        of_items = adaptor(torch.ones_like(everything), everything).numpy()
        of_users = adaptor(everyone, torch.ones_like(everyone)).numpy()
    for table, column, given in ((items, item_column, of_items), (users, user_column, of_users)):
        found = np.stack(table[column])
        np.testing.assert_array_equal(found, given[:, first[column] : first[column] + 3])
        assert found.dtype == np.float32

    # The plain model served from the tables alone, read back from a file.
    expected = model.predict(input_rows(model, rows[0]))
    for name, table in (("items", items), ("users", users)):
        table.to_parquet(tmp_path / f"{name}.parquet")
    items, users = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("items", "users"))
    plain = unaugment(model)
    served = {
        item_column: np.stack(items[item_column])[rows[0]["item_id"] - 1],
        user_column: np.stack(users[user_column])[rows[0]["user_id"] - 1],
    }
    x = {name: {**rows[0], **served}[name] for name in plain.feature_index}
    np.testing.assert_allclose(plain.predict(x), expected, rtol=1e-5)


def test_columns_that_no_side_alone_decides_have_no_table(data, rows):
    adaptor = LLMCFAdaptor(encoded(), *rows, user="user_id", item="item_id", dim=3, hidden=4, size=30)
    model = build_model("deepfm", data, embedding_dim=4, dense=adaptor.widths)
    with pytest.raises(NotAugmentedError, match="Call augment first"):
        serving_table(model, "item_id", data.item_index)
    model = augment(model, adaptor, user="user_id", item="item_id")
    with pytest.raises(
        AugmentError, match="'item_id' alone decides no column of LLMCFAdaptor .there are none.*material"
    ):
        serving_table(model, "item_id", data.item_index)
    adaptor = EmbedAdaptor(id_vectors(), users="none", dim=3)
    model = build_model("deepfm", data, embedding_dim=4, dense=adaptor.widths)
    model = augment(model, adaptor, user="user_id", item="item_id")
    for feature in ("user_id", "price"):
        with pytest.raises(AugmentError, match=f"'{feature}' alone decides no column.*embed_item: item"):
            serving_table(model, feature, data.user_index)


def test_raw_ids_may_be_huge_and_cost_no_memory():
    """Hashes as codes: the same columns as with small codes, in training and in prediction."""
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    small = {"user": np.array([1, 1, 2, 2, 3]), "item": np.array([1, 2, 2, 2, 4])}
    huge_user, huge_item = np.array([0, 7, 10**15, 2**62]), np.array([0, 5, 10**12, 10**15, 2**63 - 2])

    def columns(items, user_of, item_of):
        x = {"user_id": user_of[small["user"]], "item_id": item_of[small["item"]]}
        adaptor = EmbedAdaptor(items, x=x, y=np.ones(5), dim=2, hidden=3, seed=1)
        users, asked = (torch.from_numpy(codes) for codes in (x["user_id"], x["item_id"]))
        strangers = torch.tensor([4, 10**14])
        with torch.no_grad():
            predicted = adaptor(torch.cat([users, strangers]), torch.cat([asked, strangers]))
        return predicted, adaptor(users, asked)

    mixed = dict(zip([10**15, 5, 2**63 - 2, 10**12], rows[[2, 0, 3, 1]], strict=True))
    found = columns(mixed, huge_user, huge_item)
    plain = columns(dict(zip([1, 2, 3, 6], rows, strict=True)), np.arange(4), np.array([0, 1, 2, 3, 6]))
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)
