"""``lmoe bench engine``: our engine and its peers, measured in turns on one machine.

All engines are loaded before the first measurement and stay until the last; only one computes at a time.
Each round visits the cells in an order of its own, and in each cell the engines in an order of its own, so
that a machine that grows slower does so for everyone. Prompts are fresh in each round, and no token ends an
answer early. Ours samples, detokenises and streams text; the peers choose the likeliest token and return ids.

Slow engines are not waited for at any price: a run that would take longer than ``max_run_s`` is given fewer
new tokens, and an engine leaves a cell before it has spent ``cell_budget_s`` in it. Each result says how many
rounds and tokens it rests on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmoe_ray.bench.engine_pool import EnginePool, Say
from lmoe_ray.bench.peers.peer_protocol import Run
from lmoe_ray.bench.speed_cells import Cell, CellResult, Workload, turns
from lmoe_ray.bench.speed_engines import EngineKind, PeerPlaces
from lmoe_ray.bench.speed_figures import TokenTimes, agreement, run_figures, serial
from lmoe_ray.bench.speed_workload import PromptMaker, make_adapters

WARM_UP_TOKENS = 8
MIN_NEW_TOKENS = 8
#: Rounds are seeds of prompts; the warm-up's is none of them.
WARM_UP_SEED = 1_000_000
#: The engine whose greedy answers the others' are compared with.
REFERENCE = "hf-peft"


def run(
    kinds: Iterable[EngineKind],
    workload: Workload,
    model: Path,
    places: PeerPlaces,
    cache_dir: Path,
    *,
    progress: Say,
    warn: Say,
) -> list[CellResult]:
    """Measure these engines, as far as they are there.

    Args:
        model: folder in the layout of Hugging Face.
        cache_dir: adapters are kept in it, and the engines' logs.
        progress: told of each step.
        warn: told of engines that are left out, and why.

    Returns:
        What was measured, also of engines that failed later.

    Raises:
        ModelSourceError: no prompts can be made for this model.
    """
    present = []
    for kind in kinds:
        if problem := places.missing(kind, model):
            warn(f"{kind.name} is left out: {problem}")
        else:
            present.append(kind)
    prompts = PromptMaker(model)
    progress("making adapters")
    adapters = make_adapters(model, workload.num_adapters, cache_dir)
    logs = cache_dir / "speed-logs"
    with EnginePool(present, workload, model, places, adapters, logs, progress=progress, warn=warn) as pool:
        pool.load()
        return _Measurement(pool, workload, prompts, progress).measure()


class _Measurement:
    def __init__(self, pool: EnginePool, workload: Workload, prompts: PromptMaker, progress: Say) -> None:
        self._pool, self._workload, self._prompts, self._progress = pool, workload, prompts, progress
        self._results: dict[tuple[str, Cell], CellResult] = {}
        self._serial_runs: dict[tuple[str, str, int], TokenTimes] = {}
        #: Greedy answers of the warm-up, by mix and engine.
        self._openings: dict[str, dict[str, list[list[int]]]] = {}

    def measure(self) -> list[CellResult]:
        """Warm up, then all rounds."""
        for kind in self._pool.kinds:
            with self._pool.may_fail(kind):
                self._warm_up(kind)
        self._compare()
        engines = self._pool.kinds
        for round_number in range(self._workload.rounds):
            for cell, kind in turns(self._workload.cells, engines, round_number):
                if kind in self._pool.kinds and kind.can_run(cell) and self._has_budget(kind, cell):
                    place = f"round {round_number + 1} of {self._workload.rounds}"
                    self._progress(f"{place}: {cell.mix} x {cell.concurrency}, {kind.name}")
                    with self._pool.may_fail(kind):
                        self._measure(kind, cell, round_number)
        return [result for result in self._results.values() if result.runs]

    def _warm_up(self, kind: EngineKind) -> None:
        """One short run of each mix at its highest concurrency; from it follows how long a real run may be."""
        for mix in dict.fromkeys(cell.mix for cell in self._pool.cells(kind)):
            cells = [cell for cell in self._pool.cells(kind) if cell.mix == mix]
            widest = max(cells, key=lambda cell: cell.concurrency)
            self._progress(f"warming up {kind.name}: {mix} x {widest.concurrency}")
            answer = self._run(kind, widest, WARM_UP_TOKENS, WARM_UP_SEED, is_greedy=True)
            self._openings.setdefault(mix, {})[kind.name] = answer["tokens"]
            new_tokens = self._affordable_tokens(answer["token_s"])
            for cell in cells:
                ready = self._pool.ready(kind, cell)
                self._results[kind.name, cell] = CellResult(
                    kind.name, cell, ready, new_tokens, is_computed=kind.is_serial
                )

    def _compare(self) -> None:
        """Whether the engines compute the same model, by their greedy answers to the warm-up."""
        for (name, cell), result in self._results.items():
            openings = self._openings[cell.mix]
            if name != REFERENCE and REFERENCE in openings:
                result.agreement = agreement(openings[name], openings[REFERENCE])

    def _affordable_tokens(self, token_s: TokenTimes) -> int:
        prefill_s = max(times[0] for times in token_s)
        step_s = (max(times[-1] for times in token_s) - prefill_s) / (WARM_UP_TOKENS - 1)
        affordable = int((self._workload.max_run_s - prefill_s) / max(step_s, 1e-6))
        return min(self._workload.new_tokens, max(MIN_NEW_TOKENS, affordable))

    def _has_budget(self, kind: EngineKind, cell: Cell) -> bool:
        """Whether one more run like those before fits; the first always does."""
        result = self._results[kind.name, cell]
        return result.spent_s * (1 + 1 / max(1, len(result.runs))) <= self._workload.cell_budget_s

    def _measure(self, kind: EngineKind, cell: Cell, round_number: int) -> None:
        result = self._results[kind.name, cell]
        if kind.is_serial:
            one = self._serial_run(kind, cell, result.new_tokens, round_number)
            token_s: TokenTimes = serial(one[0], cell.concurrency)
            result.spent_s += one[0][-1]
        else:
            token_s = self._run(kind, cell, result.new_tokens, round_number)["token_s"]
            result.spent_s += max(times[-1] for times in token_s)
        result.runs.append(run_figures(token_s))

    def _serial_run(self, kind: EngineKind, cell: Cell, new_tokens: int, round_number: int) -> TokenTimes:
        """One request, measured once per mix and round: it tells of every concurrency."""
        key = (kind.name, cell.mix, round_number)
        if key not in self._serial_runs:
            self._serial_runs[key] = self._run(kind, cell, new_tokens, round_number)["token_s"]
        return self._serial_runs[key]

    def _run(
        self, kind: EngineKind, cell: Cell, new_tokens: int, seed: int, *, is_greedy: bool = False
    ) -> dict[str, Any]:
        num_requests = 1 if kind.is_serial else cell.concurrency
        # Of each cell its own: an engine that keeps prefixes would know those of another cell already.
        prompts = self._prompts.make(
            num_requests, self._workload.prompt_tokens, (seed, cell.concurrency, cell.num_adapters)
        )
        return self._pool.run(kind, cell, Run(prompts, cell.adapters(seed)[:num_requests], new_tokens, is_greedy))
