"""A query in, what each kind of evidence says of every expert out.

Two rules look at the ``k`` nearest samples *inside each expert*, so that every expert has the same
say, however many samples it brings; the third, the default, weighs one of them against classifiers.

``airoboros`` is the predecessor's: least mean distance. One fault of it made the other one necessary:
an expert with a dozen samples of the asked kind among a thousand others loses, because ``k``
neighbours reach beyond the dozen, and even a query that *is* one of its samples goes next door.

``density`` weighs each neighbour by a power of its distance instead, so few near samples outweigh many far ones. It
depends on ratios of distances only, not on how an embedder spreads them. The power is a compromise
between a plain mean, which is as accurate but has the fault above, and the nearest sample alone,
which is often sure and wrong.

``fused`` weighs neighbours against a linear head on words and form and against what is known of tasks: the
embedding alone sees the topic of a request and hardly its task (README, numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.evidence import fuse, log_closeness, log_softmax, never, squared_distances
from lmoe_ray.routing.expert_index import ExpertIndex, Nearest, Vectors
from lmoe_ray.routing.head_inputs import Inputs
from lmoe_ray.routing.heads import Heads, HeadScorer
from lmoe_ray.routing.task_head import TaskHead

Floats = NDArray[np.float64]

_SHARPNESSES = tuple(2.0 * 1.25**i for i in range(16))
_MAX_FITTED = 2000


class Scorer(Protocol):
    """Opinions of a query, and how they make one."""

    k: int

    def opinions(self, inputs: Inputs, vector: Vectors, nearest: Nearest) -> Mapping[str, Floats]:
        """Logarithms ``[num_experts]`` by the kind of evidence; ``-inf`` for an expert without samples.

        Args:
            inputs: what :func:`~lmoe_ray.routing.head_inputs.text_inputs` says of the query.
            vector: its embedding, ``[dim]``.
            nearest: cosines of the ``k`` nearest samples of every expert, ``[1, at most k]`` each.
        """
        ...

    def fuse(self, opinions: Mapping[str, Floats]) -> Floats:
        """Log-probabilities ``[num_experts]``."""
        ...


class AiroborosScorer:
    """Least mean Euclidean distance to ``min(k, samples)`` neighbours of each expert (airoboros, router.py:68-82).

    The rule knows no probabilities. As a stand-in it gives the softmax of the negative distances, which orders
    experts as the rule does and is far too even to compare with a threshold.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def opinions(self, inputs: Inputs, vector: Vectors, nearest: Nearest) -> Mapping[str, Floats]:
        means = [-np.sqrt(squared_distances(c)).mean(axis=1) if c.shape[1] else never(c) for c in nearest]
        return {"neighbours": np.stack(means, axis=1)[0]}

    def fuse(self, opinions: Mapping[str, Floats]) -> Floats:
        return log_softmax(opinions["neighbours"])


class DensityScorer:
    """Inverse-distance weights of the ``k`` nearest samples of each expert, averaged inside it.

    How sharply weights turn into probabilities is fitted once, on the samples themselves: each is
    scored by the others (2,000 of them at most, 0.3 s for 6,000 samples). Real queries lie
    farther off than samples do from one another, so of all settings within one standard error of the best
    likelihood the least sharp is taken (the one-standard-error rule of Breiman et al. 1984).
    """

    def __init__(self, index: ExpertIndex, k: int) -> None:
        self.k = k
        self.sharpness = _fit_sharpness(index, k)

    def opinions(self, inputs: Inputs, vector: Vectors, nearest: Nearest) -> Mapping[str, Floats]:
        return {"neighbours": log_closeness(nearest)[0]}

    def fuse(self, opinions: Mapping[str, Floats]) -> Floats:
        return log_softmax(self.sharpness * opinions["neighbours"])


class FusedScorer:
    """What neighbours, words and tasks say, weighted as in :mod:`lmoe_ray.routing.evidence`."""

    def __init__(self, heads: Heads, k: int, task_head: TaskHead | None) -> None:
        self.k = k
        self._heads = HeadScorer(heads, task_head)

    def opinions(self, inputs: Inputs, vector: Vectors, nearest: Nearest) -> Mapping[str, Floats]:
        return {"neighbours": log_closeness(nearest)[0], **self._heads.log_probabilities(inputs, vector)}

    def fuse(self, opinions: Mapping[str, Floats]) -> Floats:
        return fuse(opinions)


def make_scorer(
    rule: Literal["fused", "density", "airoboros"],
    index: ExpertIndex,
    k: int,
    heads: Heads | None = None,
    task_head: TaskHead | None = None,
) -> Scorer:
    """The scorer a setting names; ``heads`` are those fitted on the index, and count for ``fused`` alone.

    With a single expert to choose there are none, nothing is to be classified, and the density rule stands alone.
    """
    if rule == "airoboros":
        return AiroborosScorer(k)
    return FusedScorer(heads, k, task_head) if rule == "fused" and heads is not None else DensityScorer(index, k)


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
    return -log_softmax(scores)[np.arange(len(owners)), owners]


def _some_rows(index: ExpertIndex) -> NDArray[np.int64]:
    """Rows spread evenly over all experts; all of them if there are few."""
    num_rows = min(index.num_samples, _MAX_FITTED)
    return np.linspace(0, index.num_samples - 1, num_rows).astype(np.int64)
