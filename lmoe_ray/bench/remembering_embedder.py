"""An embedder that computes every text once, so that a second rule costs no second pass through the model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lmoe_ray.routing.expert_index import Progress, Vectors
from lmoe_ray.routing.similarity import QueryEmbedder


class RememberingEmbedder:
    """Asks another embedder for what it has not seen yet; keeps everything, so it is for measurements only.

    Attributes:
        waited_s: seconds in which at least one query waited for the other embedder, since the start.
    """

    def __init__(self, embedder: QueryEmbedder) -> None:
        self.identity, self.space, self.max_tokens = embedder.identity, embedder.space, embedder.max_tokens
        self._embedder = embedder
        self._queries: dict[str, Vectors] = {}
        self._samples: dict[tuple[str, ...], Vectors] = {}
        self.waited_s = 0.0
        self._num_waiting = 0
        self._waiting_since_s = 0.0

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        if tuple(texts) not in self._samples:
            self._samples[tuple(texts)] = self._embedder.embed(texts, progress)
        return self._samples[tuple(texts)]

    async def embed_one(self, text: str) -> Vectors:
        if text not in self._queries:
            with self._waiting():
                self._queries[text] = await self._embedder.embed_one(text)
        return self._queries[text]

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        if not self._num_waiting:
            self._waiting_since_s = time.monotonic()
        self._num_waiting += 1
        try:
            yield
        finally:
            self._num_waiting -= 1
            if not self._num_waiting:
                self.waited_s += time.monotonic() - self._waiting_since_s

    def known_share(self, text: str) -> float:
        return self._embedder.known_share(text)
