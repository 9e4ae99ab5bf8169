"""Text encoders: texts in, one vector each out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ..errors import TextEncoderError


@runtime_checkable
class TextEncoder(Protocol):
    """Anything with this one method encodes texts."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return an (n_texts, d) float32 vector a text.

        Called once with all texts of users and items together, so that an encoder may learn from them, and where there
        are reasoning texts once more, with these.
        """
        ...


class TfidfSvdEncoder:
    """TF-IDF of words, condensed by a truncated singular value decomposition (latent semantic analysis).

    Knows nothing but which words occur together in the texts that it is given. Needs no download and no accelerator.

    Parameters
    ----------
    dim : int, default=64
        Length of the vectors; fewer where the texts hold fewer words.
    seed : int, default=0
        Of the randomised decomposition.
    """

    def __init__(self, dim: int = 64, seed: int = 0) -> None:
        if dim < 1:
            raise TextEncoderError(f"dim={dim} leaves no vector. Pass a dim of at least 1.")
        self.dim = dim
        self.seed = seed

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Fit on the texts and encode them: (n_texts, d) float32.

        Raises
        ------
        TextEncoderError
            If there is no word in any of them.
        """
        # A second's work to import, that only those who encode should wait for.
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        try:
            weights = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit_transform(texts)
        except ValueError:  # an empty vocabulary
            raise TextEncoderError("the texts hold no words that could be compared. Check the text column.") from None
        dim = min(self.dim, *weights.shape)
        return TruncatedSVD(dim, random_state=self.seed).fit_transform(weights).astype(np.float32)


class SentenceTransformerEncoder:
    """A model of the library sentence-transformers, which the extra ``sllmr-plugin[texts]`` installs.

    Parameters
    ----------
    model : str, default="all-MiniLM-L6-v2"
        Name or folder. A name that is not on this machine is downloaded by that library.
    batch_size : int, default=64
        Texts encoded at a time.
    device : str, optional
        A torch device; None lets the library choose.

    Raises
    ------
    TextEncoderError
        If the library is not installed or cannot load the model.
    """

    def __init__(self, model: str = "all-MiniLM-L6-v2", *, batch_size: int = 64, device: str | None = None) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise TextEncoderError(
                "sentence-transformers is not installed. Run `pip install 'sllmr-plugin[texts]'`, or use "
                "TfidfSvdEncoder."
            ) from None
        try:
            self._model = SentenceTransformer(model, device=device)
        except Exception as error:  # the library raises whatever its download or its files give rise to
            raise TextEncoderError(
                f"sentence-transformers cannot load {model!r} ({error}). Give the name or the "
                "folder of one of its models."
            ) from error
        self.batch_size = batch_size

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts: (n_texts, d) float32."""
        vectors = self._model.encode(list(texts), batch_size=self.batch_size, convert_to_numpy=True)
        return np.asarray(vectors, dtype=np.float32)


def encode_checked(encoder: TextEncoder, texts: Sequence[str]) -> np.ndarray:
    """Encode texts and refuse what cannot be used; scaled to a root mean square of 1 over all entries.

    Encoders differ in the size of their vectors (unit length, or tens), and layers initialised for inputs of size 1
    learn slowly from small ones. Directions and relative lengths stay.

    Raises
    ------
    TextEncoderError
        If the encoder gives another shape, no finite numbers, or zeros only.
    """
    vectors = np.asarray(encoder.encode(texts), dtype=np.float32)
    name = type(encoder).__name__
    if vectors.ndim != 2 or len(vectors) != len(texts) or vectors.shape[1] == 0:
        raise TextEncoderError(
            f"{name} gave an array of shape {vectors.shape} for {len(texts)} texts. Return one vector a text: (n, d)."
        )
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise TextEncoderError(
            f"{name} gave {int(bad.sum())} vectors that are not finite, first for {texts[int(bad.argmax())]!r}. "
            "Correct the encoder."
        )
    size = float(np.sqrt(np.square(vectors, dtype=np.float64).mean()))
    if size == 0:
        raise TextEncoderError(f"{name} gave nothing but zeros. Correct the encoder.")
    return (vectors / size).astype(np.float32)
