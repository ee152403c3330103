"""Joins what a GPU has of its own: fused operators, attention over pages, captured decode steps.

Only imported where there is CUDA, because of Triton.
"""

from __future__ import annotations

import logging
from functools import cache

import torch

from lmoe_ray.engine.base_model import BaseModel
from lmoe_ray.engine.cuda_graphs import GraphRunner
from lmoe_ray.engine.cuda_ops import CudaOps
from lmoe_ray.engine.kv_cache import KVCache
from lmoe_ray.engine.lora import AdapterBank
from lmoe_ray.engine.model_runner import ModelRunner
from lmoe_ray.engine.padded_batch import PaddedInputs
from lmoe_ray.engine.paged_attention import PagedAttention, missing_for_pages

logger = logging.getLogger(__name__)


def make_cuda_runner(model: BaseModel, cache: KVCache, bank: AdapterBank) -> ModelRunner | GraphRunner:
    """The fastest runner this device and this torch allow; whatever is left out is logged."""
    capability = torch.cuda.get_device_capability(model.device)
    missing = missing_for_pages(model.shape.head_dim, cache.block_size, model.dtype, capability)
    if missing is not None:
        _warn(missing)
        return ModelRunner(CudaOps(model, cache, bank, None))

    def make_inputs(bucket: int) -> PaddedInputs:
        num_positions = len(model.cos)
        return PaddedInputs(bucket, cache, num_positions=num_positions, num_slots=bank.num_slots, device=model.device)

    return GraphRunner(ModelRunner(CudaOps(model, cache, bank, PagedAttention(cache))), make_inputs)


@cache
def _warn(missing: str) -> None:
    """Once: a runner is also made whenever an adapter is checked."""
    logger.warning("no attention over pages and no graphs, decoding will be several times slower: %s", missing)
