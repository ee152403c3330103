from __future__ import annotations

import numpy as np

from lmoe_ray.routing.expert_index import ExpertIndex, build_index, index_vectors
from lmoe_ray.routing.known_vectors import KnownVectors
from lmoe_ray.routing.sample_set import choose_samples
from tests.fakes import HashingEncoder
from tests.routing.experts import expert

KNOWN = build_index(choose_samples([expert("code", "a loop", "a list")], 10, seed=0), HashingEncoder())


def test_only_what_is_new_is_embedded_once_and_everything_in_order() -> None:
    encoder, told = HashingEncoder(), list[tuple[int, int]]()
    texts = ["a riddle", "a loop", "a poem", "a riddle", "a list"]

    vectors = KnownVectors(encoder, KNOWN).embed(texts, lambda *counts: told.append(counts))

    assert encoder.embedded == ["a riddle", "a poem"]
    assert told == [(1, 2), (2, 2)]
    assert np.array_equal(vectors, HashingEncoder().embed(texts))


def test_what_was_new_is_known_the_next_time() -> None:
    vectors = KnownVectors(encoder := HashingEncoder(), KNOWN)

    vectors.embed(["a riddle"])
    vectors.embed(["a riddle", "a loop"])

    assert encoder.embedded == ["a riddle"]


def test_known_vectors_come_from_the_index_and_not_from_the_encoder() -> None:
    others = np.eye(2, 256, dtype=np.float32)
    index = ExpertIndex(KNOWN.samples, index_vectors(others, [2]))

    assert np.array_equal(KnownVectors(HashingEncoder(), index).embed(index.texts), others)


def test_it_passes_for_the_encoder_it_stands_before() -> None:
    encoder = HashingEncoder(identity="mine", max_tokens=7)

    vectors = KnownVectors(encoder, KNOWN)

    assert (vectors.identity, vectors.space, vectors.max_tokens) == ("mine", "mine", 7)
    assert vectors.known_share("a l00p") == encoder.known_share("a l00p") == 0.5
