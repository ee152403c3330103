"""A routing decision in a few lines of plain text."""

from __future__ import annotations

from collections.abc import Iterator

from lmoe_ray.cli.terminal_text import visible
from lmoe_ray.domain.decision import RoutingDecision

_BAR_CHARS = 30
_SAMPLE_CHARS = 100


def decision_lines(decision: RoutingDecision) -> Iterator[str]:
    """Who and why, every expert's score, the nearest samples."""
    yield f"{decision.expert or decision.model} · {decision.routed_by} {decision.confidence:.2f} · {decision.reason}"
    width = max((len(candidate.expert) for candidate in decision.candidates), default=0)
    for candidate in decision.candidates:
        yield f"  {candidate.expert:<{width}}  {candidate.score:.3f}  {'█' * round(_BAR_CHARS * candidate.score)}"
    for neighbour in decision.neighbours:
        text = " ".join(visible(neighbour.text).split())[:_SAMPLE_CHARS]
        yield f"  {neighbour.similarity:.3f}  {neighbour.expert:<{width}}  {text}"
    duration_ms = decision.duration_s * 1000
    yield f"threshold {decision.threshold:.2f} · familiarity {decision.familiarity:.2f} · {duration_ms:.1f} ms"
