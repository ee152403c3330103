"""One FAISS index over the samples of all experts, which know their owner by their row.

Rows lie expert after expert, and every search is one per expert. Up to 100,000 samples it is exact: 0.6 ms over
10,000 samples, 11 ms over 100,000, where the embedding of the query takes 10 to 70 ms. Beyond, each expert's samples
lie in cells, of which a search looks into the nearest: see :mod:`lmoe_ray.routing.cell_index`. Graphs (HNSW) lose
half of the neighbours on samples that clump by template; ``lmoe bench index`` measures what cells lose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.cell_index import CellIndex, make_cells
from lmoe_ray.routing.flat_index import FlatIndex, Found, Rows, make_flat
from lmoe_ray.routing.sample_set import SampleSet

Vectors = NDArray[np.float32]

#: Of this many samples and fewer, every one is compared with the query.
MAX_EXACT = 100_000

#: Called with texts done and texts in all.
Progress = Callable[[int, int], None]

#: Per expert, cosines of its nearest samples, best first: ``[num_queries, min(k, its samples)]`` each.
Nearest = tuple[Vectors, ...]


class Encoder(Protocol):
    """Texts to unit vectors ``[num_texts, dim]``. ``identity`` differs whenever vectors could.

    ``space`` is the identity of the encoder whose vectors these are or imitate: a classifier of the one's reads the
    other's too. ``known_share`` is the share of a text's words that it knows, 0 to 1.
    """

    identity: str
    space: str
    max_tokens: int

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors: ...

    def known_share(self, text: str) -> float: ...


class ExpertIndex:
    """The samples as points on the unit sphere. Immutable, so any number of requests may search it.

    Args:
        samples: who owns which row.
        faiss_index: their vectors, in the order of ``samples.rows``, see :func:`index_vectors`.
    """

    def __init__(self, samples: SampleSet, faiss_index: faiss.Index) -> None:
        num_vectors = faiss_index.ntotal
        assert num_vectors == len(samples.rows), f"{num_vectors} vectors, {len(samples.rows)} samples. This is a bug."
        self.samples = samples
        self.faiss_index = faiss_index
        self.texts = samples.rows
        self.num_samples_per_expert = tuple(len(texts) for texts in samples.texts)
        self.labels: Rows = np.repeat(np.arange(len(samples.texts)), self.num_samples_per_expert)
        self._searched = _searched(faiss_index, self.num_samples_per_expert)

    @property
    def experts(self) -> tuple[str, ...]:
        return self.samples.experts

    @property
    def num_samples(self) -> int:
        return int(self.faiss_index.ntotal)

    @property
    def is_exact(self) -> bool:
        """Whether a search compares with every sample."""
        return isinstance(self._searched, FlatIndex)

    def search(self, vector: Vectors, k: int, experts: Sequence[str] | None = None) -> tuple[Vectors, Rows]:
        """Cosines and rows of the ``k`` samples nearest to ``vector [dim]``, best first; of ``experts``, or of all."""
        wanted = [i for i, name in enumerate(self.experts) if experts is None or name in experts]
        cosines, rows = side_by_side(self._searched.nearest(vector[np.newaxis], k, wanted), k)
        best = np.argsort(-cosines, kind="stable")[:k]
        return cosines[best], rows[best]

    @property
    def vectors(self) -> Vectors:
        """Of all samples, ``[num_samples, dim]``; a copy, 1.5 GB for a million of 384 components."""
        return self._searched.all_vectors()

    def vectors_of(self, rows: Rows) -> Vectors:
        """Of some samples, ``[num_rows, dim]``; a copy."""
        return self._searched.vectors_of(rows)

    def per_expert(self, vectors: Vectors, k: int) -> Nearest:
        """The nearest ``k`` samples inside every expert, for each of ``vectors [num_queries, dim]``."""
        return tuple(cosines for cosines, _ in self.found_per_expert(vectors, k))

    def found_per_expert(self, vectors: Vectors, k: int) -> list[Found]:
        """As :meth:`per_expert`, and which rows they are."""
        return self._searched.nearest(vectors, k, range(len(self.experts)))

    def others_of(self, rows: Rows, k: int) -> Nearest:
        """As :meth:`per_expert` for samples of our own, none of which is counted as its own neighbour.

        An expert that owns one of ``rows`` and nothing else has cosine -1 there, the farthest possible.
        """
        found = self._searched.nearest(self.vectors_of(rows), k + 1, range(len(self.experts)))
        return tuple(_without_self(cosines, found_rows, rows, k) for cosines, found_rows in found)


def side_by_side(found: Sequence[Found], k: int) -> Found:
    """The best ``k`` of each expert for a single query, expert after expert: cosines and rows, ``[num_found]``."""
    cosines = np.concatenate([np.empty(0, np.float32), *(c[0, :k] for c, _ in found)])
    rows = np.concatenate([np.empty(0, np.int64), *(r[0, :k] for _, r in found)])
    return cosines, rows


def build_index(
    samples: SampleSet, encoder: Encoder, progress: Progress | None = None, max_exact: int = MAX_EXACT
) -> ExpertIndex:
    """Embed every sample. Minutes for thousands of samples on a CPU; see ``index_cache`` for the second time."""
    vectors = encoder.embed(samples.rows, progress)
    counts = [len(texts) for texts in samples.texts]
    return ExpertIndex(samples, index_vectors(vectors, counts, max_exact))


def index_vectors(vectors: Vectors, num_samples: Sequence[int], max_exact: int = MAX_EXACT) -> faiss.Index:
    """The kind of index that suits so many vectors.

    Args:
        vectors: unit vectors ``[num_vectors, dim]``, expert after expert.
        num_samples: of each expert.
        max_exact: above this number of vectors a search is approximate.
    """
    return make_flat(vectors) if len(vectors) <= max_exact else make_cells(vectors, num_samples)


class _Searched(Protocol):
    def nearest(self, vectors: Vectors, k: int, experts: Sequence[int]) -> list[Found]: ...

    def vectors_of(self, rows: Rows) -> Vectors: ...

    def all_vectors(self) -> Vectors: ...


def _searched(faiss_index: faiss.Index, num_samples: Sequence[int]) -> _Searched:
    if isinstance(faiss_index, faiss.IndexIVFScalarQuantizer):
        return CellIndex(faiss_index, num_samples)
    ends = [int(end) for end in np.cumsum([0, *num_samples])]
    return FlatIndex(faiss_index, list(pairwise(ends)))


def _without_self(cosines: Vectors, found: Rows, rows: Rows, k: int) -> Vectors:
    if found.shape[1] == 0:
        return cosines
    # A row's own entry goes to the end, where the extra neighbour is cut off; a stable sort keeps the rest.
    is_self = found == rows[:, np.newaxis]
    order = np.argsort(is_self, axis=1, kind="stable")
    cosines = np.take_along_axis(np.where(is_self, np.float32(-1), cosines), order, axis=1)
    return cosines[:, :k]
