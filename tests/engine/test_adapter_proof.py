"""Proof that an adapter acts."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import torch as safetensors_torch

from lmoe_ray.domain.package import Expert, LMoEPackage, load_package
from lmoe_ray.errors import AdapterInert, BaseMismatch, PackageError
from tests.engine import oracles

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


@pytest.fixture
def scaled(package: LMoEPackage, tmp_path: Path) -> Callable[[float], Expert]:
    """The expert ``code`` with its B matrices multiplied by a number."""

    def scale(factor: float) -> Expert:
        folder = tmp_path / "package" / "adapters" / "code"
        shutil.copytree(package.path / "adapters" / "code", folder)
        file = folder / "adapter_model.safetensors"
        tensors = {k: v * factor if "lora_B" in k else v for k, v in safetensors_torch.load_file(file).items()}
        safetensors_torch.save_file(tensors, file)
        return load_package(tmp_path / "package").experts[0]

    return scale


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_an_untrained_adapter_is_refused(
    dtype: str, scaled: Callable[[float], Expert], make_engine: Callable[..., Any]
) -> None:
    engine = make_engine(dtype=dtype)
    with pytest.raises(AdapterInert, match="code: does not change the base model's logits"):
        await engine.load_adapter(scaled(0.0))
    assert engine.loaded_adapters == frozenset()
    engine.check_health()


async def test_an_adapter_below_rounding_is_inert(
    scaled: Callable[[float], Expert], make_engine: Callable[..., Any]
) -> None:
    with pytest.raises(AdapterInert):
        await make_engine().load_adapter(scaled(1e-9))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_a_weak_adapter_acts(
    dtype: str, scaled: Callable[[float], Expert], make_engine: Callable[..., Any]
) -> None:
    await make_engine(dtype=dtype).load_adapter(scaled(0.05))


async def test_an_inert_adapter_is_served_with_a_warning_if_the_operator_says_so(
    scaled: Callable[[float], Expert], make_engine: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine, expert = make_engine(adapter_check="warn"), scaled(0.0)
    with caplog.at_level(logging.WARNING):
        await engine.load_adapter(expert)
    assert "adapter inert expert=code" in caplog.text
    request = oracles.prompt_request("hi", ignore_eos=True)
    inert, base = await oracles.answer(engine, request, expert.digest), await oracles.answer(engine, request)
    assert inert.ids == base.ids


async def test_an_adapter_that_makes_logits_infinite_is_refused(
    scaled: Callable[[float], Expert], make_engine: Callable[..., Any]
) -> None:
    with pytest.raises(PackageError, match="logits infinite") as caught:
        await make_engine().load_adapter(scaled(1e38))
    assert type(caught.value) is PackageError


async def test_an_adapter_for_another_base_is_refused(
    tiny: Any, code: Expert, tmp_path: Path, make_engine: Callable[..., Any]
) -> None:
    folder = tiny.make_tiny_model(tmp_path, "llama", intermediate_size=128)
    with pytest.raises(BaseMismatch):
        await make_engine(folder).load_adapter(code)


async def test_a_refused_adapter_can_be_tried_again(
    scaled: Callable[[float], Expert], package: LMoEPackage, make_engine: Callable[..., Any]
) -> None:
    engine, expert = make_engine(), scaled(0.0)
    for _ in range(2):
        with pytest.raises(AdapterInert):
            await engine.load_adapter(expert)
    await engine.load_adapter(package.experts[0])
