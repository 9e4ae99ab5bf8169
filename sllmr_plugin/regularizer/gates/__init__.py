"""Gates: one objective a file, behind the interface of `Gate`."""

from __future__ import annotations

from .base import Gate
from .bilevel import BilevelGate
from .budget import BudgetGate
from .disagreement import DisagreementGate
from .fixed import FixedGate, OpenGate
from .joint import JointGate

__all__ = [
    "GATES",
    "BilevelGate",
    "BudgetGate",
    "DisagreementGate",
    "FixedGate",
    "Gate",
    "JointGate",
    "OpenGate",
    "build_gate",
]

GATES: dict[str, type[Gate]] = {
    "disagreement": DisagreementGate,
    "joint": JointGate,
    "budget": BudgetGate,
    "bilevel": BilevelGate,
    "fixed": FixedGate,
}
"""Values of ``SelectiveConfig.gate`` other than ``auto``."""

WITHOUT_PROBES = "fixed"


def build_gate(mode: str, gate: str, *, has_probes: bool) -> Gate:
    """Return the gate of a mode; ``gate="auto"`` is decided by whether there are probes to fit one on."""
    if mode == "joint":
        return JointGate()
    if mode != "gated":
        return OpenGate()
    if gate == "auto":
        gate = "disagreement" if has_probes else WITHOUT_PROBES
    return GATES[gate]()
