"""The functions of ``cpu_kernels.cpp`` as Python calls on tensors. No checks: the callers' shapes are fixed at load."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lmoe_ray.native.compiled_library import LibraryUnavailable, load_library

SOURCE = Path(__file__).with_name("cpu_kernels.cpp")
_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float

_SIGNATURES: dict[str, list[Any]] = {
    "add_norm": [_POINTER] * 4 + [_INT] * 2 + [_FLOAT],
    "rotate_and_store": [_POINTER] * 7 + [_FLOAT] + [_POINTER] * 2 + [_INT] * 5,
    "attend": [_POINTER] * 4 + [_INT] + [_POINTER] * 2 + [_INT, _FLOAT, _POINTER] + [_INT] * 5,
    "gate": [_POINTER] * 2 + [_INT] * 2,
    "add_lora": [_POINTER, _INT, _POINTER, _INT, _POINTER, _POINTER, _INT],
}


class LoraPair(ctypes.Structure):
    """``LoraPair`` of the C++ source: one linear's adapters in the bank."""

    _fields_ = (
        ("a", _POINTER),
        ("b", _POINTER),
        ("ranks", _POINTER),
        ("a_step", _INT),
        ("b_step", _INT),
        ("in_features", _INT),
        ("out_features", _INT),
        ("first_output", _INT),
    )


class LoraSegment(ctypes.Structure):
    """``LoraSegment`` of the C++ source."""

    _fields_ = (("first", _INT), ("num_tokens", _INT), ("slot", _INT))


class CpuKernels:
    """Bound to one dtype. Each function is named and explained in the C++ source.

    Attributes:
        width: floats in one of the processor's vectors; head sizes must be multiples of it.
    """

    def __init__(self, dtype: torch.dtype, cache_dir: Path) -> None:
        """
        Raises:
            LibraryUnavailable: cannot be compiled here, or not for this dtype.
        """
        if dtype not in (torch.float32, torch.bfloat16):
            raise LibraryUnavailable(f"the kernels compute in float32 and bfloat16, not {dtype}")
        library = load_library(SOURCE, cache_dir)
        self.width: int = library.vector_width()
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, f"{name}_{str(dtype).removeprefix('torch.')}")
            function.argtypes, function.restype = arguments, None
            setattr(self, name, function)

    add_norm: Callable[..., None]
    rotate_and_store: Callable[..., None]
    attend: Callable[..., None]
    gate: Callable[..., None]
    add_lora: Callable[..., None]


def segments_array(segments: Sequence[tuple[int, int, int]]) -> ctypes.Array[LoraSegment]:
    """``(first token, number of tokens, adapter slot)`` of each run of tokens with one adapter."""
    return (LoraSegment * len(segments))(*(LoraSegment(*segment) for segment in segments))
