"""Adapters copied into few large pieces of memory."""

from __future__ import annotations

import pytest
import torch

from lmoe_ray.engine import pinned_memory
from lmoe_ray.engine.adapter_weights import AdapterWeights

pytestmark = pytest.mark.torch


def adapter(sizes: list[tuple[int, int]]) -> AdapterWeights:
    matrices = {
        (layer, "q_proj"): (torch.randn(rank, width).bfloat16(), torch.randn(rank, width).bfloat16())
        for layer, (rank, width) in enumerate(sizes)
    }
    return AdapterWeights("a", "a", 8, matrices)


def test_a_copy_holds_the_same_matrices_in_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned_memory, "PIECE_BYTES", 1024)
    pieces: list[torch.Tensor] = []

    def allocate(num_bytes: int) -> torch.Tensor:
        pieces.append(torch.empty(num_bytes, dtype=torch.uint8))
        return pieces[-1]

    weights = adapter([(2, 30), (3, 17), (8, 100), (1, 5)])
    copy = pinned_memory.pinned(weights, allocate)
    for place, (a, b) in weights.matrices.items():
        assert torch.equal(copy.matrices[place][0], a)
        assert torch.equal(copy.matrices[place][1], b)
    starts = [(piece.data_ptr(), piece.data_ptr() + len(piece)) for piece in pieces]
    copies = [matrix for pair in copy.matrices.values() for matrix in pair]
    assert all(any(begin <= matrix.data_ptr() < end for begin, end in starts) for matrix in copies)
    # The widest, of 1600 bytes, get pieces of their own, of the next power of two.
    assert [len(piece) for piece in pieces] == [1024, 2048, 2048, 1024]
