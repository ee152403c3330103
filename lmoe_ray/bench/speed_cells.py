"""What is measured: cells, the work in them, the order of turns, and the result of an engine in a cell."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from lmoe_ray.bench.peer_process import Ready
from lmoe_ray.bench.speed_figures import CellFigures, RunFigures, cell_figures
from lmoe_ray.errors import SettingsError

Engine = TypeVar("Engine")

#: Distinct adapters by the mix's name.
MIXES = {"base": 0, "one": 1, "six": 6, "32": 32}


@dataclass(frozen=True, slots=True)
class Cell:
    """One column of the comparison: this many requests at once, over the adapters of this mix."""

    concurrency: int
    mix: str

    @property
    def num_adapters(self) -> int:
        return MIXES[self.mix]

    def adapters(self, round_number: int) -> list[int | None]:
        """Each request's adapter, dealt in turn; a lone request gets the next one in the next round."""
        if not self.num_adapters:
            return [None] * self.concurrency
        return [(round_number + request) % self.num_adapters for request in range(self.concurrency)]


@dataclass(frozen=True, slots=True)
class Workload:
    """
    Attributes:
        prompt_tokens, new_tokens: of each request.
        threads: CPU threads of each engine.
        dtype: of engines that compute in torch.
        max_run_s: a run predicted to take longer is shortened.
        cell_budget_s: an engine that would spend more in a cell leaves it.
    """

    cells: tuple[Cell, ...]
    prompt_tokens: int = 64
    new_tokens: int = 64
    rounds: int = 5
    threads: int = 1
    dtype: str = "float32"
    max_run_s: float = 100.0
    cell_budget_s: float = 150.0

    @property
    def num_adapters(self) -> int:
        """How many adapters exist in all."""
        return max(cell.num_adapters for cell in self.cells)

    @property
    def max_concurrency(self) -> int:
        return max(cell.concurrency for cell in self.cells)


@dataclass(slots=True)
class CellResult:
    """One engine in one cell: the runs so far.

    Attributes:
        new_tokens: per request, as measured; fewer than the workload's if the engine is too slow.
        agreement: see :func:`lmoe_ray.bench.speed_figures.agreement`; ``None``: nothing to compare with.
        is_computed: whether one request was measured and the others follow from it (serial engines).
        spent_s: time of the runs.
    """

    engine: str
    cell: Cell
    ready: Ready
    new_tokens: int
    agreement: float | None = None
    is_computed: bool = False
    spent_s: float = 0.0
    runs: list[RunFigures] = field(default_factory=list)

    @property
    def figures(self) -> CellFigures:
        return cell_figures(self.runs)


def choose_cells(concurrencies: str, mixes: str) -> tuple[Cell, ...]:
    """Every concurrency with every mix, of lists with commas; 32 adapters only with at least 32 requests.

    Raises:
        SettingsError: not a number of at least 1, or no such mix, or nothing is left.
    """
    names = mixes.split(",")
    if strangers := [name for name in names if name not in MIXES]:
        raise SettingsError("--mixes", f"no mix is called {strangers[0]!r}; there are: {', '.join(MIXES)}")
    numbers = [_positive("--concurrency", number) for number in concurrencies.split(",")]
    cells = [Cell(number, name) for name in names for number in numbers if name != "32" or number >= MIXES["32"]]
    if not cells:
        raise SettingsError("--concurrency", "32 adapters need 32 requests; add 32, or another mix")
    return tuple(dict.fromkeys(cells))


def parse_shape(shape: str) -> tuple[int, int]:
    """Prompt and new tokens from ``64/64``.

    Raises:
        SettingsError: not two numbers of at least 1.
    """
    prompt, slash, new = shape.partition("/")
    if not slash:
        raise SettingsError("--shape", f"{shape!r} is not prompt/new tokens, such as 64/64")
    return _positive("--shape", prompt), _positive("--shape", new)


def turns(cells: Sequence[Cell], engines: Sequence[Engine], round_number: int) -> Iterator[tuple[Cell, Engine]]:
    """Every cell once with every engine, in this round's order; the engines of a cell follow one another."""
    shuffler = random.Random(round_number)
    for cell in shuffler.sample(cells, len(cells)):
        for engine in shuffler.sample(engines, len(engines)):
            yield cell, engine


def _positive(option: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise SettingsError(option, f"{text!r} is not a whole number of at least 1")
    return int(text)


STANDARD = Workload(choose_cells("1,4,16,32", "base,one,six,32"))

#: About two minutes on two slow cores.
QUICK = Workload(choose_cells("1,16", "base,six"), new_tokens=32, rounds=2, max_run_s=8.0, cell_budget_s=8.0)
