"""The linear head hears words and form where the embedding hears nothing, and says so in probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from lmoe_ray.routing.head_inputs import head_inputs
from lmoe_ray.routing.linear_head import LinearHead, fit_linear_head

CODE = ("write a loop in python", "sort a list in python", "fix this class in java", "write a test in java")
POEMS = ("a haiku about rain", "a sonnet about the sea", "a limerick about a cat", "a song about home")
LABELS = np.array([0] * 4 + [2] * 4)
#: Embeddings that all point one way: only the words can tell.
SAME = np.tile(np.eye(3, dtype=np.float32)[0], (8, 1))


def fit(texts: tuple[str, ...], labels: np.ndarray, num_classes: int) -> LinearHead:
    return fit_linear_head(head_inputs(texts, SAME), labels, num_classes)


def ask(head: LinearHead, text: str) -> np.ndarray:
    return head.log_probabilities(head_inputs([text], SAME[:1]))[0]


@pytest.fixture(scope="module")
def head() -> LinearHead:
    return fit((*CODE, *POEMS), LABELS, 3)


def test_words_decide_where_embeddings_cannot(head: LinearHead) -> None:
    assert ask(head, "a ballad about the rain").argmax() == 2


def test_probabilities_sum_to_one_and_a_class_without_samples_has_none(head: LinearHead) -> None:
    scores = ask(head, "write a loop")

    assert np.exp(scores).sum() == pytest.approx(1)
    assert scores[1] == -np.inf


def test_two_classes_have_the_probabilities_of_one_logistic_curve() -> None:
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(40, 5)).astype(np.float32)
    labels = (inputs[:, 0] > 0).astype(np.int64)

    head = fit_linear_head(inputs, labels, 2)

    logit = inputs @ (head.weight[:, 1] - head.weight[:, 0]) + head.bias[1] - head.bias[0]
    assert np.exp(head.log_probabilities(inputs))[:, 1] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
    assert (np.exp(head.log_probabilities(inputs)).argmax(axis=1) == labels).mean() > 0.95


def test_form_alone_is_evidence() -> None:
    quizzes = ("zig A) zag B) zog", "mip A) map B) mop", "rin A) ran B) ron", "tic A) tac B) toc")
    plain = ("zig zag zog", "mip map mop", "rin ran ron", "tic tac toc")

    assert ask(fit((*quizzes, *plain), np.array([0] * 4 + [1] * 4), 2), "new A) words B) here").argmax() == 0


def test_fitting_twice_gives_the_same_probabilities(head: LinearHead) -> None:
    again = fit((*CODE, *POEMS), LABELS, 3)

    assert np.array_equal(ask(head, "a poem in java"), ask(again, "a poem in java"))


def test_an_empty_text_has_probabilities_too(head: LinearHead) -> None:
    assert np.exp(ask(head, "")).sum() == pytest.approx(1)
