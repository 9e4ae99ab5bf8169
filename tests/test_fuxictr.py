"""FuxiCTR models wrapped: what is refused, what training reads and leaves, scale, gates, checkpoints."""

import copy
import logging
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

pytest.importorskip("fuxictr")

import polars
from fuxictr.preprocess import FeatureProcessor
from fuxictr.pytorch.dataloaders.npz_block_dataloader import NpzBlockDataLoader
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.dataloaders.parquet_dataloader import ParquetDataLoader

from sllmr_plugin import (
    DataError,
    HookNeverFiredError,
    InactiveWarning,
    SelectiveConfig,
    SLLMRError,
    UnsupportedModelError,
    WrapError,
    initialise,
    reliability,
    unwrap,
    wrap,
)
from sllmr_plugin.backends.fuxictr.data import training_pieces
from sllmr_plugin.zoo.fuxictr_models import DeepFM

from .matrix import backbones as shared
from .matrix import fuxictr_backbones as zoo

BACKBONES = {backbone.name.removeprefix("FuxiCTR_"): backbone for backbone in zoo.BACKBONES}
DEEPFM, DIN, TWO_TASKS = BACKBONES["DeepFM"], BACKBONES["DIN"], BACKBONES["TwoTasks"]
ON = SelectiveConfig(gate="none", weight=0.5)


def ready(config=ON, backbone=DEEPFM, scores=None, **options):
    return zoo.wrapped(backbone, zoo.build(backbone, **options), config, scores)


def with_probes():
    frame = shared.score_frame()
    first = ~frame.duplicated("user_id") & (frame["user_id"] <= 12)
    frame.loc[first, ["score", "kind"]] = [1.0, "probe"]
    return frame


# ---------------------------------------------------------------------- refusals


def test_all_problems_come_at_once_and_nothing_is_touched():
    model = zoo.build(DEEPFM, net_dropout=0.0)
    before = dict(vars(model))
    with pytest.raises(WrapError) as error:
        wrap(
            model,
            shared.score_frame(),
            user="price",
            item="item",
            task=2,
            config=SelectiveConfig(uncertainty="mc_dropout"),
        )
    text = str(error.value)
    assert "no feature 'item'. Its features are user_id, item_id, category, gender, hour, price." in text
    assert "feature 'price' is of type numeric" in text
    assert "task=2 given for a model with one output" in text
    assert "net_dropout=0.1" in text
    assert vars(model) == before


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"user": "item_id"}, "user and item are both 'item_id'"),
        ({"item_features": ["user_id"]}, "item_features holds the user feature"),
        ({"item_features": ["item_id", "colour"]}, "no feature 'colour'"),
    ],
)
def test_wrong_names_are_refused(arguments, fragment):
    with pytest.raises(WrapError, match=fragment):
        wrap(zoo.build(DEEPFM), shared.score_frame(), **({"user": "user_id", "item": "item_id"} | arguments))


def test_tasks_and_outputs_are_checked():
    names = {"user": "user_id", "item": "item_id"}
    with pytest.raises(WrapError, match="the model has 2 tasks"):
        wrap(zoo.build(TWO_TASKS), shared.score_frame(), **names)
    with pytest.raises(WrapError, match="from 0 to 1"):
        wrap(zoo.build(TWO_TASKS), shared.score_frame(), **names, task=2)
    model = zoo.build(DEEPFM)
    model.output_activation = torch.nn.Softmax(dim=1)
    with pytest.raises(WrapError, match="neither a probability nor a single score"):
        wrap(model, shared.score_frame(), **names)
    model = zoo.build(DEEPFM)
    del model.optimizer
    with pytest.raises(WrapError, match="no optimizer"):
        wrap(model, shared.score_frame(), **names)
    with pytest.raises(UnsupportedModelError, match="neither a DeepCTR-Torch nor a FuxiCTR model"):
        wrap(torch.nn.Linear(2, 1), shared.score_frame(), **names)


def test_a_regression_trains_by_the_order_of_the_scores():
    model = zoo.build(DEEPFM, task="regression", loss="mse_loss")
    config = SelectiveConfig(gate="none", weight=0.1)
    item_side = ["item_id", "category", "price"]
    wrap(model, shared.score_frame(), user="user_id", item="item_id", item_features=item_side, config=config)
    zoo.fit(DEEPFM, model)
    first, second = model.sllmr.epochs
    assert first["sllmr_pairs"] > 0
    assert second["sllmr_loss"] < first["sllmr_loss"]


def test_a_library_is_known_by_its_methods_not_by_its_number(monkeypatch):
    names = {"user": "user_id", "item": "item_id"}
    monkeypatch.setattr("fuxictr.version.__version__", "9.9.9")
    wrap(zoo.build(DEEPFM), shared.score_frame(), **names)
    model = zoo.build(DEEPFM)
    monkeypatch.delattr("fuxictr.pytorch.models.BaseModel.train_epoch")
    with pytest.raises(WrapError, match=r"fuxictr 9.9.9 gives the model no train_epoch.*fuxictr>=2.3.10"):
        wrap(model, shared.score_frame(), **names)


class LongSequence(DeepFM):
    """Is fed features, a table of items and a mask, as FuxiCTR's long-sequence models are."""

    def get_inputs(self, inputs, feature_source=None):
        features, items, _ = inputs
        return super().get_inputs({**dict(features.items()), **items}, feature_source)


def test_models_whose_batches_are_no_dicts_of_features_are_refused():
    model = zoo.build(zoo.Backbone("LongSequence", LongSequence))
    before = dict(vars(model))
    with pytest.raises(UnsupportedModelError, match=r"LongSequence.get_inputs cannot read .*\n?.*flat dicts"):
        wrap(model, shared.score_frame(), user="user_id", item="item_id")
    assert vars(model) == before


def test_item_features_default_to_those_of_the_items_source_and_of_a_din():
    model = zoo.build(DIN)
    assert wrap(model, shared.score_frame(), user="user_id", item="item_id").sllmr.features.item_features == (
        "item_id",
    )
    model = zoo.build(DIN)
    model.feature_map = copy.deepcopy(model.feature_map)
    for name, spec in model.feature_map.features.items():
        spec["source"] = "item" if name in ("item_id", "category", "hist_item_id") else "user"
    wrap(model, shared.score_frame(), user="user_id", item="item_id")
    assert model.sllmr.features.item_features == ("item_id", "category")  # a history of items is the user's
    model = zoo.build(DIN)
    model.din_target_field = [("item_id", "category")]
    wrap(model, shared.score_frame(), user="user_id", item="item_id")
    assert model.sllmr.features.item_features == ("item_id", "category")


# ---------------------------------------------------------------------- what training reads, and leaves


class Recorded:
    """A generator that no library knows, and what it gave."""

    def __init__(self, generator):
        self.generator, self.users = generator, []

    def __len__(self):
        return len(self.generator)

    def __iter__(self):
        for batch in self.generator:
            self.users.append(batch["user_id"].tolist())
            yield batch


def native(generator):
    """Record what FuxiCTR's own generator collates."""
    collate, generator.users = generator.collate_fn, []

    def recorded(rows):
        generator.users.append([row[0] for row in rows])
        return collate(rows)

    generator.collate_fn = recorded
    return generator


@pytest.mark.parametrize("record", [native, Recorded])
@pytest.mark.parametrize(
    ("backbone", "config"),
    [
        (DEEPFM, ON),
        (DIN, SelectiveConfig(gate="joint", weight=0.5, uncertainty="mc_dropout", mc_samples=2)),
        (BACKBONES["Centred"], ON),
        (DEEPFM, SelectiveConfig(gate="bilevel", weight=0.5)),
    ],
    ids=["riding along", "mc_dropout", "a pass of its own", "look-ahead"],
)
def test_batches_and_random_numbers_are_the_plain_models(backbone, config, record):
    outcomes = []
    for wrapped in (False, True):
        model = ready(config, backbone, with_probes()) if wrapped else zoo.build(backbone)
        train, valid = zoo.generators(model)
        train = record(train)
        torch.manual_seed(3)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        model.fit(train, epochs=3, validation_data=valid)
        outcomes.append((train.users[-15:], torch.rand(3).tolist(), np.random.rand(), random.random()))  # noqa: NPY002
        if wrapped:
            assert min(account["sllmr_pairs"] for account in model.sllmr.epochs) > 50
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0][:5] != outcomes[0][0][5:10]  # the order does change from epoch to epoch


class CentredUsers(DeepFM):
    """Looks at the batch's users as a whole, and at nothing else of it."""

    def logit(self, X):
        users = self.embedding_layer(X)[:, 0]
        return super().logit(X) + (users - users.mean(dim=0)).sum(dim=1, keepdim=True)


OWN = [zoo.Backbone("CentredUsers", CentredUsers, rides_along=False), BACKBONES["OwnStep"], TWO_TASKS]


@pytest.mark.parametrize("backbone", [DEEPFM, DIN, BACKBONES["Centred"], *OWN], ids=lambda backbone: backbone.name)
def test_whether_rows_ride_along_is_found_out_in_the_first_step(backbone):
    model = ready(backbone=backbone)
    session = model.sllmr.session = zoo.open_session(backbone, model)
    assert model._sllmr_passes.shares is None
    session.begin_epoch(0)
    model(zoo.batch(model, {name: values[:40] for name, values in zoo.inputs(model).items()}))
    assert model._sllmr_passes.shares is backbone.rides_along


class NeedsHistories(zoo.DIN):
    """Needs two rows with a history, and gives a mask and a None beside the prediction, as a DIEN does."""

    def forward(self, inputs):
        has_one = inputs["hist_item_id"].long()[:, 0] > 0
        if has_one.sum() < 2:
            raise RuntimeError("Cannot pack empty tensors.")
        return super().forward(inputs) | {"pad_mask": has_one, "neg_emb": None}


def half_without_histories(model):
    """Return shuffled batches in which users of odd code have no history, and scores of such users only."""
    x = {**zoo.inputs(model), "click": shared.samples()[1]}
    x["hist_item_id"] = x["hist_item_id"] * (x["user_id"] % 2 == 0)[:, None]
    order = np.argsort(x["user_id"] % 2 == 0, kind="stable")  # the first batch starts with 40 rows and more without
    rows = [zoo.batch(model, {name: values[order[start::2]] for name, values in x.items()}) for start in range(2)]
    frame = shared.score_frame()
    return rows, frame[frame["user_id"] % 2 == 1]


NEEDS_HISTORIES = zoo.Backbone("NeedsHistories", NeedsHistories, history=True)


@pytest.mark.parametrize("gate", ["none", "auto"])
def test_scored_users_without_histories_ride_in_the_batch_of_a_model_that_needs_some(gate):
    batches, frame = half_without_histories(zoo.build(NEEDS_HISTORIES))
    assert not batches[0]["hist_item_id"][:40].any()
    model = ready(ON.replace(gate=gate), NEEDS_HISTORIES, frame)
    model.fit(batches, epochs=2, validation_data=batches)
    assert min(account["sllmr_pairs"] for account in model.sllmr.epochs) > 50


def test_where_rows_have_to_go_alone_and_cannot_an_error_says_so():
    batches, frame = half_without_histories(zoo.build(NEEDS_HISTORIES))
    model = ready(ON.replace(gate="joint", uncertainty="mc_dropout"), NEEDS_HISTORIES, frame)
    with pytest.raises(SLLMRError, match=r"without others beside them: Cannot pack .* score users who have one"):
        model.fit(batches, epochs=1, validation_data=batches)
    assert model.sllmr.session is None


class Fields(DeepFM):
    """Picks the pairs of fields with an index and a mask that are parameters, as a PNN and an AFM do."""

    def __init__(self, feature_map, **kwargs):
        super().__init__(feature_map, **kwargs)
        n = feature_map.num_fields
        self.mask = nn.Parameter(torch.ones(n, n).triu(1).bool(), requires_grad=False)
        self.first = nn.Parameter(torch.triu_indices(n, n, 1)[0], requires_grad=False)

    def logit(self, X):
        fields = self.embedding_layer(X)
        products = (fields @ fields.transpose(1, 2)).masked_select(self.mask).view(len(fields), -1)
        return super().logit(X) + (products * fields.sum(dim=2).index_select(1, self.first)).sum(dim=1, keepdim=True)


@pytest.mark.parametrize("gate", ["joint", "bilevel"])
def test_a_model_with_masks_and_indexes_for_parameters_trains_and_keeps_them(gate):
    model = ready(ON.replace(gate=gate), zoo.Backbone("Fields", Fields), with_probes())
    before = model.mask.clone(), model.first.clone()
    zoo.fit(DEEPFM, model)
    assert min(account["sllmr_pairs"] for account in model.sllmr.epochs) > 50
    assert torch.equal(model.mask, before[0])
    assert torch.equal(model.first, before[1])


class Told(DeepFM):
    """Remembers the losses of its steps."""

    def compute_loss(self, return_dict, y_true):
        loss = super().compute_loss(return_dict, y_true)
        self.__dict__.setdefault("told", []).append(loss.item())
        return loss


def test_beside_a_vanishing_weight_every_step_is_the_plain_models():
    """Dropout's masks and batch statistics are those of a pass without the extra rows, all through a training."""
    models = [zoo.build(zoo.Backbone("Told", Told)), ready(ON.replace(weight=1e-30), zoo.Backbone("Told", Told))]
    for model in models:
        zoo.fit(DEEPFM, model, epochs=2)
    plain, wrapped = models
    assert len(plain.told) == 10
    np.testing.assert_allclose(wrapped.told, plain.told, rtol=1e-5)
    # not the running means: a bias before a norm has no gradient but rounding's, which Adam makes steps of
    for (name, one), other in zip(plain.named_buffers(), wrapped.buffers(), strict=True):
        if not name.endswith("running_mean"):
            torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5, msg=name)


def columns(model):
    names = list(model.sllmr.features.layout)
    x = zoo.inputs(model)
    return np.concatenate([x[name].reshape(len(x[name]), -1) for name in names], axis=1), shared.samples()[1]


def as_blocks(model, folder):
    x, y = zoo.inputs(model), shared.samples()[1]
    for number, part in enumerate(np.array_split(np.arange(len(y)), 3)):
        np.savez(folder / f"part{number}.npz", **{name: values[part] for name, values in x.items()}, click=y[part])
    return NpzBlockDataLoader(model.feature_map, str(folder), batch_size=7, shuffle=True, num_workers=0)


def as_parquet(model, folder):
    x, y = zoo.inputs(model), shared.samples()[1]
    frame = {name: list(values) if values.ndim > 1 else values for name, values in x.items()}
    for number, part in enumerate(np.array_split(np.arange(len(y)), 3)):
        pd.DataFrame({**frame, "click": y}).iloc[part].to_parquet(folder / f"part{number}.parquet")
    loader = object.__new__(ParquetDataLoader)  # its constructor starts a cluster
    loader.parquet_files = sorted(str(path) for path in folder.glob("*.parquet"))
    return loader


def as_parquet_blocks(model, folder):
    """The block loader of FuxiCTR's repository, which names parquet files as its npz loader does npz files."""
    paths = as_parquet(model, folder).parquet_files
    loader = object.__new__(NpzBlockDataLoader)
    loader.data_blocks = paths
    return loader


def as_parquet_array(model, folder):
    """The parquet loader of FuxiCTR's repository, which holds an array and names no files."""
    rows, y = columns(model)
    loader = object.__new__(ParquetDataLoader)
    loader.dataset = SimpleNamespace(darray=np.column_stack([rows, y]))
    return loader


class Scored(NpzDataLoader):
    """A user's own: leaves out rows of what FuxiCTR's loads, and gives the others in batches."""

    def __iter__(self):
        for batch in super().__iter__():
            yield {name: values[batch["user_id"] > 3] for name, values in batch.items()}


def test_a_loader_of_the_users_own_is_iterated():
    model = ready()
    path = str(Path(model.feature_map.data_dir) / "rows.npz")
    loader = Scored(model.feature_map, path, batch_size=48, num_workers=0)
    rows, _ = columns(model)
    pieces = training_pieces(loader, model.feature_map, model.sllmr.features.layout, "click")
    np.testing.assert_allclose(np.concatenate([part for part, _ in pieces]), rows[rows[:, 0] > 3], rtol=1e-6)


@pytest.mark.skipif(int(polars.__version__.split(".")[0]) > 1, reason="the extra fuxictr asks for polars below 2")
@pytest.mark.filterwarnings("ignore:the argument `dtypes`:DeprecationWarning")
def test_fuxictrs_preprocessing_reads_csv_with_the_polars_that_the_extra_asks_for(tmp_path):
    (tmp_path / "rows.csv").write_text("user_id,price,click\n007,0.5,1\n8,,0\n")
    columns_of = [
        {"name": "user_id", "active": True, "dtype": "str", "type": "categorical"},
        {"name": "price", "active": True, "dtype": "float", "type": "numeric"},
    ]
    processor = FeatureProcessor(
        columns_of, {"name": "click", "dtype": "float"}, dataset_id="rows", data_root=str(tmp_path)
    )
    frame = processor.read_data(str(tmp_path / "rows.csv"), data_format="csv", sep=",").collect()
    assert frame.rows() == [("007", 0.5, 1.0), ("8", None, 0.0)]


def as_data_loader(model, folder):
    x, y = {**zoo.inputs(model), "click": shared.samples()[1]}, shared.samples()[1]
    rows = [{name: values[row] for name, values in x.items()} for row in range(len(y))]
    return DataLoader(rows, batch_size=11, shuffle=True)


def as_batches(model, folder):
    x = zoo.batch(model, {**zoo.inputs(model), "click": shared.samples()[1]})
    return [{name: values[start : start + 50] for name, values in x.items()} for start in range(0, 240, 50)]


@pytest.mark.parametrize(
    "kind", [None, as_blocks, as_parquet, as_parquet_blocks, as_parquet_array, as_data_loader, as_batches]
)
def test_rows_come_in_stored_order_from_every_generator(kind, tmp_path):
    model = ready(backbone=DIN)
    generator = zoo.generators(model)[0] if kind is None else kind(model, tmp_path)
    layout = model.sllmr.features.layout
    pieces = list(training_pieces(generator, model.feature_map, layout, "click"))
    expected_rows, expected_labels = columns(model)
    np.testing.assert_allclose(np.concatenate([rows for rows, _ in pieces]), expected_rows, rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in pieces]), expected_labels)
    usable = model._usable({"data_generator": generator})
    last = {}
    for row, (user, label) in enumerate(zip(expected_rows[:, 0], expected_labels, strict=True)):
        if label or not (user in last and expected_labels[last[user]]):
            last[user] = row
    for user, template in zip(usable.candidates.users.tolist(), usable.candidate_rows.templates, strict=True):
        np.testing.assert_allclose(template.numpy(), expected_rows[last[user]], rtol=1e-6)


def test_generators_that_cannot_be_read_are_refused():
    model = ready()
    train, valid = zoo.generators(model)
    with pytest.raises(DataError, match="read only once"):
        model.fit(iter(train), epochs=1, validation_data=valid)
    with pytest.raises(DataError, match="lack price, click"):
        model.fit([{key: v for key, v in zoo.batch(model).items() if key != "price"}], validation_data=valid)
    batch = zoo.batch(ready(backbone=DIN)) | {"click": torch.ones(240)}
    batch["hist_item_id"] = batch["hist_item_id"][:, :3]
    with pytest.raises(DataError, match="gives 3 values per row for hist_item_id, the feature_map says 4"):
        ready(backbone=DIN).fit([batch], validation_data=valid)
    assert model.sllmr.session is None


# ---------------------------------------------------------------------- the loss and its scale


@pytest.mark.parametrize("scale", ["batch_mean", "pair_sum"])
def test_the_weight_means_what_it_means_beside_a_sum(scale):
    """FuxiCTR's loss is a mean, DeepCTR-Torch's a sum: what is added is the same share of it."""
    added = []
    for library, backbone in ((zoo, DEEPFM), (shared, shared.BACKBONES[1])):
        config = SelectiveConfig(gate="none", weight=0.3, weight_scale=scale, seed=4)
        model = library.wrapped(backbone, library.build(backbone), config)
        library.compile_model(backbone, model)
        session = model.sllmr.session = library.open_session(backbone, model)
        session.begin_epoch(0)
        rows = {name: values[:40] for name, values in library.inputs(model).items()}
        output = model(library.batch(model, rows))
        result = session._pending[0]
        if library is zoo:
            y = torch.ones(40, 1)
            loss = model.compute_loss(output, y) - (model.add_loss(output, y) + model.regularization_loss())
        else:
            loss = session.take_loss()
        factor = 0.3 * (1 if scale == "batch_mean" else result.n_terms / 40)
        expected = factor * float(result.objective.detach()) * (1 if library is zoo else 40)
        assert loss.item() == pytest.approx(expected, rel=1e-3)
        added.append(loss.item())
    assert added[0] > 0


def test_the_account_is_logged_and_kept(caplog):
    model = ready(backbone=DIN)
    with caplog.at_level(logging.INFO):
        zoo.fit(DIN, model, epochs=2)
    lines = [record.message for record in caplog.records if record.message.startswith("[SLLMR] epoch")]
    assert [line[:16] for line in lines] == ["[SLLMR] epoch 1:", "[SLLMR] epoch 2:"]
    assert f"pairs: {model.sllmr.epochs[1]['sllmr_pairs']:.4g}" in lines[1]
    assert "epoch 2: loss" in str(model.sllmr.status())


def test_a_fit_of_warm_up_only_warns_and_the_first_epochs_are_plain():
    with pytest.warns(InactiveWarning, match="Lower warmup_epochs"):
        zoo.fit(DEEPFM, ready(ON.replace(warmup_epochs=2)), epochs=2)
    history = zoo.fit(DEEPFM, ready(ON.replace(warmup_epochs=1)), epochs=2).history
    assert history["sllmr_pairs"][0] == 0 < history["sllmr_pairs"][1]


class Deaf(DeepFM):
    """Makes its own loss."""

    def train_step(self, batch_data):
        output = self.forward(batch_data)
        loss = self.add_loss(output, self.get_labels(batch_data))
        loss.backward()
        return loss


class OwnLoop(DeepFM):
    """Does not train in epochs of FuxiCTR's."""

    def fit(self, data_generator, epochs=1, **kwargs):
        """Train on the first batch."""
        return super().train_step(next(iter(data_generator)))


def test_training_that_the_regularizer_cannot_reach_is_an_error():
    model = ready(backbone=zoo.Backbone("Deaf", Deaf))
    with pytest.raises(HookNeverFiredError, match="compute_loss"):
        zoo.fit(DEEPFM, model, epochs=1)
    assert model.sllmr.session is None
    model = ready(backbone=zoo.Backbone("OwnLoop", OwnLoop))
    model._max_gradient_norm = 10.0
    with pytest.raises(HookNeverFiredError, match="self.train_epoch"):
        model.fit(zoo.generators(model)[0])
    with pytest.raises(HookNeverFiredError, match="no data_generator"):
        model.fit(epochs=1)


class ReadsLabels(DeepFM):
    """Looks at what candidates do not have."""

    def forward(self, inputs):
        return super().forward(inputs) | {"label": inputs["click"]}


def test_a_forward_that_reads_labels_is_refused():
    model = ready(backbone=zoo.Backbone("ReadsLabels", ReadsLabels))
    with pytest.raises(SLLMRError, match="reads 'click' from the batch"):
        zoo.fit(DEEPFM, model, epochs=1)
    assert model.sllmr.session is None


# ---------------------------------------------------------------------- gates, checkpoints, probes


def test_a_gate_trained_by_descent_joins_the_optimizer_late_and_leaves_with_unwrap():
    model = zoo.build(DEEPFM)
    groups = len(model.optimizer.param_groups)
    zoo.wrapped(DEEPFM, model, SelectiveConfig(gate="joint", weight=1.0))
    assert len(model.optimizer.param_groups) == groups + 1
    before = dict(model.sllmr.gate.coefficients())
    zoo.fit(DEEPFM, model)
    assert model.sllmr.gate.coefficients() != before
    assert list(model.state_dict()) == list(zoo.build(DEEPFM).state_dict())
    model.compile("adam", "binary_crossentropy", 0.01)  # a new optimizer
    assert len(model.optimizer.param_groups) == groups + 1
    assert len(unwrap(model).optimizer.param_groups) == groups


@pytest.mark.parametrize("uncertainty", ["mc_dropout", "ensemble"])
@pytest.mark.parametrize("gate", ["bilevel", "disagreement", "budget"])
def test_gates_work_with_shared_embeddings(gate, uncertainty):
    model = ready(SelectiveConfig(gate=gate, uncertainty=uncertainty, mc_samples=2, weight=0.5), DIN, with_probes())
    model.sllmr.set_ensemble([zoo.build(DIN).state_dict() for _ in range(2)])
    history = zoo.fit(DIN, model).history
    assert min(history["sllmr_pairs"]) > 50
    assert model.embedding_layer.embedding_layers["item_id"] is model.embedding_layer.embedding_layers["hist_item_id"]
    assert all(isinstance(parameter, torch.nn.Parameter) for parameter in model.parameters())


def test_the_best_checkpoint_is_reloaded_and_weights_go_to_a_plain_model_and_back(tmp_path):
    model = ready(SelectiveConfig(gate="none", weight=5.0), save_best_only=True, early_stop_patience=2)
    train, valid = zoo.generators(model)
    torch.manual_seed(3)
    states, own = [], model.eval_step

    def eval_step():
        own()
        states.append((model._best_metric, {k: v.clone() for k, v in model.state_dict().items()}))

    model.eval_step = eval_step
    model.fit(train, epochs=6, validation_data=valid)
    best = next(state for metric, state in states if metric == model._best_metric)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, best[name]), name
    assert not torch.equal(best["mlp.mlp.0.weight"], states[-1][1]["mlp.mlp.0.weight"])  # the last was another
    assert len(model.sllmr.epochs) == len(states)
    model.save_weights(tmp_path / "weights")
    plain = zoo.build(DEEPFM)
    plain.load_weights(tmp_path / "weights")
    np.testing.assert_array_equal(zoo.predict(plain), zoo.predict(model))
    other = ready()
    other.load_weights(tmp_path / "weights")
    np.testing.assert_array_equal(zoo.predict(unwrap(other)), zoo.predict(model))


def test_gate_and_settings_are_saved_beside_the_weights(tmp_path):
    model = ready(SelectiveConfig(gate="joint", weight=1.0))
    zoo.fit(DEEPFM, model)
    model.sllmr.save(tmp_path)
    other = ready()
    other.sllmr.load(tmp_path)
    assert other.sllmr.gate.coefficients() == model.sllmr.gate.coefficients()
    assert other.sllmr.config == model.sllmr.config


def test_reliability_takes_the_generator_and_leaves_a_plain_model_plain():
    model = zoo.build(DEEPFM)
    zoo.fit(DEEPFM, model)
    kind, before = type(model), zoo.predict(model)
    found = reliability(
        model,
        with_probes(),
        x=zoo.generators(model)[0],
        user="user_id",
        item="item_id",
        item_features=["item_id", "category", "price"],
    )
    judged = found.table.iloc[0]
    assert judged["n_users"] > 5
    assert judged["llm_right"] == 1.0  # the probes' scores are the highest
    assert type(model) is kind
    np.testing.assert_array_equal(zoo.predict(model), before)


def test_scores_are_those_of_predict():
    model = ready(backbone=TWO_TASKS)
    session = zoo.open_session(TWO_TASKS, model)
    rows = session.usable.candidate_rows.templates
    logit, probability, _ = model._passes(0.0).score_rows(rows)
    x = {name: rows[:, first].numpy() for name, (first, _) in model.sllmr.features.layout.items()}
    np.testing.assert_allclose(probability, zoo.predict(model, x)[:, 1], rtol=1e-5)
    np.testing.assert_allclose(logit.sigmoid(), probability, rtol=1e-5)


@pytest.mark.parametrize("backbone", zoo.BACKBONES, ids=lambda backbone: backbone.name)
def test_embeddings_start_from_vectors(backbone):
    model = zoo.build(backbone)
    before = {name: value.clone() for name, value in model.named_parameters()}
    keys = list(model.state_dict())
    vectors = {code: np.random.default_rng(code).normal(size=6) for code in range(1, 25)}
    x, y = shared.samples()
    assert str(initialise(model, vectors, user="user_id", item="item_id", x=x, y=y, scale=0)).startswith("not init")
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    done = initialise(model, vectors, user="user_id", item="item_id", x=x, y=y, scale=0.5)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == set(done.tables)
    assert len(changed) == 2  # a history reads the item's own table
    assert list(model.state_dict()) == keys
    rows = dict(model.named_parameters())[done.tables[0]].detach()
    torch.testing.assert_close(rows[1:].square().mean(dim=1).sqrt(), torch.full((24,), 0.5))
    assert torch.equal(rows[0], before[done.tables[0]][0])  # padding
    done.undo(model)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
