"""What is fitted on an index's samples: the linear head, and each expert's profile of tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.expert_index import ExpertIndex, Vectors
from lmoe_ray.routing.head_inputs import Inputs, with_vectors
from lmoe_ray.routing.linear_head import LinearHead, fit_linear_head
from lmoe_ray.routing.task_head import TaskHead, TaskProfile, profile_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Heads:
    """``profile`` is missing where the shipped task head does not know the embedder."""

    linear: LinearHead
    profile: TaskProfile | None

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """To be kept in a file; :func:`heads_from` reads them."""
        profile = {} if self.profile is None else {"profile": self.profile.shares}
        return {"weight": self.linear.weight, "bias": self.linear.bias, **profile}


def heads_from(arrays: dict[str, NDArray[np.generic]]) -> Heads:
    """
    Raises:
        KeyError: an array is missing.
    """
    profile = TaskProfile(arrays["profile"].astype(np.float64)) if "profile" in arrays else None
    return Heads(LinearHead(arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32)), profile)


def fit_heads(index: ExpertIndex, inputs: Inputs, task_head: TaskHead | None) -> Heads:
    """Two seconds for 6,000 samples; at least two experts must have some.

    ``inputs`` are of the index's rows, ``[num_samples, num_inputs]``.
    """
    num_experts = len(index.experts)
    profile = None
    if task_head is not None:
        profile = profile_of(task_head.probabilities(inputs), index.labels, num_experts)
    return Heads(fit_linear_head(inputs, index.labels, num_experts), profile)


class HeadScorer:
    """Both heads' opinions of a text; the inputs are computed once for both."""

    def __init__(self, heads: Heads, task_head: TaskHead | None) -> None:
        self._heads, self._task_head = heads, task_head

    def log_probabilities(self, inputs: Inputs, vector: Vectors) -> dict[str, Floats]:
        """``[num_experts]`` by the name of the evidence.

        ``inputs`` are what :func:`~lmoe_ray.routing.head_inputs.text_inputs` says of the text, ``vector`` is its
        embedding.
        """
        inputs = with_vectors(inputs, vector[np.newaxis])
        opinions = {"words": self._heads.linear.log_probabilities(inputs)[0]}
        if self._task_head is not None and self._heads.profile is not None:
            by_task = self._heads.profile.probabilities(self._task_head.probabilities(inputs))[0]
            with np.errstate(divide="ignore"):
                opinions["tasks"] = np.log(by_task)
        return opinions
