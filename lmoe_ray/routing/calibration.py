"""From a lead to a probability of being right, and from a wanted precision to a threshold.

The map is Platt's (1999, "Probabilistic outputs for support vector machines"): a logistic curve over how far the first
expert leads the second, fitted on held-out samples, see :mod:`lmoe_ray.routing.held_out`. With few of them it
stays near the curve that fitted public prompts of left-out sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from lmoe_ray.routing.held_out import HeldOut

Floats = NDArray[np.float64]

#: Slope and offset on public prompts of left-out sources, and how many held-out samples they are worth.
PRIOR = (0.85, -0.13)
_PRIOR_STRENGTH = 20.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """What held-out samples taught.

    Attributes:
        slope, offset: confidence is ``1 / (1 + exp(-offset - slope * lead))``.
        confidences: of the held-out samples, highest first, ``[num_held_out]``.
        is_right: whether each of them went to its owner.
    """

    slope: float
    offset: float
    confidences: Floats
    is_right: NDArray[np.bool_]

    def confidence(self, lead: float) -> float:
        """Probability that the first expert is right; ``lead``: logarithm of its score over the second's."""
        return float(expit(self.offset + self.slope * lead))

    def threshold_for(self, precision: float) -> float | None:
        """Least confidence above which ``precision`` of the held-out samples went right; ``None``: there is none."""
        good = np.flatnonzero(self._precisions() >= precision)
        return float(self.confidences[good[-1]]) if len(good) else None

    def precision_at(self, threshold: float) -> float:
        """Share of right ones among the held-out samples at least so sure; 1 if none is."""
        chosen = self.is_right[self.confidences >= threshold]
        return float(chosen.mean()) if len(chosen) else 1.0

    def coverage_at(self, threshold: float) -> float:
        """Share of the held-out samples at least so sure."""
        return float((self.confidences >= threshold).mean()) if len(self.confidences) else 0.0

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """To be kept in a file; :func:`calibration_from` reads them."""
        curve = np.array([self.slope, self.offset])
        return {"curve": curve, "confidences": self.confidences, "is_right": self.is_right}

    def _precisions(self) -> Floats:
        """Of the most confident one, two, three …; only where a threshold can part them from the next, else 0."""
        precisions = np.cumsum(self.is_right) / np.arange(1, len(self.is_right) + 1)
        is_border = np.append(np.diff(self.confidences) != 0, True)[: len(precisions)]
        return np.asarray(np.where(is_border, precisions, 0.0))


def calibration_from(arrays: dict[str, NDArray[np.generic]]) -> Calibration:
    """
    Raises:
        KeyError, ValueError: an array is missing or has another shape.
    """
    slope, offset = arrays["curve"].astype(np.float64).tolist()
    return Calibration(slope, offset, arrays["confidences"].astype(np.float64), arrays["is_right"].astype(np.bool_))


def calibrate(held_out: HeldOut | None) -> Calibration:
    """Milliseconds. Without held-out samples it is the curve of public prompts, and knows no threshold."""
    if held_out is None:
        return Calibration(*PRIOR, np.empty(0), np.empty(0, np.bool_))
    leads = lead_of(held_out.log_probabilities)
    is_right = held_out.log_probabilities.argmax(axis=1) == held_out.owners
    slope, offset = _fit_curve(leads, is_right)
    confidences = np.asarray(expit(offset + slope * leads), np.float64)
    order = np.argsort(-confidences, kind="stable")
    return Calibration(slope, offset, confidences[order], is_right[order])


def calibration_of(confidences: Sequence[float], is_right: Sequence[bool]) -> Calibration:
    """Of prompts that were routed and are labelled, one confidence and one verdict each; the curve is not theirs."""
    order = np.argsort(-np.array(confidences), kind="stable")
    return Calibration(*PRIOR, np.array(confidences, np.float64)[order], np.array(is_right, np.bool_)[order])


def lead_of(log_probabilities: Floats) -> Floats:
    """How far the first lies before the second, ``[..., num_experts]`` to ``[...]``; finite."""
    best = np.sort(log_probabilities, axis=-1)[..., -2:]
    return np.asarray(np.minimum(best[..., 1] - np.maximum(best[..., 0], -1e3), 1e3))


def _fit_curve(leads: Floats, is_right: NDArray[np.bool_]) -> tuple[float, float]:
    """Greatest likelihood, less the distance from ``PRIOR``; the slope stays positive, so that order is kept."""
    signs = np.where(is_right, 1.0, -1.0)

    def loss(curve: Floats) -> float:
        likelihood = np.logaddexp(0.0, -signs * (curve[1] + curve[0] * leads)).sum()
        return float(likelihood + _PRIOR_STRENGTH * ((curve - np.array(PRIOR)) ** 2).sum())

    found = minimize(loss, np.array(PRIOR), method="L-BFGS-B", bounds=[(0.05, 5.0), (-5.0, 5.0)])
    return float(found.x[0]), float(found.x[1])
