"""Sampling defaults are the predecessor's and lie inside the ranges."""

from __future__ import annotations

import dataclasses

from lmoe_ray.domain.sampling import RANGES, SamplingParams


def test_the_defaults_are_the_predecessors() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p, params.repetition_penalty) == (0.5, 50, 1.0, 1.0)
    assert (params.max_tokens, params.seed, params.stop, params.use_default_stops) == (None, None, (), True)


def test_every_range_is_of_a_field_and_holds_its_default() -> None:
    defaults = dataclasses.asdict(SamplingParams())
    for name, (low, high) in RANGES.items():
        assert defaults[name] is None or low <= defaults[name] <= high
