"""`pretrain`: the whole model learns, before `fit`, to tell rows apart by what is known of their user and item."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import CoverageError, CoverageWarning, NotLearntWarning, SLLMRError, UnsupportedModelError, VectorsError
from ..knowledge.contrast import row_contrast
from ..knowledge.id_vectors import Vectors, VectorSource
from ..scores.ids import IdIndex
from .base import Backend, backend_of
from .embeddings import KnownIds
from .known_vectors import known_items, known_users, n_codes, users_from
from .last_layer import last_layer
from .random_state import random_state_kept

DEFAULT_TAU = 0.2
DEFAULT_EPOCHS = 5
_JUDGED = 4  # batches that the loss is measured on, before and after
_SHOWN_EVERY = 20  # steps; reading a loss makes a GPU wait


@dataclass(frozen=True, eq=False)
class Pretraining:
    """What `pretrain` has done; print it.

    Attributes
    ----------
    vectors : Vectors
        Of the items and, maybe, of the users.
    users : str
        Whether a row's user is known by vectors of its own, or by history; "" where nothing was done.
    steps : int
        Training steps.
    before, after : float
        Mean loss over the same few batches, before the first step and after the last one, without dropout.
    chance : float
        What it is where nothing is learned: the logarithm of the rows that each is told from.
    layer : str
        Name of the layer whose input was pulled towards the vectors.
    n_items, n_users : int
        Ids that are known.
    """

    vectors: Vectors
    users: str = ""
    steps: int = 0
    before: float = float("nan")
    after: float = float("nan")
    chance: float = float("nan")
    layer: str = ""
    n_items: int = 0
    n_users: int = 0

    def __str__(self) -> str:
        if self.steps == 0:
            return "not pre-trained: no step leaves the model as it is"
        return (
            f"pre-trained on {self.vectors.source}, users by {self.users}, in {self.steps} steps through what "
            f"{self.layer} reads: loss {self.before:.3f} -> {self.after:.3f}, chance {self.chance:.3f}; "
            f"{self.n_items} items, {self.n_users} users"
        )


def pretrain(
    model: Any,
    vectors: VectorSource,
    x: Any,
    y: Any = None,
    *,
    user: str,
    item: str,
    epochs: int = DEFAULT_EPOCHS,
    steps: int | None = None,
    batch_size: int = 256,
    tau: float = DEFAULT_TAU,
    users: str = "auto",
    layer: str | None = None,
    user_index: IdIndex | None = None,
    item_index: IdIndex | None = None,
    seed: int = 0,
    verbose: bool = True,
    **options: Any,
) -> Pretraining:
    """Train a whole model against what is known of its rows, before `fit`: it then starts from weights that mean it.

    CTRL (Li et al., 2023, arXiv:2306.02841) and FLIP (Wang et al., RecSys 2024) align what a CTR model makes of a row
    with what a language model makes of the same row written as text, and take the weights as the start of the training.
    Here, with h the input of the last layer, P a linear map and z the vectors of the row's user and item one behind the
    other, ``InfoNCE(P h, z)`` over the rows of a batch, in both directions, is minimised by all weights that h depends
    on; labels are not looked at. P is thrown away, so class, ``state_dict`` keys and serving stay the plain model's.

    The optimizer is of the class and the settings of the model's own, whose state stays empty. The global random
    numbers are left as they were, so the batches of `fit` come in the plain model's order. An adaptor's weights, a gate
    and the linear part of a model are not trained.

    Parameters
    ----------
    model : deepctr_torch or fuxictr.pytorch model
        Compiled, not trained yet; plain, augmented or wrapped.
    vectors : path, pandas.DataFrame, mapping or Vectors
        See `Vectors.read`. Of a vector only the direction counts, seen from the items' mean.
    x : as `fit` takes it
        The training rows: of a DeepCTR-Torch model its input columns, of a FuxiCTR model a data generator.
    y : ndarray, optional
        (n,) labels, for ``users="history"``; a generator holds them.
    user, item : str
        The model's features that carry the ids.
    epochs : int, default=5
        Times that all rows are gone over. 0 leaves the model as it is.
    steps : int, optional
        The most training steps. 0 leaves the model as it is.
    batch_size : int, default=256
        Rows of a step, each a negative of the others; a generator has its own.
    tau : float, default=0.2
        Temperature of the softmax over rows.
    users : {"auto", "vectors", "history"}, default="auto"
        What is known of a row's user: a vector of their own, such as a profile's, or the mean over the items that they
        took in training. ``auto`` is ``vectors`` where there are some.
    layer : str, optional
        As of `distill_features`.
    user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
        Raw id -> code, as of `wrap`.
    seed : int, default=0
        Of P, of the order of rows and of dropout.
    verbose : bool, default=True
        Show a bar with rate and time left.
    **options
        Of `Vectors.read`: ``titles``, ``encoder``.

    Returns
    -------
    Pretraining
        The loss before and after.

    Raises
    ------
    VectorsError
        If no vector belongs to an id of the model, users are not known, or an argument makes no sense.
    CoverageError
        If no two rows of a batch are known; the model is left as it was.
    UnsupportedModelError
        If the model is of neither library, has no such layer, or its optimizer cannot be made a second time.
    SLLMRError
        If the model is not compiled.

    Warns
    -----
    NotLearntWarning
        If the loss ends no better than chance.
    CoverageWarning
        If fewer than half of the rows are known.

    Examples
    --------
    >>> model.compile("adam", "binary_crossentropy")  # doctest: +SKIP
    >>> print(pretrain(model, "llm_texts.parquet", x, y, user="user_id", item="item_id"))  # doctest: +SKIP
    >>> model.fit(x, y, batch_size=256, epochs=3)  # doctest: +SKIP
    """
    backend = backend_of(model)
    if backend is None:
        raise UnsupportedModelError([f"a {type(model).__name__} is neither a DeepCTR-Torch nor a FuxiCTR model."])
    if epochs < 0 or (steps is not None and steps < 0) or batch_size < 2 or not tau > 0:
        raise VectorsError(
            f"epochs={epochs!r} and steps={steps!r} must be at least 0, batch_size={batch_size!r} at least 2, "
            f"tau={tau!r} above 0."
        )
    read = Vectors.read(vectors, **options)
    if epochs == 0 or steps == 0:
        return Pretraining(read)
    name, width = last_layer(model, layer)
    mixin: Any = backend.loss_mixin
    own = getattr(model, mixin.optimizer_name, None)
    if own is None:
        raise SLLMRError(
            "the model has no optimizer yet, whose class and settings are taken. Call model.compile('adam', "
            "'binary_crossentropy') first."
        )
    with random_state_kept(model.device):
        torch.manual_seed(seed)
        begin, n_batches = backend.batches(model, x, batch_size)
        where = users_from(users, read, y is not None or backend.inputs_hold_labels)
        items = known_items(model, read, item, item_index)
        people = known_users(
            model, read, user, user_index, where, items, lambda: backend.taken(model, x, y, user, item)
        )
        sides = [
            KnownIds(feature, *known, n_codes(model, feature)).to(model.device)
            for feature, known in ((user, people), (item, items))
        ]
        project = nn.Linear(width, sum(side.values.shape[1] for side in sides), bias=False).to(model.device)
        target = _Target(backend, model, sides, project, name, tau)
        made = _optimizer_like(own, [*model.parameters(), *project.parameters()])
        plan = itertools.islice(itertools.chain.from_iterable(begin() for _ in range(epochs)), steps)
        n_steps = None if n_batches is None else min(epochs * n_batches, steps or epochs * n_batches)
        with _as_it_was(model):
            judged = list(itertools.islice(begin(), _JUDGED))
            before, _ = target.judge(judged)
            done = target.train(plan, made, n_steps, verbose)
            after, chance = target.judge(judged)
    if not after < chance:
        warnings.warn(
            f"after {done} steps the loss is {after:.3f}, and {chance:.3f} where nothing is learned: the model does "
            "not tell rows by their vectors. Raise epochs, or the learning rate that the model is compiled with; check "
            "that ids and indexes are those of the model.",
            NotLearntWarning,
            stacklevel=2,
        )
    if 2 * target.n_known < target.n_seen:
        warnings.warn(
            f"{target.n_known / target.n_seen:.0%} of the rows have a user and an item that {read.source} knows; the "
            "others were not learnt from. Check that ids, user_index and item_index are those of the model.",
            CoverageWarning,
            stacklevel=2,
        )
    return Pretraining(read, where, done, before, after, chance, name, len(items[0]), len(people[0]))


class _Target:
    """The loss of a batch: what the layer reads, against the vectors of the batch's rows."""

    def __init__(
        self, backend: Backend, model: Any, sides: list[KnownIds], project: nn.Module, layer: str, tau: float
    ) -> None:
        self._backend, self._model, self._sides = backend, model, sides
        self._project, self._layer, self._tau = project, layer, tau
        self.n_seen = self.n_known = 0

    def __call__(self, inputs: Any) -> tuple[Tensor, Tensor] | None:
        """Return `row_contrast` of a batch; None if fewer than two of its rows are known."""
        codes = [self._backend.codes(self._model, inputs, side.feature) for side in self._sides]
        own, other = (side.row_of_code[code] for side, code in zip(self._sides, codes, strict=True))
        known = (own >= 0) & (other >= 0)
        n_known = int(known.sum())
        self.n_seen += len(known)
        self.n_known += n_known
        if n_known < 2:
            return None
        hidden = self._hidden(inputs, len(known))
        rows = [own[known], other[known]]
        wanted = torch.cat([side.values[row] for side, row in zip(self._sides, rows, strict=True)], dim=1)
        pairs = rows[0] * len(self._sides[1].codes) + rows[1]
        return row_contrast(self._project(hidden[known]), wanted, pairs, self._tau)

    def _hidden(self, inputs: Any, n_rows: int) -> Tensor:
        caught: list[Tensor] = []
        module = self._model.get_submodule(self._layer)
        hook = module.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
        try:
            self._model(inputs)
        finally:
            hook.remove()
        if len(caught) != 1 or caught[0].dim() != 2 or len(caught[0]) != n_rows:
            shapes = ", ".join(str(tuple(one.shape)) for one in caught) or "nothing"
            raise UnsupportedModelError(
                [
                    f"the layer {self._layer!r} reads {shapes} for a batch of {n_rows} rows, and what is pre-trained "
                    "has one row of numbers each. Name another layer (layer=)."
                ]
            )
        return caught[0]

    def judge(self, batches: list[Any]) -> tuple[float, float]:
        """Return the mean loss over batches and what it is by chance, without training.

        Raises
        ------
        CoverageError
            If none of them has two known rows.
        """
        self._model.eval()
        counted = self.n_seen, self.n_known
        with torch.no_grad():
            found = [both for both in map(self, batches) if both is not None]
        if not found:
            raise CoverageError(
                f"of the first {self.n_seen} rows none, or one a batch, has a user and an item with a vector, so there "
                "is nothing to tell apart. Pass vectors of ids that occur in x, with user_index= and item_index= to "
                "turn them into codes."
            )
        loss, chance = (float(torch.stack(part).mean()) for part in zip(*found, strict=True))
        self.n_seen, self.n_known = counted
        return loss, chance

    def train(self, batches: Iterator[Any], optimizer: torch.optim.Optimizer, total: int | None, verbose: bool) -> int:
        """Make a step for each batch; return how many."""
        self._model.train()
        done = 0
        with tqdm(
            total=total, desc="pre-training", unit="step", delay=2, leave=False, disable=None if verbose else True
        ) as bar:
            for inputs in batches:
                done += 1
                optimizer.zero_grad()
                found = self(inputs)
                if found is not None:
                    found[0].backward()
                    optimizer.step()
                    if done % _SHOWN_EVERY == 0:
                        bar.set_postfix_str(f"loss {float(found[0].detach()):.3f}", refresh=False)
                bar.update()
        return done


def _optimizer_like(own: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return an optimizer of the same class and settings, which knows nothing yet."""
    takes = inspect.signature(type(own).__init__).parameters
    settings = {name: own.param_groups[0].get(name, value) for name, value in own.defaults.items() if name in takes}
    try:
        return type(own)(parameters, **settings)
    except TypeError as error:
        raise UnsupportedModelError(
            [
                f"the model's optimizer, a {type(own).__name__}, cannot be made a second time ({error}). Compile with "
                "one of torch.optim, pre-train, and compile with yours after that."
            ]
        ) from None


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Leave, on exit, the gradients, the modes of a model's modules and its attributes as they were.

    A forward pass may write attributes: DIEN keeps a loss of its rows, on the graph, which copies would fail on.
    """
    attributes = dict(vars(model))
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
        vars(model).update(attributes)
