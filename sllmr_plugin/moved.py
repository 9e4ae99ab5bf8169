"""Modules that have moved: their former names still import, for this version, with a warning that names the new one."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Former name within the package -> today's; those that documentation and examples have named.
MOVED = {
    "augmentation": "knowledge",
    "augmentation.encoders": "knowledge.vectors",
    "augmentation.text_table": "knowledge.texts",
    "augmenting": "backends.augment",
    "backends.deepctr_torch": "backends.deepctr.mixin",
    "backends.deepctr.quiet": "backends.deepctr",
    "backends.quiet": "backends.deepctr",
    "datasets.core": "datasets.splits",
    "datasets.unseen": "datasets.negatives",
    "evaluation.levels": "evaluation.differences",
    "evaluation.run_folder": "evaluation.store",
    "evaluation.runs": "evaluation.store",
    "evaluation.table": "evaluation.comparison",
    "evaluation.text_modes": "evaluation.modes",
    "experiments.compose": "experiments.experiment",
    "item_rows": "training.rows",
    "plots": "evaluation.plots",
    "plots.gate": "evaluation.plots",
    "plots.intervals": "evaluation.plots",
    "preparation": "training.view",
    "probe_pairs": "training.probes",
    "parallel.ray": "parallel.engine",
    "ray_engine": "parallel.engine",
    "score_table": "scores.table",
    "scoring.candidate_settings": "scoring.candidates",
    "scoring.lexical": "scoring.scorers",
    "scoring.openai_client": "scoring.client",
    "scoring.own": "scoring.scorers",
    "scoring.parquet": "scores.origin",
    "scoring.ray_llm": "scoring.ray",
    "scoring.ray_run": "scoring.ray",
    "scoring.request": "scoring.requests",
    "scoring.run_summary": "scoring.prices",
    "scoring.spending": "scoring.prices",
    "session": "training.session",
    "zoo_fuxictr": "zoo.fuxictr",
}


class MovedModules(MetaPathFinder, Loader):
    """Finds a module by its former name, before an empty folder that has stayed behind under that name is found."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a former name within the package, None for any other."""
        if fullname.removeprefix(f"{self._package}.") in MOVED:
            return ModuleSpec(fullname, self, is_package=True)  # a package, so that names beneath it are asked for
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty module that asks the moved one for its names."""
        today = f"{self._package}.{MOVED[spec.name.removeprefix(f'{self._package}.')]}"
        warnings.warn(
            f"{spec.name} is now {today}; the former name will go with the next version.",
            DeprecationWarning,
            stacklevel=2,  # the frames of the import system are not counted
        )
        former = ModuleType(spec.name)
        former.__getattr__ = lambda name: getattr(importlib.import_module(today), name)  # type: ignore[method-assign]
        return former

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the names are looked up in the moved module."""


def find_moved_modules(package: str) -> None:
    """Let former names of the package's modules be imported."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules(package))
