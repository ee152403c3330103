"""FlashAttention over the paged cache: decoding sequences and prompt chunks of any lengths in one call.

The kernels are torch's own. Which of their features a torch has is asked of its signature; where one is
missing, the layer's operators gather the blocks instead, see ``layer_ops.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel, varlen

from lmoe_ray.engine.batch import Batch
from lmoe_ray.engine.kv_cache import CUDA_BLOCK_SIZE, KVCache

#: What older versions of ``varlen_attn`` lack.
NEEDED_PARAMETERS = frozenset({"block_table", "seqused_k", "window_size", "enable_gqa"})
#: FlashAttention-2's limits.
MAX_HEAD_DIM, HEAD_DIM_STEP, MIN_CAPABILITY = 256, 8, (8, 0)


class PagedAttention:
    """Bound to a cache; :meth:`begin` once per step, then a call per layer."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache

    def begin(self, batch: Batch) -> None:
        self._batch = batch
        self._longest_query = max(count for _, count, _ in batch.pieces)
        self._longest = max(start + count for _, count, start in batch.pieces)

    def __call__(self, index: int, window: int | None, query: torch.Tensor) -> torch.Tensor:
        """``query [num_tokens, num_heads, head_dim]`` of layer ``index`` over the cache; shape of ``query``."""
        batch, keys, values = self._batch, self._cache.keys[index], self._cache.values[index]
        # cuDNN, the other choice, makes a plan for every new shape, and prompts come in all shapes.
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            output = varlen.varlen_attn(
                query,
                keys,
                values,
                batch.starts,
                batch.starts,  # looked at for its shape only: lengths are those of ``seqused_k``
                self._longest_query,
                self._longest,
                window_size=self._span(window),
                enable_gqa=query.shape[1] != keys.shape[2],
                seqused_k=batch.lengths,
                block_table=batch.tables,
            )
        assert isinstance(output, torch.Tensor), "only what is asked for comes with it. This is a bug."
        return output

    def _span(self, window: int | None) -> tuple[int, int]:
        """Tokens seen before and after a query's own; -1 is all of them."""
        if window is not None:
            return window - 1, 0
        # A lone query has nothing after it; said so, heads that share keys are computed together.
        return (-1, -1) if self._longest_query == 1 else (-1, 0)


def missing_for_pages(
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
    capability: tuple[int, int],
    function: Callable[..., object] = varlen.varlen_attn,
) -> str | None:
    """What keeps :class:`PagedAttention` from this model, torch or compute capability; ``None``: nothing."""
    if missing := NEEDED_PARAMETERS - inspect.signature(function).parameters.keys():
        return f"torch {torch.__version__} has no {min(missing)} in varlen_attn; a newer one has"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"FlashAttention computes in 16 bits, not in {dtype}"
    if head_dim % HEAD_DIM_STEP or head_dim > MAX_HEAD_DIM:
        return f"heads of {head_dim} are no multiple of {HEAD_DIM_STEP} up to {MAX_HEAD_DIM}"
    if block_size % CUDA_BLOCK_SIZE:
        return f"blocks of {block_size} tokens are no multiple of {CUDA_BLOCK_SIZE}"
    if capability < MIN_CAPABILITY:
        return f"compute capability {capability} is below {MIN_CAPABILITY}"
    return None
