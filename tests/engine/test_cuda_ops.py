"""The fused operators, attention over pages and captured steps on a real GPU, against torch's own operators."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from lmoe_ray.domain.package import LMoEPackage
from lmoe_ray.engine import base_model, kv_cache, loaded_model
from lmoe_ray.engine import batch as batch_module

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

NUM_POSITIONS, NUM_BLOCKS, MAX_RANK = 512, 24, 8
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Rig:
    """A tiny model on a device; adapter ``n`` of the package in slot ``n``."""

    def __init__(
        self, folder: Path, package: LMoEPackage, dtype: torch.dtype, device: torch.device, kernel_dir: Path | None
    ) -> None:
        base = base_model.load_base_model(folder, max_model_len=NUM_POSITIONS, dtype=dtype, device=device)
        model = loaded_model.FlatModel(base, kernel_dir=kernel_dir)
        # One block size for all, so that one list of pieces does for every device.
        cache = kv_cache.KVCache(
            model.cache_shape,
            num_blocks=NUM_BLOCKS,
            block_size=kv_cache.CUDA_BLOCK_SIZE,
            dtype=dtype,
            device=device,
        )
        bank = model.make_bank(len(package.experts), MAX_RANK)
        for slot, expert in enumerate(package.experts, 1):
            bank.load(slot, model.read_adapter(expert, MAX_RANK))
        self._builder = batch_module.BatchBuilder(device, kv_cache.CUDA_BLOCK_SIZE)
        self.runner: Any = model.make_runner(cache, bank)

    def run(self, pieces: list[batch_module.Piece], num_decode: int) -> torch.Tensor:
        """Logits of each piece's last token, on the CPU."""
        last = [sum(len(piece.ids) for piece in pieces[: row + 1]) - 1 for row in range(len(pieces))]
        with torch.inference_mode():
            return self.runner.run(self._builder.assemble(pieces, last, num_decode=num_decode)).cpu()


def steps(slots: list[int], num_steps: int) -> list[tuple[list[batch_module.Piece], int]]:
    """Prompts of different lengths, one of them longer than a block, then some of the sequences decoding in turn."""
    chance = random.Random(3)
    slots = sorted(slots)
    lengths = [5 + 3 * row for row in range(len(slots) - 1)] + [300]
    texts = [[chance.randrange(3, 330) for _ in range(length + num_steps)] for length in lengths]
    blocks = [range(2 * row, 2 * row + 2) for row in range(len(slots))]
    prompts = [batch_module.Piece(texts[r][: lengths[r]], 0, blocks[r], slots[r]) for r in range(len(slots))]
    plan, ends = [(prompts, 0)], list(lengths)
    for _ in range(num_steps):
        rows = sorted(chance.sample(range(len(slots)), chance.randint(1, len(slots))))
        pieces = [batch_module.Piece([texts[r][ends[r]]], ends[r], blocks[r], slots[r]) for r in rows]
        for row in rows:
            ends[row] += 1
        plan.append((pieces, len(rows)))
    return plan


PLAN = steps([0, 0, 1, 1, 2, 3, 4, 5, 6], num_steps=8)


def test_mixed_adapters_compute_what_torchs_operators_do(llama: Path, package: LMoEPackage, tmp_path: Path) -> None:
    fused = Rig(llama, package, torch.bfloat16, CUDA, tmp_path)
    plain = Rig(llama, package, torch.bfloat16, CUDA, None)
    exact = Rig(llama, package, torch.float32, CPU, None)
    for pieces, num_decode in PLAN:
        truth = exact.run(pieces, num_decode)
        fused_error = (fused.run(pieces, num_decode) - truth).norm()
        plain_error = (plain.run(pieces, num_decode) - truth).norm()
        # Both round to bfloat16, ours less often; neither may be much further from the truth than the other.
        assert fused_error < 1.3 * plain_error + 1e-3 * truth.norm()
        assert fused_error < 0.05 * truth.norm()


def test_decode_steps_are_captured(llama: Path, package: LMoEPackage, tmp_path: Path) -> None:
    rig = Rig(llama, package, torch.bfloat16, CUDA, tmp_path)
    assert type(rig.runner).__name__ == "GraphRunner"


@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
def test_float32_on_a_gpu_chooses_the_tokens_a_cpu_does(
    is_fused: bool, llama: Path, package: LMoEPackage, tmp_path: Path
) -> None:
    on_gpu = Rig(llama, package, torch.float32, CUDA, tmp_path if is_fused else None)
    on_cpu = Rig(llama, package, torch.float32, CPU, None)
    for pieces, num_decode in PLAN:
        logits, expected = on_gpu.run(pieces, num_decode), on_cpu.run(pieces, num_decode)
        assert torch.equal(logits.argmax(-1), expected.argmax(-1))
        assert torch.allclose(logits, expected, atol=1e-3)
