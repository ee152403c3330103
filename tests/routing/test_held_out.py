"""Samples as strangers: who is held out together, who is judged, and that judges know the other folds only."""

from __future__ import annotations

import dataclasses

import faiss
import numpy as np
import pytest

from lmoe_ray.routing.expert_index import ExpertIndex
from lmoe_ray.routing.head_inputs import head_inputs, text_inputs
from lmoe_ray.routing.heads import fit_heads
from lmoe_ray.routing.held_out import MAX_ROWS, NUM_FOLDS, Folds, HeldOut, fold_of, hold_out
from lmoe_ray.routing.sample_set import DESCRIPTION, SampleSet
from lmoe_ray.routing.scoring import FusedScorer
from lmoe_ray.routing.task_head import TaskHead, fit_task_head
from tests.routing.experts import index_of, unit

K = 4


def clumps(num: int, size: int, *, seed: int, dim: int = 16) -> np.ndarray:
    """``num`` clumps of ``size`` unit vectors each, near together and far from the others."""
    rng = np.random.default_rng(seed)
    centres = np.eye(dim)[rng.permutation(dim)[:num]]
    return unit(np.repeat(centres, size, axis=0) + 0.05 * rng.normal(size=(num * size, dim)))


def with_sources(index: ExpertIndex, *sources: tuple[str, ...]) -> ExpertIndex:
    return ExpertIndex(dataclasses.replace(index.samples, sources=sources), index.faiss_index)


def two_experts(size: int = 30) -> ExpertIndex:
    """Both from three sources, turn by turn."""
    rng = np.random.default_rng(7)
    centres = unit(np.eye(16)[:2] + 0.5)
    rows = [unit(centre + 0.3 * rng.normal(size=(size, 16))) for centre in centres]
    sources = tuple(("book", "forum", "mail")[i % 3] for i in range(size))
    return with_sources(index_of(code=rows[0], poetry=rows[1]), sources, sources)


def held_out(index: ExpertIndex, folds: Folds | None = None, task_head: TaskHead | None = None) -> HeldOut | None:
    inputs = head_inputs(index.texts, index.vectors)
    return hold_out(index, Folds.of(index) if folds is None else folds, inputs, K, task_head)


def test_a_group_stays_together_and_the_largest_takes_the_emptiest_fold_first() -> None:
    folds = fold_of([*"aaaaa", *"bbbb", *"cccc", *"dd", "e"], 3)

    assert folds.tolist() == [*[0] * 5, *[1] * 4, *[2] * 4, *[1] * 2, 2]


def test_the_order_of_rows_changes_no_groups_fold() -> None:
    groups = [*"abracadabra"]

    forwards, backwards = fold_of(groups, 3), fold_of(groups[::-1], 3)

    assert forwards.tolist() == backwards[::-1].tolist()


def test_samples_of_one_source_are_held_out_together_whoever_owns_them() -> None:
    index = two_experts()

    folds = Folds.of(index).folds

    fold_by_source = {
        source: set(folds[[s == source for s in index.samples.row_sources]].tolist())
        for source in ("book", "forum", "mail")
    }
    assert [len(found) for found in fold_by_source.values()] == [1, 1, 1]
    assert len(set.union(*fold_by_source.values())) == 3


@pytest.mark.parametrize("source", ["forum", ""], ids=["a single source", "no source"])
def test_where_sources_tell_nothing_apart_like_samples_are_held_out_together(source: str) -> None:
    rows = clumps(10, 20, seed=1)
    index = with_sources(index_of(code=rows[:100], poetry=rows[100:]), (source,) * 100, (source,) * 100)

    folds = Folds.of(index).folds.reshape(10, 20)

    assert [len(set(clump)) for clump in folds.tolist()] == [1] * 10
    assert set(folds.ravel().tolist()) == set(range(NUM_FOLDS))


def test_samples_without_a_source_are_no_source_of_their_own() -> None:
    rows = clumps(10, 20, seed=6)
    sources = ("book",) * 10 + ("forum",) * 10 + ("",) * 80
    index = with_sources(index_of(code=rows[:100], poetry=rows[100:]), sources, sources)

    folds = Folds.of(index).folds.reshape(2, 5, 20)[:, 1:]

    assert [len(set(clump)) for expert in folds.tolist() for clump in expert] == [1] * 8
    assert len(set(folds.ravel().tolist())) > 2


def test_a_description_is_no_second_source() -> None:
    rows = clumps(5, 20, seed=2)
    index = with_sources(index_of(code=rows[:60], poetry=rows[60:]), ("forum",) * 59 + (DESCRIPTION,), ("",) * 40)

    assert len(set(Folds.of(index).folds[:59].tolist())) == 3


def test_of_very_many_samples_some_of_every_expert_are_held_out() -> None:
    rng = np.random.default_rng(3)
    index = index_of(code=unit(rng.normal(size=(MAX_ROWS, 4))), poetry=unit(rng.normal(size=(MAX_ROWS // 2, 4))))

    rows = Folds.of(index).rows

    assert len(set(rows.tolist())) == MAX_ROWS
    assert (index.labels[rows] == 0).mean() == pytest.approx(2 / 3, abs=1e-3)


def test_folds_are_the_same_every_time_and_faiss_has_its_threads_back() -> None:
    index, num_threads = index_of(code=clumps(5, 20, seed=4), poetry=clumps(5, 20, seed=5)), faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        first, second = Folds.of(index), Folds.of(index)

        assert np.array_equal(first.folds, second.folds)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(num_threads)


def only_rows(index: ExpertIndex, chosen: np.ndarray) -> ExpertIndex:
    """A router's index as if there had never been other samples."""
    kept = [[i for i in np.flatnonzero(chosen) if index.labels[i] == label] for label in range(len(index.experts))]
    texts = tuple(tuple(index.texts[i] for i in rows) for rows in kept)
    flat = faiss.IndexFlatIP(index.faiss_index.d)
    flat.add(index.vectors[[i for rows in kept for i in rows]])
    return ExpertIndex(SampleSet(index.experts, texts, tuple(("",) * len(rows) for rows in texts)), flat)


@pytest.mark.parametrize("has_tasks", [False, True], ids=["without tasks", "with tasks"])
def test_a_sample_is_judged_as_by_a_router_that_never_saw_its_fold(has_tasks: bool) -> None:
    index = two_experts()
    folds, task_head = Folds.of(index), a_task_head(index) if has_tasks else None

    found = held_out(index, folds, task_head)

    assert found is not None
    expected, owners = [], []
    for fold in sorted(set(folds.folds.tolist())):
        known = only_rows(index, folds.folds != fold)
        heads = fit_heads(known, head_inputs(known.texts, known.vectors), task_head)
        scorer = FusedScorer(heads, K, task_head)
        for row in np.flatnonzero(folds.folds == fold):
            vector = index.vectors[row]
            opinions = scorer.opinions(text_inputs([index.texts[row]]), vector, known.per_expert(vector[np.newaxis], K))
            assert ("tasks" in opinions) is has_tasks
            expected.append(scorer.fuse(opinions))
            owners.append(index.labels[row])
    assert found.owners.tolist() == owners
    assert found.log_probabilities == pytest.approx(np.stack(expected), abs=1e-3)


def a_task_head(index: ExpertIndex, *seen: str) -> TaskHead:
    """Of two tasks, each the habit of one expert; it admits to have seen ``seen`` alone."""
    tasks = [index.experts[label] for label in index.labels]
    return fit_task_head(head_inputs(index.texts, index.vectors), seen, tasks, "mine")


def test_what_the_task_head_was_fitted_on_is_not_judged_but_judges() -> None:
    index = two_experts()
    seen = index.texts[3:8]

    found, all_of_them = held_out(index, None, a_task_head(index, *seen)), held_out(index, None, a_task_head(index))

    assert found is not None
    assert all_of_them is not None
    assert (len(found.owners), len(all_of_them.owners)) == (55, 60)
    by_fold = np.argsort(Folds.of(index).folds, kind="stable")
    is_judged = [index.texts[row] not in seen for row in by_fold]
    assert found.log_probabilities == pytest.approx(all_of_them.log_probabilities[is_judged], abs=1e-4)


def test_sentences_of_descriptions_are_not_judged() -> None:
    index = two_experts()
    sources = tuple((DESCRIPTION, DESCRIPTION, *of_one[2:]) for of_one in index.samples.sources)

    found = held_out(with_sources(index, *sources))

    assert found is not None
    assert np.bincount(found.owners).tolist() == [28, 28]


def test_an_expert_none_of_whose_samples_would_be_left_is_not_judged() -> None:
    index = two_experts()
    rows = np.arange(60)
    folds = np.where(index.labels == 1, 0, rows % 4 + 1)

    found = held_out(index, Folds(rows, folds))

    assert found is None
    thrice = index_of(code=index.vectors[:30], poetry=index.vectors[30:], prose=index.vectors[:30][::-1])
    found = held_out(thrice, Folds(np.arange(90), np.where(thrice.labels == 1, 0, np.arange(90) % 4 + 1)))
    assert found is not None
    assert np.bincount(found.owners).tolist() == [30, 0, 30]


@pytest.mark.parametrize(("num_samples", "is_enough"), [(38, False), (40, True)])
def test_fewer_than_forty_say_nothing(num_samples: int, is_enough: bool) -> None:
    assert (held_out(two_experts(num_samples // 2)) is not None) is is_enough


def test_samples_that_are_all_alike_cannot_be_held_out_and_do_no_harm() -> None:
    index = index_of(code=np.tile(np.eye(4)[:1], (10, 1)), poetry=np.tile(np.eye(4)[:1], (9, 1)))

    assert held_out(index) is None
