"""Engines of ``lmoe_peer.py`` and ``transformers_peer.py`` by the first argument, on the second's device."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path

import torch
from lmoe_peer import MIN_MODEL_LEN, LmoeEngine, experts_of  # type: ignore[import-not-found]
from peer_protocol import Engine, Start, serve  # type: ignore[import-not-found]
from tokenizers import Tokenizer
from transformers_peer import ENGINES  # type: ignore[import-not-found]

from lmoe_ray.engine.async_engine import AsyncEngine
from lmoe_ray.engine.kv_cache import block_bytes, block_size_for
from lmoe_ray.engine.model_shape import model_shape, read_config
from lmoe_ray.settings import EngineSettings

#: Of one forward pass: enough to keep a large GPU's multipliers busy.
MAX_BATCH_TOKENS = 2048


class GpuLmoeEngine(LmoeEngine):  # type: ignore[misc]
    """Ours, with a pass as large as a GPU wants.

    Attributes:
        memory_bytes: on the device without the cache, which takes whatever is left; ``None`` on a CPU.
    """

    def __init__(self, start: Start, device: str) -> None:
        self.dtype = start.dtype
        settings = EngineSettings(
            dtype=start.dtype,
            device="cuda" if device == "cuda" else "cpu",
            max_model_len=max(MIN_MODEL_LEN, start.max_len),
            max_num_seqs=start.max_seqs,
            max_batch_tokens=max(MAX_BATCH_TOKENS, start.max_seqs),
            max_adapters=max(1, len(start.adapters)),
            cpu_cache_gib=0.5,
        )
        self._tokenizer = Tokenizer.from_file(str(Path(start.model) / "tokenizer.json"))
        self._engine = AsyncEngine(Path(start.model), settings, num_threads=start.threads)
        self._engine.start()
        self._loop = asyncio.Runner()
        self._digests = [self._load(expert) for expert in experts_of(start.adapters)]
        self.memory_bytes = self._bytes_without_cache(start) if device == "cuda" else None

    def _bytes_without_cache(self, start: Start) -> int:
        shape, dtype = model_shape(read_config(Path(start.model))).cache_shape, getattr(torch, start.dtype)
        per_block = block_bytes(shape, block_size_for(torch.device("cuda")), dtype)
        return torch.cuda.memory_allocated() - (self._engine.stats().num_blocks + 1) * per_block


def load_transformers(kind: str, start: Start, device: str) -> Engine:
    """Tensors are made on the device unless said otherwise, which moves model, adapters and prompts there."""
    torch.set_default_device(device)
    engine: Engine = ENGINES[kind](start)
    if device == "cuda":
        engine.memory_bytes = torch.cuda.memory_allocated()
    return engine


if __name__ == "__main__":
    kind, device = sys.argv[1:]
    if kind == "lmoe":
        serve("lmoe_ray", partial(GpuLmoeEngine, device=device))
    else:
        serve("transformers", lambda start: load_transformers(kind, start, device))
