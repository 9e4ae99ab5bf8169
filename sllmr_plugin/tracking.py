"""Trackers: what a training logs after each epoch goes to TensorBoard, MLflow or Weights & Biases, if asked for."""

from __future__ import annotations

import json
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from .errors import ConfigError, MissingLibraryError, TrackingError, TrackingWarning
from .parallel.ranks import Ranks


class Tracker(ABC):
    """A place that keeps the values of runs, one run at a time.

    A class of your own needs these three methods. Whatever they raise stops no training, see `TrackedRun`.
    """

    @abstractmethod
    def begin(self, run: str, settings: Mapping[str, Any]) -> None:
        """Open a run.

        Parameters
        ----------
        run : str
            Its name, for instance ``deepfm gated seed 0``.
        settings : mapping of str to Any
            What it is trained with, by dotted name.
        """

    @abstractmethod
    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Keep the values of an epoch, counted from 1; all of them are finite."""

    @abstractmethod
    def end(self, epoch: int, results: Mapping[str, float], failed: bool) -> None:
        """Close the run.

        Parameters
        ----------
        epoch : int
            The epoch that the results are of.
        results : mapping of str to float
            What it came to; may be empty.
        failed : bool
            Whether the training raised.
        """


class TensorBoardTracker(Tracker):
    """Writes event files for TensorBoard, a folder a run.

    Parameters
    ----------
    directory : path
        Folder of the runs' folders: ``tensorboard --logdir directory``. A run that is made again hides the values of
        the former one.

    Raises
    ------
    MissingLibraryError
        If tensorboard is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        _import("tensorboard", "tensorboard")
        self._writers = _import("torch.utils.tensorboard", "tensorboard")
        self.directory = Path(directory)

    def begin(self, run: str, settings: Mapping[str, Any]) -> None:
        """Open the run's event file."""
        self._writer = self._writers.SummaryWriter(str(self.directory / run.replace(" ", "-")), purge_step=0)
        text = json.dumps(dict(settings), indent=2, default=str)
        self._writer.add_text("settings", "\n".join("    " + line for line in text.splitlines()), 0)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add a point to every value's curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def end(self, epoch: int, results: Mapping[str, float], failed: bool) -> None:
        """Add the results at their epoch and close the file."""
        self.log(epoch, results)
        self._writer.close()


class MLflowTracker(Tracker):
    """Writes runs to an MLflow tracking server, file or data base, without touching a run that is active in MLflow.

    Parameters
    ----------
    uri : str
        Tracking URI, such as ``http://localhost:5000``, or ``sqlite:///mlflow.db`` with the whole of ``mlflow``
        installed; empty: MLflow's own default, which reads ``MLFLOW_TRACKING_URI``. User name and password come from
        MLflow's environment variables.
    experiment : str, default="sllmr"
        Name of the experiment that the runs belong to; made if it is not there.

    Raises
    ------
    MissingLibraryError
        If mlflow is not installed.
    """

    def __init__(self, uri: str = "", experiment: str = "sllmr") -> None:
        self._mlflow = _import("mlflow", "mlflow")
        self._uri, self._experiment = uri, experiment

    def begin(self, run: str, settings: Mapping[str, Any]) -> None:
        """Open a run, with the settings as its parameters."""
        self._client = self._mlflow.MlflowClient(tracking_uri=self._uri or None)
        there = self._client.get_experiment_by_name(self._experiment)
        experiment = self._client.create_experiment(self._experiment) if there is None else there.experiment_id
        self._run = self._client.create_run(experiment, run_name=run).info.run_id
        for name, value in settings.items():
            self._client.log_param(self._run, name, value)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Keep the values as metrics at step `epoch`."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=epoch)

    def end(self, epoch: int, results: Mapping[str, float], failed: bool) -> None:
        """Keep the results as metrics, and the run as finished or failed."""
        self.log(epoch, results)
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


class WandbTracker(Tracker):
    """Writes runs to Weights & Biases, beside a run that is open there.

    Parameters
    ----------
    project : str
        ``PROJECT`` or ``ENTITY/PROJECT``. The key comes from ``wandb login`` or ``WANDB_API_KEY``;
        ``WANDB_MODE=offline`` keeps everything on this machine.

    Raises
    ------
    MissingLibraryError
        If wandb is not installed.
    """

    def __init__(self, project: str) -> None:
        self._wandb = _import("wandb", "wandb")
        entity, _, self._project = project.rpartition("/")
        self._entity = entity or None

    def begin(self, run: str, settings: Mapping[str, Any]) -> None:
        """Open a run of its own, with the settings as its config."""
        self._run = self._wandb.init(
            project=self._project, entity=self._entity, name=run, config=dict(settings), reinit="create_new"
        )

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Keep the values at step `epoch`."""
        self._run.log(dict(values), step=epoch)

    def end(self, epoch: int, results: Mapping[str, float], failed: bool) -> None:
        """Put the results into the run's summary and close it."""
        self._run.summary.update({**results, **({"epoch_kept": epoch} if results else {})})
        self._run.finish(exit_code=int(failed))


_KINDS = {"tensorboard": TensorBoardTracker, "mlflow": MLflowTracker, "wandb": WandbTracker}


def check_place(place: str) -> str:
    """Return the name of a place if it is of a form that `open_tracker` takes; nothing is imported.

    Raises
    ------
    ConfigError
        If it names no tracker or no place, or holds a password.
    """
    kind, _, rest = place.partition(":")
    if kind not in _KINDS or (not rest and kind != "mlflow"):
        raise ConfigError(f"{place!r} is no tracker; write tensorboard:DIR, mlflow:URI or wandb:PROJECT.")
    if urlsplit(rest).password is not None:
        raise ConfigError(
            f"{kind}: the address holds a password, and command lines are logged; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD instead."
        )
    return place


def open_tracker(place: str) -> Tracker:
    """Return the tracker of a place by name.

    Parameters
    ----------
    place : str
        ``tensorboard:DIR``, ``mlflow:URI`` (``mlflow:`` for MLflow's default) or ``wandb:PROJECT``.

    Returns
    -------
    Tracker

    Raises
    ------
    ConfigError
        If it names no tracker or no place, or holds a password.
    MissingLibraryError
        If the tracker's library is not installed.
    """
    kind, _, rest = check_place(place).partition(":")
    tracker: Tracker = _KINDS[kind](rest)
    return tracker


class TrackedRun:
    """A run of a tracker while a model trains, as a context manager.

    A tracker that cannot open the run raises, before anything is trained. One that fails later, a server that is
    gone for instance, is given up for the rest of the run with a warning, and the training goes on.

    Parameters
    ----------
    tracker : Tracker or None
        None tracks nothing.
    run : str
        Name of the run.
    settings : mapping of str to Any, default={}
        What it is trained with.

    Raises
    ------
    TrackingError
        On entering, if the tracker cannot open the run.
    """

    def __init__(self, tracker: Tracker | None, run: str, settings: Mapping[str, Any] | None = None) -> None:
        self._tracker, self._name, self._settings = tracker, run, dict(settings or {})
        self._results: dict[str, float] = {}
        self._epoch = 0

    def __enter__(self) -> TrackedRun:
        if self._tracker is not None:
            try:
                self._tracker.begin(self._name, self._settings)
            except Exception as error:
                raise TrackingError(
                    f"{type(self._tracker).__name__} cannot open the run {self._name!r} "
                    f"({type(error).__name__}: {error}); mend that, or train without a tracker."
                ) from error
        return self

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Pass an epoch's values on, counted from 1; those that are not finite (an epoch without weight) are left out.

        Warns
        -----
        TrackingWarning
            If the tracker fails.
        """
        self._epoch = epoch
        self._call("log", epoch, _finite(values))

    def finish(self, epoch: int, results: Mapping[str, float]) -> None:
        """Say what the run came to, in the epoch that was kept; passed on when the run is closed."""
        self._epoch, self._results = epoch, _finite(results)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call("end", self._epoch, self._results, kind is not None)

    def _call(self, method: str, *values: Any) -> None:
        if self._tracker is None:
            return
        try:
            getattr(self._tracker, method)(*values)
        except Exception as error:
            warnings.warn(
                f"{type(self._tracker).__name__} failed at epoch {self._epoch} of {self._name!r} "
                f"({type(error).__name__}: {error}); the rest of this run is not tracked.",
                TrackingWarning,
                stacklevel=3,
            )
            self._tracker = None


class TrackingCallback:
    """DeepCTR-Torch callback that passes the logs of each epoch to a tracker: losses, metrics and ``sllmr_*``.

    A call of `fit` is a run. In several processes the first one tracks. With FuxiCTR, whose `fit` has no callbacks, the
    values of ``model.sllmr.status().epochs`` can be logged afterwards, through a `TrackedRun`.

    Parameters
    ----------
    tracker : Tracker or str
        A tracker, or a place as `open_tracker` takes it.
    run : str, default="fit"
        Name of the run.
    settings : mapping of str to Any, optional
        Kept with the run, for instance ``config.to_dict()``.

    Examples
    --------
    >>> model.fit(x, y, epochs=3, callbacks=[TrackingCallback("tensorboard:runs/tensorboard", "mine")])
    """

    def __init__(self, tracker: Tracker | str, run: str = "fit", settings: Mapping[str, Any] | None = None) -> None:
        self._tracker = open_tracker(tracker) if isinstance(tracker, str) else tracker
        self._name, self._settings = run, settings
        self._run = TrackedRun(None, run)

    def set_model(self, model: Any) -> None:
        """Do nothing; part of the callback interface."""

    def set_params(self, params: Any) -> None:
        """Do nothing; part of the callback interface."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the run."""
        self._run = TrackedRun(self._tracker if Ranks.here("cpu").rank == 0 else None, self._name, self._settings)
        self._run.__enter__()

    def on_train_end(self, logs: Any = None) -> None:
        """Close the run."""
        self._run.__exit__(None, None, None)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Do nothing; part of the callback interface."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Pass the epoch's logs on."""
        self._run.log(epoch + 1, logs or {})


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def _import(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingLibraryError(
            f"tracking with {extra} needs a library that cannot be imported ({error}): pip install "
            f"'sllmr-plugin[{extra}]'."
        ) from None
