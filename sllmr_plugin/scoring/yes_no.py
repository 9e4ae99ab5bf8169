"""P(yes): one question about one (user, item), scored by how likely the model was to say yes rather than no."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from ..errors import AnswerError, LogprobsError, ServerError
from ..settings import Bounds
from .answer_text import answer_span
from .answers import answer_of, answer_place, read_tokens
from .client import Completion
from .ledger_file import LedgerAnswer
from .prompts import YES_NO, AnswerKind, PromptTemplate
from .questions import Questions
from .requests import ScoredAnswer, ScoringRequest

#: Alternatives of each token that are asked for unless another number is given: the most that OpenAI returns.
ALTERNATIVES = 20
# One of the two words, in any spelling of case, with what may stand around it: blanks, quotes, marks of emphasis.
_WORD = re.compile(r"[\W_]*(yes|no)(?![^\W_])", re.IGNORECASE)
_LONGEST_ANSWER = 16  # tokens: for models that add a few words to theirs
_EXPECTED_ANSWER = 2  # the word and a full stop


def yes_no_score(
    tokens: Sequence[Mapping[str, Any]] | None, request: ScoringRequest, answer: str | None = None
) -> ScoredAnswer:
    r"""Return how likely the model was to say yes, of the probability that it says yes or no.

    At the first word of the answer, with P the sum of the probabilities of all alternatives that spell the word
    (``Yes``, ``yes``, ``" YES"``, ``"**Yes"``, ...), the score is

    .. math:: P(\text{yes}) / (P(\text{yes}) + P(\text{no})),

    the normalised logits of S-LLMR (paper Sec. 3.1) for a single pair. A word that is not among the alternatives is
    less likely than each of them, and counts as 0.

    Parameters
    ----------
    tokens : sequence of mapping, or None
        As in `expected_scores`.
    request : ScoringRequest
        What the model was asked about: one item.
    answer : str, optional
        As in `expected_scores`.

    Returns
    -------
    ScoredAnswer
        The score of the item, in [0, 1].

    Raises
    ------
    AnswerError
        If the answer does not begin with yes or no, or its thoughts have no end.
    LogprobsError
        As `expected_scores`; or if the word is spelled by several tokens.
    """
    read = read_tokens(tokens)
    text = "".join(token.text for token in read)
    starts = list(itertools.accumulate((len(token.text) for token in read), initial=0))
    start, end = answer_place(text, answer)
    token = read[bisect_right(starts, start + _first_word(text[start:end])) - 1]
    if _WORD.match(token.text) is None:
        raise LogprobsError(
            "the model spells its first word in several tokens, so that their alternatives do not say yes or no. Use "
            "another model, or another form of answer."
        )
    if all(other == token.text for other, _ in token.alternatives):
        raise LogprobsError(
            "the server gave no alternatives for the first word. Use a server that supports top_logprobs, or another "
            "form of answer."
        )
    probability = {"yes": 0.0, "no": 0.0}
    for option, chance in {token.text: token.probability, **dict(token.alternatives)}.items():
        if (word := _WORD.match(option)) is not None:
            probability[word[1].lower()] += chance
    total = probability["yes"] + probability["no"]
    if not total > 0:
        raise LogprobsError("yes and no have no probability at all. Ask for more alternatives, or use another model.")
    return answer_of({0: probability["yes"] / total}, request, 0, 0)


def _first_word(answer: str) -> int:
    """Return where the yes or no stands with which an answer begins; raise `AnswerError` if it does not."""
    found = _WORD.match(answer)
    if found is None:
        raise AnswerError("it does not begin with yes or no. Answer with one word and nothing else: Yes or No.")
    return found.start(1)


@dataclass(frozen=True)
class YesNoQuestions(Questions):
    """Asks about one item at a time, and takes P(yes) for its score (`yes_no_score`).

    Parameters are those of `Questions`, and

    Parameters
    ----------
    template : PromptTemplate
        With ``answer="yes_no"``; by default the template of that name.
    top_logprobs : int, default=20
        Alternatives of the first word that the server is to return. There is no score without them, so a server that
        returns none is a `ServerError`, and the run stops.
    """

    answers: ClassVar[tuple[AnswerKind, ...]] = (YES_NO,)

    template: PromptTemplate = field(default_factory=lambda: PromptTemplate.of(YES_NO, answer=YES_NO))
    top_logprobs: Annotated[int, Bounds(least=1)] = field(default=ALTERNATIVES, kw_only=True)

    def longest_answer(self, request: ScoringRequest) -> int:
        """Return 16."""
        return _LONGEST_ANSWER

    def expected_completion(self, request: ScoringRequest) -> int:
        """Return the tokens of a word and a full stop."""
        return _EXPECTED_ANSWER

    def understood(self, completion: Completion, request: ScoringRequest) -> dict[str, Any]:
        """Return the score; of an answer that was cut off the beginning counts.

        Raises
        ------
        AnswerError
            If the answer does not begin with yes or no.
        ServerError
            If there are no log-probabilities to make a score of: to ask again would bring no other.
        """
        _first_word(completion.text[slice(*answer_span(completion.text))])  # first: that can be asked again
        try:
            return self._content(yes_no_score(completion.logprobs, request, completion.text), request)
        except LogprobsError as error:
            raise ServerError(
                f"{error}",
                "unreadable",
                cause="logprobs",
                advice="The scores of --answer yes_no are made of log-probabilities alone.",
            ) from None

    def reread(self, answer: LedgerAnswer, request: ScoringRequest) -> dict[str, Any]:
        """Return nothing new: the score stays, unless the text is refused today."""
        _first_word(answer.response[slice(*answer_span(answer.response))])
        return {}
