"""Who asks: the holder of an API key, which experts exist for them, and how much they may use."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lmoe_ray.domain.served import ServedModel


@dataclass(frozen=True, slots=True)
class Quota:
    """What one caller may use; ``None`` is without limit. Tokens are those of prompts and answers."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a key.

    Attributes:
        name: for logs and counters; never secret.
        experts: what the key opens: ``code`` of every base, ``base:code`` of that base only; ``None``: every
            expert. The base models themselves are open to everybody.
        quota: see there.
    """

    name: str
    experts: tuple[str, ...] | None = None
    quota: Quota = Quota()

    def allowed_of(self, model: ServedModel) -> tuple[str, ...] | None:
        """Names of this model's experts that the caller may use, ``None`` if that is not restricted."""
        if self.experts is None:
            return None
        return tuple(name for name in model.expert_names if {name, f"{model.name}:{name}"} & set(self.experts))

    def sees(self, models: tuple[ServedModel, ...]) -> tuple[ServedModel, ...]:
        """The models as they are to this caller: what is not allowed does not exist."""
        return models if self.experts is None else tuple(self._narrowed(model) for model in models)

    def _narrowed(self, model: ServedModel) -> ServedModel:
        allowed = self.allowed_of(model) or ()
        return dataclasses.replace(
            model,
            experts=tuple(expert for expert in model.experts if expert.name in allowed),
            fallback=model.fallback if model.fallback in allowed else "",
        )


#: Whoever asks where no key is needed.
ANYONE = Caller("anyone")
