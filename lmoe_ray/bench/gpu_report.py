"""Figures of ``lmoe bench gpu`` as JSON lines and as a table, each beside what the device could do at best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lmoe_ray.bench.device_limits import Ceilings
from lmoe_ray.bench.engine_report import TITLES
from lmoe_ray.bench.gpu_speed import GpuResult, GpuWorkload


def as_dict(result: GpuResult, workload: GpuWorkload, ceilings: Ceilings) -> dict[str, Any]:
    """Flat, for one line of JSON: tokens per second, seconds, bytes."""
    is_decode = result.phase == "decode"
    return {
        "name": "gpu",
        "engine": result.engine,
        "phase": result.phase,
        "mix": result.cell.mix,
        "concurrency": result.cell.concurrency,
        "tokens_per_s": _short(result.tokens_per_s),
        "ceiling_tokens_per_s": _short(result.ceiling),
        "share_of_ceiling": _short(result.share_of_ceiling),
        "prompt_tokens": workload.prompt_tokens if is_decode else workload.prefill_tokens,
        "rounds": workload.rounds,
        "load_s": _short(result.ready.load_s),
        "memory_bytes": result.ready.memory_bytes,
        "model": workload.size.name,
        "dtype": result.ready.dtype,
        "device": ceilings.device,
        "bytes_per_s": _short(ceilings.bytes_per_s),
        "flops_per_s": _short(ceilings.flops_per_s),
        "version": result.ready.version,
        "torch": ceilings.torch,
    }


def print_table(results: Sequence[GpuResult], workload: GpuWorkload, ceilings: Ceilings, console: Console) -> None:
    """A table per phase and concurrency, a row per engine, a column per mix."""
    for phase, concurrency in sorted({(result.phase, result.cell.concurrency) for result in results}):
        shown = [r for r in results if (r.phase, r.cell.concurrency) == (phase, concurrency)]
        console.print(_table(shown, f"{phase}, {concurrency} at once: tokens/s"))
    for engine in dict.fromkeys(result.engine for result in results):
        ready = next(result.ready for result in results if result.engine == engine)
        memory = "" if ready.memory_bytes is None else f", {ready.memory_bytes / 1e9:.2f} GB on the device"
        console.print(f"{engine} {ready.version}: loaded in {ready.load_s:.1f} s{memory}", style="dim", highlight=False)
    limits = f"{ceilings.bytes_per_s / 1e9:.0f} GB/s, {ceilings.flops_per_s / 1e12:.3g} TFLOP/s"
    console.print(f"{workload.size.name}, {workload.dtype}", style="dim", highlight=False)
    console.print(
        f"in brackets: the share of what {ceilings.device} could do with {limits}", style="dim", highlight=False
    )


def _table(results: Sequence[GpuResult], title: str) -> Table:
    mixes = list(dict.fromkeys(result.cell.mix for result in results))
    table = Table("engine", title=title, title_justify="left")
    for mix in mixes:
        table.add_column(TITLES[mix], justify="right", no_wrap=True)
    by_place = {(result.engine, result.cell.mix): result for result in results}
    for engine in dict.fromkeys(result.engine for result in results):
        table.add_row(engine, *(_shown(by_place.get((engine, mix))) for mix in mixes))
    return table


def _shown(result: GpuResult | None) -> str:
    return "" if result is None else f"{result.tokens_per_s:.1f} ({result.share_of_ceiling:.0%})"


def _short(value: float) -> float:
    return float(f"{value:.4g}")
