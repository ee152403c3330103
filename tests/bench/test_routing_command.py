"""``lmoe bench routing`` as it is typed, with the built-in embedder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lmoe_ray.cli.main import app

pytestmark = pytest.mark.model


def test_standard_output_is_one_line_of_json_and_pictures_lie_in_the_folder(tmp_path: Path, cache_dir: Path) -> None:
    samples, test = tmp_path / "samples.jsonl", tmp_path / "test.jsonl"
    texts = {"code": ["write a python loop", "fix my python bug"], "poetry": ["a haiku on rain", "a sonnet on love"]}
    rows = [{"expert": expert, "instruction": text} for expert, found in texts.items() for text in found]
    samples.write_text("\n".join(map(json.dumps, rows)))
    test.write_text("\n".join(map(json.dumps, [*rows, {"expert": None, "instruction": "good morning"}])))
    plots = tmp_path / "plots"

    command = ["bench", "routing", "--samples", str(samples), "--test", str(test), "--plot", str(plots), "--json"]
    result = CliRunner().invoke(app, [*command, "--fallback-expert", "poetry", "--cache-dir", str(cache_dir)])

    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    assert (row["n"], row["num_out_of_domain"], row["accuracy"]) == (4, 1, 1.0)
    assert row["out_of_domain_caught"] in (0.0, 1.0)
    assert sorted(row["baselines"]) == ["centroid", "density", "majority", "regression"]
    assert sorted(file.name for file in plots.iterdir()) == ["confusion.svg", "reliability.svg", "risk_coverage.svg"]
