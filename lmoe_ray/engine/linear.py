"""A linear layer, ``x @ weight.T + bias``, in whichever form multiplies fastest on this machine.

A weight is laid out once, at load, for the library that will read it; what the libraries make of it
is the same product. Which ones exist depends on the processor and on torch, so a probe tries them on
one of the model's own weights, throws out those that fail or differ, and keeps the fastest.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
import torch.nn.functional as F

logger = logging.getLogger(__name__)

#: Rows the probe multiplies: one stream, and a full batch.
PROBE_ROWS = (1, 16)
PROBE_ROUNDS = 5

#: Half of float16's smallest step: what rounding to it may change in a weight too small for all of its bits.
HALF_STEP = 2.0**-25


class Linear(Protocol):
    """``x [num_tokens, in_features]`` to ``[num_tokens, out_features]``, both of the model's dtype."""

    @property
    def num_bytes(self) -> int: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class PlainLinear:
    """As torch has it; on a GPU there is nothing better."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        self._weight = weight.to(dtype)
        self._bias = None if bias is None else bias.to(dtype)
        self.num_bytes = self._weight.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)


class OneDnnLinear:
    """Packed by oneDNN, which otherwise lays the weight out anew in every call."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        plain = weight.to(dtype)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(plain, None)
        self._bias = None if bias is None else bias.to(dtype)
        self._multiply: Callable[..., torch.Tensor] = torch.ops.mkldnn._linear_pointwise.default
        self.num_bytes = plain.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._multiply(x, self._packed, self._bias, "none", [], "")


class HalfStoredLinear:
    """float32 arithmetic over weights that FBGEMM stores in float16: half the memory traffic, same values.

    Only for weights that came in 16 bits, and that float16 holds as they are.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        """
        Raises:
            ValueError: this weight, or another dtype, does not allow it.
        """
        if dtype is not torch.float32 or not is_held_by_half(weight):
            raise ValueError("needs float32 arithmetic and weights that float16 holds")
        self._bias = None if bias is None else bias.float()
        self._packed: Any = self._pack(weight.float())
        self.num_bytes = weight.numel() * 2

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        output = torch.fbgemm_linear_fp16_weight_fp32_activation(x, self._packed, None)
        return output if self._bias is None else output.add_(self._bias)

    def _pack(self, weight: torch.Tensor) -> Any:
        return torch.fbgemm_pack_gemm_matrix_fp16(weight)


class ThreadedHalfStoredLinear(HalfStoredLinear):
    """The same through torch's quantisation operators: slower per call, but it uses all threads."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16.default(x, self._packed)
        return output if self._bias is None else output.add_(self._bias)

    def _pack(self, weight: torch.Tensor) -> Any:
        return torch.ops.quantized.linear_prepack_fp16(weight, None)


LinearKind = type[PlainLinear] | type[OneDnnLinear] | type[HalfStoredLinear]
CPU_KINDS: tuple[LinearKind, ...] = (HalfStoredLinear, ThreadedHalfStoredLinear, OneDnnLinear)


class LinearFactory:
    """Makes a model's linears of one kind, and of the plain kind where a weight does not allow that one.

    Attributes:
        kind: the probe's choice.
    """

    def __init__(self, sample: torch.Tensor, dtype: torch.dtype, kinds: Iterable[LinearKind] = CPU_KINDS) -> None:
        """
        Args:
            sample: one of the weights to come, as the checkpoint has it, on its device.
            dtype: of activations and results.
        """
        self._dtype = dtype
        self.kind: LinearKind = PlainLinear
        if sample.device.type == "cpu":
            self.kind = fastest(sample, dtype, kinds)
        logger.info("linears kind=%s dtype=%s device=%s", self.kind.__name__, dtype, sample.device)

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
        for kind in (self.kind, OneDnnLinear if weight.device.type == "cpu" else PlainLinear):
            try:
                return kind(weight, bias, self._dtype)
            except (ValueError, RuntimeError, AttributeError) as exc:
                logger.warning("linear falls back shape=%s kind=%s: %s", tuple(weight.shape), kind.__name__, exc)
        return PlainLinear(weight, bias, self._dtype)


def is_held_by_half(weight: torch.Tensor) -> bool:
    """Whether float16 holds a 16-bit weight: nothing overflows, and only bits below its last step are lost."""
    if weight.dtype not in (torch.bfloat16, torch.float16):
        return False
    exact = weight.float()
    return bool((exact.half().float() - exact).abs().max() <= HALF_STEP)


def fastest(sample: torch.Tensor, dtype: torch.dtype, kinds: Iterable[LinearKind]) -> LinearKind:
    """The quickest kind whose product is the plain one's, up to rounding."""
    inputs = [torch.randn(rows, sample.shape[1]).to(dtype) for rows in PROBE_ROWS]
    linears: dict[LinearKind, Linear] = {PlainLinear: PlainLinear(sample, None, dtype)}
    expected = [linears[PlainLinear](x) for x in inputs]
    magnitude = max(float((x.abs().float() @ sample.abs().float().T).max()) for x in inputs)
    for kind in kinds:
        try:
            linear = _make_quietly(kind, sample, dtype, inputs)
        except (ValueError, RuntimeError, AttributeError) as exc:
            logger.info("linear kind=%s is not for this machine or model: %s", kind.__name__, exc)
            continue
        if all(_is_close(linear(x), y, magnitude) for x, y in zip(inputs, expected, strict=True)):
            linears[kind] = linear
        else:
            logger.warning("linear kind=%s multiplies wrongly on this machine and is left out", kind.__name__)
    # One stream's step and a full batch's weigh the same, though the latter takes longer.
    plain = [_duration_s(linears[PlainLinear], x) for x in inputs]
    cost = {
        kind: sum(_duration_s(linear, x) / alone for x, alone in zip(inputs, plain, strict=True))
        for kind, linear in linears.items()
    }
    return min(cost, key=cost.__getitem__)


def _make_quietly(kind: LinearKind, sample: torch.Tensor, dtype: torch.dtype, inputs: list[torch.Tensor]) -> Linear:
    """FBGEMM's entry points announce that a later torch drops them; then the probe will choose another kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        linear: Linear = kind(sample, None, dtype)
        linear(inputs[0])
    return linear


def _is_close(output: torch.Tensor, expected: torch.Tensor, magnitude: float) -> bool:
    """``magnitude``: of the summands, which rounding errors are proportional to."""
    return bool((output - expected).abs().max() <= 4 * torch.finfo(expected.dtype).eps * magnitude)


def _duration_s(linear: Linear, x: torch.Tensor) -> float:
    """The least of several runs: what disturbs a run only ever makes it longer."""
    durations = []
    for _ in range(PROBE_ROUNDS):
        began_s = time.perf_counter()
        linear(x)
        durations.append(time.perf_counter() - began_s)
    return min(durations)
