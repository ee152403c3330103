"""Conversations written for this test, none of them a routing sample: how often the demo package's router is right.

The floors are what was reached when they were set, less three points: what costs more is no accident.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.package import load_package
from lmoe_ray.pretrained.package_source import DEMO_FOLDER, DEMO_INDEX
from lmoe_ray.routing.embedder import Embedder
from lmoe_ray.routing.router import RoutedModel, RouterChain
from lmoe_ray.routing.similarity import SimilarityRouter
from lmoe_ray.settings import RouterSettings
from tests.routing.test_embedder import model_folder

FOLDER = Path(__file__).parent / "conversations"


@pytest.fixture(scope="module")
def chain() -> RouterChain:
    model = RoutedModel("demo", load_package(DEMO_FOLDER).experts, "general")
    embedder = Embedder(model_folder(), num_threads=1)
    return RouterChain(model, SimilarityRouter(model, embedder, RouterSettings(), None, shipped_dir=DEMO_INDEX))


def as_request(row: dict[str, Any]) -> GenerateRequest:
    messages = tuple(Message(turn["role"], turn["content"] or "") for turn in row["messages"])
    tools = row.get("tools") or row.get("functions") or []
    return GenerateRequest("request-1", "demo", messages, num_tools=len(tools))


@pytest.mark.model
@pytest.mark.parametrize(
    ("kind", "floor"),
    [
        pytest.param("stay", 0.9, id="the topic stays"),
        pytest.param("turn", 0.86, id="the topic turns"),
        pytest.param("tools", 1.0, id="tools are declared"),
    ],
)
async def test_the_right_expert_answers_at_least_so_often(chain: RouterChain, kind: str, floor: float) -> None:
    rows = [json.loads(line) for line in (FOLDER / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()]

    decisions = [await chain.route(as_request(row)) for row in rows]

    right = sum(decision.expert == row["expert"] for decision, row in zip(decisions, rows, strict=True))
    assert right / len(rows) >= floor, f"{right} of {len(rows)}"


@pytest.mark.model
@pytest.mark.parametrize(
    ("kind", "floor"),
    [
        pytest.param("greeting", 0.78, id="a greeting"),
        pytest.param("gibberish", 0.6, id="there is nothing to answer"),
        pytest.param("nonenglish", 0.88, id="another language"),
    ],
)
async def test_what_is_nobodys_is_left_to_the_fallback_at_least_so_often(
    chain: RouterChain, kind: str, floor: float
) -> None:
    rows = [json.loads(line) for line in (FOLDER / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()]

    decisions = [await chain.route(as_request(row)) for row in rows]

    caught = sum(decision.expert == "general" for decision in decisions)
    assert caught / len(rows) >= floor, f"{caught} of {len(rows)}"
