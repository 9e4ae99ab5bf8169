"""Figure 2: what Ours gains over the plain backbone, overall, on cold users and on long-tail items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from sllmr_plugin.evaluation.plots import interval_figure

from .paper import STRATA
from .reproduction import OURS, Reproduction
from .results import DataResults
from .tables import STRATUM_NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_figure_2(found: Sequence[DataResults], reproduction: Reproduction) -> Figure | None:
    """Draw the gains of mode ``gated`` with their intervals: a panel a data set, a row a backbone.

    Parameters
    ----------
    found : sequence of DataResults
        Finished runs.
    reproduction : Reproduction
        Names the backbones.

    Returns
    -------
    Figure or None
        None as long as no run of the mode has a plain one beside it.
    """
    rows = []
    for results in found:
        for backbone in reproduction.backbones:
            for stratum in STRATA:
                gain = results.gains.get((backbone, OURS, stratum))
                if gain is not None:
                    values = {"mean": gain.mean, "low": gain.low, "high": gain.high}
                    rows.append({"panel": results.data, "row": backbone, "mode": STRATUM_NAMES[stratum], **values})
    if not rows:
        return None
    return interval_figure(pd.DataFrame(rows), f"AUC of {OURS} minus none (Figure 2)", zero=True)
