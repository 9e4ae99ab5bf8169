"""What `wrap` refuses and how, where the gate's parameters live, and what the callback reports."""

import copy
import io
import types
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from deepctr_torch.callbacks import EarlyStopping, ModelCheckpoint
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DeepFM

from sllmr_plugin import (
    AlreadyWrappedError,
    CoverageError,
    CoverageWarning,
    DataError,
    GateCollapsedWarning,
    HookNeverFiredError,
    InactiveWarning,
    NoPairsError,
    NotWrappedError,
    ScoreTable,
    SelectiveConfig,
    SLLMRCallback,
    SLLMRError,
    UnsupportedModelError,
    WrapError,
    disabled,
    unwrap,
    wrap,
)
from sllmr_plugin.backends.optimizer import leave_group, sync_group

from .matrix import backbones as zoo

DEEPFM = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")
DIN = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DIN")
MMOE = next(backbone for backbone in zoo.BACKBONES if backbone.name == "MMOE")
ON = SelectiveConfig(gate="none", weight=0.5)


def ready(config=ON, backbone=DEEPFM, scores=None, **options):
    model = zoo.wrapped(backbone, zoo.build(backbone, **options), config, scores)
    zoo.compile_model(backbone, model)
    return model


# ---------------------------------------------------------------------- refusals


def test_all_problems_come_at_once_and_nothing_is_touched():
    model = zoo.build(MMOE)
    before = dict(vars(model))
    with pytest.raises(WrapError) as caught:
        wrap(
            model,
            zoo.score_frame().drop(columns="score"),
            user="user",
            item="item_id",
            item_features=["categry"],
            config=SelectiveConfig(),
        )
    text = str(caught.value)
    assert len(caught.value.problems) == 4  # the features' names hide what could be said of an item table
    for fragment in ("no feature 'user'", "no feature 'categry'", "2 tasks", "has no column 'score' among"):
        assert fragment in text
    assert vars(model) == before


def test_table_and_gate_and_item_table_are_checked_together():
    frame = zoo.score_frame().assign(item_id=lambda f: f["item_id"] + 1000)
    with pytest.raises(WrapError) as caught:
        wrap(
            zoo.build(DEEPFM),
            frame,
            user="user_id",
            item="item_id",
            item_features=["item_id", "category"],
            item_table=pd.DataFrame({"item_id": [1]}),
            config=SelectiveConfig(gate="disagreement"),
        )
    assert [("vocabulary" in p, "needs probes" in p, "lacks the column" in p) for p in caught.value.problems] == [
        (False, True, False),
        (True, False, False),
        (False, False, True),
    ]


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"item_features": "category"}, "list of feature names"),
        ({"task": "click"}, "not an index"),
        ({"config": {"mode": "none"}}, "Pass a SelectiveConfig"),
        ({"item_table": "items.csv"}, "Pass a DataFrame"),
        ({"user": "item_id"}, "both 'item_id'"),
        ({"user": "price"}, "is not a SparseFeat"),
        ({"item_features": ["user_id", "item_id"]}, "holds the user feature"),
        ({"task": 1}, "one output"),
    ],
)
def test_wrong_names_are_refused(change, fragment):
    names = {"user": "user_id", "item": "item_id", **change}
    with pytest.raises(WrapError, match=fragment):
        wrap(zoo.build(DEEPFM), zoo.score_frame(), **names)


def test_task_out_of_range_is_refused():
    with pytest.raises(WrapError, match="from 0 to 1"):
        wrap(zoo.build(MMOE), zoo.score_frame(), user="user_id", item="item_id", task=2)


def test_wrapping_twice_is_refused():
    model = ready()
    with pytest.raises(AlreadyWrappedError, match="configure"):
        wrap(model, zoo.score_frame(), user="user_id", item="item_id")


def test_other_models_are_refused():
    with pytest.raises(UnsupportedModelError, match="neither a DeepCTR-Torch nor a FuxiCTR model"):
        wrap(torch.nn.Linear(2, 1), zoo.score_frame(), user="user_id", item="item_id")


def test_unwrap_and_disabled_want_a_wrapped_model():
    with pytest.raises(NotWrappedError, match="Call wrap first"):
        unwrap(zoo.build(DEEPFM))
    with pytest.raises(NotWrappedError), disabled(zoo.build(DEEPFM)):
        pass


def test_outputs_of_many_classes_are_refused():
    model = zoo.build(DEEPFM)
    model.out.task = "multiclass"
    with pytest.raises(WrapError, match="task='multiclass'.*task='binary' or task='regression'"):
        wrap(model, zoo.score_frame(), user="user_id", item="item_id")


def test_data_parallel_is_refused():
    model = zoo.build(DEEPFM)
    model.gpus = [0, 1]
    with pytest.raises(WrapError, match="DataParallel"):
        wrap(model, zoo.score_frame(), user="user_id", item="item_id")


def test_mc_dropout_without_dropout_is_refused():
    columns = [SparseFeat("user_id", 40, 4), SparseFeat("item_id", 40, 4)]
    model = DeepFM(columns, columns)
    with pytest.raises(WrapError, match="dnn_dropout"):
        wrap(model, zoo.score_frame(), user="user_id", item="item_id", config=SelectiveConfig(uncertainty="mc_dropout"))


def test_ids_that_float32_cannot_tell_apart_are_refused():
    columns = [SparseFeat("user_id", 40, 1), SparseFeat("item_id", 2**24 + 2, 1)]
    model = DeepFM(columns, columns, dnn_hidden_units=())
    with pytest.raises(WrapError, match="collide"):
        wrap(model, zoo.score_frame(), user="user_id", item="item_id")


def test_tensorflow_era_deepctr_torch_is_refused(monkeypatch):
    import deepctr_torch

    monkeypatch.setattr(deepctr_torch, "__version__", "0.2.9")
    with pytest.raises(WrapError, match="TensorFlow"):
        wrap(zoo.build(DEEPFM), zoo.score_frame(), user="user_id", item="item_id")


def test_scores_outside_the_vocabulary_are_refused_or_reported():
    frame = zoo.score_frame().assign(item_id=lambda f: f["item_id"] + 1000)
    with pytest.raises(CoverageError, match="vocabulary"):
        wrap(zoo.build(DEEPFM), frame, user="user_id", item="item_id")
    mixed = pd.concat([frame.head(3), zoo.score_frame()])
    model = wrap(zoo.build(DEEPFM), mixed, user="user_id", item="item_id")
    assert model.sllmr.status().table.dropped == {"code outside the model's vocabulary": 3}


def test_a_score_table_with_indexes_is_refused():
    table = ScoreTable.read(zoo.score_frame())
    with pytest.raises(WrapError, match=r"ScoreTable\.read"):
        wrap(zoo.build(DEEPFM), table, user="user_id", item="item_id", user_index={1: 1})
    assert wrap(zoo.build(DEEPFM), table, user="user_id", item="item_id").sllmr.table.coverage == table.coverage


# ---------------------------------------------------------------------- training


def test_raw_ids_are_mapped():
    codes = zoo.score_frame()
    raw = codes.assign(user_id="u" + codes["user_id"].astype(str), item_id="i" + codes["item_id"].astype(str))
    options = {
        "user_index": {f"u{code}": code for code in range(1, zoo.N_USERS + 1)},
        "item_index": pd.Series({f"i{code}": code for code in range(1, zoo.N_ITEMS + 1)}),
    }
    states = []
    for frame, more in ((codes, {}), (raw, options)):
        model = wrap(
            zoo.build(DEEPFM),
            frame,
            user="user_id",
            item="item_id",
            config=ON,
            item_features=["item_id", "category", "price"],
            **more,
        )
        zoo.compile_model(DEEPFM, model)
        zoo.fit(DEEPFM, model)
        states.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_history_holds_the_account():
    model = ready(SelectiveConfig(gate="fixed", weight=0.5, cold_threshold=4))
    history = zoo.fit(DEEPFM, model, epochs=3).history
    for key in (
        "loss",
        "sllmr_loss",
        "sllmr_pairs",
        "sllmr_coverage",
        "sllmr_gate",
        "sllmr_gate_cold",
        "sllmr_gate_tail",
        "sllmr_gate_neither",
    ):
        assert len(history[key]) == 3, key
    # the fixed gate by definition
    assert history["sllmr_gate_cold"] == [1.0] * 3
    assert history["sllmr_gate_neither"] == [0.0] * 3
    assert all(0 < value < 1 for value in history["sllmr_gate"])
    assert model.sllmr.status().epochs[1]["sllmr_loss"] == history["sllmr_loss"][1]
    assert "not calibrated" in str(model.sllmr.status())


def test_seeds_decide_the_draws_and_repeated_fits_go_on():
    def weights(config, fits=1):
        model = ready(config)
        for _ in range(fits):
            zoo.fit(DEEPFM, model, epochs=1)
        return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])

    assert torch.equal(weights(ON.replace(seed=1)), weights(ON.replace(seed=1)))
    assert not torch.equal(weights(ON.replace(seed=1)), weights(ON.replace(seed=2)))
    model = ready(ON.replace(seed=1))
    sessions = [
        model._open_session(
            {"x": zoo.inputs(model), "y": zoo.labels(DEEPFM), "validation_split": 0.0, "validation_data": None}
        )
        for _ in range(2)
    ]
    first, second = (session._sampler.draw(5).users for session in sessions)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("compile_first", [True, False])
def test_the_joint_gate_trains_whenever_compile_happens(compile_first):
    model = zoo.build(DEEPFM)
    if compile_first:
        zoo.compile_model(DEEPFM, model)
    model = zoo.wrapped(DEEPFM, model, SelectiveConfig(gate="joint", weight=1.0))
    if not compile_first:
        zoo.compile_model(DEEPFM, model)
    schedule = torch.optim.lr_scheduler.LambdaLR(model.optim, lambda epoch: 0.5)
    zoo.fit(DEEPFM, model, epochs=2)
    assert model.sllmr.gate.bias.item() < 0  # it starts at 0 and the published objective can only close it
    assert len(model.optim.param_groups) == 2
    schedule.step()  # a scheduler made before fit knows the gate's group
    zoo.fit(DEEPFM, model, epochs=1)
    assert len(model.optim.param_groups) == 2
    model.sllmr.configure(weight=0.0)
    model.sllmr.configure(weight=1.0)
    zoo.fit(DEEPFM, model, epochs=1)
    assert len(model.optim.param_groups) == 2
    unwrap(model)
    assert len(model.optim.param_groups) == 1
    assert set(model.optim.state) <= set(model.parameters())


def test_a_collapsed_joint_gate_warns():
    model = ready(SelectiveConfig(gate="joint", weight=1.0))
    model.sllmr.gate.bias.data.fill_(-8.0)
    with pytest.warns(GateCollapsedWarning, match="can only close"):
        zoo.fit(DEEPFM, model, epochs=1)


def test_probes_fit_the_gate_and_never_train():
    frame = zoo.score_frame()
    last = frame.groupby("user_id").tail(1).index
    frame.loc[last, "kind"] = "probe"
    for score, region in ((0.99, "open"), (0.001, "closed")):
        probed = frame.assign(score=np.where(frame["kind"] == "probe", score, frame["score"]))
        model = ready(SelectiveConfig(weight=0.5), scores=probed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GateCollapsedWarning)
            history = zoo.fit(DEEPFM, model).history
        status = model.sllmr.status()
        assert status.gate == "DisagreementGate"
        assert status.calibrated
        assert (history["sllmr_gate"][-1] > 0.4) == (region == "open")
        assert (history["sllmr_gate"][-1] == 0) == (region == "closed")
        assert status.table.n_probes == len(last)


def test_a_step_without_pairs_is_no_trouble_for_mc_dropout():
    frame = zoo.score_frame()
    config = SelectiveConfig(gate="joint", weight=0.5, user_source="batch", uncertainty="mc_dropout", mc_samples=2)
    config = config.replace(pairs_per_user=1)
    model = ready(config, scores=frame[frame["user_id"] == 5])
    history = zoo.fit(DEEPFM, model, epochs=1).history
    n_batches_with_user_5 = history["sllmr_pairs"][0]  # one pair of the user in each
    assert 0 < n_batches_with_user_5 <= 5


def test_a_fit_of_warm_up_only_warns():
    with pytest.warns(InactiveWarning, match="initial_epoch"):
        zoo.fit(DEEPFM, ready(ON.replace(warmup_epochs=1)), epochs=1)


def test_a_loop_over_epochs_gets_past_the_warm_up():
    model = ready(ON.replace(warmup_epochs=1))
    with pytest.warns(InactiveWarning):
        zoo.fit(DEEPFM, model, epochs=1)
    assert zoo.fit(DEEPFM, model, initial_epoch=1, epochs=2).history["sllmr_pairs"][0] > 0


def test_ids_outside_the_vocabulary_in_the_training_rows_are_refused():
    model = ready()
    x = zoo.inputs(model)
    x["user_id"][17] = 1000
    with pytest.raises(DataError, match="training row 17 .* has user_id 1000, but .* 0 to 30"):
        model.fit(x, zoo.labels(DEEPFM), batch_size=48, epochs=1, verbose=0)


def test_asking_for_a_calibrated_gate_without_probes_is_refused():
    with pytest.raises(SLLMRError, match="needs probes"):
        wrap(
            zoo.build(DEEPFM),
            zoo.score_frame(),
            user="user_id",
            item="item_id",
            config=SelectiveConfig(gate="disagreement"),
        )


def test_validation_rows_are_not_looked_at():
    model = ready()
    x, y = zoo.inputs(model), zoo.labels(DEEPFM)
    users = x["user_id"]
    late = np.flatnonzero(np.isin(users, [29, 30]))
    order = np.concatenate([np.setdiff1d(np.arange(len(users)), late), late])  # users 29 and 30 only at the end
    split = {name: values[order] for name, values in x.items()}
    torch.manual_seed(3)
    model.fit(split, y[order], batch_size=48, epochs=1, verbose=0, validation_split=len(late) / len(users))
    assert model.sllmr.training["users without a training row"] == 2


def test_unlisted_item_features_are_noticed():
    model = wrap(zoo.build(DEEPFM), zoo.score_frame(), user="user_id", item="item_id", config=ON)
    zoo.compile_model(DEEPFM, model)
    with pytest.warns(CoverageWarning, match=r"category, price.*item_features=\['item_id', 'category', 'price'\]"):
        zoo.fit(DEEPFM, model, epochs=1)


def test_din_takes_its_attended_features_as_item_side():
    model = wrap(zoo.build(DIN), zoo.score_frame(), user="user_id", item="item_id")
    assert model.sllmr.features.item_features == ("item_id", "category")


def test_a_table_of_which_few_rows_read_can_be_used_warns_in_wrap_and_fit():
    scores = zoo.score_frame()
    users = scores["user_id"].unique().tolist()
    padded = np.arange(len(scores)) % 3 > 0
    scores["user_id"] = [f"u{user}{' ' * int(blank)}" for user, blank in zip(scores["user_id"], padded, strict=True)]
    lost = f"{padded.sum()}: user_id not in user_index, except for the blanks around it"
    names = {"user": "user_id", "item": "item_id", "item_features": ["item_id", "category", "price"]}
    with pytest.warns(CoverageWarning, match=f"^only {(~padded).sum()} of the {len(scores)} .* are kept .{lost}"):
        model = wrap(zoo.build(DEEPFM), scores, **names, user_index={f"u{user}": user for user in users}, config=ON)
    zoo.compile_model(DEEPFM, model)
    with pytest.warns(CoverageWarning, match=f"^only [0-9]+ of the [0-9]+ scored pairs read can be used .{lost}"):
        zoo.fit(DEEPFM, model, epochs=1)


def test_items_without_columns_are_left_out_unless_an_item_table_has_them():
    x, _ = zoo.samples()
    unseen = zoo.N_ITEMS + 1
    extra = pd.DataFrame({"user_id": [1, 2], "item_id": [unseen, unseen], "score": [0.99, 0.98], "kind": "candidate"})
    frame = pd.concat([zoo.score_frame(), extra])
    columns = [SparseFeat("user_id", 40, 4), SparseFeat("item_id", 40, 4), SparseFeat("category", 10, 4)]
    inputs = {name: x[name].copy() for name in ("user_id", "item_id", "category")}
    table = pd.DataFrame({"item_id": [unseen], "category": [2]})
    usable = []
    for item_table in (None, table):
        model = wrap(
            DeepFM(columns, columns),
            frame,
            user="user_id",
            item="item_id",
            item_features=["item_id", "category"],
            item_table=item_table,
            config=ON,
        )
        model.compile("adam", "binary_crossentropy")
        model.fit(dict(inputs), zoo.samples()[1].copy(), batch_size=48, epochs=1, verbose=0)
        usable.append(model.sllmr.training["items without known columns"])
    assert usable == [1, 0]


# ---------------------------------------------------------------------- doing nothing is loud


def test_scores_without_any_usable_user_are_an_error():
    frame = zoo.score_frame()
    frame["score"] = frame["user_id"] / 100  # ties within every user
    model = ready(scores=frame)
    with pytest.raises(CoverageError, match="no two different scores"):
        zoo.fit(DEEPFM, model)


@pytest.mark.parametrize("unknown", [4, 5])
def test_fewer_than_half_of_the_scored_pairs_usable_warns(unknown):
    """Four users with training rows have two scores each; so has every one of the users without."""
    users = [*range(1, 5), *range(zoo.N_USERS + 1, zoo.N_USERS + 1 + unknown)]
    frame = pd.DataFrame(
        {"user_id": np.repeat(users, 2), "item_id": [1, 2] * len(users), "score": [0.1, 0.9] * len(users)}
    )
    columns = [SparseFeat("user_id", 60, 4), SparseFeat("item_id", 40, 4)]
    model = wrap(DeepFM(columns, columns), frame, user="user_id", item="item_id", config=ON)
    model.compile("adam", "binary_crossentropy")
    x, y = zoo.samples()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CoverageWarning)
        model.fit({name: x[name] for name in ("user_id", "item_id")}, y, batch_size=48, epochs=1, verbose=0)
    told = [str(warning.message) for warning in told if warning.category is CoverageWarning]
    if unknown == 4:  # 8 of 16: half is enough
        assert told == []
    else:
        assert len(told) == 1
        assert told[0].startswith("only 8 of the 18 scored pairs read can be used (5 users have no training row")


def test_no_pair_in_an_epoch_is_an_error():
    frame = zoo.score_frame()
    model = ready(ON.replace(user_source="batch"), scores=frame[frame["user_id"] == 5])

    class WithoutUserFive(type(model)):
        """Stands in for a loader that leaves the only scored user out of every batch."""

        def forward(self, X):
            X = X.clone()
            X[:, 0] = torch.where(X[:, 0] == 5, 6.0, X[:, 0])
            return super().forward(X)

    model.__class__ = WithoutUserFive
    with pytest.raises(NoPairsError, match="user_source='table'"):
        model.fit(zoo.inputs(model), zoo.labels(DEEPFM), batch_size=48, epochs=1, verbose=0)


def small(cls, config=ON):
    """Wrap and compile a user's own class over the two ids; return it with its inputs and labels."""
    columns = [SparseFeat("user_id", 40, 4), SparseFeat("item_id", 40, 4)]
    x, y = zoo.samples()
    model = wrap(cls(columns, columns), zoo.score_frame(), user="user_id", item="item_id", config=config)
    model.compile("adam", "binary_crossentropy")
    return model, {name: x[name].copy() for name in ("user_id", "item_id")}, y.copy()


def test_a_loop_that_never_asks_for_the_loss_is_an_error():
    model, x, y = small(DeepFM)
    # The mixin stands before the user's class, so only a class derived from the wrapped one can bypass it.
    forgetful = {"get_regularization_loss": lambda self: torch.zeros(1)}
    model.__class__ = type("Forgetful", (type(model),), forgetful)
    with pytest.raises(HookNeverFiredError, match="get_regularization_loss"):
        model.fit(x, y, epochs=1, verbose=0)
    assert model.sllmr.session is None  # also after an error nothing of the training stays


class _KeywordFit(DeepFM):
    def fit(self, x, y, **options):
        return super().fit(x, y, **options)


class _AnyFit(DeepFM):
    def fit(self, *args, **options):
        return super().fit(*args, **options)


@pytest.mark.parametrize("cls", [_KeywordFit, _AnyFit])
def test_a_users_own_fit_signature_trains_with_pairs(cls):
    model, x, y = small(cls)
    assert model.fit(x, y, batch_size=48, epochs=2, verbose=0).history["sllmr_pairs"][1] > 0


class _ClosedFit(DeepFM):
    def fit(self, x, y):
        return super().fit(x, y, epochs=1, verbose=0)


class _RenamedFit(DeepFM):
    def fit(self, data, target, callbacks=None):
        return super().fit(data, target, epochs=1, verbose=0, callbacks=callbacks)


class _SwallowingFit(DeepFM):
    def fit(self, x, y, callbacks=None):
        return super().fit(x, y, epochs=1, verbose=0)


@pytest.mark.parametrize(
    ("cls", "fragment"),
    [(_ClosedFit, "named callbacks"), (_RenamedFit, "named x, y"), (_SwallowingFit, "without the callbacks")],
)
def test_a_fit_that_the_regularizer_cannot_reach_is_an_error(cls, fragment):
    model, x, y = small(cls)
    with pytest.raises(HookNeverFiredError, match=fragment):
        model.fit(x, y)
    assert model.sllmr.session is None


def test_a_users_own_forward_gets_a_pass_of_its_own():
    class AcrossRows(DeepFM):
        def forward(self, X):
            p = super().forward(X)
            self.aux_loss = p.pow(2).sum()
            return torch.sigmoid(torch.logit(p) - torch.logit(p).mean())

    outcomes = []
    for weight in (0.0, 1e-12):
        model, x, y = small(AcrossRows, ON.replace(weight=weight))
        torch.manual_seed(0)
        outcomes.append(model.fit(x, y, batch_size=48, epochs=1, verbose=0).history["loss"][0])
    assert outcomes[1] == pytest.approx(outcomes[0], rel=1e-5)


def test_training_positives_among_the_candidates_do_not_count_against_the_llm():
    x, y = zoo.samples()
    liked = pd.DataFrame({"user_id": x["user_id"], "item_id": x["item_id"]})[y == 1].drop_duplicates()
    frame = zoo.score_frame()
    frame.loc[frame.groupby("user_id").tail(1).index, "kind"] = "probe"
    frame["score"] = np.where(frame["kind"] == "probe", 0.9, frame["score"] * 0.1)
    gates = []
    for more in (liked.head(0), liked):
        table = pd.concat([frame, more.assign(score=0.95, kind="candidate")])
        model = ready(SelectiveConfig(weight=0.1), scores=table)
        gates.append(zoo.fit(DEEPFM, model, epochs=1).history["sllmr_gate"][0])
    assert gates[1] > 0.3
    assert gates[1] == pytest.approx(gates[0], abs=0.15)


def test_a_gate_starts_anew_when_its_signals_change():
    frame = zoo.score_frame()
    frame.loc[frame.groupby("user_id").tail(1).index, "kind"] = "probe"
    model = ready(SelectiveConfig(weight=0.1), scores=frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GateCollapsedWarning)
        zoo.fit(DEEPFM, model, epochs=1)
    assert model.sllmr.status().calibrated
    model.sllmr.configure(weight=0.2)
    assert model.sllmr.status().calibrated
    model.sllmr.configure(cold_threshold=50)
    assert not model.sllmr.status().calibrated


def test_callbacks_that_are_no_list_leave_nothing_open():
    model = ready()
    with pytest.raises(TypeError):
        zoo.fit(DEEPFM, model, callbacks=EarlyStopping())
    assert model.sllmr.session is None


def test_unwrap_inside_fit_is_refused():
    class Impatient(SLLMRCallback):
        def on_epoch_end(self, epoch, logs=None):
            unwrap(self.model)

    with pytest.raises(SLLMRError, match="while the model trains"):
        zoo.fit(DEEPFM, ready(), callbacks=[Impatient()])


def test_a_callback_left_behind_after_unwrap_does_nothing():
    model = unwrap(ready())
    assert "sllmr_pairs" not in zoo.fit(DEEPFM, model, epochs=1, callbacks=[SLLMRCallback()]).history


# ---------------------------------------------------------------------- what users' own scripts do


def own(forward, **members):
    """Return a user's class whose forward is made of DeepFM's."""
    return type("Own", (DeepFM,), {"forward": lambda self, X: forward(DeepFM.forward(self, X)), **members})


BAD_OUTPUTS = {
    "logits": (lambda p: torch.logit(p), r"outside \[0, 1\] \(logits"),
    "percentages": (lambda p: 100 * p, r"outputs lie between .* outside \[0, 1\]"),
    "softmax": (lambda p: torch.cat([1 - p, p], dim=1), "2 outputs a row for 1 task"),
    "a tuple": (lambda p: (p, p), "returns a tuple. Return a tensor"),
    "a number": (lambda p: p.mean(), "returns one number"),
}


@pytest.mark.parametrize("name", BAD_OUTPUTS)
def test_outputs_that_are_no_probabilities_are_refused_at_the_first_step(name):
    forward, fragment = BAD_OUTPUTS[name]
    model, x, y = small(own(forward))

    def loss(output, target, reduction):
        return sum(part.mean() for part in (output if isinstance(output, tuple) else [output]))

    model.compile("adam", loss)
    with pytest.raises(UnsupportedModelError, match=fragment):
        model.fit(x, y, batch_size=48, epochs=1, verbose=0)
    assert model.sllmr.session is None


def test_probabilities_are_taken_as_they_come():
    for forward in (lambda p: p, lambda p: p.squeeze(1), lambda p: p * (1 + 1e-6)):
        model, x, y = small(own(forward))
        model.compile("adam", lambda output, target, reduction: output.sum())
        model.fit(x, y, batch_size=48, epochs=1, verbose=0)
        assert model.sllmr.epochs[0]["sllmr_pairs"] > 0


def own_loop(model, x, y, ask):
    """Train one step by hand, with or without asking for the regularization loss."""
    rows = torch.from_numpy(np.stack(list(x.values()), axis=1)).float()
    model.train()
    loss = torch.nn.functional.binary_cross_entropy(model(rows).squeeze(1), torch.from_numpy(y).float())
    (loss + model.get_regularization_loss() if ask else loss).backward()


@pytest.mark.parametrize("ask", [True, False])
def test_a_loop_of_ones_own_is_told_once_that_it_trains_the_plain_model(ask):
    model, x, y = small(DeepFM)
    with pytest.warns(InactiveWarning, match="outside model.fit") as caught:
        own_loop(model, x, y, ask)
    assert len(caught) == 1
    own_loop(model, x, y, ask)  # warnings are errors: it is told once
    model.fit(x, y, batch_size=48, epochs=1, verbose=0)
    small(DeepFM)[0].fit(x, y, batch_size=48, epochs=1, verbose=0)  # fit is not such a loop
    with disabled(fresh := small(DeepFM)[0]):
        own_loop(fresh, x, y, ask)
    own_loop(small(DeepFM, ON.replace(weight=0.0))[0], x, y, ask)
    own_loop(unwrap(fresh), x, y, ask)


def test_looking_at_outputs_is_no_training():
    model, x, y = small(DeepFM)
    rows = torch.from_numpy(np.stack(list(x.values()), axis=1)).float()
    model.train()
    assert model(rows).requires_grad
    with torch.no_grad():
        model(rows)
        model.get_regularization_loss()
    model.eval()
    model(rows).sum().backward()


class _MoreArguments(DeepFM):
    def forward(self, X, shift=0.0, *, squeeze=False):
        p = torch.sigmoid(torch.logit(super().forward(X)) + shift)
        return p.squeeze(1) if squeeze else p


class _GivesThem(_MoreArguments):
    given = 0.5

    def __call__(self, X):
        return super().__call__(X, self.given)


def test_a_training_step_with_tensors_beside_its_input_is_refused():
    model, x, y = small(_GivesThem)
    model.fit(x, y, batch_size=48, epochs=1, verbose=0)  # a plain number is the candidates' as well
    model.given = torch.ones(48, 1)
    with pytest.raises(SLLMRError, match=r"1 more tensor\(s\) than its input"):
        model.fit(x, y, batch_size=48, epochs=1, verbose=0)
    with disabled(model):
        model.fit(x, y, batch_size=48, epochs=1, verbose=0)


SCHEDULERS = {
    "LambdaLR": lambda optim: torch.optim.lr_scheduler.LambdaLR(optim, lambda step: 0.5**step),
    "CosineAnnealingLR": lambda optim: torch.optim.lr_scheduler.CosineAnnealingLR(optim, 5),
    "OneCycleLR": lambda optim: torch.optim.lr_scheduler.OneCycleLR(optim, 0.1, total_steps=20),
    "ReduceLROnPlateau": lambda optim: torch.optim.lr_scheduler.ReduceLROnPlateau(optim, patience=0),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("when", ["before wrap", "after wrap"])
def test_schedulers_go_on_while_the_gate_comes_and_goes(name, when):
    model = zoo.build(DEEPFM)
    zoo.compile_model(DEEPFM, model)
    expected = [id(parameter) for parameter in model.optim.param_groups[0]["params"]]
    keys = set(model.optim.param_groups[0])
    scheduler = SCHEDULERS[name](model.optim) if when == "before wrap" else None
    if name == "ReduceLROnPlateau" and scheduler is not None and not hasattr(scheduler, "default_min_lr"):
        pytest.skip("before torch 2.6 this scheduler cannot count a group that is added later")
    model = zoo.wrapped(DEEPFM, model, SelectiveConfig(gate="joint", weight=0.5))
    scheduler = scheduler or SCHEDULERS[name](model.optim)
    before = [parameter.clone() for parameter in model.sllmr.gate.parameters()]

    def epoch():
        zoo.fit(DEEPFM, model, epochs=1)
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GateCollapsedWarning)
        epoch()
        assert any((then != now).any() for then, now in zip(before, model.sllmr.gate.parameters(), strict=True))
        model.sllmr.configure(gate="none")  # its gate has nothing to train
        epoch()
        assert {id(parameter) for parameter in model.optim.state} == set(expected)
        model.sllmr.configure(gate="joint")
        epoch()
        twin = unwrap(copy.deepcopy(model))
        unwrap(model)
        if when == "before wrap":
            epoch()
    assert [len(group["params"]) for group in twin.optim.param_groups] == [len(expected)]
    assert [[id(parameter) for parameter in group["params"]] for group in model.optim.param_groups] == [expected]
    assert not [key for key in set(model.optim.param_groups[0]) - keys if key.startswith("sllmr")]
    assert {id(parameter) for parameter in model.optim.state} == set(expected)


def test_gate_and_adaptor_join_and_part_in_any_order():
    """Both joined one group; each leaves with its own parameters, which may have moved."""
    model = types.SimpleNamespace(optimizer_name="optim")
    own, gate, adaptor = ([torch.nn.Parameter(torch.zeros(())) for _ in range(n)] for n in (2, 1, 3))
    for first, second in ((("gate", gate), ("adaptor", adaptor)), (("adaptor", adaptor), ("gate", gate))):
        model.optim = torch.optim.Adam([{"params": own[:1], "weight_decay": 0.1}, {"params": own[1:]}])
        torch.optim.lr_scheduler.LambdaLR(model.optim, lambda step: 1.0)
        sync_group(model, "gate", gate)
        sync_group(model, "adaptor", adaptor)
        # the group without weight decay is the one that they join
        assert [len(group["params"]) for group in model.optim.param_groups] == [1, 5]
        leave_group(model, first[0])
        assert {id(p) for p in model.optim.param_groups[1]["params"]} == {id(p) for p in [own[1], *second[1]]}
        leave_group(model, second[0])
        assert [group["params"] for group in model.optim.param_groups] == [own[:1], own[1:]]


def test_fit_without_a_loss_is_refused():
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), ON)
    model.compile("adam")
    with pytest.raises(SLLMRError, match="no loss yet"):
        zoo.fit(DEEPFM, model)


def _polars(columns):
    return pytest.importorskip("polars").DataFrame(columns)


@pytest.mark.parametrize("frame", [pd.DataFrame, _polars])
def test_training_rows_in_a_data_frame_are_refused_with_the_way_out(frame):
    model, x, y = small(DeepFM)
    rows = frame(x)
    with pytest.raises(DataError, match=r"DataFrame.*\{name: x\[name\]\.to_numpy\(\)") as caught:
        model.fit(rows, y, epochs=1, verbose=0)
    assert type(rows).__module__.partition(".")[0] in str(caught.value)
    model.fit({name: rows[name].to_numpy() for name in model.feature_index}, y, epochs=1, verbose=0)  # as it says


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_labels_that_are_no_array_and_missing_features_are_refused(weight):
    model, x, y = small(DeepFM, ON.replace(weight=weight))
    for labels in (pd.Series(y), y.tolist(), torch.from_numpy(y)):
        with pytest.raises(DataError, match=r"Pass numpy\.asarray\(y\)"):
            model.fit(x, labels, epochs=1, verbose=0)
    with pytest.raises(DataError, match="lacks the feature.s. item_id"):
        model.fit({"user_id": x["user_id"]}, y, epochs=1, verbose=0)


def test_ids_that_are_text_are_refused():
    model, x, y = small(DeepFM)
    with pytest.raises(DataError, match="hold item_id such as 'i[0-9]+', which is not a code"):
        model.fit({**x, "item_id": np.array([f"i{item}" for item in x["item_id"]])}, y, epochs=1, verbose=0)


def test_tables_of_polars_are_as_good():
    scores = _polars(zoo.score_frame().to_dict("list"))
    items = pd.DataFrame({"item_id": np.arange(1, zoo.N_ITEMS + 1)})
    items["category"], items["price"] = 1 + items["item_id"] % zoo.N_CATEGORIES, items["item_id"] / zoo.N_ITEMS
    tables = []
    for given_scores, given_items in ((zoo.score_frame(), items), (scores, _polars(items.to_dict("list")))):
        names = {"user": "user_id", "item": "item_id", "item_features": ["item_id", "category", "price"]}
        model = wrap(zoo.build(DEEPFM), given_scores, **names, item_table=given_items)
        table = model.sllmr.table.candidates
        tables.append([table.users, table.items, table.scores, *map(torch.from_numpy, model.sllmr.item_values)])
    assert all(torch.equal(one, other) for one, other in zip(*tables, strict=True))


def test_ids_of_polars_beside_missing_ones_stay_whole():
    big = 2**53 + 1
    frame = _polars({"user_id": [1, None, big], "item_id": ["a", "b", "b"], "score": [0.1, 0.2, 0.3]})
    table = ScoreTable.read(frame, user_index={1: 0, big - 1: 5, big: 2}, item_index={"a": 1, "b": 2})
    assert table.candidates.users.tolist() == [0, 2]
    assert table.coverage.dropped == {"user_id or item_id is missing": 1}


def test_scores_of_users_that_tell_nothing_apart_are_counted():
    frame = zoo.score_frame()
    model = ready(scores=frame.assign(score=np.where(frame["user_id"] > 10, 0.5, frame["score"])))
    with pytest.warns(CoverageWarning, match="20 users have no two different scores"):
        zoo.fit(DEEPFM, model, epochs=1)
    tied = ready(scores=frame.assign(score=frame["user_id"] / 100))
    with pytest.raises(CoverageError, match=r"30 users have no two different scores.*loss='mse'"):
        zoo.fit(DEEPFM, tied)
    tied.sllmr.configure(loss="mse")  # as it says
    assert zoo.fit(DEEPFM, tied, epochs=1).history["sllmr_pairs"][0] > 0


def test_names_and_numbers_of_numpy_are_taken_and_messages_show_plain_ones():
    names = np.array(["item_id", "category", "price"])
    for given in (names, pd.Index(names), tuple(names)):
        model = wrap(zoo.build(DEEPFM), zoo.score_frame(), user="user_id", item="item_id", item_features=given)
        assert [type(name) for name in model.sllmr.features.item_features] == [str] * 3
    model = wrap(zoo.build(MMOE), zoo.score_frame(), user="user_id", item="item_id", task=np.int64(1))
    assert type(model.sllmr.task) is int
    messages = []
    for change in (
        {"task": np.int64(7)},
        {"item_features": np.array(["categry"])},
        {"user_index": pd.Series([1, 2], index=np.array([3, 3]))},
        {"scores": zoo.score_frame().assign(item_id=np.float64(1.5))},
        {"scores": zoo.score_frame().assign(score=np.float64(7.5))},
    ):
        arguments = {"scores": zoo.score_frame(), "task": 1, "user": "user_id", "item": "item_id", **change}
        with pytest.raises(SLLMRError) as caught:
            wrap(zoo.build(MMOE), **arguments)
        messages.append(str(caught.value))
    assert "task=7 " in messages[0]
    assert not any("np." in message for message in messages)


def shifted(user_shift=0, item_shift=0, trained=0, keep=None, vocabulary=40):
    """Train on codes from `trained` on with scores of codes that are shifted; return the warnings' texts."""
    x, y = zoo.samples()
    columns = [SparseFeat("user_id", vocabulary, 4), SparseFeat("item_id", vocabulary, 4)]
    inputs = {name: x[name] - 1 + trained for name in ("user_id", "item_id")}
    every = [(user, item) for user in range(zoo.N_USERS) for item in range(zoo.N_ITEMS)]
    frame = pd.DataFrame(every, columns=["user_id", "item_id"]) + trained
    frame["score"] = (frame["item_id"] - trained + 1) / 25
    frame = frame if keep is None else frame[keep(frame)]
    frame = frame.assign(user_id=frame["user_id"] + user_shift, item_id=frame["item_id"] + item_shift)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = wrap(DeepFM(columns, columns), frame, user="user_id", item="item_id", config=ON)
        model.compile("adam", "binary_crossentropy")
        model.fit(inputs, y.copy(), batch_size=48, epochs=1, verbose=0)
    return [str(warning.message) for warning in caught if issubclass(warning.category, CoverageWarning)]


@pytest.mark.parametrize(
    ("shift", "trained", "keep"),
    [
        (1, 0, None),
        (-1, 1, None),
        (1, 0, lambda frame: ~frame["item_id"].isin([0, 7])),  # not all items are scored
        (-1, 1, lambda frame: ~frame["item_id"].isin([9, 24])),
        (1, 0, lambda frame: frame["item_id"] % 23 < 2),  # few are, but those at both ends
    ],
)
def test_a_shift_is_noticed_though_not_all_codes_are_scored(shift, trained, keep):
    texts = shifted(item_shift=shift, trained=trained, keep=keep)
    assert len(texts) == 1
    assert "item codes look one off" in texts[0]


@pytest.mark.parametrize(
    "keep",
    [
        None,
        lambda frame: frame["user_id"] % 3 == 0,  # part of the users
        lambda frame: (frame["item_id"] > 3) & (frame["item_id"] < 22),
        lambda frame: frame["user_id"] > 0,  # one at an end is not scored
        lambda frame: frame["user_id"] < 29,
    ],
)
def test_tables_that_are_not_shifted_are_left_alone(keep):
    assert shifted(keep=keep) == shifted(keep=keep, trained=1) == []


# ---------------------------------------------------------------------- living with callbacks, files and devices


def test_early_stopping_and_checkpoints_work(tmp_path):
    model = ready()
    stop = EarlyStopping(monitor="sllmr_pairs", mode="max", patience=0, restore_best_weights=True)
    keep = ModelCheckpoint(str(tmp_path / "model.pt"), monitor="val_logloss", save_best_only=True)
    history = zoo.fit(DEEPFM, model, epochs=5, callbacks=[stop, keep])
    assert len(history.epoch) == 2  # every epoch forms as many pairs, so the second is not an improvement
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert type(loaded) is type(model)
    zoo.fit(DEEPFM, loaded, epochs=1)
    assert loaded.sllmr.status().epochs[0]["sllmr_pairs"] > 0


def test_a_callback_of_ones_own_decides_where_it_stands():
    order = []

    class Loud(SLLMRCallback):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            order.append(sorted(key for key in logs if key.startswith("sllmr")))

    zoo.fit(DEEPFM, ready(), epochs=1, callbacks=[Loud()])
    assert len(order) == 1
    assert "sllmr_pairs" in order[0]


def test_gate_and_settings_are_saved_beside_the_model(tmp_path):
    model = ready(SelectiveConfig(gate="joint", weight=1.0))
    zoo.fit(DEEPFM, model)
    model.sllmr.save(tmp_path / "run")
    fresh = ready(SelectiveConfig(gate="none"))
    fresh.sllmr.load(tmp_path / "run")
    assert fresh.sllmr.config == model.sllmr.config
    assert fresh.sllmr.gate.coefficients() == model.sllmr.gate.coefficients()
    with pytest.raises(SLLMRError, match="no such file"):
        fresh.sllmr.load(tmp_path)


def test_the_gate_follows_the_model_to_another_device():
    model = ready(SelectiveConfig(gate="joint"))
    model.to("meta")
    assert model.sllmr.gate.bias.device.type == "meta"
    assert not any("gate" in key for key in model.state_dict())


def test_given_counts_replace_those_of_the_training_rows():
    config = SelectiveConfig(gate="fixed", weight=0.5, tail_quantile=0.0)
    model = ready(config)
    model.sllmr.set_counts(history_length={user: 0 if user <= 15 else 9 for user in range(1, zoo.N_USERS + 1)})
    history = zoo.fit(DEEPFM, model, epochs=1).history
    assert history["sllmr_gate_cold"] == [1.0]
    # the table's users are drawn evenly, 15 of 30 are cold; every user has some 8 candidates
    assert 0.35 < history["sllmr_gate"][0] < 0.65


def test_predict_of_a_wrapped_model_is_the_plain_models():
    plain, model = zoo.build(DEEPFM), ready()
    np.testing.assert_array_equal(model.predict(zoo.inputs(model), 64), plain.predict(zoo.inputs(plain), 64))


def test_pickling_leaves_the_running_training_out():
    model = ready()
    sizes = []

    class Save(SLLMRCallback):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            file = io.BytesIO()
            torch.save(self.model, file)
            file.seek(0)
            sizes.append(torch.load(file, weights_only=False).sllmr.session)

    zoo.fit(DEEPFM, model, epochs=1, callbacks=[Save()])
    assert sizes == [None]
