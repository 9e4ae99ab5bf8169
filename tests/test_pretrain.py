"""`pretrain`: the loss against loops, what it leaves alone, both libraries, what is refused and warned of."""

from __future__ import annotations

import contextlib
import io
import math
import random
import warnings

import numpy as np
import pytest
import torch

from sllmr_plugin import (
    CoverageError,
    CoverageWarning,
    NotLearntWarning,
    SelectiveConfig,
    SLLMRError,
    UnsupportedModelError,
    Vectors,
    VectorsError,
    pretrain,
)
from sllmr_plugin.backends import pretrain as pretrain_module
from sllmr_plugin.knowledge.contrast import row_contrast

from .matrix import backbones as zoo
from .matrix.cases import CASES
from .test_align import DEEPFM, NAMES, cosine, directions, softmax, with_users
from .test_similar import BOTH, histories

FUXICTR = [case for case in BOTH if case[0] is not zoo]


@pytest.fixture
def matrix():
    return np.random.default_rng(3).normal(size=(zoo.N_ITEMS, 7)).astype(np.float32)


@pytest.fixture
def vectors(matrix):
    return with_users(matrix)[0]


def compiled(library=zoo, backbone=DEEPFM):
    model = library.build(backbone)
    library.compile_model(backbone, model)
    return model


def rows_of(library, backbone, model):
    """What `fit` takes of a library's rows."""
    if library is zoo:
        return zoo.inputs(model), zoo.labels(backbone)
    return (library.generators(model)[0],)


def test_the_loss_is_that_of_loops():
    rng = np.random.default_rng(0)
    found, wanted = rng.normal(size=(2, 6, 4))
    rows = [3, 1, 3, 4, 5, 1]  # rows 0 and 2, and 1 and 5, are of the same user and item
    losses, chances = [], []
    for one in range(6):
        others = [j for j in range(6) if j == one or rows[j] != rows[one]]
        by_row = softmax([cosine(found[one], wanted[j]) / 0.3 for j in others])[others.index(one)]
        by_column = softmax([cosine(found[j], wanted[one]) / 0.3 for j in others])[others.index(one)]
        losses.append(-math.log(by_row) / 2 - math.log(by_column) / 2)
        chances.append(math.log(len(others)))
    loss, chance = row_contrast(torch.tensor(found), torch.tensor(wanted), torch.tensor(rows), 0.3)
    assert float(loss) == pytest.approx(sum(losses) / 6)
    assert float(chance) == pytest.approx(sum(chances) / 6)


@pytest.mark.filterwarnings("ignore::sllmr_plugin.NotLearntWarning")  # nothing is trained here
@pytest.mark.parametrize("users", ["vectors", "history"])
def test_the_loss_before_is_of_the_vectors_of_a_rows_user_and_item(matrix, vectors, users, monkeypatch):
    model = compiled()
    with torch.no_grad():
        for table in model.embedding_dict.values():
            table.weight.normal_()
    started = []

    def one_batch(target, batches, optimizer, total, verbose):
        started.append(next(batches))
        hidden = []
        hook = model.dnn_linear.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
        model.eval()
        with torch.no_grad():
            model(started[0])
        hook.remove()
        started.append(target._project(hidden[0]).detach())
        return 1

    monkeypatch.setattr(pretrain_module._Target, "train", one_batch)
    monkeypatch.setattr(pretrain_module, "_JUDGED", 1)
    x, y = zoo.inputs(model), zoo.labels(DEEPFM)
    done = pretrain(model, vectors, x, y, **NAMES, users=users, batch_size=len(y))
    batch, projected = started
    own = (
        histories(matrix, x, y) if users == "history" else dict(enumerate(directions(matrix, vectors.users.matrix), 1))
    )
    of_items = directions(matrix, matrix)
    places = [model.feature_index[name][0] for name in ("user_id", "item_id")]
    wanted, found, pairs = [], [], []
    for row, one in zip(batch, projected, strict=True):
        user, item = (int(row[place]) for place in places)
        if user in own:
            z = own[user] / own[user].square().mean().sqrt()
            wanted.append(torch.cat([z, of_items[item - 1]]))
            found.append(one)
            pairs.append(user * 1000 + item)
    loss, chance = row_contrast(torch.stack(found).double(), torch.stack(wanted), torch.tensor(pairs), 0.2)
    # The same rows in another order: a mean over all of them.
    assert done.before == pytest.approx(float(loss), rel=1e-4)
    assert done.chance == pytest.approx(float(chance), rel=1e-4)


def numbers():
    return random.random(), np.random.random(2).tolist(), torch.rand(2).tolist()  # noqa: NPY002


@pytest.mark.parametrize(("library", "backbone"), BOTH, ids=["deepctr", "fuxictr"][: len(BOTH)])
@pytest.mark.parametrize("none", [{"epochs": 0}, {"steps": 0}])
def test_no_step_is_bit_identical(library, backbone, none, vectors):
    plain, off = compiled(library, backbone), compiled(library, backbone)
    expected = {name: value.clone() for name, value in off.state_dict().items()}
    done = pretrain(off, vectors, *rows_of(library, backbone, off), **NAMES, **none)
    assert str(done).startswith("not pre-trained")
    assert set(vars(off)) == set(vars(plain))
    for name, value in off.state_dict().items():
        assert torch.equal(value, expected[name]), name
    library.fit(backbone, plain, epochs=1)
    random_numbers = torch.rand(3)
    library.fit(backbone, off, epochs=1)
    assert torch.equal(torch.rand(3), random_numbers)
    for name, value in plain.state_dict().items():
        assert torch.equal(off.state_dict()[name], value), name


@pytest.mark.parametrize(("library", "backbone"), BOTH, ids=["deepctr", "fuxictr"][: len(BOTH)])
def test_it_learns_and_leaves_nothing_but_weights(library, backbone, vectors):
    plain, model = compiled(library, backbone), compiled(library, backbone)
    optimizer = getattr(model, "optim", None) or model.optimizer
    modes = [module.training for module in model.modules()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = numbers()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    done = pretrain(model, vectors, *rows_of(library, backbone, model), **NAMES, epochs=15, batch_size=48)
    assert numbers() == expected
    assert done.steps == 15 * 5
    assert done.after < done.chance - 0.1
    assert done.after < done.before
    assert type(model) is type(plain)
    assert set(vars(model)) == set(vars(plain))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert not optimizer.state
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    moved = [name for name, value in plain.state_dict().items() if not torch.equal(model.state_dict()[name], value)]
    assert any("user_id" in name for name in moved)
    assert any("item_id" in name for name in moved)
    library.fit(backbone, model, epochs=1)
    told = str(done)
    assert told.startswith("pre-trained on test vectors, users by vectors, in 75 steps through what ")
    assert f"loss {done.before:.3f} -> {done.after:.3f}, chance {done.chance:.3f}; {zoo.N_ITEMS} items" in told


@pytest.mark.filterwarnings("ignore::sllmr_plugin.NotLearntWarning")
def test_seeds_and_steps(vectors):
    states = []
    for options in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {"seed": 1, "steps": 4}):
        model = compiled()
        torch.manual_seed(len(states))  # whatever the global numbers are
        done = pretrain(model, vectors, zoo.inputs(model), **NAMES, batch_size=48, epochs=2, **options)
        states.append(model.embedding_dict["item_id"].weight.detach().clone())
        assert done.steps == options.get("steps", 10)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert not torch.equal(states[0], states[3])


def test_a_generator_tells_histories(matrix):
    for library, backbone in FUXICTR:
        model = compiled(library, backbone)
        done = pretrain(model, dict(enumerate(matrix, start=1)), *rows_of(library, backbone, model), **NAMES, epochs=6)
        assert (done.users, done.steps) == ("history", 30)
        assert done.n_users == len(histories(matrix, *zoo.samples()))


def test_a_wrapped_model_is_pretrained_without_its_regularizer(vectors):
    config = SelectiveConfig(gate="none", weight=0.5, seed=1)
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), config)
    zoo.compile_model(DEEPFM, model)
    plain = compiled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pretrain(model, vectors, zoo.inputs(model), **NAMES, epochs=15, batch_size=48)
        pretrain(plain, vectors, zoo.inputs(plain), **NAMES, epochs=15, batch_size=48)
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    history = zoo.fit(DEEPFM, model, epochs=1).history
    assert history["sllmr_pairs"][0] > 0


@pytest.mark.filterwarnings("ignore::sllmr_plugin.NotLearntWarning")
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rmsprop", torch.optim.AdamW])
def test_the_optimizer_is_of_the_models_class_and_settings(optimizer, vectors, monkeypatch):
    model = zoo.build(DEEPFM)
    given = optimizer if isinstance(optimizer, str) else optimizer(model.parameters(), lr=0.07, weight_decay=0.3)
    with contextlib.redirect_stdout(io.StringIO()):
        model.compile(given, "binary_crossentropy")
    made = []
    like = pretrain_module._optimizer_like
    monkeypatch.setattr(pretrain_module, "_optimizer_like", lambda *args: made.append(like(*args)) or made[0])
    pretrain(model, vectors, zoo.inputs(model), **NAMES, steps=1)
    assert type(made[0]) is type(model.optim)
    own, group = model.optim.param_groups[0], made[0].param_groups[0]
    assert {name: own[name] for name in model.optim.defaults} == {name: group[name] for name in model.optim.defaults}
    assert len(group["params"]) == len(list(model.parameters())) + 1


def test_nothing_learnt_is_said(vectors):
    model = zoo.build(DEEPFM)
    with contextlib.redirect_stdout(io.StringIO()):
        model.compile(torch.optim.SGD(model.parameters(), lr=1e-12), "binary_crossentropy")
    with torch.no_grad():
        for table in model.embedding_dict.values():
            table.weight.zero_()  # all rows look the same
    with pytest.warns(NotLearntWarning, match=r"after 1 steps the loss is .*Raise epochs"):
        pretrain(model, vectors, zoo.inputs(model), **NAMES, epochs=1)


@pytest.mark.filterwarnings("ignore::sllmr_plugin.NotLearntWarning")
def test_rows_that_nothing_is_known_of(vectors):
    few = Vectors(vectors.items, Vectors.read({1: [1.0] * 7, 2: [2.0] + [0.0] * 6}).items, "few")
    model = compiled()
    keep = zoo.samples()[0]["user_id"] > 2
    x = {name: values[keep] for name, values in zoo.inputs(model).items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CoverageError, match="rows none, or one a batch, has a user and an item with a vector"):
        pretrain(model, few, x, **NAMES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    share = 1 - keep.mean()
    with pytest.warns(CoverageWarning, match=rf"^{share:.0%} of the rows have a user and an item that few knows"):
        pretrain(model, few, zoo.inputs(model), **NAMES)


def test_what_makes_no_sense_is_refused(matrix, vectors):
    model = compiled()
    x = zoo.inputs(model)
    for options in ({"epochs": -1}, {"steps": -1}, {"batch_size": 1}, {"tau": 0.0}, {"users": "none"}):
        with pytest.raises(VectorsError, match=next(iter(options))):
            pretrain(model, vectors, x, **NAMES, **options)
    with pytest.raises(VectorsError, match="needs x and y"):
        pretrain(model, dict(enumerate(matrix, start=1)), x, **NAMES)
    with pytest.raises(UnsupportedModelError, match="neither"):
        pretrain(torch.nn.Linear(2, 2), vectors, x, **NAMES)
    with pytest.raises(SLLMRError, match="no optimizer yet"):
        pretrain(zoo.build(DEEPFM), vectors, x, **NAMES)
    with pytest.raises(UnsupportedModelError, match="no linear layer 'dnn'"):
        pretrain(model, vectors, x, **NAMES, layer="dnn")
    afm = next(backbone for _, backbone in CASES if backbone.name == "AFM")
    with pytest.raises(UnsupportedModelError, match="no linear layer that makes one number"):
        pretrain(compiled(zoo, afm), vectors, x, **NAMES)
    spare = compiled()
    spare.spare = torch.nn.Linear(3, 1)
    with pytest.raises(UnsupportedModelError, match="the layer 'spare' reads nothing"):
        pretrain(spare, vectors, zoo.inputs(spare), **NAMES, layer="spare")
