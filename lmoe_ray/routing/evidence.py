"""The three kinds of evidence, and how much each counts.

``neighbours`` see the topic of a request and hardly its task; ``words`` learn the task and the habits of
whoever wrote the samples; ``tasks`` know nothing of the samples' writers. The weights were chosen among a dozen on
prompts of left-out sources (5,950 public ones of 24 sources, 5,366 of our own by eight hands) and on whole
conversations: strangers' single prompts would give the neighbours a third of this weight, conversations rather
more. Two of the weights are exponents of probabilities, that of the neighbours is one of a closeness.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.expert_index import Nearest, Vectors

Floats = NDArray[np.float64]

_WEIGHTS = {"neighbours": 3.0, "words": 0.3, "tasks": 1.0}
#: Where the task head does not know the embedder.
_WEIGHTS_WITHOUT_TASKS = {"neighbours": 3.8, "words": 0.6}

_POWER = 4.0
# Keeps the weight of an exact match finite: it counts 16 times as much as a sample at cosine .99.
_MIN_SQUARED_DISTANCE = 0.02


def fuse(opinions: Mapping[str, Floats]) -> Floats:
    """Weighted sum of logarithms ``[..., num_experts]``, normalised along the last axis.

    ``opinions`` are log-probabilities, or the logarithm of a closeness for the neighbours.
    """
    weights = weights_of(opinions)
    return log_softmax(np.asarray(sum(weights[name] * opinion for name, opinion in opinions.items())))


def weights_of(opinions: Mapping[str, object]) -> Mapping[str, float]:
    """The weight of each kind of evidence that is there."""
    weights = _WEIGHTS if "tasks" in opinions else _WEIGHTS_WITHOUT_TASKS
    return {name: weights[name] for name in opinions}


def log_closeness(nearest: Nearest) -> Floats:
    """Logarithm of each expert's closeness, ``[num_queries, num_experts]``; ``-inf`` without samples.

    It is minus the logarithm of a power mean of the squared distances, with exponent ``-_POWER``: the inverse-distance
    weights of Shepard 1968, "A two-dimensional interpolation function for irregularly-spaced data".
    """
    # All experts at once where each found as many, as is usual: a sixth of the calls, on the path of every request.
    if len({cosines.shape[1] for cosines in nearest}) == 1 and nearest[0].shape[1]:
        return _log_closeness(np.stack(nearest, axis=1))
    return np.stack([_log_closeness(c) if c.shape[1] else never(c) for c in nearest], axis=1)


def squared_distances(cosines: Vectors, at_least: float = 0.0) -> Floats:
    """Of unit vectors. Rounding can bring a cosine above 1."""
    return np.asarray(2.0 - 2.0 * np.minimum(cosines.astype(np.float64), 1.0) + at_least)


def never(cosines: Vectors) -> Floats:
    """The logarithm of an expert's closeness if it has no samples."""
    return np.full(len(cosines), -np.inf)


def softmax(scores: Floats) -> Floats:
    """Along the last axis; ``-inf`` becomes 0, and each row needs one finite score."""
    return np.asarray(np.exp(log_softmax(scores)))


def log_softmax(scores: Floats) -> Floats:
    """Logarithm of :func:`softmax`."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _log_closeness(cosines: Vectors) -> Floats:
    """``[..., k]`` to ``[...]``."""
    logs = -_POWER * np.log(squared_distances(cosines, _MIN_SQUARED_DISTANCE))
    highest = logs.max(axis=-1, keepdims=True)
    return np.asarray((highest[..., 0] + np.log(np.exp(logs - highest).mean(axis=-1))) / _POWER)
