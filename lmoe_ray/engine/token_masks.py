"""Which tokens each constrained row of logits may become, computed for all of them in one call.

The library walks the tokenizer's trie once per row, in native code and in its own threads, and fills one bit per
token. On a GPU that happens while the forward pass runs, since nothing waits for the logits before
the masks are there.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows

import numpy as np
import torch
from llguidance import LLExecutor

from lmoe_ray.engine.constraint import Constraint

_BITS = 32


class TokenMasks:
    """One per engine."""

    def __init__(self, vocab_size: int, device: torch.device, num_threads: int) -> None:
        self._vocab_size, self._device = vocab_size, device
        self._num_words = -(-vocab_size // _BITS)
        self._executor = LLExecutor(num_threads)
        self._shifts = torch.arange(_BITS, dtype=torch.int32, device=device)

    def forbidden(self, constraints: Rows[Constraint]) -> torch.Tensor:
        """``[len(constraints), vocab_size]``, bool: tokens that would leave the grammar."""
        is_cuda = self._device.type == "cuda"
        words = torch.zeros(len(constraints), self._num_words, dtype=torch.int32, pin_memory=is_cuda)
        rows = [(constraint.matcher, row) for row, constraint in enumerate(constraints)]
        self._executor.unsafe_compute_mask_ptr(rows, words.data_ptr(), self._num_words * 4, len(rows))
        if not is_cuda:
            bits = np.unpackbits(words.numpy().view(np.uint8), axis=1, count=self._vocab_size, bitorder="little")
            return torch.from_numpy(bits == 0)
        on_device = words.to(self._device, non_blocking=True)
        bits_of = (on_device[:, :, None] >> self._shifts) & 1
        return bits_of.flatten(1)[:, : self._vocab_size] == 0
