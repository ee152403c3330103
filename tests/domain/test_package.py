"""LMoE packages as published load; broken and hostile ones are refused by name, with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.domain.package import load_package
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.errors import PackageError, PickleRefused

CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"]}


def add_expert(root: Path, name: str = "code", *, weights: str = "adapter_model.safetensors", **config: Any) -> Path:
    folder = root / "adapters" / name
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / weights).write_bytes(b"tensors of " + name.encode())
    return folder


def add_samples(root: Path, name: str, text: str) -> Path:
    file = root / "routing_data" / f"expert_{name}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def test_a_package_as_published_needs_no_manifest(tmp_path: Path) -> None:
    add_expert(tmp_path, "function")
    (add_expert(tmp_path, "code") / "description.txt").write_text("Writes code.\n")
    add_samples(tmp_path, "code", '{"instruction": "A chat. Write a loop."}\n')

    package = load_package(tmp_path)

    assert package.names == ("code", "function")
    assert package.manifest.prompt_format is PromptFormat.AIROBOROS
    code, function = package.experts
    assert (code.description, code.samples) == ("Writes code.", ("A chat. Write a loop.",))
    assert (function.description, function.samples) == ("", ())
    assert (code.lora.rank, code.lora.alpha, code.lora.targets) == (8, 16.0, ("q_proj", "v_proj"))


def test_the_predecessors_obstacles_are_none(tmp_path: Path) -> None:
    """It could not start without ``function``, a description, or with a stray file among the adapters."""
    add_expert(tmp_path, "code")
    (tmp_path / "adapters" / "README.md").write_text("notes")
    (tmp_path / "adapters" / "empty").mkdir()

    assert load_package(tmp_path).names == ("code",)


def test_blank_lines_and_empty_files_of_samples_are_no_trouble(tmp_path: Path) -> None:
    add_expert(tmp_path, "code")
    add_expert(tmp_path, "qa")
    add_samples(tmp_path, "code", '\n{"instruction": "one"}\n\n{"instruction": "  "}\n')
    add_samples(tmp_path, "qa", "")

    assert [expert.samples for expert in load_package(tmp_path).experts] == [("one",), ()]


def test_a_sample_may_say_where_it_comes_from(tmp_path: Path) -> None:
    add_expert(tmp_path, "code")
    add_expert(tmp_path, "qa")
    lines = (
        {"instruction": "one", "source": " forum "},
        {"instruction": " ", "source": "forum"},
        {"instruction": "two"},
        {"instruction": "three", "source": None, "output": "3"},
    )
    add_samples(tmp_path, "code", "\n".join(map(json.dumps, lines)))

    code, qa = load_package(tmp_path).experts

    assert list(zip(code.samples, code.sources, strict=True)) == [("one", "forum"), ("two", ""), ("three", "")]
    assert qa.sources == ()


def test_a_line_separator_inside_a_sample_is_no_line_end(tmp_path: Path) -> None:
    add_expert(tmp_path)
    add_samples(tmp_path, "code", '{"instruction": "one\u2028two"}\n')

    assert load_package(tmp_path).experts[0].samples == ("one\u2028two",)


def test_samples_without_an_adapter_are_an_error_and_not_an_expert(tmp_path: Path) -> None:
    add_expert(tmp_path, "code")
    add_samples(tmp_path, "ghost", '{"instruction": "boo"}\n')

    with pytest.raises(PackageError, match=r"expert_ghost.jsonl: there is no adapter 'ghost'; add adapters/ghost/"):
        load_package(tmp_path)


def test_other_files_beside_the_samples_are_left_alone(tmp_path: Path) -> None:
    add_expert(tmp_path, "code")
    add_samples(tmp_path, "code", '{"instruction": "one"}\n')
    (tmp_path / "routing_data" / "notes.jsonl").write_text("not ours")

    assert load_package(tmp_path).names == ("code",)


def test_pickle_weights_are_refused_unless_allowed(tmp_path: Path) -> None:
    add_expert(tmp_path, weights="adapter_model.bin")

    with pytest.raises(PickleRefused, match="allow_pickle: true"):
        load_package(tmp_path)
    assert load_package(tmp_path, allow_pickle=True).experts[0].weights.name == "adapter_model.bin"


def test_safetensors_win_over_a_pickle_beside_them(tmp_path: Path) -> None:
    folder = add_expert(tmp_path)
    (folder / "adapter_model.bin").write_bytes(b"pickle")

    assert load_package(tmp_path).experts[0].weights.name == "adapter_model.safetensors"


@pytest.mark.parametrize("linked", ["adapter_model.safetensors", "adapter_config.json", "description.txt"])
def test_a_link_that_leads_out_of_the_package_is_refused(tmp_path: Path, linked: str) -> None:
    root = tmp_path / "package"
    file = add_expert(root) / linked
    secret = tmp_path / "secret"
    secret.write_text(json.dumps(CONFIG))
    file.unlink(missing_ok=True)
    file.symlink_to(secret)

    with pytest.raises(PackageError, match="leads out of the package"):
        load_package(root)


def test_a_folder_that_leads_out_of_the_package_is_refused(tmp_path: Path) -> None:
    add_expert(tmp_path / "elsewhere", "code")
    (tmp_path / "package" / "adapters").mkdir(parents=True)
    (tmp_path / "package" / "adapters" / "code").symlink_to(tmp_path / "elsewhere" / "adapters" / "code")

    with pytest.raises(PackageError, match="leads out of the package"):
        load_package(tmp_path / "package")


@pytest.mark.parametrize("name", ["-code", "my code", "émile", "x" * 65])
def test_a_name_that_cannot_be_written_on_the_wire_is_refused(tmp_path: Path, name: str) -> None:
    add_expert(tmp_path, name)

    with pytest.raises(PackageError, match="cannot be an expert's name"):
        load_package(tmp_path)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"peft_type": "IA3"}, "only LORA is supported"),
        ({"r": 0}, "rank 0 is not an integer from 1 to 512"),
        ({"r": 4096}, "rank 4096"),
        ({"r": True}, "rank True"),
        ({"rank_pattern": {"q_proj": 1000}}, "rank 1000"),
        ({"use_dora": True}, "use_dora is set"),
        ({"exclude_modules": ["up_proj"]}, "exclude_modules is set"),
        ({"layers_to_transform": [0]}, "layers_to_transform is set"),
        ({"bias": "all"}, "trains biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": []}, "is not a LoRA configuration"),
        ({"target_modules": [1]}, "is not a LoRA configuration"),
        ({"lora_alpha": "much"}, "is not a LoRA configuration"),
        ({"rank_pattern": ["q_proj"]}, "is not a LoRA configuration"),
    ],
)
def test_an_adapter_we_would_compute_wrongly_is_refused(tmp_path: Path, config: dict[str, Any], problem: str) -> None:
    add_expert(tmp_path, **config)

    with pytest.raises(PackageError) as refused:
        load_package(tmp_path)

    assert problem in str(refused.value)
    assert "adapter_config.json" in str(refused.value)


def test_patterns_and_rslora_are_read(tmp_path: Path) -> None:
    add_expert(tmp_path, use_rslora=True, rank_pattern={"v_proj": 32}, alpha_pattern={"v_proj": 64})
    lora = load_package(tmp_path).experts[0].lora

    assert lora.use_rslora
    assert (lora.rank_pattern, lora.alpha_pattern) == ((("v_proj", 32),), (("v_proj", 64.0),))
    assert lora.max_rank == 32


def test_target_modules_may_be_a_regular_expression(tmp_path: Path) -> None:
    add_expert(tmp_path, target_modules=r".*\.q_proj")

    assert load_package(tmp_path).experts[0].lora.targets == r".*\.q_proj"


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_configuration_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = add_expert(tmp_path)
    (folder / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(PackageError, match=r"adapter_config\.json"):
        load_package(tmp_path)


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"instruction": 5}', '{"prompt": "x"}', "null", '{"instruction": "x", "source": 5}']
)
def test_a_broken_sample_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    add_expert(tmp_path)
    add_samples(tmp_path, "code", f'{{"instruction": "fine"}}\n{line}\n')

    with pytest.raises(PackageError, match=r"expert_code\.jsonl:2: is not a line like"):
        load_package(tmp_path)


def test_a_folder_without_experts_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no folder 'adapters'"):
        load_package(tmp_path)
    (tmp_path / "adapters").mkdir()
    with pytest.raises(PackageError, match="holds no expert"):
        load_package(tmp_path)


def test_an_expert_without_weights_is_refused(tmp_path: Path) -> None:
    (add_expert(tmp_path) / "adapter_model.safetensors").unlink()

    with pytest.raises(PackageError, match="has no weights"):
        load_package(tmp_path)


def test_the_digest_follows_weights_and_configuration(tmp_path: Path) -> None:
    add_expert(tmp_path / "a")
    add_expert(tmp_path / "b")
    add_expert(tmp_path / "c", r=16)
    digests = [load_package(tmp_path / name).experts[0].digest for name in "abc"]

    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 16


def test_an_overlong_description_is_refused(tmp_path: Path) -> None:
    (add_expert(tmp_path) / "description.txt").write_text("x" * 4001)

    with pytest.raises(PackageError, match="4001 characters, the limit is 4000"):
        load_package(tmp_path)


def test_the_manifest_is_read(tmp_path: Path) -> None:
    add_expert(tmp_path)
    (tmp_path / "lmoe.yaml").write_text("prompt_format: chat\nfallback: code\nlicence: MIT\nversion: 1.2\nbase:\n")
    manifest = load_package(tmp_path).manifest

    assert (manifest.prompt_format, manifest.fallback) == (PromptFormat.CHAT, "code")
    assert (manifest.licence, manifest.version, manifest.base) == ("MIT", "1.2", "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "is not YAML"),
        ("- a", "must hold keys and values"),
        ("fallbak: code", "unknown keys fallbak; known: base"),
        ("prompt_format: alpaca", "must be one of airoboros, chat"),
        ("fallback: ghost", "'ghost' is no expert; there are: code"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    add_expert(tmp_path)
    (tmp_path / "lmoe.yaml").write_text(text)

    with pytest.raises(PackageError) as refused:
        load_package(tmp_path)

    assert problem in str(refused.value)
