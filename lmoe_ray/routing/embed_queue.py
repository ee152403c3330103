"""Requests that wait for an embedding, and the one thread that computes it.

While the thread works on one batch, later texts gather; when it is done, they are the next batch. So
a lone text never waits for company, and under load batches grow by themselves, up to a bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

#: Texts to unit vectors, ``[num_texts, dim]`` float32, in order.
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Batch:
    """How much is embedded together: so many texts at most, and as long as they have so many characters in all.

    Characters stand for tokens, which are not known before the batch is made. A longer text goes alone.
    """

    max_texts: int
    max_chars: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    text: str
    vector: asyncio.Future[NDArray[np.float32]]


class EmbedQueue:
    """Embeds single texts of concurrent requests, a ``batch`` together, first come first served.

    All callers must be coroutines of one event loop. The thread lives as long as the queue.
    """

    def __init__(self, embed: Embed, batch: Batch) -> None:
        self._embed = embed
        self._batch = batch
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")

    async def embed_one(self, text: str) -> NDArray[np.float32]:
        """The unit vector of ``text``, ``[dim]``; raises what the embedder raised."""
        loop = asyncio.get_running_loop()
        item = _Waiting(text, loop.create_future())
        self._waiting.append(item)
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        return await item.vector

    def close(self) -> None:
        """Let the thread go after its current batch."""
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        try:
            while self._waiting:
                # A client that left while it waited has cancelled its future.
                self._waiting = [item for item in self._waiting if not item.vector.done()]
                size = self._next_size()
                batch, self._waiting = self._waiting[:size], self._waiting[size:]
                if batch:
                    await self._run(batch)
        finally:
            self._worker = None

    def _next_size(self) -> int:
        """How many of those that wait longest are embedded next."""
        chars = accumulate(len(item.text) for item in self._waiting)
        within = sum(total <= self._batch.max_chars for total in chars)
        return min(max(within, 1), self._batch.max_texts)

    async def _run(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            vectors = await loop.run_in_executor(self._thread, self._embed, [item.text for item in batch])
        except Exception as exc:  # whatever it was, the callers must hear of it, and the queue must go on
            logger.exception("embedding failed num_texts=%d", len(batch))
            for item in batch:
                if not item.vector.done():
                    item.vector.set_exception(exc)
            return
        for item, vector in zip(batch, vectors, strict=True):
            if not item.vector.done():
                item.vector.set_result(vector)
