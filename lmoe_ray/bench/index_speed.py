"""What the nearest samples of every expert cost, and how many of them are found: one by one, and in cells.

Samples are made from real ones: each is copied, with noise, into a clump, as the samples of a template clump. Some
of the real ones are kept back and asked for, so a query is the copy of nothing. Each index answers all queries in a
row, because a pass over all samples would take the processor's caches from the other one; what a search costs when
something else has just taken them is measured apart.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lmoe_ray.bench.engine_report import cpu_name
from lmoe_ray.routing.expert_index import ExpertIndex, index_vectors
from lmoe_ray.routing.sample_set import SampleSet

Vectors = NDArray[np.float32]
Times = NDArray[np.float64]
#: Called with what is under way, steps done and steps in all.
Report = Callable[[str, int, int], None]

NUM_NEIGHBOURS = 20
SMALLEST = 10_000
NUM_COLD_QUERIES = 20
# More than the caches of any processor hold.
_CACHES_BYTES = 2**28
FLAT, CELLS = "flat", "cells"

#: Of each component. Copies of one sample are then at a cosine of about .68 to each other.
NOISE = 0.035
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class IndexCost:
    """One kind of index over so many samples.

    Attributes:
        cold_ms: median, each search after other work has filled the processor's caches.
        recall: share of the nearest samples of each expert that are found, mean over experts and queries.
        lowest_recall: the 5th percentile over experts and queries.
        build_s: to put the vectors in.
    """

    samples: int
    experts: int
    kind: str
    p50_ms: float
    p95_ms: float
    cold_ms: float
    recall: float
    lowest_recall: float
    build_s: float

    def as_dict(self) -> dict[str, Any]:
        """Flat, for one line of JSON."""
        machine = {"device": cpu_name(), "num_cpus": os.cpu_count()}
        return {"name": "index", **dataclasses.asdict(self), **machine}


def run(real: Vectors, num_samples: int, num_experts: int, num_queries: int, report: Report) -> list[IndexCost]:
    """Measure at 10,000 samples, ten times as many and so on up to ``num_samples``, on one thread.

    Args:
        real: unit vectors ``[num_real, dim]``, like ones together; the experts share them out in this order.
        num_samples: the most there are; a million of 384 components take 4 GB.
        num_experts: at most as many as there are real vectors left.
        num_queries: real vectors kept back.
        report: told how far it is.
    """
    generator = np.random.default_rng(0)
    order = generator.permutation(len(real))
    queries, seeds = real[order[:num_queries]], real[np.sort(order[num_queries:])]
    costs = []
    for size in sizes_up_to(num_samples):
        report(f"{size:,} samples: making them", 0, num_queries)
        vectors, counts = make_clumps(seeds, size, num_experts, generator)
        costs += _compare(vectors, counts, queries, report)
    return costs


def sizes_up_to(num_samples: int) -> list[int]:
    """Powers of ten from 10,000, and the last."""
    sizes = [SMALLEST]
    while sizes[-1] * 10 < num_samples:
        sizes.append(sizes[-1] * 10)
    return [*(size for size in sizes if size < num_samples), num_samples]


def make_clumps(
    seeds: Vectors, num_samples: int, num_experts: int, generator: np.random.Generator
) -> tuple[Vectors, list[int]]:
    """Unit vectors ``[num_samples, dim]``, expert after expert, and how many each expert has."""
    chosen = np.sort(generator.integers(0, len(seeds), num_samples))
    vectors = np.empty((num_samples, seeds.shape[1]), np.float32)
    for start in range(0, num_samples, _ROWS_AT_ONCE):
        copies = seeds[chosen[start : start + _ROWS_AT_ONCE]]
        copies = copies + np.float32(NOISE) * generator.standard_normal(copies.shape, dtype=np.float32)
        vectors[start : start + len(copies)] = copies / np.linalg.norm(copies, axis=1, keepdims=True)
    counts = np.bincount(chosen * num_experts // len(seeds), minlength=num_experts)
    return vectors, counts.tolist()


def print_table(costs: Sequence[IndexCost], console: Console) -> None:
    """A row per size and kind."""
    title = f"the {NUM_NEIGHBOURS} nearest samples of each of {costs[0].experts} experts"
    table = Table("samples", "index", title=title, title_justify="left")
    for heading in ("p50 ms", "p95 ms", "cold ms", "recall", "lowest 5 %", "build s"):
        table.add_column(heading, justify="right")
    for cost in costs:
        speed = (f"{cost.p50_ms:.2f}", f"{cost.p95_ms:.2f}", f"{cost.cold_ms:.2f}")
        quality = (f"{cost.recall:.3f}", f"{cost.lowest_recall:.2f}", f"{cost.build_s:.1f}")
        table.add_row(f"{cost.samples:,}", cost.kind, *speed, *quality)
    console.print(table)


def _compare(vectors: Vectors, counts: list[int], queries: Vectors, report: Report) -> list[IndexCost]:
    costs = []
    for kind, max_exact in ((FLAT, len(vectors)), (CELLS, 0)):
        what = f"{len(vectors):,} samples, {kind}"
        report(f"{what}: building", 0, len(queries))
        began_s = time.perf_counter()
        index = _index(vectors, counts, max_exact)
        build_s = time.perf_counter() - began_s
        times_ms = search_times_ms(index, queries, what, report)
        costs.append(_cost(kind, times_ms, recalls_of(index, vectors, queries), build_s, index))
    return costs


def search_times_ms(index: ExpertIndex, queries: Vectors, what: str, report: Report) -> tuple[Times, Times]:
    """Of every query, one after the other; and of some of them, each after the caches were filled with other things."""
    others = np.zeros(_CACHES_BYTES // 8)
    cold = []
    for query in queries[:NUM_COLD_QUERIES]:
        others += 1.0
        cold.append(_search_ms(index, query))
    warm = []
    for done, query in enumerate(queries):
        warm.append(_search_ms(index, query))
        report(what, done + 1, len(queries))
    return np.asarray(warm), np.asarray(cold)


def _search_ms(index: ExpertIndex, query: Vectors) -> float:
    began_s = time.perf_counter()
    index.per_expert(query[np.newaxis], NUM_NEIGHBOURS)
    return 1000 * (time.perf_counter() - began_s)


def _cost(
    kind: str, times_ms: tuple[Times, Times], recalls: NDArray[np.float64], build_s: float, index: ExpertIndex
) -> IndexCost:
    warm, cold = times_ms
    p50_ms, p95_ms = np.percentile(warm, [50, 95]).tolist()
    quality = (float(recalls.mean()), float(np.percentile(recalls, 5)))
    return IndexCost(
        index.num_samples, len(index.experts), kind, p50_ms, p95_ms, float(np.median(cold)), *quality, build_s
    )


def recalls_of(index: ExpertIndex, vectors: Vectors, queries: Vectors) -> NDArray[np.float64]:
    """Share of each expert's nearest samples that ``index`` finds, ``[num_experts, num_queries]``."""
    recalls = []
    ends = np.cumsum([0, *index.num_samples_per_expert]).tolist()
    for name, (start, end) in zip(index.experts, pairwise(ends), strict=True):
        if (count := min(NUM_NEIGHBOURS, end - start)) == 0:
            continue
        cosines = queries @ vectors[start:end].T
        truth = np.argpartition(-cosines, count - 1, axis=1)[:, :count] + start
        found = [index.search(query, count, [name])[1] for query in queries]
        recalls.append([np.isin(rows, true).mean() for rows, true in zip(found, truth, strict=True)])
    return np.asarray(recalls)


def _index(vectors: Vectors, counts: list[int], max_exact: int) -> ExpertIndex:
    nothing = tuple(("",) * count for count in counts)
    names = tuple(f"expert {i}" for i in range(len(counts)))
    return ExpertIndex(SampleSet(names, nothing, nothing), index_vectors(vectors, counts, max_exact))
