"""Keys and values of every running sequence: one row per sequence, as long as the context.

Per layer ``[num_rows, num_kv_heads, max_model_len, head_dim]``, once for keys and once for values.
Rows ``0 … num_running - 1`` are in use, so decoding reads a slice and copies nothing. On a CPU a
row costs memory only as far as it was written; on a GPU the number of rows is what fits.
"""

from __future__ import annotations

import logging

import torch

from lmoe_ray.engine.base_model import BaseModel
from lmoe_ray.engine.lazy_memory import lazy_zeros
from lmoe_ray.engine.model_shape import ModelShape
from lmoe_ray.errors import SettingsError

logger = logging.getLogger(__name__)

#: Kept free on a GPU for activations, logits and the allocator's fragments.
RESERVE_BYTES = 1 << 30


class KVCache:
    """``keys[layer]`` and ``values[layer]``: ``[num_rows, num_kv_heads, max_model_len, head_dim]``."""

    def __init__(
        self, shape: ModelShape, *, num_rows: int, max_model_len: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        size = (num_rows, shape.num_kv_heads, max_model_len, shape.head_dim)
        self.num_rows = num_rows
        self.keys = [lazy_zeros(size, dtype, device) for _ in range(shape.num_layers)]
        self.values = [lazy_zeros(size, dtype, device) for _ in range(shape.num_layers)]

    def write(
        self, layer: int, rows: torch.Tensor, positions: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Store ``keys`` and ``values`` ``[num_tokens, num_kv_heads, head_dim]``; one row and position per token."""
        self.keys[layer][rows, :, positions] = keys
        self.values[layer][rows, :, positions] = values

    def move_row(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first ``num_tokens`` tokens of a row over another row."""
        for cache in (*self.keys, *self.values):
            cache[target, :, :num_tokens] = cache[source, :, :num_tokens]


def row_bytes(shape: ModelShape, max_model_len: int, dtype: torch.dtype) -> int:
    """Memory of one row over all layers."""
    return 2 * shape.num_layers * shape.num_kv_heads * max_model_len * shape.head_dim * dtype.itemsize


def count_rows(
    model: BaseModel, *, max_num_seqs: int, max_model_len: int, bank_bytes: int, memory_fraction: float
) -> int:
    """Rows to allocate: ``max_num_seqs``, or fewer if this process's share of the GPU holds no more.

    The budget counts this process only: on a shared GPU, device-wide free memory would subtract a
    neighbour that starts at the same moment.

    Raises:
        SettingsError: not even one row fits.
    """
    if model.device.type == "cpu":
        return max_num_seqs
    total_bytes = torch.cuda.get_device_properties(model.device).total_memory
    budget_bytes = int(total_bytes * min(memory_fraction, 1.0)) - model.weight_bytes - bank_bytes - RESERVE_BYTES
    return rows_within(budget_bytes, row_bytes(model.shape, max_model_len, model.dtype), max_num_seqs, max_model_len)


def rows_within(budget_bytes: int, bytes_per_row: int, max_num_seqs: int, max_model_len: int) -> int:
    """How many rows a budget holds, ``1 … max_num_seqs``."""
    num_rows = min(max_num_seqs, budget_bytes // bytes_per_row)
    if num_rows < 1:
        raise SettingsError(
            "engine.max_model_len",
            f"one sequence of {max_model_len} tokens needs {bytes_per_row >> 20} MiB of cache, and "
            f"{max(budget_bytes, 0) >> 20} MiB are left beside weights and adapters; lower max_model_len, "
            "max_adapters or max_lora_rank, or raise gpu_fraction",
        )
    if num_rows < max_num_seqs:
        logger.warning("cache rows reduced max_num_seqs=%d num_rows=%d", max_num_seqs, num_rows)
    return num_rows
