"""The GPU's kernels on CPU tensors, in Triton's interpreter; run by ``test_cuda_kernels.py`` in a process of its own.

The interpreter must be chosen before Triton is imported, and would stay for whatever else that process runs.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lmoe_ray.engine import batch as batch_module
from lmoe_ray.engine import cuda_kernels, layer_ops, lora, lora_kernels, lora_tiles, model_shape
from lmoe_ray.engine.adapter_weights import AdapterWeights

CPU, EPS, BLOCK_SIZE = torch.device("cpu"), 1e-5, 4

SHAPE = model_shape.ModelShape(
    num_layers=1,
    hidden_size=48,
    intermediate_size=80,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=11,
    max_positions=32,
    norm_eps=EPS,
    activation="silu",
    windows=(None,),
    biased=frozenset(),
    has_qk_norm=False,
    is_tied=True,
)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    torch.manual_seed(0)
    return request.param


#: The interpreter multiplies matrices of bfloat16 as if they were whole numbers.
half = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])


class PageCache:
    """A cache laid out as on a GPU, though on a CPU."""

    def __init__(self, dtype: torch.dtype, num_blocks: int = 5) -> None:
        self.block_size = BLOCK_SIZE
        size = (num_blocks, BLOCK_SIZE, SHAPE.num_kv_heads, SHAPE.head_dim)
        self.keys, self.values = [torch.zeros(size, dtype=dtype)], [torch.zeros(size, dtype=dtype)]

    def write(self, layer: int, cache_slots: Any, keys: Any, values: Any) -> None:
        self.keys[layer].flatten(0, 1)[cache_slots] = keys
        self.values[layer].flatten(0, 1)[cache_slots] = values


def close(actual: torch.Tensor, expected: torch.Tensor, steps: float = 4) -> bool:
    """Equal up to a few of the dtype's rounding steps of the largest value."""
    tolerance = steps * torch.finfo(expected.dtype).eps * expected.abs().max().item()
    return bool((actual.float() - expected.float()).abs().max() <= tolerance)


@pytest.mark.parametrize("num_features", [48, 64, 200])
def test_a_norm_is_torchs(num_features: int, dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, num_features).to(dtype), torch.randn(num_features).to(dtype)
    assert close(cuda_kernels.add_norm(x, None, weight, EPS), F.rms_norm(x, weight.shape, weight, EPS))


def test_what_is_added_before_a_norm_stays_added(dtype: torch.dtype) -> None:
    x, delta, weight = torch.randn(3, 48).to(dtype), torch.randn(3, 48).to(dtype), torch.randn(48).to(dtype)
    total = x + delta
    normed = cuda_kernels.add_norm(x, delta, weight, EPS)
    assert close(x, total, steps=2)  # the interpreter cuts off bits where a GPU rounds
    assert close(normed, F.rms_norm(total, weight.shape, weight, EPS))


def test_a_gate_is_torchs(dtype: torch.dtype) -> None:
    gate_up = torch.randn(3, 2 * 1100).to(dtype)
    gate, up = gate_up.float().chunk(2, -1)
    assert close(cuda_kernels.silu_gate(gate_up), (F.silu(gate) * up).to(dtype))


@pytest.mark.parametrize("has_norms", [False, True])
def test_queries_are_rotated_in_place_and_keys_and_values_go_to_their_cache_slots(
    has_norms: bool, dtype: torch.dtype
) -> None:
    positions, cache_slots = torch.tensor([0, 7, 31]), torch.tensor([17, 2, 9])
    angles = torch.rand(SHAPE.max_positions, SHAPE.head_dim // 2).repeat(1, 2) * 6
    model: Any = SimpleNamespace(shape=SHAPE, device=CPU, cos=angles.cos().to(dtype), sin=angles.sin().to(dtype))
    norms = (torch.randn(8).to(dtype), torch.randn(8).to(dtype)) if has_norms else None
    layer: Any = SimpleNamespace(q_norm=norms and norms[0], k_norm=norms and norms[1], window=None)
    qkv = torch.randn(3, (6 + 2 * 2) * 8).to(dtype)
    expected, actual = PageCache(dtype), PageCache(dtype)

    plain = QueriesOnly(model, expected, None)  # type: ignore[arg-type]
    plain.begin(SimpleNamespace(positions=positions, cache_slots=cache_slots, num_decode=0, pieces=()))  # type: ignore[arg-type]
    queries = plain.attention(0, layer, qkv)
    cuda_kernels.rotate_and_store(
        qkv, (model.cos, model.sin), positions, cache_slots, norms, (actual.keys[0], actual.values[0]), EPS
    )

    assert close(qkv[:, :48], queries)
    assert close(actual.keys[0], expected.keys[0])
    assert torch.equal(actual.values[0], expected.values[0])


class QueriesOnly(layer_ops.LayerOps):
    """Gives back the rotated queries instead of attending."""

    def attend(self, index: int, window: int | None, query: torch.Tensor) -> torch.Tensor:
        return query


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny inputs are split too."""
    monkeypatch.setattr(lora_kernels, "LEAST_INPUTS", 8)
    monkeypatch.setattr(lora_kernels, "IN_BLOCK", 16)


def make_bank(dtype: torch.dtype, ranks: dict[int, int], rank: int) -> lora.AdapterBank:
    """A bank with adapters of these ranks by slot; the last one leaves out the values."""
    bank = lora.AdapterBank(SHAPE, 4, rank, dtype=dtype, device=CPU)
    for slot, own_rank in ranks.items():
        matrices = {}
        for name in model_shape.LINEARS:
            out_features, in_features = SHAPE.linear(name)
            a, b = torch.randn(own_rank, in_features) / 8, torch.randn(own_rank, out_features) / 8
            if slot != max(ranks) or name != "v_proj":
                matrices[0, name] = (a.to(dtype), b.to(dtype))
        bank.load(slot, AdapterWeights(str(slot), str(slot), own_rank, matrices))
    return bank


#: One token, neighbours of different adapters, more than a tile of each kind, and gaps of the base model.
SEGMENTS = tuple(batch_module.Segment(*run) for run in ((0, 1, 1), (1, 2, 2), (5, 20, 4), (25, 70, 2), (97, 3, 1)))


@half
@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("group", ["o", "gate_up", "qkv"])
@pytest.mark.parametrize("tile_tokens", [lora_tiles.DECODE_TILE, lora_tiles.PREFILL_TILE])
@pytest.mark.parametrize("rank", [5, 80])
def test_every_token_gets_its_own_adapter_and_no_other(
    group: str, tile_tokens: int, rank: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    num_tokens, bank = 102, make_bank(dtype, {1: 3, 2: rank, 4: 2}, rank)
    out_features, in_features = SHAPE.group(group)
    x, base = torch.randn(num_tokens, in_features).to(dtype), torch.randn(num_tokens, out_features).to(dtype)
    ops = layer_ops.LayerOps(SimpleNamespace(shape=SHAPE), None, bank)  # type: ignore[arg-type]
    ops.batch = SimpleNamespace(segments=SEGMENTS)  # type: ignore[assignment]
    expected, actual = base.clone(), base.clone()
    ops.add_lora(expected, x, 0, group)

    table = torch.from_numpy(lora_tiles.cut_tiles(SEGMENTS, tile_tokens))
    adapters = bank.groups[0, group]
    bs = [linear.b for linear in adapters.linears]
    lora_kernels.add_lora(actual, x, adapters.a, bs, lora_tiles.LoraTiles(table, tile_tokens))

    assert close(actual, expected, steps=16)
    untouched = [3, 4, 95, 96, 100, 101]
    assert torch.equal(actual[untouched], base[untouched])


@half
@pytest.mark.usefixtures("splits")
def test_empty_rows_of_the_table_change_nothing(dtype: torch.dtype) -> None:
    bank, segments = make_bank(dtype, {1: 2}, 2), (batch_module.Segment(1, 2, 1),)
    adapters = bank.groups[0, "o"]
    x, outputs = torch.randn(4, 48).to(dtype), [torch.zeros(4, 48, dtype=dtype) for _ in range(2)]
    for output, num_rows in zip(outputs, (1, 3), strict=True):
        table = torch.from_numpy(lora_tiles.cut_tiles(segments, 16, num_rows=num_rows))
        lora_kernels.add_lora(output, x, adapters.a, [adapters.linears[0].b], lora_tiles.LoraTiles(table, 16))
    assert outputs[0][1:3].any()
    assert close(outputs[1], outputs[0])


def test_inputs_are_split_only_as_far_as_programs_are_wanted() -> None:
    assert lora_kernels.count_splits(4, 11008) == 16
    assert lora_kernels.count_splits(12, 4096) == 8
    assert lora_kernels.count_splits(100, 4096) == 2
    assert lora_kernels.count_splits(1000, 4096) == 1
    assert lora_kernels.count_splits(1, 64) == 1
