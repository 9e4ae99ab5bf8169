"""What a comparison came to: its runs, their differences to the plain model, and their AUC by label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .differences import Difference, StratumAuc, auc_by_label, differences_to_plain
from .run import RunResult
from .run_folder import RunFolder


@dataclass(frozen=True)
class Comparison:
    """Runs and what follows from them; iterates over the runs.

    Attributes
    ----------
    runs : list of RunResult
        Without their rankings, which stay in the run folder.
    differences : list of Difference
        To the plain model of the same backbone.
    strata : list of StratumAuc
        AUC by the user's labels; empty without any.
    """

    runs: list[RunResult]
    differences: list[Difference] = field(default_factory=list)
    strata: list[StratumAuc] = field(default_factory=list)

    def __iter__(self) -> Iterator[RunResult]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, number: int) -> RunResult:
        return self.runs[number]


def compare_runs(folder: RunFolder, keys: Sequence[tuple[str, str, int]]) -> Comparison:
    """Compare runs of a folder: differences to the plain model and AUC by the user's labels.

    Parameters
    ----------
    folder : RunFolder
        Holds the runs and their rankings.
    keys : sequence of (str, str, int)
        Backbone, mode and seed of the runs.

    Returns
    -------
    Comparison
        The runs in the order of `keys`.
    """
    labels = folder.labels()
    comparison = Comparison([folder.runs[key] for key in keys])
    for backbone in dict.fromkeys(key[0] for key in keys):
        rankings = {key[1:]: folder.ranking(key) for key in keys if key[0] == backbone}
        comparison.differences.extend(differences_to_plain(backbone, rankings, labels))
        if labels is not None:
            comparison.strata.extend(auc_by_label(backbone, rankings, labels))
    return comparison
