"""The GPU's kernels through the compiler, for a Hopper GPU that need not be there; run by ``test_cuda_kernels.py``.

The interpreter runs what the compiler may refuse: a variable of two types, a block too large for shared memory.
"""

from __future__ import annotations

from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lmoe_ray.engine import cuda_kernels, lora_kernels

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning")

HOPPER, SHARED_BYTES = GPUTarget("cuda", 90, 32), 227 << 10
HEADS = {"NUM_HEADS": 32, "NUM_KV_HEADS": 8, "HEAD_DIM": 128, "HEADS_BLOCK": 32, "HALF_BLOCK": 64}
DECODE = {"TILE": 16}
PREFILL = {"TILE": 64}
EXPAND = {"NUM_LINEARS": 3, "OUT_BLOCK": lora_kernels.OUT_BLOCK, "RANK_BLOCK": lora_kernels.RANK_BLOCK}

KERNELS: list[tuple[Any, dict[str, Any]]] = [
    (cuda_kernels._add_norm, {"HAS_DELTA": True, "BLOCK": 4096}),
    (cuda_kernels._rotate_and_store, HEADS | {"HAS_NORMS": False}),
    (cuda_kernels._rotate_and_store, HEADS | {"HAS_NORMS": True}),
    (cuda_kernels._silu_gate, {"BLOCK": cuda_kernels.GATE_BLOCK}),
    (lora_kernels._shrink, DECODE | {"ROWS_BLOCK": 16, "IN_BLOCK": lora_kernels.IN_BLOCK}),
    (lora_kernels._shrink, PREFILL | {"ROWS_BLOCK": 64, "IN_BLOCK": lora_kernels.IN_BLOCK}),
    (lora_kernels._expand, DECODE | EXPAND | {"NUM_SPLITS": 16}),
    (lora_kernels._expand, PREFILL | EXPAND | {"NUM_SPLITS": 1}),
]
#: Whatever is not a count or a tensor of the model's dtype.
TYPES = {"eps": "fp32", "positions": "*i64", "cache_slots": "*i64", "hidden": "*fp32", "tiles": "*i32"}
COUNTS = {"num_features", "num_tokens", "in_features", "num_rows", "split_size", "rank", "out0", "out1", "out2"}


def type_of(argument: str, dtype: str) -> str:
    return TYPES.get(argument, "i32" if argument in COUNTS else f"*{dtype}")


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("kernel", "constants"), KERNELS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_kernel_compiles_and_its_blocks_fit(kernel: Any, constants: dict[str, Any], dtype: str) -> None:
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else type_of(name, dtype) for name in names}
    aligned: Any = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name][0] in "*i"
    }
    compiled: Any = triton.compile(ASTSource(kernel, signature, constants, aligned), target=HOPPER)
    assert compiled.metadata.shared <= SHARED_BYTES
    assert "ld.local" not in compiled.asm["ptx"]
