"""Which linears of a base model an adapter may change, and what it calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lmoe_ray.engine.model_shape import ATTENTION_LINEARS, LINEARS, ModelShape

#: A linear's key in the bank: ``(layer, name)`` such as ``(3, "q_proj")`` in the Llama family, else its whole name.
Place = tuple[int, str] | str


@dataclass(frozen=True, slots=True)
class AdaptableLinear:
    """A linear of the base model that adapters may change."""

    place: Place
    out_features: int
    in_features: int


@dataclass(frozen=True, slots=True)
class AdaptableLinears:
    """What of a base model adapters may change, by the modules' whole names.

    Attributes:
        linears: in the order of the model.
        refused: modules that PEFT could adapt and we do not compute, and why.
    """

    linears: Mapping[str, AdaptableLinear]
    refused: Mapping[str, str]


def family_linears(shape: ModelShape) -> AdaptableLinears:
    """Those of the Llama family: everything in its layers."""
    places = [(layer, linear) for layer in range(shape.num_layers) for linear in LINEARS]
    linears = {module_name(place): AdaptableLinear(place, *shape.linear(place[1])) for place in places}
    return AdaptableLinears(linears, {"lm_head": "the output head, which adapters cannot change"})


def module_name(place: Place) -> str:
    """The linear's name in the model, as PEFT matches ``target_modules`` and patterns against it."""
    if isinstance(place, str):
        return place
    layer, linear = place
    return f"model.layers.{layer}.{'self_attn' if linear in ATTENTION_LINEARS else 'mlp'}.{linear}"
