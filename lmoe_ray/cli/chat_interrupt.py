"""Ctrl-C while an answer runs stops the answer, not the program."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any


async def ran_through(work: Coroutine[Any, Any, None]) -> bool:
    """Run ``work``; ``False`` if Ctrl-C cancelled it. Its errors are raised. From the main thread only."""
    loop, task = asyncio.get_running_loop(), asyncio.create_task(work)
    with _interrupts(lambda: loop.call_soon_threadsafe(task.cancel)):
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
    if task.cancelled():
        return False
    task.result()
    return True


@contextmanager
def _interrupts(handle: Callable[[], object]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, lambda *_: handle())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
