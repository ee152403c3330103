"""The compiled kernels against torch's operators, over the shapes models come in and some they do not.

All of it for every width of vector that the source knows: where the processor has none so wide, the
compiler makes one out of several.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from lmoe_ray.engine import base_model, batch, cpu_kernels, cpu_ops, kv_cache, layer_ops, lora, model_shape
from lmoe_ray.engine.adapter_weights import AdapterWeights

pytestmark = pytest.mark.torch

CPU, BLOCK_SIZE, NUM_BLOCKS, MAX_LEN = torch.device("cpu"), 16, 40, 128
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}
SHAPE = model_shape.ModelShape(
    num_layers=1,
    hidden_size=64,
    intermediate_size=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=32,
    max_positions=MAX_LEN,
    norm_eps=1e-5,
    activation="silu",
    windows=(None,),
    biased=frozenset(),
    has_qk_norm=False,
    is_tied=True,
)


@pytest.fixture(params=[4, 8, 16], ids="width {}".format, autouse=True)
def width(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Floats in a vector of the kernels under test."""
    source = tmp_path / cpu_kernels.SOURCE.name
    source.write_text(f"#define WIDTH {request.param}\n{cpu_kernels.SOURCE.read_text()}")
    monkeypatch.setattr(cpu_kernels, "SOURCE", source)
    chosen: int = request.param
    return chosen


class Pair:
    """Kernels and torch side by side, each with a cache of its own, over one bank."""

    def __init__(self, cache_dir: Path, dtype: torch.dtype = torch.float32, **shape: Any) -> None:
        self.shape, self.dtype = dataclasses.replace(SHAPE, **shape), dtype
        self.chance = torch.Generator().manual_seed(7)
        norm = self.random(self.shape.head_dim) if self.shape.has_qk_norm else None
        self.layer = base_model.Layer({}, self.random(1), self.random(1), norm, norm, self.shape.windows[0])
        angle = torch.rand(MAX_LEN, self.shape.head_dim // 2, generator=self.chance).repeat(1, 2) * 6
        model = base_model.BaseModel(
            shape=self.shape,
            layers=(self.layer,),
            embedding=self.random(1, 1),
            final_norm=self.random(1),
            lm_head=lambda x: x,  # type: ignore[arg-type]
            cos=angle.cos().to(dtype),
            sin=angle.sin().to(dtype),
            activation=torch.nn.functional.silu,
            dtype=dtype,
            device=CPU,
        )
        self.bank = lora.AdapterBank(self.shape, 6, 65, dtype=dtype, device=CPU)
        self.kernels = cpu_ops.CpuOps(
            model, self._cache(), self.bank, cpu_kernels.CpuKernels(dtype, cache_dir / "kernels")
        )
        self.plain = layer_ops.LayerOps(model, self._cache(), self.bank)
        self._builder = batch.BatchBuilder(CPU, BLOCK_SIZE)

    def random(self, *size: int) -> torch.Tensor:
        return torch.randn(*size, generator=self.chance).to(self.dtype)

    def begin(self, *pieces: tuple[int, int, int], num_decode: int = 0) -> int:
        """Start a step of ``(start, number of tokens, adapter slot)`` pieces; returns how many tokens that are."""
        made = [
            batch.Piece([0] * count, start, [(row * 8 + 7 - b) % NUM_BLOCKS for b in range(8)], slot)
            for row, (start, count, slot) in enumerate(pieces)
        ]
        built = self._builder.assemble(made, [0], num_decode=num_decode)
        self.kernels.begin(built)
        self.plain.begin(built)
        return built.num_tokens

    def attention(self, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        qkv = self.random(num_tokens, self.shape.group("qkv")[0])
        both = (self.kernels.attention(0, self.layer, qkv.clone()), self.plain.attention(0, self.layer, qkv.clone()))
        return both

    def assert_close(self, got: torch.Tensor, expected: torch.Tensor) -> None:
        scale = max(1.0, expected.abs().max().item())
        assert (got.float() - expected.float()).abs().max().item() <= TOLERANCE[self.dtype] * scale

    def _cache(self) -> kv_cache.KVCache:
        return kv_cache.KVCache(
            self.shape.cache_shape, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, dtype=self.dtype, device=CPU
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim"),
    [(4, 4, 16), (4, 2, 32), (9, 3, 64), (4, 1, 128), (7, 1, 96), (8, 1, 64), (14, 2, 64), (5, 1, 16)],
)
def test_attention_over_the_cache(
    num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, cache_dir: Path
) -> None:
    pair = Pair(cache_dir, dtype, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
    # Prompts that end before, on and after the end of a block; then one more token each beside a new chunk.
    pair.assert_close(*pair.attention(pair.begin((0, 15, 0), (0, 16, 0), (0, 33, 0), (0, 1, 0))))
    got, expected = pair.attention(pair.begin((15, 1, 0), (16, 1, 0), (33, 1, 0), (1, 20, 0), num_decode=3))
    pair.assert_close(got, expected)
    for kept, wanted in zip(pair.kernels.cache.keys, pair.plain.cache.keys, strict=True):
        pair.assert_close(kept, wanted)
    assert all(map(torch.equal, pair.kernels.cache.values, pair.plain.cache.values))


@pytest.mark.parametrize("window", [1, 5, 16, 20])
def test_attention_sees_only_its_window(window: int, cache_dir: Path) -> None:
    pair = Pair(cache_dir, windows=(window,))
    pair.assert_close(*pair.attention(pair.begin((0, 50, 0), (0, 3, 0))))
    pair.assert_close(*pair.attention(pair.begin((50, 1, 0), (3, 1, 0), num_decode=2)))


def test_queries_and_keys_are_normalised_before_they_are_turned(cache_dir: Path) -> None:
    pair = Pair(cache_dir, has_qk_norm=True)
    pair.assert_close(*pair.attention(pair.begin((0, 19, 0))))


def test_very_large_scores_do_not_overflow(cache_dir: Path) -> None:
    pair = Pair(cache_dir)
    num_tokens = pair.begin((0, 30, 0))
    qkv = 300 * pair.random(num_tokens, pair.shape.group("qkv")[0])
    got, expected = (ops.attention(0, pair.layer, qkv.clone()) for ops in (pair.kernels, pair.plain))
    assert torch.isfinite(got).all()
    pair.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1, 7, 8, 64, 577])
def test_norms_and_gates_of_any_width(size: int, dtype: torch.dtype, cache_dir: Path) -> None:
    pair = Pair(cache_dir, dtype)
    x, delta, weight = pair.random(3, size), pair.random(3, size), pair.random(size)
    ours, theirs = x.clone(), x.clone()
    got, expected = pair.kernels.add_norm(ours, delta, weight), pair.plain.add_norm(theirs, delta, weight)
    pair.assert_close(got, expected)
    assert torch.equal(ours, theirs)
    pair.assert_close(pair.kernels.add_norm(x, None, weight), pair.plain.add_norm(x, None, weight))
    gate_up = 20 * pair.random(3, 2 * size)
    pair.assert_close(pair.kernels.gate(gate_up), pair.plain.gate(gate_up))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_gates_far_out_are_closed_or_open(dtype: torch.dtype, cache_dir: Path) -> None:
    pair = Pair(cache_dir, dtype)
    gates = torch.tensor([30.0, 80, 87, 88, 89, 100, 126, 150, 177, 178, 200, 1000, 1e4, 1e30, 0, 1]).to(dtype)
    gate_up = torch.cat((gates, -gates, torch.ones(32, dtype=dtype)))[None]
    got, expected = pair.kernels.gate(gate_up), pair.plain.gate(gate_up)
    assert torch.allclose(got.float(), expected.float(), rtol=TOLERANCE[dtype], atol=1e-6)


def test_the_kernels_are_of_the_width_that_was_asked_for(width: int, cache_dir: Path) -> None:
    assert cpu_kernels.CpuKernels(torch.float32, cache_dir / "kernels").width == width


def load(pair: Pair, slot: int, rank: int, names: tuple[str, ...] = model_shape.LINEARS) -> None:
    matrices = {}
    for name in names:
        out_features, in_features = pair.shape.linear(name)
        matrices[0, name] = (pair.random(rank, in_features) / 8, pair.random(rank, out_features) / 8)
    pair.bank.load(slot, AdapterWeights(str(slot), str(slot), rank, matrices))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sizes", [{}, {"hidden_size": 57, "intermediate_size": 35, "head_dim": 8}], ids=["even", "odd"]
)
def test_every_token_gets_its_own_adapter_and_no_other(
    sizes: dict[str, int], dtype: torch.dtype, cache_dir: Path
) -> None:
    pair = Pair(cache_dir, dtype, **sizes)
    for slot, rank in enumerate((1, 3, 16, 65, 7), 1):
        load(pair, slot, rank)
    load(pair, 6, 4, names=("k_proj", "down_proj"))
    # Runs of one to nine tokens, some of the base, and one adapter twice.
    slots = [0, 1, 2, 3, 0, 4, 5, 6, 1]
    num_tokens = pair.begin(*((0, count, slot) for count, slot in enumerate(slots, 1)))
    for group in model_shape.GROUPS:
        out_features, in_features = pair.shape.group(group)
        x, output = pair.random(num_tokens, in_features), pair.random(num_tokens, out_features)
        got, expected = output.clone(), output.clone()
        pair.kernels.add_lora(got, x, 0, group)
        pair.plain.add_lora(expected, x, 0, group)
        pair.assert_close(got, expected)
        assert torch.equal(got[0], output[0])
        assert not torch.equal(got[1], output[1])


def test_two_threads_compute_what_one_does(cache_dir: Path) -> None:
    pair = Pair(cache_dir)
    load(pair, 1, 16)
    num_threads = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            pair.chance.manual_seed(1)
            num_tokens = pair.begin((0, 30, 1), (0, 9, 0))
            output, x = pair.random(num_tokens, pair.shape.group("o")[0]), pair.random(num_tokens, 64)
            pair.kernels.add_lora(output, x, 0, "o")
            results.append((pair.attention(num_tokens)[0], output))
    finally:
        torch.set_num_threads(num_threads)
    assert all(itertools.starmap(torch.equal, zip(*results, strict=True)))
