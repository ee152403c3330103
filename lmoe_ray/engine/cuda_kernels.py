"""What lies between a layer's linears, in one launch each instead of two to eight.

At one token per sequence a decoder layer computes for a hundred microseconds, so that small launches would weigh as
much as the weights. Arithmetic is float32 whatever the tensors are; results are rounded once. Only imported
where there is CUDA: Triton exists nowhere else. Tested on CPU tensors in Triton's interpreter.
"""

# Triton compiles these functions by its own rules and has no types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Columns per program of the gate.
GATE_BLOCK = 1024


@triton.jit
def _add_norm(x, delta, weight, output, num_features, eps, HAS_DELTA: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < num_features
    at = row * num_features + columns
    values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if HAS_DELTA:
        values += tl.load(delta + at, mask=mask, other=0.0).to(tl.float32)
        # What is normalised is what is stored: the sum as the model's dtype holds it.
        total = values.to(x.dtype.element_ty)
        tl.store(x + at, total, mask=mask)
        values = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / num_features + eps)
    normed = values * scale * tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(output + at, normed.to(output.dtype.element_ty), mask=mask)


@triton.jit
def _rotate_and_store(
    qkv, cos, sin, positions, cache_slots, q_norm, k_norm, keys, values, eps,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    HEADS_BLOCK: tl.constexpr, HALF_BLOCK: tl.constexpr, HAS_NORMS: tl.constexpr,
):  # fmt: skip
    """A program has one token's queries (part 0), keys (1) or values (2), every head split in its two halves."""
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    HALF: tl.constexpr = HEAD_DIM // 2
    heads, columns = tl.arange(0, HEADS_BLOCK)[:, None], tl.arange(0, HALF_BLOCK)[None, :]
    num_heads = tl.where(part == 0, NUM_HEADS, NUM_KV_HEADS)
    first_head = tl.where(part == 0, 0, tl.where(part == 1, NUM_HEADS, NUM_HEADS + NUM_KV_HEADS))
    mask = (heads < num_heads) & (columns < HALF)
    source = qkv + (token * (NUM_HEADS + 2 * NUM_KV_HEADS) + first_head + heads) * HEAD_DIM + columns
    first = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=mask, other=0.0).to(tl.float32)
    if part < 2:
        if HAS_NORMS:
            scale = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / HEAD_DIM + eps)[:, None]
            norm = q_norm if part == 0 else k_norm
            first *= scale * tl.load(norm + columns, mask=columns < HALF, other=0.0).to(tl.float32)
            second *= scale * tl.load(norm + HALF + columns, mask=columns < HALF, other=0.0).to(tl.float32)
        # Both halves of the tables are alike.
        angle = tl.load(positions + token) * HEAD_DIM + columns
        cosine = tl.load(cos + angle, mask=columns < HALF, other=0.0).to(tl.float32)
        sine = tl.load(sin + angle, mask=columns < HALF, other=0.0).to(tl.float32)
        rotated = first * cosine - second * sine
        second = second * cosine + first * sine
        first = rotated
    if part == 0:
        tl.store(source, first.to(qkv.dtype.element_ty), mask=mask)
        tl.store(source + HALF, second.to(qkv.dtype.element_ty), mask=mask)
    else:
        cache = keys if part == 1 else values
        target = cache + (tl.load(cache_slots + token) * NUM_KV_HEADS + heads) * HEAD_DIM + columns
        tl.store(target, first.to(keys.dtype.element_ty), mask=mask)
        tl.store(target + HALF, second.to(keys.dtype.element_ty), mask=mask)


@triton.jit
def _silu_gate(gate_up, output, num_features, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < num_features
    gate = tl.load(gate_up + row * 2 * num_features + columns, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * num_features + columns, mask=mask, other=0.0).to(tl.float32)
    gated = gate * tl.sigmoid(gate) * up
    tl.store(output + row * num_features + columns, gated.to(output.dtype.element_ty), mask=mask)


def add_norm(x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Add ``delta`` to ``x [num_tokens, num_features]`` in place; the sum, normalised by its root mean square."""
    output = torch.empty_like(x)
    block = triton.next_power_of_2(x.shape[1])
    _add_norm[(len(x),)](
        x, x if delta is None else delta, weight, output, x.shape[1], eps,
        HAS_DELTA=delta is not None, BLOCK=block, num_warps=min(16, max(1, block // 512)),
    )  # fmt: skip
    return output


def rotate_and_store(
    qkv: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    positions: torch.Tensor,
    cache_slots: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor] | None,
    cache: tuple[torch.Tensor, torch.Tensor],
    eps: float,
) -> None:
    """Rotate the queries in place; rotated keys and the values go to the cache.

    Args:
        qkv: ``[num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]``, contiguous.
        rotary: cosines and sines by position, ``[num_positions, head_dim]``.
        norms: weights of the norms of each query and key head, ``[head_dim]``.
        cache: keys and values of the layer, ``[num_blocks, block_size, num_kv_heads, head_dim]``.
    """
    num_kv_heads, head_dim = cache[0].shape[2:]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    _rotate_and_store[(len(qkv), 3)](
        qkv, *rotary, positions, cache_slots, *(norms or rotary), *cache, eps,
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, HEAD_DIM=head_dim,
        HEADS_BLOCK=triton.next_power_of_2(num_heads), HALF_BLOCK=triton.next_power_of_2(head_dim // 2),
        HAS_NORMS=norms is not None,
    )  # fmt: skip


def silu_gate(gate_up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) * up`` of ``[num_tokens, 2 * num_features]``, contiguous."""
    num_features = gate_up.shape[1] // 2
    output = gate_up.new_empty(len(gate_up), num_features)
    _silu_gate[(len(gate_up), triton.cdiv(num_features, GATE_BLOCK))](gate_up, output, num_features, BLOCK=GATE_BLOCK)
    return output
