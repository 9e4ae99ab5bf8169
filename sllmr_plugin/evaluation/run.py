"""A training and its test ranking."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from .. import __version__
from ..backends.synthetic import DEFAULT_WEIGHT
from ..config import SelectiveConfig
from ..datasets.interactions import Interactions
from ..datasets.interest import DoubtedRows
from ..datasets.synthetic import SyntheticInteractions
from ..knowledge import Adaptor
from ..knowledge.id_vectors import Vectors
from ..parallel.engine import Engine
from ..scores.table import ScoreTable
from .metrics import click_metrics, labelled_rows, predict_rows, ranking_metrics
from .modes import Start
from .pooled import PooledRows, rows_of_ranking
from .ranking import full_ranking, sample_size, summarize
from .training import RunSettings, Track, require_split, train
from .unseen import unseen_metrics

GATE_MEANS = {
    "all": "sllmr_gate",
    "cold": "sllmr_gate_cold",
    "tail": "sllmr_gate_tail",
    "neither": "sllmr_gate_neither",
}
"""Name in a run's result -> key in the history of a wrapped model."""


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
    n_undefined : int
        Test interactions left out because their users have seen the whole catalogue.
    test_items : int or None
        Items drawn for each user to rank against; None when all were.
    sampling_error : dict of str to float, or None
        Standard errors of ``auc``, ``auc_cold`` and ``auc_tail`` from the draw of items; None without one.
    metrics : dict of str to float
        ``ctr_auc``, ``logloss``, ``gauc`` and ``ece`` of `labelled_rows`; with a full ranking also ``ndcg@10``,
        ``recall@10`` and ``mrr``. Under protocol ``llm-cf`` they are of `PooledRows`, and ``ctr_auc_cold`` and
        ``ctr_auc_tail`` are there. Where test interactions are with items that training has not seen, also those of
        `unseen_metrics`: ``auc_unseen``, ``auc_among_unseen``, ``recall@20_among_unseen``, ``n_unseen``.
    epochs : list of dict of str to float
        What `Trained.epochs` has; empty in runs of folders that were made before it was kept.
    gate_map : list of dict, or None
        The rows of `gate_map` in the kept epoch; None without a gate, and in runs that were made before it was kept.
    versions : dict of str to str
        Of Python and the packages that the figures depend on; empty as `epochs`.
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
    n_undefined: int = 0
    test_items: int | None = None
    sampling_error: dict[str, float] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: list[dict[str, float]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    gate_map: list[dict[str, Any]] | None = None
    ranking: pd.DataFrame | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> tuple[str, str, int]:
        """Backbone, mode and seed."""
        return self.backbone, self.mode, self.seed

    def to_json(self) -> dict[str, Any]:
        """Return the fields but the ranking, with None for NaN, which JSON lacks."""
        values = asdict(replace(self, ranking=None))
        del values["ranking"]
        plain: dict[str, Any] = replace_nan(values)
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunResult:
        """Undo `to_json`."""
        numbers = _replace(values, lambda value: float("nan") if value is None else value)
        really_none = ("gate", "test_items", "sampling_error", "gate_map")
        return cls(**{**numbers, **{name: numbers[name] if values.get(name) else None for name in really_none}})


def train_and_rank(
    data: Interactions,
    rows: tuple[dict[str, np.ndarray], np.ndarray],
    scores: ScoreTable,
    *,
    backbone: str,
    config: SelectiveConfig,
    seed: int,
    settings: RunSettings,
    mode: str | None = None,
    adaptor: Adaptor | None = None,
    start: Start | None = None,
    aligned: Vectors | None = None,
    distilled: Vectors | None = None,
    similar: Vectors | None = None,
    pretrained: Vectors | None = None,
    synthetic: SyntheticInteractions | None = None,
    synthetic_weight: float = DEFAULT_WEIGHT,
    doubted: DoubtedRows | None = None,
    report: Callable[[int, float], None] = lambda epoch, auc: None,
    track: Track = lambda epoch, values: None,
    inspect: Callable[[Any], None] = lambda model: None,
    verbose: bool = True,
    engine: Engine | None = None,
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
        A name that `sllmr_plugin.zoo.deepctr.build_model` knows.
    config : SelectiveConfig
        One that is not active leaves the model unwrapped.
    seed : int
        Seed of the initial weights and of everything random in training.
    settings : RunSettings
        Sizes.
    mode : str, optional
        Name of the mode in the result; default: the config's.
    adaptor : Adaptor, optional
        Fills dense columns from texts, in training and in the ranking; see `train`.
    start : Start, optional
        What the embeddings start from; see `train`.
    aligned, distilled, similar, pretrained : Vectors, optional
        What they are pulled towards, and pre-trained against; see `train`.
    synthetic, synthetic_weight, doubted
        Rows that are added and left out; see `train`.
    report : callable, optional
        Called after each epoch with its number, counted from 1, and its validation AUC.
    track : callable, optional
        As of `train`.
    inspect : callable, optional
        Called with the trained model, once all is measured.
    verbose : bool, default=True
        Show the progress of long rankings on a terminal.
    engine : Engine or None, default=None
        As of `full_ranking`, for the rankings of validation and test.

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
    for split in ("validation", "test"):
        require_split(data, split)
    test_items = sample_size(data, settings.test_items)
    trained = train(
        data,
        rows,
        scores,
        backbone=backbone,
        config=config,
        seed=seed,
        settings=settings,
        adaptor=adaptor,
        start=start,
        aligned=aligned,
        distilled=distilled,
        similar=similar,
        pretrained=pretrained,
        synthetic=synthetic,
        synthetic_weight=synthetic_weight,
        doubted=doubted,
        report=report,
        track=track,
        verbose=verbose,
        engine=engine,
    )
    model = trained.model
    ranking = full_ranking(
        model, data, "test", users=settings.test_users, n_items=test_items, verbose=verbose, engine=engine
    )
    of_unseen = unseen_metrics(model, data, ranking)
    if settings.is_llm_cf:
        ranking, metrics = rows_of_ranking(ranking, data), _pooled_metrics(model, PooledRows(data))
    else:
        labelled = labelled_rows(data, negatives=max(1, settings.negatives))
        metrics = click_metrics(labelled["label"], predict_rows(model, data, labelled), labelled["user"])
    summary = summarize(ranking)
    if not test_items:
        metrics |= ranking_metrics(ranking)
    metrics |= of_unseen
    inspect(model)
    return RunResult(
        backbone=backbone,
        mode=mode or config.row,
        seed=seed,
        auc=summary["auc"],
        auc_cold=summary["auc_cold"],
        auc_tail=summary["auc_tail"],
        n_test=int(summary["n_test"]),
        n_cold=int(summary["n_cold"]),
        n_tail=int(summary["n_tail"]),
        epoch=trained.epoch,
        seconds=trained.seconds,
        gate=_gate_means(trained.epochs[trained.epoch - 1]),
        n_undefined=int(summary["n_undefined"]),
        test_items=test_items,
        sampling_error=_sampling_error(summary) if test_items else None,
        metrics=metrics,
        epochs=trained.epochs,
        versions=versions(),
        gate_map=None if trained.gate_map is None else trained.gate_map.round({"alpha": 4}).to_dict("records"),
        ranking=by_raw_ids(ranking, data),
    )


def _pooled_metrics(model: Any, labelled: PooledRows) -> dict[str, float]:
    """Return the metrics of clicks of labelled rows, and their AUC by stratum."""
    predictions = labelled.predict(model)
    return {
        **click_metrics(labelled.rows["label"], predictions, labelled.rows["user"]),
        **labelled.aucs(predictions),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the packages that do the computing."""
    packages = ("torch", "deepctr-torch", "numpy", "pandas")
    return {
        "sllmr-plugin": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _gate_means(epoch: Mapping[str, float]) -> dict[str, float] | None:
    """Return the gate's means of an epoch; None if the model was not regularized by pairs."""
    return {name: epoch[key] for name, key in GATE_MEANS.items()} if GATE_MEANS["all"] in epoch else None


def by_raw_ids(ranking: pd.DataFrame, data: Interactions) -> pd.DataFrame:
    """Return a ranking of `full_ranking` as `RunResult.ranking` describes it."""
    user, item = ranking["user"].to_numpy(), ranking["item"].to_numpy()
    return ranking.drop(columns=["user", "item"]).assign(
        user_id=data.user_ids[user - 1],
        item_id=data.item_ids[item - 1],
        history_length=data.history_length[user],
        popularity=data.popularity[item],
    )


def _sampling_error(summary: Mapping[str, float]) -> dict[str, float]:
    return {name: summary[name + "_se"] for name in ("auc", "auc_cold", "auc_tail")}


def replace_nan(value: Any) -> Any:
    """Return JSON values with None for NaN, which JSON lacks."""
    return _replace(value, lambda part: None if part != part else part)


def _replace(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value with everything in its mappings and lists changed."""
    if isinstance(value, Mapping):
        return {key: _replace(part, change) for key, part in value.items()}
    if isinstance(value, list):
        return [_replace(part, change) for part in value]
    return change(value)
