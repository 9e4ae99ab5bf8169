"""`TrainingSession`: what the regularizer holds during one call of `fit`, for any CTR library."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import SelectiveConfig
from ..errors import HookNeverFiredError, InactiveWarning, NoPairsError
from ..parallel.ranks import Ranks
from ..regularizer.gates import Gate
from ..regularizer.loss import StepResult
from ..regularizer.pairs import OrderedPairs
from ..regularizer.signals import REGIONS, Entries, PairSignals, pair_regions
from .budget import StepBudget
from .probes import DisagreementMemory, GateFitter, HeldOutPairs, ScoreRows, warn_of_gate
from .sampler import Block, TableSampler
from .view import Usable

_FLAT = 1e-4  # between scores of two items: a fresh output that depends on its input differs by more

BatchIds = tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class StepPlan:
    """What a training step adds to the forward pass.

    Attributes
    ----------
    rows : Tensor
        (n_extra, width) input rows that follow the batch's own.
    source : Tensor
        (n_entries,) row of each entry among batch and extra rows together.
    entries : Entries
        LLM scores and regions of the entries.
    pairs : OrderedPairs
        Positions into the entries.
    share : float
        Of the step's pairs (entries, with a pointwise loss) in all processes, the part that is here.
    shut : Tensor or None
        (4,) in `REGIONS`, on the CPU, how many pairs were left out because the gate is closed for them; None without
        any.
    """

    rows: Tensor
    source: Tensor
    entries: Entries
    pairs: OrderedPairs
    share: float = 1.0
    shut: Tensor | None = None


class TrainingSession:
    """Plans the extra rows of every step, turns their scores into a loss and keeps the epoch's account.

    Parameters
    ----------
    config : SelectiveConfig
        An active one.
    gate : Gate
        Lives longer than the session.
    usable : Usable
        Scores, rows and regions.
    user_column, item_column : int
        Columns of the ids in the input matrix.
    score_rows : ScoreRows
        Scores rows with the backbone as it is at that moment.
    seed : int
        Seed of all draws.
    memory : DisagreementMemory, optional
        What earlier sessions with the same gate have seen; added to.
    ranks : Ranks, optional
        The processes that train together. All draw the same users, candidates and pairs for the rows of all, and
        each keeps the pairs of its own users: together they have the pairs that one process would have.
    budget : StepBudget, optional
        Decides how many users a step draws; lives longer than the session.
    """

    def __init__(
        self,
        config: SelectiveConfig,
        gate: Gate,
        usable: Usable,
        *,
        user_column: int,
        item_column: int,
        score_rows: ScoreRows,
        seed: int,
        memory: DisagreementMemory | None = None,
        ranks: Ranks | None = None,
        budget: StepBudget | None = None,
    ) -> None:
        self.ranks = ranks if ranks is not None else Ranks()
        self.config = config
        self.gate = gate
        self.usable = usable
        self.selective = config.build(gate)
        self._pairwise = config.pairwise
        self._users_in_step = functools.cache(config.users_in_step)
        self._budget = budget
        self._columns = (user_column, item_column)
        weighed = config.probe_weights == "catalogue"
        self._fitter = GateFitter(usable, score_rows, memory, weighed=weighed) if gate.needs_probes else None
        self._generator = torch.Generator().manual_seed(seed % 2**63)
        self._generators: dict[torch.device, torch.Generator] = {}
        self._sampler = TableSampler(
            usable.candidates,
            # A pair has two items: this way a step costs the pointwise losses as many rows as the others.
            candidates_per_user=config.candidates_per_user
            if self._pairwise
            else min(config.candidates_per_user, 2 * config.pairs_per_user),
            generator=self._generator,
        )
        self._cold_of_user = usable.cold[usable.candidates.users]
        self.weight = 0.0
        self.began = False
        self._shutter: Gate | None = None
        self._pending: tuple[StepResult, int, float] | None = None
        self._reset_account()

    def _reset_account(self) -> None:
        self._steps = self._planned = self._taken = self._terms = 0
        self._loss_sum = torch.zeros(())
        self._last_pairs: tuple[Tensor, OrderedPairs] | None = None
        self._gate_sums = self._gate_counts = torch.zeros(len(REGIONS))
        self._visited = torch.zeros(len(self.usable.candidates.users), dtype=torch.bool)

    def draws_on(self, device: torch.device) -> torch.Generator:
        """Return a generator for draws on a device, apart from the global one."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._generator.initial_seed())
        return self._generators[device]

    # ------------------------------------------------------------------ a training step

    def plan(self, batch: Tensor) -> StepPlan | None:
        """Choose this step's entries and pairs.

        Parameters
        ----------
        batch : Tensor
            (n_rows, width) the step's input.

        Returns
        -------
        StepPlan or None
            None when the epoch's weight is 0, or pairs have to wait for their turn (``every_steps``): the forward pass
            is then the plain model's own.
        """
        if self.weight == 0:
            return None
        self._steps += 1
        if (self._steps - 1) % self.config.every_steps:
            return None
        self._planned += 1
        config = self.config
        items, scores = self.usable.candidates.items, self.usable.candidates.scores
        batch_ids = self._batch_ids(batch)
        block, templates, template_of = self._draw(batch, batch_ids)
        pairs = self.selective.select(scores[block.entry], block.valid, self._generator)
        valid, pairs, share = self._own(block, pairs)
        if self._pairwise:
            self._visited[block.users[pairs.preferred // max(block.entry.shape[1], 1)]] = True
        pairs, shut = self._without_shut(block, pairs)

        # Only items that a pair (or, pointwise, the loss) uses become rows; pairs are renumbered to match.
        used = torch.zeros(valid.numel(), dtype=torch.bool)
        if self._pairwise:
            used[pairs.preferred] = used[pairs.other] = True
        else:
            used = valid.flatten()
        cell = torch.nonzero(used).squeeze(1)
        owner = cell // max(block.entry.shape[1], 1)
        if not self._pairwise:
            self._visited[block.users[owner]] = True
        number = used.cumsum(0) - 1
        pairs = OrderedPairs(number[pairs.preferred], number[pairs.other])
        entry = block.entry.flatten()[cell]
        rows = self.usable.candidate_rows.rows(template_of[owner], items[entry], templates)
        source = batch.shape[0] + torch.arange(len(cell))
        user = block.users[owner]
        if batch_ids is not None and config.in_batch_pairs:
            entry, source, user, pairs = self._with_in_batch(batch_ids, entry, source, user, pairs)
        cold, tail = self._cold_of_user[user], self.usable.tail[items[entry]]
        student = self.usable.student(self.usable.candidates, entry)
        entries = Entries(llm=scores[entry], cold=cold, tail=tail, user=user, student=student)
        return _on_device(StepPlan(rows, source, entries, pairs, share, shut), batch.device)

    def _own(self, block: Block, pairs: OrderedPairs) -> tuple[Tensor, OrderedPairs, float]:
        """Keep the entries and pairs of this process's users, and say what part of the step's terms that is."""
        if self.ranks.world == 1:
            return block.valid, pairs, 1.0
        n_users, width = block.valid.shape
        own_user = self.ranks.is_own(torch.arange(n_users))
        valid = block.valid & own_user.unsqueeze(1)
        own = own_user[pairs.preferred // max(width, 1)]
        own_pairs = OrderedPairs(pairs.preferred[own], pairs.other[own])
        if self._pairwise:
            return valid, own_pairs, len(own_pairs) / max(len(pairs), 1)
        return valid, own_pairs, int(valid.sum()) / max(int(block.valid.sum()), 1)

    def _without_shut(self, block: Block, pairs: OrderedPairs) -> tuple[OrderedPairs, Tensor | None]:
        """Leave out pairs that the gate is closed for, whatever the model will say; also return how many, by region."""
        if self._shutter is None or len(pairs) == 0:
            return pairs, None
        entry, table = block.entry.flatten(), self.usable.candidates
        used = torch.stack([pairs.preferred, pairs.other])  # (2, n_pairs)
        user, entry = block.users[used.flatten() // block.entry.shape[1]], entry[used.flatten()]
        entries = Entries(
            table.scores[entry],
            self._cold_of_user[user],
            self.usable.tail[table.items[entry]],
            student=self.usable.student(table, entry),
        )
        number = torch.arange(len(pairs))
        apart = OrderedPairs(number, number + len(pairs))
        shut = self._shutter.shut(PairSignals.of(entries, None, apart, like=torch.empty(0)))
        if not shut.any():
            return pairs, None
        left_out = pair_regions(entries, apart)[:, shut].sum(dim=1)
        return OrderedPairs(pairs.preferred[~shut], pairs.other[~shut]), left_out

    def _rows_in_step(self, n_own: int) -> int:
        """Return the rows of all processes' batches, given those of this one's."""
        return n_own if self.ranks.n_rows is None else self.ranks.n_rows

    def _batch_ids(self, batch: Tensor) -> BatchIds:
        """Return user and item codes of the batch, (n_rows,) each, if the settings use them."""
        if self.config.user_source == "table" and not self.config.in_batch_pairs:
            return None
        user, item = (batch[:, column].detach().to("cpu", torch.int64) for column in self._columns)
        return user, item

    def _draw(self, batch: Tensor, batch_ids: BatchIds) -> tuple[Block, Tensor | None, Tensor]:
        """Return a block, the templates to use (None: the stored ones) and each block user's template."""
        n_users = self._users_in_step(self._rows_in_step(batch.shape[0]))
        if self._budget is not None:
            most = min(n_users, len(self.usable.candidates.users))
            n_users = self._budget.users(most, batch.device, self.ranks)
        if batch_ids is None or self.config.user_source == "table":
            block = self._sampler.draw(n_users)
            return block, None, block.users
        users = self.usable.candidates.users
        position = torch.searchsorted(users, batch_ids[0]).clamp_max(len(users) - 1)
        row = torch.nonzero(users[position] == batch_ids[0]).squeeze(1)
        # The last row of a user in the batch serves as the template; which one makes no difference to the pairs.
        template = torch.full((len(users),), -1, dtype=torch.int64)
        template[position[row]] = row
        present = torch.nonzero(template >= 0).squeeze(1)
        if len(present) > n_users:
            present = present[torch.randperm(len(present), generator=self._generator)[:n_users]]
        return self._sampler.draw_for(present), batch.detach().cpu(), template[present]

    def _with_in_batch(
        self, batch_ids: tuple[Tensor, Tensor], entry: Tensor, source: Tensor, user: Tensor, pairs: OrderedPairs
    ) -> tuple[Tensor, Tensor, Tensor, OrderedPairs]:
        """Append the batch's own scored rows and the pairs among them."""
        table = self.usable.candidates
        number, found = table.locate(*batch_ids)
        row = torch.nonzero(found).squeeze(1)
        row = row[batch_ids[0][row].argsort(stable=True)]
        if len(row) == 0:
            return entry, source, user, pairs
        own = self.selective.pairs_within(table.scores[number[row]], batch_ids[0][row], self._generator)
        return (
            torch.cat([entry, number[row]]),
            torch.cat([source, row]),
            torch.cat([user, torch.searchsorted(table.users, batch_ids[0][row])]),
            OrderedPairs(
                torch.cat([pairs.preferred, own.preferred + len(entry)]),
                torch.cat([pairs.other, own.other + len(entry)]),
            ),
        )

    def add(self, plan: StepPlan, logit: Tensor, probability: Tensor, uncertainty: Tensor | None, n_batch: int) -> None:
        """Compute the step's loss from the entries' scores, (n_entries,) each, and hold it until it is taken."""
        result = self.selective.of_pairs(logit, probability, uncertainty, plan.entries, plan.pairs, plan.shut)
        self._pending = (result, n_batch, plan.share)
        self._last_pairs = (logit.detach(), plan.pairs)
        self._terms += result.n_terms
        # Sums stay where the model is: reading them out every step would make a GPU wait.
        device = logit.device
        self._loss_sum = self._loss_sum.to(device) + plan.share * result.mean_loss
        self._gate_sums = self._gate_sums.to(device) + result.gate_sums
        self._gate_counts = self._gate_counts.to(device) + result.gate_counts

    def held_out(self) -> HeldOutPairs | None:
        """Return held-out pairs for a gate that looks ahead; None if there are none."""
        return self._fitter.draw(self._generator) if self._fitter is not None else None

    def look_ahead(self, plan: StepPlan, alignment: Tensor, uncertainty: Tensor | None) -> None:
        """Tell the gate the (n_pairs,) alignment of the plan's pairs with the held-out loss."""
        signals = PairSignals.of(plan.entries, uncertainty, plan.pairs, like=alignment)
        self.gate.look_ahead(signals, alignment)

    def take_loss(self, *, mean: bool = False) -> Tensor | None:
        """Return the step's weighted loss, once; None if there is none.

        Parameters
        ----------
        mean : bool, default=False
            Whether the library's own loss is a mean over the rows of the batch. Where it is a sum, the scale of
            `SelectiveConfig.weight_scale` is as documented; with a mean everything is divided by the rows.
        """
        if self._pending is None:
            return None
        (result, n_batch, share), self._pending = self._pending, None
        self._taken += 1
        scale = self._rows_in_step(n_batch) * share if self.config.weight_scale == "batch_mean" else result.n_terms
        weight = self.weight * self.config.every_steps
        return weight * (scale / n_batch if mean else scale) * result.objective

    # ------------------------------------------------------------------ epochs

    def begin_epoch(self, epoch: int) -> None:
        """Set the epoch's weight, and refit a gate that is fitted on disagreements: the backbone has changed."""
        self.began = True
        self.weight = self.config.weight_at(epoch)
        self._reset_account()
        if self._budget is not None:
            self._budget.pause()
        if self.weight > 0 and self._fitter is not None and self.gate.fits_disagreements:
            self._fitter.refit(self.gate)
            # Equal but for rounding, and for the draws of MC-dropout.
            for tensor in (*self.gate.buffers(), self._fitter.seen):
                tensor.copy_(self.ranks.of_first(tensor))
        if self.gate.knows_shut:
            # Pairs are chosen on the CPU, and the gate may be elsewhere.
            self._shutter = copy.deepcopy(self.gate).cpu()

    def end_epoch(self) -> dict[str, float]:
        """Close the account.

        Returns
        -------
        dict of str to float
            ``sllmr_*`` values for the history. An epoch without weight has no pairs, and NaN for its means.

        Raises
        ------
        HookNeverFiredError
            If the training loop never asked for the loss.
        NoPairsError
            If no pair (no entry, with a pointwise loss) was formed.
        """
        self._pending = None
        if self.weight == 0:
            return self._logs(loss=math.nan, coverage=0.0, gates=[math.nan] * len(REGIONS))
        if self._taken == 0:
            raise HookNeverFiredError(
                f"the epoch made {self._planned} forward passes that the regularizer saw and never asked for its loss. "
                "The model must call its own forward and get_regularization_loss (FuxiCTR: compute_loss) once a step; "
                "an overriding fit, train_step or loss has to call super()."
            )
        self._add_up()
        if self._terms == 0:
            raise NoPairsError(
                "the epoch formed no pair: "
                + (
                    "no user of any batch has two different scores in the table. "
                    if self.config.user_source == "batch"
                    else "no user drawn has two different scores. "
                )
                + "Use user_source='table', or score more candidates per user."
            )
        gates = (self._gate_sums / self._gate_counts).tolist()
        if self._pairwise:
            warn_of_gate(self.gate, gates[0])
        self._warn_if_flat()
        return self._logs(
            loss=float(self._loss_sum) / self._planned,
            coverage=float(self._visited.float().mean()),
            gates=gates,
        )

    def _warn_if_flat(self) -> None:
        """Warn if the model gives all items that the last step compares the same score.

        That is asked at the end of an epoch: a fresh DIN does, and learns nonetheless.
        """
        if self._last_pairs is None:
            return
        (logit, pairs), self._last_pairs = self._last_pairs, None
        if self._pairwise:
            difference = logit[pairs.preferred] - logit[pairs.other]
        else:
            difference = logit[1:] - logit[:-1]
        if len(difference) and float(difference.abs().max()) <= _FLAT:
            warnings.warn(
                "at the end of this epoch the model scores all items alike, so its output does not depend on its "
                "input, or hardly. DIEN, DIN, PNN, EDCN and SAM can stay there for long when they start "
                "from their smallest weights. Build the model with larger ones (init_std=0.01; FuxiCTR: "
                "embedding_initializer), and check that the item's features reach its output.",
                InactiveWarning,
                stacklevel=3,
            )

    def _add_up(self) -> None:
        """Sum the account over all processes."""
        if self.ranks.world == 1:
            return
        own = [torch.tensor([self._terms]), self._loss_sum.reshape(1), self._gate_sums, self._gate_counts]
        total = self.ranks.sum(torch.cat([*(part.double().cpu() for part in own), self._visited.double()]))
        self._terms = int(total[0])
        self._loss_sum = total[1]
        self._gate_sums, self._gate_counts, visited = total[2:].split([len(REGIONS), len(REGIONS), len(self._visited)])
        self._visited = visited > 0

    def _logs(self, *, loss: float, coverage: float, gates: list[float]) -> dict[str, float]:
        logs = {"sllmr_loss": loss, "sllmr_pairs": float(self._terms), "sllmr_coverage": coverage}
        if self._pairwise:
            logs |= {f"sllmr_gate{'' if r == 'all' else '_' + r}": m for r, m in zip(REGIONS, gates, strict=True)}
        # As they are at the end of the epoch; a gate that is fitted at its start has used them all along.
        return logs | {f"sllmr_gate_w_{name}": value for name, value in self.gate.coefficients().items()}


def _on_device(plan: StepPlan, device: torch.device) -> StepPlan:
    if device.type == "cpu":
        return plan
    entries = plan.entries.to(device)
    pairs = OrderedPairs(plan.pairs.preferred.to(device), plan.pairs.other.to(device))
    return StepPlan(plan.rows.to(device), plan.source.to(device), entries, pairs, plan.share, plan.shut)
