"""Figures of engines as JSON lines and as a table: one row per engine, one column per cell."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lmoe_ray.bench.speed_cells import Cell, CellResult, Workload

OURS = "lmoe"
TITLES = {"base": "base model", "one": "one adapter", "six": "six adapters", "32": "32 adapters"}


def as_dict(result: CellResult, workload: Workload) -> dict[str, Any]:
    """Flat, for one line of JSON. Times in seconds, throughput in new tokens per second of the whole cell."""
    return {
        "name": "engine",
        "engine": result.engine,
        "concurrency": result.cell.concurrency,
        "mix": result.cell.mix,
        **{key: _short(value) for key, value in dataclasses.asdict(result.figures).items()},
        "agreement": result.agreement,
        "is_computed": result.is_computed,
        "prompt_tokens": workload.prompt_tokens,
        "new_tokens": result.new_tokens,
        "threads": workload.threads,
        "version": result.ready.version,
        "dtype": result.ready.dtype,
        "device": cpu_name(),
        "num_cpus": os.cpu_count(),
        "torch": result.ready.torch,
    }


def print_table(results: Sequence[CellResult], workload: Workload, console: Console) -> None:
    """One table per mix: a row per engine, and per concurrency its throughput and time to the first token."""
    for mix in dict.fromkeys(cell.mix for cell in workload.cells):
        console.print(_table([result for result in results if result.cell.mix == mix], workload, mix))
    for note in _notes(results, workload):
        console.print(note, style="dim", markup=False, highlight=False)


def ratio_to_best_peer(results: Sequence[CellResult], cell: Cell) -> float | None:
    """Our throughput over that of the fastest peer of a cell; ``None`` if either is missing."""
    rates = {result.engine: result.figures.tokens_per_s for result in results if result.cell == cell}
    ours = rates.pop(OURS, None)
    return ours / max(rates.values()) if ours is not None and rates else None


def conditions(workload: Workload) -> str:
    """What was asked for, of how many threads, of which CPU."""
    threads = f"{workload.threads} thread" + ("s" if workload.threads > 1 else "")
    return f"{workload.prompt_tokens} prompt and {workload.new_tokens} new tokens, {threads} each, {cpu_name()}"


def cpu_name() -> str:
    """The model's name, as the kernel calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _table(results: Sequence[CellResult], workload: Workload, mix: str) -> Table:
    cells = sorted({result.cell for result in results}, key=lambda cell: cell.concurrency)
    table = Table("engine", title=f"{TITLES[mix]}: new tokens/s (median/worst TTFT, s)", title_justify="left")
    for cell in cells:
        table.add_column(f"{cell.concurrency} at once", justify="right", no_wrap=True)
    by_place = {(result.engine, result.cell): result for result in results}
    for engine in dict.fromkeys(result.engine for result in results):
        row = [by_place.get((engine, cell)) for cell in cells]
        table.add_row(engine, *("" if result is None else _shown(result, workload) for result in row))
    ratios = [ratio_to_best_peer(results, cell) for cell in cells]
    if any(ratios):
        table.add_section()
        table.add_row("lmoe / best peer", *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios))
    return table


def _shown(result: CellResult, workload: Workload) -> str:
    figures = result.figures
    return f"{figures.tokens_per_s:.1f}{_mark(result, workload)} ({figures.ttft_s_p50:.2f}/{figures.ttft_s_max:.2f})"


def _short(value: float | None) -> float | None:
    """Four significant digits: more than a clock on a busy machine is good for."""
    return value if value is None or isinstance(value, int) else float(f"{value:.4g}")


def _mark(result: CellResult, workload: Workload) -> str:
    marks = "*" if result.new_tokens < workload.new_tokens else ""
    return marks + ("°" if result.is_computed and result.cell.concurrency > 1 else "")


def _notes(results: Sequence[CellResult], workload: Workload) -> list[str]:
    shown = "".join(_mark(result, workload) for result in results)
    notes = [conditions(workload), f"medians of up to {workload.rounds} rounds; the JSON lines say how many"]
    if "*" in shown:
        notes.append("* measured with fewer new tokens, for time")
    strangers = sorted({result.engine for result in results if result.agreement is not None and result.agreement < 0.5})
    if strangers:
        notes.append(f"{', '.join(strangers)}: greedy answers differ, see agreement; another model may be computed")
    if "°" in shown:
        notes.append("° computed from one request: this engine answers one after the other")
    return notes
