"""A base model ready to compute, as the engine sees it, whoever does the arithmetic.

Two implementations: :class:`FlatModel`, our own forward pass for the Llama family, and
``TransformersModel`` for every other architecture.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any, Protocol

import torch

from lmoe_ray.domain.package import Expert
from lmoe_ray.engine.adapter_weights import AdapterWeights, read_adapter
from lmoe_ray.engine.base_model import BaseModel
from lmoe_ray.engine.batch import Batch
from lmoe_ray.engine.cpu_kernels import CpuKernels
from lmoe_ray.engine.cpu_ops import CpuOps
from lmoe_ray.engine.kv_cache import KVCache
from lmoe_ray.engine.layer_ops import LayerOps
from lmoe_ray.engine.lora import AdapterBank, bank_bytes
from lmoe_ray.engine.model_runner import ModelRunner
from lmoe_ray.engine.model_shape import CacheShape
from lmoe_ray.engine.pinned_memory import pinned
from lmoe_ray.native.compiled_library import LibraryUnavailable

logger = logging.getLogger(__name__)

CUDA_RUNNER = "lmoe_ray.engine.cuda_runner"


class Bank(Protocol):
    """Adapters on the device, by slot ``1 … num_slots``."""

    def load(self, slot: int, weights: AdapterWeights) -> None:
        """Write an adapter over whatever the slot held. Called from another thread than the runner's."""


class Runner(Protocol):
    """Computes batches over one cache and one bank."""

    def run(self, batch: Batch) -> torch.Tensor:
        """Extend the cache; logits of the sampled tokens, ``[num_sampled, vocab_size]``, float32."""


class LoadedModel(Protocol):
    """Weights on one device; read-only, so that any number of caches and banks may share them.

    Attributes:
        vocab_size: columns of the logits.
        weight_bytes: memory of the weights.
        dtype: of activations, keys and values.
    """

    cache_shape: CacheShape
    vocab_size: int
    max_positions: int
    weight_bytes: int
    dtype: torch.dtype
    device: torch.device

    def read_adapter(self, expert: Expert, max_rank: int) -> AdapterWeights:
        """Read and check an adapter for this model.

        Raises:
            PackageError: broken, or of a rank above ``max_rank``.
            BaseMismatch: made for another model.
        """

    def bank_bytes(self, num_slots: int, rank: int) -> int: ...

    def make_bank(self, num_slots: int, rank: int) -> Bank: ...

    def make_runner(self, cache: KVCache, bank: Any) -> Runner:
        """``bank``: one that :meth:`make_bank` made."""


class FlatModel:
    """The Llama family over a flat list of tokens, with the best operators this machine has."""

    def __init__(self, model: BaseModel, *, kernel_dir: Path | None) -> None:
        """``kernel_dir``: where kernels compiled for this CPU are kept; ``None``: torch's own operators only."""
        self._model = model
        self.cache_shape, self.vocab_size = model.shape.cache_shape, model.shape.vocab_size
        self.max_positions = model.shape.max_positions
        self.weight_bytes, self.dtype, self.device = model.weight_bytes, model.dtype, model.device
        self._kernels = None
        self._is_fused = kernel_dir is not None and model.device.type == "cuda"
        if kernel_dir is not None and model.device.type == "cpu":
            self._kernels = _cpu_kernels(model, kernel_dir)

    def read_adapter(self, expert: Expert, max_rank: int) -> AdapterWeights:
        weights = read_adapter(expert, self._model.shape, max_rank=max_rank, dtype=self.dtype)
        return pinned(weights) if self.device.type == "cuda" else weights

    def bank_bytes(self, num_slots: int, rank: int) -> int:
        return bank_bytes(self._model.shape, num_slots, rank, self.dtype)

    def make_bank(self, num_slots: int, rank: int) -> AdapterBank:
        return AdapterBank(self._model.shape, num_slots, rank, dtype=self.dtype, device=self.device)

    def make_runner(self, cache: KVCache, bank: AdapterBank) -> Runner:
        if self._kernels is not None:
            return ModelRunner(CpuOps(self._model, cache, bank, self._kernels))
        if self._is_fused:
            # By its name, and only here: it imports Triton, which exists nowhere but beside CUDA.
            runner: Runner = importlib.import_module(CUDA_RUNNER).make_cuda_runner(self._model, cache, bank)
            return runner
        return ModelRunner(LayerOps(self._model, cache, bank))


def _cpu_kernels(model: BaseModel, kernel_dir: Path) -> CpuKernels | None:
    try:
        kernels = CpuKernels(model.dtype, kernel_dir)
        if model.shape.head_dim % kernels.width:
            raise LibraryUnavailable(f"heads of {model.shape.head_dim} are no multiple of {kernels.width} numbers")
    except LibraryUnavailable as exc:
        logger.warning("no compiled kernels, attention and adapters will be 2 to 3 times slower: %s", exc)
        return None
    logger.info("compiled kernels width=%d dtype=%s", kernels.width, model.dtype)
    return kernels
