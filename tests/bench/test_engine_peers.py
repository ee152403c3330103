"""The real scripts on a tiny model: our engine, and those of transformers and PEFT."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lmoe_ray.bench.engine_speed import run
from lmoe_ray.bench.speed_cells import Workload, choose_cells
from lmoe_ray.bench.speed_engines import PeerPlaces, choose_engines
from lmoe_ray.bench.speed_workload import PromptMaker, make_adapters
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


def test_adapters_load_in_peft_and_act(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    folders = make_adapters(model, 2, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = torch.tensor(PromptMaker(model).make(1, 8, seed=(0,)))

    with torch.no_grad():
        plain = base(ids).logits
        wrapped = PeftModel.from_pretrained(base, folders[0], adapter_name="0")
        wrapped.load_adapter(folders[1], adapter_name="1")
        first = wrapped(ids).logits
        wrapped.set_adapter("1")
        second = wrapped(ids).logits

    assert (first - plain).abs().max() > 0.01
    assert (second - first).abs().max() > 0.01


def test_engines_compute_the_same_model_and_every_token_is_counted(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    workload = Workload(choose_cells("2", "six"), prompt_tokens=8, new_tokens=4, rounds=1)
    warnings: list[str] = []

    results = run(
        choose_engines("lmoe,hf-peft"),
        workload,
        model,
        PeerPlaces(tmp_path / "peers"),
        tmp_path / "cache",
        progress=lambda text: None,
        warn=warnings.append,
    )

    assert warnings == []
    assert {(result.engine, result.cell) for result in results} == {
        (name, cell) for name in ("lmoe", "hf-peft") for cell in workload.cells
    }
    assert {result.agreement for result in results if result.engine == "lmoe"} == {1.0}
    for result in results:
        assert 0 < result.figures.ttft_s_p50 <= result.figures.ttft_s_max
        assert result.figures.tokens_per_s > 0
        assert result.ready.torch == version("torch")
