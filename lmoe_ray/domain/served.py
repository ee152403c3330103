"""What is on offer, and what a client's ``model`` names.

A client may write a base model's name, ``base:expert``, an expert's name, or an alias of a base. Where an expert is
named, the base model itself may be: by the word for it or by its own name.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmoe_ray.errors import ExpertNotFound, ModelNotFound

#: What the base model is called among experts, beside its own names; an expert of that name comes first.
BASE = "base"


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

    def named(self, name: str) -> str | None:
        """The expert of that name; ``None`` if it names the base model itself.

        Raises:
            ExpertNotFound: it names neither.
        """
        if name in self.expert_names:
            return name
        if name in (BASE, self.name, *self.aliases):
            return None
        raise ExpertNotFound(name, tuple(dict.fromkeys((*self.expert_names, BASE))))


@dataclass(frozen=True, slots=True)
class Address:
    """A base model, and whom of it the client named.

    Attributes:
        expert: ``None`` if no expert was named.
        is_base: the base model itself was named among the experts, so nobody else may answer.
    """

    model: ServedModel
    expert: str | None
    is_base: bool = False


def resolve(models: tuple[ServedModel, ...], model: str, expert: str | None, *, use_default: bool = False) -> Address:
    """Find what ``model`` and ``expert`` of a request name.

    A bare expert name leads to the first base that has it. An ``expert`` field wins over the one in
    ``model``. With ``use_default``, an unknown name leads to the first base.

    Raises:
        ModelNotFound: the name leads nowhere.
        ExpertNotFound: the base has no such expert, and is not called so itself.
    """
    address = _by_base(models, model) or _by_expert(models, model)
    if address is None:
        if not use_default:
            raise ModelNotFound(model, wire_names(models))
        address = Address(models[0], None)
    chosen = expert or address.expert
    if chosen is None:
        return address
    named = address.model.named(chosen)
    return Address(address.model, named, is_base=named is None)


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
