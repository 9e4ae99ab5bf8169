"""`LocalScorer`: a tuned model scores candidates by how likely it says yes, without a server."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from ..errors import ConfigError, DataError
from ..scoring.prompts import YES_NO, PromptTemplate
from ..scoring.requests import ScoredAnswer, ScoringRequest
from .labels import padded, prompt_ids
from .local_model import LocalModel

_AT_A_TIME = 16  # candidates of a forward pass


class LocalScorer:
    r"""Scores a candidate with :math:`P(\text{yes}) / (P(\text{yes}) + P(\text{no}))`, S-LLMR's normalised logits.

    The question is that of ``sllmr score --answer yes_no``, one item at a time; P sums the probabilities of all single
    tokens that spell the word, in any case, right behind the question.

    Parameters
    ----------
    base : str
        As in `LocalModel.load`.
    adapter : path, optional
        LoRA weights: the folder ``adapter`` of a tuning.
    device : str, default="cpu"

    Raises
    ------
    ConfigError, MissingLibraryError
        If the model cannot be loaded, or has no token that spells yes or no.
    """

    def __init__(self, base: str, adapter: str | Path | None = None, *, device: str = "cpu") -> None:
        self._model = LocalModel.load(base, adapter=adapter, device=device)
        self._template = PromptTemplate.of(None, answer=YES_NO)
        for word, tokens in self._words.items():
            if not tokens:
                raise ConfigError(f"the tokenizer of {base} has no token that spells {word}. Take another model.")

    @cached_property
    def _words(self) -> dict[str, list[int]]:
        tokenizer = self._model.tokenizer
        found: dict[str, list[int]] = {"yes": [], "no": []}
        for token in range(len(tokenizer)):
            text = str(tokenizer.decode([token])).strip().lower()
            if text in found:
                found[text].append(token)
        return found

    def score(self, request: ScoringRequest) -> ScoredAnswer:
        """Score the candidates of one request; see `sllmr_plugin.scoring.Scorer`."""
        prompts = [
            prompt_ids(
                self._model.tokenizer,
                self._template.render(replace(request, item_ids=(item,), titles=(title,))),
            )
            for item, title in zip(request.item_ids, request.titles, strict=True)
        ]
        longest = max(map(len, prompts))
        if self._model.context is not None and longest > self._model.context:
            raise DataError(
                f"a question about user {request.user_id!r} has {longest} tokens, more than the {self._model.context} "
                "that the model can read. Show fewer titles (history_length)."
            )
        scores: list[float] = []
        for start in range(0, len(prompts), _AT_A_TIME):
            part = prompts[start : start + _AT_A_TIME]
            rows, mask = padded(part, self._model.fill)
            places, ends = torch.tensor([len(prompt) - 1 for prompt in part]).unique(return_inverse=True)
            with torch.no_grad():
                logits = self._model.logits(rows, mask, places)
            last = logits[torch.arange(len(part)), ends].float()  # (n, vocabulary)
            yes, no = (last[:, tokens].logsumexp(dim=1) for tokens in self._words.values())
            scores += torch.sigmoid(yes - no).tolist()
        return ScoredAnswer(dict(zip(request.item_ids, scores, strict=True)))
