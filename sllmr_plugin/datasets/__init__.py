"""Interactions in, splits and model input out; raw files in, tables out; the bundled demo data."""

from .demo import demo_paths
from .features import held_out_rows, template_rows, training_rows
from .interactions import Interactions, load_interactions
from .prepared import Prepared
from .preparing import PrepareSettings, prepare

__all__ = [
    "Interactions",
    "PrepareSettings",
    "Prepared",
    "demo_paths",
    "held_out_rows",
    "load_interactions",
    "prepare",
    "template_rows",
    "training_rows",
]
