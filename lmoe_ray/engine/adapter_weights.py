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
from lmoe_ray.engine.adaptable_linears import AdaptableLinear, AdaptableLinears, Place, family_linears
from lmoe_ray.engine.model_shape import ModelShape
from lmoe_ray.errors import BaseMismatch, PackageError

_TENSOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<matrix>[AB])(?:\.\w+)?\.weight")


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
    """Read and check an expert's weights for a model of the Llama family; raises as :func:`read_weights` does."""
    return read_weights(expert, family_linears(shape), max_rank=max_rank, dtype=dtype)


def read_weights(expert: Expert, base: AdaptableLinears, *, max_rank: int, dtype: torch.dtype) -> AdapterWeights:
    """Read and check an expert's weights.

    Raises:
        PackageError: unreadable, a tensor unknown, missing, not finite, or a rank above ``max_rank``.
        BaseMismatch: a tensor does not fit this base model.
    """
    if expert.lora.max_rank > max_rank:
        raise PackageError(
            expert.name, f"has rank {expert.lora.max_rank}, the limit is max_lora_rank={max_rank}; raise it"
        )
    bound = _bind(expert, _read_tensors(expert.weights), base)
    matrices = {
        base.linears[name].place: _scaled(expert, name, ab, base.linears[name], dtype)
        for name, ab in _pair_up(expert, bound, base).items()
    }
    rank = max(len(a) for a, _ in matrices.values())
    return AdapterWeights(expert.name, expert.digest, rank, matrices)


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
    expert: Expert, tensors: Mapping[str, torch.Tensor], base: AdaptableLinears
) -> dict[tuple[str, str], torch.Tensor]:
    """Tensors by module and matrix, ``"A"`` or ``"B"``."""
    bound: dict[tuple[str, str], torch.Tensor] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise PackageError(expert.name, f"tensor {name!r} is not LoRA of a linear")
        module = _find_module(expert, name, match["module"], base)
        if not _is_targeted(expert.lora, module):
            raise PackageError(expert.name, f"tensor {name!r} is not among its target_modules")
        if not torch.isfinite(tensor).all():
            raise PackageError(expert.name, f"tensor {name!r} holds values that are not finite")
        if (module, match["matrix"]) in bound:
            raise PackageError(expert.name, f"holds lora_{match['matrix']} of {module} twice, also as {name!r}")
        bound[module, match["matrix"]] = tensor
    return bound


def _find_module(expert: Expert, tensor: str, module: str, base: AdaptableLinears) -> str:
    """Some tools leave out the name of the model inside the model that has a head."""
    for name in (module, f"model.{module}"):
        if name in base.linears:
            return name
        if name in base.refused:
            raise PackageError(expert.name, f"tensor {tensor!r} is LoRA of {base.refused[name]}")
    raise BaseMismatch(expert.name, f"tensor {tensor!r} is not LoRA of a linear the base model has")


def _pair_up(
    expert: Expert, bound: Mapping[tuple[str, str], torch.Tensor], base: AdaptableLinears
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    targeted = [name for name in base.linears if _is_targeted(expert.lora, name)]
    if not targeted:
        raise BaseMismatch(expert.name, f"target_modules {expert.lora.targets!r} name no linear of the base model")
    for name in targeted:
        for matrix in "AB":
            if (name, matrix) not in bound:
                raise PackageError(expert.name, f"has no tensor lora_{matrix} for {name}")
    return {name: (bound[name, "A"], bound[name, "B"]) for name in targeted}


def _is_targeted(lora: LoraConfig, module: str) -> bool:
    """PEFT's rule: a string is a regular expression of the whole name, names match as its end."""
    if isinstance(lora.targets, str):
        return lora.targets == "all-linear" or re.fullmatch(lora.targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in lora.targets)


def _scaled(
    expert: Expert,
    module: str,
    ab: tuple[torch.Tensor, torch.Tensor],
    linear: AdaptableLinear,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = ab
    rank, scale = _rank_and_scale(expert.lora, module)
    needed = (rank, linear.in_features), (linear.out_features, rank)
    if (tuple(a.shape), tuple(b.shape)) != needed:
        raise BaseMismatch(
            expert.name,
            f"{module}: A is {tuple(a.shape)} and B {tuple(b.shape)}; with rank {rank} this base "
            f"model needs {needed[0]} and {needed[1]}",
        )
    return a.to(dtype).contiguous(), (b.float() * scale).T.to(dtype).contiguous()


def _rank_and_scale(lora: LoraConfig, module: str) -> tuple[int, float]:
    ranks, alphas = dict(lora.rank_pattern), dict(lora.alpha_pattern)
    rank = ranks.get(get_pattern_key(tuple(ranks), module), lora.rank)
    alpha = alphas.get(get_pattern_key(tuple(alphas), module), lora.alpha)
    return rank, alpha / (rank**0.5 if lora.use_rslora else rank)
