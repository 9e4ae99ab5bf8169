"""What a language model wrote, put into models: texts, vectors, and the baselines KAR and LLM-CF."""

from .adaptor import Adaptor
from .kar import KARAdaptor
from .llm_cf import LLMCFAdaptor
from .texts import TextCoverage, TextTable
from .vectors import EncodedTexts, SentenceTransformerEncoder, TextEncoder, TfidfSvdEncoder

__all__ = [
    "Adaptor",
    "EncodedTexts",
    "KARAdaptor",
    "LLMCFAdaptor",
    "SentenceTransformerEncoder",
    "TextCoverage",
    "TextEncoder",
    "TextTable",
    "TfidfSvdEncoder",
]
