"""The samples of an index as a table of numbers, and which of them lie next to each other.

Only what somebody wrote as a sample is in it. Sentences of a description, which the router takes as samples of
an expert that has few, are no samples to be corrected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.expert_index import ExpertIndex, Vectors
from lmoe_ray.routing.form_cues import NUM_FORM_FEATURES
from lmoe_ray.routing.head_inputs import Inputs, head_inputs
from lmoe_ray.routing.sample_findings import Sample
from lmoe_ray.routing.sample_set import DESCRIPTION
from lmoe_ray.routing.text_features import NUM_TEXT_FEATURES

#: Called with what is under way, how much of it is done, and of how much.
StageProgress = Callable[[str, int, int], None]

#: Cosine from which the wording of two samples is compared as well.
ALIKE_MEANING = 0.9

_BLOCK = 256
_NUM_HASHED = NUM_TEXT_FEATURES - NUM_FORM_FEATURES


@dataclass(frozen=True, slots=True)
class SampleTable:
    """One row a sample; every expert of ``experts`` has at least one.

    Attributes:
        experts: by name.
        texts: ``[num_samples]``.
        labels: place in ``experts`` of each sample's, ``[num_samples]``.
        vectors: embeddings, ``[num_samples, dim]``.
        inputs: what linear heads look at, ``[num_samples, num_inputs]``.
    """

    experts: tuple[str, ...]
    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    vectors: Vectors
    inputs: Inputs

    @property
    def counts(self) -> NDArray[np.int64]:
        """Samples of each expert, ``[num_experts]``."""
        return np.bincount(self.labels, minlength=len(self.experts))

    @property
    def wordings(self) -> Inputs:
        """Words and pieces of words alone, ``[num_samples, num_hashed]``; not scaled."""
        return self.inputs[:, :_NUM_HASHED]

    @property
    def forms_and_meanings(self) -> Inputs:
        """The other inputs, ``[num_samples, num_others]``."""
        return self.inputs[:, _NUM_HASHED:]

    def sample(self, row: int) -> Sample:
        return Sample(self.experts[self.labels[row]], self.texts[row])


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest others of every sample, best first, ``[num_samples, k]`` each.

    ``meanings`` are cosines of embeddings, ``wordings`` those of words and pieces of words where the meaning is
    alike, and 0 elsewhere.
    """

    rows: NDArray[np.int64]
    meanings: Vectors
    wordings: Vectors


def read_table(index: ExpertIndex, progress: StageProgress) -> SampleTable:
    """Milliseconds a sample: the inputs of the heads are computed again, because no index keeps them."""
    rows = np.flatnonzero([source != DESCRIPTION for source in index.samples.row_sources])
    present, labels = np.unique(index.labels[rows], return_inverse=True)
    texts = tuple(index.texts[row] for row in rows)
    vectors = index.vectors_of(rows)
    blocks = [np.empty((0, NUM_TEXT_FEATURES + vectors.shape[1]), np.float32)]
    for start in range(0, len(texts), _BLOCK):
        blocks.append(head_inputs(texts[start : start + _BLOCK], vectors[start : start + _BLOCK]))
        progress("reading samples", min(start + _BLOCK, len(texts)), len(texts))
    return SampleTable(tuple(index.experts[i] for i in present), texts, labels, vectors, np.concatenate(blocks))


def find_neighbours(table: SampleTable, k: int, progress: StageProgress) -> Neighbours:
    """The ``k`` nearest by meaning, or all others if there are fewer."""
    num_samples = len(table.texts)
    k = min(k, num_samples - 1)
    wordings = table.wordings / np.maximum(np.linalg.norm(table.wordings, axis=1, keepdims=True), 1e-9)
    blocks = []
    for start in range(0, num_samples, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, num_samples))
        found, meanings = _nearest(table.vectors, rows, k)
        alike = np.zeros_like(meanings)
        first, place = np.nonzero(meanings >= ALIKE_MEANING)
        alike[first, place] = np.einsum("pw,pw->p", wordings[rows[first]], wordings[found[first, place]])
        blocks.append((found, meanings, alike))
        progress("comparing samples", int(rows[-1]) + 1, num_samples)
    return Neighbours(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def _nearest(vectors: Vectors, rows: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], Vectors]:
    cosines = vectors[rows] @ vectors.T
    cosines[np.arange(len(rows)), rows] = -np.inf
    found = np.argpartition(-cosines, min(k, len(vectors) - 1), axis=1)[:, :k]
    found = np.take_along_axis(found, np.argsort(-np.take_along_axis(cosines, found, axis=1), axis=1), axis=1)
    return found, np.take_along_axis(cosines, found, axis=1)
