"""Reads a backend's deltas in a task of its own, so that waiting for one can time out without losing it.

Deltas that come faster than the client reads add up to one for each answer, so a slow client costs no queue.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Self

from lmoe_ray.domain.stream import TokenDelta, Unread
from lmoe_ray.errors import EngineFailed, GenerationTimeout, ReplicaLost

#: After the last delta the generator may finish by itself this long, before it is cancelled.
_GRACE_S = 1.0


class DeltaFeed:
    """The answers to one request on their way. Leaving the context stops the reader and closes the generator."""

    def __init__(self, deltas: AsyncGenerator[TokenDelta, None], timeout_s: float, num_answers: int = 1) -> None:
        """``timeout_s`` is the longest silence before :meth:`get` gives up."""
        self._deltas = deltas
        self._timeout_s = timeout_s
        self._unread = Unread()
        self._news = asyncio.Event()
        self._num_unfinished = num_answers

    async def __aenter__(self) -> Self:
        self._last_s = asyncio.get_running_loop().time()
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._news.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self.is_complete:
                await asyncio.wait([self._reader], timeout=_GRACE_S)
        finally:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    @property
    def is_complete(self) -> bool:
        """Every answer has been read to its end."""
        return self._num_unfinished == 0

    async def get(self) -> TokenDelta:
        """All text of one answer since it was last read; waits for the next. Call it until the feed is complete.

        Raises:
            GenerationTimeout: no token within the feed's timeout.
            ReplicaLost: the engine gave the answer up.
            EngineFailed: an answer ended without a finish reason.
            LMoEError: whatever the backend raised.
        """
        delta = await self.get_within(math.inf)
        assert delta is not None, "infinite patience ran out. This is a bug."
        return delta

    async def get_within(self, patience_s: float) -> TokenDelta | None:
        """As :meth:`get`, but ``None`` if nothing came within ``patience_s``."""
        left_s = self._last_s + self._timeout_s - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(patience_s, left_s)):
                await self._news.wait()
        except TimeoutError:
            if left_s <= patience_s:
                raise GenerationTimeout(self._timeout_s) from None
            return None
        return self._take()

    async def rest(self, first: TokenDelta) -> tuple[TokenDelta, ...]:
        """Every answer whole, by index: ``first`` plus everything that follows."""
        answers = {first.index: first}
        while not self.is_complete:
            delta = await self.get()
            earlier = answers.get(delta.index)
            answers[delta.index] = delta if earlier is None else earlier + delta
        return tuple(answers[index] for index in sorted(answers))

    def _take(self) -> TokenDelta:
        if not self._unread:
            self._reader.result()
            raise EngineFailed("the answer ended without a finish reason")
        delta = self._unread.take()
        if not self._unread and not self._reader.done():
            self._news.clear()
        if delta.finish_reason == "abort":
            raise ReplicaLost("this model")
        self._last_s = asyncio.get_running_loop().time()
        self._num_unfinished -= delta.finish_reason is not None
        return delta

    async def _read(self) -> None:
        async with aclosing(self._deltas):
            async for delta in self._deltas:
                self._unread.add(delta)
                self._news.set()
