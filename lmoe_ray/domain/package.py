"""What an LMoE package is on disk, and who an expert is: names, files, digests, limits.

::

    <package>/
    ├── lmoe.yaml                        optional manifest, see Manifest
    ├── adapters/<expert>/
    │   ├── adapter_config.json          PEFT's
    │   ├── adapter_model.safetensors    or .bin, refused unless allow_pickle
    │   └── description.txt              optional: what the expert is good at
    └── routing_data/expert_<expert>.jsonl    {"instruction": …} a line; optional

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

from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.errors import PackageError, PickleRefused

EXPERT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
MANIFEST = "lmoe.yaml"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
MAX_RANK = 512
MAX_DESCRIPTION_CHARS = 4000

#: PEFT features that change the arithmetic of a LoRA layer and are refused rather than ignored.
_UNSUPPORTED = (
    "use_dora",
    "alora_invocation_tokens",
    "exclude_modules",
    "layer_replication",
    "layers_to_transform",
    "megatron_config",
    "trainable_token_indices",
)


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of ``adapter_config.json`` that decides what the adapter computes.

    ``rank`` and ``alpha`` hold per-module exceptions in their patterns, keyed as PEFT keys them (a
    suffix or regular expression of the module's name). ``targets`` are module names, lower case
    suffixes such as ``q_proj``; a string instead of a tuple is a regular expression.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] | str
    use_rslora: bool = False
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, float], ...] = ()
    base_model: str = ""

    @property
    def max_rank(self) -> int:
        return max([self.rank, *(rank for _, rank in self.rank_pattern)])


@dataclass(frozen=True, slots=True)
class Expert:
    """A named speciality: adapter files on disk plus what the router knows of it."""

    name: str
    weights: Path
    digest: str
    lora: LoraConfig
    description: str = ""
    samples: tuple[str, ...] = ()


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
    experts = tuple(_load_expert(root, f, samples.get(f.name, ()), allow_pickle) for f in folders)
    return LMoEPackage(root, _load_manifest(root, tuple(e.name for e in experts)), experts)


def _load_expert(root: Path, folder: Path, samples: tuple[str, ...], allow_pickle: bool) -> Expert:
    name = folder.name
    if not EXPERT_NAME.fullmatch(name):
        raise PackageError(
            str(folder), f"{name!r} cannot be an expert's name; use 1 to 64 letters, digits, '_', '-' and '.'"
        )
    _inside(root, folder)
    weights = _find_weights(root, folder, allow_pickle)
    config_file = _inside(root, folder / "adapter_config.json")
    return Expert(
        name=name,
        weights=weights,
        digest=_digest(weights, config_file),
        lora=parse_lora_config(config_file),
        description=_read_description(root, folder),
        samples=samples,
    )


def _find_weights(root: Path, folder: Path, allow_pickle: bool) -> Path:
    for file_name in WEIGHT_FILES:
        candidate = folder / file_name
        if not candidate.exists():
            continue
        if candidate.suffix == ".bin" and not allow_pickle:
            raise PickleRefused(str(candidate))
        return _inside(root, candidate)
    raise PackageError(str(folder), f"has no weights; one of {' or '.join(WEIGHT_FILES)} is needed")


def _inside(root: Path, path: Path) -> Path:
    """The real path, refused if links lead out of the package."""
    real = path.resolve()
    if not real.is_relative_to(root):
        raise PackageError(str(path), f"leads out of the package to {real}; copy the file into the package")
    return real


def parse_lora_config(config_file: Path) -> LoraConfig:
    """Read PEFT's ``adapter_config.json``.

    Raises:
        PackageError: not JSON, not LoRA, a rank outside 1..512, or a variant we do not compute.
    """
    place = str(config_file)
    data = _read_json_object(config_file)
    if data.get("peft_type", "LORA") != "LORA":
        raise PackageError(place, f"peft_type is {data['peft_type']!r}; only LORA is supported")
    for key in _UNSUPPORTED:
        if data.get(key):
            raise PackageError(place, f"{key} is set and not supported; merge it into plain LoRA weights first")
    if data.get("bias", "none") != "none" or data.get("lora_bias"):
        raise PackageError(place, "trains biases, which is not supported; retrain with bias='none'")
    if data.get("modules_to_save"):
        raise PackageError(place, f"modules_to_save={data['modules_to_save']!r} replaces base weights; not supported")
    try:
        return LoraConfig(
            rank=_checked_rank(place, data["r"]),
            alpha=float(data["lora_alpha"]),
            targets=_targets(data["target_modules"]),
            use_rslora=bool(data.get("use_rslora")),
            rank_pattern=tuple((k, _checked_rank(place, v)) for k, v in (data.get("rank_pattern") or {}).items()),
            alpha_pattern=tuple((k, float(v)) for k, v in (data.get("alpha_pattern") or {}).items()),
            base_model=str(data.get("base_model_name_or_path") or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise PackageError(place, f"is not a LoRA configuration: {exc!r}") from exc


def _checked_rank(place: str, rank: Any) -> int:
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise PackageError(place, f"rank {rank!r} is not an integer from 1 to {MAX_RANK}")
    return rank


def _targets(value: Any) -> tuple[str, ...] | str:
    if isinstance(value, str):
        return value
    if not value or not all(isinstance(v, str) for v in value):
        raise ValueError(f"target_modules={value!r}")
    return tuple(sorted(value))


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
    text = _read_text(_inside(root, file)).strip()
    if len(text) > MAX_DESCRIPTION_CHARS:
        raise PackageError(str(file), f"has {len(text)} characters, the limit is {MAX_DESCRIPTION_CHARS}; shorten it")
    return text


def _load_samples(root: Path) -> dict[str, tuple[str, ...]]:
    """Routing samples by expert. Other files in the folder are not ours and are left alone."""
    samples = {}
    for file in sorted((root / "routing_data").glob("expert_*.jsonl")):
        name = file.name.removeprefix("expert_").removesuffix(".jsonl")
        samples[name] = tuple(_read_instructions(_inside(root, file)))
    return samples


def _read_instructions(file: Path) -> list[str]:
    instructions = []
    for number, line in enumerate(_read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            instruction = json.loads(line)["instruction"].strip()
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise PackageError(f"{file}:{number}", 'is not a line like {"instruction": "text"}') from exc
        if instruction:
            instructions.append(instruction)
    return instructions


def _load_manifest(root: Path, names: tuple[str, ...]) -> Manifest:
    file = root / MANIFEST
    if not file.exists():
        return Manifest()
    data = _read_manifest(_inside(root, file))
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
        data = yaml.safe_load(_read_text(file)) or {}
    except yaml.YAMLError as exc:
        raise PackageError(str(file), f"is not YAML: {exc}") from exc
    if not isinstance(data, dict):
        raise PackageError(str(file), "must hold keys and values")
    known = [field.name for field in dataclasses.fields(Manifest)]
    if unknown := sorted(map(str, data.keys() - set(known))):
        raise PackageError(str(file), f"unknown keys {', '.join(unknown)}; known: {', '.join(known)}")
    return data


def _read_json_object(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(_read_text(file))
    except ValueError as exc:
        raise PackageError(str(file), f"is not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise PackageError(str(file), "must hold a JSON object")
    return data


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise PackageError(str(file), f"cannot be read as UTF-8 text: {exc}") from exc
