from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from lmoe_ray.routing.expert_index import ExpertIndex
from lmoe_ray.routing.head_inputs import text_inputs
from lmoe_ray.routing.scoring import AiroborosScorer, DensityScorer, Scorer, make_scorer
from tests.routing.experts import index_of, unit

K = 20
Rule = Literal["fused", "density", "airoboros"]

#: What is said of a text without words.
NOTHING = text_inputs([""])


def around(centre: np.ndarray, cosine: float, num: int, rng: np.random.Generator) -> np.ndarray:
    """``num`` unit vectors at exactly ``cosine`` to ``centre``, in directions drawn by lot."""
    noise = rng.normal(size=(num, len(centre)))
    noise = unit(noise - np.outer(noise @ centre, centre))
    return cosine * centre + np.sqrt(1 - cosine**2) * noise


def rare_skill() -> tuple[ExpertIndex, np.ndarray, np.ndarray]:
    """Queries of a kind of which ``rare`` owns 12 samples in 1000; the rest of it is far away.

    ``dense`` next door owns 1000 of another kind, of which its nearest 20 come to cosine .5 of the queries.
    """
    rng = np.random.default_rng(3)
    topic, next_door, elsewhere = np.eye(64)[0], unit(np.eye(64)[0] + 1.2 * np.eye(64)[1]), np.eye(64)[2]
    own = around(topic, 0.85, 12, rng)
    rare = np.concatenate([own, around(elsewhere, 0.9, 988, rng)])
    index = index_of(dense=around(next_door, 0.8, 1000, rng), rare=rare)
    return index, around(topic, 0.85, 100, rng).astype(np.float32), own.astype(np.float32)


def probabilities(scorer: Scorer, index: ExpertIndex, query: np.ndarray) -> np.ndarray:
    nearest = index.per_expert(query[np.newaxis].astype(np.float32), scorer.k)
    return np.exp(scorer.fuse(scorer.opinions(NOTHING, query, nearest)))


def winners(scorer: Scorer, index: ExpertIndex, queries: np.ndarray) -> np.ndarray:
    return np.array([probabilities(scorer, index, query).argmax() for query in queries])


def test_an_expert_with_few_samples_of_the_asked_kind_wins_them() -> None:
    index, queries, _ = rare_skill()

    assert (winners(DensityScorer(index, K), index, queries) == 1).all()


def test_a_query_that_is_a_sample_goes_to_its_owner() -> None:
    index, _, own = rare_skill()

    assert (winners(DensityScorer(index, K), index, own) == 1).all()


def test_the_predecessors_rule_has_the_fault_that_made_the_other_necessary() -> None:
    index, queries, own = rare_skill()

    assert (winners(AiroborosScorer(K), index, queries) == 0).mean() > 0.8
    assert (winners(AiroborosScorer(K), index, own) == 0).mean() > 0.5
    assert (winners(AiroborosScorer(12), index, queries) == 1).all()


def test_airoboros_is_least_mean_distance_to_k_neighbours_of_each_expert() -> None:
    rng = np.random.default_rng(5)
    vectors = {name: unit(rng.normal(size=(num, 8))) for name, num in (("a", 30), ("b", 3), ("c", 10))}
    query = unit(rng.normal(size=8)).astype(np.float32)

    found = probabilities(AiroborosScorer(5), index_of(**vectors), query)

    means = [np.sort(np.linalg.norm(rows - query, axis=1))[:5].mean() for rows in vectors.values()]
    expected = np.exp(np.negative(means)) / np.exp(np.negative(means)).sum()
    assert found == pytest.approx(expected, abs=1e-6)
    assert found.argmax() == np.argmin(means)


@pytest.mark.parametrize("rule", ["fused", "density", "airoboros"])
def test_an_expert_without_samples_has_probability_zero(rule: Rule) -> None:
    index = index_of(code=np.eye(4)[:2], math=np.eye(4)[2:], poetry=np.zeros((0, 4)))

    found = probabilities(make_scorer(rule, index, K), index, np.eye(4)[0])

    assert found[2] == 0
    assert found[0] > found[1] > 0
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("rule", ["fused", "density", "airoboros"])
def test_a_lone_sample_is_enough(rule: Rule) -> None:
    index = index_of(code=np.eye(4)[:1], math=np.eye(4)[1:2])

    assert probabilities(make_scorer(rule, index, K), index, np.eye(4)[1]).argmax() == 1


def test_probabilities_are_bold_where_samples_agree_and_even_where_they_do_not() -> None:
    rng = np.random.default_rng(11)
    apart = index_of(a=around(np.eye(16)[0], 0.8, 60, rng), b=around(np.eye(16)[1], 0.8, 60, rng))
    mixed = index_of(a=unit(rng.normal(size=(60, 16))), b=unit(rng.normal(size=(60, 16))))
    query = around(np.eye(16)[0], 0.8, 1, rng)[0].astype(np.float32)

    assert probabilities(DensityScorer(apart, K), apart, query)[0] > 0.95
    assert probabilities(DensityScorer(mixed, K), mixed, query).max() < 0.7


def test_confidence_on_unseen_queries_is_about_the_share_that_is_right() -> None:
    rng = np.random.default_rng(13)
    centres = unit(np.eye(16)[:3] + 0.8)

    def draw(num: int) -> np.ndarray:
        return np.concatenate([around(centre, 0.6, num, rng) for centre in centres])

    rows, queries = draw(200), draw(100).astype(np.float32)
    index = index_of(a=rows[:200], b=rows[200:400], c=rows[400:])
    scorer = DensityScorer(index, K)
    found = np.stack([probabilities(scorer, index, query) for query in queries])

    is_right = found.argmax(axis=1) == np.repeat(np.arange(3), 100)
    assert found.max(axis=1).mean() == pytest.approx(is_right.mean(), abs=0.1)


def test_two_scorers_of_one_index_agree_to_the_last_bit() -> None:
    index, queries, _ = rare_skill()

    first, second = DensityScorer(index, K), DensityScorer(index, K)

    assert first.sharpness == second.sharpness
    assert np.array_equal(probabilities(first, index, queries[0]), probabilities(second, index, queries[0]))
