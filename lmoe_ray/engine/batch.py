"""A step as tensors: one flat list of tokens, decoding sequences first, then prompt chunks.

All linears of the forward pass see just this list; only attention needs to know which tokens belong
together, and only LoRA which adapter a token uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lmoe_ray.engine.sequence import Sequence
from lmoe_ray.engine.step import Step


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one sequence: ``ids`` at positions ``start …``, cached in ``blocks``."""

    ids: Rows[int]
    start: int
    blocks: Rows[int]
    adapter_slot: int

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


@dataclass(frozen=True, slots=True)
class Segment:
    """Run of tokens that use one adapter."""

    first: int
    num_tokens: int
    adapter_slot: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Input of one forward pass. ``ids``, ``positions``, ``cache_slots``, ``table_rows``: ``[num_tokens]``, int64.

    Attributes:
        cache_slots: where each token's key and value go.
        tables: blocks of each piece, ``[num_pieces, widest]``, int32.
        table_rows: piece of each token.
        starts: first token of each piece, and the number of tokens: ``[num_pieces + 1]``, int32.
        lengths: cached tokens of each piece, these included, ``[num_pieces]``, int32.
        num_decode: leading pieces of one token each.
        pieces: ``(first token, number of tokens, start position)`` of each, for the host.
        sampled: ``[num_sampled]``, the tokens whose logits are wanted.
        adapter_slots: ``[num_tokens]``, int64.
        segments: runs of tokens with an adapter; those of the base model are left out.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    cache_slots: torch.Tensor
    tables: torch.Tensor
    table_rows: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    num_decode: int
    pieces: tuple[tuple[int, int, int], ...]
    sampled: torch.Tensor
    adapter_slots: torch.Tensor
    segments: tuple[Segment, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


class BatchBuilder:
    """Builds batches for one device and block size."""

    def __init__(self, device: torch.device, block_size: int) -> None:
        self._device, self._block_size = device, block_size

    def build(self, step: Step, in_flight: Mapping[Sequence, int], drawn_ids: torch.Tensor | None) -> Batch:
        """Turn a step into a batch.

        Args:
            step: just scheduled.
            in_flight: row in ``drawn_ids`` of sequences whose last token only the device knows.
            drawn_ids: tokens of the step before, ``[num_rows]``.
        """
        pieces = [_decode_piece(sequence) for sequence in step.decode]
        pieces += [
            Piece(
                chunk.sequence.token_ids(chunk.start, chunk.start + chunk.num_tokens),
                chunk.start,
                chunk.sequence.block_table,
                chunk.sequence.adapter_slot,
            )
            for chunk in step.prefill
        ]
        ends = np.cumsum([len(piece.ids) for piece in pieces])
        is_last = [True] * len(step.decode) + [chunk.is_last for chunk in step.prefill]
        batch = self.assemble(pieces, ends[is_last] - 1, num_decode=len(step.decode))
        if in_flight and drawn_ids is not None:
            rows = [(row, in_flight[s]) for row, s in enumerate(step.decode) if s.num_in_flight]
            if rows:
                to, source = torch.tensor(rows, device=self._device).T
                batch.ids[to] = drawn_ids[source]
        return batch

    def assemble(self, pieces: Rows[Piece], sampled: Rows[int] | NDArray[np.int64], *, num_decode: int) -> Batch:
        counts = np.array([len(piece.ids) for piece in pieces])
        ends = np.cumsum(counts)
        firsts = ends - counts
        table_rows = np.repeat(np.arange(len(pieces)), counts)
        positions = np.arange(ends[-1]) - (firsts - np.array([piece.start for piece in pieces]))[table_rows]
        tables = _tables([piece.blocks for piece in pieces], [piece.end for piece in pieces], self._block_size)
        slots = np.array([piece.adapter_slot for piece in pieces])
        cache_slots = tables[table_rows, positions // self._block_size] * np.int64(self._block_size)
        return Batch(
            ids=self._tensor([token_id for piece in pieces for token_id in piece.ids]),
            positions=self._tensor(positions),
            cache_slots=self._tensor(cache_slots + positions % self._block_size),
            tables=self._tensor(tables, np.int32),
            table_rows=self._tensor(table_rows),
            starts=self._tensor(np.append(firsts, ends[-1]), np.int32),
            lengths=self._tensor([piece.end for piece in pieces], np.int32),
            num_decode=num_decode,
            pieces=tuple(
                (int(first), int(count), piece.start)
                for first, count, piece in zip(firsts, counts, pieces, strict=True)
            ),
            sampled=self._tensor(sampled),
            adapter_slots=self._tensor(slots[table_rows]),
            segments=_segments(slots, firsts, counts),
        )

    def _tensor(self, values: Rows[int] | NDArray[np.integer], dtype: type[np.integer] = np.int64) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=dtype))
        # Not pinned: these are a few hundred bytes, and pinning each would cost more than the copy.
        return tensor if self._device.type == "cpu" else tensor.to(self._device, non_blocking=True)


def _decode_piece(sequence: Sequence) -> Piece:
    last_id = 0 if sequence.num_in_flight else sequence.last_id
    return Piece((last_id,), sequence.num_cached - 1, sequence.block_table, sequence.adapter_slot)


def _tables(blocks: Rows[Rows[int]], ends: Rows[int], block_size: int) -> NDArray[np.int32]:
    """As wide as the longest needs; a sequence may own blocks beyond what this step reads."""
    widths = [-(-end // block_size) for end in ends]
    tables = np.zeros((len(blocks), max(widths)), dtype=np.int32)
    for row, width in enumerate(widths):
        tables[row, :width] = blocks[row][:width]
    return tables


def _segments(slots: NDArray[np.int64], firsts: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[Segment, ...]:
    """Neighbouring pieces of one adapter are one segment."""
    segments: list[Segment] = []
    for slot, first, count in zip(slots.tolist(), firsts.tolist(), counts.tolist(), strict=True):
        last = segments[-1] if segments else None
        if last is not None and last.adapter_slot == slot and last.first + last.num_tokens == first:
            segments[-1] = Segment(last.first, last.num_tokens + count, slot)
        elif slot:
            segments.append(Segment(first, count, slot))
    return tuple(segments)
