"""Group relative policy optimisation: several answers to a question, each worth more or less than the others.

Used for CURec's alignment (Sec. 4.2) and for RecLM's policy step, in place of PPO (docs/llm_tuning.md says why).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from ..errors import DataError
from ..scoring.prompts import Message
from ..settings import Bounds
from .labels import prompt_ids
from .local_model import LocalModel, LoraSettings, SamplingSettings


@dataclass(frozen=True, kw_only=True)
class StepSettings(LoraSettings, SamplingSettings):
    """Settings of a policy step, with those of `LoraSettings` (of new LoRA weights) and `SamplingSettings`.

    Parameters
    ----------
    group : int, default=8
        Answers to each question, G.
    questions : int, default=4
        Questions of a step.
    clip : float, default=0.2
        Epsilon: how far ratios count.
    beta : float, default=0.04
        Weight of the KL divergence to the model before.
    updates : int, default=1
        Gradient steps on each set of answers. With one, all ratios are 1 and nothing is clipped.
    learning_rate : float, default=1e-5
        Falls to 0 along half a cosine. CURec's authors take 5e-7 for all weights of the model; LoRA weights start at
        zero and would hardly move.
    save_every : int, default=10
        Steps between two checkpoints.
    device : str, default="cpu"
        A torch device.
    seed : int, default=0
        Decides new weights, the order of questions and the answers.
    """

    group: Annotated[int, Bounds(least=2)] = 8
    questions: Annotated[int, Bounds(least=1)] = 4
    clip: Annotated[float, Bounds(above=0, below=1)] = 0.2
    beta: Annotated[float, Bounds(least=0)] = 0.04
    updates: Annotated[int, Bounds(least=1)] = 1
    learning_rate: Annotated[float, Bounds(above=0)] = 1e-5
    save_every: Annotated[int, Bounds(least=1)] = 10
    device: str = "cpu"
    seed: int = 0

    def recorded(self) -> dict[str, Any]:
        """Return what the result depends on."""
        kept = asdict(self)
        for name in ("save_every", "device"):
            del kept[name]
        return kept


@dataclass(frozen=True, kw_only=True)
class GRPOSettings(StepSettings):
    """Settings of a tuning by policy steps over known questions, with those of `StepSettings`.

    Parameters
    ----------
    epochs : int, default=2
        Times that every question is asked.
    """

    epochs: Annotated[int, Bounds(least=1)] = 2


def advantages(rewards: Tensor) -> Tensor:
    """Return how far each reward lies above the mean of its group, in standard deviations of the group (CURec, Eq. 4).

    Parameters
    ----------
    rewards : Tensor
        (B, G).

    Returns
    -------
    Tensor
        (B, G), each row summing to 0; all 0 where a group's rewards are equal.
    """
    spread = rewards - rewards.mean(dim=1, keepdim=True)
    std = rewards.std(dim=1, keepdim=True, unbiased=False)
    # Rounding leaves equal rewards a spread that dividing would blow up.
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return torch.where(equal, torch.zeros_like(spread), spread / std.clamp(min=1e-8))


def kl_estimate(new: Tensor, reference: Tensor) -> Tensor:
    """Return ``exp(d) - d - 1`` with d = log reference - log new: an estimate of KL(new || reference), at least 0."""
    d = reference - new
    return d.exp() - d - 1


def grpo_loss(
    new: Tensor, old: Tensor, reference: Tensor, advantage: Tensor, mask: Tensor, *, clip: float, beta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Return the loss to be minimised: minus CURec's Eq. 3, with ratios and KL per token.

    .. math::
        J = \frac1N \sum_n \frac1{T_n} \sum_t \min(\rho_{nt} A_n, \mathrm{clip}(\rho_{nt}, 1 - \epsilon,
        1 + \epsilon) A_n) - \beta\, \mathrm{KL}_{nt}

    Eq. 13 of the paper descends along J, which is a slip of its sign.

    Parameters
    ----------
    new, old, reference : Tensor
        (N, T) log-probabilities of the answers' tokens: of the model that is trained, of it when it answered, and of
        the model that it should stay near.
    advantage : Tensor
        (N,) of each answer.
    mask : Tensor
        (N, T), 1 at tokens of an answer.
    clip, beta : float
        Epsilon and the weight of the divergence.

    Returns
    -------
    loss : Tensor
        Scalar.
    measured : dict of str to Tensor
        ``kl`` and ``clipped`` (share of tokens whose ratio does not count in full), without gradients.
    """
    lengths = mask.sum(dim=1).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return ((values * mask).sum(dim=1) / lengths).mean()

    ratio = (new - old).exp()
    gain = advantage[:, None]
    objective = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    kl = kl_estimate(new, reference)
    clipped = (ratio.clamp(1 - clip, 1 + clip) * gain < ratio * gain).to(new.dtype)
    return -mean(objective - beta * kl), {"kl": mean(kl.detach()), "clipped": mean(clipped)}


Reward = Callable[[Sequence[str]], Sequence[float]]
"""Texts of a group of answers -> the reward of each."""


@dataclass(frozen=True)
class Question:
    """What a model is asked, and what its answers are worth.

    Attributes
    ----------
    messages : tuple of Message
    reward : Reward
    """

    messages: tuple[Message, ...]
    reward: Reward


@dataclass(frozen=True)
class Group:
    """Answers to one question.

    Attributes
    ----------
    prompt : list of int
        Token ids of the question.
    answers : list of list of int
        Token ids of the answers.
    texts : list of str
        The answers.
    rewards : Tensor
        (G,) float32.
    """

    prompt: list[int]
    answers: list[list[int]]
    texts: list[str]
    rewards: Tensor


def ask_group(model: LocalModel, question: Question, settings: StepSettings) -> Group:
    """Have a question answered G times, and the answers rewarded."""
    answers = model.sample(question.messages, settings.group, settings)
    texts = [model.text(answer) for answer in answers]
    rewards = torch.tensor([float(reward) for reward in question.reward(texts)])
    return Group(prompt_ids(model.tokenizer, question.messages), answers, texts, rewards)


def policy_step(
    model: LocalModel, questions: Sequence[Question], settings: StepSettings, update: Callable[[], None]
) -> tuple[list[Group], Mapping[str, float]]:
    """Ask questions and learn from the answers (`learn`).

    Returns
    -------
    groups : list of Group
        What was answered.
    measured : mapping of str to float
        What `learn` returns.
    """
    groups = [ask_group(model, question, settings) for question in questions]
    return groups, learn(model, groups, settings, update)


def learn(
    model: LocalModel, groups: Sequence[Group], settings: StepSettings, update: Callable[[], None]
) -> Mapping[str, float]:
    """Leave the gradient of the last update in the model's trained weights.

    Parameters
    ----------
    model : LocalModel
        Its reference is the model before, or the model without LoRA weights.
    groups : sequence of Group
        What the model has just answered.
    settings : StepSettings
    update : callable
        Called between two updates: changes the weights and drops the gradients. Not called after the last.

    Returns
    -------
    mapping of str to float
        ``reward`` (mean), ``spread`` (of rewards within a group), ``kl``, ``clipped`` and ``length`` (tokens).

    Raises
    ------
    DataError
        If a reward is not finite: it would leave no weight of the model finite.
    """
    rewards = torch.stack([group.rewards for group in groups])
    if not bool(rewards.isfinite().all()):
        raise DataError(
            "a reward is not a finite number, so nothing can be learned from it. The model that gives the rewards has "
            "probably diverged: train it again with a lower learning rate."
        )
    gains = advantages(rewards).to(model.device)
    references: list[Tensor] = []
    with torch.no_grad(), model.as_reference():
        references = [model.log_probabilities(group.prompt, group.answers)[0] for group in groups]
    olds: list[Tensor] = []  # of the first update, which all ratios are to
    measured = {"kl": 0.0, "clipped": 0.0}
    for number in range(settings.updates):
        if number:
            update()
        measured = dict.fromkeys(measured, 0.0)
        for place, (group, reference) in enumerate(zip(groups, references, strict=True)):
            new, mask = model.log_probabilities(group.prompt, group.answers)
            if number == 0:
                olds.append(new.detach())
            loss, told = grpo_loss(
                new, olds[place], reference, gains[place], mask, clip=settings.clip, beta=settings.beta
            )
            (loss / len(groups)).backward()
            for name, value in told.items():
                measured[name] += value.item() / len(groups)
    lengths = [len(answer) for group in groups for answer in group.answers]
    return {
        "reward": rewards.mean().item(),
        "spread": rewards.std(dim=1, unbiased=False).mean().item(),
        "length": sum(lengths) / len(lengths),
        **measured,
    }
