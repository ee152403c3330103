"""From PEFT folders to matrices, and everything that is refused on the way."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as safetensors_torch

from lmoe_ray.domain.package import Expert, LMoEPackage, load_package
from lmoe_ray.engine import adaptable_linears, adapter_weights, model_shape
from lmoe_ray.errors import BaseMismatch, PackageError, PickleRefused
from tests.engine import oracles

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


@pytest.fixture(scope="module")
def shape(llama: Path) -> Any:
    return model_shape.model_shape(model_shape.read_config(llama))


@pytest.fixture
def copied(package: LMoEPackage, tmp_path: Path) -> Callable[..., Expert]:
    """The package's expert ``code``, alone, with tensors or configuration changed."""

    def copy(*, tensors: dict[str, Any] | None = None, rename: Any = None, **config: Any) -> Expert:
        folder = tmp_path / "package" / "adapters" / "code"
        shutil.copytree(package.path / "adapters" / "code", folder)
        file = folder / "adapter_model.safetensors"
        changed = safetensors_torch.load_file(file) | (tensors or {})
        kept = {(rename or str)(k): v.contiguous() for k, v in changed.items() if v is not None}
        safetensors_torch.save_file(kept, file)
        settings_file = folder / "adapter_config.json"
        settings_file.write_text(json.dumps(json.loads(settings_file.read_text()) | config))
        return load_package(tmp_path / "package").experts[0]

    return copy


def read(expert: Expert, shape: Any, max_rank: int = 64) -> Any:
    return adapter_weights.read_adapter(expert, shape, max_rank=max_rank, dtype=torch.float32)


def test_every_update_equals_the_one_peft_computes(llama: Path, package: LMoEPackage, shape: Any) -> None:
    for expert in package.experts:
        weights = read(expert, shape)
        model = oracles.reference_model(llama, expert.weights.parent)
        modules = dict(model.base_model.model.named_modules())
        for place, (a, b) in weights.matrices.items():
            expected = modules[adaptable_linears.module_name(place)].get_delta_weight("default")
            assert torch.allclose((a.T @ b).T, expected, atol=1e-5), f"{expert.name} {place}"
        adapted = [name for name, module in modules.items() if hasattr(module, "lora_A")]
        assert sorted(map(adaptable_linears.module_name, weights.matrices)) == sorted(adapted)
        assert weights.rank == max(len(a) for a, _ in weights.matrices.values())
        assert weights.num_bytes == sum(a.nbytes + b.nbytes for a, b in weights.matrices.values())


def test_the_widest_matrix_of_a_rank_pattern_is_the_rank(package: LMoEPackage, shape: Any) -> None:
    expert = next(e for e in package.experts if e.name == "patterned")
    weights = read(expert, shape)
    assert weights.rank == 8
    assert len(weights.matrices[1, "up_proj"][0]) == 1


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("base_model.model."),
        lambda name: name.removeprefix("base_model.model.model."),
        lambda name: name.replace(".weight", ".default.weight"),
    ],
    ids=["no prefix", "no model", "adapter name"],
)
def test_the_ways_tensors_have_been_named_are_all_read(
    rename: Callable[[str], str], code: Expert, copied: Callable[..., Expert], shape: Any
) -> None:
    renamed, original = read(copied(rename=rename), shape), read(code, shape)
    assert renamed.matrices.keys() == original.matrices.keys()
    assert all(torch.equal(renamed.matrices[p][1], original.matrices[p][1]) for p in original.matrices)


def test_targets_may_be_a_regular_expression_or_all_linears(copied: Callable[..., Expert], shape: Any) -> None:
    expert = copied(target_modules=r".*\.(q|k|v|o|gate|up|down)_proj")
    assert len(read(expert, shape).matrices) == 14
    everything = Expert("code", expert.weights, "d", expert.lora.__class__(expert.lora.rank, 4.0, "all-linear"))
    assert len(read(everything, shape).matrices) == 14


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tensors": {Q0.format("B"): None}}, PackageError, "no tensor lora_B for model.layers.0.self_attn.q_proj"),
    ({"tensors": {Q0.format("A"): None, Q0.format("B"): None}}, PackageError, "no tensor lora_A"),
    ({"tensors": {"base_model.model.lm_head.lora_A.weight": "A"}}, PackageError, "is LoRA of the output head"),
    (
        {"tensors": {"base_model.model.model.embed_tokens.lora_embedding_A": "A"}},
        PackageError,
        "lora_embedding_A' is not LoRA of a linear",
    ),
    (
        {"tensors": {Q0.format("A").replace("lora_A", "lora_magnitude_vector"): "A"}},
        PackageError,
        "lora_magnitude_vector.weight' is not LoRA",
    ),
    ({"tensors": {Q0.format("A").replace("q_proj", "x_proj"): "A"}}, BaseMismatch, "x_proj.* the base model has"),
    ({"tensors": {Q0.format("A").replace("s.0", "s.2"): "A"}}, BaseMismatch, r"layers\.2.* the base model has"),
    ({"tensors": {Q0.format("A").replace("model.model", "model"): "A"}}, PackageError, "holds lora_A of .* twice"),
    ({"target_modules": ["q_proj"]}, PackageError, "is not among its target_modules"),
    ({"target_modules": ["c_attn"], "empty": True}, BaseMismatch, "name no linear of the base model"),
    ({"tensors": {Q0.format("A"): "wide"}}, BaseMismatch, r"A is \(2, 65\) and B \(64, 2\)"),
    ({"r": 3}, BaseMismatch, r"with rank 3 this base model needs \(3, 64\) and \(64, 3\)"),
    ({"tensors": {Q0.format("B"): "nan"}}, PackageError, "not finite"),
]


@pytest.mark.parametrize(("changes", "error", "problem"), REFUSED, ids=[problem for *_, problem in REFUSED])
def test_an_adapter_that_does_not_fit_is_refused_by_name(
    changes: dict[str, Any], error: type[Exception], problem: str, copied: Callable[..., Expert], shape: Any
) -> None:
    values = {"A": torch.ones(2, 64), "wide": torch.ones(2, 65), "nan": torch.full((64, 2), float("nan"))}
    changes = dict(changes)
    if changes.pop("empty", False):
        changes["rename"] = lambda name: "drop"
    tensors = {k: values.get(v, v) if isinstance(v, str) else v for k, v in changes.pop("tensors", {}).items()}
    expert = copied(tensors=tensors, **changes)
    if "rename" in changes:
        safetensors_torch.save_file({}, expert.weights)
    with pytest.raises(error, match=problem) as caught:
        read(expert, shape)
    assert type(caught.value) is error
    assert str(caught.value).startswith("code: ")


def test_an_adapter_wider_than_the_bank_is_refused(code: Expert, shape: Any) -> None:
    with pytest.raises(PackageError, match="has rank 2, the limit is max_lora_rank=1"):
        read(code, shape, max_rank=1)


def test_a_damaged_file_is_refused(copied: Callable[..., Expert], shape: Any) -> None:
    expert = copied()
    expert.weights.write_bytes(b"damaged")
    with pytest.raises(PackageError, match="cannot be read"):
        read(expert, shape)


def pickled(expert: Expert, contents: Any) -> Path:
    """Replace the expert's safetensors by a pickle of ``contents``; the package's folder."""
    torch.save(contents, expert.weights.with_name("adapter_model.bin"))
    expert.weights.unlink()
    return expert.weights.parents[2]


def test_a_pickle_is_read_only_if_the_operator_allows_it(copied: Callable[..., Expert], shape: Any) -> None:
    expert = copied()
    original = read(expert, shape)
    root = pickled(expert, safetensors_torch.load_file(expert.weights))
    with pytest.raises(PickleRefused, match="allow_pickle"):
        load_package(root)
    [allowed] = load_package(root, allow_pickle=True).experts
    weights = read(allowed, shape)
    assert all(torch.equal(weights.matrices[p][0], original.matrices[p][0]) for p in original.matrices)


class Attack:
    """Would create a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self._target,)


@pytest.mark.parametrize("contents", ["attack", "list", "numbers"])
def test_a_pickle_of_anything_but_weights_is_refused_and_not_run(
    contents: str, copied: Callable[..., Expert], shape: Any, tmp_path: Path
) -> None:
    target = tmp_path / "created"
    values = {"attack": {"x": Attack(target)}, "list": [torch.ones(1)], "numbers": {"x": 1}}
    root = pickled(copied(), values[contents])
    with pytest.raises(PackageError, match=r"is not a file of weights|does not hold a mapping"):
        read(load_package(root, allow_pickle=True).experts[0], shape)
    assert not target.exists()


def test_a_file_that_is_no_pickle_at_all_is_refused(copied: Callable[..., Expert], shape: Any) -> None:
    expert = copied()
    bin_file = expert.weights.with_name("adapter_model.bin")
    bin_file.write_bytes(pickle.dumps([1])[:-1])
    expert.weights.unlink()
    with pytest.raises(PackageError):
        read(load_package(bin_file.parents[2], allow_pickle=True).experts[0], shape)
