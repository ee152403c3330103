from __future__ import annotations

import faiss
import numpy as np
import pytest

from lmoe_ray.routing.expert_index import ExpertIndex, build_index
from lmoe_ray.routing.sample_set import SampleSet, choose_samples
from tests.fakes import HashingEncoder
from tests.routing.experts import expert, index_of, unit

RNG = np.random.default_rng(7)
VECTORS = {"code": unit(RNG.normal(size=(40, 8))), "math": unit(RNG.normal(size=(3, 8))), "poetry": np.zeros((0, 8))}
QUERIES = unit(RNG.normal(size=(5, 8))).astype(np.float32)


def brute_force(query: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    return np.sort(rows @ query)[::-1][:k]


def test_search_finds_what_brute_force_finds() -> None:
    index = index_of(**VECTORS)
    rows = np.concatenate(list(VECTORS.values()))

    cosines, found = index.search(QUERIES[0], 7)

    assert cosines == pytest.approx(brute_force(QUERIES[0], rows, 7), abs=1e-6)
    assert found.tolist() == np.argsort(-rows @ QUERIES[0])[:7].tolist()


def test_search_inside_every_expert_finds_what_brute_force_finds() -> None:
    nearest = index_of(**VECTORS).per_expert(QUERIES, 7)

    assert [cosines.shape for cosines in nearest] == [(5, 7), (5, 3), (5, 0)]
    for rows, cosines in zip(VECTORS.values(), nearest, strict=True):
        expected = np.stack([brute_force(query, rows, 7) for query in QUERIES])
        assert cosines == pytest.approx(expected, abs=1e-6)


def test_a_search_leaves_the_number_of_threads_as_it_was() -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)

    index_of(**VECTORS).per_expert(QUERIES, 7)
    after = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before)

    assert after == 3


def test_a_search_for_more_than_there_is_finds_all() -> None:
    assert len(index_of(math=VECTORS["math"]).search(QUERIES[0], 100)[0]) == 3


def test_a_sample_is_not_its_own_neighbour() -> None:
    index = index_of(**VECTORS)
    rows = np.array([0, 17, 41])

    nearest = index.others_of(rows, 4)

    assert [cosines.shape for cosines in nearest] == [(3, 4), (3, 3), (3, 0)]
    own, others = VECTORS["code"][17], np.delete(VECTORS["code"], 17, axis=0)
    assert nearest[0][1] == pytest.approx(brute_force(own, others, 4), abs=1e-6)
    assert nearest[1][1] == pytest.approx(brute_force(own, VECTORS["math"], 3), abs=1e-6)


def test_a_sample_whose_expert_has_too_few_others_meets_the_farthest_point_instead() -> None:
    nearest = index_of(**VECTORS).others_of(np.array([41]), 4)
    own, others = VECTORS["math"][1], np.delete(VECTORS["math"], 1, axis=0)

    assert nearest[1][0] == pytest.approx([*brute_force(own, others, 4), -1.0], abs=1e-6)


def test_rows_know_their_owner_and_text() -> None:
    index = build_index(
        choose_samples([expert("math", "1 + 1"), expert("code", "a loop", "b loop")], 9, 0), HashingEncoder()
    )

    assert index.experts == ("code", "math")
    assert index.labels.tolist() == [0, 0, 1]
    assert sorted(index.texts[:2]) == ["a loop", "b loop"]
    assert index.num_samples_per_expert == (2, 1)


def test_building_tells_its_progress() -> None:
    seen: list[tuple[int, int]] = []

    build_index(choose_samples([expert("code", "a", "b")], 9, 0), HashingEncoder(), lambda n, of: seen.append((n, of)))

    assert seen == [(1, 2), (2, 2)]


def test_vectors_and_samples_must_agree() -> None:
    with pytest.raises(AssertionError, match="0 vectors, 1 samples"):
        ExpertIndex(SampleSet(("code",), (("a loop",),), (("",),)), faiss.IndexFlatIP(8))
