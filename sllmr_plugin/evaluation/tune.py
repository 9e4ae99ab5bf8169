"""Chooses uncertainty, weight, margin and gate by validation AUC; no test interaction is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import __version__
from ..config import SelectiveConfig
from ..datasets.interactions import Interactions
from ..errors import ConfigError
from ..knowledge import EncodedTexts, TextEncoder, TextTable
from ..knowledge.texts import TextSource
from ..progress import RunProgress
from ..regularizer.gates import GATES
from ..scores.table import ScoreTable
from ..zoo.deepctr import check_attributes, check_backbone, check_dense
from .compare import describe_texts, describe_vectors
from .mode_inputs import ModeInputs, TripleSource
from .modes import PARTS, Mode, Start, check_read, check_sources, check_start_fields
from .refinement import Refinement, refined_by
from .store import TrialFolder, attribute_digest, digest, score_digest, write_whole
from .tables import Sheet, Table
from .training import RunSettings, require_split, train
from .trials import SCALES, SearchSpace, Trial, TrialRun, gate_name, uses_uncertainty


@dataclass(frozen=True, repr=False)
class TuneResult:
    """What a search came to.

    Attributes
    ----------
    backbone : str
        The backbone that the settings were chosen for.
    seeds : tuple of int
        Seeds that every trial was trained with.
    trials : tuple of Trial
        By number: 0 is the plain model, 1 the default config.
    n_valid : int
        Validation interactions of the data.
    n_probes : int
        Of these, how many are probes of the score table, which gates may be fitted on.
    config_file : Path
        YAML file of the chosen config.
    """

    backbone: str
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    n_valid: int
    n_probes: int
    config_file: Path

    @property
    def chosen(self) -> Trial:
        """The trial of highest mean validation AUC; of equals the first, so the plain model unless it was beaten."""
        return max(self.trials, key=lambda trial: (trial.auc, -trial.number))

    @property
    def plain(self) -> Trial:
        """The trial of the plain model."""
        return self.trials[0]

    @property
    def default(self) -> Trial:
        """The trial of the default config."""
        return self.trials[1]

    @property
    def unregularized(self) -> Trial | None:
        """The first trial that has parts and no regularizer; None without any."""
        return next((trial for trial in self.trials if trial.parts and not trial.config.active), None)

    @property
    def config(self) -> SelectiveConfig:
        """The chosen config; of weight 0 when no trial with a regularizer is best."""
        return self.chosen.config

    def __repr__(self) -> str:
        return (
            f"TuneResult of {len(self.trials)} trials, {self.backbone}: {self.chosen} has validation AUC "
            f"{self.chosen.auc:.4f}, plain {self.plain.auc:.4f}  (print it for all trials)"
        )

    def __str__(self) -> str:
        return format_trials(self)

    def _repr_html_(self) -> str:
        return format_trials(self, "html")


def tune(
    data: Interactions,
    scores: str | Path | pd.DataFrame | ScoreTable,
    *,
    out: str | Path,
    backbone: str = "deepfm",
    n_trials: int = 12,
    seeds: int | Sequence[int] = 2,
    search_seed: int = 0,
    settings: RunSettings | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    start: Start | None = None,
    parts: str = "init",
    scales: Sequence[float] | None = None,
    refinement: Refinement | None = None,
    texts: TextSource | Sequence[TextSource] | TextTable | None = None,
    encoder: TextEncoder | None = None,
    triples: TripleSource | None = None,
    verbose: bool = True,
) -> TuneResult:
    """Search for the config of highest validation AUC, and write it to ``out/chosen.yaml``.

    Trial 0 is the plain model, trial 1 the default config. With a start or texts, all but trial 0 have the parts that
    read them, and trial 2 has nothing else. The others are drawn from `SearchSpace` without replacement. For one seed
    all trials have the same training rows, initial weights and order of batches, so they can be compared seed by seed.
    Every run keeps its epoch of highest validation AUC. The trial of highest mean over seeds is chosen, the plain model
    when none beats it.

    The validation AUC of the chosen config is an optimistic estimate: it is the best of many, of which some are
    best by luck. Judge it on the test part, with `compare`, once.

    A run is written to ``out/trials.json`` as soon as it is finished. Called again, the runs that are there are not
    made again; more trials or seeds add to them.

    Parameters
    ----------
    data : Interactions
        Training and validation interactions. Test interactions are used only to refuse training on them.
    scores : path, DataFrame or ScoreTable
        LLM scores by the raw ids of `data`; a `ScoreTable` has the codes of `data`.
    out : path
        Folder of ``trials.json`` and ``chosen.yaml``.
    backbone : str, default="deepfm"
        A name that `sllmr_plugin.zoo.deepctr.build_model` knows.
    n_trials : int, default=12
        Configs tried, at least 2. More find more, and choose more by luck.
    seeds : int or sequence of int, default=2
        The seeds, or how many, counted from 0. More tell luck from merit better; the time is `n_trials` times as many
        trainings.
    search_seed : int, default=0
        Seed of the draw of trials.
    settings : RunSettings or None, default=None
        Sizes of training and validation; those of the test ranking are not used.
    config_overrides : mapping of str to Any, optional
        Fields of `SelectiveConfig` that are the same in all trials and not searched.
    start : Start, optional
        Vectors that the models start from, or use as `parts` says.
    parts : str, default="init"
        What vectors, texts and rows do, as in names of modes: parts joined by ``+``. Not used without a start, texts or
        a refinement.
    refinement : Refinement, optional
        For the parts ``synthetic``, ``denoised`` and ``refined``, as of `compare`.
    scales : sequence of float, optional
        Values of `Start.scale` that are searched, the default of the search first; one value holds it. Default: that of
        `start` and `SCALES`.
    texts : path, DataFrame, several of these, or TextTable, optional
        LLM-written texts by the raw ids of `data`, as of `compare`, for the parts ``kar``, ``llm_cf`` and ``curec``.
    encoder : TextEncoder, optional
        Encodes `texts`; default: `TfidfSvdEncoder`.
    triples : path, DataFrame or Triples, optional
        Statements about items, as of `compare`, for the parts ``triples`` and ``graph``.
    verbose : bool, default=True
        Write a line to standard error after each trial.

    Returns
    -------
    TuneResult

    Raises
    ------
    ConfigError, BackboneError
        If a size or an override is not valid or leaves nothing to tune, or the parts do not go with what is given to
        read; before anything is trained.
    TextTableError, CoverageError, TextEncoderError
        If the texts cannot be read or encoded; before anything is trained.
    EvaluationError
        If there is no validation part.
    RunFolderError
        If `out` holds trials made with other settings or other data.
    """
    settings = settings or RunSettings()
    backbone = check_backbone(backbone, settings.embedding_dim, settings.dropout, settings.model_arguments)
    chosen_seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if n_trials < 2:
        raise ConfigError(f"n_trials={n_trials} leaves nothing to choose from; take at least 2, better 12.")
    if not chosen_seeds or len(set(chosen_seeds)) < len(chosen_seeds):
        raise ConfigError(f"seeds={seeds!r} must be one seed or more, each once.")
    require_split(data, "validation")
    if not isinstance(scores, ScoreTable):
        scores = ScoreTable.read(scores, user_index=data.user_index, item_index=data.item_index)
    how = _check_parts(parts, start, scales, texts, triples, refinement)
    inputs = ModeInputs(data, [how], start, triples)
    check_attributes(backbone, inputs.coded)
    if how.adds_input:
        check_dense(backbone)
    if texts is not None and not isinstance(texts, TextTable):
        texts = TextTable.read(texts, user_index=data.user_index, item_index=data.item_index)
    encoded = EncodedTexts.of(texts, encoder) if texts is not None else None
    space = SearchSpace.of(
        scores,
        config_overrides or {},
        dropout=settings.dropout,
        parts=how.parts,
        scales=_scales(how, start, scales),
    )
    depends = _everything_else(data, scores, settings, backbone, search_seed, space, start)
    recorded = refinement.recorded() if refinement is not None else {}
    folder = TrialFolder(out, {**depends, **describe_texts(encoded), **inputs.described(), **recorded})

    asked = space.trials(n_trials, search_seed)
    progress = RunProgress(len(asked), verbose=verbose)
    trials = []
    for trial in asked:
        name = f"trial {trial.number} ({trial})"
        there = {run.seed for run in folder.with_runs(trial, chosen_seeds).runs}
        missing = [seed for seed in chosen_seeds if seed not in there]
        of_trial = inputs.coded if trial.parts else data
        for seed in missing:
            note = f"{name}, seed {seed}"
            rows_too = refined_by(refinement, Mode.of("+".join(trial.parts) or "none"))
            vectors = inputs.start(how)
            run = _run(
                of_trial, scores, backbone, trial, vectors, encoded, rows_too, seed, settings, progress, note, verbose
            )
            folder.add(trial, run)
        trial = folder.with_runs(trial, chosen_seeds)
        if missing:
            progress.finish(f"{name}: validation AUC {trial.auc:.4f}")
        else:
            progress.skip(f"{name}: already in {folder.results_file}")
        trials.append(trial)

    config_file = folder.path / "chosen.yaml"
    result = TuneResult(
        backbone, chosen_seeds, tuple(trials), len(data.valid), _count_valid_probes(data, scores), config_file
    )
    write_whole(config_file, result.config.to_yaml)
    return result


def _check_parts(
    parts: str,
    start: Start | None,
    scales: Sequence[float] | None,
    texts: object | None,
    triples: object | None,
    refinement: Refinement | None,
) -> Mode:
    """Return what vectors, texts and rows do in all trials but the plain one; refuse what would not be used."""
    if start is None and texts is None and triples is None and refinement is None:
        if scales is not None or parts != "init":
            raise ConfigError(
                "parts and scales say what vectors, texts, triples and rows do; give some (start=, texts=, triples=, "
                "refinement=), or leave them out."
            )
        return Mode.of("none")
    how = Mode.of(parts)
    if how.uses_scores or not how.parts:
        raise ConfigError(
            f"parts={parts!r} must be parts that read vectors, texts or rows, such as 'init', 'init+align', 'curec' or "
            "'synthetic': tuning chooses the regularizer itself."
        )
    others: dict[str, Any] = {name: refinement and getattr(refinement, name) for name in ("synthetic", "interest")}
    others["triples"] = triples
    check_sources([how], texts=texts, start=start, **others)
    check_read([how], **others)
    for what, given in (("vectors", start), ("texts", texts)):
        if given is not None and not how.needs(what):
            readers = ", ".join(name for name, part in PARTS.items() if what in part.needs.split())
            raise ConfigError(
                f"parts={parts!r} reads no {what}; name one that does (parts=, --parts): {readers}. Or leave the "
                f"{what} out."
            )
    if start is None and scales is not None:
        raise ConfigError("scales are those of a start; give one (start=), or leave them out.")
    if start is not None:
        check_start_fields([how], [*start.changed, *(["scale"] if scales is not None else [])])
    return how


def _scales(how: Mode, start: Start | None, scales: Sequence[float] | None) -> tuple[float, ...]:
    """Return the scales to search, the default first; none where no part reads one."""
    if start is None or not how.reads("scale"):
        return ()
    found = tuple(dict.fromkeys([start.scale, *SCALES] if scales is None else scales))
    if not found or min(found) < 0:
        raise ConfigError(f"scales={list(found)} must be one number of at least 0 or more.")
    return found


def _run(
    data: Interactions,
    scores: ScoreTable,
    backbone: str,
    trial: Trial,
    start: Start | None,
    texts: EncodedTexts | None,
    rows_too: Mapping[str, Any],
    seed: int,
    settings: RunSettings,
    progress: RunProgress,
    note: str,
    verbose: bool,
) -> TrialRun:
    progress.note(f"{note}: epoch 1 of {settings.epochs}")

    def report(epoch: int, auc: float) -> None:
        progress.note(f"{note}: validation AUC {auc:.4f} after epoch {epoch} of {settings.epochs}")

    # Drawn again for each run, since they cost little: kept for all seeds they could fill the memory.
    rows = settings.rows(data, seed)
    how = Mode.of("+".join(trial.parts) or "none")
    used = start if trial.scale is None or start is None else replace(start, scale=trial.scale)
    trained = train(
        data,
        rows,
        scores,
        backbone=backbone,
        config=trial.config,
        seed=seed,
        settings=settings,
        adaptor=how.adaptor(data, rows, seed, texts=texts, start=used, published=settings.adaptors == "published"),
        start=used if "init" in trial.parts else None,
        **how.targets(used),
        **rows_too,
        report=report,
        verbose=verbose,
    )
    return TrialRun(seed, trained.auc, trained.epoch, trained.seconds)


def _everything_else(
    data: Interactions,
    scores: ScoreTable,
    settings: RunSettings,
    backbone: str,
    search_seed: int,
    space: SearchSpace,
    start: Start | None,
) -> dict[str, Any]:
    """Return all that trials depend on but how many there are, and with how many seeds; nothing of test."""
    sizes = {name: value for name, value in asdict(settings).items() if name not in ("test_users", "test_items")}
    return {
        "version": __version__,
        "backbone": backbone,
        **sizes,
        "search_seed": search_seed,
        "space": space.to_json(),
        "interactions": digest(data.train.to_numpy(), data.valid.to_numpy(), np.array([data.n_users, data.n_items])),
        "scores": score_digest(scores),
        **attribute_digest(data),
        **(
            {"start": {**describe_vectors(start.vectors), "users": start.users, "method": start.method}}
            if start
            else {}
        ),
    }


def _count_valid_probes(data: Interactions, scores: ScoreTable) -> int:
    probes = scores.probes
    users, items = probes.users[probes.user_of_entry].numpy(), probes.items.numpy()
    valid = pd.MultiIndex.from_frame(data.valid[["user", "item"]])
    return int(pd.MultiIndex.from_arrays([users, items]).isin(valid).sum())


_HEADINGS = ["gate", "uncertainty", "weight", "margin", "validation AUC", "minus plain", "kept epoch", ""]


def format_trials(result: TuneResult, form: str = "text") -> str:
    """Write the trials down, by validation AUC, and what to make of the chosen one.

    Parameters
    ----------
    result : TuneResult
        As `tune` returns it.
    form : {"text", "markdown", "latex", "html"}, default="text"
        As of `format_table`.

    Returns
    -------
    str
    """
    ranked = sorted(result.trials, key=lambda trial: (-trial.auc, trial.number))
    spread = "mean ± standard deviation over" if len(result.seeds) > 1 else "of"
    seeds = "seeds" if len(result.seeds) > 1 else "seed"
    head = (
        f"{result.backbone}, {len(ranked)} trials: validation AUC, {spread} {seeds} {', '.join(map(str, result.seeds))}"
    )
    headings = ["start", *_HEADINGS] if any(trial.parts for trial in ranked) else _HEADINGS
    table = Table("trial", headings, narrow=True)
    for trial in ranked:
        table.add(str(trial.number), _row(trial, result))
    return Sheet([head], [table], [*_verdict(result), *_cautions(result)]).write(form)


def _row(trial: Trial, result: TuneResult) -> tuple[str, ...]:
    name = " (default)" if trial.number == result.default.number else ""
    regularized = trial.config.active
    return (
        *([trial.start or "-"] if any(other.parts for other in result.trials) else []),
        gate_name(trial.config) + name,
        str(trial.config.uncertainty) if uses_uncertainty(trial.config) else "-",
        f"{trial.config.weight:g}" if regularized else "-",
        f"{trial.config.resolved_margin:g}" if regularized else "-",
        _with_deviation(trial.auc, trial.auc_sd),
        _with_deviation(*trial.minus(result.plain), sign="+") if trial.number != result.plain.number else "",
        ", ".join(str(run.epoch) for run in trial.runs),
        "<- chosen" if trial.number == result.chosen.number else "",
    )


def _verdict(result: TuneResult) -> list[str]:
    if result.chosen.number == result.plain.number:
        return [
            "Chosen: the plain model. No trial has a higher validation AUC, so on these data, with these scores and",
            "settings, train without the regularizer. `sllmr coverage` and more scored users may tell why.",
        ]
    lines = []
    others = [("plain model", result.plain), ("default config", result.default)]
    if result.unregularized is not None:
        others.append((f"model with {result.unregularized.start} alone", result.unregularized))
    for name, other in others:
        if result.chosen.number == other.number:
            lines.append(f"Trial {other.number} is the {name}: tuning found nothing better.")
            continue
        gain, deviation = result.chosen.minus(other)
        note = " (no more than its deviation over seeds: may well be luck)" if (deviation or 0.0) >= gain else ""
        lines.append(f"Trial {result.chosen.number} minus {name}: {_with_deviation(gain, deviation, sign='+')}{note}")
    return lines


def _cautions(result: TuneResult) -> list[str]:
    lines = [
        f"The best of {len(result.trials)} trials is partly the luckiest, so its validation AUC promises too much. "
        "The test part,",
        "which was not looked at, tells what it is worth.",
    ]
    if len(result.seeds) == 1:
        lines.append("With one seed nothing is known about luck; more seeds add to these trials.")
    if result.n_probes:
        on_probes = " and ".join(name for name, gate in GATES.items() if gate.needs_probes)
        lines += [
            f"{result.n_probes} of the {result.n_valid} validation interactions are probes, which the gates "
            f"{on_probes}",
            "are fitted on: validation may flatter them.",
        ]
    return lines


def _with_deviation(value: float, deviation: float | None, sign: str = "") -> str:
    return f"{value:{sign}.4f}" + (f" ± {deviation:.4f}" if deviation is not None else "")
