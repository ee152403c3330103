"""A terminal chat with a fake server and a screen that can be read."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
from rich.console import Console

from lmoe_ray.api.client import Client
from lmoe_ray.api.http_app import build_app
from lmoe_ray.cli.chat_session import ChatSession
from lmoe_ray.cli.chat_store import ChatStore, Conversation
from lmoe_ray.settings import ApiSettings
from tests.fakes import FakeBackend
from tests.real_server import listening_in_a_thread

DEADLINE_S = 10.0


def screen(*, is_terminal: bool = False, width: int = 200, height: int = 50) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=is_terminal,
        color_system="standard" if is_terminal else None,
        legacy_windows=False,
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@asynccontextmanager
async def chatting(
    backend: FakeBackend, console: Console, *, notes: Console | None = None, store: ChatStore | None = None
) -> AsyncIterator[ChatSession]:
    """A session whose answers arrive all at once."""
    transport = httpx.ASGITransport(build_app(backend, ApiSettings()))
    async with Client("http://lmoe.test", transport=transport) as client:
        yield ChatSession(client, Conversation("demo"), 1000, console, notes=notes, store=store)


@asynccontextmanager
async def streaming(backend: FakeBackend, console: Console) -> AsyncIterator[ChatSession]:
    """A session over a real connection: what is said arrives at once."""
    with listening_in_a_thread(build_app(backend, ApiSettings())) as url:
        async with Client(url) as client:
            yield ChatSession(client, Conversation("demo"), 1000, console)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.005)


async def ctrl_c_once(condition: Callable[[], bool]) -> None:
    """What the terminal sends when the user presses it at that moment."""
    await asyncio.to_thread(wait_until, condition)
    os.kill(os.getpid(), signal.SIGINT)


def said(backend: FakeBackend) -> list[str]:
    """What the last request told the server."""
    return [message.content for message in backend.requests[-1].messages]
