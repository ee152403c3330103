"""What is known of tasks before any expert is: a classifier of prompts into some two hundred tasks, shipped.

A user's samples come from few sources and carry their habits. So the program brings a classifier of its own,
fitted once on several thousand prompts written for it, each named by its task ("regex", "riddle",
"table-qa"). It knows no experts: which of them a task belongs to is read off the experts' own samples, see
:class:`TaskProfile`. Its inputs contain an embedding, so it serves the embedder it was fitted with, tables that imitate
that one, and no other.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.head_inputs import SCALE_FILE, Inputs
from lmoe_ray.routing.linear_head import LinearHead, fit_linear_head
from lmoe_ray.routing.text_features import VERSION

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

FILE = Path(__file__).with_name("task_head.npz")

#: Log-probabilities are multiplied by it: the classifier, fitted on ten prompts a task, is less sure than it is right.
_SHARPNESS = 2.0
#: Of an expert's claim to a task that no sample of any expert shows.
_PRIOR = 0.01


@dataclass(frozen=True, slots=True)
class TaskHead:
    """``tasks`` name the classes of ``head``; ``space`` is that of the embedder of its inputs.

    ``seen`` are digests of the prompts that it or the encoder's tuning was fitted on: those are known better than any
    other will be.
    """

    tasks: tuple[str, ...]
    space: str
    head: LinearHead
    seen: frozenset[int]

    def has_seen(self, text: str) -> bool:
        """Whether something that is shipped was fitted on this prompt."""
        return _digest(text) in self.seen

    def probabilities(self, inputs: Inputs) -> Floats:
        """``[num_texts, num_tasks]``, each row's sum 1."""
        sharpened = np.exp(_SHARPNESS * self.head.log_probabilities(inputs))
        return np.asarray(sharpened / sharpened.sum(axis=1, keepdims=True))


@cache
def features_version() -> str:
    """Digest of all that shapes what is fitted on samples: the features, their scale and the shipped head."""
    digest = hashlib.sha256(f"features {VERSION}".encode())
    for file in (SCALE_FILE, FILE):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@cache
def load_task_head(space: str) -> TaskHead | None:
    """The shipped head, or ``None`` if it was fitted on vectors of another space."""
    with np.load(FILE, allow_pickle=False) as arrays:
        meta = json.loads(str(arrays["meta"]))
        if meta["embedder"] != space:
            logger.info("task head does not fit this embedder, so routing goes by samples alone space=%s", space)
            return None
        head = LinearHead(arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32))
        seen = frozenset(arrays["seen"].tolist())
    return TaskHead(tuple(meta["tasks"]), space, head, seen)


def fit_task_head(inputs: Inputs, seen: Iterable[str], tasks: Sequence[str], space: str) -> TaskHead:
    """From prompts' inputs ``[num_prompts, num_inputs]`` and the task of each; ``seen`` are those prompts and any other
    that the embedder was tuned on."""
    names = tuple(sorted(set(tasks)))
    labels = np.array([names.index(task) for task in tasks])
    head = fit_linear_head(inputs, labels, len(names))
    return TaskHead(names, space, head, frozenset(map(_digest, seen)))


def save_task_head(head: TaskHead, file: Path = FILE) -> None:
    """In 16 bits: what is lost is below the third digit of a probability."""
    meta = json.dumps({"embedder": head.space, "tasks": head.tasks})
    arrays = {
        "weight": head.head.weight.astype(np.float16),
        "bias": head.head.bias.astype(np.float16),
        "seen": np.array(sorted(head.seen), dtype=np.uint64),
    }
    np.savez_compressed(file, meta=np.array(meta), **arrays)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class TaskProfile:
    """How likely an expert is given the task, ``[num_experts, num_tasks]``, each column's sum 1."""

    shares: Floats

    def probabilities(self, tasks: Floats) -> Floats:
        """Probabilities of tasks ``[num_texts, num_tasks]`` to those of experts, ``[num_texts, num_experts]``."""
        return np.asarray(tasks @ self.shares.T)


def profile_of(tasks: Floats, labels: NDArray[np.int64], num_experts: int) -> TaskProfile:
    """From the samples' probabilities of tasks ``[num_samples, num_tasks]``; a mean for each expert, so that all have
    the same say. An expert without samples has no claim to anything."""
    counts = np.bincount(labels, minlength=num_experts)
    sums = np.zeros((num_experts, tasks.shape[1]))
    np.add.at(sums, labels, tasks)
    means = sums / np.maximum(counts, 1)[:, np.newaxis]
    claims = means + (counts > 0)[:, np.newaxis] * (_PRIOR / tasks.shape[1])
    return TaskProfile(claims / claims.sum(axis=0))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
