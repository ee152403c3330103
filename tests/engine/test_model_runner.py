"""Logits of one forward pass over mixed adapters, against PEFT running each prompt alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lmoe_ray.domain.package import LMoEPackage, load_package
from lmoe_ray.engine import base_model, kv_cache, loaded_model
from lmoe_ray.engine import batch as batch_module
from tests.engine import oracles

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

LENGTH, BLOCK_SIZE, CPU = 96, 16, torch.device("cpu")
BLOCKS_PER_ROW = LENGTH // BLOCK_SIZE
ROPES = {
    "linear": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 128},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "rope_theta": 10000.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


class Rig:
    """A model, a cache and a bank in which adapter ``n`` of the package sits in slot ``n + 1``.

    A row of the cache is a run of blocks, given out backwards so that neighbours in a table are none in memory.
    """

    def __init__(self, folder: Path, package: LMoEPackage | None, kernel_dir: Path | None) -> None:
        weights = base_model.load_base_model(folder, max_model_len=LENGTH, dtype=torch.float32, device=CPU)
        model = loaded_model.FlatModel(weights, kernel_dir=kernel_dir)
        cache = kv_cache.KVCache(
            model.cache_shape, num_blocks=8 * BLOCKS_PER_ROW, block_size=BLOCK_SIZE, dtype=model.dtype, device=CPU
        )
        bank = model.make_bank(16, 16)
        for slot, expert in enumerate(package.experts if package else (), 1):
            bank.load(slot, model.read_adapter(expert, 64))
        self._builder = batch_module.BatchBuilder(CPU, BLOCK_SIZE)
        self._runner = model.make_runner(cache, bank)

    def piece(self, ids: list[int], start: int, row: int, slot: int) -> Any:
        blocks = [BLOCKS_PER_ROW * (row + 1) - 1 - index for index in range(BLOCKS_PER_ROW)]
        return batch_module.Piece(ids, start, blocks, slot)

    def run(self, decode: list[Any], prefill: list[Any]) -> Any:
        """Logits of every token of the batch."""
        num_tokens = len(decode) + sum(len(piece.ids) for piece in prefill)
        batch = self._builder.assemble([*decode, *prefill], range(num_tokens), num_decode=len(decode))
        with torch.inference_mode():
            return self._runner.run(batch)


@pytest.fixture(params=["kernels", "torch"])
def kernel_dir(request: pytest.FixtureRequest, cache_dir: Path) -> Path | None:
    """Each test runs with compiled kernels and without."""
    return cache_dir / "kernels" if request.param == "kernels" else None


def random_ids(num_tokens: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(3, 330) for _ in range(num_tokens)]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma"])
def test_logits_of_mixed_prompts_chunks_and_decoding_rows_are_those_of_each_alone(
    family: str,
    tiny: Any,
    model_folder: Callable[[str], Path],
    tmp_path: Path,
    package: LMoEPackage,
    kernel_dir: Path | None,
) -> None:
    folder = model_folder(family)
    if family != "llama":
        package = load_package(tiny.make_tiny_package(tmp_path, folder))
    rig = Rig(folder, package, kernel_dir)
    adapters = [None, *(expert.weights.parent for expert in package.experts)]
    texts = [random_ids(20 + 5 * row, row) for row in range(len(adapters))]
    expected = [oracles.reference_logits(folder, ids, adapter) for ids, adapter in zip(texts, adapters, strict=True)]

    first = rig.run([], [rig.piece(ids[:9], 0, row, row) for row, ids in enumerate(texts)])
    assert torch.allclose(first, torch.cat([logits[:9] for logits in expected]), atol=2e-4)
    # Rows 0 and 2 decode; the others go on with their prompts, one of them in a one-token chunk.
    decode = [rig.piece(texts[row][9:10], 9, row, row) for row in (0, 2)]
    sizes = {row: 1 if row == 1 else 8 for row in range(len(texts)) if row not in (0, 2)}
    prefill = [rig.piece(texts[row][9 : 9 + size], 9, row, row) for row, size in sizes.items()]
    second = rig.run(decode, prefill)
    parts = [expected[0][9:10], expected[2][9:10], *(expected[row][9 : 9 + size] for row, size in sizes.items())]
    assert torch.allclose(second, torch.cat(parts), atol=2e-4)


@pytest.mark.parametrize("rope", ROPES)
def test_every_scaling_of_the_rotation_is_computed(
    rope: str, tiny: Any, tmp_path: Path, kernel_dir: Path | None
) -> None:
    folder = tiny.make_tiny_model(tmp_path / rope, rope_parameters=ROPES[rope])
    rig, ids = Rig(folder, None, kernel_dir), random_ids(80, 4)
    assert torch.allclose(rig.run([], [rig.piece(ids, 0, 0, 0)]), oracles.reference_logits(folder, ids), atol=2e-4)


@pytest.mark.parametrize("extra", [{"sliding_window": 20}, {"sliding_window": 3}])
def test_a_sliding_window_hides_what_lies_before_it(
    extra: dict[str, Any], tiny: Any, tmp_path: Path, kernel_dir: Path | None
) -> None:
    folder = tiny.make_tiny_model(tmp_path / "windowed", "mistral", **extra)
    rig, ids = Rig(folder, None, kernel_dir), random_ids(70, 5)
    expected = oracles.reference_logits(folder, ids)
    first = rig.run([], [rig.piece(ids[:40], 0, 0, 0)])
    rest = [rig.run([rig.piece([ids[at]], at, 0, 0)], []) for at in range(40, 70)]
    assert torch.allclose(torch.cat([first, *rest]), expected, atol=2e-4)


def test_biases_of_all_linears_are_added(tiny: Any, tmp_path: Path, kernel_dir: Path | None) -> None:
    folder = tiny.make_tiny_model(tmp_path / "biased", attention_bias=True, mlp_bias=True)
    rig, ids = Rig(folder, None, kernel_dir), random_ids(12, 6)
    assert torch.allclose(rig.run([], [rig.piece(ids, 0, 0, 0)]), oracles.reference_logits(folder, ids), atol=2e-4)


def test_a_base_row_beside_adapters_is_exactly_as_good_as_alone(
    llama: Path, package: LMoEPackage, kernel_dir: Path | None
) -> None:
    rig, ids = Rig(llama, package, kernel_dir), random_ids(8, 3)
    alone = rig.run([], [rig.piece(ids, 0, 0, 0)])
    mixed = rig.run([], [rig.piece(ids, 0, 0, 0), rig.piece(ids, 0, 1, 4)])
    assert torch.allclose(mixed[:8], alone, atol=1e-5)
    assert not torch.allclose(mixed[8:], alone, atol=0.1)
