"""Features of a text: the same everywhere, of bounded cost, and different where the task differs."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmoe_ray.routing.form_cues import NUM_FORM_FEATURES
from lmoe_ray.routing.text_features import NUM_PLACES, NUM_TEXT_FEATURES, features_of, text_features

PLACES_CHECKSUM = 1210927903


def words(text: str) -> np.ndarray:
    return text_features(text)[:NUM_PLACES]


def form(text: str) -> np.ndarray:
    return text_features(text)[-NUM_FORM_FEATURES:]


@given(st.text(max_size=300))
def test_any_text_has_finite_features_of_unit_length_or_none(text: str) -> None:
    features = text_features(text)

    assert features.shape == (NUM_TEXT_FEATURES,)
    assert np.isfinite(features).all()
    for part in (features[:NUM_PLACES], features[NUM_PLACES : 2 * NUM_PLACES]):
        assert np.linalg.norm(part) == pytest.approx(1, abs=1e-5) or not part.any()


def test_the_same_text_has_the_same_features_in_every_process_and_release() -> None:
    features = text_features("Write a haiku about 3 ducks, please.")
    places = np.flatnonzero(features[: 2 * NUM_PLACES]).astype("<i8")

    assert zlib.crc32(places.tobytes()) == PLACES_CHECKSUM, (
        "features changed: raise text_features.VERSION, and fit what is shipped again"
    )


def test_texts_that_share_words_are_closer_than_texts_that_do_not() -> None:
    query = words("sort a list of numbers in python")

    assert query @ words("sort a list of words in python") > 0.4
    assert abs(query @ words("tell me about the queen")) < 0.2


def test_long_texts_count_by_both_ends() -> None:
    head, tail = "Read this story. " * 100, " So who did it?" * 40

    assert np.array_equal(words(head + "x " * 5000 + tail), words(head + "y " * 5000 + tail))
    assert not np.array_equal(words(head + "x " * 5000 + tail), words(head + "x " * 5000))


def test_addresses_and_blobs_do_not_dominate() -> None:
    short = "summarise this " + "QUJD" * 30
    long = "summarise this " + "REVG" * 300

    assert np.array_equal(words(short), words(long))
    assert np.array_equal(words("see https://a.example/b now"), words("see https://c.example/d?e=f now"))


def test_a_question_and_an_order_on_the_same_subject_differ_in_form() -> None:
    assert not np.array_equal(form("Who wrote this song?"), form("Write this song."))


def test_a_batch_is_its_texts_one_by_one() -> None:
    texts = ["one", "two words", "def f(x): return x"]

    assert np.array_equal(features_of(texts), np.stack([text_features(text) for text in texts]))
