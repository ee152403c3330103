"""Which adapter computes which tokens, as a table the device reads.

A tile is a run of neighbouring tokens of one adapter, no longer than a kernel's block. Kernels are
launched over tiles, so an adapter is read once for all its tokens in a tile, and one that no token uses is not
read at all. The table may have more rows than tiles: what is launched then does not depend on who
is in the batch, which a CUDA graph requires, and programs of empty rows end at once.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lmoe_ray.engine.batch import Segment

#: Tokens per tile: the least a tensor core multiplies, for decoding sequences; a wider block for prompts.
DECODE_TILE, PREFILL_TILE = 16, 64


@dataclass(frozen=True, slots=True)
class LoraTiles:
    """
    Attributes:
        table: ``(first token, number of tokens, adapter slot)`` of each, ``[num_rows, 3]``, int32; slot 0: no tile.
        tile_tokens: how many tokens a tile has at most.
    """

    table: torch.Tensor
    tile_tokens: int


def cut_tiles(segments: Rows[Segment], tile_tokens: int, *, num_rows: int | None = None) -> NDArray[np.int32]:
    """Segments in pieces of at most ``tile_tokens``.

    Args:
        num_rows: of the table, the tiles first; ``None``: as many as there are tiles.

    Returns:
        ``[num_rows, 3]``, see :class:`LoraTiles`.
    """
    tiles = [
        (first, min(tile_tokens, segment.first + segment.num_tokens - first), segment.adapter_slot)
        for segment in segments
        for first in range(segment.first, segment.first + segment.num_tokens, tile_tokens)
    ]
    num_rows = len(tiles) if num_rows is None else num_rows
    assert len(tiles) <= num_rows, f"{len(tiles)} tiles, {num_rows} rows. This is a bug."
    table = np.zeros((num_rows, 3), dtype=np.int32)
    table[: len(tiles)] = np.array(tiles, dtype=np.int32).reshape(-1, 3)
    return table


def most_decode_tiles(num_tokens: int, num_slots: int) -> int:
    """How many tiles ``num_tokens`` decoding sequences need at most; they come ordered by adapter."""
    return min(num_tokens, num_slots + num_tokens // DECODE_TILE)
