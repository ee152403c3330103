"""A step the device has been told to compute, and what is done about its tokens before the next one is sampled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lmoe_ray.engine.sampler import Sampled
from lmoe_ray.engine.sequence import Sequence
from lmoe_ray.engine.step import Step


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """``row_of``: of each sequence in what was sampled. ``began_s``: by ``time.perf_counter``."""

    step: Step
    sampled: Sampled
    row_of: dict[Sequence, int]
    began_s: float


def catch_up(sequences: Iterable[Sequence], before: LaunchedStep | None) -> None:
    """Tell constraints the tokens that the next one depends on.

    Those of the step before are still on the device if steps overlap; they are waited for here, while the device
    computes the forward pass just launched.
    """
    confined = [(s, s.constraint) for s in sequences if s.constraint is not None]
    if before is not None and any(s.num_in_flight for s, _ in confined):
        newest = {s: pick.token_id for s, pick in zip(before.row_of, before.sampled.read(), strict=True)}
    else:
        newest = {}
    for sequence, constraint in confined:
        in_flight = [newest[sequence]] if sequence.num_in_flight else []
        constraint.catch_up([*sequence.output_ids, *in_flight])
