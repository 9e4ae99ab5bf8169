"""Selective LLM-guided regularization for CTR models: better where data are thin, nothing to serve.

Two lines put it into an existing DeepCTR-Torch or FuxiCTR script::

    from sllmr_plugin import wrap
    model = wrap(model, "llm_scores.parquet", user="user_id", item="item_id")
"""

from importlib import import_module
from logging import NullHandler, getLogger
from typing import TYPE_CHECKING

from .moved import find_moved_modules

__version__ = "0.2.0"

getLogger(__name__).addHandler(NullHandler())  # quiet, until a program sets up logging

# A name is imported when it is first asked for (PEP 562): torch, pandas and scikit-learn take seconds, which scoring,
# its workers and `sllmr --help` do not need.
_MODULES = {
    "backends.align": (
        "Alignment",
        "align",
    ),
    "backends.augment": (
        "augment",
        "dense_columns",
        "materialize",
        "serving_table",
        "unaugment",
    ),
    "backends.distill": (
        "Distillation",
        "distill_features",
    ),
    "backends.item_columns": ("sparse_columns",),
    "backends.fuxictr.features": (
        "dense_features",
        "sparse_features",
    ),
    "backends.initialise": (
        "Initialisation",
        "initialise",
    ),
    "backends.synthetic": (
        "SyntheticTraining",
        "add_synthetic",
    ),
    "backends.deepctr.losses": ("SLLMRCallback",),
    "backends.deepctr.mixin": ("SLLMRMixin",),
    "backends.pretrain": (
        "Pretraining",
        "pretrain",
    ),
    "backends.similar": (
        "SimilarUsers",
        "similar_users",
    ),
    "config": ("SelectiveConfig",),
    "errors": (
        "AdaptorWarning",
        "AlreadyWrappedError",
        "AugmentError",
        "ConfigError",
        "CoverageError",
        "CoverageWarning",
        "DataError",
        "GateCollapsedWarning",
        "HookNeverFiredError",
        "InactiveWarning",
        "InterestError",
        "InterestWarning",
        "NoPairsError",
        "NotAugmentedError",
        "NotLearntError",
        "NotLearntWarning",
        "NotWrappedError",
        "ProcessesError",
        "SLLMRError",
        "SLLMRWarning",
        "ScoreTableError",
        "StepBudgetWarning",
        "TextEncoderError",
        "TextTableError",
        "TrackingError",
        "TrackingWarning",
        "UnsupportedModelError",
        "VectorsError",
        "WrapError",
    ),
    "evaluation.active": ("choose_users",),
    "evaluation.compare": ("compare",),
    "evaluation.explain": (
        "Explanation",
        "explain",
    ),
    "evaluation.extend": ("extend_scores",),
    "evaluation.reason_rewards": ("ReasonRewards",),
    "evaluation.tune": ("tune",),
    "datasets.interactions": ("load_interactions",),
    "datasets.interest": (
        "Interest",
        "pairs_to_judge",
    ),
    "datasets.synthetic": ("SyntheticInteractions",),
    "evaluation.reliability": (
        "Reliability",
        "reliability",
    ),
    "knowledge": (
        "CURecAdaptor",
        "EmbedAdaptor",
        "KARAdaptor",
        "LLMCFAdaptor",
        "RecLMAdaptor",
    ),
    "knowledge.id_vectors": ("Vectors",),
    "knowledge.item_features": ("ItemFeatures",),
    "knowledge.semantic_ids": ("SemanticIds",),
    "knowledge.texts": ("TextTable",),
    "knowledge.triples": ("Triples",),
    "knowledge.vectors": (
        "SentenceTransformerEncoder",
        "TextEncoder",
        "TfidfSvdEncoder",
        "UniversalSentenceEncoder",
    ),
    "regularizer.loss": ("SelectiveLoss",),
    "scores.table": (
        "Coverage",
        "ScoreTable",
    ),
    "scoring.candidates": ("draw_candidates",),
    "scoring.correct": ("correct_reasons",),
    "scoring.embeddings.write": ("embed_texts",),
    "scoring.run": ("score_candidates",),
    "scoring.synthesize": ("synthesize_interactions",),
    "scoring.texts": ("write_texts",),
    "tracking": (
        "TrackedRun",
        "Tracker",
        "TrackingCallback",
        "open_tracker",
    ),
    "wrapping": (
        "disabled",
        "load",
        "unwrap",
        "wrap",
    ),
}
find_moved_modules(__name__)
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

if TYPE_CHECKING:  # the same names for type checkers and editors
    from .backends.align import Alignment as Alignment
    from .backends.align import align as align
    from .backends.augment import augment as augment
    from .backends.augment import dense_columns as dense_columns
    from .backends.augment import materialize as materialize
    from .backends.augment import serving_table as serving_table
    from .backends.augment import unaugment as unaugment
    from .backends.deepctr.losses import SLLMRCallback as SLLMRCallback
    from .backends.deepctr.mixin import SLLMRMixin as SLLMRMixin
    from .backends.distill import Distillation as Distillation
    from .backends.distill import distill_features as distill_features
    from .backends.fuxictr.features import dense_features as dense_features
    from .backends.fuxictr.features import sparse_features as sparse_features
    from .backends.initialise import Initialisation as Initialisation
    from .backends.initialise import initialise as initialise
    from .backends.item_columns import sparse_columns as sparse_columns
    from .backends.pretrain import Pretraining as Pretraining
    from .backends.pretrain import pretrain as pretrain
    from .backends.similar import SimilarUsers as SimilarUsers
    from .backends.similar import similar_users as similar_users
    from .backends.synthetic import SyntheticTraining as SyntheticTraining
    from .backends.synthetic import add_synthetic as add_synthetic
    from .config import SelectiveConfig as SelectiveConfig
    from .datasets.interactions import load_interactions as load_interactions
    from .datasets.interest import Interest as Interest
    from .datasets.interest import pairs_to_judge as pairs_to_judge
    from .datasets.synthetic import SyntheticInteractions as SyntheticInteractions
    from .errors import AdaptorWarning as AdaptorWarning
    from .errors import AlreadyWrappedError as AlreadyWrappedError
    from .errors import AugmentError as AugmentError
    from .errors import ConfigError as ConfigError
    from .errors import CoverageError as CoverageError
    from .errors import CoverageWarning as CoverageWarning
    from .errors import DataError as DataError
    from .errors import GateCollapsedWarning as GateCollapsedWarning
    from .errors import HookNeverFiredError as HookNeverFiredError
    from .errors import InactiveWarning as InactiveWarning
    from .errors import InterestError as InterestError
    from .errors import InterestWarning as InterestWarning
    from .errors import NoPairsError as NoPairsError
    from .errors import NotAugmentedError as NotAugmentedError
    from .errors import NotLearntError as NotLearntError
    from .errors import NotLearntWarning as NotLearntWarning
    from .errors import NotWrappedError as NotWrappedError
    from .errors import ProcessesError as ProcessesError
    from .errors import ScoreTableError as ScoreTableError
    from .errors import SLLMRError as SLLMRError
    from .errors import SLLMRWarning as SLLMRWarning
    from .errors import StepBudgetWarning as StepBudgetWarning
    from .errors import TextEncoderError as TextEncoderError
    from .errors import TextTableError as TextTableError
    from .errors import TrackingError as TrackingError
    from .errors import TrackingWarning as TrackingWarning
    from .errors import UnsupportedModelError as UnsupportedModelError
    from .errors import VectorsError as VectorsError
    from .errors import WrapError as WrapError
    from .evaluation.active import choose_users as choose_users
    from .evaluation.compare import compare as compare
    from .evaluation.explain import Explanation as Explanation
    from .evaluation.explain import explain as explain
    from .evaluation.extend import extend_scores as extend_scores
    from .evaluation.reason_rewards import ReasonRewards as ReasonRewards
    from .evaluation.reliability import Reliability as Reliability
    from .evaluation.reliability import reliability as reliability
    from .evaluation.tune import tune as tune
    from .knowledge import CURecAdaptor as CURecAdaptor
    from .knowledge import EmbedAdaptor as EmbedAdaptor
    from .knowledge import KARAdaptor as KARAdaptor
    from .knowledge import LLMCFAdaptor as LLMCFAdaptor
    from .knowledge import RecLMAdaptor as RecLMAdaptor
    from .knowledge.id_vectors import Vectors as Vectors
    from .knowledge.item_features import ItemFeatures as ItemFeatures
    from .knowledge.semantic_ids import SemanticIds as SemanticIds
    from .knowledge.texts import TextTable as TextTable
    from .knowledge.triples import Triples as Triples
    from .knowledge.vectors import SentenceTransformerEncoder as SentenceTransformerEncoder
    from .knowledge.vectors import TextEncoder as TextEncoder
    from .knowledge.vectors import TfidfSvdEncoder as TfidfSvdEncoder
    from .knowledge.vectors import UniversalSentenceEncoder as UniversalSentenceEncoder
    from .regularizer.loss import SelectiveLoss as SelectiveLoss
    from .scores.table import Coverage as Coverage
    from .scores.table import ScoreTable as ScoreTable
    from .scoring.candidates import draw_candidates as draw_candidates
    from .scoring.correct import correct_reasons as correct_reasons
    from .scoring.embeddings.write import embed_texts as embed_texts
    from .scoring.run import score_candidates as score_candidates
    from .scoring.synthesize import synthesize_interactions as synthesize_interactions
    from .scoring.texts import write_texts as write_texts
    from .tracking import TrackedRun as TrackedRun
    from .tracking import Tracker as Tracker
    from .tracking import TrackingCallback as TrackingCallback
    from .tracking import open_tracker as open_tracker
    from .wrapping import disabled as disabled
    from .wrapping import load as load
    from .wrapping import unwrap as unwrap
    from .wrapping import wrap as wrap

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
