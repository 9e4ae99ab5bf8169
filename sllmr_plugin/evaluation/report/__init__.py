"""One page about a run folder: what was compared, what came out, and how sure that is."""

from .page import write_report

__all__ = ["write_report"]
