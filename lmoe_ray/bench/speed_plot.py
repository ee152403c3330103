"""The throughput of engines as a picture: one panel per mix, one group per concurrency, one bar per engine.

All panels share one scale. Thin lines span the lowest and highest round. The SVG has no background and takes
its ink from the reader's colour scheme, so that it can be shown on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from lmoe_ray.bench.engine_report import OURS, TITLES, conditions
from lmoe_ray.bench.speed_cells import Cell, CellResult, Workload

MAX_WIDTH, MIN_WIDTH, MARGIN, PANEL_HEIGHT, TOP, BAR, GAP = 960, 720, 44, 190, 74, 13, 16

#: Ours stands out; the others keep their colour whichever of them are there.
COLOURS = {
    OURS: "#e8590c",
    "lmoe-http": "#f4a261",
    "openvino": "#4c78a8",
    "llama-cpp": "#2a9d8f",
    "vllm-cpu": "#7fb069",
    "hf-peft": "#9b72aa",
    "hf-continuous": "#c2a5cf",
    "predecessor": "#8d99ae",
}

_STYLE = """<style>
text { font: 11px system-ui, sans-serif; fill: #24292f }
.title { font-size: 13px; font-weight: 600 }
.small { font-size: 9px }
.ours { font-weight: 700 }
line { stroke: #24292f }
.grid { stroke-opacity: .15 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } line { stroke: #e6edf3 } }
</style>"""


@dataclass(frozen=True, slots=True)
class _Scale:
    """From tokens per second to pixels above the axis."""

    step: float
    num_steps: int

    def height(self, rate: float) -> float:
        return PANEL_HEIGHT * rate / (self.step * self.num_steps)


def draw(results: Sequence[CellResult], workload: Workload, file: Path) -> None:
    """Write the picture. Engines and cells without a result have no bar."""
    engines = [name for name in COLOURS if any(result.engine == name for result in results)]
    scale = _scale(max((result.figures.tokens_per_s_high for result in results), default=1.0))
    parts = [_STYLE, _text(MARGIN, 18, f"New tokens per second: {conditions(workload)}", "title")]
    parts += _legend(engines)
    left, top, right = MARGIN, TOP, MIN_WIDTH
    for mix in dict.fromkeys(cell.mix for cell in workload.cells):
        groups = [cell for cell in workload.cells if cell.mix == mix and any(r.cell == cell for r in results)]
        bars = {cell: [r for name in engines for r in results if (r.engine, r.cell) == (name, cell)] for cell in groups}
        width = sum(len(bars[cell]) * BAR + GAP for cell in groups) + GAP
        if left > MARGIN and left + width > MAX_WIDTH:
            left, top = MARGIN, top + PANEL_HEIGHT + 64
        parts += _panel(left, top, width, TITLES[mix], bars, scale)
        left += width + MARGIN
        right = max(right, left)
    height = top + PANEL_HEIGHT + 40
    body = "\n".join(parts)
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{right}" height="{height}" viewBox="0 0 {right} {height}">\n'
        f"{body}\n</svg>\n",
        encoding="utf-8",
    )


def _scale(highest: float) -> _Scale:
    """The finest round step that needs no more than five lines."""
    steps = (digit * 10.0**power for power in range(-1, 6) for digit in (1, 2, 5))
    step = next(step for step in steps if step * 5 >= highest)
    return _Scale(step, max(1, -int(-highest // step)))


def _legend(engines: Sequence[str]) -> Iterator[str]:
    left = MARGIN
    for name in engines:
        yield f'<rect x="{left}" y="27" width="10" height="10" rx="2" fill="{COLOURS[name]}"/>'
        yield _text(left + 14, 36, name, "ours" if name == OURS else "")
        left += 28 + 7 * len(name)


def _panel(
    left: int, top: int, width: int, title: str, groups: dict[Cell, list[CellResult]], scale: _Scale
) -> Iterator[str]:
    bottom = top + PANEL_HEIGHT
    yield _text(left, top - 8, title, "title")
    for number in range(scale.num_steps + 1):
        y = bottom - scale.height(number * scale.step)
        yield f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(left - 4, y + 3, f"{number * scale.step:g}", "small", anchor="end")
    x = left + GAP
    for cell, results in groups.items():
        group_width = len(results) * BAR
        yield from _group(x, bottom, results, scale)
        label = f"{cell.concurrency} request{'s' if cell.concurrency > 1 else ''}"
        yield _text(x + group_width / 2, bottom + 15, label, anchor="middle")
        x += group_width + GAP


def _group(left: float, bottom: float, results: Sequence[CellResult], scale: _Scale) -> Iterator[str]:
    """Bars side by side; ours and the fastest carry their number."""
    fastest = max(result.figures.tokens_per_s for result in results)
    for place, result in enumerate(results):
        figures, x = result.figures, left + place * BAR
        height = scale.height(figures.tokens_per_s)
        yield (
            f'<rect x="{x:.1f}" y="{bottom - height:.1f}" width="{BAR - 2}" height="{height:.1f}" '
            f'fill="{COLOURS[result.engine]}"><title>{result.engine}: {figures.tokens_per_s:.1f}</title></rect>'
        )
        low, high = (bottom - scale.height(rate) for rate in (figures.tokens_per_s_low, figures.tokens_per_s_high))
        middle = x + (BAR - 2) / 2
        yield f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        if result.engine == OURS or figures.tokens_per_s == fastest:
            label = f"{figures.tokens_per_s:.0f}"
            yield _text(middle, high - 3, label, "small ours" if result.engine == OURS else "small", anchor="middle")


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'
