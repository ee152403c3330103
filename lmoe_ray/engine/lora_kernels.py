"""Every token's own low-rank update for a whole group of linears, in two launches, reading only adapters in use.

Shrink: ``hidden = x @ A.T`` for all linears of the group at once, since their A matrices lie together. Expand:
``output += hidden @ B``, where a program has some columns of one linear. Both are bound by reading
the adapters, so at few tokens the shrink is split along its inputs until enough programs read at once; the
parts are added in the expand, in a fixed order. Only imported where there is CUDA.

Source: the segmented gather matrix-vector products of Punica (Chen et al. 2023, arXiv:2310.18547).
"""

# Triton compiles these functions by its own rules and has no types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
import triton
import triton.language as tl

from lmoe_ray.engine.lora_tiles import DECODE_TILE, LoraTiles

#: Programs that keep a large GPU's memory busy, and the fewest inputs worth one of them.
WANTED_PROGRAMS, LEAST_INPUTS = 256, 512
MOST_SPLITS = 16
#: Columns of one program: inputs of a shrink's turn, outputs and ranks of an expand's.
IN_BLOCK, OUT_BLOCK, RANK_BLOCK = 128, 64, 64


@triton.jit
def _shrink(
    x, a, hidden, tiles, num_tokens, in_features, num_rows, split_size,
    TILE: tl.constexpr, ROWS_BLOCK: tl.constexpr, IN_BLOCK: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(2)
    first, count, slot = tl.load(tiles + tile * 3), tl.load(tiles + tile * 3 + 1), tl.load(tiles + tile * 3 + 2)
    if slot == 0:
        return
    tokens, rows = tl.arange(0, TILE), tl.program_id(1) * ROWS_BLOCK + tl.arange(0, ROWS_BLOCK)
    has_token, has_row = tokens < count, rows < num_rows
    x += (first + tokens).to(tl.int64)[:, None] * in_features
    a += (slot - 1).to(tl.int64) * num_rows * in_features + rows[None, :] * in_features
    total = tl.zeros((TILE, ROWS_BLOCK), dtype=tl.float32)
    for begin in range(split * split_size, tl.minimum((split + 1) * split_size, in_features), IN_BLOCK):
        inputs = begin + tl.arange(0, IN_BLOCK)
        has_input = inputs < in_features
        left = tl.load(x + inputs[None, :], mask=has_token[:, None] & has_input[None, :], other=0.0)
        right = tl.load(a + inputs[:, None], mask=has_row[None, :] & has_input[:, None], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    target = hidden + (split * num_tokens + first + tokens).to(tl.int64)[:, None] * num_rows + rows[None, :]
    tl.store(target, total, mask=has_token[:, None] & has_row[None, :])


@triton.jit
def _expand_linear(
    hidden, b, output, tokens, has_token, slot, block, num_tokens, num_rows, rank, first_row, out_features,
    NUM_SPLITS: tl.constexpr, TILE: tl.constexpr, OUT_BLOCK: tl.constexpr, RANK_BLOCK: tl.constexpr,
):  # fmt: skip
    """``hidden`` and ``output`` begin at the tile's tokens, ``output`` at the linear's first column too."""
    columns = block * OUT_BLOCK + tl.arange(0, OUT_BLOCK)
    has_column = columns < out_features
    b += (slot - 1).to(tl.int64) * rank * out_features
    total = tl.zeros((TILE, OUT_BLOCK), dtype=tl.float32)
    for begin in range(0, rank, RANK_BLOCK):
        ranks = begin + tl.arange(0, RANK_BLOCK)
        mask = has_token[:, None] & (ranks < rank)[None, :]
        left = tl.zeros((TILE, RANK_BLOCK), dtype=tl.float32)
        for split in range(NUM_SPLITS):
            rows = (split * num_tokens + tokens).to(tl.int64) * num_rows + first_row
            left += tl.load(hidden + rows[:, None] + ranks[None, :], mask=mask, other=0.0)
        places = ranks[:, None] * out_features + columns[None, :]
        right = tl.load(b + places, mask=(ranks < rank)[:, None] & has_column[None, :], other=0.0)
        total = tl.dot(left.to(right.dtype), right, total, input_precision="ieee")
    mask = has_token[:, None] & has_column[None, :]
    target = output + columns[None, :]
    base = tl.load(target, mask=mask)
    tl.store(target, (base.to(tl.float32) + total).to(base.dtype), mask=mask)


@triton.jit
def _expand(
    hidden, b0, b1, b2, output, tiles, num_tokens, num_rows, rank, out0, out1, out2,
    NUM_LINEARS: tl.constexpr, NUM_SPLITS: tl.constexpr, TILE: tl.constexpr,
    OUT_BLOCK: tl.constexpr, RANK_BLOCK: tl.constexpr,
):  # fmt: skip
    tile, block = tl.program_id(0), tl.program_id(1)
    first, count, slot = tl.load(tiles + tile * 3), tl.load(tiles + tile * 3 + 1), tl.load(tiles + tile * 3 + 2)
    if slot == 0:
        return
    offsets = tl.arange(0, TILE)
    tokens, has_token = first + offsets, offsets < count
    output += tokens.to(tl.int64)[:, None] * (out0 + out1 + out2)
    blocks0, blocks1 = tl.cdiv(out0, OUT_BLOCK), tl.cdiv(out1, OUT_BLOCK)
    # A branch for each linear, not a chosen pointer: the compiler then knows how each is aligned.
    if block < blocks0:
        _expand_linear(
            hidden, b0, output, tokens, has_token, slot, block, num_tokens, num_rows, rank, 0, out0,
            NUM_SPLITS, TILE, OUT_BLOCK, RANK_BLOCK,
        )  # fmt: skip
    elif block < blocks0 + blocks1:
        _expand_linear(
            hidden, b1, output + out0, tokens, has_token, slot, block - blocks0,
            num_tokens, num_rows, rank, rank, out1, NUM_SPLITS, TILE, OUT_BLOCK, RANK_BLOCK,
        )  # fmt: skip
    elif NUM_LINEARS > 2:
        _expand_linear(
            hidden, b2, output + out0 + out1, tokens, has_token, slot, block - blocks0 - blocks1,
            num_tokens, num_rows, rank, 2 * rank, out2, NUM_SPLITS, TILE, OUT_BLOCK, RANK_BLOCK,
        )  # fmt: skip


def add_lora(output: torch.Tensor, x: torch.Tensor, a: torch.Tensor, bs: Rows[torch.Tensor], tiles: LoraTiles) -> None:
    """Add to ``output [num_tokens, sum of out]``, in place, the update of each token that is in a tile.

    Args:
        x: ``[num_tokens, in]``; like ``output`` contiguous.
        a: of the group, ``[num_slots, num_linears * rank, in]``.
        bs: of its one to three linears, ``[num_slots, rank, out]`` each.
    """
    hidden = shrink(x, a, tiles)
    rank, sizes = bs[0].shape[1], [b.shape[2] for b in bs]
    padding = 3 - len(bs)
    num_blocks = sum(triton.cdiv(size, OUT_BLOCK) for size in sizes)
    _expand[(len(tiles.table), num_blocks)](
        hidden, *bs, *[bs[0]] * padding, output, tiles.table, len(x), a.shape[1], rank, *sizes, *[0] * padding,
        NUM_LINEARS=len(bs), NUM_SPLITS=len(hidden), TILE=tiles.tile_tokens,
        OUT_BLOCK=OUT_BLOCK, RANK_BLOCK=min(RANK_BLOCK, max(16, triton.next_power_of_2(rank))),
    )  # fmt: skip


def shrink(x: torch.Tensor, a: torch.Tensor, tiles: LoraTiles) -> torch.Tensor:
    """``x @ A.T`` of the tiles' tokens, in parts still to be added.

    Returns:
        ``[num_splits, num_tokens, num_linears * rank]``, float32; not written for tokens in no tile.
    """
    num_rows, in_features = a.shape[1:]
    rows_block = 16 if tiles.tile_tokens == DECODE_TILE else 64
    num_row_blocks = triton.cdiv(num_rows, rows_block)
    num_splits = count_splits(len(tiles.table) * num_row_blocks, in_features)
    split_size = triton.cdiv(triton.cdiv(in_features, num_splits), IN_BLOCK) * IN_BLOCK
    hidden = torch.empty(num_splits, len(x), num_rows, dtype=torch.float32, device=x.device)
    _shrink[(len(tiles.table), num_row_blocks, num_splits)](
        x, a, hidden, tiles.table, len(x), in_features, num_rows, split_size,
        TILE=tiles.tile_tokens, ROWS_BLOCK=rows_block, IN_BLOCK=IN_BLOCK,
    )  # fmt: skip
    return hidden


def count_splits(num_programs: int, in_features: int) -> int:
    """A power of two, for each number of splits is compiled by itself."""
    wanted = min(WANTED_PROGRAMS // max(1, num_programs), in_features // LEAST_INPUTS, MOST_SPLITS)
    return 1 << max(0, wanted.bit_length() - 1)
