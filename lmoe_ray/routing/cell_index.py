"""Samples in cells, for more of them than can be looked through one by one.

A cell holds the samples around one centre, and a query looks only into the cells whose centres are nearest to it
(an inverted file: Jégou, Douze and Schmid 2011, "Product quantization for nearest neighbor search"). Here no cell
mixes experts. The scorers need the nearest samples of *every* expert, also of those that lie far from the query,
and shared cells would all be spent on the experts close by. The centres are an index of the same kind, one list per
expert, so one search finds the cells and another the samples::

    query × experts ──lists of centres──> cells of each expert ──lists of samples──> samples of each expert

Components are kept in 8 bits and multiplied as integers: a quarter of the memory of floats, a third of their time,
cosines within 0.01, and sums that depend neither on their order nor on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.flat_index import Found, Rows, Vectors, nothing, one_faiss_thread

#: An expert of up to so many samples has a single cell, which makes its search exhaustive.
MAX_ONE_CELL = 1000
#: Samples looked at per expert and neighbour wanted: recall at 20 is .94 on a million clumped samples.
_LOOKED_AT_PER_NEIGHBOUR = 32
_MIN_NEIGHBOURS = 20

# Smaller cells fit a query better, but cost more centres to compare with: four times the root has about as many of
# the one as of the other to look at.
_CELLS_PER_ROOT = 4.0
_TRAINED_PER_CELL = 16
_ITERATIONS = 4
_SEED = 1234

_LARGEST_CODE = 127
# Bounds the memory of a large batch; pairs of a query and an expert.
_PAIRS_AT_ONCE = 8192
_ROWS_AT_ONCE = 65536


class CellIndex:
    """Searches the nearest cells of every expert.

    Args:
        faiss_index: from :func:`make_cells`.
        num_samples: of each expert.
    """

    def __init__(self, faiss_index: faiss.IndexIVFScalarQuantizer, num_samples: Sequence[int]) -> None:
        self._samples = faiss_index
        self._centres: faiss.IndexIVFScalarQuantizer = faiss.downcast_index(faiss_index.quantizer)  # type: ignore[assignment]
        self._num_samples = np.asarray(num_samples, dtype=np.int64)
        sizes = [self._centres.get_list_size(expert) for expert in range(len(num_samples))]
        self._num_cells = np.asarray(sizes, dtype=np.int64)

    def nearest(self, vectors: Vectors, k: int, experts: Sequence[int]) -> list[Found]:
        """About the nearest ``min(k, its samples)`` of each of ``experts``, for ``vectors [num_queries, dim]``.

        The number is exact: where the cells looked into hold fewer, more are looked into.
        """
        if not experts or k == 0 or not len(vectors):
            return [nothing(len(vectors)) for _ in experts]
        at_once = max(1, _PAIRS_AT_ONCE // len(experts))
        parts = [self._nearest(vectors[i : i + at_once], k, experts) for i in range(0, len(vectors), at_once)]
        cosines, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        widths = [min(k, int(self._num_samples[expert])) for expert in experts]
        return [(cosines[:, i, :width], rows[:, i, :width]) for i, width in enumerate(widths)]

    def vectors_of(self, rows: Rows) -> Vectors:
        """``[num_rows, dim]``, as rounded; a copy."""
        return np.asarray(self._samples.reconstruct_batch(rows) / _scale(self._samples))

    def all_vectors(self) -> Vectors:
        """``[num_samples, dim]``, as rounded; a copy."""
        codes = self._samples.reconstruct_n(0, self._samples.ntotal)
        codes /= _scale(self._samples)
        return np.asarray(codes)

    def _nearest(self, vectors: Vectors, k: int, experts: Sequence[int]) -> Found:
        """``[num_queries, num_experts, k]`` each; the row of what an expert does not have is -1."""
        owners = np.tile(np.asarray(experts, dtype=np.int64), len(vectors))
        queries = np.repeat(vectors, len(experts), axis=0)
        wanted = np.minimum(k, self._num_samples[owners])
        depths = self._first_depths(k)[owners]
        with one_faiss_thread():
            cosines, rows = self._look(queries, owners, depths, k)
            while (is_short := ((rows >= 0).sum(axis=1) < wanted) & (depths < self._num_cells[owners])).any():
                depths[is_short] *= 2
                cosines[is_short], rows[is_short] = self._look(queries[is_short], owners[is_short], depths[is_short], k)
        shape = (len(vectors), len(experts), k)
        return cosines.reshape(shape), rows.reshape(shape)

    def _first_depths(self, k: int) -> Rows:
        """How many cells of each expert are looked into at first."""
        num_looked_at = _LOOKED_AT_PER_NEIGHBOUR * max(k, _MIN_NEIGHBOURS)
        per_cell = self._num_samples / np.maximum(self._num_cells, 1)
        return np.ceil(num_looked_at / np.maximum(per_cell, 1.0)).astype(np.int64)

    def _look(self, queries: Vectors, owners: Rows, depths: Rows, k: int) -> Found:
        """``[num_pairs, k]`` each, from the ``depths [num_pairs]`` nearest cells of the ``owners [num_pairs]``."""
        depths = np.minimum(depths, self._num_cells[owners])
        deepest = max(1, int(depths.max()))
        codes, scales = _as_codes(queries)
        _, cells = _search_lists(self._centres, codes, deepest, owners[:, np.newaxis])
        cells[np.arange(deepest) >= depths[:, np.newaxis]] = -1
        products, rows = _search_lists(self._samples, codes, k, cells)
        return np.clip(products / (scales * np.float32(_scale(self._samples))), -1.0, 1.0), rows


def make_cells(vectors: Vectors, num_samples: Sequence[int]) -> faiss.IndexIVFScalarQuantizer:
    """A million vectors take half a minute on one thread; the same vectors give the same index.

    Args:
        vectors: unit vectors ``[num_samples, dim]``, expert after expert.
        num_samples: of each expert.
    """
    with one_faiss_thread():
        parts = [_cells_of(part) for part in np.split(vectors, np.cumsum(num_samples)[:-1])]
        owners = np.repeat(np.arange(len(parts)), [len(centres) for centres, _ in parts])
        first_cells = np.cumsum([0, *(len(centres) for centres, _ in parts)])
        cells = [first + cell for first, (_, cell) in zip(first_cells, parts, strict=False)]
        # Nothing asks which expert is nearest: the lists of centres are always named, so their own centres are void.
        experts = faiss.IndexFlatIP(vectors.shape[1])
        experts.add(np.zeros((len(parts), vectors.shape[1]), np.float32))
        centres = _make_lists(experts, np.concatenate([centres for centres, _ in parts]), owners)
        index = _make_lists(centres, vectors, np.concatenate(cells))
        index.make_direct_map()
    return index


def _cells_of(vectors: Vectors) -> tuple[Vectors, Rows]:
    """Centres ``[num_cells, dim]`` of one expert's samples, and the cell of each sample."""
    num_samples, dim = vectors.shape
    if num_samples == 0:
        return np.empty((0, dim), np.float32), np.empty(0, np.int64)
    if num_samples <= MAX_ONE_CELL:
        return vectors.mean(axis=0, keepdims=True), np.zeros(num_samples, np.int64)
    kmeans = faiss.Kmeans(
        dim,
        int(_CELLS_PER_ROOT * num_samples**0.5),
        niter=_ITERATIONS,
        seed=_SEED,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_TRAINED_PER_CELL,
    )
    kmeans.train(np.ascontiguousarray(vectors, dtype=np.float32))
    return np.asarray(kmeans.centroids), kmeans.index.search(vectors, 1)[1][:, 0]


def _make_lists(quantizer: faiss.Index, vectors: Vectors, lists: Rows) -> faiss.IndexIVFScalarQuantizer:
    """Each of ``vectors`` in the list of ``quantizer`` that ``lists [num_vectors]`` names."""
    dim, num_lists, kind = vectors.shape[1], quantizer.ntotal, faiss.ScalarQuantizer.QT_8bit_direct_signed
    index = faiss.IndexIVFScalarQuantizer(quantizer, dim, num_lists, kind, faiss.METRIC_INNER_PRODUCT, False)
    index.is_trained = True
    # These codes have no range of their own to train, so the field for its argument is free, and travels in the file.
    index.sq.rangestat_arg = float(_LARGEST_CODE / max(np.abs(vectors).max(), np.finfo(np.float32).tiny))
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        codes = np.rint(vectors[start : start + _ROWS_AT_ONCE] * np.float32(_scale(index)))
        keys = np.ascontiguousarray(lists[start : start + _ROWS_AT_ONCE], dtype=np.int64)
        index.add_core(len(codes), faiss.swig_ptr(codes), None, faiss.swig_ptr(keys))
    return index


def _scale(index: faiss.IndexIVFScalarQuantizer) -> float:
    """What vectors were multiplied by before they were rounded."""
    return float(index.sq.rangestat_arg)


def _as_codes(queries: Vectors) -> tuple[Vectors, NDArray[np.float32]]:
    """Whole numbers for each query, and what it was multiplied by, ``[num_queries, 1]``: faiss would cut decimals."""
    largest = np.abs(queries).max(axis=1, keepdims=True)
    scales = np.float32(_LARGEST_CODE) / np.where(largest > 0, largest, np.float32(1))
    return np.rint(queries * scales).astype(np.float32), scales.astype(np.float32)


def _search_lists(index: faiss.IndexIVFScalarQuantizer, codes: Vectors, k: int, lists: Rows) -> Found:
    """The best ``k`` products of each of ``codes`` with what is in its ``lists [num_queries, num_lists]``; -1: none."""
    num_queries = len(codes)
    products, found = np.empty((num_queries, k), np.float32), np.empty((num_queries, k), np.int64)
    codes, lists = np.ascontiguousarray(codes), np.ascontiguousarray(lists)
    unused = np.zeros(lists.shape, np.float32)
    # faiss's own wrapper takes no parameters, and reads the number of lists from the index, which others share.
    index.search_preassigned_c(  # type: ignore[attr-defined]
        num_queries,
        faiss.swig_ptr(codes),
        k,
        faiss.swig_ptr(lists),
        faiss.swig_ptr(unused),
        faiss.swig_ptr(products),
        faiss.swig_ptr(found),
        False,
        faiss.SearchParametersIVF(nprobe=lists.shape[1]),  # type: ignore[call-arg]
    )
    return products, found
