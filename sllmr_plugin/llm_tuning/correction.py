"""CURec's chronological correction: reasons written again, and the model tuned by what a recommender makes of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch

from ..datasets.interactions import Interactions
from ..errors import AnswerError, IncompleteWarning
from ..scores.origin import write_parquet
from ..scoring.correct import Judge
from ..scoring.corrections import (
    Corrected,
    Correction,
    CorrectionCounts,
    Corrections,
    Texts,
    corrected_frame,
    mean,
    plan_corrections,
)
from ..scoring.text_questions import TextQuestions, TextTemplate
from ..scoring.text_requests import Kind, TextRequest
from ..settings import Bounds
from .grpo import Group, StepSettings, learn
from .labels import prompt_ids
from .local_model import LocalModel
from .policy import warn_of_equal_rewards
from .runs import TuningRun
from .sft import fingerprint

#: Name of the corrected text table inside a run folder.
TABLE = "corrected.parquet"
_KINDS: tuple[Kind, ...] = ("reason", "update")


@dataclass(frozen=True, kw_only=True)
class CorrectionSettings(StepSettings):
    """Settings of `tune_corrections`, with those of `StepSettings`.

    Parameters
    ----------
    questions : int, default=1
        Interactions of a step, at most; 1 is the paper's. Those of a step follow each other in time and share neither
        user nor item.
    learning_rate : float, default=1e-5
        0 corrects the texts and leaves the model as it is.
    titles : int, default=10
        Titles of the user's last training interactions before it that a prompt shows.
    max_words : int, default=120
        Longest text asked for.
    most : int or None, default=None
        Interactions gone through, the earliest; None takes all that can be.
    """

    questions: Annotated[int, Bounds(least=1)] = 1
    learning_rate: Annotated[float, Bounds(least=0)] = 1e-5
    titles: Annotated[int, Bounds(least=1)] = 10
    max_words: Annotated[int, Bounds(least=1)] = 120
    most: Annotated[int, Bounds(least=1)] | None = None


@dataclass(frozen=True, eq=False)
class CorrectionTuning:
    """What a correction leaves behind.

    Attributes
    ----------
    model : LocalModel
        Tuned; its LoRA weights are in ``adapter`` beside the table.
    path : pathlib.Path
        The corrected text table.
    frame : pandas.DataFrame
        The same.
    counts : CorrectionCounts
    """

    model: LocalModel
    path: Path
    frame: pd.DataFrame
    counts: CorrectionCounts


def tune_corrections(
    base: str,
    data: Interactions,
    texts: Texts,
    judge: Judge,
    out: str | Path,
    settings: CorrectionSettings,
    *,
    rewarded_by: str,
    attributes: pd.DataFrame | None = None,
    adapter: str | Path | None = None,
    verbose: bool = True,
) -> CorrectionTuning:
    """Go through training interactions in time order; tune a model on each, and have it write the reason again.

    Luo et al. (KDD 2026), Sec. 4.4. Of each training interaction that the table has a reason about:

    1. The model writes a group of reasons, from the titles before the interaction and the item. The reward of each is
       the recommender's score of the interaction with it (Eq. 12), in the place of the reason that the table has about
       this interaction, given all texts as they are by now. An answer that cannot be used is worth 0.
    2. One policy step (Eq. 3, 4, 13).
    3. The tuned model writes the reason that is kept, and then the user's pattern from the one so far, the item and
       that reason (Eq. 14, 15). If the reason cannot be used, the best of the group is kept; if none can be, the old
       one stays, and so does the pattern.

    Parameters
    ----------
    base : str
        As in `LocalModel.load`.
    data : Interactions
        With titles. Shown are titles of training interactions before the one in question alone.
    texts : Texts
        With reasons and patterns, by the codes of `data`.
    judge : Judge
        Gives the rewards; fresh, since what it took note of is lost with the process and told it again here.
    out : path
        The run folder (`TuningRun`); the same call goes on where it was stopped, and ends with the same weights and
        texts. At the end it has ``adapter/`` and ``corrected.parquet``.
    settings : CorrectionSettings
    rewarded_by : str
        What the judge is, for the settings of the folder.
    attributes : pandas.DataFrame, optional
        From `read_attributes`: shown beside the item's title.
    adapter : path, optional
        Go on from these LoRA weights, for instance of the alignment, and stay near them; by default, near the model
        itself.
    verbose : bool, default=True
        Show a progress bar over steps.

    Raises
    ------
    DataError
        If no reason can be written again, a prompt is too long for the model, or a reward is not finite.
    ConfigError, MissingLibraryError, RunFolderError
        If model or folder cannot be used.

    Warns
    -----
    IncompleteWarning
        If not one reason could be written again, or the rewards of every group were equal.
    """
    plan = plan_corrections(data, texts, n_titles=settings.titles, attributes=attributes)
    templates = {kind: TextTemplate(kind, max_words=settings.max_words) for kind in _KINDS}
    questions = TextQuestions(base, templates=templates)
    chosen = plan.all[: settings.most]
    depends: dict[str, Any] = {
        "step": "correction",
        "rewarded_by": rewarded_by,
        "base": base,
        "from": str(adapter) if adapter else None,
        "questions": fingerprint([questions.messages(one.samples(1)[0]) for one in chosen]),
        "reasons": fingerprint([[{"role": "reason", "content": one.reason}] for one in plan.all]),
        "patterns": fingerprint([[{"role": str(user), "content": text}] for user, text in plan.patterns.items()]),
        **settings.recorded(),
    }
    run = TuningRun(out, depends)
    model = LocalModel.load(
        base,
        adapter=adapter,
        reference=adapter is not None,
        lora=settings,
        device=settings.device,
        seed=settings.seed,
    )
    correcting = _Correcting(model, plan, judge, questions, settings)
    steps = in_time(chosen, settings.questions)
    run.train(
        model.trained(),
        lambda number, update: correcting.step(steps[number], update),
        len(steps),
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        save_every=settings.save_every,
        carried=correcting,
        verbose=verbose,
    )
    model.save(run.adapter)
    frame, counts = corrected_frame(data, texts, plan, correcting.done), correcting.counts(len(texts.reasons))
    origin = {
        "writer": "local model",
        "model": base,
        "kind": ",".join(frame["kind"].unique().tolist()),
        "prompt_hash": {kind: template.prompt_hash for kind, template in templates.items()},
        "settings": depends,
        "counts": {name: None if value != value else value for name, value in asdict(counts).items()},
    }
    path = run.path / TABLE
    write_parquet(frame, path, origin)
    if not counts.corrected:
        warnings.warn(
            f"not one of {len(chosen)} reasons was written again: the model's answers cannot be used, and {path} says "
            "what the table said before. Take a larger model, align it first (sllmr llm-tune curec-align), or give it "
            "more room (max_new_tokens, max_words).",
            IncompleteWarning,
            stacklevel=2,
        )
    else:
        warn_of_equal_rewards(run, stacklevel=3)
    return CorrectionTuning(model, path, frame, counts)


def in_time(corrections: Sequence[Correction], size: int) -> list[list[Correction]]:
    """Cut corrections into steps of at most `size` that share neither user nor item, without changing their order."""
    steps: list[list[Correction]] = []
    there: set[object] = set()
    for one in corrections:
        own = {("user", one.user), ("item", one.item)}
        if not steps or len(steps[-1]) == size or there & own:
            steps.append([])
            there = set()
        steps[-1].append(one)
        there |= own
    return steps


@dataclass
class _Noted:
    """What the counts are made of."""

    failed: int = 0
    updates: int = 0
    before: list[float] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)


class _Correcting:
    """One run: what has been written so far, and the rewards of it."""

    def __init__(
        self,
        model: LocalModel,
        plan: Corrections,
        judge: Judge,
        questions: TextQuestions,
        settings: CorrectionSettings,
    ) -> None:
        self._model, self._plan, self._judge = model, plan, judge
        self._questions, self._settings = questions, settings
        self.done, self._noted = Corrected(), _Noted()

    def step(self, corrections: Sequence[Correction], update: Callable[[], None]) -> Mapping[str, float]:
        """Go through corrections that share neither user nor item; return what was measured."""
        asked = [self._ask(one) for one in corrections]
        measured = learn(self._model, [group for group, *_ in asked], self._settings, update)
        update()  # what is kept is written by the tuned model
        kept = [self._keep(one, found, before) for one, (_, found, before) in zip(corrections, asked, strict=True)]
        n_usable = sum(len(found) for _, found, _ in asked)
        return {
            **measured,
            "usable": n_usable / (len(asked) * self._settings.group),
            "before": mean([before for *_, before in asked]),
            "kept": mean(kept),
        }

    def _ask(self, one: Correction) -> tuple[Group, dict[str, float], float]:
        """Return a group of reasons, those that can be used with their rewards, and the reward of the old one."""
        request = one.samples(1)[0]
        messages = self._questions.messages(request)
        answers = self._model.sample(messages, self._settings.group, self._settings)
        read = [self._read(answer, request) for answer in answers]
        usable = list(dict.fromkeys(text for text in read if text is not None))
        *rewards, before = self._judge.rewards(one.user, one.item, [*usable, one.reason])
        found = dict(zip(usable, rewards, strict=True))
        worst = min([0.0, *rewards])  # a judge's scores may be below 0
        group = Group(
            prompt_ids(self._model.tokenizer, messages),
            answers,
            [self._model.text(answer) for answer in answers],
            torch.tensor([worst if text is None else found[text] for text in read]),
        )
        return group, found, before

    def _keep(self, one: Correction, found: Mapping[str, float], before: float) -> float:
        """Have the reason and the pattern written that are kept; return the reward of the reason."""
        reason = self._write(one.samples(1)[0])
        if reason is not None:
            (reward,) = self._judge.rewards(one.user, one.item, [reason])
        elif found:
            reason = max(found, key=found.__getitem__)  # of equals the first
            reward = found[reason]
        else:
            self._noted.failed += 1
            return before
        self._judge.keep(one.user, one.item, reason)
        self.done.reasons[one.row] = reason, float(reward)
        self._noted.before.append(float(before))
        if found:
            self._noted.drawn.append(mean(list(found.values())))
        pattern = self.done.patterns.get(one.user, self._plan.patterns.get(one.user))
        updated = None if pattern is None else self._write(one.update(pattern, reason))
        if updated is not None:
            self.done.patterns[one.user] = updated
            self._noted.updates += 1
            self._judge.update(one.user, updated)
        return float(reward)

    def _write(self, request: TextRequest) -> str | None:
        messages = self._questions.messages(request)
        return self._read(self._model.sample(messages, 1, self._settings)[0], request)

    def _read(self, answer: Sequence[int], request: TextRequest) -> str | None:
        """Return the text of an answer, None if it cannot be used."""
        if answer[-1] not in self._model.ends:
            return None  # also where its beginning could be read: the text has no end
        try:
            return self._questions.text_of(self._model.text(answer), request)
        except AnswerError:
            return None

    def state(self) -> Any:
        """Return what was written and noted."""
        return {
            "reasons": [[row, *kept] for row, kept in self.done.reasons.items()],
            "patterns": list(map(list, self.done.patterns.items())),
            "noted": asdict(self._noted),
        }

    def restore(self, state: Any) -> None:
        """Take up what `state` has returned, and tell the judge of it."""
        of_row = {one.row: one for one in self._plan.all}
        for row, reason, reward in state["reasons"]:
            self.done.reasons[row] = reason, reward
            self._judge.keep(of_row[row].user, of_row[row].item, reason)
        for user, pattern in state["patterns"]:
            self.done.patterns[user] = pattern
            self._judge.update(user, pattern)
        self._noted = _Noted(**state["noted"])

    def counts(self, n_reasons: int) -> CorrectionCounts:
        """Return what became of a table's reasons."""
        planned, corrected = len(self._plan.all), len(self.done.reasons)
        return CorrectionCounts(
            reasons=n_reasons,
            planned=planned,
            corrected=corrected,
            failed=self._noted.failed,
            open=planned - corrected - self._noted.failed,
            untold=self._plan.n_untold,
            outside=n_reasons - planned - self._plan.n_untold,
            updated=self._noted.updates,
            reward=mean([reward for _, reward in self.done.reasons.values()]),
            before=mean(self._noted.before),
            drawn=mean(self._noted.drawn),
        )
