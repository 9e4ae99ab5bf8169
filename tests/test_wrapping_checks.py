"""What is found out about a script, its ids, features and outputs, where the regularizer would do nothing or harm."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from deepctr_torch.callbacks import History
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DIEN, AutoInt, DeepFM

from sllmr_plugin import CoverageWarning, SelectiveConfig, unwrap, wrap
from sllmr_plugin.errors import (
    CoverageError,
    DataError,
    InactiveWarning,
    SLLMRError,
    SLLMRWarning,
    UnsupportedModelError,
)
from sllmr_plugin.regularizer.uncertainty import variance_share

N_USERS, N_ITEMS, N_ROWS = 20, 30, 600
COLUMNS = [SparseFeat("user_id", N_USERS, 4), SparseFeat("item_id", N_ITEMS, 4)]
GLOBAL = SelectiveConfig(gate="none", weight=0.1)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    x = {"user_id": rng.integers(0, N_USERS, N_ROWS), "item_id": rng.integers(0, N_ITEMS, N_ROWS)}
    return x, (rng.random(N_ROWS) < 0.4).astype(float)


@pytest.fixture
def scores():
    """Six scored items of every user, all users and all items among them."""
    rng = np.random.default_rng(1)
    pairs = [(u, (5 * u + 7 * k) % N_ITEMS) for u in range(N_USERS) for k in range(6)]
    return pd.DataFrame([(u, i, rng.random()) for u, i in pairs], columns=["user_id", "item_id", "score"])


def deepfm(columns=COLUMNS, cls=DeepFM, **options):
    torch.manual_seed(0)
    return cls(columns, columns, dnn_hidden_units=(8,), device="cpu", **options)


def trained(model, scores, x, y, *, loss="binary_crossentropy", config=GLOBAL, epochs=1, **options):
    model = wrap(model, scores, user="user_id", item="item_id", config=config, **options)
    model.compile("adam", loss)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


# ---------------------------------------------------------------------- codes that are off by one


def test_codes_that_agree_are_no_reason_to_warn(rows, scores):
    trained(deepfm(), scores, *rows)  # any warning of the package is an error here
    some = scores[scores.user_id.between(1, N_USERS - 2)]
    trained(deepfm(), some, *rows)


def test_ids_that_count_from_1_meet_codes_that_count_from_0(rows, scores):
    with pytest.warns(CoverageWarning, match="user ids run from 1 to 20, the model's codes from 0 to 19"):
        wrap(deepfm(), scores.assign(user_id=scores.user_id + 1), user="user_id", item="item_id")
    with pytest.warns(CoverageWarning, match=r"item ids run from 1 to 30, .* item_index=") as told:
        wrap(deepfm(), scores.assign(item_id=scores.item_id + 1), user="user_id", item="item_id")
    assert len(told) == 1
    # The remedy works: nothing is said, and the codes are the rows' own.
    index = {raw: raw - 1 for raw in range(1, N_USERS + 1)}
    trained(deepfm(), scores.assign(user_id=scores.user_id + 1), *rows, user_index=index)


@pytest.mark.parametrize(("in_rows", "in_table", "lone"), [(1, 0, 0), (0, 1, N_USERS), (2, 1, 1)])
def test_codes_of_a_larger_vocabulary_that_are_off_by_one(rows, scores, in_rows, in_table, lone):
    x, y = rows
    columns = [SparseFeat("user_id", N_USERS + 5, 4), COLUMNS[1]]
    table = scores.assign(user_id=scores.user_id + in_table)
    with pytest.warns(CoverageWarning, match=rf"user codes look one off: it has code {lone}, which no training row"):
        trained(deepfm(columns), table, {**x, "user_id": x["user_id"] + in_rows}, y)


def test_codes_of_a_catalogue_with_gaps_that_are_off_by_one(rows, scores):
    x, y = rows
    x = {**x, "item_id": np.where(x["item_id"] == 4, 5, x["item_id"]) + 1}  # padding is 0, item 5 never trains
    with pytest.warns(CoverageWarning, match="item codes look one off: it has code 0, .* lacks code 30"):
        trained(deepfm([COLUMNS[0], SparseFeat("item_id", N_ITEMS + 1, 4)]), scores, x, y)


def test_a_user_who_never_trains_is_no_shift(rows, scores):
    x, y = rows
    columns = [SparseFeat("user_id", N_USERS + 1, 4), COLUMNS[1]]
    newcomer = scores[scores.user_id == 3].assign(user_id=N_USERS)
    trained(deepfm(columns), pd.concat([scores, newcomer]), x, y)


# ---------------------------------------------------------------------- features of the item


def test_genres_of_the_item_are_missed_in_item_features(rows, scores):
    x, y = rows
    genres = np.random.default_rng(2).integers(0, 4, (N_ITEMS, 3))[x["item_id"]]
    genres[5] = 3  # a dirty row
    columns = [*COLUMNS, VarLenSparseFeat(SparseFeat("genres", 5, 4), 3)]
    with pytest.warns(CoverageWarning, match=r"decides genres, .*item_features=\['item_id', 'genres'\]"):
        trained(deepfm(columns), scores, {**x, "genres": genres}, y)
    trained(deepfm(columns), scores, {**x, "genres": genres}, y, item_features=["item_id", "genres"])


def test_features_of_user_and_item_together_are_named(rows, scores):
    x, y = rows
    affinity = np.random.default_rng(3).integers(0, 9, (N_USERS, N_ITEMS))[x["user_id"], x["item_id"]]
    columns = [*COLUMNS, SparseFeat("affinity", 9, 4)]
    with pytest.warns(CoverageWarning, match="affinity depend on user and item together"):
        trained(deepfm(columns), scores, {**x, "affinity": affinity}, y)


# ---------------------------------------------------------------------- outputs


class Logits(DeepFM):
    """A model for a loss that takes logits."""

    def forward(self, X):
        return 50 * torch.logit(super().forward(X), eps=1e-6) + 3


class TwoClasses(DeepFM):
    """A model with a softmax over two classes."""

    def forward(self, X):
        yes = super().forward(X)
        return torch.cat([1 - yes, yes], dim=1)


def test_outputs_that_are_no_probabilities_are_refused(rows, scores):
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    with pytest.raises(UnsupportedModelError, match=r"outside \[0, 1\] \(logits"):
        trained(deepfm(cls=Logits), scores, *rows, loss=loss)


def test_two_columns_of_a_softmax_are_refused(rows, scores):
    with pytest.raises(UnsupportedModelError, match="2 outputs a row for 1 task"):
        trained(deepfm(cls=TwoClasses), scores, *rows, loss=lambda p, t, reduction: -p[:, 1].log().sum())


@pytest.mark.parametrize("mode", ["global", "pointwise_mse"])
def test_a_model_that_does_not_depend_on_its_input_is_told_of(rows, scores, mode):
    """At its smallest weights a DIEN gives one output for everything, and an epoch does not change that."""
    x, y = rows
    columns = [
        *COLUMNS,
        VarLenSparseFeat(SparseFeat("hist_item_id", N_ITEMS, 4, embedding_name="item_id"), 3, length_name="length"),
    ]
    x = {**x, "hist_item_id": np.tile(x["item_id"][::-1, None], 3), "length": np.full(N_ROWS, 3)}
    config = SelectiveConfig.of_mode(mode, {"weight": 0.1})
    with pytest.warns(InactiveWarning, match=r"scores all items alike.*init_std=0\.01"):
        trained(DIEN(columns, ["item_id"]), scores, x, y, config=config)
    trained(DIEN(columns, ["item_id"], init_std=0.1), scores, x, y, config=config)  # as it says


# ---------------------------------------------------------------------- regression


def test_a_regression_follows_the_order_of_the_scores(rows, scores):
    x, _ = rows
    ratings = np.random.default_rng(4).integers(1, 6, N_ROWS).astype(float)

    def agreement(model):
        score = model.predict({name: scores[name].to_numpy() for name in ("user_id", "item_id")}).ravel()
        pairs = scores.assign(model=score).merge(scores.assign(model=score), on="user_id")
        pairs = pairs[pairs.score_x > pairs.score_y]
        return float((pairs.model_x > pairs.model_y).mean())

    def fitted(weight):
        config = SelectiveConfig(gate="none", weight=weight, users_per_step=15)
        return trained(deepfm(task="regression"), scores, x, ratings, loss="mse", config=config, epochs=40)

    plain, followed = fitted(0), fitted(20.0)
    assert agreement(plain) < 0.6
    assert agreement(followed) > 0.7
    assert np.isfinite(followed.history.history["sllmr_loss"]).all()
    unwrap(followed)
    assert type(followed) is DeepFM


def test_every_rating_is_an_interaction(rows, scores):
    x, _ = rows
    low = np.full(N_ROWS, 0.2)  # below what marks a click
    config = SelectiveConfig(gate="fixed", weight=0.1)
    model = trained(deepfm(task="regression"), scores, x, low, loss="mse", config=config)
    assert not model.sllmr.status().training["users without a training row"]
    assert model.sllmr.epochs[0]["sllmr_gate_cold"] != model.sllmr.epochs[0]["sllmr_gate_cold"]  # nan: nobody is cold


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "joint"}, r"uncertainty='confidence' is computed from a probability.*'mc_dropout'"),
        ({"loss": "kd"}, "loss='kd' needs a probability"),
        ({"loss": "bce"}, "loss='bce' needs a probability"),
        ({"gate": "none", "score_space": "probability"}, "score_space='probability' needs a probability"),
    ],
)
def test_settings_that_need_a_probability_are_refused_for_a_regression(scores, changes, message):
    with pytest.raises(SLLMRError, match=message):
        wrap(
            deepfm(task="regression"),
            scores,
            user="user_id",
            item="item_id",
            config=SelectiveConfig(**changes),
        )


def test_a_gate_of_a_regression_goes_by_the_variance_of_dropout(rows, scores):
    x, y = rows
    config = SelectiveConfig(gate="joint", uncertainty="mc_dropout", weight=0.1)
    model = trained(deepfm(task="regression", dnn_dropout=0.3), scores, x, 4 * y, loss="mse", config=config)
    assert 0 < model.sllmr.epochs[0]["sllmr_gate"] < 1


def test_variance_share_is_one_half_where_passes_differ_as_much_as_labels():
    samples = torch.tensor([[0.0, 10.0, 5.0], [2.0, 16.0, 5.0]])  # variances: 1, 9, 0
    assert variance_share(samples, 1.0).tolist() == pytest.approx([1 / 2, 9 / 10, 0])
    assert variance_share(samples[:, 1:2], 1.0).tolist() == pytest.approx([9 / 10])  # regardless of the other rows
    assert variance_share(torch.ones(2, 2), 0.0).tolist() == [0, 0]


# ---------------------------------------------------------------------- scripts of one's own


def test_a_loop_of_ones_own_is_told_once_that_it_adds_nothing(scores):
    model = wrap(deepfm(), scores, user="user_id", item="item_id", config=GLOBAL)
    model.compile("adam", "binary_crossentropy")
    with pytest.warns(InactiveWarning, match="outside model.fit"):
        model.get_regularization_loss()
    model.get_regularization_loss()  # a second warning would be an error here


@pytest.mark.parametrize("off", ["weight", "disabled", "no_grad"])
def test_nothing_is_said_where_nothing_is_to_be_added(scores, off):
    from sllmr_plugin import disabled

    config = SelectiveConfig(gate="none", weight=0.0 if off == "weight" else 0.1)
    model = wrap(deepfm(), scores, user="user_id", item="item_id", config=config)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SLLMRWarning)
        if off == "disabled":
            with disabled(model):
                model.get_regularization_loss()
        else:
            with torch.set_grad_enabled(off != "no_grad"):
                model.get_regularization_loss()


class Scaled(DeepFM):
    """A forward with more arguments than the library's."""

    def forward(self, X, scale=1.0, *, shift=0.0):
        return super().forward(X) * scale + shift


def test_forward_passes_further_arguments_on(scores):
    model = deepfm(cls=Scaled)
    X = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = model(X, 0.5, shift=0.25)
    wrap(model, scores, user="user_id", item="item_id", config=GLOBAL)
    torch.testing.assert_close(model(X, 0.5, shift=0.25), expected, rtol=0, atol=0)


@pytest.mark.parametrize("scheduler", ["LambdaLR", "StepLR"])
def test_a_scheduler_made_before_wrap_goes_on(rows, scores, scheduler):
    model = deepfm()
    model.compile("adam", "binary_crossentropy")
    make = {
        "LambdaLR": lambda: torch.optim.lr_scheduler.LambdaLR(model.optim, lambda epoch: 0.5**epoch),
        "StepLR": lambda: torch.optim.lr_scheduler.StepLR(model.optim, 1, gamma=0.5),
    }[scheduler]
    schedule = make()
    plain_groups = [len(group["params"]) for group in model.optim.param_groups]
    config = SelectiveConfig(gate="joint", weight=0.1)
    wrap(model, scores, user="user_id", item="item_id", config=config)
    before = model.sllmr.gate.weight.detach().clone()
    rates = []

    class Step(History):
        def on_epoch_end(self, epoch, logs=None):
            schedule.step()
            rates.append([group["lr"] for group in self.model.optim.param_groups])

    model.fit(*rows, batch_size=64, epochs=2, verbose=0, callbacks=[Step()])
    assert rates == [[0.0005], [0.00025]]
    assert not torch.equal(model.sllmr.gate.weight, before)  # the gate is trained all the same
    unwrap(model)
    assert [len(group["params"]) for group in model.optim.param_groups] == plain_groups
    assert len(model.optim.state) <= sum(plain_groups)


def test_frames_of_polars_are_taken(rows, scores):
    polars = pytest.importorskip("polars")
    with_pandas = trained(deepfm(), scores, *rows)
    with_polars = trained(deepfm(), polars.from_pandas(scores), *rows)
    for one, other in zip(with_pandas.parameters(), with_polars.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.5])
def test_ids_that_are_no_codes_are_named_by_row(rows, scores, value):
    x, y = rows
    x = {**x, "user_id": np.where(np.arange(N_ROWS) == 7, value, x["user_id"])}
    with pytest.raises(DataError, match=rf"training row 7 \(counted from 0\) has user_id {value}"):
        trained(deepfm(), scores, x, y)


def test_constant_scores_have_no_order(rows, scores):
    with pytest.raises(CoverageError, match=r"all 120 scores of the table are 0\.5, so no two items"):
        trained(deepfm(), scores.assign(score=0.5), *rows)


def test_an_uncompiled_model_says_what_to_call(rows, scores):
    model = wrap(deepfm(), scores, user="user_id", item="item_id", config=GLOBAL)
    with pytest.raises(SLLMRError, match="Call model.compile"):
        model.fit(*rows, epochs=1, verbose=0)


def test_no_epoch_at_all_is_said(rows, scores):
    model = wrap(deepfm(), scores, user="user_id", item="item_id", config=GLOBAL)
    model.compile("adam", "binary_crossentropy")
    with pytest.warns(InactiveWarning, match=r"fit\(epochs=0, initial_epoch=0\) trains nothing"):
        model.fit(*rows, epochs=0, verbose=0)


def test_a_numpy_task_is_a_task_and_messages_show_plain_numbers(scores):
    model = wrap(deepfm(cls=AutoInt), scores, user="user_id", item="item_id", task=np.int64(0))
    assert type(model.sllmr.task) is int
    with pytest.raises(SLLMRError) as error:
        wrap(deepfm(), scores, user="user_id", item="item_id", task=np.int64(3))
    assert "np.int64" not in str(error.value)
