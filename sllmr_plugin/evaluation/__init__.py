"""Full-ranking evaluation: strata, AUC, and comparisons of training modes over seeds.

`sllmr_plugin.compare` and `sllmr_plugin.tune` are the two ways in; here is what they take and give.
"""

from .comparison import Comparison, format_table
from .gate_map import gate_map
from .modes import Mode, Start
from .ranking import full_ranking, summarize
from .refinement import Refinement
from .report import write_report
from .store import RunFolder
from .strata import label_test, stratify
from .training import RunSettings
from .untrained import rank_untrained, untrained_models

__all__ = [
    "Comparison",
    "Mode",
    "RunFolder",
    "RunSettings",
    "Refinement",
    "Start",
    "format_table",
    "full_ranking",
    "gate_map",
    "label_test",
    "rank_untrained",
    "stratify",
    "summarize",
    "untrained_models",
    "write_report",
]
