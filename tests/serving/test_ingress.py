"""The real ingress behind Serve's real HTTP: keys, what the graph behind is told, and where the door may be.

Router and expert are deployments without a model, so that this starts in seconds.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from rich.console import Console

from lmoe_ray.api.key_file import create_key, hash_key, revoke_key
from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.errors import SettingsError
from lmoe_ray.serving import app, launch
from lmoe_ray.serving.config_check import check_config
from lmoe_ray.serving.graph_backend import PoolMap
from lmoe_ray.serving.ingress import IngressReplica, require_keys, serve_host
from lmoe_ray.settings import ApiSettings
from tests.fakes import MODEL

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

ENVIRONMENT_KEY = "a-key-of-the-environment"


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class FirstAllowed:
    """A router that picks the first expert it may, and says what it was told."""

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        allowed = request.allowed_experts if request.allowed_experts is not None else MODEL.expert_names
        expert = request.expert or (allowed[0] if allowed else None)
        return RoutingDecision(request.model, expert, "similarity", reason=f"allowed: {request.allowed_experts}")

    async def ping(self) -> None:
        pass


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class SaysItsAdapter:
    """An expert whose answer is the adapter it was asked to hold, as Serve's multiplexing names it."""

    async def generate(self, request: GenerateRequest, expert: str | None) -> AsyncGenerator[TokenDelta, None]:
        text = f"expert={expert} multiplexed={serve.get_multiplexed_model_id()}"
        yield TokenDelta(text, (1,), Usage(2, 1), "stop")

    async def ping(self) -> None:
        pass


@dataclass(frozen=True)
class Graph:
    url: str
    keys_file: Path

    def post(self, path: str, key: str = ENVIRONMENT_KEY, **fields: Any) -> httpx.Response:
        body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], **fields.pop("body", {})}
        headers = {"authorization": f"Bearer {key}", **fields.pop("headers", {})}
        return httpx.post(self.url + path, json=body, headers=headers, timeout=30, **fields)

    def text(self, **fields: Any) -> str:
        response = self.post("/v1/chat/completions", **fields)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def graph(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    keys_file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    create_key(keys_file, "first")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Whoever ran Serve in this session before may have started it at another address, which it would keep.
    serve.shutdown()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    pool: DeploymentHandle[Any] = SaysItsAdapter.options(name="Expert-main").bind()
    ingress = serve.deployment(name="Ingress", ray_actor_options={"num_cpus": 0.1})(serve.ingress()(IngressReplica))
    pool_maps = {"demo": PoolMap(dict.fromkeys(MODEL.expert_names, "main"), "main", ("main",))}
    settings = ApiSettings(keys_file=str(keys_file))
    key_hashes = (hash_key(ENVIRONMENT_KEY),)
    serve.run(ingress.bind((MODEL,), settings, key_hashes, pool_maps, FirstAllowed.bind(), {"main": pool}), name="door")
    yield Graph(f"http://127.0.0.1:{port}", keys_file)
    serve.delete("door")


def test_without_a_key_only_the_probes_answer(graph: Graph) -> None:
    refused = httpx.get(f"{graph.url}/v1/models", headers={"origin": "https://app.test"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert refused.headers["access-control-allow-origin"] == "*"
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{graph.url}/readyz").status_code == 200
    assert graph.text().startswith("expert=code")


def test_keys_come_and_go_while_it_serves(graph: Graph) -> None:
    key = create_key(graph.keys_file, "alice")
    assert graph.post("/v1/route", key).status_code == 200

    revoke_key(graph.keys_file, "alice")
    assert graph.post("/v1/route", key).status_code == 401


def test_the_list_of_a_key_reaches_the_router_before_it_scores(graph: Graph) -> None:
    key = create_key(graph.keys_file, "mathematician", experts=("math",))

    assert graph.post("/v1/route", key).json()["reason"] == "allowed: ('math',)"
    assert graph.text(key=key).startswith("expert=math ")
    assert (
        graph.post("/v1/chat/completions", key, body={"expert": "code"}).json()["error"]["code"] == "expert_not_found"
    )


@pytest.mark.parametrize("name", ["serve_multiplexed_model_id", "serve-multiplexed-model-id"])
def test_a_header_from_outside_chooses_no_adapter(graph: Graph, name: str) -> None:
    """Serve reads it for the ingress, and must not hand it on to an expert."""
    key = create_key(graph.keys_file, f"math-{name}", experts=("math",))

    assert graph.text(key=key, headers={name: "code"}) == "expert=math multiplexed=math"
    assert graph.text(headers={name: "math"}) == "expert=code multiplexed=code"
    key = create_key(graph.keys_file, f"base-{name}", experts=())
    assert graph.text(key=key, headers={name: "code"}) == "expert=None multiplexed="


def test_a_quota_is_told_and_kept(graph: Graph) -> None:
    key = create_key(graph.keys_file, "thrifty", tokens_per_day=4, requests_per_minute=9)
    answers = [graph.post("/v1/chat/completions", key) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-tokens"] for answer in answers] == ["4", "1", "0"]
    assert int(answers[2].headers["retry-after"]) > 3600


def test_fifty_megabytes_are_refused_through_the_proxy(graph: Graph) -> None:
    headers = {"authorization": f"Bearer {ENVIRONMENT_KEY}", "content-type": "application/json"}
    refused = httpx.post(f"{graph.url}/v1/chat/completions", content=b"x" * (50 << 20), headers=headers, timeout=60)

    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")


def test_the_log_of_serve_has_our_lines_without_keys_and_prompts(graph: Graph) -> None:
    graph.text(headers={"x-request-id": "look-for-me"})
    logs = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"
    text = "".join(file.read_text() for file in logs.glob("replica_door_*.log"))

    assert "completion finished request_id=look-for-me" in text
    assert ENVIRONMENT_KEY not in text
    assert "hello" not in text


def test_the_address_is_asked_of_serve_itself(graph: Graph) -> None:
    assert serve_host() == "127.0.0.1"


# ── where the door may be ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "models.example"])
def test_an_address_others_can_reach_needs_keys(host: str) -> None:
    with pytest.raises(SettingsError, match=r"nobody would be asked for an API key.*`lmoe keys create`") as refused:
        require_keys(host, ApiSettings(), ())
    assert host in str(refused.value)

    require_keys(host, ApiSettings(keys_file="keys.yaml"), ())
    require_keys(host, ApiSettings(), (hash_key(ENVIRONMENT_KEY),))
    require_keys(host, ApiSettings(insecure=True), ())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost", None])
def test_this_machine_alone_needs_none(host: str | None) -> None:
    require_keys(host, ApiSettings(), ())


def test_the_graph_is_not_built_for_an_open_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "serve_host", lambda: "0.0.0.0")
    monkeypatch.delenv("LMOE_API_KEYS", raising=False)

    with pytest.raises(SettingsError, match=r"others can reach 0\.0\.0\.0"):
        app.build({"models": [{"name": "base", "source": "/nowhere", "pools": [{"name": "p"}]}]})


def test_the_command_refuses_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMOE_API_KEYS", raising=False)
    monkeypatch.setattr(launch.StartupWatcher, "start", lambda _: pytest.fail("it started"))
    opened = check_config(Path("serve_config.yaml")).listening_on("0.0.0.0", 1)

    with pytest.raises(SettingsError, match=r"others can reach 0\.0\.0\.0"):
        launch.run_graph(tmp_path / "unread.yaml", opened, Console())
