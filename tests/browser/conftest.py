"""A real browser on the chat page, over a scripted graph: one browser and one address for each module.

The address stays, so that the browser need not load the page's files anew for each test; what it stored
there is cleared instead. Tests see the page through the browser only, and the backend's own record.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from starlette.types import ASGIApp, Receive, Scope, Send

from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.backend import Backend
from lmoe_ray.api.http_app import build_app
from lmoe_ray.settings import ApiSettings
from tests.browser.reader import Reader
from tests.fakes import FakeBackend

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Without a sandbox because containers give it no namespaces: nothing but our own server is visited.
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
DEADLINE_S = 10.0


class Server:
    """Whatever is in ``app``, on a free port, in a thread of its own."""

    def __init__(self) -> None:
        self.app: ASGIApp = build_app(FakeBackend(), ApiSettings())
        config = uvicorn.Config(
            self._answer, "127.0.0.1", 0, interface="asgi3", lifespan="off", ws="none", log_level="error"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> str:
        """Serve until :meth:`stop`; returns the address of the page."""
        self._thread.start()
        deadline_s = time.monotonic() + DEADLINE_S
        while not self._server.started:
            assert time.monotonic() < deadline_s, "the server did not start"
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Server, str]]:
    """A server and its address."""
    server = Server()
    yield server, server.start()
    server.stop()


@pytest.fixture(scope="module")
def browser(server: tuple[Server, str]) -> Iterator[webdriver.Chrome]:
    """Headless Chromium. It comes after the server, so that it has left when that stops."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)} and chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture
def downloads(browser: webdriver.Chrome, tmp_path: Path) -> Path:
    """An empty folder that the browser downloads to."""
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    return tmp_path


@pytest.fixture
def read(server: tuple[Server, str], browser: webdriver.Chrome) -> Iterator[Callable[..., Reader]]:
    """Open the page over a backend, 1200 pixels wide; whatever the page complains of fails the test.

    Keyword arguments are the API's settings; ``keys`` closes it.
    """
    readers: list[Reader] = []
    served, url = server

    def read(backend: Backend, *, keys: KeyRing | None = None, keep_alive_s: float = 10.0, **settings: Any) -> Reader:
        served.app = build_app(backend, ApiSettings(**settings), keys=keys, keep_alive_s=keep_alive_s)
        readers.append(Reader(browser, url))
        return readers[-1]

    yield read
    for reader in readers:
        assert reader.complaints() == []
        reader.leave()


@pytest.fixture
def page(server: tuple[Server, str], browser: webdriver.Chrome) -> Reader:
    """The page for tests of its modules alone: they change nothing on it, so it is not opened for each."""
    return Reader(browser, server[1])
