"""`EmbeddingClient`: the vectors of some texts from any OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ServerError
from ..client import Completion, OpenAIClient, read_usage
from .packing import packed

_TOO_LONG = "Shorten the texts, or send fewer at a time with a smaller --batch-size."


class EmbeddingClient(OpenAIClient):
    """Asks ``POST /embeddings``, with the key, the errors and the connections of `OpenAIClient`.

    Vectors are asked for in base64, which is exact and a third of the size of numbers in JSON. A server that refuses
    the first request, as some do that know no base64, is asked again for numbers.

    Parameters
    ----------
    model, base_url, timeout
        As of `OpenAIClient`.
    """

    def __init__(self, model: str, *, base_url: str | None = None, timeout: float = 60.0) -> None:
        super().__init__(model, base_url=base_url, timeout=timeout)
        self._base64 = True

    async def complete(
        self, messages: Sequence[Mapping[str, Any]], n_candidates: int, parameters: Mapping[str, Any]
    ) -> Completion:
        """Ask once for the vector of each message's content.

        Parameters
        ----------
        messages : sequence of mapping
            Of each, ``content`` is a text.
        n_candidates : int
            Not used.
        parameters : mapping
            ``dimensions`` and ``extra_body``, each of which may be missing or None.

        Returns
        -------
        Completion
            Its text is what `packing.packed` makes of the vectors, usable or not.

        Raises
        ------
        ServerError
            If no answer came. Its `kind` says whether to try again.
        """
        try:
            answer = await self._embed(messages, parameters)
        except ServerError as problem:
            perhaps_for_base64 = problem.status in (400, 422) and problem.cause in (None, "format")
            if self.answered or not self._base64 or not perhaps_for_base64:
                raise
            self._base64 = False
            answer = await self._embed(messages, parameters)
        self.answered = True
        prompt_tokens, _, cached_tokens = read_usage(answer, messages, "")
        return Completion(packed(answer["data"]), prompt_tokens, 0, cached_tokens=cached_tokens, form=self.form)

    async def _embed(self, messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send the texts once; raise `ServerError` unless a list comes back."""
        body: dict[str, Any] = {"model": self.model, "input": [message["content"] for message in messages]}
        if self._base64:
            body["encoding_format"] = "base64"
        if parameters.get("dimensions") is not None:
            body["dimensions"] = parameters["dimensions"]
        if extra := parameters.get("extra_body"):
            self._hide(extra)
            body.update(extra)
        try:
            answer = await self._post("/embeddings", body)
        except ServerError as problem:
            if problem.cause != "context":
                raise
            told = problem.reason, problem.kind, problem.retry_after, problem.status, problem.cause
            raise ServerError(*told, advice=_TOO_LONG) from None
        if isinstance(answer, Mapping) and not answer.get("error"):
            if isinstance(answer.get("data"), list):
                return answer
            raise ServerError(f"the answer is not a list of vectors: {self._errors.shortened(str(answer))}", "lost")
        problem_in_it = self._errors.in_an_answer(answer, answered=self.answered)
        raise problem_in_it or ServerError("the answer is not a list of vectors", "lost")
