"""The forward pass of ``fixed_point_bert.cpp`` as a Python call: weights become integers here, once, at load.

Row by row, a weight is scaled to the largest integers that cannot overflow: their magnitudes in a row, times the
largest activation, sum to less than 2^31. That leaves 11 to 14 bits, where the activations have 13.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lmoe_ray.native.compiled_library import load_library
from lmoe_ray.routing.bert_weights import Affine, BertLayer, BertWeights

SOURCE = Path(__file__).with_name("fixed_point_bert.cpp")

#: As in the C++ source.
ACTIVATION_LIMIT = 4095

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


class _Linear(ctypes.Structure):
    _fields_ = (("weight", _POINTER), ("scales", _POINTER), ("bias", _POINTER), ("inputs", _INT), ("outputs", _INT))


class _Norm(ctypes.Structure):
    _fields_ = (("weight", _POINTER), ("bias", _POINTER))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in ("qkv", "mix", "up", "down")),
        *((name, _Norm) for name in ("after_attention", "after_feed_forward")),
    )


class _Encoder(ctypes.Structure):
    _fields_ = (
        ("words", _POINTER),
        ("positions", _POINTER),
        ("embedded", _Norm),
        ("layers", ctypes.POINTER(_Layer)),
        *((name, _INT) for name in ("num_layers", "hidden", "inner", "num_heads")),
        ("eps", ctypes.c_float),
        ("first_token_only", ctypes.c_int32),
    )


class CompiledBert:
    """Token ids to unit vectors, each the same to its last bit in any company and on any number of threads.

    Args:
        weights: of the encoder.
        cache_dir: where compiled libraries are kept.
        num_threads: of the processor, in each call.
        macros: for the compiler; the tests choose a vector width.

    Raises:
        LibraryUnavailable: no compiler, or a processor that the source was not written for.
    """

    def __init__(self, weights: BertWeights, cache_dir: Path, num_threads: int, macros: Sequence[str] = ()) -> None:
        library = load_library(SOURCE, cache_dir, macros)
        self._panel: int = library.panel_width()
        self._encode = library.encode
        self._encode.argtypes = [_POINTER, _POINTER, _POINTER, _INT, _POINTER, ctypes.c_int]
        self._encode.restype = None
        self._num_threads = num_threads
        self._hidden = weights.hidden
        # What the C++ side points to must live as long as this object.
        self._kept: list[torch.Tensor] = []
        self._layers = (_Layer * len(weights.layers))(*map(self._layer, weights.layers))
        self._encoder = self._describe(weights)

    def __call__(self, ids: NDArray[np.int32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Unit vectors ``[num_texts, hidden]`` of texts whose tokens ``ids[starts[n]:starts[n + 1]]`` are."""
        out = np.empty((len(starts) - 1, self._hidden), dtype=np.float32)
        self._encode(
            ctypes.byref(self._encoder),
            ids.ctypes.data,
            starts.ctypes.data,
            len(out),
            out.ctypes.data,
            self._num_threads,
        )
        return out

    def _describe(self, weights: BertWeights) -> _Encoder:
        return _Encoder(
            self._pointer(weights.words),
            self._pointer(weights.positions),
            self._norm(weights.embedded),
            self._layers,
            len(weights.layers),
            weights.hidden,
            weights.inner,
            weights.num_heads,
            weights.eps,
            weights.first_token_only,
        )

    def _layer(self, layer: BertLayer) -> _Layer:
        linears = (layer.qkv, layer.mix, layer.up, layer.down)
        norms = (layer.after_attention, layer.after_feed_forward)
        return _Layer(*map(self._linear, linears), *map(self._norm, norms))

    def _linear(self, linear: Affine) -> _Linear:
        integers, units = quantise_rows(linear.weight)
        outputs, inputs = integers.shape
        panels = integers.view(outputs // self._panel, self._panel, inputs // 2, 2).transpose(1, 2)
        return _Linear(*map(self._pointer, (panels, units, linear.bias)), inputs, outputs)

    def _norm(self, norm: Affine) -> _Norm:
        return _Norm(self._pointer(norm.weight), self._pointer(norm.bias))

    def _pointer(self, tensor: torch.Tensor) -> int:
        self._kept.append(tensor.contiguous())
        return self._kept[-1].data_ptr()


def quantise_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight ``[out, in]`` as int16, and what one unit of each row is worth, ``[out]`` float32.

    No sum of products with activations of up to ``ACTIVATION_LIMIT`` leaves 32 bits, whatever their signs.
    """
    weight = weight.double()
    magnitudes = weight.abs()
    # Rounding may add half a unit to every element.
    room = (2**31 - 1) / ACTIVATION_LIMIT - weight.shape[1] / 2
    scales = torch.minimum(32767 / magnitudes.amax(1), room / magnitudes.sum(1))
    scales = torch.where(scales.isfinite(), scales, 1.0)
    return (weight * scales[:, None]).round().to(torch.int16), (1 / scales).float()
