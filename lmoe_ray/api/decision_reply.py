"""A routing decision as ``/v1/route`` and ``"explain": true`` show it, and the way back for our own client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmoe_ray.domain.decision import Candidate, Neighbour, RoutingDecision


def encode_decision(decision: RoutingDecision) -> dict[str, Any]:
    return {
        "model": decision.model,
        "expert": decision.expert,
        "routed_by": decision.routed_by,
        "confidence": decision.confidence,
        "threshold": decision.threshold,
        "margin": decision.margin,
        "familiarity": decision.familiarity,
        "evidence": dict(decision.evidence),
        "stays": decision.stays,
        "reason": decision.reason,
        "candidates": [
            {"expert": c.expert, "score": c.score, "opinions": dict(c.opinions)} for c in decision.candidates
        ],
        "neighbours": [{"expert": n.expert, "similarity": n.similarity, "text": n.text} for n in decision.neighbours],
        "duration": decision.duration_s,
    }


def decode_decision(data: Mapping[str, Any]) -> RoutingDecision:
    """The inverse of :func:`encode_decision`; the margin follows from the candidates."""
    return RoutingDecision(
        model=data["model"],
        expert=data["expert"],
        routed_by=data["routed_by"],
        confidence=data["confidence"],
        candidates=tuple(Candidate(**c) for c in data["candidates"]),
        neighbours=tuple(Neighbour(**n) for n in data["neighbours"]),
        threshold=data["threshold"],
        familiarity=data["familiarity"],
        evidence=data["evidence"],
        stays=data["stays"],
        reason=data["reason"],
        duration_s=data["duration"],
    )
