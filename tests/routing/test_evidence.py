"""How kinds of evidence are weighed, and what makes an expert's samples close."""

from __future__ import annotations

import numpy as np
import pytest

from lmoe_ray.routing.evidence import fuse, log_closeness, softmax, squared_distances, weights_of
from tests.routing.experts import unit


def test_closeness_is_a_power_mean_of_inverse_squared_distances() -> None:
    rng = np.random.default_rng(3)
    queries, samples = unit(rng.normal(size=(4, 8))), [unit(rng.normal(size=(num, 8))) for num in (6, 1)]
    nearest = tuple((queries @ rows.T).astype(np.float32) for rows in samples)

    found = log_closeness(nearest)

    for query, row in zip(queries, found, strict=True):
        for rows, closeness in zip(samples, row, strict=True):
            squared = [sum((a - b) ** 2 for a, b in zip(query, other, strict=True)) for other in rows]
            mean = sum((distance + 0.02) ** -4 for distance in squared) / len(rows)
            assert closeness == pytest.approx(np.log(mean) / 4, abs=1e-4)


def test_an_exact_match_counts_as_much_as_sixteen_samples_at_cosine_99() -> None:
    match, others = np.array([[1.0] + [-1.0] * 15], np.float32), np.full((1, 16), 0.99, np.float32)

    assert log_closeness((match,)) == pytest.approx(log_closeness((others,)), abs=1e-3)


def test_an_expert_without_samples_is_nowhere_near() -> None:
    assert log_closeness((np.ones((2, 1), np.float32), np.empty((2, 0), np.float32)))[:, 1].tolist() == [-np.inf] * 2


def test_a_cosine_rounded_above_one_is_a_distance_of_zero() -> None:
    assert squared_distances(np.array([1.0000002, 1.0, -1.0], np.float32)).tolist() == [0.0, 0.0, 4.0]


def test_what_is_known_of_tasks_takes_weight_from_the_others() -> None:
    opinions = {"neighbours": np.log([8.0, 4.0]), "words": np.log([0.75, 0.25]), "tasks": np.log([0.2, 0.8])}

    with_tasks = fuse(opinions)
    without = fuse({name: opinions[name] for name in ("neighbours", "words")})

    assert with_tasks[0] - with_tasks[1] == pytest.approx(3.0 * np.log(2) + 0.3 * np.log(3) - 1.0 * np.log(4))
    assert without[0] - without[1] == pytest.approx(3.8 * np.log(2) + 0.6 * np.log(3))
    assert np.exp(with_tasks).sum() == pytest.approx(1)


def test_weights_are_told_of_the_evidence_that_is_there_alone() -> None:
    assert weights_of({"neighbours": None, "tasks": None}) == {"neighbours": 3.0, "tasks": 1.0}
    assert weights_of({"neighbours": None}) == {"neighbours": 3.8}


def test_rows_of_many_texts_are_fused_one_by_one() -> None:
    rng = np.random.default_rng(5)
    opinions = {name: rng.normal(size=(3, 4)) for name in ("neighbours", "words")}

    together = fuse(opinions)

    for row in range(3):
        assert together[row] == pytest.approx(fuse({name: values[row] for name, values in opinions.items()}))


def test_what_is_impossible_for_one_kind_of_evidence_is_impossible() -> None:
    with np.errstate(divide="ignore"):
        fused = fuse({"neighbours": np.log([1.0, 1.0, 1.0]), "words": np.log([0.0, 0.5, 0.5])})

    assert np.exp(fused) == pytest.approx([0.0, 0.5, 0.5])
    assert softmax(np.array([-np.inf, 1000.0, 1000.0])) == pytest.approx([0.0, 0.5, 0.5])
