"""`SelectiveLoss`: scores, LLM scores, pairs and a gate in; the loss and its statistics out, for any PyTorch loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .gates import AUTO, GATES, Gate
from .losses import LOSSES, Loss, PairLoss, PointwiseLoss
from .pairs import PAIR_RULES, OrderedPairs, PairRule, PairScope, select_pairs
from .signals import REGIONS, Entries, PairSignals, pair_regions
from .uncertainty import Confidence


@dataclass(frozen=True)
class StepResult:
    """What a step adds to the training loss.

    Attributes
    ----------
    objective : Tensor
        () what is added to the training loss, before lambda: the mean loss and, for some gates, a term of the
        gate itself. Attached to the graph even without terms.
    mean_loss : Tensor
        () gated loss averaged over the terms, detached.
    n_terms : int
        Pairs, or entries with a pointwise loss.
    gate_sums, gate_counts : Tensor
        (4,) sum of alpha and number of pairs in `REGIONS`: all, cold user, an item of the long tail, neither.
    """

    objective: Tensor
    mean_loss: Tensor
    n_terms: int
    gate_sums: Tensor
    gate_counts: Tensor


class SelectiveLoss(nn.Module):
    """Asks a model to order each user's items as the language model does, as far as a gate lets it.

    ``mean over pairs of alpha_ij * h(s_i - s_j)`` (paper Sec. 3.2 to 3.4), with pairs of one user each. Add it, times
    a weight, to the loss of your own training loop; it needs no particular model and no particular library. It is
    also the object that a wrapped model trains with.

    Parameters
    ----------
    loss : {"ranknet", "hinge", "mse", "bce", "kd", "rank_kd"}, class or Loss, default="ranknet"
        h, the loss of a pair, or a loss of single items, which takes no gate.
    gate : str, class or Gate, default="none"
        ``none`` follows the LLM everywhere; ``fixed`` for cold users and long-tail items only; ``joint`` and
        ``budget`` are trained with the model, so give ``parameters()`` of this module to the optimizer. A gate
        that is fitted on probes is passed as an object, fitted or to be fitted by you.
    margin : float, optional
        Of the pair loss, in units of the scores: 0 for RankNet and 1 for the hinge (0.1 on probabilities) unless given.
    score_space : {"logit", "probability"}, default="logit"
        The scores whose differences are taken.
    pairs_per_user : int, default=4
        The most pairs of a user in a call; with ``pair_scope="batch"`` the most of a user on average.
    pair_rule : {"largest", "gap_weighted", "uniform"}, class or PairRule, default="largest"
        Which pairs are taken when there are more, by the gap of their LLM scores.
    pair_scope : {"user", "batch"}, default="user"
        Whether each user's pairs are chosen among, or those of all users together (paper, Sec. 3.2).
    pairs_per_step : int, optional
        With ``pair_scope="batch"`` K, the most pairs of all users in a call.
    generator : torch.Generator, optional
        Source of randomness of rules that draw; on the device of the scores.

    Attributes
    ----------
    statistics : dict of str to Tensor
        Of the latest call, without a gradient: ``loss``, ``pairs`` and the mean alpha of all pairs (``gate``), of cold
        users (``gate_cold``), of pairs with a long-tail item (``gate_tail``) and of neither; NaN where there are none.

    Raises
    ------
    ConfigError
        If a name or number is not valid.

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
        loss: str | type[Loss] | Loss = "ranknet",
        gate: str | type[Gate] | Gate = "none",
        margin: float | None = None,
        score_space: str = "logit",
        pairs_per_user: int = 4,
        pair_rule: str | type[PairRule] | PairRule = "largest",
        pair_scope: PairScope = "user",
        pairs_per_step: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, value, registry in (
            ("loss", loss, LOSSES),
            ("gate", gate, GATES),
            ("pair_rule", pair_rule, PAIR_RULES),
        ):
            try:
                registry.choose(value)
            except ConfigError as error:
                raise ConfigError(f"SelectiveLoss: {name}={error}. Take one of these.") from None
        if not isinstance(gate, Gate) and (gate == AUTO or GATES.class_of(gate).needs_probes):
            others = ", ".join(repr(name) for name, kind in GATES.items() if not kind.needs_probes)
            raise ConfigError(
                f"gate={gate!r} is fitted on probes, which this loss does not have. Take one of {others}, or pass "
                "an object, such as DisagreementGate()."
            )
        if not LOSSES.class_of(loss).pairwise and GATES.class_of(gate) is not GATES["none"]:
            raise ConfigError(f"loss={loss!r} looks at single items, and a gate weighs pairs. Take gate='none'.")
        if score_space not in ("logit", "probability"):
            raise ConfigError(f"score_space={score_space!r} is not one of 'logit', 'probability'. Take one of these.")
        if pairs_per_user < 1 or (margin is not None and not margin >= 0):
            raise ConfigError(
                f"pairs_per_user={pairs_per_user!r} must be at least 1, and margin={margin!r} None or at least 0."
            )
        if pair_scope not in ("user", "batch"):
            raise ConfigError(f"pair_scope={pair_scope!r} is not one of 'user', 'batch'. Take one of these.")
        if pairs_per_step is not None and (pair_scope == "user" or pairs_per_step < 1):
            raise ConfigError(
                f"pairs_per_step={pairs_per_step!r} must be None or, with pair_scope='batch', at least 1. Correct it."
            )
        # Not registries' copies: an object that is passed here is fitted and looked at by its owner.
        self.gate: Gate = gate if isinstance(gate, Gate) else GATES.make(gate)
        self.loss: Any = loss if isinstance(loss, Loss) else LOSSES.make(loss)
        if margin is None and isinstance(self.loss, PairLoss):
            margin = self.loss.default_margin[score_space]
        self.margin = margin
        self.score_space = score_space
        self._pairs_per_user = pairs_per_user
        self._pair_rule = pair_rule if isinstance(pair_rule, PairRule) else PAIR_RULES.make(pair_rule)
        self._pair_scope: PairScope = pair_scope
        self._pairs_per_step = pairs_per_step
        self._generator = generator
        self.statistics: dict[str, Tensor] = {}

    @property
    def uses_users(self) -> bool:
        """Whether the loss asks whose entries they are."""
        return isinstance(self.loss, PointwiseLoss) and self.loss.uses_users

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
                f"scores, llm_scores, users and the signals have the shapes {sorted(shapes)}. Pass one value per "
                "entry, (n,) each: scores.squeeze(-1) for a column."
            )
        if self.gate.needs_regions and cold is None and tail is None:
            raise ConfigError(
                f"gate={self.gate.name!r} opens for cold users and long-tail items. Pass cold=, tail= or both."
            )
        nowhere = torch.zeros_like(users, dtype=torch.bool)
        entries = Entries(llm_scores, nowhere if cold is None else cold, nowhere if tail is None else tail, users)
        probability = torch.sigmoid(scores)
        if uncertainty is None and self.gate.uses_uncertainty:
            uncertainty = Confidence()(probability.detach())
        pairs = self.pairs_within(llm_scores, users, self._generator)
        result = self.of_pairs(scores, probability, uncertainty, entries, pairs)
        means = result.gate_sums / result.gate_counts
        gates = dict(zip(("gate", *(f"gate_{region}" for region in REGIONS[1:])), means, strict=True))
        n_pairs = torch.tensor(result.n_terms, device=scores.device)
        self.statistics = {"loss": result.mean_loss, "pairs": n_pairs, **gates}
        return result.objective

    def of_pairs(
        self,
        logit: Tensor,
        probability: Tensor,
        uncertainty: Tensor | None,
        entries: Entries,
        pairs: OrderedPairs,
        shut: Tensor | None = None,
    ) -> StepResult:
        """Compute the loss of entries whose pairs are chosen already.

        Parameters
        ----------
        logit, probability : Tensor
            (n,) the model's scores of the entries, attached to the graph.
        uncertainty : Tensor or None
            (n,) q in [0, 1], detached; None where the gate does not use it.
        entries : Entries
            Their LLM scores and regions.
        pairs : OrderedPairs
            Positions into the entries. Ignored by pointwise losses.
        shut : Tensor, optional
            (4,) in `REGIONS`, on the CPU, numbers of further pairs that the gate is known to be closed for, see
            `Gate.shut`. Their alpha is 0: they count in all means and need no scores.
        """
        if not self.loss.pairwise:
            return self._pointwise(logit, probability, entries)
        left_out = logit.new_zeros(4) if shut is None else shut.to(logit)
        n_pairs = len(pairs) + (0 if shut is None else int(shut[0]))
        if len(pairs) == 0:
            zero = logit.sum() * 0.0
            return StepResult(zero, zero.detach(), n_pairs, logit.new_zeros(4), left_out)
        loss = self.pair_losses(logit, probability, pairs)
        alpha = self.gate(PairSignals.of(entries, uncertainty, pairs, like=logit))
        regions = pair_regions(entries, pairs).to(alpha.dtype)  # (4, n_pairs)
        mean_loss = (alpha * loss).sum() / n_pairs if shut is not None else (alpha * loss).mean()
        objective = mean_loss + self.gate.penalty(alpha) if self.gate.has_penalty else mean_loss
        return StepResult(
            objective, mean_loss.detach(), n_pairs, regions @ alpha.detach(), regions.sum(dim=1) + left_out
        )

    def select(self, llm_scores: Tensor, valid: Tensor, generator: torch.Generator | None) -> OrderedPairs:
        """Form pairs of scores with one row per user, (n_users, width) both: positions in the flat scores, or none.

        Losses that look at single items take no pairs.
        """
        if not self.loss.pairwise or llm_scores.numel() == 0:
            none = torch.empty(0, dtype=torch.int64, device=llm_scores.device)
            return OrderedPairs(none, none)
        return select_pairs(
            llm_scores,
            valid,
            max_pairs=self._pairs_per_user,
            rule=self._pair_rule,
            scope=self._pair_scope,
            most=self._pairs_per_step,
            generator=generator,
        )

    def pair_losses(self, logit: Tensor, probability: Tensor, pairs: OrderedPairs) -> Tensor:
        """Return the ungated loss of each pair, (n_pairs,)."""
        score = logit if self.score_space == "logit" else probability
        difference = score[pairs.preferred] - score[pairs.other]
        losses: Tensor = self.loss(difference, self.margin)
        return losses

    def _pointwise(self, logit: Tensor, probability: Tensor, entries: Entries) -> StepResult:
        n = logit.shape[0]
        users = (entries.user,) if self.uses_users else ()
        loss = self.loss(logit, probability, entries.llm, *users)
        mean = loss.mean() if n else logit.sum() * 0.0
        return StepResult(mean, mean.detach(), n, logit.new_zeros(4), logit.new_zeros(4))

    def pairs_within(self, llm_scores: Tensor, users: Tensor, generator: torch.Generator | None = None) -> OrderedPairs:
        """Form pairs within users of entries in any order, (n,) both: sorted by user, they fill one row each."""
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
        pairs = self.select(llm_scores[entry], valid, generator)
        return OrderedPairs(entry.flatten()[pairs.preferred], entry.flatten()[pairs.other])
