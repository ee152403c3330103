"""What the adapter bank holds after adapters have come and gone. How tokens meet it: see the operators' tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmoe_ray.engine import adapter_weights as weights_module
from lmoe_ray.engine import lora, model_shape

pytestmark = pytest.mark.torch

SHAPE = model_shape.ModelShape(
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
QUERY, VALUE = (0, "q_proj"), (0, "v_proj")


def adapter(seed: int, rank: int, place: tuple[int, str] = QUERY) -> Any:
    generator = torch.Generator().manual_seed(seed)
    out_features, in_features = SHAPE.linear(place[1])
    a, b = torch.randn(rank, in_features, generator=generator), torch.randn(rank, out_features, generator=generator)
    return weights_module.AdapterWeights(str(seed), str(seed), rank, {place: (a, b)})


def make_bank(num_slots: int = 3, rank: int = 4) -> Any:
    return lora.AdapterBank(SHAPE, num_slots, rank, dtype=torch.float32, device=torch.device("cpu"))


def update(bank: Any, slot: int, place: tuple[int, str] = QUERY) -> torch.Tensor:
    """What an adapter adds to a linear's weight, all of the bank's rank multiplied."""
    group = next(name for name, linears in model_shape.GROUPS.items() if place[1] in linears)
    linear = bank.groups[place[0], group].linears[model_shape.GROUPS[group].index(place[1])]
    return linear.b[slot - 1].T @ linear.a[slot - 1]


def product(weights: Any, place: tuple[int, str] = QUERY) -> torch.Tensor:
    a, b = weights.matrices[place]
    return b.T @ a


def test_an_adapter_is_in_its_slot_and_in_no_other() -> None:
    bank, first, second = make_bank(), adapter(1, 2), adapter(2, 4)
    bank.load(1, first)
    bank.load(3, second)
    assert torch.allclose(update(bank, 1), product(first))
    assert torch.allclose(update(bank, 3), product(second))
    assert not update(bank, 2).any()


def test_a_new_adapter_leaves_nothing_of_the_one_before_it() -> None:
    bank, wide, narrow = make_bank(), adapter(1, 4), adapter(2, 2)
    bank.load(1, wide)
    bank.load(1, narrow)
    assert torch.allclose(update(bank, 1), product(narrow))


def test_a_linear_the_new_adapter_does_not_target_is_the_bases_again() -> None:
    bank = make_bank()
    bank.load(1, adapter(1, 2))
    bank.load(1, adapter(2, 2, VALUE))
    assert not update(bank, 1).any()
    assert update(bank, 1, VALUE).any()


def test_the_bank_knows_the_rank_of_each_adapter_in_each_linear() -> None:
    bank = make_bank()
    bank.load(2, adapter(1, 3))
    query, key, _ = bank.groups[0, "qkv"].linears
    assert query.ranks.tolist() == [0, 0, 3, 0]
    assert key.ranks.tolist() == [0, 0, 0, 0]


def test_the_whole_bank_is_one_allocation_of_the_size_that_was_counted() -> None:
    bank = make_bank(num_slots=3, rank=5)
    storages = {g.a.untyped_storage().data_ptr(): g.a.untyped_storage().nbytes() for g in bank.groups.values()}
    storages |= {
        linear.b.untyped_storage().data_ptr(): linear.b.untyped_storage().nbytes()
        for group in bank.groups.values()
        for linear in group.linears
    }
    per_rank = (4 + 4) + (4 + 2) + (4 + 2) + (4 + 4) + (4 + 6) + (4 + 6) + (6 + 4)
    assert list(storages.values()) == [lora.bank_bytes(SHAPE, 3, 5, torch.float32)] == [2 * 3 * 5 * per_rank * 4]
