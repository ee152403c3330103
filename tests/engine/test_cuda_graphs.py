"""Padded decode steps in fixed tensors, without a GPU: what a graph would replay is simply called again."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lmoe_ray.domain.package import LMoEPackage
from lmoe_ray.engine import adapter_weights, base_model, cuda_graphs, kv_cache, layer_ops, lora, model_runner
from lmoe_ray.engine import batch as batch_module
from lmoe_ray.engine import padded_batch as padded_module

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

CPU, BLOCK_SIZE, NUM_POSITIONS, NUM_BLOCKS, NUM_SLOTS = torch.device("cpu"), 4, 32, 40, 6


class CallAgain:
    """Stands in for a capture: a replay runs the launch on whatever its tensors hold by then."""

    def __init__(self) -> None:
        self.num_captured = 0

    def __call__(self, launch: Callable[[], torch.Tensor]) -> cuda_graphs.Replay:
        self.num_captured += 1
        return launch


class TileOps(layer_ops.LayerOps):
    """Finds each token's adapter where the GPU's kernels do: in the table of tiles, if the batch has one."""

    def add_lora(self, output: torch.Tensor, x: torch.Tensor, index: int, group: str) -> None:
        padded = self.batch
        if isinstance(padded, padded_module.PaddedBatch):
            tiles = [batch_module.Segment(*row) for row in padded.tiles.table.tolist() if row[2]]
            self.batch = dataclasses.replace(padded, segments=tuple(tiles))
        super().add_lora(output, x, index, group)
        self.batch = padded


class Rig:
    """The plain runner and one over padded batches, each with a cache of its own; adapter ``n`` in slot ``n``."""

    def __init__(self, folder: Path, package: LMoEPackage) -> None:
        self.model = base_model.load_base_model(folder, max_model_len=NUM_POSITIONS, dtype=torch.float32, device=CPU)
        shape = self.model.shape
        self.bank = lora.AdapterBank(shape, NUM_SLOTS, 8, dtype=torch.float32, device=CPU)
        for slot, expert in enumerate(package.experts[:NUM_SLOTS], 1):
            self.bank.load(slot, adapter_weights.read_adapter(expert, shape, max_rank=8, dtype=torch.float32))
        self.builder = batch_module.BatchBuilder(CPU, BLOCK_SIZE)
        self.capture = CallAgain()
        self.plain, _ = self._runner()
        padded, self.cache = self._runner()
        self.graphs = cuda_graphs.GraphRunner(padded, self._make_inputs, self.capture)

    def _runner(self) -> tuple[Any, Any]:
        shape = self.model.shape.cache_shape
        cache = kv_cache.KVCache(shape, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, dtype=torch.float32, device=CPU)
        return model_runner.ModelRunner(TileOps(self.model, cache, self.bank)), cache

    def _make_inputs(self, bucket: int) -> padded_module.PaddedInputs:
        return padded_module.PaddedInputs(
            bucket, self.cache, num_positions=NUM_POSITIONS, num_slots=NUM_SLOTS, device=CPU
        )

    def compare(self, pieces: list[batch_module.Piece], num_decode: int) -> None:
        """Both runners give the sampled tokens the same logits."""
        sampled = [sum(len(piece.ids) for piece in pieces[: row + 1]) - 1 for row in range(len(pieces))]
        batch = self.builder.assemble(pieces, sampled, num_decode=num_decode)
        with torch.inference_mode():
            expected, actual = self.plain.run(batch), self.graphs.run(batch)
        assert actual.shape == expected.shape
        assert torch.allclose(actual, expected, atol=1e-4)


@pytest.fixture
def rig(llama: Path, package: LMoEPackage) -> Rig:
    return Rig(llama, package)


class Sequences:
    """Prompts of different lengths in blocks of their own, read first and then decoded token by token."""

    def __init__(self, slots: list[int]) -> None:
        chance = random.Random(1)
        self.slots = sorted(slots)
        self.texts = [[chance.randrange(3, 330) for _ in range(12)] for _ in slots]
        self.blocks = [range(4 * row, 4 * row + 4) for row in range(len(slots))]
        self.read = [3 + row % 4 for row in range(len(slots))]

    def prompts(self) -> list[batch_module.Piece]:
        return [
            batch_module.Piece(text[:end], 0, blocks, slot)
            for text, end, blocks, slot in zip(self.texts, self.read, self.blocks, self.slots, strict=True)
        ]

    def next(self, rows: list[int]) -> list[batch_module.Piece]:
        pieces = [
            batch_module.Piece([self.texts[row][self.read[row]]], self.read[row], self.blocks[row], self.slots[row])
            for row in rows
        ]
        for row in rows:
            self.read[row] += 1
        return pieces


def test_decode_steps_of_changing_rows_and_adapters_are_those_of_the_plain_runner(rig: Rig) -> None:
    sequences = Sequences([0, 0, 1, 1, 2, 3, 6, 6, 6])
    rig.compare(sequences.prompts(), 0)
    everyone = list(range(9))
    for rows in (everyone, [0, 1, 2, 5, 8], everyone, [1], [0], [4, 6, 7], [3, 4, 5, 6]):
        rig.compare(sequences.next(rows), len(rows))


def test_a_step_with_a_prompt_is_run_as_it_is(rig: Rig) -> None:
    sequences = Sequences([0, 1, 2])
    rig.compare(sequences.prompts(), 0)
    late = batch_module.Piece([5, 6, 7], 0, range(36, 40), 3)
    rig.compare([*sequences.next([0, 1, 2]), late], 3)
    assert rig.capture.num_captured == 0


def test_each_bucket_is_captured_once_with_adapters_and_once_without(rig: Rig) -> None:
    sequences = Sequences([0, 0, 0, 1, 1, 1])
    rig.compare(sequences.prompts(), 0)
    for rows in ([3, 4, 5], [2, 3, 4, 5], [3, 4, 5]):
        rig.compare(sequences.next(rows), len(rows))
    assert rig.capture.num_captured == 1
    rig.compare(sequences.next([0, 1, 2]), 3)
    assert rig.capture.num_captured == 2


def test_padding_writes_to_the_scratch_block_and_to_no_other(rig: Rig) -> None:
    sequences = Sequences([0, 1, 2, 3, 4])
    rig.compare(sequences.prompts(), 0)
    before = [keys.clone() for keys in rig.cache.keys]
    pieces = sequences.next([0, 1, 2, 3, 4])
    written = {(piece.blocks[piece.start // BLOCK_SIZE], piece.start % BLOCK_SIZE) for piece in pieces}
    rig.compare(pieces, 5)
    changed = (rig.cache.keys[0] != before[0]).any(3).any(1).nonzero().tolist()
    assert {tuple(place) for place in changed} == written | {(rig.cache.scratch_block, 0)}


@pytest.mark.parametrize(("num_rows", "bucket"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16), (24, 24), (25, 32)])
def test_buckets_are_powers_of_two_and_then_multiples_of_eight(num_rows: int, bucket: int) -> None:
    assert padded_module.bucket_of(num_rows) == bucket
