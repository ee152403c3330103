"""Logits of one forward pass over mixed adapters, against PEFT running each prompt alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lmoe_ray.domain.package import LMoEPackage, load_package
from lmoe_ray.engine import adapter_weights, base_model, kv_cache, lora, model_runner
from lmoe_ray.engine import batch as batch_module
from tests.engine import oracles

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

NUM_ROWS, LENGTH, CPU = 8, 96, torch.device("cpu")


class Rig:
    """A model, a cache and a bank in which adapter ``n`` of the package sits in slot ``n + 1``."""

    def __init__(self, folder: Path, package: LMoEPackage) -> None:
        dtype = torch.float32
        self.model = base_model.load_base_model(folder, max_model_len=LENGTH, dtype=dtype, device=CPU)
        shape = self.model.shape
        self.cache = kv_cache.KVCache(shape, num_rows=NUM_ROWS, max_model_len=LENGTH, dtype=dtype, device=CPU)
        self.bank = lora.AdapterBank(16, rank=1, dtype=dtype, device=CPU)
        for slot, expert in enumerate(package.experts, 1):
            self.bank.load(slot, adapter_weights.read_adapter(expert, shape, max_rank=64, dtype=dtype))
        self._builder = batch_module.BatchBuilder(self.model, LENGTH)
        self._runner = model_runner.ModelRunner(self.model)

    def run(self, decode: list[Any], prefill: list[Any]) -> Any:
        """Logits of every token of the batch."""
        num_tokens = len(decode) + sum(len(piece.ids) for piece in prefill)
        batch = self._builder.assemble(decode, prefill, range(num_tokens), self.bank)
        with torch.inference_mode():
            return self._runner.run(batch, self.cache, self.bank)


def random_ids(num_tokens: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(3, 330) for _ in range(num_tokens)]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_logits_of_mixed_prompts_chunks_and_decoding_rows_are_those_of_each_alone(
    family: str, tiny: Any, model_folder: Callable[[str], Path], tmp_path: Path, package: LMoEPackage
) -> None:
    folder = model_folder(family)
    if family != "llama":
        package = load_package(tiny.make_tiny_package(tmp_path, folder))
    rig, piece = Rig(folder, package), batch_module.Piece
    adapters = [None, *(expert.weights.parent for expert in package.experts)]
    texts = [random_ids(20 + 5 * row, row) for row in range(len(adapters))]
    expected = [oracles.reference_logits(folder, ids, adapter) for ids, adapter in zip(texts, adapters, strict=True)]

    first = rig.run([], [piece(ids[:9], 0, row, row) for row, ids in enumerate(texts)])
    assert torch.allclose(first, torch.cat([logits[:9] for logits in expected]), atol=2e-4)
    # Rows 0 and 2 decode; the others go on with their prompts, two of them in one-token chunks.
    decode = [piece(texts[row][9:10], 9, row, row) for row in (0, 2)]
    sizes = {row: 1 if row == 1 else 7 for row in range(len(texts)) if row not in (0, 2)}
    prefill = [piece(texts[row][9 : 9 + size], 9, row, row) for row, size in sizes.items()]
    second = rig.run(decode, prefill)
    parts = [expected[0][9:10], expected[2][9:10], *(expected[row][9 : 9 + size] for row, size in sizes.items())]
    assert torch.allclose(second, torch.cat(parts), atol=2e-4)


def test_a_moved_row_goes_on_where_it_was(llama: Path, package: LMoEPackage) -> None:
    rig, piece, ids = Rig(llama, package), batch_module.Piece, random_ids(12, 1)
    rig.run([], [piece(random_ids(30, 2), 0, 0, 1), piece(ids[:11], 0, 1, 2)])
    rig.cache.move_row(1, 0, 11)
    logits = rig.run([piece(ids[11:], 11, 0, 2)], [])
    expected = oracles.reference_logits(llama, ids, package.experts[1].weights.parent)[-1:]
    assert torch.allclose(logits, expected, atol=2e-4)


def test_a_base_row_beside_adapters_is_exactly_as_good_as_alone(llama: Path, package: LMoEPackage) -> None:
    rig, piece, ids = Rig(llama, package), batch_module.Piece, random_ids(8, 3)
    alone = rig.run([], [piece(ids, 0, 0, 0)])
    mixed = rig.run([], [piece(ids, 0, 0, 0), piece(ids, 0, 1, 4)])
    assert torch.allclose(mixed[:8], alone, atol=1e-5)
    assert not torch.allclose(mixed[8:], alone, atol=0.1)
