"""Which known tasks the experts' samples show, which are contested, and where more samples would help.

The shipped task head names some two hundred tasks. An expert shows a task with about as many samples as the
head's probabilities of it add up to; its claim is its share, counted as the router counts it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.sample_findings import Claim, ContestedTask, Suggestion
from lmoe_ray.routing.sample_table import SampleTable
from lmoe_ray.routing.task_head import TaskHead, profile_of

Floats = NDArray[np.float64]

#: Samples of a task below which an expert has few of it; the task head itself was fitted on about so many.
_FEW_SAMPLES = 10
_MIN_SHOWN = 1.0
_WEAK_CLAIM = 0.6
_RIVAL_CLAIM = 0.1
_MAX_SUGGESTIONS = 5


@dataclass(frozen=True, slots=True)
class TaskCoverage:
    """``shares`` and ``num_samples`` are ``[num_experts, num_tasks]``; a column of shares adds up to 1."""

    experts: tuple[str, ...]
    tasks: tuple[str, ...]
    shares: Floats
    num_samples: Floats

    @property
    def unshown(self) -> tuple[str, ...]:
        """Tasks that the samples of all experts together do not show once."""
        return tuple(task for i, task in enumerate(self.tasks) if not self._is_shown(i))

    @property
    def contested(self) -> tuple[ContestedTask, ...]:
        """Shown tasks of which the strongest claim is weak and rests on few samples; the weakest first."""
        weak = [(claims[0].share, task, claims) for task, claims in self._shown() if _is_weak(claims[0])]
        return tuple(ContestedTask(task, claims[:3]) for _, task, claims in sorted(weak, key=lambda found: found[:2]))

    @property
    def suggestions(self) -> tuple[Suggestion, ...]:
        """Five at most for each expert, the strongest rival first; a lone expert has no rival."""
        found = [
            Suggestion(task, claims[0], claims[1])
            for task, claims in self._shown()
            if len(claims) > 1 and claims[0].num_samples < _FEW_SAMPLES and claims[1].share >= _RIVAL_CLAIM
        ]
        found.sort(key=lambda suggestion: -suggestion.rival.share)
        of_expert = ([s for s in found if s.owner.expert == expert] for expert in self.experts)
        return tuple(suggestion for some in of_expert for suggestion in some[:_MAX_SUGGESTIONS])

    def _shown(self) -> list[tuple[str, tuple[Claim, ...]]]:
        return [(task, self._claims(i)) for i, task in enumerate(self.tasks) if self._is_shown(i)]

    def _is_shown(self, task: int) -> bool:
        return bool(self.num_samples[:, task].sum() >= _MIN_SHOWN)

    def _claims(self, task: int) -> tuple[Claim, ...]:
        """The strongest first."""
        return tuple(
            Claim(self.experts[i], float(self.shares[i, task]), float(self.num_samples[i, task]))
            for i in np.argsort(-self.shares[:, task], kind="stable")
        )


def cover_tasks(table: SampleTable, task_head: TaskHead) -> TaskCoverage:
    """Costs a matrix product."""
    tasks, num_experts = task_head.probabilities(table.inputs), len(table.experts)
    num_samples = np.zeros((num_experts, len(task_head.tasks)))
    np.add.at(num_samples, table.labels, tasks)
    shares = profile_of(tasks, table.labels, num_experts).shares
    return TaskCoverage(table.experts, task_head.tasks, shares, num_samples)


def _is_weak(claim: Claim) -> bool:
    return claim.share < _WEAK_CLAIM and claim.num_samples < _FEW_SAMPLES
