"""What the evidence says of samples it has not seen: the ground on which confidence can be measured.

Samples are held out in groups, never one by one: those of one source share its habits, and a router that has
seen some of them is sure of the others as it will never be of a stranger's request. A sample's group is its
source where its expert has at least two, else the cluster of like samples it lies in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.evidence import fuse, log_closeness
from lmoe_ray.routing.expert_index import ExpertIndex, Vectors
from lmoe_ray.routing.head_inputs import Inputs
from lmoe_ray.routing.linear_head import fit_linear_head
from lmoe_ray.routing.sample_set import DESCRIPTION
from lmoe_ray.routing.task_head import TaskHead, profile_of

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

NUM_FOLDS = 5
#: More rows cost more and change little; each fold is one fit of the linear head.
MAX_ROWS = 6000
#: Fewer say nothing.
MIN_ROWS = 40

_CLUSTER_SIZE = 20
_MAX_CLUSTERS = 200
_MIN_SOURCES = 2


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Samples as strangers.

    Attributes:
        log_probabilities: of every expert, fused, ``[num_rows, num_experts]``.
        owners: whose each is, ``[num_rows]``.
    """

    log_probabilities: Floats
    owners: Rows


@dataclass(frozen=True, slots=True)
class Folds:
    """Some rows of an index, and the fold each is held out with, ``[num_rows]`` both."""

    rows: Rows
    folds: Rows

    @classmethod
    def of(cls, index: ExpertIndex) -> Folds:
        """``MAX_ROWS`` rows at most, spread evenly over all experts."""
        rows = np.linspace(0, index.num_samples - 1, min(index.num_samples, MAX_ROWS)).astype(np.int64)
        return cls(rows, fold_of(_groups(index, rows), NUM_FOLDS))


def hold_out(index: ExpertIndex, folds: Folds, inputs: Inputs, k: int, task_head: TaskHead | None) -> HeldOut | None:
    """Seconds for thousands of samples; ``None`` with fewer than ``MIN_ROWS`` samples that can be judged.

    Not judged are samples that the task head was fitted on, sentences of descriptions, and those of an expert that has
    no others.

    Args:
        index: whose samples are held out.
        folds: which of them, and together with which.
        inputs: of all the index's rows, ``[num_samples, num_inputs]``.
        k: neighbours looked at inside every expert.
        task_head: fitted beforehand, so it is the same in every fold.
    """
    sample = _Sample.of(index, inputs, folds.rows)
    is_stranger = _strangers(index, folds.rows, task_head)
    parts = [_one_fold(sample, folds.folds == fold, is_stranger, k, task_head) for fold in range(NUM_FOLDS)]
    judged = [part for part in parts if part is not None]
    if sum(len(part.owners) for part in judged) < MIN_ROWS:
        return None
    return HeldOut(
        np.concatenate([part.log_probabilities for part in judged]), np.concatenate([part.owners for part in judged])
    )


def fold_of(groups: Sequence[str], num_folds: int) -> Rows:
    """A fold for each row, the same for all rows of a group: the largest group goes to the emptiest fold first."""
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    folds, sizes = np.zeros(len(groups), np.int64), [0] * num_folds
    for _, rows in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        emptiest = sizes.index(min(sizes))
        folds[rows] = emptiest
        sizes[emptiest] += len(rows)
    return folds


@dataclass(frozen=True, slots=True)
class _Sample:
    """Rows of an index by themselves."""

    inputs: Inputs
    vectors: Vectors
    labels: Rows
    num_experts: int

    @classmethod
    def of(cls, index: ExpertIndex, inputs: Inputs, rows: Rows) -> _Sample:
        return cls(inputs[rows], index.vectors_of(rows), index.labels[rows], len(index.experts))

    def only(self, chosen: NDArray[np.bool_]) -> _Sample:
        return _Sample(self.inputs[chosen], self.vectors[chosen], self.labels[chosen], self.num_experts)


def _one_fold(
    sample: _Sample, is_held_out: NDArray[np.bool_], is_stranger: NDArray[np.bool_], k: int, task_head: TaskHead | None
) -> HeldOut | None:
    """Those rows of one fold that can be judged, judged by all others."""
    known = sample.only(~is_held_out)
    judged = sample.only(is_held_out & is_stranger & np.isin(sample.labels, np.unique(known.labels)))
    if len(judged.labels) == 0 or len(np.unique(known.labels)) < 2:
        return None
    nearest = tuple(_nearest(judged.vectors, known.vectors[known.labels == e], k) for e in range(sample.num_experts))
    head = fit_linear_head(known.inputs, known.labels, sample.num_experts)
    opinions = {"neighbours": log_closeness(nearest), "words": head.log_probabilities(judged.inputs)}
    if task_head is not None:
        profile = profile_of(task_head.probabilities(known.inputs), known.labels, sample.num_experts)
        with np.errstate(divide="ignore"):
            opinions["tasks"] = np.log(profile.probabilities(task_head.probabilities(judged.inputs)))
    return HeldOut(fuse(opinions), judged.labels)


def _nearest(queries: Vectors, samples: Vectors, k: int) -> Vectors:
    """Cosines of the ``k`` nearest, ``[num_queries, min(k, num_samples)]``, in no order."""
    cosines = queries @ samples.T
    k = min(k, len(samples))
    return np.asarray(-np.partition(-cosines, k - 1, axis=1)[:, :k]) if k else cosines


def _strangers(index: ExpertIndex, rows: Rows, task_head: TaskHead | None) -> NDArray[np.bool_]:
    """Which rows the task head has not seen, and are samples at all."""
    sources = index.samples.row_sources
    return np.array(
        [
            sources[row] != DESCRIPTION and (task_head is None or not task_head.has_seen(index.texts[row]))
            for row in rows.tolist()
        ]
    )


def _groups(index: ExpertIndex, rows: Rows) -> list[str]:
    """What each row is held out together with."""
    sources, labels = index.samples.row_sources, index.labels
    named: dict[int, set[str]] = defaultdict(set)
    for row in rows.tolist():
        named[int(labels[row])] |= {sources[row]} - {"", DESCRIPTION}
    clusters = _clusters(index.vectors_of(rows))
    return [
        f"source {sources[row]}"
        if sources[row] and len(named[int(labels[row])]) >= _MIN_SOURCES
        else f"cluster {cluster}"
        for row, cluster in zip(rows.tolist(), clusters, strict=True)
    ]


def _clusters(vectors: Vectors) -> Iterable[int]:
    """k-means, seeded, of twenty samples a cluster."""
    num_clusters = int(np.clip(len(vectors) // _CLUSTER_SIZE, 1, _MAX_CLUSTERS))
    means = faiss.Kmeans(vectors.shape[1], num_clusters, niter=10, seed=1, min_points_per_centroid=1)
    num_threads = faiss.omp_get_max_threads()
    # Threads add up in any order, and a rounding error can move a sample to another cluster.
    faiss.omp_set_num_threads(1)
    try:
        means.train(np.ascontiguousarray(vectors))
        assert means.index is not None
        _, found = means.index.search(np.ascontiguousarray(vectors), 1)
    finally:
        faiss.omp_set_num_threads(num_threads)
    clusters: list[int] = found[:, 0].tolist()
    return clusters
