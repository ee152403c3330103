from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.bench.engine_pool import EnginePool
from lmoe_ray.bench.engine_speed import run
from lmoe_ray.bench.peers.peer_protocol import Run
from lmoe_ray.bench.speed_cells import Cell, CellResult, Workload, choose_cells
from lmoe_ray.bench.speed_engines import ENGINES, EngineKind, PeerPlaces, choose_engines, quick_engines
from lmoe_ray.errors import SettingsError

pytestmark = pytest.mark.slow

SCRIPTED = str(Path(__file__).with_name("scripted_peer.py"))
WORK = Workload(choose_cells("1,2", "base,one"), prompt_tokens=4, new_tokens=11, rounds=3)


def scripted(name: str, trouble: str = "nothing", factor: float = 1.0, **traits: object) -> EngineKind:
    return EngineKind(name, SCRIPTED, (trouble, str(factor)), **traits)  # type: ignore[arg-type]


class Bench:
    """A run over scripted engines, and what it said."""

    def __init__(self, model: Path, root: Path) -> None:
        self._model, self._root = model, root
        self.progress: list[str] = []
        self.warnings: list[str] = []

    def run(self, workload: Workload, *kinds: EngineKind) -> dict[tuple[str, Cell], CellResult]:
        results = run(
            kinds,
            workload,
            self._model,
            PeerPlaces(self._root / "peers"),
            self._root / "cache",
            progress=self.progress.append,
            warn=self.warnings.append,
        )
        return {(result.engine, result.cell): result for result in results}


@pytest.fixture
def bench(model_folder: Path, tmp_path: Path) -> Bench:
    return Bench(model_folder, tmp_path)


def test_every_engine_is_measured_in_every_cell_and_round(bench: Bench) -> None:
    results = bench.run(WORK, scripted("lmoe"), scripted("fast", factor=0.5))

    assert results.keys() == {(name, cell) for name in ("lmoe", "fast") for cell in WORK.cells}
    assert {result.figures.rounds for result in results.values()} == {3}
    # Eleven tokens: the last comes after 0.5 + 10 * 0.1 seconds.
    assert results["lmoe", Cell(2, "base")].figures.tokens_per_s == pytest.approx(2 * 11 / 1.5)
    assert results["fast", Cell(1, "one")].figures.tokens_per_s == pytest.approx(11 / 0.75)
    assert bench.warnings == []


def test_cells_an_engine_cannot_compute_are_left_out(bench: Bench) -> None:
    results = bench.run(WORK, scripted("single", mixes=("base",), max_concurrency=1))

    assert results.keys() == {("single", Cell(1, "base"))}


def test_no_cell_asks_what_another_has_asked_before(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Cell, list[list[int]]]] = []
    original = EnginePool.run

    def record(self: EnginePool, kind: EngineKind, cell: Cell, run: Run) -> dict[str, Any]:
        asked.append((cell, run.prompts))
        return original(self, kind, cell, run)

    monkeypatch.setattr(EnginePool, "run", record)
    bench.run(WORK, scripted("lmoe"))
    for (cell, prompts), (other, others) in combinations(asked, 2):
        assert cell == other or not any(prompt in others for prompt in prompts)


def test_an_engine_that_is_not_there_is_left_out_with_the_command_that_makes_it(bench: Bench) -> None:
    results = bench.run(WORK, scripted("lmoe"), scripted("absent", environment="absent"))

    assert {name for name, _ in results} == {"lmoe"}
    (warning,) = bench.warnings
    assert warning.startswith("absent is left out")
    assert "`lmoe bench engine --setup` makes it" in warning


@pytest.mark.parametrize("trouble", ["load", "run", "death"])
def test_an_engine_that_fails_is_out_and_the_others_go_on(bench: Bench, trouble: str) -> None:
    results = bench.run(WORK, scripted("broken", trouble), scripted("lmoe"))

    assert {name for name, _ in results} == {"lmoe"}
    assert {result.figures.rounds for result in results.values()} == {3}
    assert [warning.split(" ")[0] for warning in bench.warnings] == ["broken"]


def test_a_serial_engine_answers_one_request_and_the_others_follow_from_it(bench: Bench) -> None:
    results = bench.run(WORK, scripted("predecessor", is_serial=True))

    pair = results["predecessor", Cell(2, "base")]
    assert pair.is_computed
    assert pair.figures.tokens_per_s == pytest.approx(11 / 1.5)
    assert pair.figures.ttft_s_max == pytest.approx(1.5 + 0.5)


def test_a_run_that_would_take_too_long_gets_fewer_tokens(bench: Bench) -> None:
    slow = replace(WORK, max_run_s=1.3, new_tokens=64)

    results = bench.run(slow, scripted("lmoe"))

    # 0.5 s for the prompt leaves 0.8 s, of 0.1 s a token.
    assert {result.new_tokens for result in results.values()} == {8}


def test_an_engine_leaves_a_cell_before_it_has_spent_its_budget(bench: Bench) -> None:
    results = bench.run(replace(WORK, rounds=5, cell_budget_s=4.0), scripted("lmoe"), scripted("slow", factor=4))

    # A run of 1.5 s fits twice, one of 6 s not at all; the first is made anyway.
    assert {name: result.figures.rounds for (name, _), result in results.items()} == {"lmoe": 2, "slow": 1}


def test_greedy_answers_are_compared_with_those_of_peft(bench: Bench) -> None:
    results = bench.run(WORK, scripted("lmoe"), scripted("hf-peft"))

    assert results["lmoe", Cell(1, "base")].agreement == 1.0
    assert results["hf-peft", Cell(1, "base")].agreement is None


def test_a_workload_without_adapters_makes_none(bench: Bench, tmp_path: Path) -> None:
    bench.run(replace(WORK, cells=choose_cells("1", "base"), rounds=1), scripted("lmoe"))

    assert not list((tmp_path / "cache").rglob("adapter_config.json"))


def test_engines_are_chosen_by_name() -> None:
    assert [kind.name for kind in choose_engines("openvino,lmoe,openvino")] == ["openvino", "lmoe"]
    assert choose_engines("") == tuple(ENGINES.values())
    with pytest.raises(SettingsError, match="no engine is called 'sglang'; there are: lmoe, lmoe-http, predecessor"):
        choose_engines("lmoe,sglang")


def test_the_quick_comparison_takes_the_predecessor_only_where_no_peer_is_there(tmp_path: Path) -> None:
    places = PeerPlaces(tmp_path)
    assert "predecessor" in [kind.name for kind in quick_engines(places)]

    python = places.python("openvino")
    python.parent.mkdir(parents=True)
    python.touch()

    assert [kind.name for kind in quick_engines(places)] == ["lmoe", "hf-peft", "openvino", "llama-cpp"]


def test_every_engine_has_its_script() -> None:
    from_engines = {kind.script for kind in ENGINES.values()}
    there = {file.name for file in Path("lmoe_ray/bench/peers").glob("*_peer.py")}

    assert from_engines <= there
