from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lmoe_ray.bench.routing_intervals import draw_resamples, intervals_of, resampled_figures
from lmoe_ray.bench.routing_quality import Outcomes, outcomes_of, quality
from lmoe_ray.domain.decision import Candidate, RoutingDecision


def outcomes(labels: str, answers: str, confidence: Sequence[float]) -> Outcomes:
    """One letter is one expert."""
    decisions = [
        RoutingDecision("bench", name, "similarity", sure, (Candidate(name, sure),))
        for name, sure in zip(answers, confidence, strict=True)
    ]
    return outcomes_of(list(labels), decisions)


MIXED = outcomes("aabbbc", "abbbcc", (0.9, 0.8, 0.8, 0.7, 0.3, 1.0))


def test_figures_of_a_resample_are_those_of_the_prompts_it_drew() -> None:
    drawn = np.array([2.0, 0, 1, 0, 3, 0])
    as_drawn = outcomes("aabbbb", "aabccc", (0.9, 0.9, 0.8, 0.3, 0.3, 0.3))

    figures = resampled_figures(MIXED, drawn[np.newaxis])

    expected = quality(as_drawn)
    for name, values in figures.items():
        assert values == pytest.approx([getattr(expected, name)]), name


def test_a_resample_without_a_label_averages_over_the_others() -> None:
    only_a = np.array([[1.0, 1, 0, 0, 0, 0]])

    assert resampled_figures(MIXED, only_a)["macro_f1"] == pytest.approx([2 / 3])


def test_what_is_the_same_for_every_prompt_is_a_point() -> None:
    all_right = outcomes("aaab", "aaab", (1.0,) * 4)

    intervals = intervals_of(resampled_figures(all_right, draw_resamples([""] * 4)))

    for name, value in (("accuracy", 1), ("macro_f1", 1), ("ece", 0), ("coverage_at_95", 1)):
        assert (intervals[name].low, intervals[name].high) == (value, value), name


def test_the_interval_of_a_share_is_near_its_textbook_one() -> None:
    half = outcomes("a" * 400, "ab" * 200, (0.5,) * 400)

    accuracy = intervals_of(resampled_figures(half, draw_resamples([""] * 400)))["accuracy"]

    # 1.96 · √(0.25 / 400)
    assert (accuracy.low, accuracy.high) == (pytest.approx(0.451, abs=0.006), pytest.approx(0.549, abs=0.006))


def test_every_resample_draws_as_many_prompts_as_there_are_and_the_seed_decides_which() -> None:
    drawn = draw_resamples([""] * 5, num_resamples=50, seed=1)

    assert drawn.shape == (50, 5)
    assert set(drawn.sum(axis=1)) == {5}
    assert len(np.unique(drawn, axis=0)) > 10
    assert np.array_equal(drawn, draw_resamples([""] * 5, num_resamples=50, seed=1))
    assert not np.array_equal(drawn, draw_resamples([""] * 5, num_resamples=50, seed=2))


def test_prompts_of_one_source_come_together() -> None:
    drawn = draw_resamples(["x", "y", "x", "", ""], num_resamples=200)

    assert np.array_equal(drawn[:, 0], drawn[:, 2])
    assert not np.array_equal(drawn[:, 0], drawn[:, 1])
    assert not np.array_equal(drawn[:, 3], drawn[:, 4])
    # Four things are drawn: x, y and two prompts that name no source.
    assert set((drawn[:, 1:] @ [1, 1, 1, 1]).tolist()) == {4}


def test_a_row_without_a_source_is_not_taken_for_a_source_of_that_name() -> None:
    drawn = draw_resamples(["row 1", ""], num_resamples=100)

    assert not np.array_equal(drawn[:, 0], drawn[:, 1])


def test_sources_that_differ_make_wider_intervals_than_their_prompts_would() -> None:
    unequal = outcomes("a" * 40, "a" * 20 + "b" * 20, (0.5,) * 40)

    def width(sources: list[str]) -> float:
        interval = intervals_of(resampled_figures(unequal, draw_resamples(sources)))["accuracy"]
        return interval.high - interval.low

    assert width(["x"] * 20 + ["y"] * 20) == 1.0
    assert width([""] * 40) < 0.4
