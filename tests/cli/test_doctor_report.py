"""How the sample doctor's findings are shown, and what the command says of them to its caller."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lmoe_ray.cli.doctor_report import print_diagnosis
from lmoe_ray.cli.main import app
from lmoe_ray.pretrained.package_source import DEMO_FOLDER
from lmoe_ray.routing.sample_findings import Diagnosis, ExpertCount, Repeat

pytestmark = pytest.mark.torch


def shown(*repeats: Repeat) -> str:
    counts = (ExpertCount("code", 2, 2), ExpertCount("math", 2, 2))
    diagnosis = Diagnosis(counts, None, repeats, (), (), (), (), (), (), (), ("tasks: no head",))
    console = Console(file=StringIO(), width=160)
    print_diagnosis("my package", diagnosis, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def small_package(folder: Path, **samples: str) -> Path:
    """The demo's adapters of these experts, with one sample each."""
    for name, text in samples.items():
        shutil.copytree(DEMO_FOLDER / "adapters" / name, folder / "adapters" / name)
        file = folder / "routing_data" / f"expert_{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"instruction": text}))
    return folder


def test_texts_are_shown_as_they_are_whatever_brackets_they_hold() -> None:
    text = shown(Repeat("sum [bold] of a[0] and [/a]", ("code", "math"), 2))

    assert "sum [bold] of a[0] and [/a]" in text
    assert "texts that several experts have: 1" in text


def test_long_lists_are_cut_and_say_by_how_much() -> None:
    text = shown(*(Repeat(f"text {i}", ("code",), 2) for i in range(42)))

    assert "text 29" in text
    assert "text 30" not in text
    assert "and 12 more" in text


def test_what_was_not_examined_is_said_and_advice_alone_is_no_error() -> None:
    text = shown(Repeat("twice", ("code",), 2))

    assert "not examined: tasks: no head" in text
    assert "No errors" in text


def test_json_is_for_routing_alone() -> None:
    result = CliRunner().invoke(app, ["check", "--json"])

    assert result.exit_code == 2
    assert "--routing" in result.output


@pytest.mark.model
@pytest.mark.parametrize(("math", "status"), [("add two numbers", 0), ("Sort  a list", 1)], ids=["advice", "error"])
def test_the_exit_status_tells_errors_from_advice(math: str, status: int, tmp_path: Path) -> None:
    package = small_package(tmp_path, code="sort a list", reasoning=math)

    result = CliRunner().invoke(app, ["check", "--routing", "--json", str(package)])

    assert result.exit_code == status
    assert json.loads(result.stdout)["num_errors"] == status
