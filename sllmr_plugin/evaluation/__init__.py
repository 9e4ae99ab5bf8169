"""Full-ranking evaluation: strata, AUC, and comparisons of training modes over seeds.

`sllmr_plugin.compare` and `sllmr_plugin.tune` are the two ways in; here is what they take and give.
"""

from .comparison import Comparison
from .ranking import full_ranking, summarize
from .report import write_report
from .runs import RunFolder
from .strata import label_test, stratify
from .tables import format_table
from .training import RunSettings, Start
from .untrained import rank_untrained

__all__ = [
    "Comparison",
    "RunFolder",
    "RunSettings",
    "Start",
    "format_table",
    "full_ranking",
    "label_test",
    "rank_untrained",
    "stratify",
    "summarize",
    "write_report",
]
