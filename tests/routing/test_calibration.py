"""Confidence as a curve over the lead, and thresholds counted on held-out samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression

from lmoe_ray.routing import calibration
from lmoe_ray.routing.calibration import PRIOR, Calibration, calibrate, calibration_from, calibration_of, lead_of
from lmoe_ray.routing.held_out import HeldOut


def drawn(num: int, slope: float, offset: float, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Leads, and whether each was right by a curve known beforehand."""
    rng = np.random.default_rng(seed)
    leads = rng.exponential(2.0, num)
    return leads, rng.random(num) < expit(offset + slope * leads)


def as_held_out(leads: np.ndarray, is_right: np.ndarray) -> HeldOut:
    """Two experts, of which the first leads."""
    owners = np.where(is_right, 0, 1).astype(np.int64)
    return HeldOut(np.stack([leads, np.zeros(len(leads))], axis=1), owners)


def of(*judged: tuple[float, bool]) -> Calibration:
    confidences, is_right = zip(*judged, strict=True)
    return Calibration(1.0, 0.0, np.array(confidences, np.float32), np.array(is_right))


def test_without_a_prior_the_curve_is_that_of_logistic_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_PRIOR_STRENGTH", 0.0)
    leads, is_right = drawn(500, slope=0.6, offset=-0.4)

    found = calibrate(as_held_out(leads, is_right))

    oracle = LogisticRegression(C=np.inf, tol=1e-8).fit(leads[:, np.newaxis], is_right)
    assert found.slope == pytest.approx(oracle.coef_[0, 0], abs=1e-3)
    assert found.offset == pytest.approx(oracle.intercept_[0], abs=1e-3)


def test_the_curve_weighs_twenty_samples_worth_of_what_public_prompts_taught() -> None:
    leads, is_right = drawn(60, slope=2.0, offset=1.0)

    found = calibrate(as_held_out(leads, is_right))

    def loss(slope: float, offset: float) -> float:
        logits = offset + slope * leads
        likelihood = -log_expit(np.where(is_right, logits, -logits)).sum()
        return float(likelihood + 20.0 * ((slope - PRIOR[0]) ** 2 + (offset - PRIOR[1]) ** 2))

    steps = [(a, b) for a in (-0.01, 0.0, 0.01) for b in (-0.01, 0.0, 0.01)]
    losses = [loss(found.slope + a, found.offset + b) for a, b in steps]
    assert int(np.argmin(losses)) == steps.index((0.0, 0.0))


def test_many_samples_outweigh_the_prior_and_none_leave_it() -> None:
    many, none = calibrate(as_held_out(*drawn(20_000, slope=0.5, offset=0.3))), calibrate(None)

    assert (many.slope, many.offset) == (pytest.approx(0.5, abs=0.05), pytest.approx(0.3, abs=0.05))
    assert (none.slope, none.offset) == PRIOR
    assert none.threshold_for(0.5) is None
    assert (none.coverage_at(0.0), none.precision_at(0.0)) == (0.0, 1.0)


def test_confidence_on_new_samples_is_the_share_that_is_right() -> None:
    found = calibrate(as_held_out(*drawn(3000, slope=0.7, offset=-0.2)))
    leads, is_right = drawn(3000, slope=0.7, offset=-0.2, seed=4)

    confidences = np.array([found.confidence(lead) for lead in leads])

    for low, high in ((0.4, 0.6), (0.6, 0.8), (0.8, 1.0)):
        chosen = (confidences >= low) & (confidences < high)
        assert confidences[chosen].mean() == pytest.approx(is_right[chosen].mean(), abs=0.05)


def test_a_greater_lead_is_never_less_sure_even_where_samples_say_so() -> None:
    leads = np.linspace(0.0, 8.0, 400)

    found = calibrate(as_held_out(leads, leads < 4.0))

    assert found.slope == pytest.approx(0.05)
    assert found.confidence(2.0) < found.confidence(3.0)


def test_held_out_samples_are_kept_surest_first_with_their_verdict() -> None:
    leads = np.array([0.5, 3.0, 1.0])

    found = calibrate(as_held_out(leads, np.array([True, False, True])))

    assert found.confidences == pytest.approx([found.confidence(lead) for lead in (3.0, 1.0, 0.5)])
    assert found.is_right.tolist() == [False, True, True]


def test_precision_coverage_and_threshold_by_hand() -> None:
    found = of((0.9, True), (0.8, True), (0.7, False), (0.6, True), (0.5, False))

    assert found.threshold_for(1.0) == pytest.approx(0.8)
    assert found.threshold_for(0.75) == pytest.approx(0.6)
    assert found.threshold_for(0.6) == pytest.approx(0.5)
    assert (found.precision_at(0.6), found.coverage_at(0.6)) == (pytest.approx(3 / 4), pytest.approx(4 / 5))
    assert (found.precision_at(0.95), found.coverage_at(0.95)) == (1.0, 0.0)


def test_equally_sure_samples_are_answered_together_or_not_at_all() -> None:
    found = of((0.9, True), (0.8, True), (0.8, False), (0.8, False), (0.5, True))

    assert found.threshold_for(1.0) == pytest.approx(0.9)
    assert found.threshold_for(0.6) == pytest.approx(0.5)
    assert of((0.8, True), (0.8, False)).threshold_for(0.9) is None


def test_labelled_prompts_are_counted_in_any_order() -> None:
    found = calibration_of([0.6, 0.9, 0.7, 0.8, 0.5], [True, True, False, True, False])

    assert found.confidences == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert found.is_right.tolist() == [True, True, False, True, False]
    assert found.threshold_for(0.75) == pytest.approx(0.6)
    assert (found.slope, found.offset) == PRIOR


def test_no_threshold_where_even_the_surest_are_too_often_wrong() -> None:
    assert of((0.9, False), (0.8, True), (0.7, True)).threshold_for(0.7) is None


@pytest.mark.parametrize("precision", [0.55, 0.7, 0.9])
def test_the_threshold_answers_as_much_as_any_with_that_precision(precision: float) -> None:
    rng = np.random.default_rng(5)
    confidences = np.sort(rng.integers(0, 30, 200) / 30)[::-1]
    found = of(*zip(confidences.tolist(), (rng.random(200) < confidences).tolist(), strict=True))

    threshold = found.threshold_for(precision)

    good = [t for t in set(found.confidences.tolist()) if found.precision_at(t) >= precision]
    assert threshold == min(good)


def test_the_lead_is_over_the_second_and_finite() -> None:
    leads = lead_of(np.array([[-1.0, -3.0, -1.5], [-np.inf, -0.5, -np.inf], [-2.0, -2.0, -9.0]]))

    assert leads[[0, 2]].tolist() == [0.5, 0.0]
    assert leads[1] == pytest.approx(999.5)


def test_a_calibration_that_was_kept_is_the_same_and_an_incomplete_one_is_refused() -> None:
    found = calibrate(as_held_out(*drawn(50, slope=0.6, offset=0.0)))
    arrays = found.arrays()

    again = calibration_from(arrays)

    assert (again.slope, again.offset) == (found.slope, found.offset)
    assert np.array_equal(again.confidences, found.confidences)
    assert np.array_equal(again.is_right, found.is_right)
    for name in arrays:
        with pytest.raises(KeyError):
            calibration_from({key: value for key, value in arrays.items() if key != name})


def test_what_is_exactly_as_sure_as_the_threshold_is_answered() -> None:
    leads, is_right = drawn(300, slope=0.6, offset=-0.4)
    leads = np.concatenate([leads, [25.0, 26.0]])
    found = calibrate(as_held_out(leads, np.append(is_right, [True, True])))

    for precision in (0.7, 0.8, 0.9, 1.0):
        threshold = found.threshold_for(precision)
        assert threshold is not None
        answered = [found.confidence(float(lead)) >= threshold for lead in leads]
        assert np.mean(answered) == pytest.approx(found.coverage_at(threshold))
