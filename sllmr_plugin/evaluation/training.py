"""Trains one model: build, wrap, fit, keep the epoch of highest validation AUC; ranks no test interaction."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch

from ..backends.align import align
from ..backends.augment import augment
from ..backends.distill import distill_features
from ..backends.initialise import initialise
from ..backends.pretrain import pretrain
from ..backends.similar import similar_users
from ..backends.synthetic import DEFAULT_WEIGHT, add_synthetic
from ..config import SelectiveConfig
from ..datasets.features import HISTORY_LENGTH, item_table, training_rows, user_by_user
from ..datasets.interactions import Interactions
from ..datasets.interest import DoubtedRows
from ..datasets.protocols import FULL_RANKING, LLM_CF, MIN_EARLIER, with_earlier_interactions
from ..datasets.synthetic import SyntheticInteractions
from ..errors import EvaluationError, InactiveWarning
from ..knowledge import Adaptor
from ..knowledge.id_vectors import Vectors
from ..parallel.engine import Engine
from ..scores.table import ScoreTable
from ..settings import Bounds, Settings
from ..wrapping import wrap
from ..zoo.deepctr import build_model, input_rows
from .gate_map import gate_map
from .leakage import check_leakage
from .modes import Start
from .pooled import PooledRows
from .ranking import full_ranking, sample_size
from .strata import stratify

Track = Callable[[int, Mapping[str, float]], None]

_Count = Annotated[int, Bounds(least=1)]
_Items = Annotated[int, Bounds(least=2)]


@dataclass(frozen=True)
class RunSettings(Settings):
    """How a model is trained and evaluated; the same for every run of a comparison.

    Attributes
    ----------
    epochs : int, default=15
        Epochs trained at most; the one of highest validation AUC is kept.
    embedding_dim : int, default=16
        Length of the embedding vectors.
    batch_size : int, default=256
        Rows of a training step.
    learning_rate : float, default=3e-3
        Of Adam.
    negatives : int, default=4
        Items drawn as negatives for each training positive; the data's own negatives, where it has some,
        take their place.
    negatives_by : {"uniform", "popularity"}, default="uniform"
        How they are drawn, see `training_rows`.
    redraw : bool, default=True
        Draw other negatives in every epoch.
    patience : int or None, default=3
        Stop when this many epochs in a row have not raised the validation AUC; None trains all epochs.
    l2 : float or None, default=None
        Weight of the L2 penalty on embeddings and the linear part; None is the library's default, see `build_model`.
    history_length : int, default=20
        Last interactions in a user's history.
    histories : bool, default=False
        Every backbone reads the user's history of items and of attributes; without, DIN and DIEN read that of items.
        See `build_model`.
    test_users : int or None, default=None
        Users drawn for the test ranking; None ranks all.
    valid_users : int or None, default=1500
        Users drawn for the validation ranking after each epoch; None ranks all. Under protocol ``llm-cf``, which
        ranks nothing to choose the epoch, it is not used, nor is `valid_items`.
    test_items, valid_items : int or None, default=None
        Items drawn for each user to rank against, at least 2, for a sampled AUC; None ranks against all. For
        backbones that are too slow to score the whole catalogue for every user.
    batches : {"rows", "users"}, default="rows"
        ``users``: the rows of an epoch go user by user, users in another random order in every epoch, so that a batch
        is one of users with their interactions (the paper's Algorithm 1, line 2) and holds pairs of a user for
        ``in_batch_pairs`` and ``user_source="batch"``. `batch_size` counts rows all the same: a batch has as many users
        as fill it, and the last one's rows may go on in the next batch. ``rows`` shuffles rows alone: two of the same
        user hardly ever meet.
    adaptors : {"compact", "published"}, default="compact"
        Sizes of ``kar`` and ``llm_cf``: the defaults of `KARAdaptor` and `LLMCFAdaptor`, or those of their authors,
        with LLM-CF's reconstruction loss (`as_published` of both).
    dropout : float, default=0.0
        Dropout rate of the backbone's deep part; ``uncertainty="mc_dropout"`` needs one.
    device : str, default="cpu"
        A torch device.
    model_arguments : mapping of str to Any, default={}
        The backbone's own constructor arguments, such as ``dnn_hidden_units``; the same for all backbones.
    protocol : {"full-ranking", "llm-cf"}, default="full-ranking"
        ``llm-cf``: the protocol of the paper's figures. Training, validation and test rows are interactions with three
        earlier ones of their user; the epoch is chosen by the pooled AUC of labelled validation rows, and that of test
        rows is reported beside the ranking (`PooledRows`); cold is a row at its time, long-tail a fifth of the
        catalogue by rank. `of_protocol` has the sizes that go with it.

    Raises
    ------
    ConfigError
        Naming every field that is of a wrong type or out of range.
    """

    epochs: _Count = 15
    embedding_dim: _Count = 16
    batch_size: _Count = 256
    learning_rate: Annotated[float, Bounds(above=0)] = 3e-3
    negatives: Annotated[int, Bounds(least=0)] = 4
    negatives_by: Literal["uniform", "popularity"] = "uniform"
    redraw: bool = True
    patience: _Count | None = 3
    l2: Annotated[float, Bounds(least=0)] | None = None
    history_length: _Count = HISTORY_LENGTH
    histories: bool = False
    test_users: _Count | None = None
    valid_users: _Count | None = 1500
    test_items: _Items | None = None
    valid_items: _Items | None = None
    batches: Literal["rows", "users"] = "rows"
    adaptors: Literal["compact", "published"] = "compact"
    dropout: Annotated[float, Bounds(least=0, below=1)] = 0.0
    device: str = "cpu"
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    protocol: Literal["full-ranking", "llm-cf"] = "full-ranking"

    def problems(self) -> list[str]:
        """Return what does not fit the protocol."""
        if self.is_llm_cf and self.history_length < MIN_EARLIER:
            return [f"history_length={self.history_length} must be at least {MIN_EARLIER} under protocol {LLM_CF}"]
        return []

    @classmethod
    def of_protocol(cls, protocol: str, **changes: Any) -> RunSettings:
        """Return the settings that a protocol is trained with.

        Parameters
        ----------
        protocol : {"full-ranking", "llm-cf"}
            ``llm-cf``: those of LLM-CF's public code, embedding 32, batch 128, one negative for each row, 20
            interactions of history, up to 10 epochs with a patience of 2. The paper has embedding 64.
        **changes
            Fields that are set otherwise.
        """
        return cls(**{**PROTOCOL_SETTINGS.get(protocol, {}), "protocol": protocol, **changes})

    @property
    def is_llm_cf(self) -> bool:
        """Whether the protocol is LLM-CF's."""
        return self.protocol == LLM_CF

    @classmethod
    def quick(cls, **changes: Any) -> RunSettings:
        """Return a setting for trials: three epochs, one negative a positive, the same in every epoch."""
        return cls(**{**QUICK, **changes})

    def rows(self, data: Interactions, seed: int | Sequence[int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Draw the rows of a training, or of one of its epochs (`training_rows`)."""
        rows = training_rows(
            data,
            negatives=self.negatives,
            negatives_by=self.negatives_by,
            history_length=self.history_length,
            seed=seed,
        )
        return with_earlier_interactions(rows) if self.is_llm_cf else rows


QUICK: Mapping[str, Any] = {"epochs": 3, "learning_rate": 1e-3, "negatives": 1, "redraw": False, "patience": None}
"""Fields of `RunSettings.quick`."""

PROTOCOL_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    FULL_RANKING: {},
    LLM_CF: {
        "epochs": 10,
        "embedding_dim": 32,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "negatives": 1,
        "negatives_by": "uniform",
        "redraw": False,
        "patience": 2,
        "history_length": 20,
    },
}
"""Protocol -> fields of `RunSettings` that go with it."""


@dataclass(frozen=True)
class Trained:
    """A trained model and how its epoch was chosen.

    Attributes
    ----------
    model : BaseModel
        With the weights of the kept epoch; wrapped unless the mode is ``none``, augmented if there is an adaptor.
    epoch : int
        The epoch that was kept, counted from 1.
    auc : float
        Its mean validation AUC, of the interactions that have one; under protocol ``llm-cf``, its pooled AUC.
    seconds : float
        Time in ``fit``, without the validation rankings.
    epochs : list of dict of str to float
        An entry an epoch: ``valid_auc``, ``loss`` (all that the step minimises, the LLM's part included) and the
        ``sllmr_*`` values of a wrapped model.
    gate_map : DataFrame or None
        `gate_map` of the kept epoch; None without a gate.
    """

    model: Any
    epoch: int
    auc: float
    seconds: float
    epochs: list[dict[str, float]] = field(default_factory=list)
    gate_map: pd.DataFrame | None = None


def wrap_arguments(data: Interactions) -> dict[str, Any]:
    """Return what `wrap` has to know of a model of `build_model`: its ids and, by item, its attributes."""
    ids: dict[str, Any] = {"user": "user_id", "item": "item_id"}
    if not data.attributes:
        return ids
    table = item_table(data)
    return {**ids, "item_features": list(table), "item_table": table, "item_index": data.item_index}


class BestEpoch:
    """DeepCTR-Torch callback that measures the model after each epoch and keeps the best weights.

    Parameters
    ----------
    measure : callable
        Takes the model, returns its validation AUC.
    report : callable
        Called after each epoch with its number, counted from 1, and its AUC.
    patience : int or None, default=3
        Stop the training when this many epochs in a row are not better.
    track : callable, optional
        Called after each epoch with its number, counted from 1, and its values as `Trained.epochs` has them.

    Attributes
    ----------
    epoch : int
        The best epoch so far, counted from 1; of equals, the first.
    auc : float
        Its validation AUC.
    state : dict of str to Tensor
        Its weights, copied to the CPU, as its ``state_dict`` gives them: with an adaptor's in the metadata.
    aucs : list of float
        Validation AUC of every epoch.
    seconds : float
        Time spent measuring.
    """

    def __init__(
        self,
        measure: Callable[[Any], float],
        report: Callable[[int, float], None],
        patience: int | None = None,
        track: Track = lambda epoch, values: None,
    ) -> None:
        self._measure = measure
        self._report = report
        self._track = track
        self._patience = patience
        self.model: Any = None
        self.epoch = 0
        self.auc = -np.inf
        self.state: dict[str, torch.Tensor] = {}
        self.gate_map: pd.DataFrame | None = None
        self.aucs: list[float] = []
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
        self.aucs.append(float(auc))
        if auc > self.auc:
            self.epoch, self.auc = epoch + 1, auc
            self.state = self.model.state_dict()
            for name, value in self.state.items():
                self.state[name] = value.detach().cpu().clone()
            handle = getattr(self.model, "sllmr", None)
            self.gate_map = gate_map(self.model) if handle is not None and handle.config.gated else None
        if self.is_over:
            self.model.stop_training = True
        self._track(epoch + 1, {"valid_auc": float(auc), **_kept_values(logs or {})})
        self.seconds += time.perf_counter() - start
        self._report(epoch + 1, auc)

    @property
    def is_over(self) -> bool:
        """Whether the patience has run out."""
        return self._patience is not None and len(self.aucs) - self.epoch >= self._patience


def train(
    data: Interactions,
    rows: tuple[dict[str, np.ndarray], np.ndarray],
    scores: ScoreTable,
    *,
    backbone: str,
    config: SelectiveConfig,
    seed: int,
    settings: RunSettings,
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
    verbose: bool = True,
    engine: Engine | None = None,
) -> Trained:
    """Train one backbone in one mode and go back to its best epoch on validation.

    Runs that differ in the config alone start from the same weights and see the same batches in the same order. With
    an adaptor the batches and the embeddings are the same still; layers that read its columns are wider.
    The test interactions are used only to refuse training on them (`check_leakage`); there may be none.

    Parameters
    ----------
    data : Interactions
        Training and validation interactions.
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
        Sizes; those of the test ranking are not used.
    adaptor : Adaptor, optional
        Fills dense columns that the model is built with. It is trained, so every run needs one of its own.
    start : Start, optional
        What the embeddings of items and users start from; the rest of the model starts as ever.
    aligned : Vectors, optional
        What the embeddings of every step are pulled towards (`align`, at its defaults).
    distilled : Vectors, optional
        What the input of the last layer is pulled towards (`distill_features`, at its defaults).
    similar : Vectors, optional
        By which users are alike, whose embeddings are pulled together (`similar_users`, at its defaults).
    pretrained : Vectors, optional
        What the model learns to tell rows by before `fit` (`pretrain`, at its defaults and the batch size of training).
    synthetic : SyntheticInteractions, optional
        Positives that each step also trains on (`add_synthetic`), by the codes of `data`.
    synthetic_weight : float, default=0.1
        Of their loss.
    doubted : DoubtedRows, optional
        Training positives that are left out of the rows, with the negatives drawn for them. Histories, and who is cold
        or long-tail, stay those of `data`.
    report : callable, optional
        Called after each epoch with its number, counted from 1, and its validation AUC.
    track : callable, optional
        Called after each epoch with its number, counted from 1, and its values as `Trained.epochs` has them.
    verbose : bool, default=True
        Show the progress of long rankings on a terminal.
    engine : Engine or None, default=None
        As of `full_ranking`, for the validation rankings; training stays in this process.

    Returns
    -------
    Trained

    Raises
    ------
    EvaluationError
        If there is nothing to validate on; `LeakageError` if a held-out interaction is trained on.
    SLLMRError
        Whatever `build_model`, `wrap`, training or `full_ranking` raises.
    """
    require_split(data, "validation")
    n_items = sample_size(data, settings.valid_items)
    check_leakage(data, rows, scores, synthetic=synthetic)
    if doubted is not None:
        rows = doubted.left_out(*rows)
    model = build_model(
        backbone,
        data,
        embedding_dim=settings.embedding_dim,
        dropout=settings.dropout,
        l2=settings.l2,
        seed=seed,
        history_length=settings.history_length,
        histories=settings.histories,
        device=settings.device,
        arguments=settings.model_arguments,
        dense=None if adaptor is None else adaptor.widths,
    )
    if adaptor is not None:
        model = augment(model, adaptor, user="user_id", item="item_id")
    if start is not None:
        initialise(
            model,
            start.vectors,
            user="user_id",
            item="item_id",
            x=rows[0],
            y=rows[1],
            scale=start.scale,
            users=start.users,
            method=start.method,
            user_index=data.user_index,
            item_index=data.item_index,
        )
    ids: dict[str, Any] = {"user": "user_id", "item": "item_id"}
    ids |= {"user_index": data.user_index, "item_index": data.item_index}
    if aligned is not None:
        align(model, aligned, seed=seed, **ids)
    if distilled is not None:
        distill_features(model, distilled, seed=seed, **ids)
    if similar is not None:
        similar_users(model, similar, x=rows[0], y=rows[1], **ids)
    if synthetic is not None:
        own = (data.valid["user"].to_numpy(), data.valid["item"].to_numpy())  # which `training_rows` spares, too
        add_synthetic(model, synthetic, weight=synthetic_weight, never=own, seed=seed, **wrap_arguments(data))
    if config.active:
        model = wrap(model, scores, config=config, **wrap_arguments(data))
    model.compile(torch.optim.Adam(model.parameters(), lr=settings.learning_rate), "binary_crossentropy")
    if pretrained is not None:
        inputs = input_rows(model, rows[0])
        pretrain(model, pretrained, inputs, rows[1], batch_size=settings.batch_size, seed=seed, verbose=verbose, **ids)
    strata = stratify(data)
    labelled = PooledRows(data, "valid") if settings.is_llm_cf else None

    def validate(model: Any) -> float:
        if labelled is not None:
            return labelled.aucs(labelled.predict(model))["ctr_auc"]
        ranking = full_ranking(
            model,
            data,
            "valid",
            users=settings.valid_users,
            n_items=n_items,
            strata=strata,
            verbose=verbose,
            engine=engine,
        )
        return ranking["auc"].mean()

    best = BestEpoch(validate, report, settings.patience, track)
    torch.manual_seed(seed)  # so that batches come in the same order however much building and wrapping drew
    began = time.perf_counter()
    logs = _fit(model, data, rows, best, settings, seed, doubted)
    seconds = time.perf_counter() - began - best.seconds
    if not best.state:
        raise EvaluationError(
            "every validation user has interacted with the whole catalogue, so no epoch can be chosen; "
            "pass the full list of items."
        )
    model.load_state_dict(best.state)
    return Trained(model, best.epoch, float(best.auc), seconds, logs, best.gate_map)


def _fit(
    model: Any,
    data: Interactions,
    rows: tuple[dict[str, np.ndarray], np.ndarray],
    best: BestEpoch,
    settings: RunSettings,
    seed: int,
    doubted: DoubtedRows | None,
) -> list[dict[str, float]]:
    """Fit a model, with the rows and batches of each epoch that the settings say; return what `Trained.epochs` has."""
    options = {"batch_size": settings.batch_size, "verbose": 0, "callbacks": [best]}
    redraw, by_user = settings.redraw and not data.has_negatives, settings.batches == "users"
    with contextlib.redirect_stdout(io.StringIO()):  # DeepCTR-Torch prints even with verbose=0
        if not redraw and not by_user:
            model.fit(input_rows(model, rows[0]), rows[1], epochs=settings.epochs, **options)
            return _by_epoch(model.history.history, best.aucs)
        logs: list[dict[str, float]] = []
        # A call of fit an epoch: the optimizer, the gate and the draws of pairs go on where they were.
        for epoch in range(settings.epochs):
            if epoch and redraw:
                rows = settings.rows(data, (seed, epoch))
                rows = rows if doubted is None else doubted.left_out(*rows)
            x, y = user_by_user(*rows, (seed, epoch)) if by_user else rows
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "warmup_epochs", InactiveWarning)  # of an epoch that is warm-up
                of_epoch = {"initial_epoch": epoch, "epochs": epoch + 1, "shuffle": not by_user}
                model.fit(input_rows(model, x), y, **of_epoch, **options)
            logs += _by_epoch(model.history.history, best.aucs[-1:])
            if best.is_over:
                break
    return logs


def _by_epoch(history: Mapping[str, Sequence[float]], aucs: Sequence[float]) -> list[dict[str, float]]:
    return [
        {"valid_auc": auc, **_kept_values({key: values[epoch] for key, values in history.items()})}
        for epoch, auc in enumerate(aucs)
    ]


def _kept_values(logs: Mapping[str, float]) -> dict[str, float]:
    """Return what is kept of the logs of an epoch."""
    return {key: float(value) for key, value in logs.items() if key == "loss" or key.startswith("sllmr_")}


def require_split(data: Interactions, split: str) -> None:
    """Raise `EvaluationError` if the ``validation`` or the ``test`` part is empty."""
    if (data.valid if split == "validation" else data.test).empty:
        raise EvaluationError(
            f"the interactions have no {split} part; give them a `split` column, or users with three "
            "interactions or more."
        )
