"""What a language model wrote, put into models: texts, vectors, and what makes inputs of them."""

from .adaptor import Adaptor
from .curec import CURecAdaptor
from .embed import EmbedAdaptor
from .kar import KARAdaptor
from .llm_cf import LLMCFAdaptor
from .reclm import RecLMAdaptor
from .texts import TextCoverage, TextTable
from .vectors import EncodedTexts, SentenceTransformerEncoder, TextEncoder, TfidfSvdEncoder, UniversalSentenceEncoder

__all__ = [
    "Adaptor",
    "CURecAdaptor",
    "EmbedAdaptor",
    "EncodedTexts",
    "KARAdaptor",
    "LLMCFAdaptor",
    "RecLMAdaptor",
    "SentenceTransformerEncoder",
    "TextCoverage",
    "TextEncoder",
    "TextTable",
    "TfidfSvdEncoder",
    "UniversalSentenceEncoder",
]
