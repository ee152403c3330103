"""A real HTTP server that ends at once: uvicorn without its main loop, which looks only ten times a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import uvicorn
from anyio.from_thread import start_blocking_portal
from starlette.types import ASGIApp
from uvicorn.server import ServerState


async def until(condition: Callable[[], bool]) -> None:
    """Look until it is so: what is watched has no event to wait for."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[int]:
    """A free port of this machine that the app answers on; at the end nobody may be left whom it has to answer."""
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, log_level="critical")
    config.load()
    state = ServerState()
    protocol = partial(config.http_protocol_class, config, state, {})
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in [*state.connections]:
            connection.shutdown()
        await until(lambda: not state.connections and not state.tasks)


@contextmanager
def listening_in_a_thread(app: ASGIApp) -> Iterator[str]:
    """The same, with a thread and an event loop of its own; its address."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(listening(app)) as port:
        yield f"http://127.0.0.1:{port}"
