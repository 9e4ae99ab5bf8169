"""Batches sliced whole: the same bits from the same random state, and nobody else's loader touched."""

import threading

import numpy as np
import pytest
import torch
from deepctr_torch.models import DeepFM, basemodel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from sllmr_plugin import SelectiveConfig, disabled, wrap
from sllmr_plugin.backends.deepctr.fit_seams import whole_batches

from .matrix import backbones as zoo

DEEPFM = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")
OFF = SelectiveConfig(weight=0.0)
WHOLE, BY_ROW = "batches sliced whole", "the model's own"


def dataset(n, dtype=np.float64):
    x = np.random.default_rng(n).random((n, 3)) * 9
    return TensorDataset(torch.from_numpy(x.astype(dtype)), torch.arange(n, dtype=torch.float32))


def epochs(data, **options):
    """Go twice through a loader of DeepCTR-Torch's module; return batches and the random numbers that come next."""
    torch.manual_seed(11)
    loader = basemodel.DataLoader(dataset=data, **options)
    batches = [batch for _ in range(2) for batch in loader]
    return len(loader), batches, torch.rand(4)


@given(st.integers(1, 70), st.integers(1, 80), st.booleans(), st.sampled_from([np.float64, np.float32, np.int64]))
@settings(max_examples=60)
def test_batches_and_the_random_state_are_those_of_the_row_by_row_loader(n, batch_size, shuffle, dtype):
    data = dataset(n, dtype)
    expected_length, expected, expected_next = epochs(data, batch_size=batch_size, shuffle=shuffle)
    with whole_batches() as use:
        length, batches, following = epochs(data, batch_size=batch_size, shuffle=shuffle)
    assert (use.whole, use.by_row) == (1, 0)
    assert length == expected_length
    assert len(batches) == len(expected)
    for got, wanted in zip(batches, expected, strict=True):
        assert type(got) is type(wanted)
        for mine, theirs in zip(got, wanted, strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)
    assert torch.equal(following, expected_next)


def test_rows_are_fetched_a_batch_at_a_time():
    class Counted(torch.Tensor):
        reads = 0

        def __getitem__(self, index):
            Counted.reads += 1
            return super().__getitem__(index)

    data = TensorDataset(torch.arange(20.0).as_subclass(Counted))
    list(basemodel.DataLoader(dataset=data, shuffle=False, batch_size=5))
    assert Counted.reads == 20
    with whole_batches():
        list(basemodel.DataLoader(dataset=data, shuffle=False, batch_size=5))
    assert Counted.reads == 20


def test_other_data_sets_and_options_get_the_loader_they_ask_for():
    class Own(TensorDataset):
        def __getitem__(self, index):
            return tuple(-tensor[index] for tensor in self.tensors)

    own = Own(torch.arange(6.0))
    with whole_batches() as use:
        negated = basemodel.DataLoader(dataset=own, shuffle=False, batch_size=4)
        sized = basemodel.DataLoader(dataset=dataset(6), shuffle=False, batch_size=4, drop_last=True)
        placed = basemodel.DataLoader(dataset(6), 4)
        assert torch.equal(torch.cat([batch[0] for batch in negated]), -torch.arange(6.0))
        assert len(sized) == 1
        assert len(list(placed)) == 2
    assert (use.whole, use.by_row) == (0, 3)
    assert str(use) == BY_ROW


def test_the_name_is_put_back_whatever_happens():
    def boom():
        with whole_batches():
            assert basemodel.DataLoader is not DataLoader
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        boom()
    assert basemodel.DataLoader is DataLoader


def test_trainings_nest():
    with whole_batches() as outer:
        with whole_batches() as inner:
            basemodel.DataLoader(dataset=dataset(3), shuffle=False, batch_size=2)
        with whole_batches(False) as off:
            basemodel.DataLoader(dataset=dataset(3), shuffle=False, batch_size=2)
        basemodel.DataLoader(dataset=dataset(3), shuffle=False, batch_size=2)
    assert [(use.whole, use.by_row) for use in (outer, inner, off)] == [(1, 0), (1, 0), (0, 0)]
    assert basemodel.DataLoader is DataLoader


def test_a_loader_that_somebody_else_has_put_there_stays(monkeypatch):
    class Theirs(DataLoader):
        pass

    monkeypatch.setattr(basemodel, "DataLoader", Theirs)
    with whole_batches() as use:
        assert basemodel.DataLoader is Theirs
    assert basemodel.DataLoader is Theirs
    assert str(use) == BY_ROW


def test_threads_do_not_meet():
    """While one thread trains wrapped, another one that does not gets torch's loader; the last one out puts it back."""
    entered, leave = threading.Event(), threading.Event()
    uses = []

    def train():
        with whole_batches() as use:
            uses.append(use)
            basemodel.DataLoader(dataset=dataset(3), shuffle=False, batch_size=2)
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=train)
    thread.start()
    assert entered.wait(10)
    with whole_batches() as mine:
        pass
    assert basemodel.DataLoader is not DataLoader  # the other one is not done
    loader = basemodel.DataLoader(dataset=dataset(3), shuffle=False, batch_size=2)
    assert type(loader.dataset) is TensorDataset
    leave.set()
    thread.join()
    assert basemodel.DataLoader is DataLoader
    assert (uses[0].whole, mine.whole) == (1, 0)


# ---------------------------------------------------------------------- in a wrapped fit


@pytest.mark.parametrize("config", [SelectiveConfig(gate="none"), OFF], ids=["global", "weight_zero"])
def test_a_wrapped_training_is_the_same_with_and_without(config):
    on, off = zoo.trained(DEEPFM, config), zoo.trained(DEEPFM, config, whole_batches=False)
    assert (on.sllmr.status().loader, off.sllmr.status().loader) == (WHOLE, BY_ROW)
    assert "loader: batches sliced whole" in str(on.sllmr.status())
    assert on.history.history == off.history.history
    for name, tensor in off.state_dict().items():
        assert torch.equal(on.state_dict()[name], tensor), name


def test_it_is_on_where_the_regularizer_is_disabled():
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), SelectiveConfig())
    zoo.compile_model(DEEPFM, model)
    assert model.sllmr.status().loader == ""
    with disabled(model):
        zoo.fit(DEEPFM, model)
    assert model.sllmr.status().loader == WHOLE


def test_a_fit_that_fails_leaves_the_name_as_it_was():
    def breaks(*arguments, **options):
        raise ZeroDivisionError

    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), OFF)
    model.compile("adam", breaks)
    with pytest.raises(ZeroDivisionError):
        zoo.fit(DEEPFM, model)
    assert basemodel.DataLoader is DataLoader


def test_a_fit_of_the_users_own_keeps_its_loader():
    class Own(DeepFM):
        def fit(self, x=None, y=None, batch_size=None, callbacks=None, **options):
            rows = np.stack([x[name] for name in self.feature_index], axis=1)
            self.seen = type(DataLoader(TensorDataset(torch.from_numpy(rows)), batch_size=4).dataset)

    plain = zoo.build(DEEPFM)
    plain.__class__ = Own
    model = wrap(plain, zoo.score_frame(), user="user_id", item="item_id", config=OFF)
    zoo.fit(DEEPFM, model, validate=False)
    assert model.seen is TensorDataset
    assert model.sllmr.status().loader == BY_ROW
