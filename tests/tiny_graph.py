"""The whole graph over two tiny models, behind real HTTP: for tests of what only all processes together can show."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from ray import serve

from lmoe_ray.serving.app import build
from tests.tiny import make_tiny_model, make_tiny_package


@contextmanager
def tiny_graph(root: Path) -> Iterator[str]:
    """Its URL. Two bases, ``left`` and ``right``; both have an expert ``code``, only ``right`` has ``poems``.

    Ray must run. An agent routes; each engine runs four requests and lets four wait.
    """
    left = make_tiny_model(root / "left", "llama", seed=1, max_position_embeddings=1024)
    right = make_tiny_model(root / "right", "qwen2", seed=2, max_position_embeddings=1024)
    args = {
        "models": [
            _model("left", left, make_tiny_package(root / "left-package", left, ("code", "function"))),
            _model("right", right, make_tiny_package(root / "right-package", right, ("code", "poems"))),
        ],
        "router": {"kind": "agent", "num_cpus": 0.5},
        "cache_dir": str(root / "cache"),
    }
    port = free_port()
    # Whoever ran Serve in this session before may have started it at another address, which it would keep.
    serve.shutdown()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(args), name="tiny")
    base_url = f"http://127.0.0.1:{port}"
    wait_ready(base_url)
    try:
        yield base_url
    finally:
        serve.delete("tiny")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _model(name: str, folder: Path, package: Path) -> dict[str, Any]:
    engine = {"max_model_len": 1024, "max_num_seqs": 4, "max_waiting": 4, "dtype": "float32"}
    pool = {"name": f"pool-{name}", "num_cpus": 0.5, "engine": engine}
    return {"name": name, "source": str(folder), "package": str(package), "pools": [pool]}


def wait_ready(base_url: str) -> None:
    end_s = time.monotonic() + 120
    while httpx.get(f"{base_url}/readyz", timeout=10).status_code != 200:
        assert time.monotonic() < end_s, "the graph does not get ready"
        time.sleep(0.5)
