"""A measurement of routing as tables for people: the figures, who was taken for whom, and the parts of the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lmoe_ray.bench.routing_intervals import NUM_RESAMPLES, Interval
from lmoe_ray.bench.routing_report import PREDECESSOR, Column, Difference, Part, RoutingReport

_HEADINGS = {"accuracy": "accuracy", "macro_f1": "macro-F1", "ece": "ECE", "coverage_at_95": "cover 95%"}


def print_report(report: RoutingReport, console: Console | None = None) -> None:
    """On standard output, unless another console is given."""
    console = console or Console()
    console.print(_figures(report))
    for note in _notes(report):
        console.print(note, style="dim", markup=False, highlight=False)
    console.print(_confusion(report))
    for title, parts in (("slice", report.by_slice), ("source", report.by_source)):
        if parts:
            console.print(_breakdown(title, parts, report.scoring))


def _figures(report: RoutingReport) -> Table:
    title = f"routing of {report.num_prompts} prompts by {report.num_samples} samples"
    table = Table("", title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in (*_HEADINGS.values(), "answered", "precision"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, (name, column) in enumerate(report.columns.items()):
        table.add_row(name, *_cells(column))
        if number == 1:
            table.add_row("difference", *(_cell(f"{d.value:+.3f}", d.interval) for d in _in_order(report.differences)))
    return table


def _cells(column: Column) -> Iterator[str]:
    figures = column.quality
    for name in _HEADINGS:
        yield _cell(f"{getattr(figures, name):.3f}", column.intervals[name])
    yield f"{figures.answered:.3f}"
    yield "–" if figures.precision_answered is None else f"{figures.precision_answered:.3f}"


def _cell(value: str, interval: Interval) -> str:
    return f"{value}\n{interval.low:.2f}…{interval.high:.2f}"


def _in_order(differences: Mapping[str, Difference]) -> Iterator[Difference]:
    return (differences[name] for name in _HEADINGS)


def _notes(report: RoutingReport) -> Iterator[str]:
    yield f"p50 / p95: {report.p50_ms:.1f} / {report.p95_ms:.1f} ms a decision"
    yield f"without the encoder: {report.after_encoder_p50_ms:.1f} / {report.after_encoder_p95_ms:.1f} ms"
    yield f"under a figure: the middle 95 % of {NUM_RESAMPLES} resamples of {report.resampled}, paired in differences"
    yield (
        f"answered, precision: of what is not left to the fallback, with our threshold of {report.ours.threshold:g}; "
        "the predecessor and the baselines answer everything. cover 95%: the share answered with the threshold that "
        "is best on this very test, an upper bound"
    )
    if report.num_out_of_domain:
        caught = ", ".join(f"{name} {column.out_of_domain_caught:.3f}" for name, column in report.columns.items())
        yield f"share of {report.num_out_of_domain} prompts out of every domain left to the fallback: {caught}"


def _confusion(report: RoutingReport) -> Table:
    answers = sorted({answer for row in report.confusion.values() for answer in row})
    table = Table("label \\ answer", *answers)
    for label, row in report.confusion.items():
        table.add_row(label, *(str(row.get(answer, 0)) for answer in answers))
    return table


def _breakdown(title: str, parts: Mapping[str, Part], scoring: str) -> Table:
    table = Table(title, title=f"accuracy by {title}")
    for heading in ("n", scoring, PREDECESSOR):
        table.add_column(heading, justify="right")
    for name, part in parts.items():
        table.add_row(name, str(part.n), f"{part.accuracy:.3f}", f"{part.baseline_accuracy:.3f}")
    return table
