from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from lmoe_ray.bench import index_speed
from lmoe_ray.bench.index_speed import CELLS, FLAT, make_clumps, print_table, recalls_of, run, sizes_up_to
from tests.routing.experts import index_of, unit

REAL = unit(np.random.default_rng(5).normal(size=(300, 16))).astype(np.float32)


def test_both_kinds_of_index_are_measured_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_speed, "SMALLEST", 1000)
    monkeypatch.setattr(index_speed, "_CACHES_BYTES", 2**16)
    seen: list[str] = []

    costs = run(REAL, 2000, 3, 10, lambda what, done, total: seen.append(what))

    assert [(cost.samples, cost.kind) for cost in costs] == [
        (1000, FLAT),
        (1000, CELLS),
        (2000, FLAT),
        (2000, CELLS),
    ]
    assert all(0 < cost.p50_ms <= cost.p95_ms and cost.cold_ms > 0 for cost in costs)
    assert [cost.recall for cost in costs if cost.kind == FLAT] == [1.0, 1.0]
    assert all(0.5 < cost.recall <= 1.0 for cost in costs)
    assert seen[-1] == "2,000 samples, cells"
    row = json.loads(json.dumps(costs[0].as_dict()))
    assert (row["name"], row["samples"], row["experts"], row["kind"]) == ("index", 1000, 3, FLAT)
    shown = io.StringIO()
    print_table(costs, Console(file=shown, width=200))
    assert shown.getvalue().count(CELLS) == 2


@pytest.mark.parametrize(
    ("num_samples", "sizes"),
    [
        (500, [500]),
        (10_000, [10_000]),
        (1_000_000, [10_000, 100_000, 1_000_000]),
        (200_000, [10_000, 100_000, 200_000]),
    ],
)
def test_sizes_go_up_tenfold_to_what_was_asked(num_samples: int, sizes: list[int]) -> None:
    assert sizes_up_to(num_samples) == sizes


def test_clumps_are_unit_vectors_around_their_seeds_and_shared_out_in_order() -> None:
    vectors, counts = make_clumps(REAL, 3000, 4, np.random.default_rng(0))

    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3000), abs=1e-5)
    assert (sum(counts), len(counts)) == (3000, 4)
    first = vectors[: counts[0]] @ REAL.T
    assert first.argmax(axis=1).max() < len(REAL) / 4


def test_recall_is_the_share_of_the_nearest_that_are_found() -> None:
    rows = unit(np.random.default_rng(1).normal(size=(100, 16)))
    index = index_of(code=rows[:60], math=rows[60:], prose=np.zeros((0, 16)))
    other = unit(np.random.default_rng(2).normal(size=(100, 16))).astype(np.float32)

    assert recalls_of(index, rows.astype(np.float32), REAL[:5]).tolist() == [[1.0] * 5] * 2
    assert recalls_of(index, other, REAL[:5]).mean() < 0.9
