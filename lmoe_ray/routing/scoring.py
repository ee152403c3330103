"""A query in, one probability per expert out.

Two rules look at the ``k`` nearest samples *inside each expert*, so that every expert has the same
say, however many samples it brings; the third, the default, averages one of them with a classifier.

``airoboros`` is the predecessor's: least mean distance. One fault of it made the other one necessary:
an expert with a dozen samples of the asked kind among a thousand others loses, because ``k``
neighbours reach beyond the dozen, and even a query that *is* one of its samples goes next door.

``density`` weighs each neighbour by a power of its distance instead (Shepard 1968, "A two-dimensional
interpolation function for irregularly-spaced data"), so few near samples outweigh many far ones. It
depends on ratios of distances only, not on how an embedder spreads them. The power is a compromise
between a plain mean, which is as accurate but has the fault above, and the nearest sample alone,
which is often sure and wrong.

``fused`` weighs ``density`` against a linear head on words and form and against what is known of tasks: the
embedding alone sees the topic of a request and hardly its task (README, numbers).
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.expert_index import ExpertIndex, Nearest, Vectors
from lmoe_ray.routing.heads import Heads, HeadScorer
from lmoe_ray.routing.task_head import TaskHead

Floats = NDArray[np.float64]

#: Chosen by leaving out one source of labelled prompts after the other.
EVIDENCE_WEIGHTS = {"neighbours": 1.0, "words": 1.0, "tasks": 2.0}

_POWER = 4.0
# Keeps the weight of an exact match finite: it counts 16 times as much as a sample at cosine .99.
_MIN_SQUARED_DISTANCE = 0.02
_SHARPNESSES = tuple(2.0 * 1.25**i for i in range(16))
_MAX_FITTED = 2000

_NUM_FAMILIAR = 5
_UNUSUAL_SHARE = 0.05


class Scorer(Protocol):
    """Probability of every expert of its index for a query."""

    def probabilities(self, text: str, vector: Vectors) -> Floats:
        """A text and its embedding ``[dim]`` to ``[num_experts]``, sum 1; 0 for an expert without samples."""
        ...


class AiroborosScorer:
    """Least mean Euclidean distance to ``min(k, samples)`` neighbours of each expert (airoboros, router.py:68-82).

    The rule knows no probabilities. As a stand-in it gives the softmax of the negative distances, which orders
    experts as the rule does and is far too even to compare with a threshold.
    """

    def __init__(self, index: ExpertIndex, k: int) -> None:
        self._index, self._k = index, k

    def probabilities(self, text: str, vector: Vectors) -> Floats:
        nearest = self._index.per_expert(vector[np.newaxis], self._k)
        means = [-np.sqrt(_squared_distances(c, 0.0)).mean(axis=1) if c.shape[1] else _never(c) for c in nearest]
        return np.asarray(softmax(np.stack(means, axis=1))[0])


class DensityScorer:
    """Inverse-distance weights of the ``k`` nearest samples of each expert, averaged inside it.

    How sharply weights turn into probabilities is fitted once, on the samples themselves: each is
    scored by the others (2,000 of them at most, 0.3 s for 6,000 samples). Real queries lie
    farther off than samples do from one another, so of all settings within one standard error of the best
    likelihood the least sharp is taken (the one-standard-error rule of Breiman et al. 1984).
    """

    def __init__(self, index: ExpertIndex, k: int) -> None:
        self._index, self._k = index, k
        self.sharpness = _fit_sharpness(index, k)

    def probabilities(self, text: str, vector: Vectors) -> Floats:
        nearest = self._index.per_expert(vector[np.newaxis], self._k)
        return np.asarray(softmax(self.sharpness * log_closeness(nearest))[0])


class FusedScorer:
    """Geometric mean of what neighbours, words and tasks say, weighted as in ``EVIDENCE_WEIGHTS``, renormalised.

    With a single expert to choose there is nothing to classify, and the density rule stands alone.
    """

    def __init__(self, index: ExpertIndex, k: int, heads: Heads | None, task_head: TaskHead | None) -> None:
        self._density = DensityScorer(index, k)
        self._heads = None if heads is None else HeadScorer(heads, task_head)

    def probabilities(self, text: str, vector: Vectors) -> Floats:
        by_density = self._density.probabilities(text, vector)
        if self._heads is None:
            return by_density
        with np.errstate(divide="ignore"):
            opinions = {"neighbours": np.log(by_density), **self._heads.log_probabilities(text, vector)}
        total = sum(EVIDENCE_WEIGHTS[name] for name in opinions)
        mean = sum(EVIDENCE_WEIGHTS[name] / total * opinion for name, opinion in opinions.items())
        return softmax(np.asarray(mean))


class Familiarity:
    """How usual it is for a sample to lie as far from the others as a query does: 1 usual, 0 unheard of.

    It speaks where probabilities cannot: a lone expert always has probability 1. What lies no
    farther from its 5 nearest samples than 5 % of the samples lie from theirs counts as usual; beyond that the
    value falls to 0 with the share of samples that lie farther still.
    """

    def __init__(self, index: ExpertIndex) -> None:
        self._index = index
        self._usual = np.sort(_mean_of_nearest(index.others_of(_some_rows(index), _NUM_FAMILIAR)))

    def of(self, vector: Vectors) -> float:
        """Familiarity of ``vector [dim]``."""
        nearness = _mean_of_nearest(self._index.per_expert(vector[np.newaxis], _NUM_FAMILIAR))[0]
        share_farther = np.searchsorted(self._usual, nearness, side="right") / len(self._usual)
        return float(min(1.0, share_farther / _UNUSUAL_SHARE))


def make_scorer(
    rule: Literal["fused", "density", "airoboros"],
    index: ExpertIndex,
    k: int,
    heads: Heads | None = None,
    task_head: TaskHead | None = None,
) -> Scorer:
    """The scorer a setting names; ``heads`` are those fitted on the index, and count for ``fused`` alone."""
    if rule == "fused":
        return FusedScorer(index, k, heads, task_head)
    return DensityScorer(index, k) if rule == "density" else AiroborosScorer(index, k)


def log_closeness(nearest: Nearest) -> Floats:
    """Logarithm of each expert's closeness, ``[num_queries, num_experts]``; ``-inf`` without samples.

    It is minus the logarithm of a power mean of the squared distances, with exponent ``-_POWER``.
    """
    return np.stack([_log_closeness(c) if c.shape[1] else _never(c) for c in nearest], axis=1)


def softmax(scores: Floats) -> Floats:
    """Along the last axis; ``-inf`` becomes 0, and each row needs one finite score."""
    return np.asarray(np.exp(_log_softmax(scores)))


def _log_softmax(scores: Floats) -> Floats:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _log_closeness(cosines: Vectors) -> Floats:
    logs = -_POWER * np.log(_squared_distances(cosines, _MIN_SQUARED_DISTANCE))
    highest = logs.max(axis=1, keepdims=True)
    return np.asarray((highest[:, 0] + np.log(np.exp(logs - highest).mean(axis=1))) / _POWER)


def _squared_distances(cosines: Vectors, at_least: float) -> Floats:
    """Of unit vectors. Rounding can bring a cosine above 1."""
    return np.asarray(2.0 - 2.0 * np.minimum(cosines.astype(np.float64), 1.0) + at_least)


def _mean_of_nearest(nearest: Nearest) -> Floats:
    """Mean cosine of the nearest samples, whoever owns them, ``[num_queries]``."""
    cosines = np.sort(np.concatenate(nearest, axis=1).astype(np.float64), axis=1)
    return np.asarray(cosines[:, -_NUM_FAMILIAR:].mean(axis=1))


def _never(cosines: Vectors) -> Floats:
    return np.full(len(cosines), -np.inf)


def _fit_sharpness(index: ExpertIndex, k: int) -> float:
    """The least sharp value whose leave-one-out likelihood is within one standard error of the best."""
    rows = _some_rows(index)
    closeness, owners = log_closeness(index.others_of(rows, k)), index.labels[rows]
    losses = np.stack([_losses(sharpness * closeness, owners) for sharpness in _SHARPNESSES])
    means = losses.mean(axis=1)
    best = int(means.argmin())
    is_good_enough = means <= means[best] + losses[best].std() / np.sqrt(len(rows))
    return _SHARPNESSES[int(is_good_enough.argmax())]


def _losses(scores: Floats, owners: NDArray[np.int64]) -> Floats:
    """Negative log-likelihood of each row's owner."""
    return -_log_softmax(scores)[np.arange(len(owners)), owners]


def _some_rows(index: ExpertIndex) -> NDArray[np.int64]:
    """Rows spread evenly over all experts; all of them if there are few."""
    num_rows = min(index.num_samples, _MAX_FITTED)
    return np.linspace(0, index.num_samples - 1, num_rows).astype(np.int64)
