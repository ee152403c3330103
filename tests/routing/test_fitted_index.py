"""What is fitted on an index, and that nothing of it is lost in a file."""

from __future__ import annotations

import numpy as np
import pytest

from lmoe_ray.domain.package import Expert
from lmoe_ray.routing.calibration import PRIOR
from lmoe_ray.routing.expert_index import ExpertIndex, build_index
from lmoe_ray.routing.fitted_index import FittedIndex, fit_index, fitted_from
from lmoe_ray.routing.sample_set import choose_samples
from tests.fakes import HashingEncoder
from tests.routing.experts import expert, poems, programs


def index_of_all(*experts: Expert) -> ExpertIndex:
    return build_index(choose_samples(experts, 1000, seed=0), HashingEncoder())


@pytest.fixture(scope="module")
def fitted() -> FittedIndex:
    index = index_of_all(expert("code", *programs()), expert("poetry", *poems()))
    return fit_index(index, "c0ffee", HashingEncoder())


def test_two_experts_with_samples_enough_are_told_apart_and_judged(fitted: FittedIndex) -> None:
    assert fitted.heads is not None
    assert fitted.calibration is not None
    assert len(fitted.calibration.is_right) == fitted.index.num_samples == 200
    assert fitted.calibration.is_right.mean() > 0.95
    assert len(fitted.familiarity.nearness) == 200


def test_a_lone_expert_is_known_and_nothing_more() -> None:
    fitted = fit_index(index_of_all(expert("code", *programs()), expert("bare")), "c0ffee", HashingEncoder())

    assert (fitted.heads, fitted.calibration) == (None, None)
    assert len(fitted.familiarity.nearness) == 100


def test_a_handful_of_samples_has_the_curve_of_public_prompts() -> None:
    index = index_of_all(expert("code", *programs()[:5]), expert("poetry", *poems()[:5]))

    fitted = fit_index(index, "c0ffee", HashingEncoder())

    assert fitted.calibration is not None
    assert (fitted.calibration.slope, fitted.calibration.offset) == PRIOR
    assert len(fitted.calibration.is_right) == 0


def test_what_was_fitted_is_the_same_after_being_kept(fitted: FittedIndex) -> None:
    again = fitted_from(fitted.index, fitted.digest, fitted.arrays())

    assert (again.digest, set(again.arrays())) == ("c0ffee", {"familiarity", "heads", "calibration"})
    for part, arrays in fitted.arrays().items():
        for name, array in arrays.items():
            assert np.array_equal(again.arrays()[part][name], array)


def test_what_is_usual_must_be_there(fitted: FittedIndex) -> None:
    parts = {name: arrays for name, arrays in fitted.arrays().items() if name != "familiarity"}

    with pytest.raises(KeyError):
        fitted_from(fitted.index, fitted.digest, parts)
