"""Blocks of the cache: where tokens go, what is read back, and how many blocks there are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmoe_ray.engine import kv_cache, lazy_memory, model_shape
from lmoe_ray.errors import SettingsError

pytestmark = pytest.mark.torch

SHAPE = model_shape.CacheShape(num_layers=2, num_kv_heads=2, head_dim=2)
MIB = 1 << 20


def make(device: str = "cpu") -> Any:
    """Three blocks of four tokens; a device other than the CPU only changes the layout."""
    cache = kv_cache.KVCache(SHAPE, num_blocks=3, block_size=4, dtype=torch.float32, device=torch.device(device))
    return cache


def filled(cache: Any, cache_slots: list[int]) -> torch.Tensor:
    """Write tokens whose keys count up, ``[num_tokens, 2, 2]``, to layer 1."""
    keys = torch.arange(4.0 * len(cache_slots)).view(-1, 2, 2) + 1
    cache.write(1, torch.tensor(cache_slots), keys, -keys)
    return keys


def test_tokens_are_read_back_in_the_order_of_a_block_table() -> None:
    cache = make()
    keys = filled(cache, [8, 9, 10, 11, 2])
    read_keys, read_values = cache.read(1, torch.tensor([[2, 0]]))
    assert read_keys.shape == (1, 2, 8, 2)
    assert torch.equal(read_keys[0, :, :4], keys[:4].transpose(0, 1))
    assert torch.equal(read_values[0, :, 6], -keys[4])
    assert not cache.keys[0].any()


def test_a_heads_tokens_lie_together_on_a_cpu_and_a_tokens_heads_on_a_gpu() -> None:
    on_cpu, on_meta = make(), make("meta")
    assert on_cpu.keys[0].shape == (4, 2, 4, 2)
    assert on_meta.keys[0].shape == (4, 4, 2, 2)
    keys = filled(on_cpu, [5])
    assert torch.equal(on_cpu.keys[1][1, :, 1], keys[0])


def test_there_is_one_block_beyond_those_that_sequences_own() -> None:
    assert make().scratch_block == make().num_blocks == 3
    assert len(make().keys[0]) == 4


def test_a_blocks_memory_counts_keys_and_values_of_all_layers() -> None:
    cache = make()
    assert kv_cache.block_bytes(SHAPE, 4, torch.float32) == sum(t[0].nbytes for t in (*cache.keys, *cache.values))


def test_lazy_memory_is_zero_and_can_be_written() -> None:
    tensor = lazy_memory.lazy_zeros((3, 5), torch.bfloat16, torch.device("cpu"))
    assert not tensor.any()
    tensor[1] = 2
    assert tensor.sum() == 10


def test_lazy_memory_costs_nothing_until_it_is_written() -> None:
    def resident_kib() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    before = resident_kib()
    tensor = lazy_memory.lazy_zeros((1 << 20, 1 << 10), torch.float32, torch.device("cpu"))
    assert tensor.nbytes == 4 << 30
    assert resident_kib() - before < 100_000


def test_a_budget_holds_as_many_blocks_as_fit() -> None:
    assert kv_cache.blocks_within(100 * MIB + 1, MIB, 16, 160) == 100


@pytest.mark.parametrize("budget_bytes", [10 * MIB - 1, -5])
def test_a_budget_below_one_whole_sequence_is_refused(budget_bytes: int) -> None:
    with pytest.raises(SettingsError, match=r"one sequence of 160 tokens needs 10 MiB of cache.*lower max_model_len"):
        kv_cache.blocks_within(budget_bytes, MIB, 16, 160)


def test_on_a_gpu_the_budget_is_this_process_share_less_what_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = kv_cache.RESERVE_BYTES
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=10 * unit))
    gpu = torch.device("cuda")
    assert kv_cache.cache_budget(gpu, 0.5, used_bytes=3 * unit, cpu_cache_bytes=7) == (5 - 3 - 1) * unit
    assert kv_cache.cache_budget(gpu, 2.0, used_bytes=3 * unit, cpu_cache_bytes=7) == (10 - 3 - 1) * unit


def test_on_a_cpu_the_budget_is_the_settings() -> None:
    assert kv_cache.cache_budget(torch.device("cpu"), 0.5, used_bytes=3, cpu_cache_bytes=7) == 7
