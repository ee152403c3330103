"""Adapters in memory that a GPU reads by itself: the way into the bank is then several times shorter.

Page-locked memory is allocated in few large pieces, of a power of two, because every piece is a
call into the driver and torch rounds them up to one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from lmoe_ray.engine.adapter_weights import AdapterWeights

PIECE_BYTES = 64 << 20
#: Matrices begin at multiples of this.
ALIGNMENT = 256


def page_locked(num_bytes: int) -> torch.Tensor:
    """Bytes that the CUDA driver keeps where they are."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)


def pinned(weights: AdapterWeights, allocate: Callable[[int], torch.Tensor] = page_locked) -> AdapterWeights:
    """A copy of an adapter in pieces that ``allocate`` gives by their number of bytes."""
    room = _Room(allocate)
    matrices = {place: (room.copy(a), room.copy(b)) for place, (a, b) in weights.matrices.items()}
    return replace(weights, matrices=matrices)


class _Room:
    def __init__(self, allocate: Callable[[int], torch.Tensor]) -> None:
        self._allocate = allocate
        self._piece, self._at = torch.empty(0, dtype=torch.uint8), 0

    def copy(self, matrix: torch.Tensor) -> torch.Tensor:
        if self._at + matrix.nbytes > len(self._piece):
            num_bytes = max(PIECE_BYTES, 1 << (matrix.nbytes - 1).bit_length())
            self._piece, self._at = self._allocate(num_bytes), 0
        place = self._piece[self._at : self._at + matrix.nbytes].view(matrix.dtype).view(matrix.shape)
        self._at += -(-matrix.nbytes // ALIGNMENT) * ALIGNMENT
        return place.copy_(matrix)
