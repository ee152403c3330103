"""Which tokens each constrained row of logits may become, computed for all of them in one call.

The library walks the tokenizer's trie once per row, in native code and in its own threads, and fills one bit per
token. On a GPU that happens while the forward pass runs, since nothing waits for the logits before
the masks are there.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from llguidance import LLExecutor
from torch.nn import functional as F

from lmoe_ray.engine.constraint import Constraint

_WORD_BITS, _WORD_BYTES = 32, 4


class TokenMasks:
    """One per engine."""

    def __init__(self, vocab_size: int, device: torch.device, num_threads: int) -> None:
        self._vocab_size, self._device = vocab_size, device
        self._num_words = -(-vocab_size // _WORD_BITS)
        self._executor = LLExecutor(num_threads)
        # A byte of a mask is eight tokens. Looking them up takes a fifth of the time of filling logits by a mask.
        bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
        self._biases = torch.where(bits == 1, 0.0, float("-inf")).to(device)

    def biases(self, constraints: Rows[Constraint]) -> torch.Tensor:
        """``[len(constraints), vocab_size]``, float32: 0 for tokens that may come next, minus infinity for others."""
        is_cuda = self._device.type == "cuda"
        words = torch.zeros(len(constraints), self._num_words, dtype=torch.int32, pin_memory=is_cuda)
        rows = [(constraint.matcher, row) for row, constraint in enumerate(constraints)]
        self._executor.unsafe_compute_mask_ptr(rows, words.data_ptr(), self._num_words * _WORD_BYTES, len(rows))
        on_device = words.to(self._device, non_blocking=is_cuda)
        return F.embedding(on_device.view(torch.uint8).int(), self._biases).flatten(1)[:, : self._vocab_size]
