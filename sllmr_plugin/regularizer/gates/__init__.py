"""Gates: one objective per file, behind the interface of `Gate`."""

from __future__ import annotations

from typing import Any

from .base import AUTO, GATES, Gate
from .bilevel import BilevelGate
from .budget import BudgetGate
from .disagreement import DisagreementGate
from .fixed import FixedGate, OpenGate
from .joint import JointGate

__all__ = [
    "AUTO",
    "GATES",
    "BilevelGate",
    "BudgetGate",
    "DisagreementGate",
    "FixedGate",
    "Gate",
    "JointGate",
    "OpenGate",
    "build_gate",
    "resolve_gate",
]


def resolve_gate(gate: Any, *, has_probes: bool) -> Any:
    """Return a choice of gate with ``auto`` decided: ``disagreement`` if there are probes, else ``fixed``."""
    if gate != AUTO:
        return gate
    return DisagreementGate.name if has_probes else FixedGate.name


def build_gate(gate: Any, *, has_probes: bool, has_students: bool = False) -> Gate:
    """Return the gate of a choice by name, class or instance; an instance is copied.

    `has_probes` and `has_students` say what the score table holds: probes, and scores of a student.
    """
    built = GATES.make(resolve_gate(gate, has_probes=has_probes))
    if has_students:
        built.see_students()
    return built
