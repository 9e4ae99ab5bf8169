"""Typed errors and warnings; every message ends with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SLLMRError(Exception):
    """Base class of every error that this package raises on purpose."""


class ConfigError(SLLMRError, ValueError):
    """A setting has a value, or settings have a combination of values, that is not valid."""


class WrapError(SLLMRError, ValueError):
    """`wrap` found reasons not to touch the model; `problems` lists them all.

    Parameters
    ----------
    problems : sequence of str
        One sentence or two each: what is wrong and the remedy.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        head = f"the model was left untouched, {len(self.problems)} problem(s) found:"
        super().__init__("\n  - ".join([head, *self.problems]))

    def __reduce__(self) -> tuple[type[WrapError], tuple[list[str]]]:
        return type(self), (self.problems,)


class UnsupportedModelError(WrapError):
    """The model is of a kind that this package cannot wrap (now or at all; the message says which)."""


class AlreadyWrappedError(WrapError):
    """`wrap` was called on a model that is wrapped already."""


class AugmentError(WrapError):
    """`augment` found reasons not to touch the model; `problems` lists them all."""


class NotAugmentedError(SLLMRError, TypeError):
    """An operation that needs an augmented model was given another one."""


class NotWrappedError(SLLMRError, TypeError):
    """An operation that needs a wrapped model was given a plain one."""


class ScoreTableError(SLLMRError, ValueError):
    """The score table cannot be read."""


class CoverageError(ScoreTableError):
    """Nothing of the score table (or text table) can be used with this model or these training data."""


class TextTableError(SLLMRError, ValueError):
    """The text table cannot be read."""


class TextEncoderError(SLLMRError, RuntimeError):
    """A text encoder cannot be used, or gave vectors that cannot."""


class VectorsError(SLLMRError, ValueError):
    """Vectors of items or users cannot be read, or fit no embedding of the model."""


class NoPairsError(SLLMRError, RuntimeError):
    """A whole epoch formed no pair, so the regularizer did nothing."""


class HookNeverFiredError(SLLMRError, RuntimeError):
    """A whole epoch went by without the training loop reaching the regularizer."""


class ProcessesError(SLLMRError, RuntimeError):
    """Several processes cannot train this together, or were given different arguments."""


class DataError(SLLMRError, ValueError):
    """A data file (interactions, items) cannot be used."""


class MissingDataError(DataError):
    """Files of a data set are not where they were looked for; the message says how they are made."""


class MalformedLinesError(DataError):
    """More lines of a raw data file are malformed than is allowed."""


class InterestError(SLLMRError, ValueError):
    """A table of P(interest) sets no threshold, or believes or doubts no row that it is asked about."""


class PromptError(SLLMRError, ValueError):
    """A prompt template, or a request for it, cannot be used."""


class AnswerError(SLLMRError, ValueError):
    """A scorer's answer cannot be used; the message is written to be shown to the language model as well."""


class LogprobsError(SLLMRError, ValueError):
    """A server's token log-probabilities cannot be turned into scores."""


class BackboneError(SLLMRError, ValueError):
    """The zoo cannot build the backbone that was asked for."""


class MissingLibraryError(SLLMRError, ImportError):
    """A library that is optional is needed and not installed."""


class TrackingError(SLLMRError, RuntimeError):
    """A tracker cannot open a run."""


class EvaluationError(SLLMRError, RuntimeError):
    """A model's scores cannot be ranked."""


class NotLearntError(EvaluationError):
    """A student of the LLM ranks clearly worse than what costs nothing, so there is nothing to extend scores by.

    Parameters
    ----------
    message : str
        What was measured.
    report : Extension
        All figures.
    """

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[type[NotLearntError], tuple[str, Any]]:
        return type(self), (str(self), self.report)


class LeakageError(EvaluationError):
    """A held-out interaction is in what a model trains on; `problems` lists every place it was found in.

    Parameters
    ----------
    problems : sequence of str
        One sentence or two each: which rows, and the remedy.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("held-out interactions have leaked into the training: " + " Also: ".join(self.problems))

    def __reduce__(self) -> tuple[type[LeakageError], tuple[list[str]]]:
        return type(self), (self.problems,)


class RunFolderError(SLLMRError, ValueError):
    """A run folder holds results that do not belong with the run at hand."""


class LedgerError(SLLMRError, RuntimeError):
    """The ledger of answers cannot be opened, read or written."""


class ScoringStoppedError(SLLMRError, RuntimeError):
    """A scoring run stopped before every request was answered; the answers so far are in its ledger."""


class ServerError(SLLMRError, RuntimeError):
    """A server gave no usable answer to a request.

    Parameters
    ----------
    message : str
        What happened, free of keys and organisation ids.
    kind : {"limited", "busy", "lost", "unreadable", "refused", "hopeless"}
        ``limited``: too much was asked at a time, try later; ``busy``: not processed, try again; ``lost``: no answer
        came, though the server may have charged for one, try again; ``unreadable``: the same, and another try would
        bring the same; ``refused``: this request will not be answered; ``hopeless``: none will.
    retry_after : float or None, default=None
        Seconds that the server asks to wait.
    status : int or None, default=None
        HTTP status.
    cause : str or None, default=None
        What the server means, if that is known (`scoring.servers.cause_of`).
    advice : str, default=""
        What to do; the error's text ends with it.

    Attributes
    ----------
    reason : str
        The text without the advice.
    """

    def __init__(
        self,
        message: str,
        kind: str,
        retry_after: float | None = None,
        status: int | None = None,
        cause: str | None = None,
        advice: str = "",
    ) -> None:
        super().__init__(f"{message.rstrip('.')}. {advice}" if advice else message)
        self.reason = message
        self.kind = kind
        self.retry_after = retry_after
        self.status = status
        self.cause = cause
        self.advice = advice

    def __reduce__(self) -> tuple[type[ServerError], tuple]:
        arguments = self.reason, self.kind, self.retry_after, self.status, self.cause, self.advice
        return type(self), arguments


class EngineError(SLLMRError, RuntimeError):
    """The engine that was asked for is not installed, has no room, or lost its workers."""


class PriceError(SLLMRError, ValueError):
    """The price of a model is needed and not known, or the file of prices cannot be used."""


class SLLMRWarning(UserWarning):
    """Base class of every warning that this package gives."""


class MalformedLinesWarning(SLLMRWarning):
    """Malformed lines of a raw data file were left out."""


class CoverageWarning(SLLMRWarning):
    """A large part of the score table cannot be used."""


class IdWarning(SLLMRWarning):
    """Ids in a file look as if something had changed them on their way."""


class ItemTableWarning(SLLMRWarning):
    """Values of an item table are far from those that the model trains on."""


class AdaptorWarning(SLLMRWarning):
    """Weights of an augmented model were loaded without those of its adaptor."""


class InactiveWarning(SLLMRWarning):
    """A call of `fit` trains the plain model although the regularizer is switched on."""


class DataSetWarning(SLLMRWarning):
    """A data set is not what its description says."""


class LogprobsWarning(SLLMRWarning):
    """Token log-probabilities were asked for, and the server gave none that can be used."""


class PromptCutWarning(SLLMRWarning):
    """A server dropped a part of a prompt: it counted far fewer tokens than were sent."""


class OrderEchoWarning(SLLMRWarning):
    """Scores follow the order in which the prompts showed the candidates."""


class IncompleteWarning(SLLMRWarning):
    """A scoring run ended without an answer to every request."""


class InterestWarning(SLLMRWarning):
    """A judge of P(interest) is no better than chance, or filters nothing."""


class StepBudgetWarning(SLLMRWarning):
    """A training cannot keep to ``step_budget``, or ended before it was decided."""


class TrackingWarning(SLLMRWarning):
    """A tracker has failed; the training goes on without it."""


class NotLearntWarning(SLLMRWarning):
    """A pre-training ended no better than chance."""


class GateCollapsedWarning(SLLMRWarning):
    """The gate is closed nearly everywhere: the regularizer has become a no-op."""
