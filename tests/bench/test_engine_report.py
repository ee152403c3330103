from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rich.console import Console

from lmoe_ray.bench.engine_report import as_dict, cpu_name, print_table, ratio_to_best_peer
from lmoe_ray.bench.peer_process import Ready
from lmoe_ray.bench.speed_cells import Cell, CellResult, Workload, choose_cells
from lmoe_ray.bench.speed_engines import ENGINES
from lmoe_ray.bench.speed_figures import run_figures
from lmoe_ray.bench.speed_plot import COLOURS, draw

WORK = Workload(choose_cells("1,4", "base,six"), new_tokens=2)
SVG = "{http://www.w3.org/2000/svg}"


def result(engine: str, cell: Cell, last_s: float, **traits: object) -> CellResult:
    run = run_figures([[last_s / 3, last_s]] * cell.concurrency)
    ready = Ready("1.2", "float32", 0.0, "2.15")
    return CellResult(engine, cell, ready, **{"new_tokens": 2, "runs": [run]} | traits)  # type: ignore[arg-type]


@pytest.fixture
def results() -> list[CellResult]:
    """Ours: 2 tokens a second and request; a fast peer twice that on the base; a slow one half."""
    return [
        *(result("lmoe", cell, 1.0) for cell in WORK.cells),
        *(result("openvino", cell, 0.5) for cell in WORK.cells if cell.mix == "base"),
        *(result("hf-peft", cell, 2.0) for cell in WORK.cells),
    ]


def shown(results: list[CellResult]) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_table(results, WORK, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_line_of_json_has_figures_and_circumstances(results: list[CellResult]) -> None:
    line = json.loads(json.dumps(as_dict(results[1], WORK)))

    assert line == {
        "name": "engine",
        "engine": "lmoe",
        "concurrency": 4,
        "mix": "base",
        "tokens_per_s": 8.0,
        "tokens_per_s_low": 8.0,
        "tokens_per_s_high": 8.0,
        "decode_tokens_per_s": 6.0,
        "ttft_s_p50": 0.3333,
        "ttft_s_max": 0.3333,
        "itl_s_p50": 0.6667,
        "itl_s_p99": 0.6667,
        "rounds": 1,
        "agreement": None,
        "is_computed": False,
        "prompt_tokens": 64,
        "new_tokens": 2,
        "threads": 1,
        "version": "1.2",
        "dtype": "float32",
        "device": cpu_name(),
        "num_cpus": line["num_cpus"],
        "torch": "2.15",
    }


def test_the_ratio_is_to_the_fastest_peer_of_the_cell(results: list[CellResult]) -> None:
    assert ratio_to_best_peer(results, Cell(1, "base")) == 0.5
    assert ratio_to_best_peer(results, Cell(1, "six")) == 2.0
    assert ratio_to_best_peer(results[:1], Cell(1, "base")) is None


def test_the_table_shows_each_mix_with_its_ratios(results: list[CellResult]) -> None:
    text = shown(results)

    assert text.index("base model") < text.index("six adapters")
    assert "8.0 (0.33/0.33)" in text
    assert "0.50" in text
    assert "2.00" in text
    assert "64 prompt and 2 new tokens, 1 thread each" in text
    assert "*" not in text
    assert "°" not in text


def test_what_was_not_measured_as_asked_is_marked_and_explained(results: list[CellResult]) -> None:
    cell = Cell(4, "base")
    results += [result("vllm-cpu", cell, 1.0, new_tokens=1), result("predecessor", cell, 1.0, is_computed=True)]

    text = shown(results)

    assert "8.0* (" in text
    assert "8.0° (" in text
    assert "fewer new tokens" in text
    assert "computed from one request" in text


def test_an_engine_that_answers_otherwise_is_named(results: list[CellResult]) -> None:
    results[4].agreement = 0.2

    assert "openvino: greedy answers differ" in shown(results)


def test_the_picture_has_a_bar_for_every_result_and_a_colour_for_every_engine(
    results: list[CellResult], tmp_path: Path
) -> None:
    draw(results, WORK, tmp_path / "speed.svg")

    root = ET.parse(tmp_path / "speed.svg").getroot()
    fills = [bar.get("fill") for bar in root.iter(f"{SVG}rect")]
    # One more of each engine in the legend.
    assert fills.count(COLOURS["lmoe"]) == 4 + 1
    assert fills.count(COLOURS["openvino"]) == 2 + 1
    heights = {bar[0].text: float(bar.get("height", "")) for bar in root.iter(f"{SVG}rect") if len(bar)}
    assert heights["openvino: 16.0"] == pytest.approx(4 * heights["hf-peft: 4.0"], abs=0.2)
    assert COLOURS.keys() == ENGINES.keys()
