"""Two processes train as one does; what they would get wrong is refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from deepctr_torch.models import basemodel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from sllmr_plugin import KARAdaptor, WrapError, augment, wrap
from sllmr_plugin.backends.deepctr.fit_seams import whole_batches
from sllmr_plugin.backends.processes import OwnBatches
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.errors import ProcessesError
from sllmr_plugin.parallel.ranks import Ranks
from sllmr_plugin.zoo.deepctr import build_model, input_rows

from . import process_cases as cases
from .text_cases import encoded, interactions

ROOT = Path(__file__).parent.parent
ACTIVE = [name for name in cases.CONFIGS if name != "none"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return what each of two processes has seen."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-W", "ignore", "-X", "faulthandler", "-m", "tests.process_cases"]
    run_together([[*command, str(rank), "2", str(folder)] for rank in range(2)], folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def run_together(commands, folder, seconds=1800):
    """Run commands side by side until all have ended; if one fails, or time is up, end all and show what each wrote.

    What still runs then is waiting for another one, or hangs: SIGABRT makes ``-X faulthandler`` say where.
    """
    files = [folder / f"{number}.log" for number in range(len(commands))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = []
    try:
        for command, file in zip(commands, files, strict=True):
            with file.open("wb") as log:
                running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in running):
            if any(process.poll() for process in running) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        codes = [process.poll() for process in running]
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGABRT)
                process.wait(60)
    finally:
        for process in running:
            process.kill()
            process.wait()
    told = [
        f"process {number} {'ran on' if code is None else f'ended with {code}'}:\n{file.read_text(errors='replace')}"
        for number, (code, file) in enumerate(zip(codes, files, strict=True))
    ]
    if set(codes) != {0}:
        raise RuntimeError("\n".join(told))


def test_a_process_that_fails_ends_the_others_and_all_are_heard(tmp_path):
    python = [sys.executable, "-X", "faulthandler", "-c"]
    waits = "import time\nprint('here', flush=True)\ntime.sleep(600)"
    other = str(tmp_path / "1.log")
    fails = f"import time\nwhile not open({other!r}).read(): time.sleep(0.01)\nraise SystemExit('a wrong turn')"
    with pytest.raises(
        RuntimeError, match="(?s)process 0 ended with 1:\na wrong turn.*process 1 ran on:\nhere.*line 3"
    ):
        run_together([[*python, fails], [*python, waits]], tmp_path)
    with pytest.raises(RuntimeError, match="process 0 ran on:"):
        run_together([[*python, waits]], tmp_path, seconds=0)
    run_together([[sys.executable, "-c", ""]] * 2, tmp_path)


@pytest.fixture(scope="module")
def one():
    """Return what this process alone makes of the same trainings."""
    return cases.train_all()


@pytest.mark.parametrize("name", cases.CONFIGS)
def test_two_processes_train_as_one_does(two, one, name):
    expected = one[name]
    assert abs(expected["history"]["loss"][0] - expected["history"]["loss"][-1]) > 1e-3  # the training moves the model
    for result in (process["trained"][name] for process in two):
        assert result["history"].keys() == expected["history"].keys()
        for key, values in expected["history"].items():
            np.testing.assert_allclose(result["history"][key], values, rtol=1e-4, atol=1e-6, err_msg=key)
        for key, tensor in expected["weights"].items():
            torch.testing.assert_close(result["weights"][key], tensor, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", cases.CONFIGS)
def test_the_processes_end_with_the_same_model_and_history_to_the_bit(two, name):
    first, second = (process["trained"][name] for process in two)
    assert repr(first["history"]) == repr(second["history"])
    assert first["gate"] == second["gate"]
    for key, tensor in first["weights"].items():
        assert torch.equal(tensor, second["weights"][key]), key


def test_the_configurations_train_differently(one):
    """Else that two processes agree with one would say little."""
    last = [one[name]["weights"]["dnn_linear.weight"] for name in cases.CONFIGS]
    for i, weights in enumerate(last):
        for other in last[:i]:
            assert (weights - other).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("joint", "JointGate"),
        ("budget", "BudgetGate"),
        ("bilevel", "BilevelGate"),
        ("batch_users", "user_source='table'"),
        ("in_batch", "in_batch_pairs=False"),
        ("by_row", "whole_batches=False"),
        ("own batches", "SLLMROwn.fit makes batches of its own"),
        ("auxiliary", "use_negsampling"),
        ("batch_size", "a batch of 1 rows is too small for 2 processes"),
        ("shards", "not given the same x, y. Call fit with the same arguments and all rows"),
        ("settings", "not given the same settings"),
    ],
)
def test_what_would_go_wrong_is_refused_by_every_process(two, what, text):
    for process in two:
        message = process["behaviour"][f"refused {what}"]
        assert message.startswith("ProcessesError: ")
        assert text in message


def test_the_first_process_prints_what_is_true_of_all(two):
    first, second = (process["behaviour"] for process in two)
    assert second["printed"] == ""
    history = first["told"]
    assert first["printed"].count("Train on 180 samples") == 1
    assert first["printed"].count("sllmr - loss") == 2
    for epoch in range(2):
        values = [f"{name}: {history[name][epoch]: .4f}" for name in ("loss", "auc", "logloss", "val_auc")]
        lines = [line for line in first["printed"].splitlines() if " - ".join(values) in line]
        assert len(lines) == 1
        assert f"Epoch {epoch + 1}/2\n{lines[0]}" in first["printed"]


def test_training_metrics_are_means_over_the_processes(two):
    """Of a mean over rows, and of halves that are as large, that is the value of one process."""
    alone = cases.told()
    for name in ("logloss", "val_auc", "val_logloss"):
        np.testing.assert_allclose(two[0]["behaviour"]["told"][name], alone[name], rtol=1e-4)


def test_rows_that_are_too_few_for_all_join_the_batch_before(two):
    """240 rows in batches of 239: the one that is left would be a step of one process alone."""
    alone = cases.joined(240)
    for name in ("loss", "logloss"):
        np.testing.assert_allclose(two[0]["behaviour"]["joined"][name], alone[name], rtol=1e-4)


def test_a_process_that_stops_stops_all(two):
    assert [process["behaviour"]["epochs, one stops"] for process in two] == [1, 1]


@pytest.mark.parametrize("what", ["early stopping", "second fit", "statistics"])
def test_weights_and_statistics_stay_the_same_in_all(two, what):
    first, second = (process["behaviour"][what] for process in two)
    assert repr(first["history"]) == repr(second["history"])
    for key, tensor in first["weights"].items():
        assert torch.equal(tensor, second["weights"][key]), key


def test_early_stopping_restores_the_best_epoch_everywhere(two):
    assert len(two[0]["behaviour"]["early stopping"]["history"]["loss"]) == 2


def test_a_second_fit_goes_on(two):
    losses = two[0]["behaviour"]["second fit"]["history"]["loss"]
    assert len(losses) == 1
    assert losses[0] < two[0]["trained"]["global"]["history"]["loss"][0]


def test_a_model_that_trains_with_others_is_saved_copied_and_unwrapped_as_ever(two):
    behaviour = two[0]["behaviour"]
    assert behaviour["saved has processes"] is behaviour["copied has processes"] is False
    assert behaviour["keys"] == list(cases.build(cases.CONFIGS["none"]).state_dict())
    assert behaviour["plain class"] == "DeepFM"


# ---------------------------------------------------------------------- batches


class _Alike(Ranks):
    """One of several processes whose random states are equal, without any sending."""

    def of_first(self, tensor):
        return tensor


def _own(rank, world, n, batch_size, shuffle, least):
    ranks = _Alike(rank, world)
    batches = OwnBatches(n, batch_size, shuffle, ranks, least)
    torch.manual_seed(4)
    taken = [(ranks.n_rows, rows) for rows in DataLoader(range(n), batch_sampler=batches, collate_fn=list)]
    assert len(batches) == len(taken)
    return taken


@given(st.integers(1, 4), st.integers(1, 2), st.integers(0, 60), st.integers(0, 30), st.booleans())
@settings(max_examples=40)
def test_the_processes_share_every_batch_of_one_process(world, each, more, wide, shuffle):
    least = world * each
    n, batch_size = least + more, least + wide
    torch.manual_seed(4)
    whole = [
        rows.tolist() for (rows,) in DataLoader(TensorDataset(torch.arange(n)), batch_size=batch_size, shuffle=shuffle)
    ]
    if len(whole[-1]) < least:  # too few for all: they join the batch before
        whole[-2:] = [whole[-2] + whole[-1]]
    shares = [_own(rank, world, n, batch_size, shuffle, least) for rank in range(world)]
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert {n_rows for n_rows, _ in parts} == {len(batch)}
        assert all(len(rows) >= each for _, rows in parts)
        assert [rows for _, rows in parts] == [batch[rank::world] for rank in range(world)]
    assert len(shares[0]) == len(whole)


def test_a_batch_that_is_too_small_is_refused():
    with pytest.raises(ProcessesError, match="a batch of 3 rows is too small for 2 processes, .* every one needs 2"):
        OwnBatches(100, 3, True, _Alike(0, 2), least=4)


def test_prediction_goes_through_all_rows():
    asked = []

    def batches(n, batch_size, shuffle):
        asked.append((n, batch_size, shuffle))
        return OwnBatches(n, batch_size, shuffle, _Alike(1, 2), 2)

    x, y = torch.arange(10.0), torch.arange(10.0)
    with whole_batches(batches=batches):
        training = basemodel.DataLoader(dataset=TensorDataset(x, y), shuffle=False, batch_size=4)
        prediction = basemodel.DataLoader(dataset=TensorDataset(x), shuffle=False, batch_size=4)
    assert torch.equal(torch.cat([rows for rows, _ in training]), torch.tensor([1.0, 3, 5, 7, 9]))
    assert torch.equal(torch.cat([rows for (rows,) in prediction]), x)
    assert asked == [(10, 4, False)]


def test_one_process_alone_sends_nothing():
    ranks = Ranks.here("cpu")
    tensor = torch.arange(3)
    assert (ranks.rank, ranks.world) == (0, 1)
    assert ranks.sum(tensor) is ranks.of_first(tensor) is tensor


def test_an_augmented_model_is_refused(monkeypatch):
    data = interactions()
    rows = training_rows(data, history_length=3)
    adaptor = KARAdaptor(encoded(), dim=3, hidden=4)
    model = augment(
        build_model("deepfm", data, embedding_dim=4, history_length=3, seed=2, dense=adaptor.widths),
        adaptor,
        user="user_id",
        item="item_id",
    )
    scores = pd.DataFrame({"user_id": [0, 0], "item_id": [0, 1], "score": [0.1, 0.9]})
    model = wrap(model, scores, user="user_id", item="item_id")
    monkeypatch.setattr(Ranks, "here", lambda device: Ranks(0, 2))
    with pytest.raises(ProcessesError, match="an augmented model's adaptor is not shared"):
        model.fit(input_rows(model, rows[0]), rows[1])


def test_a_fuxictr_model_is_refused(monkeypatch):
    pytest.importorskip("fuxictr")
    from .matrix import fuxictr_backbones as fuxictr

    backbone = fuxictr.BACKBONES[0]
    model = fuxictr.wrapped(backbone, fuxictr.build(backbone), cases.CONFIGS["global"])
    monkeypatch.setattr(Ranks, "here", lambda device: Ranks(0, 2))
    with pytest.raises(ProcessesError, match="FuxiCTR's fit knows nothing of the other 1 process"):
        fuxictr.fit(backbone, model)


def test_several_gpus_are_pointed_to_processes():
    model = cases.zoo.build(cases.zoo.BACKBONES[0])
    model.gpus = [0, 1]
    with pytest.raises(WrapError, match="torchrun, one process per GPU"):
        wrap(model, cases.scores(), user="user_id", item="item_id")
