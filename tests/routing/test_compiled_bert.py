"""Weights as integers: as fine as they can be, and never so large that a sum overflows."""

from __future__ import annotations

import pytest
import torch

from lmoe_ray.routing.compiled_bert import ACTIVATION_LIMIT, quantise_rows

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("inputs", [2, 384, 1536, 4096])
@pytest.mark.parametrize("shape", ["even", "one large", "normal"])
def test_no_sum_can_leave_32_bits(inputs: int, shape: str) -> None:
    torch.manual_seed(0)
    weight = {"even": torch.ones(3, inputs), "one large": torch.eye(3, inputs), "normal": torch.randn(3, inputs)}[shape]

    integers, _ = quantise_rows(weight[: min(3, inputs)])

    largest = integers.long().abs().sum(1) * ACTIVATION_LIMIT
    assert largest.max() <= 2**31 - 1


def test_a_row_keeps_eleven_bits_or_more() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 1536)

    integers, units = quantise_rows(weight)

    error = (integers * units[:, None] - weight).abs().amax(1) / weight.abs().amax(1)
    assert error.max() < 2**-11


def test_a_row_of_zeros_stays_one() -> None:
    integers, units = quantise_rows(torch.zeros(2, 4))

    assert not integers.any()
    assert units.isfinite().all()
