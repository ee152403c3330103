"""What an LMoE package is on disk, and who an expert is: names, files, digests, limits.

::

    <package>/
    ├── lmoe.yaml                        optional manifest, see Manifest
    ├── adapters/<expert>/
    │   ├── adapter_config.json          PEFT's
    │   ├── adapter_model.safetensors    or .bin, refused unless allow_pickle
    │   └── description.txt              optional: what the expert is good at
    └── routing_data/expert_<expert>.jsonl    {"instruction": …, "source": …} a line; optional, the source too

An expert is a directory with an ``adapter_config.json``; its name is the directory's. The layout is
the one published with airoboros.lmoe. Only the standard library and YAML are needed to read it; the
tensors themselves are checked by ``engine/adapter_weights.py``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmoe_ray.domain.lora_config import LoraConfig, parse_lora_config
from lmoe_ray.domain.package_files import inside, read_text
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.errors import PackageError, PickleRefused

EXPERT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
MANIFEST = "lmoe.yaml"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
MAX_DESCRIPTION_CHARS = 4000


@dataclass(frozen=True, slots=True)
class Expert:
    """A named speciality: adapter files on disk plus what the router knows of it.

    ``sources`` say where each of ``samples`` comes from, empty where nobody said; or there are none at all.
    """

    name: str
    weights: Path
    digest: str
    lora: LoraConfig
    description: str = ""
    samples: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """``lmoe.yaml``: everything has a default, so a package exactly as published needs none.

    Attributes:
        base: name or source of the base model the adapters were made for; empty is not checked.
        prompt_format: ``airoboros`` or ``chat``.
        fallback: expert that answers when the router abstains; empty is the base model.
        licence: SPDX name, shown by ``lmoe check`` and ``GET /v1/experts``.
        version: of the package.
    """

    base: str = ""
    prompt_format: PromptFormat = PromptFormat.AIROBOROS
    fallback: str = ""
    licence: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class LMoEPackage:
    """A checked package; ``experts`` are sorted by name."""

    path: Path
    manifest: Manifest
    experts: tuple[Expert, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(expert.name for expert in self.experts)


def load_package(path: Path, *, allow_pickle: bool = False) -> LMoEPackage:
    """Read and check a package folder.

    Raises:
        PackageError: naming the file or expert, what is wrong with it, and the way out.
    """
    root = path.expanduser().resolve()
    if not (root / "adapters").is_dir():
        raise PackageError(str(path), "is not an LMoE package: it has no folder 'adapters'")
    folders = [f for f in sorted((root / "adapters").iterdir()) if (f / "adapter_config.json").is_file()]
    if not folders:
        raise PackageError(str(path), "holds no expert: no adapters/<name>/adapter_config.json found")
    samples = _load_samples(root)
    if strangers := samples.keys() - {f.name for f in folders}:
        stranger = min(strangers)
        raise PackageError(
            str(root / "routing_data" / f"expert_{stranger}.jsonl"),
            f"there is no adapter {stranger!r}; add adapters/{stranger}/ or remove the file",
        )
    experts = tuple(_load_expert(root, f, samples.get(f.name, []), allow_pickle) for f in folders)
    return LMoEPackage(root, _load_manifest(root, tuple(e.name for e in experts)), experts)


def _load_expert(root: Path, folder: Path, samples: list[_Sample], allow_pickle: bool) -> Expert:
    name = folder.name
    if not EXPERT_NAME.fullmatch(name):
        raise PackageError(
            str(folder), f"{name!r} cannot be an expert's name; use 1 to 64 letters, digits, '_', '-' and '.'"
        )
    inside(root, folder)
    weights = _find_weights(root, folder, allow_pickle)
    config_file = inside(root, folder / "adapter_config.json")
    return Expert(
        name=name,
        weights=weights,
        digest=_digest(weights, config_file),
        lora=parse_lora_config(config_file),
        description=_read_description(root, folder),
        samples=tuple(sample.instruction for sample in samples),
        sources=tuple(sample.source for sample in samples),
    )


def _find_weights(root: Path, folder: Path, allow_pickle: bool) -> Path:
    for file_name in WEIGHT_FILES:
        candidate = folder / file_name
        if not candidate.exists():
            continue
        if candidate.suffix == ".bin" and not allow_pickle:
            raise PickleRefused(str(candidate))
        return inside(root, candidate)
    raise PackageError(str(folder), f"has no weights; one of {' or '.join(WEIGHT_FILES)} is needed")


def _digest(weights: Path, config_file: Path) -> str:
    """Identity of an adapter version: weights and configuration, 16 hex digits of SHA-256."""
    digest = hashlib.sha256()
    for file in (config_file, weights):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _read_description(root: Path, folder: Path) -> str:
    file = folder / "description.txt"
    if not file.exists():
        return ""
    text = read_text(inside(root, file)).strip()
    if len(text) > MAX_DESCRIPTION_CHARS:
        raise PackageError(str(file), f"has {len(text)} characters, the limit is {MAX_DESCRIPTION_CHARS}; shorten it")
    return text


@dataclass(frozen=True, slots=True)
class _Sample:
    instruction: str
    source: str


def _load_samples(root: Path) -> dict[str, list[_Sample]]:
    """Routing samples by expert. Other files in the folder are not ours and are left alone."""
    samples = {}
    for file in sorted((root / "routing_data").glob("expert_*.jsonl")):
        name = file.name.removeprefix("expert_").removesuffix(".jsonl")
        samples[name] = _read_samples(inside(root, file))
    return samples


def _read_samples(file: Path) -> list[_Sample]:
    samples = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            sample = _Sample(row["instruction"].strip(), (row.get("source") or "").strip())
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise PackageError(f"{file}:{number}", 'is not a line like {"instruction": "text"}') from exc
        if sample.instruction:
            samples.append(sample)
    return samples


def _load_manifest(root: Path, names: tuple[str, ...]) -> Manifest:
    file = root / MANIFEST
    if not file.exists():
        return Manifest()
    data = _read_manifest(inside(root, file))
    try:
        prompt_format = PromptFormat(data.pop("prompt_format", PromptFormat.AIROBOROS))
    except ValueError as exc:
        raise PackageError(str(file), f"prompt_format must be one of {', '.join(PromptFormat)}: {exc}") from exc
    manifest = Manifest(prompt_format=prompt_format, **{key: str(value or "") for key, value in data.items()})
    if manifest.fallback and manifest.fallback not in names:
        raise PackageError(str(file), f"fallback {manifest.fallback!r} is no expert; there are: {', '.join(names)}")
    return manifest


def _read_manifest(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(read_text(file)) or {}
    except yaml.YAMLError as exc:
        raise PackageError(str(file), f"is not YAML: {exc}") from exc
    if not isinstance(data, dict):
        raise PackageError(str(file), "must hold keys and values")
    known = [field.name for field in dataclasses.fields(Manifest)]
    if unknown := sorted(map(str, data.keys() - set(known))):
        raise PackageError(str(file), f"unknown keys {', '.join(unknown)}; known: {', '.join(known)}")
    return data
