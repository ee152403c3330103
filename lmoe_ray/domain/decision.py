"""Who answers, how sure we are, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ``explicit``: the client named the expert; ``tools``: the request declares tools and there is an
#: expert for them; ``similarity`` and ``agent``: a router chose it; ``abstained``: the router could not
#: choose, or not surely enough, so the fallback answers; ``only``: nothing to choose.
RoutedBy = Literal["explicit", "tools", "similarity", "agent", "abstained", "only"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One expert's standing in a decision: ``score`` is a probability; all candidates' sum to 1."""

    expert: str
    score: float


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One routing sample near the query. ``similarity`` is a cosine. ``text`` is empty unless asked for."""

    expert: str
    similarity: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """The router's answer.

    Attributes:
        model: name of the base model that serves the request.
        expert: name of the expert, or ``None`` for the base model itself.
        routed_by: which rule decided.
        confidence: probability that the chosen expert is the right one; 1 for an explicit choice. When
            abstained, that of the best candidate, who was not chosen; 0 if there was none.
        candidates: every expert of the model, best first; empty for an explicit choice.
        neighbours: nearest samples, nearest first; empty unless a similarity router decided.
        threshold: confidence below which the router abstains.
        reason: one sentence for people.
        duration_s: time the decision took, monotonic clock.
    """

    model: str
    expert: str | None
    routed_by: RoutedBy
    confidence: float = 1.0
    candidates: tuple[Candidate, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    threshold: float = 0.0
    reason: str = ""
    duration_s: float = 0.0
