"""A linear classifier over what a text means, which words it uses, and what form it has.

An embedding tells topics apart, and less so tasks: a riddle about ducks lies near a story about ducks.
Words, pieces of words and the text's form tell the task. So all three go into one logistic regression,
fitted on the routing samples when an index is built and kept with it.

Alone it follows the habits of whoever wrote the samples; ``scoring.FusedScorer`` weighs it against the
neighbours, which do not generalise but do not invent either, and against what is known of tasks in general.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from lmoe_ray.routing.head_inputs import Inputs

Floats = NDArray[np.float64]

_INVERSE_REGULARISATION = 3.0
_MAX_ITERATIONS = 80
#: Of the gradient of the mean loss.
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class LinearHead:
    """``weight [num_inputs, num_classes]`` and ``bias [num_classes]``, float32."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def log_probabilities(self, inputs: Inputs) -> Floats:
        """``[num_texts, num_inputs]`` to ``[num_texts, num_classes]``; ``-inf`` for a class without samples."""
        logits = (inputs @ self.weight + self.bias).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def fit_linear_head(inputs: Inputs, labels: NDArray[np.int64], num_classes: int) -> LinearHead:
    """Deterministic, seconds for thousands of samples on one CPU thread.

    Args:
        inputs: ``[num_samples, num_inputs]``.
        labels: class of each, at least two different ones.
        num_classes: those that have no sample never get any probability.
    """
    # Balanced, because an expert with more samples is not for that reason asked for more often.
    model = LogisticRegression(
        C=_INVERSE_REGULARISATION, class_weight="balanced", max_iter=_MAX_ITERATIONS, tol=_TOLERANCE
    )
    # A second thread gains little, and on a machine that has other work both wait for each other: ten times slower.
    with threadpool_limits(1, user_api="blas"):
        model.fit(inputs, labels)
    weight = np.zeros((inputs.shape[1], num_classes), np.float32)
    bias = np.full(num_classes, -np.inf, np.float32)
    if len(model.classes_) == 2:
        # Two classes share one row of coefficients; half to each side gives the same probabilities.
        coefficients, intercepts = (np.concatenate([-x, x]) / 2 for x in (model.coef_, model.intercept_))
    else:
        coefficients, intercepts = model.coef_, model.intercept_
    weight[:, model.classes_], bias[model.classes_] = coefficients.T, intercepts
    return LinearHead(weight, bias)
