"""Rows of the cache: writing, moving, and how many there are."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmoe_ray.engine import kv_cache, lazy_memory
from lmoe_ray.errors import SettingsError

pytestmark = pytest.mark.torch

SHAPE = SimpleNamespace(num_layers=2, num_kv_heads=1, head_dim=2)
MIB = 1 << 20


def make() -> Any:
    return kv_cache.KVCache(SHAPE, num_rows=3, max_model_len=4, dtype=torch.float32, device=torch.device("cpu"))


def test_each_token_goes_to_its_row_and_position() -> None:
    cache = make()
    keys = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    cache.write(1, torch.tensor([2, 0]), torch.tensor([3, 1]), keys, -keys)
    assert cache.keys[1][2, 0, 3].tolist() == [1, 2]
    assert cache.values[1][0, 0, 1].tolist() == [-3, -4]
    assert cache.keys[1].count_nonzero() == 4
    assert not cache.keys[0].any()


def test_moving_a_row_copies_as_many_tokens_as_it_holds() -> None:
    cache = make()
    for layer in (0, 1):
        cache.keys[layer][2] = cache.values[layer][2] = layer + 1.0
    cache.move_row(2, 0, 3)
    assert cache.keys[1][0, 0, :, 0].tolist() == [2, 2, 2, 0]
    assert cache.values[0][0, 0, :, 0].tolist() == [1, 1, 1, 0]


def test_a_rows_memory_counts_keys_and_values_of_all_layers() -> None:
    assert kv_cache.row_bytes(SHAPE, 4, torch.float32) == sum(t[0].nbytes for t in (*make().keys, *make().values))


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


def test_all_rows_fit_a_large_budget() -> None:
    assert kv_cache.rows_within(100 * MIB, MIB, 32, 4096) == 32


def test_a_small_budget_holds_fewer_rows_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert kv_cache.rows_within(5 * MIB + 1, MIB, 32, 4096) == 5
    assert "max_num_seqs=32 num_rows=5" in caplog.text


@pytest.mark.parametrize("budget_bytes", [MIB - 1, -5])
def test_a_budget_below_one_row_is_refused(budget_bytes: int) -> None:
    with pytest.raises(SettingsError, match="lower max_model_len"):
        kv_cache.rows_within(budget_bytes, MIB, 32, 4096)


def test_on_a_gpu_the_budget_is_this_process_share_less_weights_and_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SimpleNamespace(num_layers=1, num_kv_heads=1, head_dim=128)
    model = SimpleNamespace(
        device=torch.device("cuda"), dtype=torch.float16, shape=shape, weight_bytes=2 * kv_cache.RESERVE_BYTES
    )
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=10 * kv_cache.RESERVE_BYTES)
    )
    knobs = {"max_num_seqs": 10_000, "max_model_len": 2048, "bank_bytes": kv_cache.RESERVE_BYTES}
    row = kv_cache.row_bytes(shape, 2048, torch.float16)
    half = kv_cache.count_rows(model, memory_fraction=0.5, **knobs)
    whole = kv_cache.count_rows(model, memory_fraction=1.0, **knobs)
    assert half == (5 - 2 - 1 - 1) * kv_cache.RESERVE_BYTES // row
    assert whole == (10 - 2 - 1 - 1) * kv_cache.RESERVE_BYTES // row


def test_on_a_cpu_every_sequence_has_a_row() -> None:
    model = SimpleNamespace(device=torch.device("cpu"))
    assert kv_cache.count_rows(model, max_num_seqs=7, max_model_len=9, bank_bytes=0, memory_fraction=0.1) == 7
