"""PEFT's ``adapter_config.json``: the part that decides what an adapter computes, and what we do not compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmoe_ray.domain.package_files import read_json_object
from lmoe_ray.errors import PackageError

MAX_RANK = 512

#: PEFT features that change the arithmetic of a LoRA layer and are refused rather than ignored.
_UNSUPPORTED = (
    "use_dora",
    "alora_invocation_tokens",
    "exclude_modules",
    "layer_replication",
    "layers_to_transform",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
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


def parse_lora_config(config_file: Path) -> LoraConfig:
    """Read PEFT's ``adapter_config.json``.

    Raises:
        PackageError: not JSON, not LoRA, a rank outside 1..512, or a variant we do not compute.
    """
    place = str(config_file)
    data = read_json_object(config_file)
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
