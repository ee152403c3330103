"""``lmoe bench gpu``: our engine on a GPU beside transformers with PEFT, and beside what the GPU could do at best.

The ceilings are measured on the same device: decoding reads the weights, the adapters in use and the cached
tokens once per step, so its best is bandwidth over these bytes; a prompt's best is its operations over the rate of one
large matrix product. Engines run one after the other, each in a process of its own, since each wants the
whole device. All get the same random prompts, and no token ends an answer early.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from lmoe_ray.bench.device_limits import Ceilings, measure_ceilings
from lmoe_ray.bench.gpu_model import FIRST_WORD_ID, LlamaSize, write_adapters, write_model
from lmoe_ray.bench.peer_process import PeerProcess, Ready
from lmoe_ray.bench.peers.peer_protocol import Run, Start
from lmoe_ray.bench.speed_cells import Cell
from lmoe_ray.bench.speed_engines import PEERS
from lmoe_ray.bench.speed_figures import run_figures
from lmoe_ray.errors import PeerFailed, SettingsError

#: The predecessor answers one request after the other and computes every token anew: it gets few cells and tokens.
SERIAL_ENGINE, SERIAL_TOKENS = "predecessor", 16
ENGINES = ("lmoe", "hf-peft", SERIAL_ENGINE)
PREFILL_PROMPTS = 4
WARM_UP_TOKENS, WARM_UP_SEED = 4, 1_000_000


@dataclass(frozen=True, slots=True)
class GpuWorkload:
    """
    Attributes:
        cells: where decoding is measured; prompts alone are measured once for each mix among them.
        prompt_tokens, new_tokens: of each request of a cell.
        prefill_tokens: of each prompt where prompts alone are measured.
        device: ``cuda``, or ``cpu`` to see that it runs.
    """

    size: LlamaSize
    cells: tuple[Cell, ...]
    prompt_tokens: int = 256
    new_tokens: int = 128
    prefill_tokens: int = 1024
    rounds: int = 3
    device: str = "cuda"
    threads: int = 4

    @property
    def prefill_cells(self) -> tuple[Cell, ...]:
        return tuple(Cell(PREFILL_PROMPTS, mix) for mix in dict.fromkeys(cell.mix for cell in self.cells))

    @property
    def dtype(self) -> str:
        """Of all engines."""
        return "bfloat16" if self.device == "cuda" else "float32"


@dataclass(frozen=True, slots=True)
class GpuResult:
    """One engine in one cell.

    Attributes:
        phase: ``decode``: new tokens per second once all prompts are done; ``prefill``: prompt tokens per second.
        ceiling: tokens per second at the device's limits.
    """

    engine: str
    cell: Cell
    phase: str
    tokens_per_s: float
    ceiling: float
    ready: Ready

    @property
    def share_of_ceiling(self) -> float:
        return self.tokens_per_s / self.ceiling


def run(
    workload: GpuWorkload,
    engines: Sequence[str],
    cache_dir: Path,
    *,
    progress: Callable[[str], None],
    warn: Callable[[str], None],
) -> tuple[Ceilings, list[GpuResult]]:
    """Measure; engines that fail are left out with a warning.

    Args:
        engines: of ``ENGINES``.
        cache_dir: model, adapters and logs are kept in it.

    Raises:
        PeerFailed: the ceilings cannot be measured.
    """
    progress("writing the model")
    model = write_model(workload.size, cache_dir)
    adapters = write_adapters(workload.size, max(cell.num_adapters for cell in workload.cells), cache_dir)
    progress("measuring the device")
    ceilings = measure_ceilings(workload.device, workload.threads)
    results: list[GpuResult] = []
    for engine in engines:
        progress(f"loading {engine}")
        command: list[str | Path] = [sys.executable, PEERS / "gpu_peer.py", engine, workload.device]
        log = cache_dir / "gpu-logs" / f"{engine}.log"
        process = PeerProcess(engine, command, _start(workload, model, adapters), log)
        try:
            process.wait_until_ready()
            for result in _measure(engine, process, workload, ceilings):
                results.append(result)
                progress(f"{engine}: {result.cell.mix} x {result.cell.concurrency}, {result.phase}")
        except PeerFailed as exc:
            warn(str(exc))
        finally:
            process.close()
    return ceilings, results


def choose_gpu_engines(names: str) -> tuple[str, ...]:
    """From a list with commas.

    Raises:
        SettingsError: there is no such engine.
    """
    chosen = tuple(dict.fromkeys(names.split(",")))
    if strangers := [name for name in chosen if name not in ENGINES]:
        raise SettingsError("--engines", f"no engine is called {strangers[0]!r}; there are: {', '.join(ENGINES)}")
    return chosen


def decode_ceiling(workload: GpuWorkload, cell: Cell, ceilings: Ceilings) -> float:
    """Tokens per second of a cell if its steps took as long as reading what they need."""
    context_tokens = workload.prompt_tokens + workload.new_tokens / 2
    step_bytes = workload.size.decode_step_bytes(cell.concurrency, cell.num_adapters, context_tokens)
    return cell.concurrency * ceilings.bytes_per_s / step_bytes


def _start(workload: GpuWorkload, model: Path, adapters: Sequence[Path]) -> Start:
    longest = max(workload.prompt_tokens + workload.new_tokens, workload.prefill_tokens + 1)
    return Start(
        model=str(model),
        adapters=[str(folder) for folder in adapters],
        threads=workload.threads,
        dtype=workload.dtype,
        max_seqs=max(PREFILL_PROMPTS, *(cell.concurrency for cell in workload.cells)),
        max_len=longest + 1,
    )


def _measure(engine: str, process: PeerProcess, workload: GpuWorkload, ceilings: Ceilings) -> Iterator[GpuResult]:
    is_serial = engine == SERIAL_ENGINE
    if is_serial:
        lone = tuple(cell for cell in workload.cells if cell.concurrency == 1)
        workload = replace(workload, cells=lone, new_tokens=min(SERIAL_TOKENS, workload.new_tokens))
    for cell in workload.cells:
        rate = _decode_rate(engine, process, workload, cell)
        yield GpuResult(engine, cell, "decode", rate, decode_ceiling(workload, cell, ceilings), process.ready)
    for cell in () if is_serial else workload.prefill_cells:
        flops = workload.size.prefill_flops_per_token(cell.num_adapters > 0, workload.prefill_tokens)
        rate = _prefill_rate(process, workload, cell)
        yield GpuResult(engine, cell, "prefill", rate, ceilings.flops_per_s / flops, process.ready)


def _decode_rate(engine: str, process: PeerProcess, workload: GpuWorkload, cell: Cell) -> float:
    # Kernels are compiled and graphs captured when they are first needed.
    _run(process, workload, cell, workload.prompt_tokens, WARM_UP_TOKENS, WARM_UP_SEED)
    runs = [
        run_figures(_run(process, workload, cell, workload.prompt_tokens, workload.new_tokens, seed))
        for seed in range(workload.rounds)
    ]
    rates = [figures.decode_tokens_per_s for figures in runs if figures.decode_tokens_per_s is not None]
    if not rates:
        raise PeerFailed(engine, f"{workload.new_tokens} tokens came at once; ask for more new tokens with --shape")
    return median(rates)


def _prefill_rate(process: PeerProcess, workload: GpuWorkload, cell: Cell) -> float:
    prompt_tokens = workload.prefill_tokens
    durations_s = [
        max(times[0] for times in _run(process, workload, cell, prompt_tokens, 1, seed))
        for seed in (WARM_UP_SEED, *range(workload.rounds))
    ]
    return cell.concurrency * prompt_tokens / median(durations_s[1:])


def _run(
    process: PeerProcess, workload: GpuWorkload, cell: Cell, prompt_tokens: int, new_tokens: int, seed: int
) -> list[list[float]]:
    random = np.random.default_rng([seed, prompt_tokens, cell.concurrency, cell.num_adapters])
    ids = random.integers(FIRST_WORD_ID, workload.size.vocab_size, (cell.concurrency, prompt_tokens))
    token_s: list[list[float]] = process.run(Run(ids.tolist(), cell.adapters(seed), new_tokens))["token_s"]
    return token_s
