from __future__ import annotations

import pytest

from lmoe_ray.bench.speed_figures import agreement, cell_figures, run_figures, serial


def test_figures_of_a_run_are_those_counted_by_hand() -> None:
    figures = run_figures([[1.0, 2.0, 4.0], [2.0, 3.0, 4.0]])

    assert figures.tokens_per_s == 6 / 4
    assert (figures.ttft_s_p50, figures.ttft_s_max) == (1.5, 2.0)
    assert figures.itl_s_p50 == 1.0
    assert figures.itl_s_p99 == pytest.approx(1.97)
    # After second 2, when both have begun, come the tokens at 4, 3 and 4.
    assert figures.decode_tokens_per_s == 3 / 2


def test_answers_of_one_token_have_no_decode_rate_and_no_gaps() -> None:
    figures = run_figures([[0.5], [0.5]])

    assert figures.tokens_per_s == 4
    assert (figures.decode_tokens_per_s, figures.itl_s_p50, figures.itl_s_p99) == (None, None, None)


def test_a_cell_is_the_median_of_its_rounds_with_the_extremes_beside_it() -> None:
    rounds = [run_figures([[1.0, seconds]]) for seconds in (4.0, 2.0, 8.0)]

    figures = cell_figures(rounds)

    assert (figures.tokens_per_s, figures.tokens_per_s_low, figures.tokens_per_s_high) == (0.5, 0.25, 1.0)
    assert figures.itl_s_p50 == 3.0
    assert figures.rounds == 3


def test_a_serial_engine_begins_each_request_when_the_last_one_ends() -> None:
    token_s = serial([1.0, 3.0], 3)

    assert token_s == [[1.0, 3.0], [4.0, 6.0], [7.0, 9.0]]
    figures = run_figures(token_s)
    assert figures.tokens_per_s == pytest.approx(run_figures([[1.0, 3.0]]).tokens_per_s)
    assert figures.ttft_s_max == 7.0


def test_agreement_is_the_share_before_the_first_difference() -> None:
    assert agreement([[1, 2, 3, 4]], [[1, 2, 9, 4]]) == 0.5
    assert agreement([[1, 2], [3, 4]], [[1, 2], [5, 4]]) == 0.5


def test_a_serial_engines_one_answer_is_compared_with_the_first() -> None:
    assert agreement([[1, 2]], [[1, 2], [3, 4]]) == 1.0
