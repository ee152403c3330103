"""OpenAI's client for JavaScript against the real graph. npm puts it into a folder that is thrown away."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.catalogue import CLIENTS

pytestmark = [
    pytest.mark.clients,
    pytest.mark.ray,
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),
]

SCRIPT = Path(__file__).with_name("openai_node.mjs")
#: The newest that runs on node 20.
(PACKAGE,) = next(client.requirements for client in CLIENTS if client.name == "openai npm")


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client in it."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text('{"private": true}')
    install = [
        "npm",
        "install",
        "--no-save",
        "--no-package-lock",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        PACKAGE,
    ]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        pytest.skip(f"npm cannot install {PACKAGE}: {last[0]}")
    return folder


@pytest.fixture(scope="session")
def told(packages: Path, url: str) -> dict[str, Any]:
    """What the client made of each endpoint."""
    command = ["node", str(SCRIPT), str(packages), f"{url}/v1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def test_a_chat_is_the_same_whole_and_in_a_stream(told: Any) -> None:
    chat = told["chat"]

    assert chat["text"] == chat["whole"] != ""
    assert chat["streamed"] == chat["usage"]


def test_a_call_is_put_together_from_a_stream(told: Any) -> None:
    assert told["tools"]["name"] == "choose"
    assert told["tools"]["arguments"]["a"] in ("x", "y")
    assert told["tools"]["id"].startswith("call_")


@pytest.mark.parametrize("scenario", ["structured", "responseStructured"])
def test_an_answer_keeps_to_its_schema(told: Any, scenario: str) -> None:
    assert told[scenario]["a"] in ("x", "y")


def test_a_response_is_the_same_whole_and_in_a_stream(told: Any) -> None:
    response = told["response"]

    assert response["text"] == response["whole"] == told["chat"]["whole"]
    assert response["types"][:2] == ["response.created", "response.in_progress"]
    assert response["types"][-1] == f"response.{response['status']}"


def test_a_call_in_a_response_goes_back_with_its_result(told: Any) -> None:
    assert told["responseTools"]["arguments"]["a"] in ("x", "y")
    assert told["responseTools"]["then"] == "message"


def test_vectors_arrive_as_floats_whichever_way_they_travel(told: Any) -> None:
    embeddings = told["embeddings"]

    assert embeddings["travelled"] == embeddings["plain"]
    assert [len(vector) for vector in embeddings["plain"]] == [384, 384]
    assert embeddings["usage"]["total_tokens"] > 2


def test_models_are_listed(told: Any) -> None:
    assert {"left", "left:code", "right", "right:poems"} <= set(told["models"])


def test_an_error_arrives_as_its_own_class(told: Any) -> None:
    assert told["errors"] == [
        ["NotFoundError", 404, "model_not_found", "model"],
        ["BadRequestError", 400, "unsupported_value", "previous_response_id"],
        ["BadRequestError", 400, "unsupported_value", "input"],
    ]
