"""Samples one by one: exact, and the fastest there is up to some ten thousand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
#: Cosines and rows of the nearest samples, best first, ``[num_queries, num_found]`` each.
Found = tuple[Vectors, Rows]


class FlatIndex:
    """Searches the rows of one expert after the other.

    Args:
        faiss_index: a flat inner-product index.
        ranges: first row of each expert, and the one after its last.
    """

    def __init__(self, faiss_index: faiss.Index, ranges: Sequence[tuple[int, int]]) -> None:
        self._faiss_index = faiss_index
        self._sizes = [end - start for start, end in ranges]
        # Kept, because making one takes a third of the time of searching a thousand rows.
        selectors = [faiss.IDSelectorRange(start, end) for start, end in ranges]
        self._within = [faiss.SearchParameters(sel=selector) for selector in selectors]  # type: ignore[call-arg]

    def nearest(self, vectors: Vectors, k: int, experts: Sequence[int]) -> list[Found]:
        """The nearest ``min(k, its samples)`` of each of ``experts``, for ``vectors [num_queries, dim]``."""
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
        with one_faiss_thread():
            return [self._search(queries, k, expert) for expert in experts]

    def vectors_of(self, rows: Rows) -> Vectors:
        """``[num_rows, dim]``; a copy."""
        return np.asarray(self._faiss_index.reconstruct_batch(rows))

    def all_vectors(self) -> Vectors:
        """``[num_samples, dim]``; a copy."""
        return np.asarray(self._faiss_index.reconstruct_n(0, self._faiss_index.ntotal))

    def _search(self, queries: Vectors, k: int, expert: int) -> Found:
        num_found = min(k, self._sizes[expert])
        if num_found == 0:
            return nothing(len(queries))
        cosines, rows = self._faiss_index.search(queries, num_found, params=self._within[expert])
        return cosines, rows


def make_flat(vectors: Vectors) -> faiss.Index:
    """Of unit vectors ``[num_samples, dim]``."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return index


def nothing(num_queries: int) -> Found:
    """Where there is nothing to find, ``[num_queries, 0]`` each."""
    return np.empty((num_queries, 0), np.float32), np.empty((num_queries, 0), np.int64)


@contextmanager
def one_faiss_thread() -> Iterator[None]:
    """One query gains nothing from a team of threads, and a team that waits disturbs its neighbours.

    torch may read the same number, if it shares the OpenMP runtime: so it is put back.
    """
    num_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(num_threads)
