"""What is on offer, as ``/v1/models`` and ``/v1/experts`` list it."""

from __future__ import annotations

from lmoe_ray.api.replies import Json
from lmoe_ray.domain.served import ServedModel, wire_names

OWNER = "lmoe_ray"


def encode_models(models: tuple[ServedModel, ...]) -> list[Json]:
    """One entry for every name a client may put into ``model``."""
    return [
        {
            "id": name,
            "object": "model",
            "created": model.created,
            "owned_by": OWNER,
            "max_model_len": model.max_model_len,
        }
        for model in models
        for name in wire_names((model,))
    ]


def encode_experts(models: tuple[ServedModel, ...]) -> list[Json]:
    return [
        {
            "name": expert.name,
            "model": model.name,
            "digest": expert.digest,
            "description": expert.description,
            "licence": expert.licence,
        }
        for model in models
        for expert in model.experts
    ]
