"""The same engine behind HTTP and the whole Ray graph: what a client gets of what the engine gives.

A graph of its own is started on a free port, and each request is a stream of server-sent events with its
expert named. Between replicas tokens travel in bundles, so all that is known of an answer's tokens is when
the first and the last event came: those between count with the last one. Which tokens they were is told by the
tokenizer, from the text.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import yaml
from lmoe_peer import experts_of  # type: ignore[import-not-found]
from peer_protocol import Arrivals, Run, Start, serve  # type: ignore[import-not-found]
from tokenizers import Tokenizer

from lmoe_ray.api.client import Client

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0


class LmoeGraph:
    """``lmoe serve`` in a process group of its own, and a client of it."""

    def __init__(self, start: Start) -> None:
        self.dtype = start.dtype
        self._experts = [expert.name for expert in experts_of(start.adapters)]
        self._tokenizer = Tokenizer.from_file(str(Path(start.model) / "tokenizer.json"))
        self._folder = tempfile.TemporaryDirectory(prefix="lmoe-bench-")
        self._loop = asyncio.Runner()
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}"
        config = Path(self._folder.name) / "serve_config.yaml"
        config.write_text(yaml.safe_dump(_config(start, port)), encoding="utf-8")
        self._graph = subprocess.Popen([sys.executable, "-m", "lmoe_ray", "serve", str(config)])
        atexit.register(self.close)
        self._loop.run(self._wait_ready())

    def run(self, run: Run) -> Arrivals:
        return self._loop.run(self._answer_all(run))

    def close(self) -> None:
        self._graph.send_signal(signal.SIGINT)
        self._graph.wait(STOP_TIMEOUT_S)
        self._folder.cleanup()

    async def _wait_ready(self) -> None:
        async with Client(self._url) as client:
            await client.wait_ready(START_TIMEOUT_S)

    async def _answer_all(self, run: Run) -> Arrivals:
        bodies = [self._body(run, number) for number in range(len(run.prompts))]
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=START_TIMEOUT_S, limits=limits) as http:
            arrivals = Arrivals(len(bodies))
            texts = await asyncio.gather(*(_answer(http, body, n, arrivals) for n, body in enumerate(bodies)))
        for number, (prompt, text) in enumerate(zip(run.prompts, texts, strict=True)):
            known = self._tokenizer.encode(bodies[number]["prompt"] + text).ids[len(prompt) :]
            arrivals.tokens[number] = [*known, *[-1] * run.new_tokens][: run.new_tokens]
        return arrivals

    def _body(self, run: Run, number: int) -> dict[str, Any]:
        adapter = run.adapters[number]
        return {
            "model": "bench",
            "prompt": self._tokenizer.decode(run.prompts[number], skip_special_tokens=False),
            "expert": None if adapter is None else self._experts[adapter],
            "max_tokens": run.new_tokens,
            "temperature": 0.0 if run.is_greedy else 0.7,
            "top_p": 0.9,
            "seed": number,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


async def _answer(http: httpx.AsyncClient, body: dict[str, Any], number: int, arrivals: Arrivals) -> str:
    """The answer's text; notes when its tokens came."""
    num_noted, text = 0, ""
    async with http.stream("POST", "/v1/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            text += "".join(choice["text"] for choice in event["choices"])
            if text and not num_noted:
                num_noted = 1
                arrivals.note(number, [0])
            if event.get("usage"):
                arrivals.note(number, [0] * (event["usage"]["completion_tokens"] - num_noted))
    return text


def _config(start: Start, port: int) -> dict[str, Any]:
    """The laptop's configuration with the engine's settings of ``lmoe_peer.py``; a threshold of 1 never routes."""
    engine = {
        "dtype": start.dtype,
        "device": "cpu",
        "num_threads": start.threads,
        "max_model_len": start.max_len,
        "max_num_seqs": start.max_seqs,
        "max_adapters": max(1, len(start.adapters)),
    }
    model = {
        "name": "bench",
        "source": start.model,
        "package": str(Path(start.adapters[0]).parents[1]) if start.adapters else None,
        "pools": [{"name": "bench", "num_cpus": 1, "engine": engine}],
    }
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "lmoe",
                "route_prefix": "/",
                "import_path": "lmoe_ray.serving.app:build",
                "args": {"models": [model], "router": {"threshold": 1.0}},
            }
        ],
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    serve("lmoe_ray", LmoeGraph)
