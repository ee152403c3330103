from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from lmoe_ray.bench.routing_baselines import (
    BASELINES,
    BaselineRouter,
    EmbeddingRegression,
    NearestCentroid,
    NeighbourMajority,
)
from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.routing.router import RoutedModel
from tests.fakes import HashingEncoder


def unit(*degrees: float) -> NDArray[np.float32]:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_the_centroid_is_the_mean_direction() -> None:
    """The single nearest sample, at 50 degrees, is of the other class."""
    centroid = NearestCentroid(unit(0, 20, 40, 50, 140), np.array([0, 0, 0, 1, 1]), 2)

    assert centroid.probabilities(unit(48)[0]).argmax() == 0
    assert centroid.probabilities(unit(70)[0]).argmax() == 1


def test_centroids_are_as_sure_as_the_samples_let_them_be() -> None:
    apart = NearestCentroid(unit(0, 1, 90, 91), np.array([0, 0, 1, 1]), 2)
    mixed = NearestCentroid(unit(0, 90, 1, 91), np.array([0, 0, 1, 1]), 2)

    assert apart.probabilities(unit(0)[0])[0] > 0.99
    assert mixed.probabilities(unit(0)[0])[0] == pytest.approx(0.5, abs=0.01)


def test_the_majority_of_the_twenty_nearest_decides() -> None:
    labels = np.array([0] * 8 + [1] * 12 + [0] * 30)
    vectors = unit(*np.linspace(0, 1, 20), *np.linspace(80, 90, 30))

    assert NeighbourMajority(vectors, labels, 2).probabilities(unit(0)[0]) == pytest.approx([0.4, 0.6])


def test_few_samples_are_all_neighbours() -> None:
    assert NeighbourMajority(unit(0, 1, 90), np.array([0, 0, 1]), 2).probabilities(unit(0)[0]) == pytest.approx(
        [2 / 3, 1 / 3]
    )


def test_the_regression_finds_the_border_between_classes() -> None:
    regression = EmbeddingRegression(unit(*range(0, 20), *range(60, 80)), np.repeat([0, 1], 20), 2)

    assert regression.probabilities(unit(5)[0])[0] > 0.8
    assert regression.probabilities(unit(75)[0])[1] > 0.8
    assert regression.probabilities(unit(39.5)[0]) == pytest.approx([0.5, 0.5], abs=0.02)


@pytest.mark.parametrize("name", BASELINES)
def test_probabilities_sum_to_one_and_a_class_without_samples_has_none(name: str) -> None:
    baseline = BASELINES[name](unit(0, 90, 91, 92), np.array([0, 2, 2, 2]), 4)

    probabilities = baseline.probabilities(unit(80)[0])

    assert probabilities.sum() == pytest.approx(1)
    assert probabilities.argmax() == 2
    assert (probabilities[1], probabilities[3]) == (0, 0)


@pytest.mark.parametrize("name", BASELINES)
def test_a_lone_class_takes_everything(name: str) -> None:
    assert BASELINES[name](unit(0, 1), np.array([1, 1]), 2).probabilities(unit(80)[0]).tolist() == [0, 1]


class ByWord:
    """Sure of the second class where the word is, of the first elsewhere."""

    def __init__(self, marker: NDArray[np.float32]) -> None:
        self._marker = marker

    def probabilities(self, vector: NDArray[np.float32]) -> NDArray[np.float64]:
        share = float(vector @ self._marker > 0)
        return np.array([1 - share, share])


@pytest.fixture
def ask() -> Callable[..., GenerateRequest]:
    return lambda *texts: GenerateRequest("1", "bench", tuple(Message("user", text) for text in texts))


async def test_a_baseline_decides_without_abstaining(ask: Callable[..., GenerateRequest]) -> None:
    encoder = HashingEncoder()
    router = BaselineRouter(RoutedModel("bench", ()), ByWord(encoder.embed(["rain"])[0]), ("code", "poetry"), encoder)

    decision = await router.route(ask("a haiku about rain please"))
    other = await router.route(ask("a python loop to count words"))

    assert (decision.expert, decision.confidence, decision.threshold) == ("poetry", 1.0, 0.0)
    assert [candidate.expert for candidate in other.candidates] == ["code", "poetry"]


async def test_a_conversation_is_the_mean_of_both_ways_to_read_it(ask: Callable[..., GenerateRequest]) -> None:
    encoder = HashingEncoder()
    router = BaselineRouter(RoutedModel("bench", ()), ByWord(encoder.embed(["rain"])[0]), ("code", "poetry"), encoder)

    decision = await router.route(ask("a haiku about rain please", "a python loop to count words"))

    assert [candidate.score for candidate in decision.candidates] == [0.5, 0.5]


async def test_a_request_without_text_is_left_to_the_fallback(ask: Callable[..., GenerateRequest]) -> None:
    router = BaselineRouter(RoutedModel("bench", ()), ByWord(unit(0)[0]), ("code", "poetry"), HashingEncoder())

    assert (await router.route(ask(" "))).routed_by == "abstained"
