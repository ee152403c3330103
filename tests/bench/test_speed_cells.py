from __future__ import annotations

import pytest

from lmoe_ray.bench.speed_cells import Cell, choose_cells, parse_shape, turns
from lmoe_ray.errors import SettingsError


def test_thirty_two_adapters_are_measured_only_where_each_has_a_request() -> None:
    assert choose_cells("1,32", "base,32") == (Cell(1, "base"), Cell(32, "base"), Cell(32, "32"))


def test_adapters_are_dealt_in_turn() -> None:
    assert Cell(8, "six").adapters(0) == [0, 1, 2, 3, 4, 5, 0, 1]
    assert Cell(3, "one").adapters(0) == [0, 0, 0]
    assert Cell(2, "base").adapters(0) == [None, None]


def test_a_lone_request_meets_another_adapter_in_each_round() -> None:
    assert [Cell(1, "six").adapters(round_number) for round_number in (0, 1, 6)] == [[0], [1], [0]]


@pytest.mark.parametrize(
    ("concurrencies", "mixes", "words"),
    [
        ("0", "base", "'0' is not a whole number of at least 1"),
        ("a", "base", "'a' is not a whole number"),
        ("1", "seven", "no mix is called 'seven'; there are: base, one, six, 32"),
        ("16", "32", "32 adapters need 32 requests"),
    ],
)
def test_cells_that_do_not_exist_are_refused(concurrencies: str, mixes: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        choose_cells(concurrencies, mixes)


def test_a_shape_is_prompt_and_new_tokens() -> None:
    assert parse_shape("512/128") == (512, 128)
    for wrong in ("512", "512/0", "/128", "a/b"):
        with pytest.raises(SettingsError, match="--shape"):
            parse_shape(wrong)


def test_a_round_visits_each_cell_once_with_every_engine_in_a_row() -> None:
    cells, engines = choose_cells("1,4,16", "base,six"), ("a", "b", "c")

    order = list(turns(cells, engines, 0))

    assert {(cell, engine) for cell, engine in order} == {(cell, engine) for cell in cells for engine in engines}
    visits = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert all(len({cell for cell, _ in visit}) == 1 for visit in visits)


def test_rounds_differ_in_order_and_repeat_from_run_to_run() -> None:
    cells, engines = choose_cells("1,4,16", "base,six"), ("a", "b", "c")

    first, second = list(turns(cells, engines, 0)), list(turns(cells, engines, 1))

    assert first == list(turns(cells, engines, 0))
    assert [cell for cell, _ in first] != [cell for cell, _ in second]
    assert len({tuple(engine for _, engine in first[i : i + 3]) for i in range(0, len(first), 3)}) > 1
