"""`align`: each loss against loops, whose ids it sees, gates, what is refused, what undo takes back."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import sllmr_plugin
from sllmr_plugin import CoverageError, CoverageWarning, HookNeverFiredError, SelectiveConfig, Vectors, align
from sllmr_plugin.errors import AlreadyWrappedError, AugmentError, ProcessesError, UnsupportedModelError, VectorsError
from sllmr_plugin.knowledge.align import KINDS, MASKED
from sllmr_plugin.parallel.ranks import Ranks

from .matrix import backbones as zoo

DEEPFM = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")
NAMES = {"user": "user_id", "item": "item_id"}
ITEM, USER = "embedding_dict.item_id.weight", "embedding_dict.user_id.weight"
TAU = 0.2


@pytest.fixture
def matrix():
    return np.random.default_rng(3).normal(size=(zoo.N_ITEMS, 7)).astype(np.float32)


@pytest.fixture
def vectors(matrix):
    return dict(enumerate(matrix, start=1))


def with_users(matrix):
    """Vectors of items and users in one space."""
    users = np.random.default_rng(4).normal(size=(zoo.N_USERS, 7)).astype(np.float32)
    read = Vectors.read(dict(enumerate(matrix, start=1)))
    own = Vectors.read(dict(enumerate(users, start=1)))
    return Vectors(read.items, own.items, "test vectors"), users


def cosine(a, b):
    return float(a @ b) / math.sqrt(float(a @ a)) / math.sqrt(float(b @ b))


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def naive_contrastive(project, own, vectors, n):
    projected = [project(vector) for vector in vectors]
    return [-math.log(softmax([cosine(own[i], projected[j]) / TAU for j in range(n)])[i]) for i in range(n)]


def naive_generative(project, own, vectors, n):
    rebuilt = [project(row) for row in own]
    return [-math.log(softmax([cosine(rebuilt[i], vectors[j]) / TAU for j in range(n)])[i]) for i in range(n)]


def naive_soft(project, own, vectors, n):
    losses = []
    for i in range(n):
        both = [(cosine(own[i], own[j]) + cosine(vectors[i], vectors[j])) / 2 / TAU for j in range(n)]
        predicted = softmax([cosine(own[i], project(vectors[j])) / TAU for j in range(n)])
        losses.append(-sum(t * math.log(p) for t, p in zip(softmax(both), predicted, strict=True)))
    return losses


NAIVE = {"contrastive": naive_contrastive, "generative": naive_generative, "soft": naive_soft}


def naive_losses(kind, aligner, own, vectors):
    """Loop over ids, with a projection that is worked out number by number in float64."""
    first, _, second = aligner.project
    (a, b), (c, d) = ((layer.weight.detach().double(), layer.bias.detach().double()) for layer in (first, second))

    def project(row):
        hidden = [float(a[k] @ row + b[k]) for k in range(len(b))]
        hidden = torch.tensor([h if h > 0 else 0.01 * h for h in hidden], dtype=torch.float64)
        return torch.stack([c[k] @ hidden + d[k] for k in range(len(d))])

    return NAIVE[kind](project, own.double(), vectors.double(), len(own))


@pytest.mark.parametrize("kind", KINDS)
def test_losses_equal_loops_and_the_projection_has_the_documented_sizes(kind):
    torch.manual_seed(1)
    aligner = KINDS[kind](7, 4, TAU)
    own, vectors = torch.randn(6, 4, requires_grad=True), torch.randn(6, 7)
    losses = aligner(own, vectors)
    expected = naive_losses(kind, aligner, own.detach(), vectors)
    torch.testing.assert_close(losses.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)
    sizes = [tuple(layer.weight.shape) for layer in (aligner.project[0], aligner.project[2])]
    assert sizes == ([(5, 4), (7, 5)] if kind == "generative" else [(5, 7), (4, 5)])
    losses.sum().backward()
    assert own.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in aligner.parameters())


def test_soft_targets_are_constants():
    """The gradient is that of the cross-entropy with the targets held fixed, by finite differences."""
    torch.manual_seed(2)
    aligner = KINDS["soft"](7, 4, TAU).double()
    own, vectors = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.randn(5, 7, dtype=torch.float64)
    aligner(own, vectors).sum().backward()
    with torch.no_grad():
        target = ((aligner.similarities(own, own) + aligner.similarities(vectors, vectors)) / 2).softmax(dim=1)

        def fixed(values):
            return -(target * aligner.similarities(values, aligner.project(vectors)).log_softmax(1)).sum()

        step = torch.zeros_like(own)
        step[2, 1] = 1e-6
        slope = (fixed(own + step) - fixed(own - step)) / 2e-6
    torch.testing.assert_close(own.grad[2, 1], slope, rtol=1e-5, atol=1e-6)


def directions(matrix, of=None):
    """Vectors from the items' mean, each of root mean square 1, row by row."""
    rows = []
    for row in matrix if of is None else of:
        row = row.astype(np.float64) - matrix.mean(axis=0, dtype=np.float64)
        rows.append(row / math.sqrt((row**2).mean()))
    return torch.tensor(np.array(rows))


def open_run(model):
    """Open what `fit` opens, and begin an epoch."""
    run = model.sllmr_losses["align"].open(model)
    model.__dict__["_sllmr_runs"] = (run,)
    model._begin_epoch(0)
    return run


@pytest.mark.parametrize("kind", ["contrastive", "soft"])
@pytest.mark.parametrize("gated", [False, "cold", "tail", "cold,tail"])
def test_a_step_adds_the_weighted_mean_of_the_ids_that_the_gate_lets_through(matrix, kind, gated):
    read, user_matrix = with_users(matrix)
    x, y = zoo.samples()
    model = zoo.build(DEEPFM)
    align(model, read, **NAMES, kind=kind, weight=0.3, gated=gated, x=x, y=y, cold_threshold=4, tail_quantile=0.4)
    zoo.compile_model(DEEPFM, model)
    run = open_run(model)
    plain = model.get_regularization_loss().detach()
    batch = torch.from_numpy(np.stack([x[name][:20].astype(np.float32) for name in model.feature_index], axis=1))
    model(batch)
    added = model.get_regularization_loss().detach() - plain
    assert torch.equal(model.get_regularization_loss().detach(), plain)  # handed out once

    taken = {"user_id": {}, "item_id": {}}
    for name, counts in taken.items():
        for code, label in zip(x[name].tolist(), y.tolist(), strict=True):
            counts[code] = counts.get(code, 0) + (label > 0)
    popularity = sorted(taken["item_id"].get(item, 0) for item in range(1, zoo.N_ITEMS + 1))
    limit = popularity[math.ceil(0.4 * zoo.N_ITEMS) - 1]
    is_open = {
        "user_id": lambda code: not gated or ("cold" in gated and taken["user_id"].get(code, 0) < 4),
        "item_id": lambda code: not gated or ("tail" in gated and taken["item_id"].get(code, 0) <= limit),
    }
    (aligner,) = model.sllmr_losses["align"].aligners.values()
    total, n_open = 0.0, 0
    for name, known in (("item_id", directions(matrix)), ("user_id", directions(matrix, user_matrix))):
        codes = sorted(set(x[name][:20].tolist()))
        own = model.embedding_dict[name].weight.detach()[codes]
        losses = naive_losses(kind, aligner, own, known[[code - 1 for code in codes]])
        let_through = [loss for code, loss in zip(codes, losses, strict=True) if is_open[name](code)]
        total += sum(let_through) / len(codes)
        n_open += len(let_through)
    assert n_open > 0
    assert n_open < 40 or not gated
    assert float(added) == pytest.approx(20 * 0.3 * total, rel=1e-3)
    account = model._end_epoch()
    assert account == {"sllmr_align": pytest.approx(total, rel=1e-3), "sllmr_align_ids": n_open}
    assert run.began


def test_the_generative_loss_reconstructs_a_tenth_of_the_ids_drawn_from_the_seed(vectors, matrix):
    x, _ = zoo.samples()
    model = zoo.build(DEEPFM)
    align(model, vectors, **NAMES, kind="generative", weight=1.0, seed=5)
    run = open_run(model)
    codes = torch.arange(1, zoo.N_ITEMS + 1)
    loss, n_drawn = run.compute({"item_id": codes.repeat(2)})
    assert n_drawn == round(MASKED * zoo.N_ITEMS) == 2
    drawn = torch.randperm(zoo.N_ITEMS, generator=torch.Generator().manual_seed(5))[:2]
    (aligner,) = model.sllmr_losses["align"].aligners.values()
    own = model.embedding_dict["item_id"].weight.detach()[1:][drawn]
    expected = naive_losses("generative", aligner, own, directions(matrix)[drawn])
    assert float(loss.detach()) == pytest.approx(sum(expected) / 2, rel=1e-3)
    again = open_run(model)  # another call of fit: other draws
    assert again._generator.initial_seed() == 6


def test_the_generative_loss_of_a_small_step_compares_two_ids(vectors, matrix):
    model = zoo.build(DEEPFM)
    align(model, vectors, **NAMES, kind="generative", weight=1.0, seed=5)
    run = open_run(model)
    loss, n_drawn = run.compute({"item_id": torch.tensor([2, 3, 5, 7])})
    assert n_drawn == 2  # a tenth of four would be one, whose softmax over itself is 1, whatever the embedding
    drawn = torch.tensor([2, 3, 5, 7])[torch.randperm(4, generator=torch.Generator().manual_seed(5))[:2]]
    (aligner,) = model.sllmr_losses["align"].aligners.values()
    own = model.embedding_dict["item_id"].weight.detach()[drawn]
    expected = naive_losses("generative", aligner, own, directions(matrix)[drawn - 1])
    assert float(loss.detach()) == pytest.approx(sum(expected) / 2, rel=1e-3)
    assert float(loss.detach()) > 0.01


def test_a_step_compares_no_more_ids_than_asked_for(vectors, matrix):
    model = zoo.build(DEEPFM)
    align(model, vectors, **NAMES, weight=1.0, seed=5, ids_per_step=6)
    run = open_run(model)
    loss, n_drawn = run.compute({"item_id": torch.arange(1, zoo.N_ITEMS + 1)})
    assert n_drawn == 6
    drawn = torch.randperm(zoo.N_ITEMS, generator=torch.Generator().manual_seed(5))[:6]
    (aligner,) = model.sllmr_losses["align"].aligners.values()
    own = model.embedding_dict["item_id"].weight.detach()[1:][drawn]
    expected = naive_losses("contrastive", aligner, own, directions(matrix)[drawn])
    assert float(loss.detach()) == pytest.approx(sum(expected) / 6, rel=1e-3)
    with pytest.raises(VectorsError, match="ids_per_step=1"):
        align(zoo.build(DEEPFM), vectors, **NAMES, ids_per_step=1)


def test_candidates_of_a_wrapped_model_are_seen_behind_the_batch(vectors):
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), SelectiveConfig(gate="none", seed=1))
    align(model, vectors, **NAMES)
    zoo.compile_model(DEEPFM, model)
    seen = []
    loss = model.sllmr_losses["align"]

    def watched(model):
        run = type(loss).open(loss, model)
        see = run.see

        def watch(codes, n_batch):
            seen.append((codes["item_id"].clone(), n_batch))
            see(codes, n_batch)

        run.see = watch
        return run

    loss.open = watched
    rows = []

    class Spy(sllmr_plugin.SLLMRCallback):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            session, plan = self.model.sllmr.session, self.model.sllmr.session.plan

            def planned(batch):
                made = plan(batch)
                rows.append((batch.clone(), made.rows.clone()))
                return made

            session.plan = planned

    zoo.fit(DEEPFM, model, epochs=1, callbacks=[Spy()])
    column = model.feature_index["item_id"][0]
    assert len(seen) == len(rows) == 5
    for (codes, n_batch), (batch, extra) in zip(seen, rows, strict=True):
        assert n_batch == len(batch)
        assert len(extra) > 0
        assert codes.tolist() == [*batch[:, column].tolist(), *extra[:, column].tolist()]


def test_validation_and_prediction_are_not_seen(vectors):
    model = zoo.build(DEEPFM)
    align(model, vectors, **NAMES)
    zoo.compile_model(DEEPFM, model)
    open_run(model)
    zoo.predict(model)
    assert model._sllmr_runs[0]._seen is None


def test_neighbours_in_the_vectors_become_neighbours_in_the_embedding():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 7))
    group = np.arange(zoo.N_ITEMS) % 4
    vectors = dict(enumerate(centres[group] + 0.05 * rng.normal(size=(zoo.N_ITEMS, 7)), start=1))

    def contrast(kind):
        model = zoo.build(DEEPFM)
        if kind:
            align(model, vectors, **NAMES, kind=kind, weight=1.0)
        zoo.compile_model(DEEPFM, model)
        zoo.fit(DEEPFM, model, epochs=30)
        rows = torch.nn.functional.normalize(model.embedding_dict["item_id"].weight.detach()[1:], dim=1)
        cosines, same = rows @ rows.T, torch.from_numpy(group[:, None] == group)
        off = ~torch.eye(zoo.N_ITEMS, dtype=torch.bool)
        return float(cosines[same & off].mean() - cosines[~same].mean())

    plain = contrast(None)
    for kind in KINDS:
        assert contrast(kind) > plain + 0.3, kind


def test_the_projection_learns_by_the_models_optimizer_and_leaves_it_with_undo(vectors):
    for first in ("align", "compile"):
        model = zoo.build(DEEPFM)
        n_own = len(list(model.parameters()))
        if first == "compile":
            zoo.compile_model(DEEPFM, model, learning_rate=0.03)
        done = align(model, vectors, **NAMES, weight=0.1)
        if first == "align":
            zoo.compile_model(DEEPFM, model, learning_rate=0.03)
        group = model.optim.param_groups[-1]
        assert (len(group["params"]), group["lr"]) == (4, 0.03)
        before = [parameter.detach().clone() for parameter in model.sllmr_losses["align"].parameters()]
        zoo.fit(DEEPFM, model, epochs=1)
        after = list(model.sllmr_losses["align"].parameters())
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert not {id(parameter) for parameter in after} & {id(parameter) for parameter in model.parameters()}
        done.undo(model)
        assert sum(len(group["params"]) for group in model.optim.param_groups) == n_own
        assert not {id(parameter) for parameter in after} & {id(key) for key in model.optim.state}
        done.undo(model)  # nothing left to take off


def test_undo_of_a_wrapped_model_keeps_the_regularizer(vectors):
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), SelectiveConfig(gate="none", seed=1))
    wrapped_class = type(model)
    done = align(model, vectors, **NAMES)
    zoo.compile_model(DEEPFM, model)
    assert {"sllmr_align", "sllmr_pairs"} <= set(zoo.fit(DEEPFM, model, epochs=1).history)
    assert set(model.sllmr.epochs[0]) & {"sllmr_align", "sllmr_pairs"} == {"sllmr_pairs"}
    done.undo(model)
    assert type(model) is wrapped_class
    history = zoo.fit(DEEPFM, model, epochs=1).history
    assert "sllmr_pairs" in history
    assert "sllmr_align" not in history


def test_callbacks_can_monitor_it_and_restore_the_best_weights(vectors, tmp_path):
    from deepctr_torch.callbacks import ModelCheckpoint

    model = zoo.build(DEEPFM)
    align(model, vectors, **NAMES, weight=0.5)
    zoo.compile_model(DEEPFM, model)
    path = str(tmp_path / "best.pt")
    checkpoint = ModelCheckpoint(path, monitor="sllmr_align", mode="min", save_best_only=True, save_weights_only=True)
    history = zoo.fit(DEEPFM, model, epochs=3, callbacks=[checkpoint]).history
    assert checkpoint.best == min(history["sllmr_align"])
    fresh = zoo.build(DEEPFM)
    fresh.load_state_dict(torch.load(path))
    whole = str(tmp_path / "whole.pt")
    zoo.fit(DEEPFM, model, epochs=1, callbacks=[ModelCheckpoint(whole, monitor="sllmr_align", verbose=0)])
    zoo.fit(DEEPFM, torch.load(whole, weights_only=False), epochs=1)  # written in the middle of a fit


def test_it_prints_what_it_aligns(vectors, matrix):
    assert str(align(zoo.build(DEEPFM), vectors, **NAMES)) == (
        f"aligning {ITEM} with a mapping, contrastive, weight 0.01: 24 of 25 item rows, 0 of 0 user rows"
    )
    done = align(zoo.build(DEEPFM), with_users(matrix)[0], **NAMES, kind="soft")
    assert (done.tables, done.n_users, done.user_rows) == ((ITEM, USER), zoo.N_USERS, zoo.N_USERS + 1)
    assert str(align(zoo.build(DEEPFM), vectors, **NAMES, weight=0)).startswith("not aligned: weight 0")
    with pytest.warns(CoverageWarning, match="3 of 25 rows of the item embedding have a vector"):
        align(zoo.build(DEEPFM), {code: vectors[code] for code in (1, 2, 3)}, **NAMES)


def test_arguments_that_make_no_sense_are_refused_and_the_model_left_alone(vectors):
    x, y = zoo.samples()
    model = zoo.build(DEEPFM)
    before = set(vars(model))
    for options in ({"weight": -1}, {"weight": math.nan}, {"tau": 0}, {"kind": "hard"}, {"gated": "warm"}):
        with pytest.raises(VectorsError, match=next(iter(options))):
            align(model, vectors, **NAMES, **options)
    with pytest.raises(VectorsError, match="needs x and y"):
        align(model, vectors, **NAMES, gated="tail")
    with pytest.raises(VectorsError, match="has no vectors of users"):
        align(model, vectors, **NAMES, gated="cold", x=x, y=y)
    with pytest.raises(VectorsError, match="leaves no id"):
        align(model, vectors, **NAMES, gated="tail", x=x, y=y, tail_quantile=0)
    with pytest.raises(VectorsError, match="no embedding table of 'price'"):
        align(model, vectors, user="user_id", item="price")
    with pytest.raises(VectorsError, match="none of the 24 items is known"):
        align(model, {f"sku{code}": row for code, row in vectors.items()}, **NAMES, item_index={"other": 1})
    with pytest.raises(UnsupportedModelError, match="neither"):
        align(torch.nn.Linear(2, 2), vectors, **NAMES)
    assert set(vars(model)) == before
    align(model, vectors, **NAMES)
    with pytest.raises(AlreadyWrappedError, match="has a loss named 'align' already"):
        align(model, vectors, **NAMES)
    model.gpus = [0]
    with pytest.raises(UnsupportedModelError, match="DataParallel"):
        align(model, vectors, **NAMES)


def test_a_loss_that_does_nothing_is_an_error(vectors):
    x, _ = zoo.samples()
    absent = zoo.N_ITEMS
    keep = x["item_id"] != absent
    model = zoo.build(DEEPFM)
    with pytest.warns(CoverageWarning):
        align(model, {absent: vectors[absent]}, **NAMES)
    zoo.compile_model(DEEPFM, model)
    rows = {name: values[keep] for name, values in zoo.inputs(model).items()}
    with pytest.raises(CoverageError, match="no row of the epoch has an id that align has a vector of"):
        model.fit(rows, zoo.labels(DEEPFM)[keep], batch_size=48, verbose=0)
    assert "_sllmr_runs" not in vars(model)

    from deepctr_torch.models import DeepFM

    class Deaf(DeepFM):
        def fit(self, *args, callbacks=None, **kwargs):
            return super().fit(*args, **kwargs)

    class NoLoss(DeepFM):
        def fit(self, x, y, callbacks=None, **kwargs):
            for callback in callbacks:
                callback.set_model(self)
                callback.on_epoch_begin(0)
            self(torch.zeros(3, sum(end - start for start, end in self.feature_index.values())))
            for callback in callbacks:
                callback.on_epoch_end(0, {})

    columns = zoo._columns(dense=True)
    for kind, message in ((Deaf, "without the callbacks it was given"), (NoLoss, "1 forward passes that align saw")):
        model = kind(columns, columns)
        align(model, vectors, **NAMES)
        zoo.compile_model(DEEPFM, model)
        with pytest.raises(HookNeverFiredError, match=message):
            model.fit(zoo.inputs(model), zoo.labels(DEEPFM), batch_size=48, verbose=0)


def test_epochs_that_train_nothing_are_no_error(vectors):
    model = zoo.build(DEEPFM)
    align(model, vectors, **NAMES)
    zoo.compile_model(DEEPFM, model)
    zoo.fit(DEEPFM, model, epochs=1, initial_epoch=1)


def test_several_processes_are_refused(vectors, monkeypatch):
    model = zoo.build(DEEPFM)
    align(model, vectors, **NAMES)
    zoo.compile_model(DEEPFM, model)
    monkeypatch.setattr(Ranks, "here", classmethod(lambda cls, device: Ranks(0, 2)))
    with pytest.raises(ProcessesError, match="the losses align compare the ids of one process's rows"):
        zoo.fit(DEEPFM, model)


def test_adaptors_come_first(vectors):
    from deepctr_torch.models import DeepFM

    from sllmr_plugin import KARAdaptor, TextTable, augment, dense_columns, unaugment

    kinds, ids = (
        ["user"] * zoo.N_USERS + ["item"] * zoo.N_ITEMS,
        [*range(1, zoo.N_USERS + 1), *range(1, zoo.N_ITEMS + 1)],
    )
    frame = pd.DataFrame(
        {"kind": kinds, "id": ids, "text": [f"{kind} {id % 5}" for kind, id in zip(kinds, ids, strict=True)]}
    )
    adaptor = KARAdaptor(TextTable.read(frame))
    model = zoo.build(DEEPFM)
    align(model, vectors, **NAMES)
    with pytest.raises(AugmentError, match=r"\(align\). Undo them, augment first"):
        augment(model, adaptor, **NAMES)
    model = augment(DeepFM(*[zoo._columns(dense=True) + dense_columns(adaptor)] * 2), adaptor, **NAMES)
    done = align(model, vectors, **NAMES)
    zoo.compile_model(DEEPFM, model)
    with pytest.raises(AugmentError, match="Undo them, then unaugment"):
        unaugment(model)
    x, y = zoo.samples()
    rows = {name: x[name] for name in model.feature_index if name in x}
    assert "sllmr_align" in model.fit(rows, y, batch_size=48, verbose=0).history
    done.undo(model)
    assert type(unaugment(model)) is DeepFM
