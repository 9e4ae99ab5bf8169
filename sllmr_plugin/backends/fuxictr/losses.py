"""The mixin that adds losses to FuxiCTR's own `fit`.

`train_step` calls ``self.forward(batch)`` and ``self.compute_loss(return_dict, y_true)``; these are the seams of a
step. `fit` calls ``self.train_epoch``, the seam of an epoch. The mixin stands before the model's class, so models that
override `train_step`, `train_epoch` or `add_loss` are reached as well, as long as they go on calling these.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ...errors import HookNeverFiredError
from ..step_losses import StepLossMixin, step_losses

_LOG = logging.getLogger(__name__)


class FuxiCTRLossMixin(StepLossMixin):
    """Put before a FuxiCTR model class, adds its losses to `fit`; the lower part of `FuxiCTRMixin`."""

    optimizer_name = "optimizer"
    loss_is_mean = True

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the plain model does, with the losses added; takes and returns the same.

        Raises
        ------
        CoverageError, HookNeverFiredError
            After an epoch in which a loss did nothing.
        ProcessesError
            Where torch.distributed has several processes.
        """
        if not step_losses(self):
            return super().fit(*args, **kwargs)
        given = dict(zip(("data_generator", "epochs"), args, strict=False)) | kwargs
        with self._losses_open(given) as runs:
            result = super().fit(*args, **kwargs)
        if given.get("epochs", 1) > 0 and not all(run.began for run in runs):
            raise HookNeverFiredError(
                f"{type(self).__name__}.fit trained without calling self.train_epoch, so its losses never started. An "
                "overriding fit has to call it, or super().fit."
            )
        return result

    def train_epoch(self, *args: Any, **kwargs: Any) -> Any:
        """Train an epoch as the plain model does; what its losses come to goes to the log."""
        if not self._adds:
            return super().train_epoch(*args, **kwargs)
        epoch = self._n_epochs()
        self._begin_epoch(epoch)
        result = super().train_epoch(*args, **kwargs)
        account = self._end_epoch()
        if account.get("sllmr_pairs", 1):
            told = " - ".join(f"{key[6:]}: {value:.4g}" for key, value in account.items())
            _LOG.info("[SLLMR] epoch %d: %s", epoch + 1, told)
        return result

    def _n_epochs(self) -> int:
        """Return how many epochs of this call of `fit` are over; one that a user has written need not count them."""
        return len(next(iter(step_losses(self).values())).epochs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the plain model's loss plus, once a training step, what is added to it."""
        loss: Tensor = self._with_added(super().compute_loss(*args, **kwargs))
        return loss
