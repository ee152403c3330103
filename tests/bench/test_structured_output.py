"""The measurement of structured answers, on a tiny model: what is not cut satisfies its schema."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lmoe_ray.bench.structured_tasks import ENDLESS, tasks

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def structured() -> Any:
    return importlib.import_module("lmoe_ray.bench.structured_output")


def test_an_answer_is_valid_if_it_is_json_of_its_schema(structured: Any) -> None:
    schema = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"]}
    texts = ('{"day": "2024-02-29"}', '{"day": "2023-02-29"}', "{}", '{"day": "2024-')
    assert [structured.satisfies(text, schema) for text in texts] == [True, False, False, False]


def test_the_tasks_are_different_and_their_schemas_are_schemas() -> None:
    asked = tasks(500)
    assert len({text for text, _ in asked}) == 500
    for schema in (*(schema for _, schema in asked[:10]), ENDLESS):
        jsonschema.Draft202012Validator.check_schema(schema)


def test_whatever_is_not_cut_is_valid_and_the_cost_is_a_share(structured: Any, tmp_path: Path) -> None:
    model = importlib.import_module("tests.tiny").make_tiny_model(tmp_path)
    seen: list[str] = []
    report = structured.run(
        model, num_prompts=20, max_tokens=150, streams=[1, 2], new_tokens=10, rounds=1, threads=1, progress=seen.append
    )
    assert report.validity.num_answers == 20 == report.validity.num_valid + report.validity.num_cut
    assert report.validity.num_valid > 0
    assert [cost.streams for cost in report.costs] == [1, 2]
    assert all(cost.free > 0 and cost.loss < 1 for cost in report.costs)
    assert json.loads(json.dumps(report.as_dict()))["valid"] == report.validity.num_valid
    assert len(seen) == 3
