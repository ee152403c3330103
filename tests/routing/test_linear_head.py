"""The linear head hears words and form where the embedding hears nothing, and says so in probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from lmoe_ray.routing.expert_index import build_index
from lmoe_ray.routing.linear_head import MAX_CHARS, LinearHead
from lmoe_ray.routing.sample_set import choose_samples
from lmoe_ray.routing.scoring import DensityScorer, FusedScorer
from tests.fakes import HashingEncoder
from tests.routing.experts import expert

CODE = ("write a loop in python", "sort a list in python", "fix this class in java", "write a test in java")
POEMS = ("a haiku about rain", "a sonnet about the sea", "a limerick about a cat", "a song about home")
TEXTS = (*CODE, *POEMS)
LABELS = np.array([0] * 4 + [2] * 4)
#: Embeddings that all point one way: only the words can tell.
SAME = np.tile(np.eye(3, dtype=np.float32)[0], (8, 1))


@pytest.fixture(scope="module")
def head() -> LinearHead:
    return LinearHead(TEXTS, SAME, LABELS)


def test_words_decide_where_embeddings_cannot(head: LinearHead) -> None:
    scores = head.log_probabilities("a ballad about the rain", SAME[0], num_experts=3)

    assert scores.argmax() == 2


def test_probabilities_sum_to_one_and_an_expert_without_samples_has_none(head: LinearHead) -> None:
    scores = head.log_probabilities("write a loop", SAME[0], num_experts=3)

    assert np.exp(scores).sum() == pytest.approx(1)
    assert scores[1] == -np.inf


def test_form_alone_is_evidence() -> None:
    quizzes = ("zig A) zag B) zog", "mip A) map B) mop", "rin A) ran B) ron", "tic A) tac B) toc")
    plain = ("zig zag zog", "mip map mop", "rin ran ron", "tic tac toc")
    head = LinearHead((*quizzes, *plain), SAME, np.array([0] * 4 + [1] * 4))

    scores = head.log_probabilities("new A) words B) here", SAME[0], num_experts=2)

    assert scores.argmax() == 0


def test_fitting_twice_gives_the_same_probabilities(head: LinearHead) -> None:
    again = LinearHead(TEXTS, SAME, LABELS)

    assert np.array_equal(
        head.log_probabilities("a poem in java", SAME[0], 3), again.log_probabilities("a poem in java", SAME[0], 3)
    )


def test_only_the_beginning_of_a_long_text_is_read(head: LinearHead) -> None:
    beginning = ("write a loop in python " * 100)[:MAX_CHARS]

    assert np.array_equal(
        head.log_probabilities(beginning, SAME[0], 3),
        head.log_probabilities(beginning + " a haiku about rain" * 100, SAME[0], 3),
    )


def test_an_empty_text_has_probabilities_too(head: LinearHead) -> None:
    assert np.exp(head.log_probabilities("", SAME[0], 3)).sum() == pytest.approx(1)


def test_a_lone_expert_needs_no_head() -> None:
    index = build_index(choose_samples((expert("code", *CODE),), 10, seed=0), HashingEncoder())
    query = HashingEncoder().embed(["anything"])[0]

    assert FusedScorer(index, 5).probabilities("anything", query).tolist() == [1.0]


def test_fused_lies_between_its_two_opinions() -> None:
    index = build_index(choose_samples((expert("code", *CODE), expert("poems", *POEMS)), 10, seed=0), HashingEncoder())
    text = "a haiku in python"
    query = HashingEncoder().embed([text])[0]
    by_density = DensityScorer(index, 5).probabilities(text, query)
    by_head = np.exp(LinearHead(index.texts, index.vectors, index.labels).log_probabilities(text, query, 2))

    fused = FusedScorer(index, 5).probabilities(text, query)

    assert fused.sum() == pytest.approx(1)
    assert min(by_density[0], by_head[0]) <= fused[0] <= max(by_density[0], by_head[0])
