"""Three pictures of a measurement of routing: who is taken for whom, how honest confidence is, what abstaining buys.

The SVGs have no background, the same bytes for the same report, and take their ink from the reader's colour scheme,
so that they can be shown on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from lmoe_ray.bench.routing_quality import NUM_BINS, Floats, Outcomes, bins_of, by_confidence
from lmoe_ray.bench.routing_report import RoutingReport
from lmoe_ray.errors import SettingsError

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ModuleNotFoundError as exc:
    raise SettingsError("--plot", f"needs {exc.name}; pip install 'lmoe_ray[plot]'") from exc

#: Stands for the reader's ink until the file is written; no other colour here is this one.
_INK = "#24292f"
_DARK_INK = "#e6edf3"
#: Ours stands out; the predecessor is grey; the others keep their colour whichever of them are there.
_OURS, _THEIRS = "#e8590c", "#8d99ae"
_OTHERS = {"centroid": "#4c78a8", "majority": "#2a9d8f", "regression": "#7fb069", "density": "#9b72aa"}
_CELL = "#4c78a8"
#: So pale that ink of either scheme is readable on it.
_MAX_OPACITY = 0.6

_STYLE: Any = {
    **{f"{part}.color": _INK for part in ("text", "xtick", "ytick")},
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lmoe_ray",
}


def draw(report: RoutingReport, folder: Path) -> tuple[Path, ...]:
    """Write ``confusion.svg``, ``reliability.svg`` and ``risk_coverage.svg``; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[RoutingReport], Figure]] = {
        "confusion": draw_confusion,
        "reliability": draw_reliability,
        "risk_coverage": draw_risk_coverage,
    }
    files = []
    for name, picture in pictures.items():
        with rc_context(_STYLE):
            files.append(_write(picture(report), folder / f"{name}.svg"))
    return tuple(files)


def draw_confusion(report: RoutingReport) -> Figure:
    """A row per label; each cell's opacity is its share of the row, its number counts prompts."""
    labels = list(report.confusion)
    answers = sorted({answer for row in report.confusion.values() for answer in row} | set(labels))
    figure = Figure(figsize=(1.9 + 0.75 * len(answers), 1.5 + 0.5 * len(labels)), layout="constrained")
    axes = figure.subplots()
    for y, label in enumerate(labels):
        row = report.confusion[label]
        for x, answer in enumerate(answers):
            _draw_cell(axes, x, y, row.get(answer, 0), sum(row.values()))
    axes.set_xticks(range(len(answers)), answers, rotation=30)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlim=(-0.5, len(answers) - 0.5), ylim=(len(labels) - 0.5, -0.5), xlabel="answer", ylabel="label")
    axes.set_title(f"Who is taken for whom: {report.num_prompts} prompts, {report.scoring}")
    axes.spines[:].set_visible(False)
    return figure


def _draw_cell(axes: Axes, x: int, y: int, count: int, total: int) -> None:
    opacity = _MAX_OPACITY * count / total
    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=_CELL, edgecolor="none", alpha=opacity))
    if count:
        axes.text(x, y, f"{count}", ha="center", va="center", weight="bold" if 2 * count > total else "normal")


def draw_reliability(report: RoutingReport) -> Figure:
    """How often the best candidate is right against how sure the rule was, and how many prompts lie in each bin."""
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=_INK, alpha=0.4, linestyle="--", linewidth=1, label="honest")
    for side, (name, outcomes, colour) in zip((-1, 1), _ours_and_predecessor(report), strict=True):
        counts, confidence, share_right = reliability(outcomes)
        is_filled = counts > 0
        label = f"{name} (ECE {report.columns[name].quality.ece:.3f})"
        above.plot(confidence[is_filled], share_right[is_filled], color=colour, marker="o", markersize=4, label=label)
        width = 0.4 / NUM_BINS
        below.bar((np.arange(NUM_BINS) + 0.5) / NUM_BINS + side * width / 2, counts, width, color=colour)
    above.set(ylabel="share right", xlim=(0, 1), ylim=(0, 1.02), title=f"Confidence and truth, {NUM_BINS} bins")
    below.set(xlabel="confidence of the best candidate", ylabel="prompts")
    above.legend()
    return figure


def reliability(outcomes: Outcomes) -> tuple[Floats, Floats, Floats]:
    """Prompts, mean confidence and share right of each bin, ``[NUM_BINS]``; 0 where a bin is empty."""
    bins = bins_of(outcomes.confidence)
    counts = np.bincount(bins, minlength=NUM_BINS).astype(np.float64)
    sums = [np.bincount(bins, values, NUM_BINS) for values in (outcomes.confidence, outcomes.is_best_right)]
    confidence, share_right = (total / np.maximum(counts, 1) for total in sums)
    return counts, confidence, share_right


def draw_risk_coverage(report: RoutingReport) -> Figure:
    """Share of wrong answers among those a threshold lets through, from the strictest threshold to none."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, column in reversed(report.columns.items()):
        is_ours = name == report.scoring
        coverage, risk = risk_coverage(column.outcomes)
        colour = _colours(report)[name]
        axes.plot(coverage, risk, color=colour, linewidth=2.2 if is_ours else 1.2, label=name)
    axes.axhline(0.05, color=_INK, alpha=0.4, linestyle="--", linewidth=1)
    axes.set(xlabel="share answered", ylabel="share wrong of the answered", xlim=(0, 1), ylim=(0, None))
    axes.set_title("What abstaining buys: risk and coverage")
    axes.legend(*(handles[::-1] for handles in axes.get_legend_handles_labels()))
    return figure


def risk_coverage(outcomes: Outcomes) -> tuple[Floats, Floats]:
    """Coverage and risk at each threshold that tells prompts apart, coverage rising."""
    order, is_border = by_confidence(outcomes.confidence)
    num_answered = np.arange(1, len(order) + 1)
    risk = 1 - np.cumsum(outcomes.is_best_right[order]) / num_answered
    return num_answered[is_border] / len(order), risk[is_border]


def _ours_and_predecessor(report: RoutingReport) -> tuple[tuple[str, Outcomes, str], ...]:
    pair = list(report.columns.items())[:2]
    return tuple((name, column.outcomes, _colours(report)[name]) for name, column in pair)


def _colours(report: RoutingReport) -> Mapping[str, str]:
    ours, predecessor, *others = report.columns
    return {ours: _OURS, predecessor: _THEIRS, **{name: _OTHERS[name] for name in others}}


def _write(figure: Figure, file: Path) -> Path:
    """Without a date, and with the ink left to the reader's colour scheme."""
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    head, rest = text.getvalue().split("<defs>", 1)
    scheme = f"@media (prefers-color-scheme: dark) {{ svg {{ color: {_DARK_INK} }} }}"
    style = f"<style>svg {{ color: {_INK} }} {scheme}</style>\n "
    file.write_text(f"{head}{style}<defs>{rest.replace(_INK, 'currentColor')}", encoding="utf-8")
    return file
