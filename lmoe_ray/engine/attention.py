"""Attention over the cache, in the two shapes a step has.

Decode: one query per sequence, all sequences at once, over a slice of the cache's first rows padded
to the longest; what lies beyond a sequence's own length gets a bias of minus infinity. Prefill: a
chunk of one sequence over its own row, causal. Neither repeats the key-value heads that a group of
query heads shares; in decode the heads of one group are the queries of one attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

#: Decode reads the cache in multiples of this many tokens, so that shapes repeat between steps.
LENGTH_STEP = 64

#: Biases by sliding window, one for each kind of layer of the model.
Biases = dict[int | None, torch.Tensor]


@dataclass(frozen=True, slots=True)
class DecodeSpan:
    """The slice of the cache that a step's decoding sequences read.

    Attributes:
        num_rows: rows ``0 … num_rows - 1`` are read.
        num_positions: cached tokens read per row, the longest one's rounded up.
        rows: row of each decoding sequence, if there are others among them; else ``None``.
        biases: ``[num_rows, 1, 1, num_positions]``, 0 or minus infinity.
    """

    num_rows: int
    num_positions: int
    rows: torch.Tensor | None
    biases: Biases


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """One chunk: tokens ``first … first + num_tokens - 1`` of the flat batch, positions ``start …`` of ``row``.

    ``masks`` are ``[num_tokens, start + num_tokens]``, true where a query sees a key.
    """

    row: int
    first: int
    num_tokens: int
    start: int
    masks: Biases

    @property
    def end(self) -> int:
        return self.start + self.num_tokens


def decode_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, span: DecodeSpan, window: int | None
) -> torch.Tensor:
    """``query [num_sequences, num_heads, head_dim]``, cache tensors of one layer; shape of ``query``."""
    if span.rows is not None:
        packed, query = query, query.new_zeros(span.num_rows, *query.shape[1:])
        query[span.rows] = packed
    keys = keys[: span.num_rows, :, : span.num_positions]
    values = values[: span.num_rows, :, : span.num_positions]
    num_heads, head_dim = query.shape[1:]
    grouped = query.view(span.num_rows, keys.shape[1], num_heads // keys.shape[1], head_dim)
    output = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=span.biases[window])
    output = output.reshape(span.num_rows, num_heads, head_dim)
    return output if span.rows is None else output[span.rows]


def prefill_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, span: PrefillSpan, window: int | None
) -> torch.Tensor:
    """``query [num_tokens, num_heads, head_dim]``, cache tensors of one layer; shape of ``query``."""
    output = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys[span.row, :, : span.end][None],
        values[span.row, :, : span.end][None],
        attn_mask=span.masks[window],
        enable_gqa=True,
    )
    return output[0].transpose(0, 1)


def decode_biases(
    lengths: torch.Tensor, num_positions: int, windows: frozenset[int | None], dtype: torch.dtype
) -> Biases:
    """Minus infinity at cached positions that a sequence of ``lengths[row]`` tokens does not see."""
    positions = torch.arange(num_positions, device=lengths.device)
    ends = lengths[:, None]
    biases = {}
    for window in windows:
        seen = positions < ends
        if window is not None:
            seen &= positions >= ends - window
        bias = torch.zeros(seen.shape, dtype=dtype, device=lengths.device).masked_fill_(~seen, float("-inf"))
        biases[window] = bias[:, None, None, :]
    return biases


def prefill_masks(start: int, num_tokens: int, windows: frozenset[int | None], device: torch.device) -> Biases:
    """Which of the keys ``0 … start + num_tokens - 1`` each query ``start …`` sees."""
    queries = torch.arange(start, start + num_tokens, device=device)[:, None]
    keys = torch.arange(start + num_tokens, device=device)[None]
    masks = {}
    for window in windows:
        seen = keys <= queries
        if window is not None:
            seen &= keys > queries - window
        masks[window] = seen
    return masks
