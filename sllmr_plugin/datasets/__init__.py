"""Interactions in, splits and model input out; raw files in, tables out; the bundled demo data."""

from .prepared import Prepared
from .preparing import PrepareSettings, prepare

__all__ = ["Prepared", "PrepareSettings", "prepare"]
