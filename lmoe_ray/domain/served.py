"""What is on offer, and what a client's ``model`` names.

A client may write a base model's name, ``base:expert``, an expert's name, or an alias of a base.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmoe_ray.errors import ExpertNotFound, ModelNotFound


@dataclass(frozen=True, slots=True)
class ServedExpert:
    """One expert as shown to clients."""

    name: str
    digest: str
    description: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One base model as shown to clients. ``fallback`` is an expert's name, or empty for the base."""

    name: str
    experts: tuple[ServedExpert, ...] = ()
    aliases: tuple[str, ...] = ()
    fallback: str = ""
    max_model_len: int = 0
    created: int = 0

    @property
    def expert_names(self) -> tuple[str, ...]:
        return tuple(expert.name for expert in self.experts)


@dataclass(frozen=True, slots=True)
class Address:
    """A base model, and the expert if the client named one."""

    model: ServedModel
    expert: str | None


def resolve(models: tuple[ServedModel, ...], model: str, expert: str | None, *, use_default: bool = False) -> Address:
    """Find what ``model`` and ``expert`` of a request name.

    A bare expert name leads to the first base that has it. An ``expert`` field wins over the one in
    ``model``. With ``use_default``, an unknown name leads to the first base.

    Raises:
        ModelNotFound: the name leads nowhere.
        ExpertNotFound: the base has no such expert.
    """
    address = _by_base(models, model) or _by_expert(models, model)
    if address is None:
        if not use_default:
            raise ModelNotFound(model, wire_names(models))
        address = Address(models[0], None)
    chosen = expert or address.expert
    if chosen is not None and chosen not in address.model.expert_names:
        raise ExpertNotFound(chosen, address.model.expert_names)
    return Address(address.model, chosen)


def wire_names(models: tuple[ServedModel, ...]) -> tuple[str, ...]:
    """Every name ``GET /v1/models`` lists: bases, their experts as ``base:expert``, aliases."""
    names: list[str] = []
    for model in models:
        names += [model.name, *(f"{model.name}:{expert}" for expert in model.expert_names), *model.aliases]
    return tuple(names)


def _by_base(models: tuple[ServedModel, ...], name: str) -> Address | None:
    base, _, expert = name.partition(":")
    for model in models:
        if name in (model.name, *model.aliases):
            return Address(model, None)
        if expert and base in (model.name, *model.aliases):
            return Address(model, expert)
    return None


def _by_expert(models: tuple[ServedModel, ...], name: str) -> Address | None:
    return next((Address(model, name) for model in models if name in model.expert_names), None)
