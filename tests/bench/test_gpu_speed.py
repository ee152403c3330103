"""``lmoe bench gpu`` without a GPU: a tiny model through every part of it, and the arithmetic of its ceilings."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lmoe_ray.bench import gpu_model, gpu_report, gpu_speed
from lmoe_ray.bench.device_limits import Ceilings
from lmoe_ray.bench.gpu_model import LlamaSize
from lmoe_ray.bench.gpu_speed import GpuResult, GpuWorkload
from lmoe_ray.bench.peer_process import Ready
from lmoe_ray.bench.speed_cells import Cell
from lmoe_ray.cli import main
from lmoe_ray.errors import SettingsError

pytestmark = pytest.mark.torch

SEVEN_B = LlamaSize()


def test_the_default_size_is_llama_2_7b() -> None:
    assert (SEVEN_B.config["intermediate_size"], SEVEN_B.config["num_attention_heads"]) == (11008, 32)
    embedding, norms = 32_000 * 4096, 65 * 4096
    assert SEVEN_B.num_linear_weights + embedding + norms == 6_738_415_616
    assert SEVEN_B.num_adapter_weights == 159_907_840
    assert SEVEN_B.cache_bytes_per_token == 1 << 19


def test_a_step_reads_weights_once_and_only_adapters_that_are_in_use() -> None:
    base, one = SEVEN_B.decode_step_bytes(1, 0, 512), SEVEN_B.decode_step_bytes(1, 6, 512)
    assert base == 2 * SEVEN_B.num_linear_weights + (512 << 19)
    assert one - base == 2 * SEVEN_B.num_adapter_weights
    assert SEVEN_B.decode_step_bytes(32, 6, 512) == base + 12 * SEVEN_B.num_adapter_weights + 31 * (512 << 19)


def test_the_ceiling_of_decoding_is_bandwidth_over_bytes() -> None:
    cell = Cell(2, "base")
    workload = GpuWorkload(SEVEN_B, (cell,), prompt_tokens=10, new_tokens=4)
    step_bytes = SEVEN_B.decode_step_bytes(2, 0, 12)
    assert gpu_speed.decode_ceiling(workload, cell, Ceilings("d", "t", 3 * step_bytes, 1)) == pytest.approx(6)


def test_random_weights_have_the_spread_they_should() -> None:
    weights = gpu_model.random_halves(gpu_model.np.random.default_rng(0), (100, 100))
    sizes = abs(weights)
    assert 2**-6 <= sizes.min() < sizes.max() < 2**-5
    assert 0.4 < (weights > 0).mean() < 0.6


def test_a_width_without_whole_heads_is_refused() -> None:
    with pytest.raises(SettingsError, match="100 is no multiple of 64"):
        LlamaSize(hidden_size=100)


def test_an_unknown_engine_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="'vllm'; there are: lmoe, hf-peft, predecessor"):
        gpu_speed.choose_gpu_engines("lmoe,vllm")


def test_without_a_gpu_the_command_says_so_and_how_it_can_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(main.app, ["bench", "gpu"])
    assert result.exit_code == 2
    assert "no CUDA device on this machine; --device cpu" in result.stderr


def test_each_figure_is_shown_beside_its_share_of_the_ceiling() -> None:
    results = [
        GpuResult(
            "lmoe", Cell(32, mix), "decode", 50.0 * n, 200.0, Ready("1.2", "bfloat16", 3.21, "2.15", 15_400_000_000)
        )
        for n, mix in enumerate(("base", "six"), 1)
    ]
    console = Console(width=100, file=io.StringIO())
    workload = GpuWorkload(SEVEN_B, tuple(result.cell for result in results))
    gpu_report.print_table(results, workload, Ceilings("H100", "2.15", 3e12, 7e14), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "decode, 32 at once" in shown
    assert "the share of what H100 could do with 3000 GB/s, 700 TFLOP/s" in shown
    assert "50.0 (25%)" in shown
    assert "100.0 (50%)" in shown
    assert "loaded in 3.2 s, 15.40 GB on the device" in shown


def test_a_tiny_model_is_measured_on_a_cpu(tmp_path: Path) -> None:
    options = (
        "--device cpu --layers 2 --hidden 64 --rank 4 --shape 6/32 --prefill 8 --concurrency 1,3 --rounds 1 --json"
    )
    result = CliRunner().invoke(main.app, ["bench", "gpu", *options.split(), "--cache-dir", str(tmp_path)])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    places = {(line["engine"], line["phase"], line["mix"], line["concurrency"]) for line in lines}
    mixes = ("base", "one", "six")
    expected = {(engine, "decode", mix, n) for engine in ("lmoe", "hf-peft") for mix in mixes for n in (1, 3)}
    expected |= {(engine, "prefill", mix, 4) for engine in ("lmoe", "hf-peft") for mix in mixes}
    expected |= {("predecessor", "decode", mix, 1) for mix in mixes}
    assert places == expected
    assert all(line["tokens_per_s"] > 0 and line["share_of_ceiling"] > 0 and line["load_s"] > 0 for line in lines)
    assert {line["device"] for line in lines} == {"cpu"}
