"""Decode-only batches at fixed places in memory and of few sizes, as a captured graph needs them.

A batch is copied to the first rows of the next larger bucket's tensors. The rows after it compute
one token at position 0 of the cache's scratch block, which belongs to nobody, and their logits are thrown away.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from lmoe_ray.engine.batch import Batch
from lmoe_ray.engine.kv_cache import KVCache
from lmoe_ray.engine.lora_tiles import DECODE_TILE, LoraTiles, cut_tiles, most_decode_tiles

#: Buckets are powers of two up to this many rows, then its multiples.
BUCKET_STEP = 8


@dataclass(frozen=True, slots=True)
class PaddedBatch(Batch):
    """``tiles``: as many rows as any batch of this bucket needs. ``segments`` are the real rows'."""

    tiles: LoraTiles


def bucket_of(num_rows: int) -> int:
    """The least bucket that holds so many decoding sequences, at least one."""
    if num_rows <= BUCKET_STEP:
        return 1 << (num_rows - 1).bit_length()
    return -(-num_rows // BUCKET_STEP) * BUCKET_STEP


class PaddedInputs:
    """The tensors of one bucket; they stay where they are."""

    def __init__(
        self, bucket: int, cache: KVCache, *, num_positions: int, num_slots: int, device: torch.device
    ) -> None:
        """
        Args:
            num_positions: of the longest sequence there can be.
            num_slots: adapter slots of the bank.
        """
        self._scratch_block, self._scratch_slot = cache.scratch_block, cache.scratch_block * cache.block_size
        table_size = (bucket, -(-num_positions // cache.block_size))
        rows = torch.arange(bucket + 1, device=device)
        zeros = torch.zeros(bucket, dtype=torch.int64, device=device)
        tiles = torch.zeros(most_decode_tiles(bucket, num_slots), 3, dtype=torch.int32, device=device)
        self._batch = PaddedBatch(
            ids=zeros.clone(),
            positions=zeros.clone(),
            cache_slots=zeros + self._scratch_slot,
            tables=torch.full(table_size, self._scratch_block, dtype=torch.int32, device=device),
            table_rows=rows[:-1],
            starts=rows.int(),
            lengths=zeros.int() + 1,
            num_decode=bucket,
            # Not the real lengths: what is launched must do for any, so each may be the longest.
            pieces=tuple((row, 1, num_positions - 1) for row in range(bucket)),
            sampled=rows[:-1],
            adapter_slots=zeros.clone(),
            segments=(),
            tiles=LoraTiles(tiles, DECODE_TILE),
        )

    def fill(self, batch: Batch) -> PaddedBatch:
        """Copy a decode-only batch of at most this bucket's rows; what is returned lives in the same tensors."""
        padded = self._batch
        _copy_rows(padded.ids, batch.ids, 0)
        _copy_rows(padded.positions, batch.positions, 0)
        _copy_rows(padded.cache_slots, batch.cache_slots, self._scratch_slot)
        _copy_rows(padded.tables[:, : batch.tables.shape[1]], batch.tables, self._scratch_block)
        _copy_rows(padded.lengths, batch.lengths, 1)
        _copy_rows(padded.adapter_slots, batch.adapter_slots, 0)
        table = padded.tiles.table
        table.copy_(torch.from_numpy(cut_tiles(batch.segments, DECODE_TILE, num_rows=len(table))), non_blocking=True)
        return dataclasses.replace(padded, segments=batch.segments)


def _copy_rows(target: torch.Tensor, source: torch.Tensor, padding: int) -> None:
    target[: len(source)].copy_(source, non_blocking=True)
    target[len(source) :] = padding
