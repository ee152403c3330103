"""Who answers, how sure we are, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

#: ``explicit``: the client named the expert or the base model; ``tools``: the request declares tools and there is an
#: expert for them; ``similarity`` and ``agent``: a router chose it; ``abstained``: the router could not
#: choose, or not surely enough, so the fallback answers; ``only``: nothing to choose.
RoutedBy = Literal["explicit", "tools", "similarity", "agent", "abstained", "only"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One expert's standing in a decision.

    Attributes:
        expert: its name.
        score: a probability; all candidates' sum to 1.
        opinions: the probability that each kind of evidence alone gives it, by the evidence's name; empty where
            there is one kind only.
    """

    expert: str
    score: float
    opinions: Mapping[str, float] = field(default_factory=dict)


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
        familiarity: how usual such a request is beside the routing samples, 0 to 1: what is unheard of is left to
            the fallback, however sure the router is; 1 unless a similarity router looked.
        evidence: share of each kind of evidence in the scores, by name, sum 1; empty where there is one kind only.
        stays: probability that the last message of a conversation goes on with it, which says how much the earlier ones
            count; ``None`` if there is no conversation or nobody knows.
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
    familiarity: float = 1.0
    evidence: Mapping[str, float] = field(default_factory=dict)
    stays: float | None = None
    reason: str = ""
    duration_s: float = 0.0

    @property
    def margin(self) -> float:
        """By how much the best candidate leads the second; 1 without a second."""
        scores = [candidate.score for candidate in self.candidates[:2]]
        return scores[0] - scores[1] if len(scores) == 2 else 1.0
