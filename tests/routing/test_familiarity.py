"""What is usual among samples, by where they lie and by how many of their words the embedder knows."""

from __future__ import annotations

import numpy as np
import pytest

from lmoe_ray.routing.expert_index import build_index
from lmoe_ray.routing.familiarity import Familiarity, familiarity_from, learn_familiarity, nearness_of
from lmoe_ray.routing.held_out import Folds
from lmoe_ray.routing.sample_set import choose_samples
from tests.fakes import HashingEncoder
from tests.routing.experts import expert, index_of, unit


def folds(*numbers: int) -> Folds:
    return Folds(np.arange(len(numbers)), np.array(numbers))


def evenly(low: float, high: float, num: int = 1000) -> np.ndarray:
    return np.linspace(low, high, num, dtype=np.float32)


def test_a_samples_nearness_is_that_of_the_five_nearest_outside_its_fold() -> None:
    rng = np.random.default_rng(3)
    rows = unit(rng.normal(size=(30, 6)))
    numbers = rng.integers(0, 4, 30)

    found = learn_familiarity(index_of(code=rows[:20], poetry=rows[20:]), folds(*numbers), HashingEncoder())

    expected = []
    for row, fold in zip(rows, numbers, strict=True):
        cosines = sorted((float(row @ other) for other in rows[numbers != fold]), reverse=True)
        expected.append(sum(cosines[:5]) / 5)
    assert found.nearness == pytest.approx(sorted(expected), abs=1e-6)


def test_in_a_single_fold_everybody_is_a_stranger_to_the_others() -> None:
    rows = unit(np.random.default_rng(5).normal(size=(12, 6)))

    found = learn_familiarity(index_of(code=rows[:7], poetry=rows[7:]), folds(*[0] * 12), HashingEncoder())

    cosines = np.sort(rows @ rows.T - 3 * np.eye(12), axis=1)[:, -5:]
    assert found.nearness == pytest.approx(np.sort(cosines.mean(axis=1)), abs=1e-6)


def test_where_there_are_fewer_than_five_others_all_of_them_count() -> None:
    rows = unit(np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]))

    found = learn_familiarity(index_of(code=rows), folds(0, 1, 1), HashingEncoder())

    assert found.nearness == pytest.approx(sorted([0.3, 0.6, 0.0]), abs=1e-6)


def test_a_querys_nearness_is_that_of_the_five_nearest_whoever_owns_them() -> None:
    nearest = (np.array([[0.9, 0.5, 0.1]], np.float32), np.empty((1, 0), np.float32), np.array([[0.8, 0.7, 0.2]]))

    assert nearness_of(nearest) == pytest.approx([(0.9 + 0.8 + 0.7 + 0.5 + 0.2) / 5])
    assert nearness_of((np.array([[0.4, 0.2]], np.float32),)) == pytest.approx([0.3])


def test_shares_of_known_words_are_the_samples_own() -> None:
    samples = choose_samples([expert("code", "x1 loop", "a loop", "x1 y2 z3 loop")], 10, seed=0)
    index = build_index(samples, HashingEncoder())

    found = learn_familiarity(index, folds(0, 1, 1), HashingEncoder())

    assert found.known_shares.tolist() == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(("num_below", "expected"), [(999, 1.0), (19, 1.0), (9, 0.5), (4, 0.25), (0, 0.05)])
def test_familiarity_falls_within_the_last_two_percent(num_below: int, expected: float) -> None:
    usual = Familiarity(nearness=evenly(1, 999, 999), known_shares=evenly(1, 999, 999))

    assert usual.of(num_below + 0.5, 1000.0) == pytest.approx(expected)
    assert usual.of(1000.0, num_below + 0.5) == pytest.approx(expected)


@pytest.mark.parametrize(("num_samples", "least"), [(1, 1.0), (49, 1.0), (99, 0.5), (199, 0.25)])
def test_few_samples_cannot_make_a_request_unusual(num_samples: int, least: float) -> None:
    few = evenly(0.5, 1.0, num_samples)

    assert Familiarity(few, few).of(-1.0, 0.0) == pytest.approx(least)


def test_of_requests_like_the_samples_one_in_a_hundred_falls_below_a_half() -> None:
    rng = np.random.default_rng(5)
    everything = np.ones(1, np.float32)
    for num_samples in (30, 100, 300):
        drawn = np.sort(rng.random((2000, num_samples)).astype(np.float32), axis=1)
        requests = rng.random(2000)
        is_unusual = [Familiarity(row, everything).of(one, 1.0) < 0.5 for row, one in zip(drawn, requests, strict=True)]
        assert np.mean(is_unusual) < 0.016


def test_the_less_usual_of_place_and_words_counts() -> None:
    usual = Familiarity(nearness=evenly(0.2, 0.9), known_shares=evenly(0.8, 1.0))

    assert usual.of(0.5, 0.9) == 1.0
    assert usual.of(0.1, 0.9) < 0.1
    assert usual.of(0.5, 0.1) < 0.1


def test_words_are_readable_where_samples_are_no_better() -> None:
    german, english = evenly(0.1, 0.4), evenly(0.8, 1.0)

    assert Familiarity(german, german).is_readable(0.25)
    assert not Familiarity(english, english).is_readable(0.25)


def test_most_samples_are_usual_beside_the_others() -> None:
    rng = np.random.default_rng(17)
    centre = np.eye(16)[0]
    rows = unit(centre + 0.25 * rng.normal(size=(600, 16)))
    index = index_of(code=rows[:500])
    usual = learn_familiarity(index, Folds.of(index), HashingEncoder())

    nearness = nearness_of(index.per_expert(rows[500:].astype(np.float32), 20))

    assert np.mean([usual.of(value, 1.0) >= 0.5 for value in nearness]) > 0.95
    assert usual.of(float(nearness_of(index.per_expert(-centre[np.newaxis].astype(np.float32), 20))[0]), 1.0) < 0.1


def test_what_is_usual_can_be_kept() -> None:
    usual = Familiarity(evenly(0, 1), evenly(0.5, 1))

    again = familiarity_from(usual.arrays())

    assert np.array_equal(again.nearness, usual.nearness)
    assert np.array_equal(again.known_shares, usual.known_shares)
    with pytest.raises(KeyError):
        familiarity_from({"nearness": usual.nearness})
