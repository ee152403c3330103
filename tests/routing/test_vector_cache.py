from __future__ import annotations

import numpy as np
import pytest

from lmoe_ray.routing.vector_cache import VectorCache


def vector(value: float) -> np.ndarray:
    return np.array([value], dtype=np.float32)


def test_a_text_that_comes_again_is_found() -> None:
    cache = VectorCache(2)
    assert cache.get("rain") is None

    assert cache.put("rain", vector(1)).tolist() == [1]

    found = cache.get("rain")
    assert found is not None
    assert found.tolist() == [1]


def test_the_one_unused_for_longest_goes_first() -> None:
    cache = VectorCache(2)
    cache.put("rain", vector(1))
    cache.put("snow", vector(2))
    cache.get("rain")

    cache.put("wind", vector(3))

    assert [cache.get(text) is not None for text in ("rain", "snow", "wind")] == [True, False, True]
    assert len(cache) == 2


def test_nobody_can_change_what_others_will_get() -> None:
    cache, mine = VectorCache(2), vector(1)
    kept = cache.put("rain", mine)

    mine[0] = 5
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 5

    assert kept.tolist() == [1]


def test_half_a_surrogate_pair_is_a_text_too() -> None:
    cache = VectorCache(2)
    cache.put("\ud800", vector(1))

    assert cache.get("\ud800") is not None
