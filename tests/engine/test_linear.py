"""Every form of a linear is the same product, and the probe takes the fastest that is."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lmoe_ray.engine import linear

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:fbgemm:UserWarning")]

KINDS = [
    (linear.PlainLinear, torch.float32),
    (linear.OneDnnLinear, torch.float32),
    (linear.HalfStoredLinear, torch.bfloat16),
    (linear.ThreadedHalfStoredLinear, torch.float16),
]


@pytest.mark.parametrize(("kind", "stored"), KINDS)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 3, 16, 33])
def test_every_kind_is_the_plain_product(kind: Any, stored: torch.dtype, has_bias: bool, num_tokens: int) -> None:
    weight, x = torch.randn(40, 24).to(stored), torch.randn(num_tokens, 24)
    bias = torch.randn(40).to(stored) if has_bias else None
    with torch.inference_mode():
        output = kind(weight, bias, torch.float32)(x)
    expected = F.linear(x, weight.float(), None if bias is None else bias.float())
    assert torch.allclose(output, expected, atol=1e-4)


@pytest.mark.parametrize("kind", [linear.PlainLinear, linear.OneDnnLinear])
def test_memory_is_counted_in_the_form_that_is_kept(kind: Any) -> None:
    assert kind(torch.zeros(4, 8), None, torch.float32).num_bytes == 4 * 8 * 4
    assert linear.HalfStoredLinear(torch.zeros(4, 8, dtype=torch.bfloat16), None, torch.float32).num_bytes == 4 * 8 * 2


@pytest.mark.parametrize(
    ("weight", "dtype"),
    [
        (torch.ones(8, 8), torch.float32),
        (torch.full((8, 8), 1e6, dtype=torch.bfloat16), torch.float32),
        (torch.ones(8, 8, dtype=torch.bfloat16), torch.bfloat16),
    ],
    ids=["came in 32 bits", "overflows float16", "not float32 arithmetic"],
)
def test_halves_are_stored_only_where_nothing_is_lost(weight: torch.Tensor, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="float16 holds"):
        linear.HalfStoredLinear(weight, None, dtype)


def test_weights_below_the_last_step_of_float16_may_be_rounded() -> None:
    tiny = torch.tensor([[2.0**-14, 1.0078125 * 2.0**-20, -(2.0**-30)]], dtype=torch.bfloat16)
    assert linear.is_held_by_half(tiny)


class Wrong(linear.PlainLinear):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return super().__call__(x) * 1.01


class Slow(linear.PlainLinear):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.003)
        return super().__call__(x)


class Absent(linear.PlainLinear):
    def __init__(self, *_: Any) -> None:
        raise AttributeError("this torch has no such operator")


class Refusing(linear.PlainLinear):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        if weight.shape[0] == 3:
            raise ValueError("not this one")
        super().__init__(weight, bias, dtype)


SAMPLE = torch.randn(64, 64)


@pytest.mark.parametrize("kind", [Wrong, Slow, Absent])
def test_what_is_wrong_slow_or_absent_is_not_chosen(kind: Any) -> None:
    assert linear.fastest(SAMPLE, torch.float32, [kind]) is linear.PlainLinear


def test_a_faster_kind_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_duration_s", lambda made, x: 1.0 if isinstance(made, Refusing) else 2.0)
    assert linear.fastest(SAMPLE, torch.float32, [Refusing]) is Refusing


def test_a_weight_that_the_chosen_kind_refuses_gets_another_and_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(linear, "_duration_s", lambda made, x: 1.0 if isinstance(made, Refusing) else 2.0)
    make = linear.LinearFactory(SAMPLE, torch.float32, [Refusing])
    assert isinstance(make(torch.randn(4, 8)), Refusing)
    x, weight = torch.randn(2, 8), torch.randn(3, 8)
    with torch.inference_mode():
        assert torch.allclose(make(weight)(x), x @ weight.T, atol=1e-5)
    assert "not this one" in caplog.text
