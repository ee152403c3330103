"""Other people's clients against our server: for whoever asks for them by ``-m clients``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from lmoe_ray.api.http_app import build_app
from lmoe_ray.settings import ApiSettings
from tests.browser.conftest import Server
from tests.clients.catalogue import Client
from tests.clients.obliging_backend import ObligingBackend
from tests.serving.conftest import ray_session as ray_session
from tests.tiny_graph import tiny_graph


@dataclass(frozen=True, slots=True)
class Target:
    """A server to ask; ``url`` is without ``/v1``. A real one runs a model, so its words are not known."""

    url: str
    model: str
    is_real: bool


@pytest.fixture(scope="session")
def url(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tiny_graph(tmp_path_factory.mktemp("graph")) as url:
        yield url


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    """The server that ``LMOE_CLIENTS_URL`` names, or one in a thread over a scripted graph."""
    if url := os.environ.get("LMOE_CLIENTS_URL", "").rstrip("/"):
        yield Target(url, httpx.get(f"{url}/v1/models").json()["data"][0]["id"], is_real=True)
        return
    server = Server()
    server.app = build_app(ObligingBackend(), ApiSettings())
    yield Target(server.start().rstrip("/"), "demo", is_real=False)
    server.stop()


@pytest.fixture(scope="session")
def folder_of() -> Callable[[Client], Path]:
    """Where a client was installed; skips if it was not."""

    def folder_of(client: Client) -> Path:
        root = os.environ.get("LMOE_CLIENTS", "")
        if not root:
            pytest.skip("LMOE_CLIENTS names no folder; python -m tests.clients.install FOLDER makes one")
        folder = Path(root) / client.slug
        if not (folder / "installed").exists():
            pytest.skip(f"{client.name} is not in {root}")
        return folder

    return folder_of
