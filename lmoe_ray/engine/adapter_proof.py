"""Proof that an adapter acts: with it, the model must answer differently from the base.

Checked names and shapes do not show that training changed anything: B starts at zero, and an
adapter saved before training, or scaled by zero, loads without complaint. So a few fixed tokens go
through the model with and without the adapter.
"""

from __future__ import annotations

import logging

import torch

from lmoe_ray.engine.adapter_weights import AdapterWeights
from lmoe_ray.engine.batch import BatchBuilder, Piece
from lmoe_ray.engine.kv_cache import KVCache, block_size_for
from lmoe_ray.engine.loaded_model import LoadedModel
from lmoe_ray.errors import AdapterInert, PackageError

logger = logging.getLogger(__name__)

NUM_PROBE_TOKENS = 16


class AdapterProof:
    """Compares an adapter with the base on tokens spread over the vocabulary. Has a cache and bank of its own."""

    def __init__(self, model: LoadedModel, *, refuse: bool) -> None:
        self._model, self._refuse = model, refuse
        self._block_size = block_size_for(model.device)
        self._builder = BatchBuilder(model.device, self._block_size)
        self._base_logits: torch.Tensor | None = None

    def check(self, weights: AdapterWeights) -> None:
        """Costs one short forward pass, and a second one the first time.

        Raises:
            PackageError: the adapter makes the logits infinite or not a number.
            AdapterInert: no logit moves by more than rounding does.
        """
        if self._base_logits is None:
            self._base_logits = self._logits(None)
        logits = self._logits(weights)
        if not torch.isfinite(logits).all():
            raise PackageError(weights.name, "makes the model's logits infinite; its weights are damaged")
        largest = (logits - self._base_logits).abs().max().item()
        noise = torch.finfo(self._model.dtype).eps * self._base_logits.std().item()
        if largest > noise:
            logger.info("adapter acts expert=%s digest=%s largest=%.3g", weights.name, weights.digest, largest)
            return
        problem = f"does not change the base model's logits (by {largest:.2g} at most); was it trained?"
        if self._refuse:
            raise AdapterInert(weights.name, problem + " Set adapter_check: warn to serve it anyway")
        logger.warning("adapter inert expert=%s digest=%s problem=%s", weights.name, weights.digest, problem)

    def _logits(self, weights: AdapterWeights | None) -> torch.Tensor:
        model, block_size = self._model, self._block_size
        num_tokens = min(NUM_PROBE_TOKENS, model.max_positions)
        num_blocks = -(-num_tokens // block_size)
        cache = KVCache(
            model.cache_shape, num_blocks=num_blocks, block_size=block_size, dtype=model.dtype, device=model.device
        )
        bank = model.make_bank(1, 1 if weights is None else weights.rank)
        if weights is not None:
            bank.load(1, weights)
        ids = [model.vocab_size * i // num_tokens for i in range(num_tokens)]
        piece = Piece(ids, 0, range(num_blocks), adapter_slot=0 if weights is None else 1)
        batch = self._builder.assemble([piece], range(num_tokens), num_decode=0)
        return model.make_runner(cache, bank).run(batch)
