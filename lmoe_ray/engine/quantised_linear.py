"""Linears whose weights are kept in 8 or 4 bits by bitsandbytes, for bases that a GPU would not hold otherwise.

A weight is quantised when it is read, on the device; embeddings and head stay as they are. The
library is loaded when a setting asks for it: it is an optional dependency.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from lmoe_ray.engine.linear import Linear
from lmoe_ray.errors import SettingsError

#: Weights that share a scale in NF4, as QLoRA has it (Dettmers et al. 2023, arXiv:2305.14314).
NF4_BLOCK = 64


class Int8Linear:
    """8 bits, one scale per row of the weight; a token's inputs are rounded to 8 bits too, with one scale per token.

    Without the separate path for outliers of LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339): looking for
    them takes the host a turn in every linear, which no CUDA graph could hold.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        self._functional, self._dtype = _library().functional, dtype
        self._rows, self._row_scales, _ = self._functional.int8_vectorwise_quant(weight.half())
        self._bias = None if bias is None else bias.to(dtype)
        self._multiply: Any = torch.ops.bitsandbytes.int8_scaled_mm.default
        self.num_bytes = self._rows.nbytes + self._row_scales.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        tokens, token_scales, _ = self._functional.int8_vectorwise_quant(x.half())
        output: torch.Tensor = self._multiply(tokens, self._rows, token_scales, self._row_scales, dtype=self._dtype)
        return output if self._bias is None else output.add_(self._bias)


class Nf4Linear:
    """4 bits in QLoRA's normal-float code, one scale for every 64 weights; inputs stay as they are."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        library = _library()
        self._packed, self._state = library.functional.quantize_4bit(
            weight.to(dtype), blocksize=NF4_BLOCK, quant_type="nf4"
        )
        self._bias = None if bias is None else bias.to(dtype)
        self._multiply: Any = library.matmul_4bit
        self.num_bytes = self._packed.nbytes + self._state.absmax.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._multiply(x, self._packed, quant_state=self._state, bias=self._bias)
        return output


#: By the setting's name.
QUANTISED_KINDS: dict[str, type[Int8Linear] | type[Nf4Linear]] = {"int8": Int8Linear, "nf4": Nf4Linear}


class QuantisedFactory:
    """Makes a model's inner linears of one kind."""

    def __init__(self, quantization: str, dtype: torch.dtype) -> None:
        """
        Raises:
            SettingsError: bitsandbytes is not installed.
        """
        _library()
        self._kind, self._dtype = QUANTISED_KINDS[quantization], dtype

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
        return self._kind(weight, bias, self._dtype)


def _library() -> Any:
    try:
        return importlib.import_module("bitsandbytes")
    except ModuleNotFoundError as exc:
        raise SettingsError("engine.quantization", f"needs {exc.name}; install lmoe_ray[bnb]") from exc
