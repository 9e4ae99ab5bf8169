"""Scores and texts from a language model, offline: interactions in, tables out, every answer kept.

from sllmr_plugin.scoring import draw_candidates, score_candidates

draw_candidates("clicks.csv", "items.csv", users=1000, out="candidates.parquet")
score_candidates("candidates.parquet", "clicks.csv", "items.csv", out="llm_scores.parquet", max_cost=5)
"""

from importlib import import_module
from typing import TYPE_CHECKING

# A name is imported when it is first asked for: a worker of a cluster needs few of these modules.
_MODULES = {
    "attributes": ("AttributeResult", "AttributeSettings", "propose_vocabulary", "write_attributes"),
    "candidates": ("CandidateSettings", "Candidates", "draw_candidates", "read_categories"),
    "client": ("OpenAIClient",),
    "content": ("ContentScorer",),
    "correct": ("CorrectionResult", "CorrectSettings", "correct_reasons"),
    "embeddings.write": ("EmbeddingResult", "EmbedSettings", "embed_texts"),
    "ledger": ("Ledger",),
    "ledger_file": ("LedgerReader",),
    "prices": ("RunLimits", "RunSummary"),
    "prompts": ("PromptTemplate",),
    "questions": ("Questions",),
    "requests": ("ScoredAnswer", "Scorer", "ScoringRequest", "ScoringRequests", "plan_requests"),
    "run": ("Estimate", "ScoringResult", "score_candidates"),
    "scorers": ("LexicalScorer", "score_with"),
    "settings": ("ScoreSettings",),
    "synthesize": ("SynthesisResult", "SynthesisSettings", "synthesize_interactions"),
    "table": ("build_score_table", "read_metadata", "write_score_table"),
    "texts": ("TextResult", "TextSettings", "write_texts"),
    "vocabulary": ("Vocabulary",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

if TYPE_CHECKING:  # the same names for type checkers and editors
    from .attributes import AttributeResult as AttributeResult
    from .attributes import AttributeSettings as AttributeSettings
    from .attributes import propose_vocabulary as propose_vocabulary
    from .attributes import write_attributes as write_attributes
    from .candidates import Candidates as Candidates
    from .candidates import CandidateSettings as CandidateSettings
    from .candidates import draw_candidates as draw_candidates
    from .candidates import read_categories as read_categories
    from .client import OpenAIClient as OpenAIClient
    from .content import ContentScorer as ContentScorer
    from .correct import CorrectionResult as CorrectionResult
    from .correct import CorrectSettings as CorrectSettings
    from .correct import correct_reasons as correct_reasons
    from .embeddings.write import EmbeddingResult as EmbeddingResult
    from .embeddings.write import EmbedSettings as EmbedSettings
    from .embeddings.write import embed_texts as embed_texts
    from .ledger import Ledger as Ledger
    from .ledger_file import LedgerReader as LedgerReader
    from .prices import RunLimits as RunLimits
    from .prices import RunSummary as RunSummary
    from .prompts import PromptTemplate as PromptTemplate
    from .questions import Questions as Questions
    from .requests import ScoredAnswer as ScoredAnswer
    from .requests import Scorer as Scorer
    from .requests import ScoringRequest as ScoringRequest
    from .requests import ScoringRequests as ScoringRequests
    from .requests import plan_requests as plan_requests
    from .run import Estimate as Estimate
    from .run import ScoringResult as ScoringResult
    from .run import score_candidates as score_candidates
    from .scorers import LexicalScorer as LexicalScorer
    from .scorers import score_with as score_with
    from .settings import ScoreSettings as ScoreSettings
    from .synthesize import SynthesisResult as SynthesisResult
    from .synthesize import SynthesisSettings as SynthesisSettings
    from .synthesize import synthesize_interactions as synthesize_interactions
    from .table import build_score_table as build_score_table
    from .table import read_metadata as read_metadata
    from .table import write_score_table as write_score_table
    from .texts import TextResult as TextResult
    from .texts import TextSettings as TextSettings
    from .texts import write_texts as write_texts
    from .vocabulary import Vocabulary as Vocabulary

else:  # at run time: a checker that saw these would take any name for one of the package's, or none
    __all__ = sorted(_MODULE_OF)

    def __getattr__(name):
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
        globals()[name] = value  # asked for once
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
