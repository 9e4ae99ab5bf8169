"""`similar_users`: the loss against loops, who is near whom, the gate, both libraries, what is refused and undone."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from sllmr_plugin import CoverageError, CoverageWarning, SelectiveConfig, Vectors, VectorsError, similar_users, unwrap
from sllmr_plugin.errors import AlreadyWrappedError, UnsupportedModelError
from sllmr_plugin.knowledge import similar as similar_module
from sllmr_plugin.knowledge.similar import nearest_rows

from .matrix import backbones as zoo
from .matrix.cases import CASES
from .test_align import DEEPFM, NAMES, cosine, directions, with_users

BOTH = [case for case in CASES if case[1].name == "DeepFM"]  # one of each library


@pytest.fixture
def matrix():
    return np.random.default_rng(3).normal(size=(zoo.N_ITEMS, 7)).astype(np.float32)


@pytest.fixture
def vectors(matrix):
    return with_users(matrix)[0]


def rows():
    """The training rows' ids and labels."""
    x, _ = zoo.samples()
    return {"x": {name: x[name] for name in ("user_id", "item_id")}, "y": zoo.labels(DEEPFM)}


def naive_neighbours(own, count, among):
    """Loop over users: the nearest other ones."""
    near = {}
    for user, vector in own.items():
        others = sorted((-cosine(vector, own[other]), other) for other in among if other != user)
        near[user] = [other for _, other in others[:count]]
    return near


def histories(matrix, x, y):
    """Mean direction of what each user took."""
    known = directions(matrix, matrix)
    found = {}
    for user in range(1, zoo.N_USERS + 1):
        taken = [
            known[int(i) - 1]
            for u, i, label in zip(x["user_id"], x["item_id"], y, strict=True)
            if u == user and label > 0
        ]
        if taken:
            found[user] = sum(taken) / len(taken)
    return found


@pytest.mark.parametrize("users", ["vectors", "history"])
def test_a_step_adds_the_squared_distance_from_the_mean_of_the_nearest(matrix, vectors, users):
    given = rows()
    model = zoo.build(DEEPFM)
    with torch.no_grad():  # DeepCTR-Torch starts near 0, where a loss is lost in rounding
        model.embedding_dict["user_id"].weight.normal_()
    done = similar_users(model, vectors, **NAMES, **given, users=users, neighbours=3, weight=0.7)
    if users == "history":
        own = histories(matrix, given["x"], given["y"])
    else:
        profiles = directions(matrix, vectors.users.matrix)
        own = dict(enumerate(profiles, start=1))
    trained = {int(u) for u, label in zip(given["x"]["user_id"], given["y"], strict=True) if label > 0}
    near = naive_neighbours(own, 3, trained)
    assert (done.n_users, done.neighbours, done.users) == (len(own), 3, users)

    zoo.compile_model(DEEPFM, model)
    run = model.sllmr_losses["similar"].open(model)
    model.__dict__["_sllmr_runs"] = (run,)
    model._begin_epoch(0)
    plain = model.get_regularization_loss().detach()
    batch = zoo.batch(model)[:20]
    model(batch)
    total = model.get_regularization_loss()
    assert torch.equal(model.get_regularization_loss().detach(), plain)  # handed out once

    table = model.embedding_dict["user_id"].weight.detach().double().numpy()
    seen = sorted({int(u) for u in given["x"]["user_id"][:20]} & set(own))
    losses, gradients = [], {}
    for user in seen:
        mean = sum(table[other] for other in near[user]) / 3
        losses.append(sum((a - b) ** 2 for a, b in zip(table[user], mean, strict=True)) / len(mean))
        gradients[user] = 20 * 0.7 * 2 * (table[user] - mean) / len(mean) / len(seen)
    assert float(total.detach() - plain) == pytest.approx(20 * 0.7 * sum(losses) / len(losses), rel=1e-4)
    (total - model.get_regularization_loss()).backward()
    gradient = model.embedding_dict["user_id"].weight.grad
    for code in range(len(table)):  # the neighbours' side is constant
        np.testing.assert_allclose(gradient[code], gradients.get(code, np.zeros(zoo.DIM)), atol=1e-4)
    account = model._end_epoch()
    assert account["sllmr_similar_ids"] == len(seen)
    assert account["sllmr_similar"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_the_nearest_are_found_in_blocks(monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(23, 5))
    among = np.array([1, 2, 5, 8, 13, 20, 22])
    expected = naive_neighbours(dict(enumerate(vectors)), 4, among.tolist())
    for cells in (1 << 24, 30):
        monkeypatch.setattr(similar_module, "_CELLS", cells)
        assert nearest_rows(vectors, among, 4).tolist() == [expected[row] for row in range(23)]


def test_users_without_a_positive_are_no_neighbours_but_have_some(vectors):
    given = rows()
    absent = given["x"]["user_id"] == 4
    given = {"x": {name: values[~absent] for name, values in given["x"].items()}, "y": given["y"][~absent]}
    model = zoo.build(DEEPFM)
    done = similar_users(model, vectors, **NAMES, **given)
    side = model.sllmr_losses["similar"].side
    assert 4 in side.codes
    assert 4 not in side.near
    assert done.n_users == zoo.N_USERS


def test_the_gate_leaves_cold_users(vectors):
    given = rows()
    counts = np.bincount(given["x"]["user_id"][given["y"] > 0], minlength=zoo.N_USERS + 1)
    limit = int(np.sort(counts[1:])[3])
    model = zoo.build(DEEPFM)
    done = similar_users(model, vectors, **NAMES, **given, gated="cold", cold_threshold=limit)
    cold = [user for user in range(1, zoo.N_USERS + 1) if counts[user] < limit]
    assert model.sllmr_losses["similar"].side.codes.tolist() == cold
    assert 0 < done.n_users == len(cold) < zoo.N_USERS
    with pytest.raises(VectorsError, match="leaves no user: each of"):
        similar_users(zoo.build(DEEPFM), vectors, **NAMES, **given, gated="cold", cold_threshold=0)
    with pytest.raises(VectorsError, match="needs x and y"):
        similar_users(zoo.build(DEEPFM), vectors, **NAMES, gated="cold")


def trained(library, backbone, *, wrapping=False, **options):
    model = library.build(backbone)
    if wrapping:
        model = library.wrapped(backbone, model, SelectiveConfig(gate="none", weight=0.5, seed=1))
    if options:
        similar_users(model, options.pop("vectors"), **NAMES, **rows(), **options)
    library.compile_model(backbone, model)
    library.fit(backbone, model, epochs=3)
    return model, torch.rand(3)


@pytest.mark.parametrize(("library", "backbone"), BOTH, ids=["deepctr", "fuxictr"][: len(BOTH)])
@pytest.mark.parametrize("wrapping", [False, True])
def test_weight_0_is_the_plain_model_and_another_pulls_users_together(library, backbone, wrapping, vectors):
    plain, random = trained(library, backbone, wrapping=wrapping)
    off, same = trained(library, backbone, wrapping=wrapping, vectors=vectors, weight=0.0)
    assert type(off) is type(plain)
    assert torch.equal(random, same)
    for name, value in plain.state_dict().items():
        assert torch.equal(off.state_dict()[name], value), name
    on, same = trained(library, backbone, wrapping=wrapping, vectors=vectors, weight=20.0)
    assert torch.equal(random, same)
    assert list(on.state_dict()) == list(plain.state_dict())
    distance = {}
    side = on.sllmr_losses["similar"].side
    for label, model in (("plain", plain), ("on", on)):
        ((_, table),) = tables(model, side.feature)
        distance[label] = float((table[side.codes] - table[side.near].mean(dim=1)).square().mean())
    assert distance["on"] < distance["plain"] / 2
    assert len(on.sllmr_losses["similar"].epochs) == 3
    twin = copy.deepcopy(on)
    library.fit(backbone, twin, epochs=1)


def tables(model, feature):
    from sllmr_plugin.backends.embeddings import tables_of

    return [(name, table.weight.detach()) for name, table in tables_of(model, feature).items()]


def test_undo_and_unwrap_give_the_plain_class_back(vectors):
    plain = type(zoo.build(DEEPFM))
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), SelectiveConfig(gate="none", seed=1))
    done = similar_users(model, vectors, **NAMES, **rows())
    model = unwrap(model)
    assert "similar" in model.sllmr_losses
    done.undo(model)
    assert type(model) is plain
    assert "sllmr_losses" not in vars(model)


def test_it_says_what_it_does(matrix, vectors):
    done = similar_users(zoo.build(DEEPFM), vectors, **NAMES, neighbours=99)
    assert str(done) == (
        f"pulling {zoo.N_USERS} of {zoo.N_USERS + 1} user rows towards their {zoo.N_USERS - 1} nearest by vectors of "
        "test vectors, weight 10"
    )
    assert str(similar_users(zoo.build(DEEPFM), vectors, **NAMES, weight=0)).startswith("no similar users: weight 0")
    few = Vectors(vectors.items, Vectors.read({1: [1.0] * 7, 2: [2.0] + [0.0] * 6}).items, "few")
    with pytest.warns(CoverageWarning, match="2 of .* rows of the user embedding"):
        similar_users(zoo.build(DEEPFM), few, **NAMES)


def test_what_makes_no_sense_is_refused_and_the_model_left_alone(matrix, vectors):
    model = zoo.build(DEEPFM)
    before = set(vars(model))
    wrong = ({"weight": -1}, {"weight": math.nan}, {"neighbours": 0}, {"gated": "tail"}, {"users": "none"})
    for options in wrong:
        with pytest.raises(VectorsError, match=next(iter(options))):
            similar_users(model, vectors, **NAMES, **options)
    items = dict(enumerate(matrix, start=1))
    with pytest.raises(VectorsError, match="has no vectors of users, or users='history'.*needs x and y"):
        similar_users(model, items, **NAMES)
    with pytest.raises(VectorsError, match="users='vectors', and a mapping has none"):
        similar_users(model, items, **NAMES, **rows(), users="vectors")
    none_taken = rows() | {"y": np.zeros(240)}
    with pytest.raises(VectorsError, match="no user has taken an item with a vector"):
        similar_users(model, items, **NAMES, **none_taken)
    with pytest.raises(VectorsError, match="0 users have a vector"):
        similar_users(model, vectors, **NAMES, **none_taken)
    with pytest.raises(UnsupportedModelError, match="neither"):
        similar_users(torch.nn.Linear(2, 2), vectors, **NAMES)
    assert set(vars(model)) == before
    similar_users(model, vectors, **NAMES)
    with pytest.raises(AlreadyWrappedError, match="has a loss named 'similar' already"):
        similar_users(model, vectors, **NAMES)


def test_an_epoch_without_a_known_user_is_an_error(vectors):
    two = Vectors(vectors.items, Vectors.read({1: [1.0] * 7, 2: [2.0] + [0.0] * 6}).items, "two")
    model = zoo.build(DEEPFM)
    with pytest.warns(CoverageWarning):
        similar_users(model, two, **NAMES)
    zoo.compile_model(DEEPFM, model)
    keep = zoo.samples()[0]["user_id"] > 2
    x = {name: values[keep] for name, values in zoo.inputs(model).items()}
    with pytest.raises(CoverageError, match="no row of the epoch has an id that similar has a vector of"):
        model.fit(x, zoo.labels(DEEPFM)[keep], batch_size=48, verbose=0)
