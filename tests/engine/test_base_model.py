"""What of a model folder is accepted, how it is read, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as safetensors_torch

from lmoe_ray.engine import base_model, model_shape
from lmoe_ray.errors import ModelSourceError

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def load(folder: Path, dtype: Any = torch.float32) -> Any:
    return base_model.load_base_model(folder, max_model_len=32, dtype=dtype, device=CPU)


def copy(llama: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llama, tmp_path / "model")


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_tensors(folder: Path, **changes: Any) -> None:
    """Replace tensors; ``None`` removes one."""
    file = folder / "model.safetensors"
    tensors = {k: v for k, v in (safetensors_torch.load_file(file) | changes).items() if v is not None}
    safetensors_torch.save_file(tensors, file, metadata={"format": "pt"})


def test_weights_of_the_same_dtype_are_mapped_not_copied(llama: Path) -> None:
    first, second = load(llama), load(llama)
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("no /proc on this system")
    assert str(llama / "model.safetensors") in mapped.read_text()
    assert torch.equal(first.embedding, second.embedding)


def test_another_dtype_is_converted(llama: Path) -> None:
    model, x = load(llama, torch.bfloat16), torch.ones(1, 64, dtype=torch.bfloat16)
    assert {model.cos.dtype, model.final_norm.dtype, model.layers[0].linears["qkv"](x).dtype} == {torch.bfloat16}


def test_a_tied_head_multiplies_by_the_embedding(llama: Path) -> None:
    model, x = load(llama), torch.randn(3, 64)
    with torch.inference_mode():
        assert torch.allclose(model.lm_head(x), x @ model.embedding.T, atol=1e-5)
    linears = sum(linear.num_bytes for layer in model.layers for linear in layer.linears.values())
    assert model.weight_bytes == linears + model.lm_head.num_bytes + model.embedding.nbytes


def test_a_sharded_checkpoint_is_read_through_its_index(llama: Path, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path)
    tensors = safetensors_torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in shards.items():
        safetensors_torch.save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(load(folder).embedding, load(llama).embedding)


def test_a_redundant_head_of_a_tied_model_is_ignored(llama: Path, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path)
    change_tensors(folder, **{"lm_head.weight": torch.zeros(330, 64)})
    with torch.inference_mode():
        assert load(folder).lm_head(torch.ones(1, 64)).any()


def test_old_rotary_tables_in_a_checkpoint_are_ignored(llama: Path, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path)
    change_tensors(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    load(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model.norm.weight": None}, "has no tensor 'model.norm.weight'"),
        ({"model.norm.weight": torch.ones(63)}, r"shape \(63,\), config.json asks for \(64,\)"),
        ({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}, "such as 'model.layers.0.self_attn.q_proj.bias'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_its_configuration_is_refused(
    changes: dict[str, Any], problem: str, llama: Path, tmp_path: Path
) -> None:
    folder = copy(llama, tmp_path)
    change_tensors(folder, **changes)
    with pytest.raises(ModelSourceError, match=problem):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model_type": "gpt2"}, "model type 'gpt2' is not supported; supported: llama, mistral, qwen2, qwen3"),
        ({"model_type": "nonsense"}, "config.json cannot be read"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised"),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "long_factor": [1.0] * 8,
                    "short_factor": [1.0] * 8,
                    "original_max_position_embeddings": 64,
                }
            },
            "rope type 'longrope' is not supported",
        ),
    ],
)
def test_what_the_engine_does_not_compute_is_refused(
    changes: dict[str, Any], problem: str, llama: Path, tmp_path: Path
) -> None:
    folder = copy(llama, tmp_path)
    change_config(folder, **changes)
    with pytest.raises(ModelSourceError, match=problem):
        model_shape.read_config(folder)


def test_a_folder_without_weights_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelSourceError, match=r"no model\.safetensors"):
        load(folder)


def test_an_unreadable_checkpoint_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path)
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelSourceError, match=r"model\.safetensors cannot be read"):
        load(folder)


def test_an_unreadable_index_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelSourceError, match="not a weight index"):
        load(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"config\.json cannot be read"):
        model_shape.read_config(tmp_path)


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({"avx512_f": True}, "float32")],
)
def test_a_cpu_computes_in_bfloat16_only_if_it_multiplies_in_it(
    capabilities: dict[str, bool], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert base_model.choose_dtype("auto", CPU) is getattr(torch, dtype)


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_computes_in_bfloat16_if_it_can(has_bf16: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert base_model.choose_dtype("auto", torch.device("cuda")) is getattr(torch, dtype)


def test_a_chosen_dtype_and_device_are_taken_as_they_are() -> None:
    assert base_model.choose_dtype("float16", CPU) is torch.float16
    assert base_model.choose_device("cpu") == CPU
    assert base_model.choose_device("cuda") == torch.device("cuda", 0)


@pytest.mark.parametrize(("is_available", "device"), [(True, "cuda:0"), (False, "cpu")])
def test_the_device_is_the_gpu_if_there_is_one(
    is_available: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_available)
    assert base_model.choose_device("auto") == torch.device(device)
