"""A step as tensors: one flat list of tokens, decoding sequences first, then prompt chunks.

All linears of the forward pass see just this list; only attention needs to know which tokens belong
together, and only LoRA which adapter a token uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lmoe_ray.engine.attention import (
    LENGTH_STEP,
    DecodeSpan,
    PrefillSpan,
    decode_biases,
    prefill_masks,
)
from lmoe_ray.engine.base_model import BaseModel
from lmoe_ray.engine.lora import AdapterBank, AdapterMix
from lmoe_ray.engine.scheduler import Step


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one sequence in a batch: ``ids`` at positions ``start …`` of cache row ``row``."""

    ids: Sequence[int]
    start: int
    row: int
    adapter_slot: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Input of one forward pass. ``ids``, ``positions`` and ``rows`` are ``[num_tokens]``.

    Attributes:
        rows: cache row of each token.
        num_decode: leading tokens that are one per decoding sequence.
        sampled: ``[num_sampled]``, the tokens whose logits are wanted.
        mix: adapters in use; ``None``: the base model alone.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    num_decode: int
    decode: DecodeSpan | None
    prefill: tuple[PrefillSpan, ...]
    sampled: torch.Tensor
    mix: AdapterMix | None


class BatchBuilder:
    """Builds batches for one model and cache length."""

    def __init__(self, model: BaseModel, max_model_len: int) -> None:
        self._device, self._dtype = model.device, model.dtype
        self._windows = frozenset(model.shape.windows)
        self._max_model_len = max_model_len

    def build(self, step: Step, bank: AdapterBank) -> Batch:
        decode = [Piece((s.last_id,), s.num_cached, s.cache_row, s.adapter_slot) for s in step.decode]
        prefill = [
            Piece(
                c.sequence.prompt_ids[c.start : c.start + c.num_tokens],
                c.start,
                c.sequence.cache_row,
                c.sequence.adapter_slot,
            )
            for c in step.prefill
        ]
        sampled = list(range(len(decode)))
        end = len(decode)
        for chunk in step.prefill:
            end += chunk.num_tokens
            if chunk.completes_prompt:
                sampled.append(end - 1)
        return self.assemble(decode, prefill, sampled, bank)

    def assemble(
        self, decode: Sequence[Piece], prefill: Sequence[Piece], sampled: Sequence[int], bank: AdapterBank
    ) -> Batch:
        """``decode`` pieces have one token each and ascend by row."""
        pieces = (*decode, *prefill)
        spans, first = [], len(decode)
        for piece in prefill:
            spans.append(self._prefill_span(piece, first))
            first += len(piece.ids)
        return Batch(
            ids=self._tensor([token_id for p in pieces for token_id in p.ids]),
            positions=self._tensor([p.start + offset for p in pieces for offset in range(len(p.ids))]),
            rows=self._tensor([p.row for p in pieces for _ in p.ids]),
            num_decode=len(decode),
            decode=self._decode_span(decode) if decode else None,
            prefill=tuple(spans),
            sampled=self._tensor(sampled),
            mix=bank.mix([p.adapter_slot for p in pieces for _ in p.ids]),
        )

    def _prefill_span(self, piece: Piece, first: int) -> PrefillSpan:
        masks = prefill_masks(piece.start, len(piece.ids), self._windows, self._device)
        return PrefillSpan(piece.row, first, len(piece.ids), piece.start, masks)

    def _decode_span(self, pieces: Sequence[Piece]) -> DecodeSpan:
        rows = [piece.row for piece in pieces]
        num_rows = rows[-1] + 1
        lengths = [1] * num_rows  # a row of a sequence still in prefill is computed and thrown away
        for piece in pieces:
            lengths[piece.row] = piece.start + 1
        longest = -(-max(lengths) // LENGTH_STEP) * LENGTH_STEP
        num_positions = min(longest, self._max_model_len)
        biases = decode_biases(self._tensor(lengths), num_positions, self._windows, self._dtype)
        return DecodeSpan(num_rows, num_positions, None if len(rows) == num_rows else self._tensor(rows), biases)

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)
