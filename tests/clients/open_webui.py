"""Open WebUI: a server with a page of its own. Asked what its page asks it, without the page."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from tests.tiny_graph import free_port

TIMEOUT_S = 240
HELLO = "hello there"
#: Nobody signs in, nothing is fetched, and no embedding model of its own is loaded.
ENVIRONMENT = {
    "OPENAI_API_KEY": "x",
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": "x",
    "OFFLINE_MODE": "1",
    "HF_HUB_OFFLINE": "1",
    "ENABLE_OLLAMA_API": "False",
    "RAG_EMBEDDING_ENGINE": "openai",
    "AUDIO_STT_ENGINE": "openai",
}


def open_webui(folder: Path, url: str, model: str, home: Path) -> dict[str, Any]:
    """Start it, ask, and end it; arguments as for the other programs."""
    port = free_port()
    variables = {**ENVIRONMENT, "HOME": str(home), "DATA_DIR": str(home), "OPENAI_API_BASE_URL": f"{url}/v1"}
    command = [folder / ".venv/bin/open-webui", "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = {"PATH": os.environ["PATH"], **variables}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=TIMEOUT_S) as http:
            _wait_until_served(http, process, home / "log")
            return _asked_as_its_page(http, model)
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_served(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline_s, log.read_text()[-3000:]
        try:
            http.get("/version").raise_for_status()
        except httpx.HTTPError:
            time.sleep(1)
        else:
            return


def _asked_as_its_page(http: httpx.Client, model: str) -> dict[str, Any]:
    token = http.post("/v1/auths/signin", json={"email": "", "password": ""}).json()["token"]
    http.headers["Authorization"] = f"Bearer {token}"
    models = [entry["id"] for entry in http.get("/models").json()["data"]]
    messages = [{"role": "user", "content": HELLO}]
    asked = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 16}
    whole = http.post("/chat/completions", json={**asked, "stream": False}).json()
    assert "choices" in whole, whole
    events = http.post("/chat/completions", json={**asked, "stream": True}).text.split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: {")]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    return {"models": models, "chat": whole["choices"][0]["message"]["content"], "stream": text}
