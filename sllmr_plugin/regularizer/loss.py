"""`SelectiveLoss`: the gated pair loss as a module for any PyTorch loop, on the parts that `wrap` uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import SelectiveConfig
from ..errors import ConfigError
from .gates import GATES, Gate, OpenGate
from .pairs import OrderedPairs, select_pairs
from .selective import SelectiveRegularizer
from .signals import REGIONS, Entries
from .uncertainty import confidence


class SelectiveLoss(nn.Module):
    """Asks a model to order each user's items as the language model does, as far as a gate lets it.

    ``mean over pairs of alpha_ij * h(s_i - s_j)`` (paper Sec. 3.2 to 3.4), with pairs of one user each. Add it, times
    a weight, to the loss of your own training loop; it needs no particular model and no particular library.

    Parameters
    ----------
    loss : {"ranknet", "hinge"}, default="ranknet"
        h, the loss of a pair.
    gate : str or Gate, default="none"
        ``none`` follows the LLM everywhere; ``fixed`` for cold users and long-tail items only; ``joint`` and
        ``budget`` are trained with the model, so give ``parameters()`` of this module to the optimizer, too. A gate
        that is fitted on probes is passed as an object, fitted or to be fitted by you.
    margin : float, optional
        Of the pair loss, in units of the scores: 0 for RankNet and 1 for the hinge unless given.
    pairs_per_user : int, default=4
        K, the most pairs of a user in a call.
    pair_rule : {"largest", "gap_weighted", "uniform"}, default="largest"
        Which of a user's pairs are taken when there are more, by the gap of their LLM scores.
    generator : torch.Generator, optional
        Source of randomness of the last two rules; on the device of the scores.

    Attributes
    ----------
    statistics : dict of str to Tensor
        Of the latest call, without a gradient: ``loss``, ``pairs`` and the mean alpha of all pairs (``gate``), of cold
        users (``gate_cold``), of pairs with a long-tail item (``gate_tail``) and of neither; NaN where there are none.

    Raises
    ------
    ConfigError
        If a name or number makes no sense.

    Examples
    --------
    >>> selective = SelectiveLoss()
    >>> scores = torch.tensor([0.2, 0.9, 0.4, 0.1], requires_grad=True)
    >>> llm = torch.tensor([0.9, 0.1, 0.5, 0.5])
    >>> loss = selective(scores, llm, users=torch.tensor([7, 7, 8, 8]))  # one pair: user 8 has a tie
    >>> int(selective.statistics["pairs"]), round(loss.item(), 4)
    (1, 1.1032)
    """

    def __init__(
        self,
        *,
        loss: str = "ranknet",
        gate: str | Gate = "none",
        margin: float | None = None,
        pairs_per_user: int = 4,
        pair_rule: str = "largest",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if isinstance(gate, str) and (gate not in (*GATES, "none") or (gate in GATES and GATES[gate].needs_probes)):
            raise ConfigError(
                f"gate={gate!r} is none of 'none', "
                f"{', '.join(repr(name) for name, kind in GATES.items() if not kind.needs_probes)}. A gate that is "
                "fitted on probes is passed as an object, such as DisagreementGate()."
            )
        config = SelectiveConfig(loss=loss, margin=margin, pairs_per_user=pairs_per_user, pair_rule=pair_rule)
        self.gate = gate if isinstance(gate, Gate) else OpenGate() if gate == "none" else GATES[gate]()
        self._needs_regions = gate == "fixed"
        self._config = config
        self._regularizer = SelectiveRegularizer(config, self.gate)
        self._generator = generator
        self.statistics: dict[str, Tensor] = {}

    def forward(
        self,
        scores: Tensor,
        llm_scores: Tensor,
        users: Tensor,
        *,
        cold: Tensor | None = None,
        tail: Tensor | None = None,
        uncertainty: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of scored (user, item) entries, in any order.

        Parameters
        ----------
        scores : Tensor
            (n,) the model's scores, logits of a click model, attached to the graph.
        llm_scores : Tensor
            (n,) the LLM's, higher is better.
        users : Tensor
            (n,) int64, whose entry it is: pairs are formed within a user.
        cold, tail : Tensor, optional
            (n,) bool: the user is cold, the item is long-tail. False where not given; the gate ``fixed`` needs one.
        uncertainty : Tensor, optional
            (n,) the model's own, in [0, 1]. Where a gate uses it and none is given, `confidence` of the sigmoid of the
            scores.

        Returns
        -------
        Tensor
            () the mean over pairs; 0, still attached to the graph, where no user has two different LLM scores.

        Raises
        ------
        ConfigError
            If shapes differ, or the gate ``fixed`` is given neither cold nor tail.
        """
        given = (scores, llm_scores, users, cold, tail, uncertainty)
        shapes = {tuple(part.shape) for part in given if part is not None}
        if len(shapes) > 1 or scores.dim() != 1:
            raise ConfigError(
                f"scores, llm_scores, users and the signals have the shapes {sorted(shapes)}. Pass one value an entry, "
                "(n,) each: scores.squeeze(-1) for a column."
            )
        if self._needs_regions and cold is None and tail is None:
            raise ConfigError("gate='fixed' opens for cold users and long-tail items. Pass cold=, tail= or both.")
        nowhere = torch.zeros_like(users, dtype=torch.bool)
        entries = Entries(llm_scores, nowhere if cold is None else cold, nowhere if tail is None else tail)
        probability = torch.sigmoid(scores)
        if uncertainty is None and self.gate.uses_uncertainty:
            uncertainty = confidence(probability.detach())
        result = self._regularizer(scores, probability, uncertainty, entries, self._pairs(llm_scores, users))
        means = result.gate_sums / result.gate_counts
        gates = dict(zip(("gate", *(f"gate_{region}" for region in REGIONS[1:])), means, strict=True))
        n_pairs = torch.tensor(result.n_terms, device=scores.device)
        self.statistics = {"loss": result.mean_loss, "pairs": n_pairs, **gates}
        return result.objective

    def _pairs(self, llm_scores: Tensor, users: Tensor) -> OrderedPairs:
        """Form pairs within users of entries in any order: sorted by user, they fill a row a user."""
        order = users.argsort(stable=True)
        _, group, size = users[order].unique_consecutive(return_inverse=True, return_counts=True)
        if len(order) == 0:
            return OrderedPairs(order, order)
        slot = torch.arange(len(order), device=users.device) - (size.cumsum(0) - size)[group]
        shape = (len(size), int(size.max()))
        entry = torch.zeros(shape, dtype=torch.int64, device=users.device)
        valid = torch.zeros(shape, dtype=torch.bool, device=users.device)
        entry[group, slot] = order
        valid[group, slot] = True
        pairs = select_pairs(
            llm_scores[entry],
            valid,
            max_pairs=self._config.pairs_per_user,
            rule=self._config.pair_rule,
            generator=self._generator,
        )
        return OrderedPairs(entry.flatten()[pairs.preferred], entry.flatten()[pairs.other])
