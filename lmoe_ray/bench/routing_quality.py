"""Figures of merit of routing decisions, from who was right and how sure the router was.

Each figure is written once, for weighted prompts: with weights of 1 it is the figure itself, and with the number
of times that a resample drew each prompt it is the figure of that resample, of a thousand of them in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.domain.decision import RoutingDecision

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: How a decision for the base model is counted.
BASE = "(base)"
NUM_BINS = 15
PRECISION = 0.95


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of each prompt, ``[num_prompts]`` each.

    Attributes:
        labels: who should answer.
        answers: who did, :data:`BASE` for the base model.
        is_best_right: whether the best candidate, chosen or not, is the label.
        confidence: of that candidate.
        is_answered: whether the router chose, rather than left it to the fallback.
    """

    labels: NDArray[np.str_]
    answers: NDArray[np.str_]
    is_best_right: Flags
    confidence: Floats
    is_answered: Flags

    @property
    def is_right(self) -> Flags:
        return np.asarray(self.answers == self.labels)


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one scoring rule, on prompts that have an expert.

    Attributes:
        accuracy: share of prompts that went to their label.
        macro_f1: mean over the labels of the test file.
        ece: expected calibration error over 15 equal bins of confidence (Naeini et al. 2015).
        coverage_at_95: largest share that a threshold could answer with 95 % precision. The threshold is
            chosen on the test itself, so this is an upper bound.
        answered: share that was not left to the fallback, at the threshold in use.
        precision_answered: share of these that went to their label; ``None`` if there are none.
    """

    accuracy: float
    macro_f1: float
    ece: float
    coverage_at_95: float
    answered: float
    precision_answered: float | None


def outcomes_of(labels: Sequence[str], decisions: Sequence[RoutingDecision]) -> Outcomes:
    """Of one decision per label, at least one."""
    best = [d.candidates[0].expert if d.candidates else d.expert for d in decisions]
    return Outcomes(
        labels=np.array(labels),
        answers=np.array([d.expert or BASE for d in decisions]),
        is_best_right=np.array([name == label for name, label in zip(best, labels, strict=True)]),
        confidence=np.array([d.confidence for d in decisions]),
        is_answered=np.array([not is_abstention(d) for d in decisions]),
    )


def is_abstention(decision: RoutingDecision) -> bool:
    """Whether the router chose nobody, whoever then answers."""
    return decision.expert is None or decision.routed_by == "abstained"


def quality_of(labels: Sequence[str], decisions: Sequence[RoutingDecision]) -> Quality:
    """Of one decision per label.

    Accuracy and F1 judge the answer, and an abstention is a wrong one. Calibration and coverage judge the
    confidence, so they look at the best candidate, chosen or not.
    """
    return quality(outcomes_of(labels, decisions))


def quality(outcomes: Outcomes) -> Quality:
    """Every prompt counted once."""
    once = np.ones((1, len(outcomes.labels)))
    figures = {name: float(figure(outcomes, once)[0]) for name, figure in FIGURES.items()}
    answered = outcomes.is_answered
    precision = float(outcomes.is_right[answered].mean()) if answered.any() else None
    return Quality(**figures, answered=float(answered.mean()), precision_answered=precision)


def _accuracy(outcomes: Outcomes, weights: Floats) -> Floats:
    return np.asarray(weights @ outcomes.is_right / weights.sum(axis=1))


def _macro_f1(outcomes: Outcomes, weights: Floats) -> Floats:
    """Over the labels that a resample holds."""
    scores, is_there = np.zeros(len(weights)), np.zeros(len(weights))
    for label in np.unique(outcomes.labels):
        num_labels = weights @ (outcomes.labels == label)
        num_answers = weights @ (outcomes.answers == label)
        num_hits = weights @ (outcomes.is_right & (outcomes.labels == label))
        scores += np.where(num_labels > 0, 2 * num_hits / np.maximum(num_labels + num_answers, 1), 0)
        is_there += num_labels > 0
    return scores / is_there


def _calibration_error(outcomes: Outcomes, weights: Floats) -> Floats:
    gaps = outcomes.is_best_right - outcomes.confidence
    in_bin = bins_of(outcomes.confidence)[:, np.newaxis] == np.arange(NUM_BINS)
    return np.asarray(np.abs(weights @ (in_bin * gaps[:, np.newaxis])).sum(axis=1) / weights.sum(axis=1))


def bins_of(confidence: Floats) -> NDArray[np.int64]:
    """Number of the bin of each value of 0 to 1; the last one includes 1."""
    return np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def _coverage(outcomes: Outcomes, weights: Floats) -> Floats:
    order, is_border = by_confidence(outcomes.confidence)
    num_answered = np.cumsum(weights[:, order], axis=1)
    num_right = np.cumsum(weights[:, order] * outcomes.is_best_right[order], axis=1)
    is_good = is_border & (num_right >= PRECISION * num_answered)
    return np.asarray(np.where(is_good, num_answered, 0).max(axis=1) / num_answered[:, -1])


def by_confidence(confidence: Floats) -> tuple[NDArray[np.int64], Flags]:
    """Prompts from sure to unsure, and after which of them a threshold can stop.

    Only whole groups of equal confidence can be answered: a threshold cannot tell them apart.
    """
    order = np.argsort(-confidence, kind="stable")
    return order, np.append(np.diff(confidence[order]) != 0, True)


#: Each takes weights ``[num_resamples, num_prompts]`` and gives its figure ``[num_resamples]``.
FIGURES: dict[str, Callable[[Outcomes, Floats], Floats]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "ece": _calibration_error,
    "coverage_at_95": _coverage,
}
