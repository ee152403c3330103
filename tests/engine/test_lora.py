"""The adapter bank against one adapter at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmoe_ray.engine import adapter_weights as weights_module
from lmoe_ray.engine import lora, model_shape

pytestmark = pytest.mark.torch

IN, OUT, PLACE = 6, 5, (0, "q_proj")


def adapter(seed: int, rank: int, place: Any = PLACE) -> Any:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, IN, generator=generator), torch.randn(rank, OUT, generator=generator)
    return weights_module.AdapterWeights(str(seed), str(seed), rank, {place: (a, b)})


def make_bank(num_slots: int = 6, rank: int = 1) -> Any:
    return lora.AdapterBank(num_slots, rank=rank, dtype=torch.float32, device=torch.device("cpu"))


def apply(bank: Any, x: Any, slots: list[int], place: Any = PLACE) -> Any:
    mix = bank.mix(slots)
    output = torch.zeros(len(x), OUT)
    return output if mix is None else bank.add(output, x, place, mix)


def expected(adapters: dict[int, Any], x: Any, slots: list[int]) -> Any:
    rows = []
    for row, slot in zip(x, slots, strict=True):
        a, b = adapters[slot].matrices[PLACE] if slot in adapters else (torch.zeros(1, IN), torch.zeros(1, OUT))
        rows.append(row @ a.T @ b)
    return torch.stack(rows)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.lists(st.integers(1, 4), min_size=6, max_size=6))
def test_every_token_gets_its_own_adapter_and_no_other(slots: list[int], ranks: list[int]) -> None:
    bank, adapters = make_bank(), {}
    for slot, rank in enumerate(ranks, 1):
        adapters[slot] = adapter(slot, rank)
        bank.load(slot, adapters[slot])
    x = torch.randn(len(slots), IN, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(apply(bank, x, slots), expected(adapters, x, slots), atol=1e-5)


def test_a_batch_of_base_tokens_has_no_mix() -> None:
    assert make_bank().mix([0, 0]) is None


def test_one_adapter_for_all_tokens_needs_no_mask() -> None:
    bank = make_bank()
    assert bank.mix([2, 2]).mask is None
    assert bank.mix([2, 0]).mask is not None


def test_adapters_side_by_side_are_a_view_and_far_apart_ones_a_copy() -> None:
    bank = make_bank()
    assert bank.mix([2, 3, 5]).stack == slice(1, 5)
    assert bank.mix([1, 6]).stack.tolist() == [0, 5]


def test_a_new_adapter_leaves_nothing_of_the_one_before_it() -> None:
    bank = make_bank()
    bank.load(1, adapter(1, 4))
    bank.load(1, adapter(2, 2))
    x = torch.randn(1, IN)
    assert torch.allclose(apply(bank, x, [1]), expected({1: adapter(2, 2)}, x, [1]), atol=1e-5)


def test_a_linear_the_new_adapter_does_not_target_is_the_bases_again() -> None:
    bank = make_bank()
    bank.load(1, adapter(1, 2))
    bank.load(1, adapter(2, 2, place=(0, "v_proj")))
    bank.load(2, adapter(3, 2))
    x = torch.randn(2, IN)
    assert not apply(bank, x, [1, 1]).any()
    assert not apply(bank, x, [1, 2])[0].any()


def test_a_wider_adapter_widens_the_bank_and_changes_no_other() -> None:
    bank, first, wide = make_bank(rank=2), adapter(1, 2), adapter(2, 5)
    bank.load(1, first)
    bank.load(2, wide)
    assert bank.rank == 5
    x = torch.randn(2, IN)
    assert torch.allclose(apply(bank, x, [1, 2]), expected({1: first, 2: wide}, x, [1, 2]), atol=1e-5)


def test_the_banks_memory_is_counted_before_it_is_taken() -> None:
    shape = model_shape.ModelShape(
        num_layers=2,
        hidden_size=4,
        intermediate_size=6,
        num_heads=2,
        num_kv_heads=1,
        head_dim=2,
        vocab_size=9,
        max_positions=16,
        norm_eps=1e-6,
        activation="silu",
        windows=(None, None),
        biased=frozenset(),
        has_qk_norm=False,
        is_tied=True,
    )
    per_rank = (4 + 4) + (4 + 2) + (4 + 2) + (4 + 4) + (4 + 6) + (4 + 6) + (6 + 4)
    assert lora.bank_bytes(shape, num_slots=3, rank=5, dtype=torch.float16) == 2 * 3 * 5 * per_rank * 2
