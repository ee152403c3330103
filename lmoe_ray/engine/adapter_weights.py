"""From a PEFT folder to matrices that fit the bank: read, checked, scaled. No tensor is left over.

An adapter that loads "successfully" with half of its tensors unbound answers like the base model and
nobody notices. So every tensor must name a linear of this model and have its shape, and every linear
that the configuration targets must have both matrices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file

from lmoe_ray.domain.lora_config import LoraConfig
from lmoe_ray.domain.package import Expert
from lmoe_ray.engine.model_shape import ATTENTION_LINEARS, LINEARS, ModelShape
from lmoe_ray.errors import BaseMismatch, PackageError

#: ``(layer, name)`` of a linear, such as ``(3, "q_proj")``.
Place = tuple[int, str]

_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?:model\.)?layers\.(?P<layer>\d+)\.(?:self_attn|mlp)\.(?P<linear>\w+)"
    r"\.lora_(?P<matrix>[AB])(?:\.\w+)?\.weight"
)


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """One adapter in host memory.

    Attributes:
        rank: the widest of its matrices.
        matrices: by place ``(A [rank, in], B [rank, out])``; B is transposed and ``alpha / rank``
            (or ``alpha / sqrt(rank)`` with rsLoRA) is multiplied into it.
    """

    name: str
    digest: str
    rank: int
    matrices: Mapping[Place, tuple[torch.Tensor, torch.Tensor]]

    @property
    def num_bytes(self) -> int:
        return sum(a.nbytes + b.nbytes for a, b in self.matrices.values())


def read_adapter(expert: Expert, shape: ModelShape, *, max_rank: int, dtype: torch.dtype) -> AdapterWeights:
    """Read and check an expert's weights.

    Raises:
        PackageError: unreadable, a tensor unknown, missing, not finite, or a rank above ``max_rank``.
        BaseMismatch: a tensor does not fit this base model.
    """
    if expert.lora.max_rank > max_rank:
        raise PackageError(
            expert.name, f"has rank {expert.lora.max_rank}, the limit is max_lora_rank={max_rank}; raise it"
        )
    raw = _bind(expert, _read_tensors(expert.weights), shape)
    matrices = {place: _scaled(expert, place, ab, shape, dtype) for place, ab in _pair_up(expert, raw, shape).items()}
    rank = max(len(a) for a, _ in matrices.values())
    return AdapterWeights(expert.name, expert.digest, rank, matrices)


def module_name(place: Place) -> str:
    """The linear's name in the model, as PEFT matches ``target_modules`` and patterns against it."""
    layer, linear = place
    return f"model.layers.{layer}.{'self_attn' if linear in ATTENTION_LINEARS else 'mlp'}.{linear}"


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of the file. A pickle is read without running its code; the package allowed it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError) as exc:
        raise PackageError(str(path), f"cannot be read: {exc}") from exc
    except Exception as exc:  # torch raises pickle's own errors, of many kinds, for files that are none
        raise PackageError(str(path), f"is not a file of weights: {exc!r}") from exc
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise PackageError(str(path), "does not hold a mapping of names to tensors")
    return tensors


def _bind(
    expert: Expert, tensors: Mapping[str, torch.Tensor], shape: ModelShape
) -> dict[tuple[Place, str], torch.Tensor]:
    bound: dict[tuple[Place, str], torch.Tensor] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or match["linear"] not in LINEARS:
            raise PackageError(expert.name, f"tensor {name!r} is not LoRA of a linear of attention or MLP")
        place = (int(match["layer"]), match["linear"])
        if place[0] >= shape.num_layers:
            raise BaseMismatch(expert.name, f"tensor {name!r} is beyond the base model's {shape.num_layers} layers")
        if not _is_targeted(expert.lora, place):
            raise PackageError(expert.name, f"tensor {name!r} is not among its target_modules")
        if not torch.isfinite(tensor).all():
            raise PackageError(expert.name, f"tensor {name!r} holds values that are not finite")
        bound[place, match["matrix"]] = tensor
    return bound


def _pair_up(
    expert: Expert, bound: Mapping[tuple[Place, str], torch.Tensor], shape: ModelShape
) -> dict[Place, tuple[torch.Tensor, torch.Tensor]]:
    places = [(layer, linear) for layer in range(shape.num_layers) for linear in LINEARS]
    targeted = [place for place in places if _is_targeted(expert.lora, place)]
    if not targeted:
        raise BaseMismatch(expert.name, f"target_modules {expert.lora.targets!r} name no linear of the base model")
    for place in targeted:
        for matrix in "AB":
            if (place, matrix) not in bound:
                raise PackageError(expert.name, f"has no tensor lora_{matrix} for {module_name(place)}")
    return {place: (bound[place, "A"], bound[place, "B"]) for place in targeted}


def _is_targeted(lora: LoraConfig, place: Place) -> bool:
    """PEFT's rule: a string is a regular expression of the whole name, names match as its end."""
    name = module_name(place)
    if isinstance(lora.targets, str):
        return lora.targets == "all-linear" or re.fullmatch(lora.targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in lora.targets)


def _scaled(
    expert: Expert,
    place: Place,
    ab: tuple[torch.Tensor, torch.Tensor],
    shape: ModelShape,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = ab
    rank, scale = _rank_and_scale(expert.lora, place)
    out_features, in_features = shape.linear(place[1])
    if tuple(a.shape) != (rank, in_features) or tuple(b.shape) != (out_features, rank):
        raise BaseMismatch(
            expert.name,
            f"{module_name(place)}: A is {tuple(a.shape)} and B {tuple(b.shape)}; with rank {rank} this base "
            f"model needs {(rank, in_features)} and {(out_features, rank)}",
        )
    return a.to(dtype).contiguous(), (b.float() * scale).T.to(dtype).contiguous()


def _rank_and_scale(lora: LoraConfig, place: Place) -> tuple[int, float]:
    ranks, alphas = dict(lora.rank_pattern), dict(lora.alpha_pattern)
    rank = ranks.get(get_pattern_key(tuple(ranks), module_name(place)), lora.rank)
    alpha = alphas.get(get_pattern_key(tuple(alphas), module_name(place)), lora.alpha)
    return rank, alpha / (rank**0.5 if lora.use_rslora else rank)
