"""The same forward pass with torch's operators: for machines without a compiler, and as a second opinion in the tests.

Texts lie one after another without padding, so that a token costs the same in any company, and no row of a
product sees another one. Attention runs text by text. Weights are kept in float16 where FBGEMM multiplies
them with float32 activations in float32 arithmetic: half the memory to read, and rounding of 1 in 4096.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lmoe_ray.routing.bert_weights import Affine, BertLayer, BertWeights

logger = logging.getLogger(__name__)

Linear = Callable[[torch.Tensor], torch.Tensor]

#: The largest number of float16.
HALF_LIMIT = 65504


def plain_linear(linear: Affine) -> Linear:
    return partial(F.linear, weight=linear.weight, bias=linear.bias)


def half_stored_linear(linear: Affine) -> Linear:
    """
    Raises:
        ValueError: a weight that float16 cannot hold.
        RuntimeError: this torch or processor is without FBGEMM.
        AttributeError: likewise.
    """
    if linear.weight.abs().max() > HALF_LIMIT:
        raise ValueError(f"a weight is above {HALF_LIMIT}, the largest float16")
    with warnings.catch_warnings():
        # FBGEMM's entry points announce that a later torch drops them; then the plain kind takes over.
        warnings.simplefilter("ignore", UserWarning)
        packed = torch.fbgemm_pack_gemm_matrix_fp16(linear.weight)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.fbgemm_linear_fp16_weight_fp32_activation(x, packed, None)
        return product.add_(linear.bias)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        multiply(torch.zeros(1, linear.weight.shape[1]))
    return multiply


def pack(linear: Affine) -> Linear:
    """Half-stored where that works. No race decides: replicas on like machines must compute alike."""
    try:
        return half_stored_linear(linear)
    except (ValueError, RuntimeError, AttributeError) as exc:
        logger.info("encoder linear stays plain shape=%s: %s", tuple(linear.weight.shape), exc)
        return plain_linear(linear)


class FlatBert:
    """Token ids to unit vectors.

    Args:
        weights: of the encoder.
        pack: lays one linear out for whoever multiplies it.
    """

    def __init__(self, weights: BertWeights, pack: Callable[[Affine], Linear] = pack) -> None:
        self._weights = weights
        self._layers = tuple(_FlatLayer(layer, weights, pack) for layer in weights.layers)

    @torch.inference_mode()
    def __call__(self, ids: NDArray[np.int32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Unit vectors ``[num_texts, hidden]`` of texts whose tokens ``ids[starts[n]:starts[n + 1]]`` are."""
        weights = self._weights
        lengths = np.diff(starts).tolist()
        positions = torch.cat([weights.positions[:length] for length in lengths])
        x = _normalise(weights.words[torch.from_numpy(ids).long()] + positions, weights.embedded, weights.eps)
        for layer in self._layers:
            x = layer(x, lengths)
        return F.normalize(torch.stack([self._pool(text) for text in torch.split(x, list(lengths))])).numpy()

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        return x[0] if self._weights.first_token_only else x.mean(0)


class _FlatLayer:
    def __init__(self, layer: BertLayer, weights: BertWeights, pack: Callable[[Affine], Linear]) -> None:
        self._qkv, self._mix, self._up, self._down = map(pack, (layer.qkv, layer.mix, layer.up, layer.down))
        self._after_attention, self._after_feed_forward = layer.after_attention, layer.after_feed_forward
        self._num_heads, self._eps = weights.num_heads, weights.eps

    def __call__(self, x: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        attended = torch.cat([self._attend(text) for text in torch.split(self._qkv(x), list(lengths))])
        x = _normalise(x + self._mix(attended), self._after_attention, self._eps)
        return _normalise(x + self._down(F.gelu(self._up(x))), self._after_feed_forward, self._eps)

    def _attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """All tokens of one text see each other; ``[num_tokens, 3 * hidden]`` to ``[num_tokens, hidden]``."""
        q, k, v = qkv.view(len(qkv), 3, self._num_heads, -1).permute(1, 2, 0, 3)
        return F.scaled_dot_product_attention(q[None], k[None], v[None])[0].transpose(0, 1).flatten(1)


def _normalise(x: torch.Tensor, norm: Affine, eps: float) -> torch.Tensor:
    return F.layer_norm(x, norm.bias.shape, norm.weight, norm.bias, eps)
