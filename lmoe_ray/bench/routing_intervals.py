"""How far figures of routing would move with other prompts: percentile intervals of the bootstrap (Efron 1979).

All columns see the same resamples, so a difference between two of them is paired. Prompts of one source resemble
each other, so where sources are known whole sources are drawn (the cluster bootstrap, Field and Welsh 2007);
intervals of few sources are wide, and rightly so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.bench.routing_quality import FIGURES, Floats, Outcomes

NUM_RESAMPLES = 1000
SEED = 11422
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Interval:
    """Where 95 % of the resamples lie."""

    low: float
    high: float


def draw_resamples(sources: Sequence[str], num_resamples: int = NUM_RESAMPLES, seed: int = SEED) -> Floats:
    """How often each resample holds each prompt, ``[num_resamples, num_prompts]``.

    Args:
        sources: of the prompts; a prompt whose source is empty is one of its own.
        num_resamples: how many.
        seed: of the draw.
    """
    clusters = _clusters(sources)
    num_clusters = int(clusters.max()) + 1
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=num_resamples)
    return counts[:, clusters].astype(np.float64)


def resampled_figures(outcomes: Outcomes, resamples: Floats) -> dict[str, Floats]:
    """Every figure of every resample, ``[num_resamples]`` each."""
    return {name: figure(outcomes, resamples) for name, figure in FIGURES.items()}


def intervals_of(figures: Mapping[str, Floats]) -> dict[str, Interval]:
    """The interval of each figure."""
    return {name: Interval(*np.percentile(values, _PERCENTILES).tolist()) for name, values in figures.items()}


def _clusters(sources: Sequence[str]) -> NDArray[np.int64]:
    """Numbers from 0, the same for prompts that are drawn together."""
    names = [f"source {source}" if source else f"row {row}" for row, source in enumerate(sources)]
    return np.asarray(np.unique(names, return_inverse=True)[1], dtype=np.int64)
