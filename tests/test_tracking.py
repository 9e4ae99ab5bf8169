"""Trackers get what the run folder and the model's history hold, each in its own library's terms."""

import json
import math
import sys
import types
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DeepFM

from sllmr_plugin import Tracker, TrackingCallback, open_tracker, wrap
from sllmr_plugin.cli import main
from sllmr_plugin.errors import ConfigError, MissingLibraryError, TrackingError, TrackingWarning
from sllmr_plugin.tracking import TrackedRun, check_place


class Recorder(Tracker):
    """Keeps every call; fails in the method that it is told to."""

    def __init__(self, fails_in=""):
        self.calls = []
        self.fails_in = fails_in

    def _take(self, *call):
        if call[0] == self.fails_in:
            raise OSError("no route to host")
        self.calls.append(call)

    def begin(self, run, settings):
        self._take("begin", run, dict(settings))

    def log(self, epoch, values):
        self._take("log", epoch, dict(values))

    def end(self, epoch, results, failed):
        self._take("end", epoch, dict(results), failed)


def follow(tracker, *, error=None):
    """A run of two epochs; in the first, as in a warm-up, a value is not a number."""
    with TrackedRun(tracker, "deepfm gated seed 0", {"seed": 0, "config.weight": 0.1}) as run:
        run.log(1, {"loss": 0.75, "sllmr_gate": math.nan})
        run.log(2, {"loss": 0.5, "sllmr_gate": 0.25})
        if error is not None:
            raise error
        run.finish(2, {"test_auc": 0.625, "test_auc_cold": math.nan})


EXPECTED = [
    ("begin", "deepfm gated seed 0", {"seed": 0, "config.weight": 0.1}),
    ("log", 1, {"loss": 0.75}),
    ("log", 2, {"loss": 0.5, "sllmr_gate": 0.25}),
]


# ---------------------------------------------------------------- one run


def test_a_run_is_passed_on_without_what_is_not_a_number():
    tracker = Recorder()
    follow(tracker)
    assert tracker.calls == [*EXPECTED, ("end", 2, {"test_auc": 0.625}, False)]


def test_a_training_that_fails_ends_the_run_as_failed():
    tracker = Recorder()
    with pytest.raises(ValueError, match="diverged"):
        follow(tracker, error=ValueError("diverged"))
    assert tracker.calls == [*EXPECTED, ("end", 2, {}, True)]


def test_a_tracker_that_fails_later_is_given_up_with_a_warning():
    tracker = Recorder(fails_in="log")
    with pytest.warns(TrackingWarning, match="Recorder failed at epoch 1 of 'deepfm gated seed 0'.*no route") as told:
        follow(tracker)
    assert len(told) == 1
    assert tracker.calls == EXPECTED[:1]


def test_a_tracker_that_cannot_begin_stops_before_anything_is_trained():
    with pytest.raises(TrackingError, match="Recorder cannot open the run 'deepfm gated seed 0'.*train without"):
        follow(Recorder(fails_in="begin"))


# ---------------------------------------------------------------- the libraries


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow(open_tracker(f"tensorboard:{tmp_path}/former"))
    follow(open_tracker(f"tensorboard:{tmp_path}"))
    events = EventAccumulator(str(tmp_path / "deepfm-gated-seed-0")).Reload()
    curves = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert curves == {"loss": [(1, 0.75), (2, 0.5)], "sllmr_gate": [(2, 0.25)], "test_auc": [(2, 0.625)]}
    (text,) = events.Tensors("settings/text_summary")
    assert '"config.weight": 0.1' in text.tensor_proto.string_val[0].decode()


def test_a_run_that_is_made_again_hides_the_former_in_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for loss in (0.75, 0.5):
        with TrackedRun(open_tracker(f"tensorboard:{tmp_path}"), "again") as run:
            run.log(1, {"loss": loss})
    values = [event.value for event in EventAccumulator(str(tmp_path / "again")).Reload().Scalars("loss")]
    assert values == [0.5]


class FakeMlflowClient:
    """The methods of `mlflow.MlflowClient` that are used, with the signatures of MLflow 2 and 3; one server."""

    experiments: ClassVar[dict] = {}

    def __init__(self, tracking_uri=None, registry_uri=None):
        self.uri, self.calls = tracking_uri, []
        FakeMlflowClient.latest = self

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name, artifact_location=None, tags=None):
        self.experiments[name] = types.SimpleNamespace(experiment_id=str(len(self.experiments) + 7))
        return self.experiments[name].experiment_id

    def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
        self.calls.append(("create_run", experiment_id, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))

    def log_param(self, run_id, key, value, synchronous=None):
        self.calls.append(("param", run_id, key, value))

    def log_metric(self, run_id, key, value, timestamp=None, step=None, synchronous=None):
        self.calls.append(("metric", run_id, key, value, step))

    def set_terminated(self, run_id, status=None, end_time=None):
        self.calls.append(("terminated", run_id, status))


def test_mlflow_gets_params_metrics_by_step_and_the_status(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=FakeMlflowClient))
    tracker = open_tracker("mlflow:http://localhost:5000")
    follow(tracker)
    client = FakeMlflowClient.latest
    assert client.uri == "http://localhost:5000"
    assert client.calls == [
        ("create_run", "7", "deepfm gated seed 0"),
        ("param", "r1", "seed", 0),
        ("param", "r1", "config.weight", 0.1),
        ("metric", "r1", "loss", 0.75, 1),
        ("metric", "r1", "loss", 0.5, 2),
        ("metric", "r1", "sllmr_gate", 0.25, 2),
        ("metric", "r1", "test_auc", 0.625, 2),
        ("terminated", "r1", "FINISHED"),
    ]
    with pytest.raises(ValueError, match="diverged"):
        follow(tracker, error=ValueError("diverged"))
    again = FakeMlflowClient.latest
    assert again.calls[0] == client.calls[0]  # the experiment is there now
    assert again.calls[-1] == ("terminated", "r1", "FAILED")
    follow(open_tracker("mlflow:"))
    assert FakeMlflowClient.latest.uri is None


class FakeWandbRun:
    """The methods of `wandb.Run` that are used; a step that goes back is refused, as W&B drops it."""

    def __init__(self):
        self.logged, self.summary, self.code, self.step = [], {}, None, 0

    def log(self, data, step=None, commit=None):
        assert step >= self.step
        self.step = step
        self.logged.append((step, data))

    def finish(self, exit_code=None, quiet=None):
        self.code = exit_code


def test_wandb_gets_config_steps_and_summary(monkeypatch):
    runs = []

    def init(entity=None, project=None, name=None, config=None, reinit=None):
        runs.append((FakeWandbRun(), entity, project, name, config, reinit))
        return runs[-1][0]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    follow(open_tracker("wandb:team/ctr"))
    run, *told = runs[0]
    assert told == ["team", "ctr", "deepfm gated seed 0", {"seed": 0, "config.weight": 0.1}, "create_new"]
    assert run.logged == [(1, {"loss": 0.75}), (2, {"loss": 0.5, "sllmr_gate": 0.25})]
    assert (run.summary, run.code) == ({"test_auc": 0.625, "epoch_kept": 2}, 0)
    with pytest.raises(ValueError, match="diverged"):
        follow(open_tracker("wandb:ctr"), error=ValueError("diverged"))
    run, *told = runs[1]
    assert (told[:2], run.summary, run.code) == ([None, "ctr"], {}, 1)


@pytest.mark.parametrize(
    ("place", "library"), [("tensorboard:x", "tensorboard"), ("mlflow:", "mlflow"), ("wandb:x", "wandb")]
)
def test_a_missing_library_is_named_with_its_extra(monkeypatch, place, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibraryError, match=rf"pip install 'sllmr-plugin\[{library}\]'"):
        open_tracker(place)


@pytest.mark.parametrize("place", ["tensorboard", "tensorboard:", "wandb:", "comet:x", ""])
def test_what_names_no_place_is_refused(place):
    with pytest.raises(ConfigError, match="is no tracker; write tensorboard:DIR"):
        check_place(place)


def test_a_password_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as told:
        check_place("mlflow:https://me:sesame@host/")
    assert "sesame" not in str(told.value)


# ---------------------------------------------------------------- trainings


def test_the_callback_passes_on_what_the_history_holds():
    rng = np.random.default_rng(0)
    x = {"user": rng.integers(1, 6, 64), "item": rng.integers(1, 9, 64)}
    y = rng.integers(0, 2, 64).astype(float)
    pairs = [(user, item, rng.random()) for user in range(1, 6) for item in range(1, 9)]
    columns = [SparseFeat("user", 6, 4), SparseFeat("item", 9, 4)]
    model = wrap(
        DeepFM(columns, columns, dnn_hidden_units=(4,)),
        pd.DataFrame(pairs, columns=["user_id", "item_id", "score"]),
        user="user",
        item="item",
    )
    model.compile("adam", "binary_crossentropy")
    tracker = Recorder()
    history = model.fit(
        x, y, batch_size=16, epochs=3, verbose=0, initial_epoch=1, callbacks=[TrackingCallback(tracker, "mine")]
    ).history
    assert {"loss", "sllmr_gate"} <= set(history)
    epochs = [{k: v[n] for k, v in history.items() if not math.isnan(v[n])} for n in range(2)]
    assert tracker.calls == [
        ("begin", "mine", {}),
        *(("log", number, values) for number, values in enumerate(epochs, 2)),
        ("end", 3, {}, False),
    ]


def test_train_tracks_every_epoch_as_the_run_folder_has_it(tmp_path, monkeypatch):
    tracker = Recorder()
    monkeypatch.setattr("sllmr_plugin.tracking.open_tracker", lambda place: tracker)
    command = [
        *("train", "--model", "deepfm", "--data", "demo", "--setting", "quick", "--with-plain"),
        *("-o", "training.epochs=2", "-o", "training.embedding_dim=4", "-o", "training.batch_size=512"),
        *(
            "-o",
            "training.test_users=60",
            "-o",
            "training.valid_users=60",
            "-o",
            "model.arguments.dnn_hidden_units=[8]",
        ),
        *("-o", "config.warmup_epochs=1", "--track", "tensorboard:unused", "--out", str(tmp_path / "run")),
    ]
    assert main(command) == 0
    plain, gated = json.loads((tmp_path / "run" / "results.json").read_text())["runs"]
    expected = []
    for run in (plain, gated):
        expected += [("log", n, {k: v for k, v in e.items() if v is not None}) for n, e in enumerate(run["epochs"], 1)]
        tested = {f"test_{key}": run[key] for key in ("auc", "auc_cold", "auc_tail")}
        expected.append(("end", run["epoch"], tested, False))
    begun = [call for call in tracker.calls if call[0] == "begin"]
    assert [call for call in tracker.calls if call[0] != "begin"] == expected
    assert [call[1] for call in begun] == ["deepfm none seed 0", "deepfm gated seed 0"]
    assert begun[1][2]["training.epochs"] == 2
    assert begun[1][2]["config.warmup_epochs"] == 1
    assert not any(name.startswith("config.") for name in begun[0][2])
    assert "tensorboard" not in (tmp_path / "run" / "experiment.yaml").read_text()
    tracker.calls.clear()
    assert main(command) == 0
    assert tracker.calls == []  # nothing was trained
