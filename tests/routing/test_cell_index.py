"""An index in cells keeps the promises of the exact one: all but some of the neighbours."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from lmoe_ray.routing import cell_index, index_cache
from lmoe_ray.routing.expert_index import MAX_EXACT, ExpertIndex, build_index, index_vectors
from lmoe_ray.routing.sample_set import choose_samples
from tests.fakes import HashingEncoder
from tests.routing.experts import expert, index_of, unit

DIM = 32
RNG = np.random.default_rng(11)


def clumped(num_clumps: int, size: int) -> NDArray[np.float64]:
    centres = unit(RNG.normal(size=(num_clumps, DIM)))
    return unit(np.repeat(centres, size, axis=0) + 0.05 * RNG.normal(size=(num_clumps * size, DIM)))


VECTORS = {
    "code": clumped(300, 20),
    "math": clumped(60, 30),
    "poetry": unit(RNG.normal(size=(3, DIM))),
    "prose": np.zeros((0, DIM)),
}
COUNTS = [len(rows) for rows in VECTORS.values()]
QUERIES = unit(RNG.normal(size=(40, DIM))).astype(np.float32)


def in_cells(**vectors: NDArray[np.float64]) -> ExpertIndex:
    exact = index_of(**vectors)
    return ExpertIndex(exact.samples, index_vectors(exact.vectors, exact.num_samples_per_expert, max_exact=0))


INDEX = in_cells(**VECTORS)


def recall(found: NDArray[np.int64], query: NDArray[np.float32], rows: NDArray[np.float64]) -> float:
    """Share of the true nearest among ``found``, which are numbered as ``rows``."""
    return len(np.intersect1d(found, np.argsort(-rows @ query)[: len(found)])) / len(found)


@pytest.mark.parametrize(("num_samples", "is_exact"), [(3, True), (4, False)])
def test_size_chooses_the_kind_of_index(num_samples: int, is_exact: bool) -> None:
    samples = choose_samples([expert("code", *(f"loop {i}" for i in range(num_samples)))], 9, 0)

    assert build_index(samples, HashingEncoder(), max_exact=3).is_exact == is_exact
    assert MAX_EXACT == 100_000


def test_most_of_the_nearest_samples_of_every_expert_are_found_on_clumps() -> None:
    starts = np.cumsum([0, *COUNTS])
    for i, name in enumerate(("code", "math")):
        rows = VECTORS[name]
        found = [INDEX.search(query, 20, [name])[1] - starts[i] for query in QUERIES]
        assert np.mean([recall(f, q, rows) for f, q in zip(found, QUERIES, strict=True)]) >= 0.9


def test_only_a_part_of_the_samples_is_looked_at() -> None:
    stats = faiss.cvar.indexIVF_stats  # type: ignore[attr-defined]
    stats.reset()

    INDEX.search(QUERIES[0], 20)

    assert stats.ndis < sum(COUNTS) / 2


def test_cosines_are_right_to_a_hundredth_and_best_first() -> None:
    rows = np.concatenate(list(VECTORS.values()))

    cosines, found = INDEX.search(QUERIES[0], 30)

    assert cosines == pytest.approx(rows[found] @ QUERIES[0], abs=0.01)
    assert (np.diff(cosines) <= 0).all()


def test_an_expert_with_few_samples_is_searched_exhaustively_however_far_it_lies() -> None:
    far = {"near": VECTORS["code"], "far": unit(-QUERIES[:1] + 0.1 * RNG.normal(size=(7, DIM)))}

    cosines = in_cells(**far).per_expert(QUERIES[:1], 20)[1]

    assert cosines[0] == pytest.approx(np.sort(far["far"] @ QUERIES[0])[::-1], abs=0.01)


def test_every_expert_gives_as_many_neighbours_as_it_has() -> None:
    assert [cosines.shape for cosines in INDEX.per_expert(QUERIES, 20)] == [(40, 20), (40, 20), (40, 3), (40, 0)]
    found = [INDEX.search(QUERIES[0], 10_000, [name])[1] for name in VECTORS]
    assert np.concatenate([np.sort(rows) for rows in found]).tolist() == list(range(sum(COUNTS)))


def test_where_the_nearest_cells_hold_too_little_the_search_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_index, "_LOOKED_AT_PER_NEIGHBOUR", 1)
    alike, scattered = np.tile(-QUERIES[:1], (2900, 1)), unit(QUERIES[:1] + 0.1 * RNG.normal(size=(15, DIM)))

    cosines, rows = in_cells(code=np.concatenate([alike, scattered])).search(QUERIES[0], 20)

    assert (rows >= 0).all()
    assert cosines == pytest.approx([*np.sort(scattered @ QUERIES[0])[::-1], *[-1.0] * 5], abs=0.01)


def test_a_query_finds_the_same_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    together = INDEX.per_expert(QUERIES, 20)
    monkeypatch.setattr(cell_index, "_PAIRS_AT_ONCE", 13)
    in_parts = INDEX.per_expert(QUERIES, 20)
    alone = [INDEX.per_expert(query[np.newaxis], 20) for query in QUERIES]

    for i in range(len(COUNTS)):
        assert np.array_equal(together[i], in_parts[i])
        assert np.array_equal(together[i], np.concatenate([nearest[i] for nearest in alone]))


def test_the_same_vectors_give_the_same_index() -> None:
    again = in_cells(**VECTORS)

    assert np.array_equal(faiss.serialize_index(again.faiss_index), faiss.serialize_index(INDEX.faiss_index))


def test_a_restart_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "build_index", partial(build_index, max_exact=0))
    samples = choose_samples([expert(name, *(f"{name} {i}" for i in range(30))) for name in ("code", "math")], 99, 0)
    built = index_cache.load_or_build(samples, HashingEncoder(), tmp_path).index
    encoder = HashingEncoder()

    loaded = index_cache.load_or_build(samples, encoder, tmp_path).index

    assert not loaded.is_exact
    assert encoder.embedded == []
    assert np.array_equal(loaded.vectors, built.vectors)
    for ours, theirs in zip(
        loaded.per_expert(built.vectors[:3], 9), built.per_expert(built.vectors[:3], 9), strict=True
    ):
        assert np.array_equal(ours, theirs)


def test_vectors_are_kept_to_a_few_thousandths() -> None:
    rows = np.concatenate(list(VECTORS.values()))

    assert np.abs(INDEX.vectors - rows).max() < 0.003
    assert np.array_equal(INDEX.vectors_of(np.array([5, 4000])), INDEX.vectors[[5, 4000]])


def test_a_sample_is_not_its_own_neighbour() -> None:
    index = in_cells(code=VECTORS["code"], lone=VECTORS["poetry"][:1])
    code, lone = index.others_of(np.array([17, 6000]), 4)

    others = np.delete(VECTORS["code"], 17, axis=0) @ VECTORS["code"][17]
    assert code[0] == pytest.approx(np.sort(others)[::-1][:4], abs=0.02)
    assert lone[0] == pytest.approx([VECTORS["poetry"][0] @ VECTORS["code"][17]], abs=0.01)
    assert lone[1].tolist() == [-1.0]


def test_a_search_keeps_to_the_experts_asked_for() -> None:
    _, rows = INDEX.search(QUERIES[0], 50, ["math", "poetry"])

    assert set(INDEX.labels[rows].tolist()) <= {1, 2}
    assert INDEX.search(QUERIES[0], 50, [])[1].tolist() == []


def test_a_vector_of_zeros_is_as_near_to_everything() -> None:
    cosines, rows = INDEX.search(np.zeros(DIM, np.float32), 5)

    assert cosines.tolist() == [0.0] * 5
    assert (rows >= 0).all()


def test_a_search_leaves_the_number_of_threads_as_it_was() -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)

    INDEX.per_expert(QUERIES, 7)
    after = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before)

    assert after == 3
