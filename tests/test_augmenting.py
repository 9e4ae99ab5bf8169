"""An augmented model is the plain model with its dense columns filled in: in training, prediction, copies and files."""

import contextlib
import copy
import io
import warnings

import numpy as np
import pytest
import torch
from deepctr_torch.callbacks import EarlyStopping, ModelCheckpoint

from sllmr_plugin import (
    AdaptorWarning,
    AugmentError,
    CoverageError,
    CoverageWarning,
    CURecAdaptor,
    EmbedAdaptor,
    KARAdaptor,
    LLMCFAdaptor,
    NotAugmentedError,
    NotWrappedError,
    RecLMAdaptor,
    SelectiveConfig,
    SLLMRError,
    augment,
    dense_columns,
    materialize,
    unaugment,
    unwrap,
    wrap,
)
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.errors import BackboneError
from sllmr_plugin.evaluation.model_scores import ItemSide, evaluation_mode, score_items, template_matrix
from sllmr_plugin.knowledge import Adaptor
from sllmr_plugin.zoo.deepctr import build_model, feature_names, input_rows

from .text_cases import N_ITEMS, N_USERS, encoded, id_vectors, interactions

SIX = ("deepfm", "xdeepfm", "autoint", "dcn", "dcnv2", "din")
KINDS = ("kar", "llm_cf", "llm_cf, reasoned", "embed", "curec", "reclm")
pytestmark = pytest.mark.filterwarnings("ignore::sllmr_plugin.CoverageWarning")


@pytest.fixture(scope="module")
def data():
    return interactions()


@pytest.fixture(scope="module")
def rows(data):
    return training_rows(data, history_length=3)


def adaptor_of(kind, rows):
    if kind == "kar":
        return KARAdaptor(encoded(), dim=3, hidden=4)
    if kind == "embed":
        return EmbedAdaptor(id_vectors(), dim=3, hidden=4)
    if kind == "reclm":
        return RecLMAdaptor(encoded(), *rows, user="user_id", item="item_id", dim=8, hidden=8)
    if kind == "curec":
        return CURecAdaptor(encoded(reasons=True), *rows, user="user_id", item="item_id", dim=4)
    texts = encoded(reasoning=kind.endswith("reasoned"))
    return LLMCFAdaptor(texts, *rows, user="user_id", item="item_id", dim=3, hidden=4, size=30)


def model_of(name, data, adaptor):
    return build_model(name, data, embedding_dim=4, history_length=3, seed=2, dense=adaptor.widths)


def augmented(name, data, adaptor):
    return augment(model_of(name, data, adaptor), adaptor, user="user_id", item="item_id")


def compiled(model, learning_rate=0.01):
    model.compile(torch.optim.Adam(model.parameters(), lr=learning_rate), "binary_crossentropy", metrics=["logloss"])
    return model


def fit(model, rows, epochs=2, x=None, **options):
    torch.manual_seed(3)
    with contextlib.redirect_stdout(io.StringIO()):
        x = input_rows(model, rows[0]) if x is None else x
        return model.fit(x, rows[1], batch_size=16, epochs=epochs, verbose=0, **options).history


def bare(rows, model):
    """Return the inputs that the plain columns of a model need, without the adaptor's."""
    return {name: rows[0][name] for name in feature_names(model) if name in rows[0]}


class Fixed(Adaptor):
    """Fills one column with numbers that depend on the codes and are not trained."""

    def __init__(self):
        super().__init__(encoded())
        self.widths = {"fixed": 2}

    def forward(self, users, items):
        return torch.stack([users / 10, items % 3], dim=1).to(self.users.vectors.dtype)


def fixed_columns(x):
    return {"fixed": np.stack([x["user_id"] / 10, x["item_id"] % 3], axis=1).astype(np.float32)}


@pytest.mark.parametrize("name", SIX)
def test_training_is_the_plain_models_on_the_same_columns_bit_for_bit(name, data, rows):
    adaptor = Fixed()
    plain, model = compiled(model_of(name, data, adaptor)), compiled(augmented(name, data, adaptor))
    with_columns = {**bare(rows, plain), **fixed_columns(rows[0])}
    expected = fit(plain, rows, x=dict(with_columns))
    assert fit(model, rows, x=bare(rows, model)) == expected
    assert list(model.state_dict()) == list(plain.state_dict())
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    np.testing.assert_array_equal(model.predict(bare(rows, model)), plain.predict(with_columns))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SIX)
def test_every_backbone_trains_and_is_restored_with_materialised_columns(name, kind, data, rows):
    adaptor = adaptor_of(kind, rows)
    keys = list(model_of(name, data, adaptor).state_dict())
    model = augmented(name, data, adaptor)
    before = copy.deepcopy(adaptor.state_dict())
    assert type(model).__name__.startswith("Augmented")
    fit(compiled(model), rows)
    moved = [key for key, value in adaptor.state_dict().items() if not torch.equal(value, before[key])]
    assert moved == list(before)  # every parameter trains
    prediction = model.predict(bare(rows, model))
    columns = materialize(model, bare(rows, model))
    codes = {"item_id": (len(rows[1]),)} if adaptor.replaces_items else {}
    assert {key: value.shape for key, value in columns.items()} == {
        **{key: (len(rows[1]), width) for key, width in adaptor.widths.items()},
        **codes,
    }

    plain = unaugment(model)
    assert plain is model
    assert type(plain) is type(model_of(name, data, adaptor))
    assert list(plain.state_dict()) == keys
    assert len(plain.optim.param_groups) == 1
    assert "augmentation" not in plain.__dict__
    np.testing.assert_allclose(plain.predict({**bare(rows, plain), **columns}), prediction, rtol=1e-5)
    fit(plain, rows, x={**bare(rows, plain), **columns}, epochs=1)  # goes on as an ordinary model


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_columns_does_not_matter_and_inputs_may_be_lists(kind, data, rows):
    model = compiled(augmented("deepfm", data, adaptor_of(kind, rows)))
    complete = input_rows(model, rows[0])
    junk = {**complete, **{name: complete[name] + 7 for name in model.augmentation.adaptor.widths}}
    expected = model.predict(bare(rows, model))
    np.testing.assert_array_equal(model.predict(junk), expected)
    np.testing.assert_array_equal(model.predict(list(complete.values())), expected)
    twin = copy.deepcopy(model)
    assert fit(twin, rows, x=list(complete.values()))["loss"] == fit(model, rows, x=bare(rows, model))["loss"]
    history = fit(model, rows, x=bare(rows, model), validation_data=(bare(rows, model), rows[1]))
    assert history["val_logloss"][-1] == pytest.approx(
        model.evaluate(bare(rows, model), rows[1], batch_size=16)["logloss"]
    )


@pytest.mark.parametrize("order", ["compile_first", "augment_first"])
def test_the_adaptor_joins_the_optimizer_whichever_comes_last(order, data, rows):
    adaptor = adaptor_of("kar", rows)
    model = model_of("deepfm", data, adaptor)
    if order == "compile_first":
        model = augment(compiled(model), adaptor, user="user_id", item="item_id")
    else:
        model = compiled(augment(model, adaptor, user="user_id", item="item_id"))
    group = model.optim.param_groups[1]
    assert {id(p) for p in group["params"]} == {id(p) for p in adaptor.parameters()}
    fit(model, rows)
    assert all(parameter in model.optim.state for parameter in adaptor.parameters())
    compiled(model)
    assert len(model.optim.param_groups) == 2
    unaugment(model)
    assert len(model.optim.param_groups) == 1
    assert not any(parameter in model.optim.state for parameter in adaptor.parameters())


def reloaded(model, tmp_path):
    torch.save(model, tmp_path / "model.pt")
    return torch.load(tmp_path / "model.pt", weights_only=False)


@pytest.mark.filterwarnings("ignore:at the end of this epoch the model scores:sllmr_plugin.errors.InactiveWarning")
@pytest.mark.parametrize("wrapped", [False, True], ids=["augmented", "wrapped_too"])
@pytest.mark.parametrize("how", ["deepcopy", "torch.save"])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_whole_and_their_own(how, kind, wrapped, data, rows, tmp_path):
    model = compiled(augmented("din", data, adaptor_of(kind, rows)))
    if wrapped:
        model = wrap(model, score_frame(), user="user_id", item="item_id", config=SelectiveConfig(gate="none"))
    fit(model, rows)
    twin = copy.deepcopy(model) if how == "deepcopy" else reloaded(model, tmp_path)
    assert type(twin) is type(model)
    expected = model.predict(bare(rows, model))
    np.testing.assert_array_equal(twin.predict(bare(rows, twin)), expected)
    before = {name: p.clone() for name, p in twin.augmentation.adaptor.named_parameters()}
    assert {id(p) for p in twin.optim.param_groups[1]["params"]} == {
        id(p) for p in twin.augmentation.adaptor.parameters()
    }
    fit(twin, rows, epochs=1)
    assert not torch.equal(before["users.missing"], twin.augmentation.adaptor.users.missing)
    np.testing.assert_array_equal(model.predict(bare(rows, model)), expected)


def test_the_adaptor_follows_the_model(data, rows):
    model = augmented("deepfm", data, adaptor_of("llm_cf", rows)).double()
    adaptor = model.augmentation.adaptor
    assert {p.dtype for p in adaptor.parameters()} == {adaptor.users.vectors.dtype} == {torch.float64}
    assert adaptor.exemplars.user.dtype == torch.int64
    X = torch.ones(3, len(feature_names(model)) + 2, dtype=torch.float64)
    assert model(X).dtype == torch.float64
    model.to("meta")
    assert {p.device.type for p in adaptor.parameters()} == {"meta"}


def test_the_adaptor_is_outside_the_module_tree(data, rows):
    adaptor = adaptor_of("kar", rows)
    model = augmented("deepfm", data, adaptor)
    own = {id(p) for p in adaptor.parameters()}
    assert not own & {id(p) for p in model.parameters()}
    assert adaptor not in list(model.modules())


# ------------------------------------------------------------------ weights kept and restored


def test_early_stopping_restores_the_adaptor_too(data, rows):
    model = compiled(augmented("deepfm", data, adaptor_of("kar", rows)), learning_rate=0.5)
    seen = []

    class Recorder(EarlyStopping):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((logs["val_logloss"], {k: v.clone() for k, v in adaptor.named_parameters()}))
            super().on_epoch_end(epoch, {"val_logloss": 10.0 - epoch if epoch < 2 else 20.0})

    adaptor = model.augmentation.adaptor
    stop = Recorder(monitor="val_logloss", patience=2, restore_best_weights=True)
    fit(model, rows, epochs=8, validation_data=(bare(rows, model), rows[1]), callbacks=[stop])
    assert len(seen) == 4
    best = seen[1][1]  # the lowest value was that of the second epoch
    assert all(torch.equal(value, best[name]) for name, value in adaptor.named_parameters())
    assert any(not torch.equal(value, best[name]) for name, value in seen[3][1].items())


def test_checkpoints_of_the_weights_carry_the_adaptor(data, rows, tmp_path):
    model = compiled(augmented("deepfm", data, adaptor_of("kar", rows)))
    path = tmp_path / "weights.pt"
    fit(model, rows, callbacks=[ModelCheckpoint(str(path), save_weights_only=True, verbose=0)], epochs=1)
    state = torch.load(path, weights_only=True)
    other = augmented("deepfm", data, adaptor_of("kar", rows))
    assert not np.array_equal(other.predict(bare(rows, other)), model.predict(bare(rows, model)))
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.predict(bare(rows, other)), model.predict(bare(rows, model)))
    plain = model_of("deepfm", data, model.augmentation.adaptor)
    plain.load_state_dict(state)  # the keys are the plain model's


def test_weights_without_an_adaptor_are_told(data, rows, tmp_path):
    model = compiled(augmented("deepfm", data, adaptor_of("kar", rows)))
    fit(model, rows)
    model.augmentation.save(tmp_path / "adaptor")
    other = augmented("deepfm", data, adaptor_of("kar", rows))
    with pytest.warns(AdaptorWarning, match="carry none of the adaptor's.*augmentation.save"):
        other.load_state_dict(dict(model.state_dict()))
    other.augmentation.load(tmp_path / "adaptor")
    np.testing.assert_array_equal(other.predict(bare(rows, other)), model.predict(bare(rows, model)))
    with pytest.raises(SLLMRError, match="weights of another adaptor than this LLMCFAdaptor"):
        augmented("deepfm", data, adaptor_of("llm_cf", rows)).augmentation.load(tmp_path / "adaptor")
    with pytest.raises(SLLMRError, match="no such file"):
        other.augmentation.load(tmp_path / "nowhere")


def test_weights_with_reasoning_are_another_adaptors(data, rows, tmp_path):
    model = augmented("deepfm", data, adaptor_of("llm_cf, reasoned", rows))
    model.augmentation.save(tmp_path)
    with pytest.raises(SLLMRError, match="weights of another adaptor than this LLMCFAdaptor"):
        augmented("deepfm", data, adaptor_of("llm_cf", rows)).augmentation.load(tmp_path)


# ------------------------------------------------------------------ together with the regularizer


def score_frame():
    import pandas as pd

    rng = np.random.default_rng(2)
    pairs = [(u, i, rng.random()) for u in range(1, N_USERS + 1) for i in rng.permutation(N_ITEMS)[:5] + 1]
    return pd.DataFrame(pairs, columns=["user_id", "item_id", "score"])


@pytest.mark.parametrize("name", ["deepfm", "din"])
def test_without_weight_a_wrapped_augmented_model_is_the_augmented_one(name, data, rows):
    model = compiled(augmented(name, data, adaptor_of("kar", rows)))
    expected = fit(model, rows)
    other = augmented(name, data, adaptor_of("kar", rows))
    other = compiled(
        wrap(other, score_frame(), user="user_id", item="item_id", config=SelectiveConfig(gate="none", weight=0))
    )
    assert fit(other, rows, x=bare(rows, other)) == expected
    np.testing.assert_array_equal(other.predict(bare(rows, other)), model.predict(bare(rows, model)))


@pytest.mark.parametrize("name", ["deepfm", "din"])
def test_extra_rows_of_the_regularizer_get_their_own_columns(name, data, rows):
    """The adaptor sees the candidates' codes, and its columns in the extra rows are those of the candidates."""
    model = compiled(augmented(name, data, adaptor_of("kar", rows)))
    config = SelectiveConfig(gate="none", weight=1.0, users_per_step=4)
    model = wrap(model, score_frame(), user="user_id", item="item_id", config=config)
    adaptor, asked = model.augmentation.adaptor, []
    adaptor.register_forward_hook(lambda module, codes, output: asked.append([c.clone() for c in codes]))
    history = fit(model, rows, x=bare(rows, model), epochs=1)
    assert history["sllmr_pairs"][0] > 0
    scored = set(score_frame()[["user_id", "item_id"]].itertuples(index=False, name=None))
    users, items = asked[0]
    assert len(users) > 16  # one forward pass for the batch's 16 rows and the extra ones
    assert set(zip(users[16:].tolist(), items[16:].tolist(), strict=True)) <= scored
    assert len(set(items[16:].tolist())) > 1

    plain_again = unwrap(model)
    assert type(plain_again).__name__.startswith("Augmented")
    assert len(plain_again.optim.param_groups) == 2
    unwrap(plain_again)  # on a model that is augmented only, it is unaugment
    assert not hasattr(plain_again, "augmentation")


@pytest.mark.filterwarnings("ignore::sllmr_plugin.GateCollapsedWarning")
def test_a_gate_that_looks_ahead_and_a_gate_that_is_trained_work_on_an_augmented_model(data, rows):
    frame = score_frame()
    frame["kind"] = np.where(frame.groupby("user_id").cumcount() == 0, "probe", "candidate")
    for config in (
        SelectiveConfig(gate="bilevel"),
        SelectiveConfig(gate="joint"),
        SelectiveConfig(gate="disagreement"),
    ):
        model = compiled(augmented("deepfm", data, adaptor_of("kar", rows)))
        model = wrap(model, frame, user="user_id", item="item_id", config=config)
        assert all(np.isfinite(fit(model, rows, x=bare(rows, model))["loss"]))
        groups = model.optim.param_groups
        assert len(groups) == (3 if config.mode == "joint" else 2)
        unwrap(model)
        assert [bool(group.get("sllmr_adaptor")) for group in model.optim.param_groups] == [False, True]


# ------------------------------------------------------------------ ranking


@pytest.mark.parametrize("name", ["deepfm", "din"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_users_and_items_are_scored_as_predict_does(name, kind, data, rows):
    model = compiled(augmented(name, data, adaptor_of(kind, rows)))
    fit(model, rows)
    users = np.arange(1, N_USERS + 1)
    templates = template_matrix(model, data, users, "test")
    with evaluation_mode(model):
        scores = score_items(model, templates, torch.arange(1, N_ITEMS + 1)[None], ItemSide.of(model, data), 50)
    for item in range(1, N_ITEMS + 1):
        X = templates.clone()
        X[:, model.feature_index["item_id"][0]] = item
        predicted = model.predict([X[:, first:end].numpy() for first, end in model.feature_index.values()])
        np.testing.assert_allclose(scores[:, item - 1], predicted[:, 0], rtol=1e-4)


# ------------------------------------------------------------------ refusals


def test_everything_that_speaks_against_augmenting_is_told_at_once(data, rows):
    adaptor = adaptor_of("kar", rows)
    model = build_model("deepfm", data, dense={"kar_user": 5})
    with pytest.raises(AugmentError) as caught:
        augment(model, adaptor, user="user_id", item="movie")
    told = str(caught.value)
    assert "no feature 'movie'" in told
    assert "no DenseFeat('kar_user', 3)" in told  # another dimension
    assert "no DenseFeat('kar_item', 3). Build it with the columns of dense_columns(adaptor)" in told
    assert not hasattr(model, "augmentation")
    with pytest.raises(AugmentError, match="user and item are both 'user_id'"):
        augment(model_of("deepfm", data, adaptor), adaptor, user="user_id", item="user_id")
    with pytest.raises(AugmentError, match="'kar_user' is not a SparseFeat"):
        augment(model_of("deepfm", data, adaptor), adaptor, user="kar_user", item="item_id")


def test_wrong_objects_and_orders_are_refused(data, rows):
    adaptor = adaptor_of("kar", rows)
    model = augmented("deepfm", data, adaptor)
    with pytest.raises(AugmentError, match="augmented already"):
        augment(model, adaptor, user="user_id", item="item_id")
    with pytest.raises(AugmentError, match="neither a DeepCTR-Torch nor a FuxiCTR model"):
        augment(torch.nn.Linear(1, 1), adaptor, user="user_id", item="item_id")
    with pytest.raises(AugmentError, match="a Linear is not an adaptor"):
        augment(model_of("deepfm", data, adaptor), torch.nn.Linear(1, 1), user="user_id", item="item_id")
    wrapped = wrap(model, score_frame(), user="user_id", item="item_id")
    with pytest.raises(AugmentError, match="Call unwrap"):
        unaugment(wrapped)
    plain = wrap(model_of("deepfm", data, adaptor), score_frame(), user="user_id", item="item_id")
    with pytest.raises(AugmentError, match="Call unwrap.model., then augment, then wrap"):
        augment(plain, adaptor, user="user_id", item="item_id")
    for verb in (unaugment, lambda model: materialize(model, rows[0])):
        with pytest.raises(NotAugmentedError, match="Call augment first"):
            verb(plain)
    with pytest.raises(NotWrappedError):
        unwrap(model_of("deepfm", data, adaptor))


def test_training_rows_without_texts_are_refused_and_some_are_told(data, rows):
    model = compiled(augmented("deepfm", data, adaptor_of("kar", rows)))
    with pytest.warns(CoverageWarning, match="2 of 12 users and 1 of 10 items"):
        fit(model, rows)
    four = rows[0]["user_id"] == 4  # has no text
    with pytest.raises(CoverageError, match="none of the 1 users"):
        fit(model, ({name: values[four] for name, values in rows[0].items()}, rows[1][four]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict({name: values[four] for name, values in bare(rows, model).items()})


@pytest.mark.parametrize("name", ["afm", "afn", "ccpm", "difm", "ifm"])
def test_backbones_without_dense_inputs_say_so(name, data):
    with pytest.raises(BackboneError, match=f"{name} takes no dense columns.*choose one of wdl, deepfm"):
        build_model(name, data, embedding_dim=8, dense={"kar_user": 2})


@pytest.mark.parametrize("name", ["wdl", "dcnmix", "dien", "fibinet", "mlr", "nfm", "onn", "pnn"])
def test_the_other_backbones_of_the_zoo_read_the_columns(name, data, rows):
    adaptor = Fixed()
    model = build_model(name, data, embedding_dim=4, history_length=3, dense=adaptor.widths)
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    one = model.predict({**input_rows(model, {**rows[0], **fixed_columns(rows[0])})})
    other = model.predict({**input_rows(model, {**rows[0], "fixed": np.ones((len(rows[1]), 2), np.float32)})})
    assert not np.allclose(one, other)


def test_dense_columns_are_deepctr_features(rows):
    from deepctr_torch.inputs import DenseFeat

    assert dense_columns(adaptor_of("kar", rows)) == [DenseFeat("kar_user", 3), DenseFeat("kar_item", 3)]
