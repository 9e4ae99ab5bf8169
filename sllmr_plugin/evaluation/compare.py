"""`compare`: all runs of a comparison on one data set, and an account of its inputs."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import __version__
from ..config import SelectiveConfig
from ..datasets.interactions import Interactions
from ..datasets.protocols import count_rows, interactions_of_user
from ..errors import ConfigError, CoverageWarning, SLLMRError
from ..knowledge import EncodedTexts, TextEncoder, TextTable
from ..knowledge.id_vectors import Vectors
from ..knowledge.texts import TextSource
from ..parallel.engine import Engine
from ..progress import RunProgress
from ..scores.table import ScoreTable
from ..tracking import TrackedRun, Tracker
from ..zoo.deepctr import check_attributes, check_backbone, check_dense, input_rows
from .comparison import Comparison
from .differences import BASELINE
from .examples import describe_examples, draw_examples, rank_examples
from .mode_inputs import ModeInputs, TripleSource, check_texts
from .modes import Mode, Start, check_read, check_sources, check_start_fields
from .pooled import PooledRows
from .refinement import Refinement, refined_by
from .reliability import reliability
from .run import by_raw_ids, train_and_rank
from .store import RunFolder, attribute_digest, digest, score_digest
from .strata import label_test, stratify
from .training import RunSettings, wrap_arguments
from .untrained import item_texts, rank_untrained, untrained_models


def describe_inputs(data: Interactions, scores: ScoreTable, texts: TextTable | None = None) -> dict[str, Any]:
    """Count interactions, scores and texts for the report.

    Parameters
    ----------
    data : Interactions
        What is trained, validated and tested on.
    scores : ScoreTable
        With the codes of `data`.
    texts : TextTable or None, default=None
        LLM-written texts, with the codes of `data`.

    Returns
    -------
    dict
        Plain JSON values. ``interactions``: users, items and interactions by part, cold users, long-tail items.
        ``llm_cf``: what the paper's Table 1 counts (`count_rows`).
        ``scores``: the table's `Coverage`, and which users and items have candidates. ``origin``: how the
        scores were made, as far as the table says. ``texts``, where there are some: the table's `TextCoverage`, and
        the ``model`` that wrote them or None.
    """
    strata = stratify(data)
    users, items = scores.candidates.users.numpy(), scores.candidates.items.unique().numpy()
    return {
        "interactions": {
            "users": data.n_users,
            "items": data.n_items,
            "train": len(data.train),
            "validation": len(data.valid),
            "test": len(data.test),
            "cold_users": int(strata.cold.sum()),
            "tail_items": int(strata.tail.sum()),
        },
        "llm_cf": count_rows(interactions_of_user(data), data.n_items),
        "scores": {
            **asdict(scores.coverage),
            "cold_users": int(strata.cold[users].sum()),
            "tail_items": int(strata.tail[items].sum()),
        },
        "origin": scores.origin,
        **({"texts": {**asdict(texts.coverage), "model": texts.origin.get("model")}} if texts is not None else {}),
    }


def compare(
    data: Interactions,
    scores: str | Path | pd.DataFrame | ScoreTable,
    *,
    out: str | Path,
    backbone: str | Sequence[str] = "deepfm",
    modes: Sequence[str] = ("none", "global", "gated"),
    seeds: int | Sequence[int] = 3,
    settings: RunSettings | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    texts: TextSource | Sequence[TextSource] | TextTable | None = None,
    encoder: TextEncoder | None = None,
    start: Start | None = None,
    triples: TripleSource | None = None,
    refinement: Refinement | None = None,
    overwrite: bool = False,
    strata: Sequence[pd.DataFrame] = (),
    verbose: bool = True,
    engine: Engine | None = None,
    tracker: Tracker | None = None,
) -> Comparison:
    """Train every backbone in every mode with every seed and rank the test interactions.

    For one seed all modes have the same training rows, the same initial weights and the same order of
    batches, so differences between modes can be taken seed by seed. Each run keeps its epoch of highest
    validation AUC. A run is written to `out` as soon as it is finished; called again with the same settings, the
    runs that are there are not made again. Before a run trains, `check_leakage` looks for held-out interactions
    in what it learns from. If the table has probes, the first plain model is compared with the LLM (`reliability`).
    What needs no training is ranked beside the models: popularity and, where items have titles or texts, their content
    (`rank_untrained`).

    Parameters
    ----------
    data : Interactions
        Training, validation and test interactions.
    scores : path, DataFrame or ScoreTable
        LLM scores by the raw ids of `data`; a `ScoreTable` has the codes of `data`.
    out : path
        The run folder, see `RunFolder`.
    backbone : str or sequence of str, default="deepfm"
        Names that `sllmr_plugin.zoo.deepctr.build_model` knows.
    modes : sequence of str, default=("none", "global", "gated")
        Names that `Mode.of` reads: keys of `sllmr_plugin.config.MODES`, each short for some fields of
        `SelectiveConfig` (``none`` is the plain, unwrapped model); ``init``, whose embeddings start from the vectors of
        `start`, ``align``, whose embeddings are pulled towards them in every step, ``sid``, which adds codes of them as
        features, and ``embed``, which adds inputs made of them; ``synthetic``, ``denoised`` and ``refined``, which add
        rows of `refinement` to the training, leave some out, or both; ``kar``, ``llm_cf``, ``curec`` and ``reclm``,
        which add inputs made of `texts`; and combinations such as ``init+gated``.
    seeds : int or sequence of int, default=3
        The seeds, or how many, counted from 0.
    settings : RunSettings or None, default=None
        Sizes of training and evaluation.
    config_overrides : mapping of str to Any, optional
        Fields of `SelectiveConfig` for all wrapped runs; those that a mode decides (`MODES`) count for less.
    texts : path, DataFrame, several of these, or TextTable, optional
        LLM-written texts by the raw ids of `data`; a `TextTable` has the codes of `data`. Runs in `out` made with
        other texts, or none, are not mixed with these. Reasoning texts among them are the exemplars of ``llm_cf``,
        patterns and reasons are what ``curec`` reads, profiles what ``reclm`` reads.
    encoder : TextEncoder, optional
        Encodes them; default: `TfidfSvdEncoder`.
    start : Start, optional
        Vectors of the modes with ``init``, ``align``, ``sid`` and ``embed``.
    triples : path, DataFrame or Triples, optional
        Statements about items, by the raw ids of `data`, of the modes with ``triples`` and ``graph``.
    refinement : Refinement, optional
        Synthetic interactions of the modes with ``synthetic`` and ``refined``, and P(interest) of those with
        ``denoised`` and ``refined`` (`Refinement.read`).
    overwrite : bool, default=False
        Drop runs in `out` that were made with other settings instead of refusing to mix.
    strata : sequence of DataFrame, default=()
        Labels of users, items or interactions to report AUC by, as `label_test` takes them.
    verbose : bool, default=True
        Write a line to standard error after each run.
    engine : Engine or None, default=None
        As of `full_ranking`, for the rankings of validation and test. No part of the settings: runs of a folder may
        be made with different ones.
    tracker : Tracker or None, default=None
        Keeps the values of every epoch of the runs that are made now, and their test AUCs (`open_tracker`). No part of
        the settings either.

    Returns
    -------
    Comparison
        The runs by backbone, seed and mode, and the differences to the plain model.

    Raises
    ------
    ConfigError, BackboneError
        If a mode, an override, or a backbone or its size is not valid, a mode needs texts and there are none, or
        `start` has a field of another value than its default that no mode reads; before anything is trained.
    CoverageError, InterestError
        If P(interest) judges, believes or doubts none of the rows of a mode that reads it; before anything is trained.
    TextTableError, TextEncoderError
        If the texts cannot be read or encoded; before anything is trained.
    CoverageError
        If a mode reads texts and there are none of any user, or of any item, of the training rows.
    RunFolderError
        If `out` holds runs made with other settings or other data.
    DataError
        If `strata` cannot be brought to the test interactions; before anything is trained.
    TrackingError
        If the tracker cannot open a run.
    """
    settings = settings or RunSettings()
    names = [backbone] if isinstance(backbone, str) else list(backbone)
    sizes = (settings.embedding_dim, settings.dropout, settings.model_arguments)
    names = list(dict.fromkeys(check_backbone(name, *sizes) for name in names))
    if not names or not modes:
        raise ConfigError("nothing to compare: name at least one backbone and one mode.")
    configs = _configs(modes, config_overrides or {})
    wanted = [Mode.of(mode) for mode in configs]
    given: dict[str, Any] = {name: refinement and getattr(refinement, name) for name in ("synthetic", "interest")}
    given["triples"] = triples
    check_sources(wanted, texts=texts, start=start, **given)
    check_read(wanted, **given)
    refined = {mode.name: refined_by(refinement, mode) for mode in wanted}
    if start is not None and not any(mode.needs("vectors") for mode in wanted):
        raise ConfigError(
            "vectors are given, and no mode that reads them is compared; add init, embed, init+gated or the like to "
            "the modes (--modes), or leave the vectors out."
        )
    if start is not None:
        check_start_fields(wanted, start.changed)
    inputs = ModeInputs(data, wanted, start, triples)
    for name in names:
        check_attributes(name, inputs.coded)
    if any(mode.adds_input for mode in wanted):
        for name in names:
            check_dense(name)
    if not isinstance(scores, ScoreTable):
        scores = ScoreTable.read(scores, user_index=data.user_index, item_index=data.item_index)
    scores.coverage.warn_if_low()
    if texts is not None and not isinstance(texts, TextTable):
        texts = TextTable.read(texts, user_index=data.user_index, item_index=data.item_index)
    encoded = EncodedTexts.of(texts, encoder) if texts is not None else None
    labels = label_test(data, strata) if len(strata) else None
    everything = {**everything_else(data, scores, settings, config_overrides or {}), **describe_texts(encoded)}
    if start is not None:
        used = {"scale": start.scale, "users": start.users, "method": start.method}
        everything["start"] = {**describe_vectors(start.vectors), **used}
    everything |= inputs.described()
    everything |= refinement.recorded() if refinement is not None else {}
    content = item_texts(data, texts, None if start is None else start.vectors)
    if content is not None:
        everything["item_texts"] = digest(np.frombuffer("\0".join(content).encode(), dtype=np.uint8))
    folder = RunFolder(out, everything, overwrite=overwrite)

    folder.set_inputs(describe_inputs(data, scores, texts))
    if labels is not None:
        folder.set_labels(labels)
    if not folder.untrained:
        ranked = {name: getattr(settings, name) for name in ("test_users", "test_items", "valid_users", "valid_items")}
        labelled = PooledRows(data) if settings.is_llm_cf else None
        rankings: dict[str, pd.DataFrame] = {}
        found = rank_untrained(data, content, **ranked, labelled=labelled, inspect=rankings.__setitem__)
        folder.set_untrained(found, {name: by_raw_ids(ranking, data) for name, ranking in rankings.items()})
    strata_of_users = stratify(data)
    examples = draw_examples(data, strata_of_users)
    folder.set_examples(describe_examples(data, examples, strata_of_users))
    chosen_seeds = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    plan = list(itertools.product(names, chosen_seeds, configs))
    progress = RunProgress(len(plan), verbose=verbose)
    checked: set[str] = set()
    for (name, seed), runs in itertools.groupby(plan, key=lambda run: run[:2]):
        modes_to_run = []
        for _, _, mode in runs:
            if (name, mode, seed) in folder.runs:
                progress.skip(f"{name} {mode} seed {seed}: already in {folder.path}")
            else:
                modes_to_run.append(mode)
        if not modes_to_run:
            continue
        rows = settings.rows(inputs.coded, seed)
        published = settings.adaptors == "published"
        unchecked = [Mode.of(mode) for mode in modes_to_run if mode not in checked]  # texts are those of every seed
        check_texts(unchecked, inputs, rows, encoded, published=published)
        checked.update(modes_to_run)
        for mode in modes_to_run:
            judge = _reliability_into(folder, data, rows, scores, configs[mode], mode, name, seed, content)
            how, label = Mode.of(mode), f"{name} {mode} seed {seed}"
            read, vectors = inputs.data(how), inputs.start(how)
            progress.note(f"{label}: epoch 1 of {settings.epochs}")
            told = _told(name, mode, seed, settings, configs[mode])
            with TrackedRun(tracker, label, told) as tracked:
                run = train_and_rank(
                    read,
                    rows,
                    scores,
                    backbone=name,
                    config=configs[mode],
                    seed=seed,
                    settings=settings,
                    mode=mode,
                    adaptor=how.adaptor(data, rows, seed, texts=encoded, start=vectors, published=published),
                    start=vectors if "init" in how.parts else None,
                    **how.targets(vectors),
                    **refined[mode],
                    report=_noted(progress, label, settings.epochs),
                    inspect=_examples_into(folder, read, examples, (name, mode, seed), judge),
                    track=tracked.log,
                    verbose=verbose,
                    engine=engine,
                )
                progress.finish(f"{label}: AUC {run.auc:.4f}, epoch {run.epoch}")
                folder.add(run)
                tracked.finish(run.epoch, {f"test_{key}": getattr(run, key) for key in ("auc", "auc_cold", "auc_tail")})
    asked = [(name, mode, seed) for name, seed, mode in plan]
    comparison = folder.comparison(asked)
    whole = comparison if set(asked) == set(folder.runs) else folder.comparison(list(folder.runs))
    folder.set_comparison(whole.differences, whole.strata)
    return comparison


def _told(name: str, mode: str, seed: int, settings: RunSettings, config: SelectiveConfig) -> dict[str, Any]:
    """Return what a tracker keeps of how a run is trained; of the plain model no regularizer."""
    parts = {"training": asdict(settings), **({"config": config.to_dict()} if config.active else {})}
    flat = {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}
    return {"backbone": name, "mode": mode, "seed": seed, **flat}


def _noted(progress: RunProgress, label: str, epochs: int) -> Callable[[int, float], None]:
    """Return what shows the validation AUC of a run's last epoch, and what it does next."""

    def report(epoch: int, auc: float) -> None:
        doing = f"epoch {epoch + 1} of {epochs}" if epoch < epochs else "ranking test"
        progress.note(f"{label}: validation AUC {auc:.4f}, {doing}")

    return report


def _reliability_into(
    folder: RunFolder,
    data: Interactions,
    rows: tuple[dict[str, np.ndarray], np.ndarray],
    scores: ScoreTable,
    config: SelectiveConfig,
    mode: str,
    name: str,
    seed: int,
    content: Sequence[str] | None,
) -> Callable[[Any], None]:
    """Return what judges the LLM beside a trained plain model, if the folder has no such judgement yet."""

    def judge(model: Any) -> None:
        if mode != BASELINE or len(scores.probes) == 0 or folder.reliability is not None:
            return
        x = input_rows(model, rows[0])
        weight = folder.untrained.get("content+popularity", {}).get("popularity_weight")
        untrained = untrained_models(data, content, popularity_weight=weight)
        try:
            found = reliability(
                model, scores, x=x, y=rows[1], config=config, untrained=untrained, **wrap_arguments(data)
            )
        except SLLMRError as error:
            warnings.warn(f"the report will have no reliability map: {error}", CoverageWarning, stacklevel=2)
        else:
            folder.set_reliability({"backbone": name, "seed": seed, **found.content()})

    return judge


def _examples_into(
    folder: RunFolder,
    data: Interactions,
    users: np.ndarray,
    run: tuple[str, str, int],
    judge: Callable[[Any], None],
) -> Callable[[Any], None]:
    """Return what lets `judge` see a trained model, and keeps what it would show to the examples."""

    def inspect(model: Any) -> None:
        judge(model)
        folder.add_examples(*run, rank_examples(model, data, users))

    return inspect


def _configs(modes: Sequence[str], overrides: Mapping[str, Any]) -> dict[str, SelectiveConfig]:
    if "mode" in overrides:
        raise ConfigError("mode cannot be overridden in a comparison of modes; list it in modes instead.")
    return {mode: SelectiveConfig.of_mode(Mode.of(mode).regularizer, overrides) for mode in modes}


def describe_texts(encoded: EncodedTexts | None) -> dict[str, Any]:
    """Return what results depend on of texts, as plain JSON values; nothing without texts."""
    if encoded is None:
        return {}
    arrays = [part[kind] for kind in ("user", "item") for part in (encoded.codes, encoded.vectors)]
    if (told := encoded.reasoning) is not None:
        arrays += [told.users, told.items, told.labels, told.vectors]
    if (reasons := encoded.reasons) is not None:
        arrays += [reasons.patterns.codes["user"], reasons.patterns.vectors["user"]]
        arrays += [reasons.users, reasons.items, reasons.positions, reasons.vectors]
    if (profiles := encoded.profiles) is not None:
        arrays += [part[kind] for kind in ("user", "item") for part in (profiles.codes, profiles.vectors)]
    return {"texts": digest(*arrays)}


def describe_vectors(vectors: Vectors) -> dict[str, Any]:
    """Return what results depend on of vectors, as plain JSON values."""
    kinds = {"items": vectors.items, "users": vectors.users}
    return {
        name: digest(np.frombuffer("\0".join(map(str, part.ids)).encode(), dtype=np.uint8), part.matrix)
        for name, part in kinds.items()
        if part is not None
    }


def everything_else(
    data: Interactions, scores: ScoreTable, settings: RunSettings, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all that a run depends on but its backbone, mode and seed."""
    config = {
        name: value if isinstance(value, str | int | float | None) else repr(value)
        for name, value in SelectiveConfig.from_dict(overrides).to_dict().items()
    }
    return {
        "version": __version__,
        **asdict(settings),
        "config": config,
        "interactions": digest(
            *(frame.to_numpy() for frame in (data.train, data.valid, data.test, data.test_negatives)),
            np.array([data.n_items]),
        ),
        "scores": score_digest(scores),
        **attribute_digest(data),
    }
