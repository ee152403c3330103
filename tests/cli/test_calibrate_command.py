from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lmoe_ray.cli.main import app
from lmoe_ray.errors import SettingsError
from lmoe_ray.routing.threshold import read_calibration

pytestmark = pytest.mark.model

PROMPTS = (
    ("code", "Write a Python function that reverses a linked list."),
    ("creative", "Write a short story about a lighthouse keeper who collects clouds."),
    ("reasoning", "If all bloops are razzies and all razzies are lazzies, are all bloops lazzies?"),
    ("qa", "What is the capital of Australia?"),
)


def labelled(folder: Path, *, swapped: bool = False) -> str:
    experts = [expert for expert, _ in PROMPTS]
    rows = zip(experts[1:] + experts[:1] if swapped else experts, PROMPTS, strict=True)
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"expert": e, "instruction": text}) + "\n" for e, (_, text) in rows))
    return str(file)


def test_a_threshold_is_found_for_the_shipped_package_and_written(tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"

    result = CliRunner().invoke(app, ["calibrate", "--precision", "0.9", "--out", str(out)], catch_exceptions=False)

    assert result.exit_code == 0
    found = read_calibration(out)
    assert found.precision == 0.9
    assert 0 < found.threshold < 1
    assert 0.5 < found.coverage <= 1
    assert found.num_judged > 1000


def test_prompts_of_ones_own_count_instead(tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    arguments = ["calibrate", "--labelled", labelled(tmp_path), "--precision", "0.5", "--out", str(out)]

    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert read_calibration(out).num_judged == len(PROMPTS)


def test_a_precision_that_is_never_reached_is_refused(tmp_path: Path) -> None:
    arguments = ["calibrate", "--labelled", labelled(tmp_path, swapped=True), "--precision", "0.99"]

    with pytest.raises(SettingsError, match=r"no threshold reaches 0\.99"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
