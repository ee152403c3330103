"""Zeroed tensors that cost nothing until they are written.

KV cache and adapter bank are sized for the worst case. On a CPU an anonymous memory map gives
zeroed pages one by one at first touch, so a replica only pays for what it uses; ``torch.zeros``
would touch all of it. Zeroed, because attention multiplies masked keys by nothing but still reads
them, and a NaN would survive that.
"""

from __future__ import annotations

import math
import mmap

import torch


def lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros of any shape with at least one element; on a GPU the same as ``torch.zeros``."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Blocks are read in no order: with small pages, half of the time would go into finding them.
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
