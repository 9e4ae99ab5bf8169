"""One training run: build, wrap, fit, keep the best epoch, rank the test interactions."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..config import SelectiveConfig
from ..datasets.interactions import Interactions
from ..errors import EvaluationError
from ..score_table import ScoreTable
from ..wrapping import wrap
from ..zoo import build_model, input_rows
from .labelled_rows import labelled_rows, predict_rows
from .leakage import check_leakage
from .metrics import click_metrics, ranking_metrics
from .ranking import full_ranking, sample_size, summarize
from .strata import stratify

GATE_MEANS = {
    "all": "sllmr_gate",
    "cold": "sllmr_gate_cold",
    "tail": "sllmr_gate_tail",
    "neither": "sllmr_gate_neither",
}
"""Name in a run's result -> key in the history of a wrapped model."""


@dataclass(frozen=True)
class RunSettings:
    """How a model is trained and evaluated; the same for every run of a comparison.

    Attributes
    ----------
    epochs : int, default=3
        Epochs trained; the one of highest validation AUC is kept.
    embedding_dim : int, default=16
        Length of the embedding vectors.
    batch_size : int, default=256
        Rows of a training step.
    learning_rate : float, default=1e-3
        Of Adam.
    negatives : int, default=1
        Items drawn as negatives for each training positive; the data's own negatives, where it has some,
        take their place.
    history_length : int, default=10
        Last interactions that DIN and DIEN read.
    test_users : int or None, default=None
        Users drawn for the test ranking; None ranks all.
    valid_users : int or None, default=1500
        Users drawn for the validation ranking after each epoch; None ranks all.
    test_items, valid_items : int or None, default=None
        Items drawn for each user to rank against, at least 2, for a sampled AUC; None ranks against all. For
        backbones that are too slow to score the whole catalogue for every user.
    device : str, default="cpu"
        A torch device.
    """

    epochs: int = 3
    embedding_dim: int = 16
    batch_size: int = 256
    learning_rate: float = 1e-3
    negatives: int = 1
    history_length: int = 10
    test_users: int | None = None
    valid_users: int | None = 1500
    test_items: int | None = None
    valid_items: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class RunResult:
    """What one run came to.

    Attributes
    ----------
    backbone, mode, seed : str, str, int
        Which run it is.
    auc, auc_cold, auc_tail : float
        Mean full-ranking AUC on test: overall, of cold users, of long-tail items; NaN where there are none.
    n_test, n_cold, n_tail : int
        Interactions that these are means over.
    epoch : int
        The epoch that was kept, counted from 1.
    seconds : float
        Time in ``fit``, without the rankings.
    gate : dict of str to float, or None
        Mean gate alpha in the kept epoch over ``all`` pairs, pairs of ``cold`` users, with a ``tail`` item,
        and ``neither``; None for the plain model.
    test_items : int or None
        Items drawn for each user to rank against; None when all were.
    sampling_error : dict of str to float, or None
        Standard errors of ``auc``, ``auc_cold`` and ``auc_tail`` from the draw of items; None without one.
    metrics : dict of str to float
        ``ctr_auc``, ``logloss``, ``gauc`` and ``ece`` of `labelled_rows`; with a full ranking also ``ndcg@10``,
        ``recall@10`` and ``mrr``.
    ranking : DataFrame or None
        One row a test interaction: raw ``user_id`` and ``item_id``; ``auc``, ``auc_se``, ``above``, ``tied``,
        ``negatives``, ``cold`` and ``tail`` as `full_ranking` gives them; ``history_length`` of the user and
        ``popularity`` of the item in training. None in a run read from a folder: `RunFolder.ranking` reads it.
    """

    backbone: str
    mode: str
    seed: int
    auc: float
    auc_cold: float
    auc_tail: float
    n_test: int
    n_cold: int
    n_tail: int
    epoch: int
    seconds: float
    gate: dict[str, float] | None
    test_items: int | None = None
    sampling_error: dict[str, float] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    ranking: pd.DataFrame | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> tuple[str, str, int]:
        """Backbone, mode and seed."""
        return self.backbone, self.mode, self.seed

    def to_json(self) -> dict[str, Any]:
        """Return the fields but the ranking, with None for NaN, which JSON lacks."""
        values = asdict(replace(self, ranking=None))
        del values["ranking"]
        return _replace(values, lambda value: None if value != value else value)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunResult:
        """Undo `to_json`."""
        numbers = _replace(values, lambda value: float("nan") if value is None else value)
        really_none = ("gate", "test_items", "sampling_error")
        return cls(**{**numbers, **{name: numbers[name] if values[name] else None for name in really_none}})


class BestEpoch:
    """DeepCTR-Torch callback that measures the model after each epoch and keeps the best weights.

    Parameters
    ----------
    measure : callable
        Takes the model, returns its validation AUC.
    report : callable
        Called after each epoch with its number, counted from 1, and its AUC.

    Attributes
    ----------
    epoch : int
        The best epoch so far, counted from 1; of equals, the first.
    auc : float
        Its validation AUC.
    state : dict of str to Tensor
        Its weights, copied to the CPU.
    seconds : float
        Time spent measuring.
    """

    def __init__(self, measure: Callable[[Any], float], report: Callable[[int, float], None]) -> None:
        self._measure = measure
        self._report = report
        self.model: Any = None
        self.epoch = 0
        self.auc = -np.inf
        self.state: dict[str, torch.Tensor] = {}
        self.seconds = 0.0

    def set_model(self, model: Any) -> None:
        """Take the model that is being trained."""
        self.model = model

    def set_params(self, params: Any) -> None:
        """Do nothing; part of the callback interface."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Do nothing; part of the callback interface."""

    def on_train_end(self, logs: Any = None) -> None:
        """Do nothing; part of the callback interface."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Do nothing; part of the callback interface."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measure the model and keep its weights if they are the best yet."""
        start = time.perf_counter()
        auc = self._measure(self.model)
        if auc > self.auc:
            self.epoch, self.auc = epoch + 1, auc
            self.state = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        self.seconds += time.perf_counter() - start
        self._report(epoch + 1, auc)


def train_and_rank(
    data: Interactions,
    rows: tuple[dict[str, np.ndarray], np.ndarray],
    scores: ScoreTable,
    *,
    backbone: str,
    config: SelectiveConfig,
    seed: int,
    settings: RunSettings,
    report: Callable[[int, float], None] = lambda epoch, auc: None,
    verbose: bool = True,
) -> RunResult:
    """Train one backbone in one mode and rank the test interactions with its best epoch.

    Runs that differ in the mode alone start from the same weights and see the same batches in the same order.

    Parameters
    ----------
    data : Interactions
        Training, validation and test interactions.
    rows : tuple of (dict of str to ndarray, ndarray)
        Input columns and labels, as `sllmr_plugin.datasets.features.training_rows` gives them.
    scores : ScoreTable
        LLM scores, with users and items as codes of `data`.
    backbone : str
        A name that `sllmr_plugin.zoo.build_model` knows.
    config : SelectiveConfig
        Its mode ``none`` leaves the model unwrapped.
    seed : int
        Seed of the initial weights and of everything random in training.
    settings : RunSettings
        Sizes.
    report : callable, optional
        Called after each epoch with its number, counted from 1, and its validation AUC.
    verbose : bool, default=True
        Show the progress of long rankings on a terminal.

    Returns
    -------
    RunResult

    Raises
    ------
    EvaluationError
        If there is nothing to validate or test on; `LeakageError` if a held-out interaction is trained on.
    SLLMRError
        Whatever `build_model`, `wrap`, training or `full_ranking` raises.
    """
    test_items, _ = (sample_size(data, number) for number in (settings.test_items, settings.valid_items))
    for split, frame in (("validation", data.valid), ("test", data.test)):
        if frame.empty:
            raise EvaluationError(
                f"the interactions have no {split} part; give them a `split` column, or users with three "
                "interactions or more."
            )
    check_leakage(data, rows, scores)
    model = build_model(
        backbone,
        data,
        embedding_dim=settings.embedding_dim,
        seed=seed,
        history_length=settings.history_length,
        device=settings.device,
    )
    if config.mode != "none":
        model = wrap(model, scores, user="user_id", item="item_id", config=config)
    model.compile(torch.optim.Adam(model.parameters(), lr=settings.learning_rate), "binary_crossentropy")
    strata = stratify(data)

    def rank(model: Any, split: str, users: int | None, n_items: int | None) -> pd.DataFrame:
        return full_ranking(model, data, split, users=users, n_items=n_items, strata=strata, verbose=verbose)

    def validate(model: Any) -> float:
        return rank(model, "valid", settings.valid_users, settings.valid_items)["auc"].mean()

    best = BestEpoch(validate, report)
    torch.manual_seed(seed)  # whatever building and wrapping drew, the batches come in the same order
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):  # DeepCTR-Torch prints even with verbose=0
        model.fit(
            input_rows(model, rows[0]),
            rows[1],
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            verbose=0,
            callbacks=[best],
        )
    seconds = time.perf_counter() - start - best.seconds
    if not best.state:
        raise EvaluationError(
            "every validation user has interacted with the whole catalogue, so no epoch can be chosen; "
            "pass the full list of items."
        )
    model.load_state_dict(best.state)
    ranking = rank(model, "test", settings.test_users, test_items)
    summary = summarize(ranking)
    labelled = labelled_rows(data, negatives=max(1, settings.negatives))
    metrics = click_metrics(labelled["label"], predict_rows(model, data, labelled), labelled["user"])
    if not test_items:
        metrics |= ranking_metrics(ranking)
    return RunResult(
        backbone=backbone,
        mode=config.mode,
        seed=seed,
        auc=summary["auc"],
        auc_cold=summary["auc_cold"],
        auc_tail=summary["auc_tail"],
        n_test=int(summary["n_test"]),
        n_cold=int(summary["n_cold"]),
        n_tail=int(summary["n_tail"]),
        epoch=best.epoch,
        seconds=seconds,
        gate=_gate_means(model.history.history, best.epoch),
        test_items=test_items,
        sampling_error=_sampling_error(summary) if test_items else None,
        metrics=metrics,
        ranking=_by_raw_ids(ranking, data),
    )


def _gate_means(history: Mapping[str, list[float]], epoch: int) -> dict[str, float] | None:
    """Return the gate's means of an epoch counted from 1; None if the model was not regularized."""
    if GATE_MEANS["all"] not in history:
        return None
    return {name: float(history[key][epoch - 1]) for name, key in GATE_MEANS.items()}


def _by_raw_ids(ranking: pd.DataFrame, data: Interactions) -> pd.DataFrame:
    user, item = ranking["user"].to_numpy(), ranking["item"].to_numpy()
    return ranking.drop(columns=["user", "item"]).assign(
        user_id=data.user_ids[user - 1],
        item_id=data.item_ids[item - 1],
        history_length=data.history_length[user],
        popularity=data.popularity[item],
    )


def _sampling_error(summary: Mapping[str, float]) -> dict[str, float]:
    return {name: summary[name + "_se"] for name in ("auc", "auc_cold", "auc_tail")}


def _replace(values: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {
        key: _replace(value, change) if isinstance(value, Mapping) else change(value) for key, value in values.items()
    }
