"""`Reproduction`: which tables, data sets, backbones, modes and seeds, and the runs that these need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sllmr_plugin.errors import ConfigError
from sllmr_plugin.evaluation.differences import BASELINE
from sllmr_plugin.evaluation.modes import Mode
from sllmr_plugin.experiments.files import zoo_names
from sllmr_plugin.experiments.schema import StartChoice

from .paper import paper_figures

TABLES = (2, 3)
FIGURES = (2,)
OURS = "gated"
INITIALISED = ("init", "init+gated")
"""Rows that ``--initialise`` adds: the plain backbone and Ours, with embeddings started from vectors of the items."""
_OWN = {
    "run.mode": "--modes",
    "run.seeds": "--seeds",
    "run.with_plain": "--modes",
    "data.root": "--data-dir",
    "model.backbone": "--backbones",
}
"""Keys that the command sets for every run -> the option that says what to."""


@dataclass(frozen=True)
class Reproduction:
    """What is to be reproduced.

    Attributes
    ----------
    tables : tuple of int, default=(2, 3)
        Tables of the paper.
    figures : tuple of int, default=(2,)
        Figures of the paper.
    data : tuple of str, default=("amazon_sports", "amazon_beauty", "amazon_toys")
        Names of the model zoo's data sets, or YAML files.
    backbones : tuple of str, default: the paper's six
        Names of the model zoo's models; Table 3 needs ``dcnv2`` among them.
    modes : tuple of str or None, default=None
        Modes in both tables, the plain model always among them; None takes each table's own.
    seeds : int, default=3
        Seeds 0 to `seeds` - 1.
    setting : str or None, default=None
        A setting of the model zoo, such as ``small``.
    assignments : tuple of str, default=()
        ``config.weight=0.2`` and the like, for all runs.
    data_dir : str or None, default=None
        Folder of the data sets' folders, as of ``sllmr train``.
    initialise : str or None, default=None
        ``titles``, ``texts`` or a file, as `StartChoice.source`: the vectors of modes that read some. Where `modes` is
        None, `INITIALISED` are rows beside the paper's.

    Raises
    ------
    ConfigError
        If nothing is asked for, a name is unknown or twice there, an assignment is of a key that the command sets, or
        no mode reads what is said of the start.
    """

    tables: tuple[int, ...] = TABLES
    figures: tuple[int, ...] = FIGURES
    data: tuple[str, ...] = tuple(paper_figures().domains)
    backbones: tuple[str, ...] = tuple(paper_figures().backbones)
    modes: tuple[str, ...] | None = None
    seeds: int = 3
    setting: str | None = None
    assignments: tuple[str, ...] = ()
    data_dir: str | None = None
    initialise: str | None = None

    def __post_init__(self) -> None:
        if not self.tables and not self.figures:
            raise ConfigError("nothing to reproduce: name a table or a figure.")
        names = {"tables": TABLES, "figures": FIGURES, "backbones": zoo_names("models")}
        for field in ("tables", "figures", "data", "backbones", "modes"):
            given = getattr(self, field) or ()
            known = names.get(field, given)
            wrong = [name for name in given if name not in known]
            if wrong:
                raise ConfigError(f"{field}: there is no {wrong[0]!r}; take some of {', '.join(map(str, known))}.")
            if len(set(given)) < len(given):
                raise ConfigError(f"{field}: {', '.join(map(str, given))} names one twice; leave it out.")
        for mode in self.modes or ():
            Mode.of(mode)
        for assignment in self.assignments:
            key = assignment.partition("=")[0].strip()
            if key in _OWN:
                raise ConfigError(f"-o {assignment}: this is set for every run by itself; see {_OWN[key]}.")
            if key == "start.source" and self.initialise is not None:
                raise ConfigError(f"-o {assignment} and --initialise {self.initialise} say the same; give one of them.")
        self._check_start()
        if not self.runs():
            raise ConfigError(
                f"nothing to reproduce: Table 3 is of {paper_figures().ablated} and Figure 2 of mode {OURS}; name "
                "these, or take Table 2 as well."
            )

    def _check_start(self) -> None:
        """Refuse what is said of the start if no mode reads it, and a file of vectors that is not there."""
        asked = [Mode.of(mode) for _, _, mode, _ in self.runs()]
        said = ["--initialise"] if self.initialise is not None else []
        said += [f"-o {text}" for text in self.assignments if text.startswith("start.")]
        if said and not any(mode.needs("vectors") for mode in asked):
            raise ConfigError(
                f"{said[0]} is for modes that read vectors of the items, and none is made; add init, init+gated or the "
                "like to --modes, or leave it out."
            )
        for text in self.assignments:
            if asked and not any(applies(text, mode) for mode in asked):
                raise ConfigError(f"-o {text}: no mode that is made reads it; leave it out, or add one to --modes.")
        choice = None if self.initialise is None else StartChoice(source=self.initialise).file
        if choice is not None and not choice.is_file():
            raise ConfigError(f"--initialise {self.initialise}: no such file; take titles, texts or one that is there.")

    def modes_of_table(self, table: int) -> tuple[str, ...]:
        """Return the modes in a table, the plain model first."""
        paper = paper_figures()
        own = tuple(paper.frameworks) if table == 2 else tuple(paper.methods)
        own += INITIALISED if self.initialise is not None else ()
        return tuple(dict.fromkeys((BASELINE, *(own if self.modes is None else self.modes))))

    @property
    def has_table_3(self) -> bool:
        """Whether Table 3 is asked for, with its backbone."""
        return 3 in self.tables and paper_figures().ablated in self.backbones

    @property
    def has_figure_2(self) -> bool:
        """Whether Figure 2 is asked for, with the mode that it shows."""
        return 2 in self.figures and (self.modes is None or OURS in self.modes)

    @property
    def left_out(self) -> list[str]:
        """What is asked for and cannot be shown, with what is missing."""
        lines = []
        if 3 in self.tables and not self.has_table_3:
            lines.append(f"Table 3 is left out: it is of {paper_figures().ablated}, which --backbones does not name.")
        if 2 in self.figures and not self.has_figure_2:
            lines.append(f"Figure 2 is left out: it is of mode {OURS}, which --modes does not name.")
        return lines

    def runs(self) -> list[tuple[str, str, str, int]]:
        """Return data set, backbone, mode and seed of all runs: all of a seed before the next seed's."""
        ablated = paper_figures().ablated
        found: dict[tuple[str, str, str, int], None] = {}
        for seed in range(self.seeds):
            for data in self.data:
                for backbone in self.backbones:
                    modes: Sequence[str] = self.modes_of_table(2) if 2 in self.tables else ()
                    if self.has_table_3 and backbone == ablated:
                        modes = [*modes, *self.modes_of_table(3)]
                    if self.has_figure_2:
                        modes = [*modes, BASELINE, OURS]
                    found |= {(data, backbone, mode, seed): None for mode in modes}
        return list(found)


def applies(assignment: str, mode: Mode) -> bool:
    """Whether a mode's runs read what an assignment sets; of the section ``start``, not every one does."""
    section, _, field = assignment.partition("=")[0].strip().partition(".")
    if section != "start":
        return True
    return mode.needs("vectors") if field == "source" else mode.reads(field)
