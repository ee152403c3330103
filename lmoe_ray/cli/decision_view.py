"""A routing decision on a terminal: who, how sure, what the evidence says, and the nearest samples."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lmoe_ray.cli.terminal_text import visible
from lmoe_ray.domain.decision import RoutingDecision

_BAR_CHARS = 30
_SAMPLE_CHARS = 100


def print_decision(decision: RoutingDecision, console: Console) -> None:
    """Who and why, a table of the candidates, the nearest samples, and what the decision was held against."""
    console.print(f"{decision.expert or decision.model} · {decision.routed_by} · {decision.reason}", markup=False)
    if decision.candidates:
        console.print(_candidates(decision))
    for neighbour in decision.neighbours:
        text = " ".join(visible(neighbour.text).split())[:_SAMPLE_CHARS]
        console.print(f"{neighbour.similarity:.3f} {neighbour.expert:>10}  {text}", markup=False, highlight=False)
    console.print(
        f"confidence {decision.confidence:.2f} (threshold {decision.threshold:.2f}) · margin {decision.margin:.2f} · "
        f"familiarity {decision.familiarity:.2f} · {decision.duration_s * 1000:.1f} ms",
        style="dim",
        highlight=False,
    )


def _candidates(decision: RoutingDecision) -> Table:
    """One row for each, with the opinion of every kind of evidence; the heads tell its share in the scores."""
    shares = decision.evidence
    table = Table("expert", "probability", "", *(f"{name} ({share:.0%})" for name, share in shares.items()))
    for candidate in decision.candidates:
        opinions = (candidate.opinions.get(name) for name in shares)
        table.add_row(
            candidate.expert,
            f"{candidate.score:.3f}",
            "█" * round(_BAR_CHARS * candidate.score),
            *("" if opinion is None else f"{opinion:.3f}" for opinion in opinions),
        )
    return table
