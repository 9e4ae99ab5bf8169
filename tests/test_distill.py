"""`distill_features`: the loss against loops, whose rows it sees, which layer, what is refused, what undo does."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch

from sllmr_plugin import (
    CoverageError,
    CoverageWarning,
    HookNeverFiredError,
    SelectiveConfig,
    Vectors,
    align,
    distill_features,
    unwrap,
)
from sllmr_plugin.errors import AlreadyWrappedError, UnsupportedModelError, VectorsError

from .matrix import backbones as zoo
from .test_align import DEEPFM, NAMES, cosine, directions, with_users


@pytest.fixture
def matrix():
    return np.random.default_rng(3).normal(size=(zoo.N_ITEMS, 7)).astype(np.float32)


@pytest.fixture
def vectors(matrix):
    return dict(enumerate(matrix, start=1))


def open_run(model):
    """Open what `fit` opens, and begin an epoch."""
    run = model.sllmr_losses["distill"].open(model)
    model.__dict__["_sllmr_runs"] = (run,)
    model._begin_epoch(0)
    return run


def rows_of(model, n=20):
    x, _ = zoo.samples()
    return x, torch.from_numpy(np.stack([x[name][:n].astype(np.float32) for name in model.feature_index], axis=1))


@pytest.mark.parametrize("target", ["item", "user", "both"])
def test_a_step_adds_one_minus_the_cosine_of_rows_with_a_vector(matrix, target):
    users = with_users(matrix)[1]
    lacking = 3  # an item without a vector
    of_items = {code: row for code, row in enumerate(matrix, start=1) if code != lacking}
    centred = np.stack(list(of_items.values()))
    read = Vectors(
        Vectors.read(of_items).items, Vectors.read(dict(enumerate(users, start=1))).items, "vectors of the test"
    )
    model = zoo.build(DEEPFM)
    distill_features(model, read, **NAMES, target=target, weight=0.3)
    zoo.compile_model(DEEPFM, model)
    run = open_run(model)
    plain = model.get_regularization_loss().detach()
    x, batch = rows_of(model)
    model.eval()  # dropout would make other features in the loop
    hidden = []
    model.dnn_linear.register_forward_pre_hook(lambda _, args: hidden.append(args[0].detach()))
    model(batch)
    added = model.get_regularization_loss().detach() - plain
    assert torch.equal(model.get_regularization_loss().detach(), plain)  # handed out once

    known = {code: directions(centred, row[None])[0] for code, row in of_items.items()}
    own = dict(enumerate(directions(centred, users), start=1))
    w = model.sllmr_losses["distill"].project.weight.detach().double()
    losses = []
    for row in range(20):
        user, item = int(x["user_id"][row]), int(x["item_id"][row])
        if target != "user" and item not in known:
            continue
        z = {"item": [known.get(item)], "user": [own[user]], "both": [own[user], known.get(item)]}[target]
        found = torch.stack([weights @ hidden[0][row].double() for weights in w])
        losses.append(1 - cosine(found, torch.cat(z)))
    assert len(losses) == (20 if target == "user" else 20 - int((x["item_id"][:20] == lacking).sum()))
    assert target == "user" or len(losses) < 20
    assert float(added) == pytest.approx(20 * 0.3 * sum(losses) / len(losses), rel=1e-3)
    account = model._end_epoch()
    assert account["sllmr_distill"] == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    assert account["sllmr_distill_ids"] == len(losses)
    assert run.began


def test_what_it_reaches_is_the_backbone_and_w(vectors):
    model = zoo.build(DEEPFM)
    distill_features(model, vectors, **NAMES)
    run = open_run(model)
    _, batch = rows_of(model)
    model(batch)
    run.take_loss().backward()
    assert model.embedding_dict["item_id"].weight.grad.abs().sum() > 0
    assert model.dnn_linear.weight.grad is None  # the last layer itself is behind its input
    assert model.sllmr_losses["distill"].project.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("gate", ["none", "fixed"])
def test_candidates_of_a_wrapped_model_are_not_distilled(vectors, gate):
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), SelectiveConfig(gate=gate, seed=1))
    distill_features(model, vectors, **NAMES)
    zoo.compile_model(DEEPFM, model)
    shapes = []
    loss = model.sllmr_losses["distill"]
    layer = model.dnn_linear

    def watched(model):
        run = type(loss).open(loss, model)
        compute = run.compute

        def watch(codes):
            shapes.append((len(codes["item_id"]), len(run._hidden)))
            return compute(codes)

        run.compute = watch
        return run

    loss.open = watched
    zoo.fit(DEEPFM, model, epochs=1)
    assert [n for n, _ in shapes] == [48] * 5
    assert all(n_hidden > 48 for _, n_hidden in shapes)  # candidates rode along, behind the batch
    assert not layer._forward_pre_hooks


def test_w_and_the_backbone_learn_what_the_vectors_say(vectors):
    model = zoo.build(DEEPFM)
    done = distill_features(model, vectors, **NAMES, weight=2.0)
    zoo.compile_model(DEEPFM, model, learning_rate=0.1)
    history = zoo.fit(DEEPFM, model, epochs=12).history
    assert history["sllmr_distill"][-1] < history["sllmr_distill"][0] - 0.2
    assert history["sllmr_distill_ids"] == [240] * 12
    n_own = len(list(zoo.build(DEEPFM).parameters()))
    assert sum(len(group["params"]) for group in model.optim.param_groups) == n_own + 1
    done.undo(model)
    assert sum(len(group["params"]) for group in model.optim.param_groups) == n_own
    assert "sllmr_losses" not in vars(model)


def test_the_seed_decides_w(vectors):
    starts = []
    for seed in (0, 0, 1):
        model = zoo.build(DEEPFM)
        distill_features(model, vectors, **NAMES, seed=seed)
        starts.append(model.sllmr_losses["distill"].project.weight.detach())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_it_goes_with_align_and_wrap_and_unwrap_keeps_it(vectors):
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), SelectiveConfig(gate="none", seed=1))
    distill_features(model, vectors, **NAMES)
    aligned = align(model, vectors, **NAMES)
    zoo.compile_model(DEEPFM, model)
    history = zoo.fit(DEEPFM, model, epochs=1).history
    assert {"sllmr_align", "sllmr_distill", "sllmr_pairs"} <= set(history)
    aligned.undo(model)
    assert {"sllmr_distill"} == {
        key for key in zoo.fit(DEEPFM, unwrap(model), epochs=1).history if "distill" in key
    } - {"sllmr_distill_ids"}


def test_a_model_written_or_copied_while_it_trains_holds_no_hook(vectors, tmp_path):
    from deepctr_torch.callbacks import ModelCheckpoint

    model = zoo.build(DEEPFM)
    distill_features(model, vectors, **NAMES, weight=0.5)
    zoo.compile_model(DEEPFM, model)
    path = str(tmp_path / "whole.pt")
    zoo.fit(DEEPFM, model, epochs=1, callbacks=[ModelCheckpoint(path, monitor="sllmr_distill", verbose=0)])
    twin = torch.load(path, weights_only=False)
    assert not twin.dnn_linear._forward_pre_hooks
    zoo.fit(DEEPFM, twin, epochs=1)
    file = io.BytesIO()
    torch.save(copy.deepcopy(model), file)


def test_the_layer_is_the_least_nested_that_makes_one_number_of_several():
    expected = {"xDeepFM": "dnn_linear", "DCNMix": "dnn_linear", "FiBiNET": "dnn_linear", "AFN": "afn_dnn_linear"}
    expected |= {"DIN": "dnn_linear", "DIEN": "linear", "MMOE": "tower_dnn_final_layer.0"}
    vectors = {code: [float(code), 1.0] for code in range(1, zoo.N_ITEMS + 1)}
    found = {}
    for backbone in zoo.BACKBONES:
        if backbone.name in expected:
            found[backbone.name] = distill_features(zoo.build(backbone), vectors, **NAMES).layer
    assert found == expected


def test_another_layer_can_be_named(vectors):
    model = zoo.build(DEEPFM)
    done = distill_features(model, vectors, **NAMES, layer="dnn.linears.1")
    assert (done.layer, done.width) == ("dnn.linears.1", 8)
    zoo.compile_model(DEEPFM, model)
    assert "sllmr_distill" in zoo.fit(DEEPFM, model, epochs=1).history
    with pytest.raises(UnsupportedModelError, match=r"no linear layer 'dnn'. Its linear layers are dnn.linears.0, "):
        distill_features(zoo.build(DEEPFM), vectors, **NAMES, layer="dnn")


def test_models_without_such_a_layer_are_refused(vectors):
    afm = next(backbone for backbone in zoo.BACKBONES if backbone.name == "AFM")
    with pytest.raises(UnsupportedModelError, match="AFM has no linear layer that makes one number"):
        distill_features(zoo.build(afm), vectors, **NAMES)
    din = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DIN")
    model = zoo.build(din)
    distill_features(model, vectors, **NAMES, layer="attention.local_att.dense")
    zoo.compile_model(din, model)
    with pytest.raises(UnsupportedModelError, match=r"shape \(48, 4, 4\) for a batch of 48 rows"):
        zoo.fit(din, model)
    assert not model.attention.local_att.dense._forward_pre_hooks
    unused = zoo.build(DEEPFM)
    unused.spare = torch.nn.Linear(3, 1)
    distill_features(unused, vectors, **NAMES, layer="spare")
    zoo.compile_model(DEEPFM, unused)
    with pytest.raises(HookNeverFiredError, match="did not call the layer 'spare'"):
        zoo.fit(DEEPFM, unused)
    assert not unused.spare._forward_pre_hooks


def test_it_prints_what_it_distills(vectors, matrix):
    assert str(distill_features(zoo.build(DEEPFM), vectors, **NAMES)) == (
        "distilling a mapping into the 4 numbers that dnn_linear reads, target item, weight 0.1: vectors of 24 items, "
        "0 users"
    )
    done = distill_features(zoo.build(DEEPFM), with_users(matrix)[0], **NAMES, target="both")
    assert (done.n_items, done.n_users) == (zoo.N_ITEMS, zoo.N_USERS)
    assert str(distill_features(zoo.build(DEEPFM), vectors, **NAMES, weight=0)).startswith("not distilled: weight 0")
    with pytest.warns(CoverageWarning, match="3 of 25 codes of items have a vector"):
        distill_features(zoo.build(DEEPFM), {code: vectors[code] for code in (1, 2, 3)}, **NAMES)


def test_arguments_that_make_no_sense_are_refused_and_the_model_left_alone(vectors):
    model = zoo.build(DEEPFM)
    before = set(vars(model))
    for options in ({"weight": -1}, {"weight": math.nan}, {"target": "items"}):
        with pytest.raises(VectorsError, match=next(iter(options))):
            distill_features(model, vectors, **NAMES, **options)
    with pytest.raises(VectorsError, match="has no vectors of users"):
        distill_features(model, vectors, **NAMES, target="both")
    with pytest.raises(VectorsError, match="none of the 24 items is known"):
        distill_features(model, {f"sku{c}": row for c, row in vectors.items()}, **NAMES, item_index={"other": 1})
    with pytest.raises(UnsupportedModelError, match="neither"):
        distill_features(torch.nn.Linear(2, 2), vectors, **NAMES)
    assert set(vars(model)) == before
    distill_features(model, vectors, **NAMES)
    with pytest.raises(AlreadyWrappedError, match="has a loss named 'distill' already"):
        distill_features(model, vectors, **NAMES)


def test_no_row_with_a_vector_is_an_error(vectors):
    x, _ = zoo.samples()
    absent = zoo.N_ITEMS
    keep = x["item_id"] != absent
    model = zoo.build(DEEPFM)
    with pytest.warns(CoverageWarning):
        distill_features(model, {absent: vectors[absent]}, **NAMES)
    zoo.compile_model(DEEPFM, model)
    rows = {name: values[keep] for name, values in zoo.inputs(model).items()}
    with pytest.raises(CoverageError, match="no row of the epoch has an id that distill has a vector of"):
        model.fit(rows, zoo.labels(DEEPFM)[keep], batch_size=48, verbose=0)
