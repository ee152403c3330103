"""Keys and values of every running sequence, in blocks of a few tokens.

Once for keys and once for values, per layer: on a CPU ``[num_blocks, num_kv_heads, block_size, head_dim]``,
so that what one head reads lies together; on a GPU ``[num_blocks, block_size, num_kv_heads, head_dim]``, as
FlashAttention's pages are. A token's place is its cache slot, ``block * block_size + offset``. Which
block belongs to whom is the block manager's business. On a CPU a block costs memory from its first use on.
"""

from __future__ import annotations

import logging

import torch

from lmoe_ray.engine.lazy_memory import lazy_zeros
from lmoe_ray.engine.model_shape import CacheShape
from lmoe_ray.errors import SettingsError

logger = logging.getLogger(__name__)

#: Kept free on a GPU for CUDA itself, activations, logits, graphs, the scratch block and the allocator's fragments.
RESERVE_BYTES = 2 << 30
#: Small blocks waste less and share shorter prefixes; FlashAttention reads pages of a multiple of 256.
CPU_BLOCK_SIZE, CUDA_BLOCK_SIZE = 16, 256


class KVCache:
    """``keys[layer]`` and ``values[layer]``, laid out as the device wants it.

    Attributes:
        scratch_block: one block beyond those that sequences own, for rows that only fill up a batch.
    """

    def __init__(
        self, shape: CacheShape, *, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.scratch_block = num_blocks
        self._is_by_head = device.type == "cpu"
        inner = (shape.num_kv_heads, block_size) if self._is_by_head else (block_size, shape.num_kv_heads)
        size = (num_blocks + 1, *inner, shape.head_dim)
        self.keys = [lazy_zeros(size, dtype, device) for _ in range(shape.num_layers)]
        self.values = [lazy_zeros(size, dtype, device) for _ in range(shape.num_layers)]

    def write(self, layer: int, cache_slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store ``keys`` and ``values`` ``[num_tokens, num_kv_heads, head_dim]`` at ``cache_slots [num_tokens]``."""
        at = (cache_slots // self.block_size, cache_slots % self.block_size)
        for cache, tokens in ((self.keys[layer], keys), (self.values[layer], values)):
            by_token = cache.transpose(1, 2) if self._is_by_head else cache
            by_token[at] = tokens

    def read(self, layer: int, tables: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of the blocks in ``tables [n, widest]``: ``[n, num_kv_heads, widest * block_size, head_dim]``."""
        keys, values = (
            cache[layer][tables].transpose(1, 2) if self._is_by_head else cache[layer][tables].movedim(3, 1)
            for cache in (self.keys, self.values)
        )
        return keys.flatten(2, 3), values.flatten(2, 3)


def block_size_for(device: torch.device) -> int:
    return CUDA_BLOCK_SIZE if device.type == "cuda" else CPU_BLOCK_SIZE


def block_bytes(shape: CacheShape, block_size: int, dtype: torch.dtype) -> int:
    """Memory of one block over all layers."""
    return 2 * shape.num_layers * block_size * shape.num_kv_heads * shape.head_dim * dtype.itemsize


def cache_budget(device: torch.device, memory_fraction: float, used_bytes: int, cpu_cache_bytes: int) -> int:
    """Bytes for the cache: on a CPU the setting's, on a GPU what this process's share of it leaves.

    The budget counts this process only: on a shared GPU, device-wide free memory would subtract a
    neighbour that starts at the same moment.

    Args:
        used_bytes: of weights and adapters.
    """
    if device.type == "cpu":
        return cpu_cache_bytes
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    return int(total_bytes * min(memory_fraction, 1.0)) - used_bytes - RESERVE_BYTES


def blocks_within(budget_bytes: int, bytes_per_block: int, block_size: int, max_model_len: int) -> int:
    """How many blocks a budget holds; at least those of one whole sequence.

    Raises:
        SettingsError: it does not hold them.
    """
    num_blocks = budget_bytes // bytes_per_block
    num_needed = -(-max_model_len // block_size)
    if num_blocks < num_needed:
        raise SettingsError(
            "engine.max_model_len",
            f"one sequence of {max_model_len} tokens needs {num_needed * bytes_per_block >> 20} MiB of cache, and "
            f"{max(budget_bytes, 0) >> 20} MiB are there beside weights and adapters; lower max_model_len, "
            "max_adapters or max_lora_rank, or raise cpu_cache_gib or gpu_fraction",
        )
    logger.info("cache blocks=%d tokens=%d mib=%d", num_blocks, num_blocks * block_size, budget_bytes >> 20)
    return num_blocks
