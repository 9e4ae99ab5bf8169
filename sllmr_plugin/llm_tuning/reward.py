"""RecLM's reward model: a profile that fits its question scores above one that does not (Sec. 2.4, Eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..scoring.prompts import Message
from ..settings import Bounds
from .labels import answer_ids, padded, prompt_ids
from .local_model import LocalModel
from .profiles import parts
from .runs import TuningRun
from .sft import TuningSettings, batches, fingerprint, fitting
from .two_turn import ProfileQuestion

SHARES = {"similar": 0.3, "own_and_similar": 0.3, "identities": 0.1, "identities_twice": 0.1, "form": 0.1, "dot": 0.1}
"""Kinds of rejected profiles and how many of each, as RecLM's authors have them."""
_HEAD = "head.safetensors"


@dataclass(frozen=True)
class Preference:
    """A question with a profile that is wanted and one that is not.

    Attributes
    ----------
    messages : tuple of Message
        The question.
    chosen, rejected : str
        Profiles.
    kind : str
        One of `SHARES`.
    """

    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    kind: str


def rejected_profile(kind: str, own: str, similar: str) -> str:
    """Return a profile of a kind that is to be rejected.

    Parameters
    ----------
    kind : str
        ``similar``: a similar user's; ``own_and_similar``: both, one after the other; ``identities``: without
        interests; ``identities_twice``: with identities in their place; ``form``: names and nothing behind them;
        ``dot``: a full stop.
    own, similar : str
        The profiles of the target user and of a similar user.

    Examples
    --------
    >>> rejected_profile("identities_twice", "identity: nurse; interests: maps", "identity: cook; interests: films")
    'identity: nurse; identity: nurse'
    """
    identity, _ = parts(own)
    found = {
        "similar": similar,
        "own_and_similar": f"{own}; {similar}",
        "identities": f"identity: {identity}",
        "identities_twice": f"identity: {identity}; identity: {identity}",
        "form": "identity: ; interests: ",
        "dot": ".",
    }
    return found[kind]


def preferences(questions: Sequence[ProfileQuestion], *, seed: int = 0) -> list[Preference]:
    """Return a rejected profile for each question, the kinds in the shares of `SHARES`.

    A similar user whose profile is the very same is no reason to reject it: such a question gets no pair of that kind.

    Parameters
    ----------
    questions : sequence of ProfileQuestion
    seed : int, default=0
        Decides which question gets which kind.
    """
    counts = np.array(list(SHARES.values())) * len(questions)
    whole = np.floor(counts + 1e-9).astype(int)
    largest_rest = np.argsort(-(counts - whole), kind="stable")[: len(questions) - whole.sum()]
    whole[largest_rest] += 1
    kinds = np.random.default_rng(seed).permutation(np.repeat(list(SHARES), whole))
    return [
        Preference(one.messages, one.profile, rejected_profile(kind, one.profile, one.similar), kind)
        for one, kind in zip(questions, kinds.tolist(), strict=True)
        if not (kind == "similar" and one.similar == one.profile)
    ]


class RewardModel:
    """A language model whose last hidden state, at the end of an answer, is read by one linear layer.

    Parameters
    ----------
    model : LocalModel
    """

    def __init__(self, model: LocalModel) -> None:
        self.model = model
        width = model.network.config.hidden_size
        self.head = nn.Linear(width, 1, bias=False, device=model.device)
        nn.init.zeros_(self.head.weight)

    @classmethod
    def load(cls, base: str, folder: str | Path, *, device: str = "cpu") -> RewardModel:
        """Load a reward model from the folder ``adapter`` that `tune_reward` has written.

        Raises
        ------
        ConfigError
            If the folder holds none.
        """
        file = Path(folder) / _HEAD
        if not file.exists():
            raise ConfigError(
                f"{folder} holds no reward model ({_HEAD} is missing). Name the run folder of sllmr llm-tune "
                "reclm-reward."
            )
        found = cls(LocalModel.load(base, adapter=folder, device=device))
        found.head.load_state_dict(safetensors.torch.load_file(file))
        return found

    def save(self, folder: str | Path) -> None:
        """Write LoRA weights, tokenizer and the linear layer into a folder."""
        self.model.save(folder)
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.head.state_dict().items()}
        safetensors.torch.save_file(weights, Path(folder) / _HEAD)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the weights that are trained, by name."""
        return {**self.model.trained(), **{f"head.{name}": weight for name, weight in self.head.named_parameters()}}

    def encode(self, messages: Sequence[Message], answer: str) -> list[int]:
        """Return the token ids of a question and an answer."""
        tokenizer = self.model.tokenizer
        return [*prompt_ids(tokenizer, messages), *answer_ids(tokenizer, answer)]

    def __call__(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Return the rewards of encoded questions and answers, (n,) float32."""
        rows, mask = padded(sequences, self.model.fill)
        inputs = {"input_ids": rows.to(self.model.device), "attention_mask": mask.to(self.model.device)}
        hidden = self.model.network.get_base_model().base_model(**inputs).last_hidden_state  # (n, longest, width)
        last = mask.sum(dim=1).to(hidden.device) - 1
        ends = hidden[torch.arange(len(sequences), device=hidden.device), last]
        rewards: Tensor = self.head(ends.float())[:, 0]
        return rewards

    def score(self, messages: Sequence[Message], answers: Sequence[str]) -> list[float]:
        """Return the rewards of answers to one question."""
        with torch.no_grad():
            found: list[float] = self([self.encode(messages, answer) for answer in answers]).tolist()
        return found


def pairwise_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return the mean of ``-log sigmoid(chosen - rejected)`` over pairs (Eq. 6)."""
    return -F.logsigmoid(chosen - rejected).mean()


@dataclass(frozen=True, kw_only=True)
class RewardSettings(TuningSettings):
    """Settings of `tune_reward`, with those of `TuningSettings`.

    Parameters
    ----------
    held_out : float, default=0.1
        Share of the pairs that is not trained on, and whose accuracy is reported.
    """

    held_out: Annotated[float, Bounds(least=0, below=1)] = 0.1


@dataclass(frozen=True)
class RewardReport:
    """How often a reward model prefers the profile that is wanted.

    Attributes
    ----------
    accuracy : mapping of str to float
        By kind of the rejected profile, over pairs that were held out.
    pairs : mapping of str to int
        How many pairs each figure is of.
    """

    accuracy: Mapping[str, float]
    pairs: Mapping[str, int]

    def __str__(self) -> str:
        if not self.pairs:
            return "no pair was held out"
        lines = [f"  {kind}: {self.accuracy[kind]:.2f} of {self.pairs[kind]} pairs" for kind in self.pairs]
        return "\n".join(["the wanted profile scores higher, by kind of the rejected one (held out):", *lines])


def tune_reward(
    base: str,
    pairs: Sequence[Preference],
    out: str | Path,
    settings: RewardSettings,
    *,
    adapter: str | Path | None = None,
    verbose: bool = True,
) -> tuple[RewardModel, RewardReport]:
    """Tune a reward model, and keep it in ``out/adapter``.

    Parameters
    ----------
    base : str
        As in `LocalModel.load`.
    pairs : sequence of Preference
    out : path
        The run folder (`TuningRun`); the same call goes on where it was stopped.
    settings : RewardSettings
    adapter : path, optional
        Go on from these LoRA weights.
    verbose : bool, default=True
        Show a progress bar.

    Raises
    ------
    ConfigError, DataError, MissingLibraryError, RunFolderError
        If model, pairs or folder cannot be used.

    Warns
    -----
    IncompleteWarning
        If pairs are longer than `TuningSettings.max_length`.
    """
    if not pairs:
        raise DataError("there is no pair of profiles to learn from. Have profiles written of more users.")
    texts = [
        (*one.messages, {"role": "chosen", "content": one.chosen}, {"role": one.kind, "content": one.rejected})
        for one in pairs
    ]
    depends: dict[str, Any] = {
        "step": "reward",
        "base": base,
        "from": str(adapter) if adapter else None,
        "pairs": fingerprint(texts),
        **settings.recorded(),
    }
    run = TuningRun(out, depends)
    local = LocalModel.load(base, adapter=adapter, lora=settings, device=settings.device, seed=settings.seed)
    reward = RewardModel(local)
    encoded = [(reward.encode(one.messages, one.chosen), reward.encode(one.messages, one.rejected)) for one in pairs]
    longest = [(max(both, key=len), None) for both in encoded]
    usable = fitting(longest, min(settings.max_length, local.context or settings.max_length))
    n_held_out = int(settings.held_out * len(usable))
    train, held_out = usable[n_held_out:], usable[:n_held_out]
    plan = batches(len(train), settings.batch_size, settings.epochs, settings.seed)

    def step(number: int, update: object) -> dict[str, float]:
        chosen = [encoded[train[place]] for place in plan[number]]
        rewards = reward([one for both in chosen for one in both]).view(-1, 2)
        loss = pairwise_loss(rewards[:, 0], rewards[:, 1])
        loss.backward()
        return {"loss": loss.item(), "accuracy": float((rewards[:, 0] > rewards[:, 1]).float().mean())}

    local.network.train()
    run.train(
        reward.trained(),
        step,
        len(plan),
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        save_every=settings.save_every,
        verbose=verbose,
    )
    local.network.eval()
    reward.save(run.adapter)
    return reward, report(reward, [pairs[place] for place in held_out])


def report(reward: RewardModel, pairs: Sequence[Preference]) -> RewardReport:
    """Count how often a reward model prefers what is wanted."""
    right: dict[str, list[bool]] = {}
    for one in pairs:
        chosen, rejected = reward.score(one.messages, [one.chosen, one.rejected])
        right.setdefault(one.kind, []).append(chosen > rejected)
    known = [kind for kind in SHARES if kind in right]
    return RewardReport(
        {kind: float(np.mean(right[kind])) for kind in known}, {kind: len(right[kind]) for kind in known}
    )
