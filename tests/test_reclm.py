"""RecLM's adaptor against loops over rows, and what the backbone knows of items in training and in prediction."""

import contextlib
import copy
import io
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import (
    ConfigError,
    CoverageError,
    RecLMAdaptor,
    SelectiveConfig,
    TextTable,
    augment,
    materialize,
    serving_table,
    unaugment,
    wrap,
)
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.knowledge import EncodedTexts
from sllmr_plugin.zoo.deepctr import build_model, input_rows

from .text_cases import N_ITEMS, N_USERS, encoded, interactions, text_frame

IDS = {"user": "user_id", "item": "item_id"}
USERS = torch.arange(1, N_USERS + 1).repeat_interleave(N_ITEMS)
ITEMS = torch.arange(1, N_ITEMS + 1).repeat(N_USERS)
UNSEEN = 3
pytestmark = pytest.mark.filterwarnings("ignore::sllmr_plugin.CoverageWarning")


@pytest.fixture(scope="module")
def data():
    return interactions()


@pytest.fixture(scope="module")
def rows(data):
    """Training rows in which an item is drawn as a negative and never taken."""
    x, y = training_rows(data, history_length=3)
    y = np.where(x["item_id"] == UNSEEN, 0.0, y).astype(np.float32)
    assert (x["item_id"] == UNSEEN).any()
    assert set(x["item_id"][y > 0.5]) == set(range(1, N_ITEMS + 1)) - {UNSEEN}
    return x, y


def profile_frame():
    users = [("user_profile", f"u{n:02d}", f"identity: {n}; interests: sea") for n in range(N_USERS) if n % 4]
    items = [("item_profile", f"i{item:02d}", f"identity: {item}; interests: tent") for item in range(N_ITEMS - 1)]
    return pd.DataFrame(users + items, columns=["kind", "id", "text"])


class ByText:
    """Random vectors that depend on the text alone, of as many numbers as are asked for."""

    def __init__(self, dim):
        self.dim = dim

    def encode(self, texts):
        return np.stack([np.random.default_rng(sum(map(ord, t))).normal(size=self.dim) for t in texts])


def with_profiles(data, dim=5):
    frame = pd.concat([text_frame(), profile_frame()])
    return EncodedTexts.of(TextTable.read(frame, user_index=data.user_index, item_index=data.item_index), ByText(dim))


def adaptor_of(texts, rows, **options):
    return RecLMAdaptor(texts, *rows, **IDS, **{"dim": 3, "hidden": 4, **options})


def randomised(adaptor):
    generator = torch.Generator().manual_seed(1)
    for parameter in adaptor.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    return adaptor.double()


def linear(layer, x):
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def relu(x):
    return [max(v, 0.0) for v in x]


def vector(texts, kind, code, lookup):
    place = np.flatnonzero(texts.codes[kind] == code)
    return texts.vectors[kind][place[0]].astype(float).tolist() if len(place) else lookup.missing.tolist()


@pytest.mark.parametrize("of_their_own", [True, False])
def test_columns_are_those_of_a_loop_over_rows(data, rows, of_their_own):
    texts = with_profiles(data) if of_their_own else encoded()
    profiles = texts.profiles if of_their_own else texts
    adaptor = randomised(adaptor_of(texts, rows))
    assert adaptor.widths == {"reclm_user": 3, "reclm_item": 3}
    users, items = torch.cat([USERS, torch.tensor([99])]), torch.cat([ITEMS, torch.tensor([98])])
    output = adaptor(users, items).detach()

    def transformed(layers, x):
        return linear(layers[2], relu(linear(layers[0], x)))

    def fused(first, second):
        return relu(linear(adaptor.fuse[0], first + second))

    trained = sorted(set(rows[0]["user_id"].tolist()))
    expected = []
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        own = adaptor.user_table[trained.index(user) if user in trained else -1].tolist()
        of_user = fused(own, transformed(adaptor.of_profile, vector(profiles, "user", user, adaptor.users)))
        raw = transformed(adaptor.of_raw, vector(texts, "item", item, adaptor.raw))
        of_item = fused(raw, transformed(adaptor.of_profile, vector(profiles, "item", item, adaptor.items)))
        expected.append(of_user + of_item)
    torch.testing.assert_close(output, torch.tensor(expected, dtype=torch.float64))


def test_profiles_have_a_space_of_their_own_and_leave_the_other_texts_as_they_are(data):
    texts = with_profiles(data)
    alone = EncodedTexts.of(
        TextTable.read(text_frame(), user_index=data.user_index, item_index=data.item_index), ByText(5)
    )
    assert alone.profiles is None
    for kind in ("user", "item"):
        np.testing.assert_array_equal(texts.vectors[kind], alone.vectors[kind])
    assert texts.profiles.codes["user"].tolist() == [user + 1 for user in range(N_USERS) if user % 4]
    assert texts.profiles.codes["item"].tolist() == list(range(1, N_ITEMS))


def test_texts_stand_for_the_profiles_of_a_side_that_has_none(data):
    frame = pd.concat([text_frame(), profile_frame().query("kind == 'user_profile'")])
    table = TextTable.read(frame, user_index=data.user_index, item_index=data.item_index)
    profiles = EncodedTexts.of(table, ByText(5)).profiles
    assert profiles.codes["item"].tolist() == table.items.index.tolist()
    assert (table.coverage.n_user_profiles, table.coverage.n_item_profiles) == (9, 0)
    assert "and profiles of 9 users and 0 items" in str(table.coverage)


def test_ids_go_in_prediction_only_where_training_has_not_seen_the_item(rows):
    adaptor = adaptor_of(encoded(), rows, id_dropout=0.9)
    with torch.no_grad():
        expected = [0 if item in (UNSEEN, 98) else item for item in [*ITEMS.tolist(), 98]]
        both = torch.cat([USERS, torch.tensor([1])]), torch.cat([ITEMS, torch.tensor([98])])
        assert adaptor.backbone_items(*both).tolist() == expected
    never = adaptor_of(encoded(), rows, id_dropout=0.0)
    assert never.backbone_items(*both).tolist() == expected


def test_training_drops_ids_with_the_given_chance_and_others_in_the_next_step(rows):
    adaptor = adaptor_of(encoded(), rows, id_dropout=0.3)
    known = ITEMS != UNSEEN
    state, masks = torch.get_rng_state(), []
    for _ in range(300):
        got = adaptor.backbone_items(USERS, ITEMS)
        assert torch.equal(got, torch.where(got > 0, ITEMS, 0))
        assert (got[~known] == 0).all()
        # A row's fate depends on nothing but the row: not on its place, nor on the others.
        order = torch.randperm(len(ITEMS), generator=torch.Generator().manual_seed(len(masks)))[:40]
        assert torch.equal(adaptor.backbone_items(USERS[order], ITEMS[order]), got[order])
        masks.append((got == 0)[known].double())
        adaptor.next_step()
    assert torch.equal(state, torch.get_rng_state())
    masks = torch.stack(masks)  # (300 steps, 108 rows), each with a standard error of 0.0025 over all
    assert abs(masks.mean() - 0.3) < 0.01
    assert (masks.mean(dim=0) - 0.3).abs().max() < 4.5 * (0.3 * 0.7 / 300) ** 0.5
    assert (masks.mean(dim=1) - 0.3).abs().max() < 4.5 * (0.3 * 0.7 / 108) ** 0.5
    consecutive = (masks[1:] * masks[:-1]).mean()
    assert abs(consecutive - 0.09) < 0.01
    other = adaptor_of(encoded(), rows, id_dropout=0.3, seed=1)
    assert not torch.equal((other.backbone_items(USERS, ITEMS) == 0)[known].double(), masks[0])


def augmented(data, rows, **options):
    adaptor = adaptor_of(encoded(), rows, dim=8, hidden=8, **options)
    model = build_model("deepfm", data, embedding_dim=4, seed=2, dense=adaptor.widths)
    return augment(model, adaptor, **IDS)


def fit(model, rows, epochs=2):
    model.compile(torch.optim.Adam(model.parameters(), lr=0.01), "binary_crossentropy")
    torch.manual_seed(3)  # of the order of rows
    with contextlib.redirect_stdout(io.StringIO()):
        return model.fit(input_rows(model, rows[0]), rows[1], batch_size=16, epochs=epochs, verbose=0).history


def predict(model, pairs):
    users, items = pairs
    return model.predict({"user_id": users.numpy(), "item_id": items.numpy()}, batch_size=64).ravel()


def test_the_id_row_of_an_unseen_item_changes_no_prediction(data, rows):
    model = augmented(data, rows)
    fit(model, rows)
    before = predict(model, (USERS, ITEMS))
    tables = model.embedding_dict["item_id"], model.linear_model.embedding_dict["item_id"]
    for item, changes in ((UNSEEN, False), (5, True)):
        with torch.no_grad():
            for table in tables:
                table.weight[item] += 10.0
        moved = predict(model, (USERS, ITEMS)) != before
        assert moved[ITEMS == item].any() == changes
        assert not moved[(ITEMS != item).numpy()].any()


def test_training_steps_count_and_copies_go_on_where_the_model_was(data, rows):
    model = augmented(data, rows)
    epochs = 2
    fit(model, rows, epochs)
    steps = epochs * -(-len(rows[1]) // 16)
    assert model.augmentation.adaptor._step == steps
    predict(model, (USERS, ITEMS))
    assert model.augmentation.adaptor._step == steps
    mask = model.augmentation.adaptor.backbone_items(USERS, ITEMS)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.augmentation.adaptor.backbone_items(USERS, ITEMS), mask)


def test_lambda_zero_beside_extra_rows_is_the_augmented_model_bit_for_bit(data, rows):
    scores = pd.DataFrame(
        [(user, item, (user * item) % 7 / 7) for user in range(1, 13) for item in range(1, 11) if (user + item) % 2],
        columns=["user_id", "item_id", "score"],
    )
    alone, wrapped = augmented(data, rows), augmented(data, rows)
    wrapped = wrap(wrapped, scores, config=SelectiveConfig(weight=0.0, gate="none"), **IDS)
    history = fit(alone, rows)["loss"]
    assert fit(wrapped, rows)["loss"] == history
    for key, value in alone.state_dict().items():
        assert torch.equal(wrapped.state_dict()[key], value), key
    np.testing.assert_array_equal(predict(alone, (USERS, ITEMS)), predict(wrapped, (USERS, ITEMS)))


def test_the_plain_model_is_served_with_the_columns_and_codes_that_it_was_given(data, rows):
    model = augmented(data, rows)
    fit(model, rows)
    expected = predict(model, (USERS, ITEMS))
    x = {"user_id": USERS.numpy(), "item_id": ITEMS.numpy()}
    columns = materialize(model, x)
    codes = np.where(ITEMS == UNSEEN, 0, ITEMS)
    np.testing.assert_array_equal(columns["item_id"], codes)
    table = serving_table(model, "item_id", data.item_index)
    assert table["item_id_code"].tolist() == [0 if code == UNSEEN else code for code in range(1, N_ITEMS + 1)]
    assert "user_id_code" not in serving_table(model, "user_id", data.user_index)
    plain = unaugment(model)
    np.testing.assert_allclose(plain.predict({**x, **columns}).ravel(), expected, atol=1e-6)
    assert np.abs(plain.predict({**columns, **x}).ravel() - expected)[ITEMS == UNSEEN].max() > 1e-4


def test_what_cannot_be_used_is_refused_with_the_remedy(rows):
    x, y = rows
    from_zero = {**x, "item_id": np.where(x["item_id"] == 5, 0, x["item_id"])}
    with pytest.raises(ConfigError, match="code 0 in column 'item_id'.*begin with 1"):
        RecLMAdaptor(encoded(), from_zero, y, **IDS)
    for options in ({"dim": 0}, {"hidden": 0}, {"id_dropout": 1.0}, {"id_dropout": -0.1}):
        with pytest.raises(ConfigError, match="Change them"):
            adaptor_of(encoded(), rows, **options)
    adaptor = adaptor_of(encoded(), rows)
    with pytest.raises(CoverageError, match="none of the 1 items"):
        adaptor.check_coverage(np.array([1]), np.array([77]))
