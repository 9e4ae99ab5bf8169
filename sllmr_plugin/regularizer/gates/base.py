"""`Gate`: how far the LLM is followed on a pair (paper Sec. 3.3)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ..registry import Registry
from ..signals import PairSignals

AUTO = "auto"
GATES: Registry[Gate] = Registry("gate", also=(AUTO,))
"""Values of ``SelectiveConfig.gate``; ``auto`` becomes one of the others, see `build_gate`."""


class Gate(nn.Module):
    """A map from the signals of ordered pairs to weights alpha in [0, 1].

    A subclass is chosen by its name once it is defined, ``class MyGate(Gate, name="mine")``, and declares what
    training, tuning and several processes have to know.

    Attributes
    ----------
    name : str
        As settings choose it; empty for a class that is not in `GATES`.
    uses_uncertainty : bool
        Whether the backbone's uncertainty must be computed at all.
    needs_probes : bool
        Whether it uses held-out interactions that the LLM scored.
    fits_disagreements : bool
        Whether it has a method ``fit(signals, llm_right, user)``, which is called at the start of every epoch with the
        probe pairs about which the LLM and the backbone have disagreed, see `DisagreementGate.fit`.
    needs_regions : bool
        Whether it is closed everywhere unless it is told who is cold or which items are long-tail.
    looks_ahead : bool
        Whether every training step has to tell it how each pair's loss moves with the held-out loss.
    tuned : bool
        Whether `sllmr_plugin.tune` tries it unless asked not to.
    collapse_remedy : str
        What a mean alpha near 0 means, and what to do, in words.
    calibrated : bool
        Whether alpha has been fitted to held-out outcomes.
    has_penalty : bool
        Whether the class has a `penalty` of its own.
    knows_shut : bool
        Whether the class has a `shut` of its own, made for its `forward`.
    """

    name: ClassVar[str] = ""
    uses_uncertainty = False
    needs_probes = False
    fits_disagreements = False
    needs_regions = False
    looks_ahead = False
    tuned = True
    collapse_remedy = "hardly any pair has weight. Look at its coefficients in model.sllmr.status()."
    calibrated = False
    has_penalty: ClassVar[bool] = False
    knows_shut: ClassVar[bool] = False

    def __init_subclass__(cls, name: str = "", **kwargs: Any) -> None:
        """Put a subclass into `GATES` under a name."""
        super().__init_subclass__(**kwargs)
        cls.has_penalty = cls.penalty is not Gate.penalty
        # A subclass with a `forward` of its own may open where the `shut` that it inherits says closed.
        forward, shut = (next(one for one in cls.__mro__ if name in vars(one)) for name in ("forward", "shut"))
        cls.knows_shut = shut is not Gate and issubclass(shut, forward)
        GATES.add(name, cls)

    def forward(self, signals: PairSignals) -> Tensor:
        """Return alpha of each pair, (n_pairs,) in [0, 1]."""
        raise NotImplementedError

    def shut(self, signals: PairSignals) -> Tensor:
        """Return which pairs have an alpha of 0 whatever the backbone's uncertainty, (n_pairs,) bool.

        For gates that can say so before the forward pass, where the uncertainty of `signals` is 0: such pairs get no
        input rows, so a closed gate costs nothing, and a step in which it is closed for all pairs is the plain model's,
        bit for bit. Asked of a copy that is made at the start of an epoch, and so for gates without a `penalty` that
        training steps do not change.
        """
        raise NotImplementedError

    def penalty(self, alpha: Tensor) -> Tensor:
        """Return a term () that is added to the mean of alpha times loss; for gates that have one.

        Called once a training step with the alpha, (n_pairs,), of its pairs.
        """
        raise NotImplementedError

    def see_students(self) -> None:
        """Prepare for `STUDENT_SIGNALS`, which the pairs of a table with a student's scores have; or do nothing.

        Called once, before anything else.
        """

    def look_ahead(self, signals: PairSignals, alignment: Tensor) -> None:
        """Learn from (n_pairs,) inner products of each pair loss's gradient and the held-out loss's; or do nothing."""

    def coefficients(self) -> dict[str, float]:
        """Weights of the signals and the bias by name, empty for a gate without any."""
        return {}

    @property
    def trained_by_steps(self) -> bool:
        """Whether training steps change it, so that the processes of a distributed training would have to share it."""
        return self.looks_ahead or (
            not self.fits_disagreements and any(parameter.requires_grad for parameter in self.parameters())
        )


GATES.base = Gate
