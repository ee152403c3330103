"""Classifiers anybody would try first, on the vectors that the router sees: what a better rule has to beat.

They are fitted on the routing samples' embeddings and their owners, and never abstain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import Candidate, RoutingDecision
from lmoe_ray.routing.expert_index import ExpertIndex, Vectors
from lmoe_ray.routing.linear_head import fit_linear_head
from lmoe_ray.routing.query import CHARS_PER_TOKEN, read_query
from lmoe_ray.routing.router import RoutedModel, fall_back
from lmoe_ray.routing.similarity import QueryEmbedder

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

NUM_NEIGHBOURS = 20
_SHARPNESSES = tuple(1.25**i for i in range(28))


class Baseline(Protocol):
    """Constructed from, and thereby fitted on, vectors ``[num_samples, dim]``, the class of each and their number."""

    def __init__(self, vectors: Vectors, labels: Labels, num_classes: int) -> None: ...

    def probabilities(self, vector: Vectors) -> Floats:
        """A vector ``[dim]`` to ``[num_classes]``, sum 1; 0 for a class without samples."""
        ...


class NearestCentroid:
    """The class whose mean direction is nearest.

    The rule knows no probabilities. They are the softmax of the cosines, times the one number that makes the samples
    themselves most likely.
    """

    def __init__(self, vectors: Vectors, labels: Labels, num_classes: int) -> None:
        self._classes = np.unique(labels)
        self._num_classes = num_classes
        means = np.stack([vectors[labels == c].mean(axis=0) for c in self._classes]).astype(np.float64)
        self._centroids = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
        cosines, owners = vectors @ self._centroids.T, np.searchsorted(self._classes, labels)
        likelihoods = [np.log(_softmax(s * cosines)[np.arange(len(owners)), owners]).sum() for s in _SHARPNESSES]
        self._sharpness = _SHARPNESSES[int(np.argmax(likelihoods))]

    def probabilities(self, vector: Vectors) -> Floats:
        among_known = _softmax(self._sharpness * (self._centroids @ vector)[np.newaxis])[0]
        return _spread(among_known, self._classes, self._num_classes)


class NeighbourMajority:
    """The class most of the 20 nearest samples belong to; its share of them is its probability."""

    def __init__(self, vectors: Vectors, labels: Labels, num_classes: int) -> None:
        self._vectors, self._labels, self._num_classes = vectors, labels, num_classes
        self._k = min(NUM_NEIGHBOURS, len(vectors))

    def probabilities(self, vector: Vectors) -> Floats:
        nearest = np.argsort(-(self._vectors @ vector), kind="stable")[: self._k]
        return np.bincount(self._labels[nearest], minlength=self._num_classes) / self._k


class EmbeddingRegression:
    """Logistic regression on the embedding alone, regularised and balanced as the router's own head is."""

    def __init__(self, vectors: Vectors, labels: Labels, num_classes: int) -> None:
        self._classes, self._num_classes = np.unique(labels), num_classes
        self._head = fit_linear_head(vectors, labels, num_classes) if len(self._classes) > 1 else None

    def probabilities(self, vector: Vectors) -> Floats:
        if self._head is None:  # nothing to tell apart
            return _spread(np.ones(1), self._classes, self._num_classes)
        return np.asarray(np.exp(self._head.log_probabilities(vector[np.newaxis])[0]))


#: By the name of their column.
BASELINES: dict[str, Callable[[Vectors, Labels, int], Baseline]] = {
    "centroid": NearestCentroid,
    "majority": NeighbourMajority,
    "regression": EmbeddingRegression,
}


class BaselineRouter:
    """Routes by one baseline, and reads a request as the similarity router does.

    Args:
        model: the base model; its experts are those of the index.
        baseline: fitted on the index.
        experts: names of its classes, in their order.
        embedder: of the index.
    """

    def __init__(self, model: RoutedModel, baseline: Baseline, experts: Sequence[str], embedder: QueryEmbedder) -> None:
        self._model, self._baseline, self._experts, self._embedder = model, baseline, experts, embedder

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        """A conversation is looked at both ways, and the probabilities are averaged: some of them may be 0."""
        texts = read_query(request).views(self._embedder.max_tokens * CHARS_PER_TOKEN)
        if not texts:
            return fall_back(self._model, "the request has no text to route by")
        vectors = await asyncio.gather(*map(self._embedder.embed_one, texts))
        scores = np.mean([self._baseline.probabilities(vector) for vector in vectors], axis=0)
        candidates = [Candidate(name, score) for name, score in zip(self._experts, scores.tolist(), strict=True)]
        candidates.sort(key=lambda c: (-c.score, c.expert))
        best = candidates[0]
        return RoutingDecision(self._model.name, best.expert, "similarity", best.score, tuple(candidates))


def fit_baselines(model: RoutedModel, index: ExpertIndex, embedder: QueryEmbedder) -> dict[str, BaselineRouter]:
    """One router per baseline; seconds for thousands of samples."""
    vectors, labels = index.vectors, index.labels
    return {
        name: BaselineRouter(model, fit(vectors, labels, len(index.experts)), index.experts, embedder)
        for name, fit in BASELINES.items()
    }


def _softmax(scores: Floats) -> Floats:
    """Along the last axis of ``[rows, classes]``."""
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _spread(shares: Floats, classes: Labels, num_classes: int) -> Floats:
    """Shares of some classes among all, the others 0."""
    spread = np.zeros(num_classes)
    spread[classes] = shares
    return spread
