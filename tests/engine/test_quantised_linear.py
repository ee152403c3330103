"""Weights in 8 and 4 bits: close to the plain product, smaller, and refused with a way out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lmoe_ray.engine import base_model, load_model, quantised_linear
from lmoe_ray.errors import SettingsError
from lmoe_ray.settings import EngineSettings

pytestmark = pytest.mark.torch

#: Relative error of a product with normal inputs and weights, and bytes per weight with its scales.
KINDS = {"int8": (0.01, 1.1), "nf4": (0.12, 0.6)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_product_is_the_plain_one_up_to_its_bits(kind: str, dtype: torch.dtype) -> None:
    pytest.importorskip("bitsandbytes", reason="the optional extra bnb is not installed")
    torch.manual_seed(0)
    weight, bias, x = torch.randn(96, 128) / 50, torch.randn(96) / 10, torch.randn(5, 128).to(dtype)
    linear = quantised_linear.QuantisedFactory(kind, dtype)(weight.half(), bias)
    output, expected = linear(x), torch.nn.functional.linear(x.float(), weight, bias)
    largest_error, most_bytes = KINDS[kind]
    assert output.dtype is dtype
    assert (output - expected).norm() / expected.norm() < largest_error
    assert linear.num_bytes < most_bytes * weight.numel()


def test_a_models_inner_linears_are_quantised_and_its_head_is_not(llama: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the optional extra bnb is not installed")
    options: Any = {"max_model_len": 16, "dtype": torch.float32, "device": torch.device("cpu")}
    model = base_model.load_base_model(llama, **options, quantization="nf4")
    inner = {type(linear) for layer in model.layers for linear in layer.linears.values()}
    assert inner == {quantised_linear.Nf4Linear}
    assert type(model.lm_head) is not quantised_linear.Nf4Linear
    assert model.weight_bytes < base_model.load_base_model(llama, **options).weight_bytes


def test_without_the_library_the_setting_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SettingsError, match=r"needs bitsandbytes; install lmoe_ray\[bnb\]"):
        quantised_linear.QuantisedFactory("nf4", torch.float32)


def test_a_model_that_transformers_computes_is_not_quantised_in_silence(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.make_tiny_model(tmp_path, "llama")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"gpt_neox"'))
    with pytest.raises(SettingsError, match="nf4 is for llama"):
        load_model.load_model(folder, EngineSettings(quantization="nf4", device="cpu"), tmp_path)
