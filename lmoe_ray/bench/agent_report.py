"""What a measurement of the agent router found: its line of JSON, and its table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lmoe_ray.bench.routing_intervals import NUM_RESAMPLES, Interval
from lmoe_ray.bench.routing_quality import Quality

_HEADINGS = ("accuracy", "macro-F1", "ECE", "answered", "asked", "p50 ms", "p95 ms")


@dataclass(frozen=True, slots=True)
class RouterFigures:
    """One router on the chosen prompts.

    Attributes:
        quality: abstentions count as wrong.
        accuracy: interval of the accuracy, over resamples of the prompts.
        asked_share: share of the prompts that the language model was asked about.
        p50_ms, p95_ms: of a decision, made one after the other.
    """

    num_prompts: int
    quality: Quality
    accuracy: Interval
    asked_share: float
    p50_ms: float
    p95_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Flat."""
        bounds = {f"accuracy_{side}": bound for side, bound in asdict(self.accuracy).items()}
        cost = {"asked_share": self.asked_share, "p50_ms": self.p50_ms, "p95_ms": self.p95_ms}
        return {**asdict(self.quality), **bounds, **cost, "n": self.num_prompts}


@dataclass(frozen=True, slots=True)
class AgentReport:
    """The three kinds of router on the same prompts.

    Attributes:
        asked: who was asked, and what they know of the experts.
        hybrid: ``None`` without a threshold below which it would ask.
        prompt_tokens: of a question, the median; most are the list of experts, which the model keeps in its cache.
            ``None`` if nothing was asked.
    """

    asked: str
    similarity: RouterFigures
    agent: RouterFigures
    hybrid: RouterFigures | None
    prompt_tokens: float | None

    def as_dict(self) -> dict[str, Any]:
        """By the names of the kinds; ``hybrid`` is ``None`` if there is none."""
        return {
            "similarity": self.similarity.as_dict(),
            "agent": {**self.agent.as_dict(), "prompt_tokens": self.prompt_tokens, "asked": self.asked},
            "hybrid": None if self.hybrid is None else self.hybrid.as_dict(),
        }


def print_agent_report(report: AgentReport, console: Console) -> None:
    """A table for people."""
    title = f"routing of {report.agent.num_prompts} of these prompts by asking"
    table = Table("", title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, figures in (("similarity", report.similarity), ("agent", report.agent), ("hybrid", report.hybrid)):
        if figures is not None:
            table.add_row(name, *_cells(figures))
    console.print(table)
    for note in _notes(report):
        console.print(note, style="dim", markup=False, highlight=False)


def _cells(figures: RouterFigures) -> Iterator[str]:
    found, interval = figures.quality, figures.accuracy
    yield f"{found.accuracy:.3f}\n{interval.low:.2f}…{interval.high:.2f}"
    for share in (found.macro_f1, found.ece, found.answered, figures.asked_share):
        yield f"{share:.3f}"
    for duration_ms in (figures.p50_ms, figures.p95_ms):
        yield f"{duration_ms:.1f}"


def _notes(report: AgentReport) -> Iterator[str]:
    yield f"asked: {report.asked}"
    yield f"under an accuracy: the middle 95 % of {NUM_RESAMPLES} resamples of the prompts"
    if report.prompt_tokens is not None:
        yield f"tokens of a question: {report.prompt_tokens:.0f} at the median"
    if report.hybrid is None:
        yield "no hybrid, which asks below a threshold: give --precision or --threshold"
