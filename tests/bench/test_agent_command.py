"""``lmoe bench routing --agent`` as it is typed: the built-in model is asked about the names of a file's experts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lmoe_ray.cli.main import app

pytestmark = pytest.mark.model


def test_the_line_of_json_gains_the_agent_and_the_hybrid(tmp_path: Path, cache_dir: Path) -> None:
    samples, test = tmp_path / "samples.jsonl", tmp_path / "test.jsonl"
    texts = {"code": ["write a python loop", "fix my python bug"], "poetry": ["a haiku on rain", "a sonnet on love"]}
    rows = [{"expert": expert, "instruction": text} for expert, found in texts.items() for text in found]
    samples.write_text("\n".join(map(json.dumps, rows)))
    test.write_text("\n".join(map(json.dumps, [*rows, {"expert": None, "instruction": "good morning"}])))

    command = ["bench", "routing", "--samples", str(samples), "--test", str(test), "--agent", "2", "--threshold", "0.5"]
    result = CliRunner().invoke(app, [*command, "--cache-dir", str(cache_dir), "--json"])

    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    assert (row["n"], row["agent"]["n"], row["hybrid"]["n"]) == (4, 2, 2)
    assert row["agent"]["answered"] == row["agent"]["asked_share"] == 1.0
    assert row["agent"]["prompt_tokens"] > 100
    assert row["similarity"]["p50_ms"] < row["agent"]["p50_ms"]
    assert "names alone of code, poetry" in row["agent"]["asked"]


def test_a_model_to_ask_without_anything_to_ask_it_is_refused(tmp_path: Path, cache_dir: Path) -> None:
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"expert": "code", "instruction": "write a python loop"}))

    command = ["bench", "routing", "--test", str(test), "--agent-model", "some/model", "--cache-dir", str(cache_dir)]
    result = CliRunner().invoke(app, command)

    assert result.exit_code == 2
    assert "asks nothing without --agent" in result.stderr


def test_the_demos_threshold_comes_with_its_index_and_its_function_expert_is_asked(
    tmp_path: Path, cache_dir: Path
) -> None:
    test = tmp_path / "test.jsonl"
    texts = {"code": "write a python loop", "creative": "a haiku on rain"}
    test.write_text("\n".join(json.dumps({"expert": name, "instruction": text}) for name, text in texts.items()))

    command = ["bench", "routing", "--test", str(test), "--agent", "2", "--precision", "0.9", "--json"]
    result = CliRunner().invoke(app, [*command, "--cache-dir", str(cache_dir)])

    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    # Measured on prompts that came with the package; what is fitted on its samples alone has seen all of them.
    assert 0 < row["threshold"] < 1
    assert row["agent"]["asked"].endswith(
        "with the adapter of function; it is told the experts' names and descriptions"
    )
    assert row["hybrid"]["asked_share"] <= row["agent"]["asked_share"] == 1.0
