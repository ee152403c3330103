"""Vectors of texts for whoever asks, from the embedder that routes: a few at a time, so that routing is not held up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from lmoe_ray.domain.embedding import Embeddings, EmbedRequest
from lmoe_ray.errors import InvalidField, UnsupportedValue
from lmoe_ray.routing.expert_index import Vectors
from lmoe_ray.routing.text_tokens import MAX_CHARS_PER_TOKEN
from lmoe_ray.settings import RouterSettings

#: Texts in the embedder's queue at once: a request to be routed waits for so many at most.
GROUP = 4


class TextEmbedder(Protocol):
    """What is needed of :class:`lmoe_ray.routing.embedder.Embedder`."""

    max_tokens: int
    dim: int

    async def embed_one(self, text: str) -> Vectors: ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...


Made = TypeVar("Made", bound=TextEmbedder)


class LazyEmbedder(Generic[Made]):
    """Makes an embedder when it is first needed, and once: an agent routes without one."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: Made | None = None

    def get(self) -> Made:
        """Blocks while it is made; raises what making it raises."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made


def embedder_name(settings: RouterSettings) -> str:
    """What the embedder is called where its vectors are shown; the folders above it stay private."""
    name = settings.embedder.removeprefix("builtin:").rstrip("/").rpartition("/")[2]
    return f"{name}-static" if settings.embedding == "static" else name


async def embed_texts(request: EmbedRequest, embedder: TextEmbedder, name: str) -> Embeddings:
    """
    Raises:
        UnsupportedValue: vectors of another length are asked for.
        InvalidField: a text is longer than the embedder reads, and may not be cut.
    """
    if request.dimensions not in (None, embedder.dim):
        problem = f"{name} makes vectors of {embedder.dim} numbers and no others (got {request.dimensions})"
        raise UnsupportedValue("dimensions", f"{problem}; leave it out")
    counts = await asyncio.to_thread(embedder.count_tokens, request.texts)
    if not request.truncate:
        _require_short(request.texts, counts, embedder.max_tokens)
    vectors: list[bytes] = []
    for start in range(0, len(request.texts), GROUP):
        group = await asyncio.gather(*map(embedder.embed_one, request.texts[start : start + GROUP]))
        vectors += [vector.astype(np.dtype("<f4")).tobytes() for vector in group]
    return Embeddings(name, tuple(vectors), sum(min(count, embedder.max_tokens) for count in counts))


def _require_short(texts: Sequence[str], counts: Sequence[int], max_tokens: int) -> None:
    max_chars = max_tokens * MAX_CHARS_PER_TOKEN
    for at, (text, count) in enumerate(zip(texts, counts, strict=True)):
        if count > max_tokens or len(text) > max_chars:
            problem = f"text {at} has more than the {max_tokens} tokens that count"
            raise InvalidField("input", f"{problem}; split it, or send truncate: true to have it cut")
