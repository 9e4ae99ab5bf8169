"""Trains an experiment into a run folder, and prints its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..datasets.interactions import Interactions
from ..errors import ConfigError, RunFolderError, VectorsError
from ..evaluation.compare import compare
from ..evaluation.comparison import Comparison, gain_cell, spread
from ..evaluation.modes import Mode, Start
from ..evaluation.pooled import POOLED
from ..evaluation.refinement import Refinement
from ..evaluation.run import RunResult
from ..evaluation.store import RunFolder, changes, write_whole
from ..knowledge.triples import Triples
from ..tracking import Tracker
from ..zoo.deepctr import BACKBONES
from .card import CARD, model_card
from .data import DataSource, load_source
from .experiment import Experiment, compose
from .files import read_file, zoo_folder, zoo_names
from .schema import ModelChoice, check_settings

_STRATA = {"auc": "AUC", "auc_cold": "cold", "auc_tail": "tail"}


def result_lines(experiment: Experiment, comparison: Comparison) -> list[str]:
    """Return one line per mode, and one for the differences of a mode to the plain model.

    Parameters
    ----------
    experiment : Experiment
        Named in the lines.
    comparison : Comparison
        Its results.

    Returns
    -------
    list of str
        Means over the seeds, with ``±`` the standard deviation over them where there are two or more: validation AUC
        of the kept epoch, test AUC overall, of cold users and of long-tail items, kept epoch, seconds in ``fit``; under
        protocol ``llm-cf`` also the pooled AUC of labelled rows.
    """
    modes = dict.fromkeys(run.mode for run in comparison)
    lines = [_line(experiment, [run for run in comparison if run.mode == mode]) for mode in modes]
    for mode in modes:
        own = [d for d in comparison.differences if d.mode == mode and not d.label]
        for baseline in dict.fromkeys(d.baseline for d in own):
            gains = {d.stratum: d for d in own if d.baseline == baseline}
            told = [
                f"{name} {gain_cell(gains[stratum]).text}"
                for stratum, name in (("all", "AUC"), ("cold", "cold"), ("tail", "tail"))
                if stratum in gains
            ]
            lines.append(f"[{experiment.name}] {mode} minus {baseline} | {'  '.join(told)}")
    return lines


def _line(experiment: Experiment, runs: Sequence[RunResult]) -> str:
    first = runs[0]
    ranked = f"sampled, {first.test_items} items" if first.test_items else "full ranking"
    valid = [run.epochs[run.epoch - 1]["valid_auc"] for run in runs]
    test = "  ".join(f"{name} {spread([getattr(run, key) for run in runs])}" for key, name in _STRATA.items())
    return " | ".join(
        [
            f"[{experiment.name}] {first.mode}",
            f"seeds {','.join(str(run.seed) for run in runs)}",
            f"valid AUC {spread(valid)}",
            f"test ({ranked}, {first.n_test}) {test}",
            *_labelled(experiment, runs),
            f"epoch {np.mean([run.epoch for run in runs]):.1f}",
            f"fit {np.mean([run.seconds for run in runs]):.1f} s",
        ]
    )


def _labelled(experiment: Experiment, runs: Sequence[RunResult]) -> list[str]:
    """Return the pooled AUC over labelled rows, under the protocol that has it by stratum."""
    if not experiment.training.is_llm_cf:
        return []
    told = (
        f"{name} {spread([run.metrics[metric] for run in runs])}"
        for metric, name in zip(POOLED, ("CTR AUC", *list(_STRATA.values())[1:]), strict=True)
    )
    return [f"labelled rows {'  '.join(told)}"]


FILE = "experiment.yaml"
"""The file in a run folder that repeats its runs."""


def train_experiment(
    experiment: Experiment, out: str | Path | None = None, *, verbose: bool = True, tracker: Tracker | None = None
) -> Comparison:
    """Train and rank every run of an experiment that its folder does not have yet.

    Parameters
    ----------
    experiment : Experiment
        As `compose` makes it.
    out : path or None, default=None
        The run folder; None takes `Experiment.default_folder`. It holds one experiment: what `RunFolder` keeps,
        ``experiment.yaml`` for all runs in it, and ``card.md``, a model card of the runs asked for.
    verbose : bool, default=True
        Write a line to standard error after each run.
    tracker : Tracker or None, default=None
        As of `compare`; no part of the experiment.

    Returns
    -------
    Comparison
        The runs by seed and mode; differences if plain models are among them.

    Raises
    ------
    MissingDataError
        If the data set's files are not there.
    RunFolderError
        If `out` holds another experiment or another kind of runs.
    SLLMRError
        As raised by reading the data and by `compare`.
    """
    _check_device(experiment.training.device)
    folder = Path(out) if out is not None else experiment.default_folder
    data, scores = load_source(experiment.data, experiment.reads)
    files = experiment.data.files(experiment.reads)
    start = _start(experiment, files)
    reads_texts = Mode.of(experiment.mode).needs("texts")
    _keep(experiment, folder)
    comparison = compare(
        data,
        scores,
        out=folder,
        backbone=experiment.backbone,
        modes=experiment.modes,
        seeds=list(experiment.run.seeds),
        settings=experiment.training,
        config_overrides=experiment.config.to_dict(),
        texts=[files[name] for name in ("texts", "reasons") if name in files] if reads_texts else None,
        start=start,
        triples=Triples.read(files["triples"], attributes=experiment.data.triples_columns)
        if "triples" in files
        else None,
        refinement=_refinement(data, files),
        verbose=verbose,
        tracker=tracker,
    )
    inputs = RunFolder(folder, None).inputs
    assert inputs is not None  # written by compare
    card = model_card(experiment, comparison, inputs)
    write_whole(folder / CARD, lambda partial: partial.write_text(card, encoding="utf-8"))
    return comparison


def _refinement(data: Interactions, files: Mapping[str, Path]) -> Refinement | None:
    """Read the rows that the mode adds and leaves out, if it does."""
    found = {name: files[name] for name in ("synthetic", "interest") if name in files}
    return Refinement.read(data, synthetic=found.get("synthetic"), interest=found.get("interest")) if found else None


def _start(experiment: Experiment, files: Mapping[str, Path]) -> Start | None:
    """Read what embeddings start from, where the mode starts from something."""
    if not Mode.of(experiment.mode).needs("vectors"):
        return None
    chosen = experiment.start
    source = files["texts"] if chosen.source == "texts" else chosen.source
    start = Start.read(source, files.get("items"), scale=chosen.scale, users=chosen.users, method=chosen.method)
    if chosen.sha256 and chosen.pinned().sha256 != chosen.sha256:
        raise VectorsError(
            f"{chosen.source} is not the file that start.sha256 was taken of; restore that file, or take the line out "
            "to use this one."
        )
    return start


def _keep(experiment: Experiment, folder: Path) -> None:
    """Write the experiment, with the seeds that are there already and with fingerprints of the data's files."""
    file = folder / FILE
    data, plan, start = experiment.data.pinned(experiment.reads), experiment.run, experiment.start
    if Mode.of(experiment.mode).needs("vectors"):
        start = start.pinned()
    if file.exists():
        there = compose(config=file)
        different = changes(there.identity(), experiment.identity())
        if different:
            raise RunFolderError(f"{folder} holds another experiment ({'; '.join(different)}); choose another folder.")
        # A plain run has no fingerprint of the scores, so only those that both have are compared.
        changed = [name for name in data.sha256 if there.data.sha256.get(name, data.sha256[name]) != data.sha256[name]]
        changed += [start.source] if there.start.sha256 not in ("", start.sha256) else []
        if changed:
            raise RunFolderError(
                f"{folder} holds runs made with other {' and '.join(changed)}, by the fingerprints in {FILE}; choose "
                "another folder."
            )
        seeds = sorted({*there.run.seeds, *plan.seeds})
        plan = replace(plan, seeds=tuple(seeds), with_plain=there.run.with_plain or plan.with_plain)
    elif (folder / "results.json").exists():
        raise RunFolderError(f"{folder} holds runs, but no {FILE} that made them; choose another folder.")
    text = replace(experiment, run=plan, data=data, start=start).to_yaml()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be written ({error}); choose another folder.") from None


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"training.device={name!r} cannot be used here ({str(error).splitlines()[0]}); take another, such as cpu."
        ) from None


def list_zoo(data_dir: str | None = None) -> str:
    """Return the names of models, data sets and settings with what they are.

    Parameters
    ----------
    data_dir : str, optional
        Where data sets are looked for, as `DataSource.root`.
    """
    models = {name: ModelChoice(**_section("models", name)) for name in zoo_names("models")}
    others = [name for name in BACKBONES if name not in models]
    lines = ["models (--model):"]
    lines += [f"  {name:<15}{model.about}" for name, model in models.items()]
    lines += [f"  {'by name alone':<15}{', '.join(others)}", "", "data sets (--data):"]
    for name in zoo_names("data"):
        source = DataSource(**_section("data", name))
        source = replace(source, root=data_dir or source.root)
        there = "comes with the package" if source.bundled else str(source.path)
        lines.append(f"  {name:<15}{source.about} ({there if source.is_there else f'not in {there}'})")
    lines += ["", f"settings (--setting): {', '.join(zoo_names('settings'))}", "", f"The files: {zoo_folder()}"]
    return "\n".join(lines)


def _section(kind: str, name: str) -> dict:
    """Return the keys of a file's own section, with mappings left out: they are not shown."""
    path = zoo_folder() / kind / f"{name}.yaml"
    section = "model" if kind == "models" else "data"
    settings = check_settings(read_file(path, path.name))
    parts = {key.split(".", 1)[1]: setting.value for key, setting in settings.items() if key.startswith(section + ".")}
    return {key: value for key, value in parts.items() if "." not in key}
