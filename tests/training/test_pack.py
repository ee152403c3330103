"""A package is written whole, read back, and never over somebody's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmoe_ray.domain.package import Manifest
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.errors import PackageError
from lmoe_ray.training.pack import pack


def make_adapter(folder: Path, content: bytes = b"weights") -> Path:
    """The two files of an adapter; packing copies weights without opening them."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]})
    )
    (folder / "adapter_model.safetensors").write_bytes(content)
    (folder / "README.md").write_text("not copied")
    return folder


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, Path]:
    return {name: make_adapter(tmp_path / "tuned" / name, name.encode()) for name in ("code", "fun")}


def test_a_package_holds_what_was_given(tmp_path: Path, adapters: dict[str, Path]) -> None:
    manifest = Manifest(base="tiny", prompt_format=PromptFormat.CHAT, fallback="fun", licence="MIT")

    package = pack(tmp_path / "out", adapters, {"code": " Writes code.\n"}, {"code": ["one", "two"]}, manifest)

    assert package.names == ("code", "fun")
    assert package.manifest == manifest
    code, fun = package.experts
    assert (code.description, code.samples, code.lora.rank) == ("Writes code.", ("one", "two"), 4)
    assert (fun.description, fun.samples) == ("", ())
    assert fun.weights.read_bytes() == b"fun"
    assert sorted(p.name for p in (tmp_path / "out" / "adapters" / "code").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "description.txt",
    ]


def test_without_a_manifest_the_defaults_hold(tmp_path: Path, adapters: dict[str, Path]) -> None:
    assert pack(tmp_path / "out", adapters, {}, {}).manifest == Manifest()


def test_an_older_package_is_replaced(tmp_path: Path, adapters: dict[str, Path]) -> None:
    pack(tmp_path / "out", adapters, {}, {})

    assert pack(tmp_path / "out", {"code": adapters["code"]}, {}, {}).names == ("code",)


def test_other_peoples_files_are_not_replaced(tmp_path: Path, adapters: dict[str, Path]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()

    with pytest.raises(PackageError, match="choose a new or empty folder"):
        pack(tmp_path / "out", adapters, {}, {})


def test_a_package_that_would_not_load_is_not_written(tmp_path: Path, adapters: dict[str, Path]) -> None:
    pack(tmp_path / "out", adapters, {}, {})

    with pytest.raises(PackageError, match="fallback 'nobody' is no expert"):
        pack(tmp_path / "out", adapters, {}, {}, Manifest(fallback="nobody"))

    assert pack(tmp_path / "out", adapters, {}, {}).manifest == Manifest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "tuned"]


def test_descriptions_and_samples_need_an_adapter(tmp_path: Path, adapters: dict[str, Path]) -> None:
    with pytest.raises(PackageError, match="qa: has a description but no adapter; there are: code, fun"):
        pack(tmp_path / "out", adapters, {"qa": "x"}, {})
    with pytest.raises(PackageError, match="qa: has routing samples but no adapter"):
        pack(tmp_path / "out", adapters, {}, {"qa": ["x"]})


def test_a_name_that_leaves_the_package_is_refused(tmp_path: Path, adapters: dict[str, Path]) -> None:
    with pytest.raises(PackageError, match="cannot be an expert's name"):
        pack(tmp_path / "out", {"../evil": adapters["code"]}, {}, {})


def test_an_adapter_without_safetensors_is_refused(tmp_path: Path, adapters: dict[str, Path]) -> None:
    (adapters["fun"] / "adapter_model.safetensors").rename(adapters["fun"] / "adapter_model.bin")

    with pytest.raises(PackageError, match=r"lacks adapter_model\.safetensors; give a PEFT adapter"):
        pack(tmp_path / "out", adapters, {}, {})
