"""Figures of merit of routing decisions, from who was right and how sure the router was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.domain.decision import RoutingDecision

#: How a decision for the base model is counted.
BASE = "(base)"
NUM_BINS = 15
PRECISION = 0.95


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one scoring rule.

    Attributes:
        accuracy: share of prompts that went to their label.
        macro_f1: mean over the labels of the test file.
        ece: expected calibration error over 15 equal bins of confidence (Naeini et al. 2015).
        coverage_at_95: largest share that a threshold could answer with 95 % precision. The threshold is
            chosen on the test itself, so this is an upper bound.
    """

    accuracy: float
    macro_f1: float
    ece: float
    coverage_at_95: float


def quality_of(labels: Sequence[str], decisions: Sequence[RoutingDecision]) -> Quality:
    """Of one decision per label.

    Accuracy and F1 judge the answer, and an abstention is a wrong one. The other two judge the confidence, so
    they look at the best candidate, chosen or not.
    """
    answers = [d.expert or BASE for d in decisions]
    best = [d.candidates[0].expert if d.candidates else d.expert for d in decisions]
    is_right = np.array([name == label for name, label in zip(best, labels, strict=True)])
    confidence = np.array([d.confidence for d in decisions])
    return Quality(
        accuracy=float(np.mean([a == label for a, label in zip(answers, labels, strict=True)])),
        macro_f1=_macro_f1(labels, answers),
        ece=_calibration_error(is_right, confidence),
        coverage_at_95=_coverage(is_right, confidence),
    )


def _macro_f1(labels: Sequence[str], answers: Sequence[str]) -> float:
    scores = []
    for label in sorted(set(labels)):
        num_hits = sum(a == b == label for a, b in zip(labels, answers, strict=True))
        scores.append(2 * num_hits / (labels.count(label) + answers.count(label)))
    return float(np.mean(scores))


def _calibration_error(is_right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = [abs(float((is_right[bins == b] - confidence[bins == b]).sum())) for b in range(NUM_BINS)]
    return sum(gaps) / len(confidence)


def _coverage(is_right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Only whole groups of equal confidence can be answered: a threshold cannot tell them apart."""
    order = np.argsort(-confidence, kind="stable")
    num_answered = np.arange(1, len(order) + 1)
    precision = np.cumsum(is_right[order]) / num_answered
    is_border = np.append(np.diff(confidence[order]) != 0, True)
    good = num_answered[(precision >= PRECISION) & is_border]
    return float(good.max() / len(order)) if len(good) else 0.0
