"""What a client asks: a conversation or a bare prompt, checked and free of wire details."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lmoe_ray.domain.sampling import SamplingParams

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``content`` is plain text: parts are joined, ``None`` is empty."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What every part of the graph needs to know of one request; crosses processes unchanged.

    Attributes:
        request_id: joins log lines of all processes; also the OpenAI ``id`` after its prefix.
        model: as the client wrote it: a base, ``base:expert``, an expert or an alias.
        messages: the conversation, in any order of roles; empty if ``prompt`` is set.
        prompt: a bare prompt (``/v1/completions``), continued as it stands.
        expert: explicit choice of the client; wins over every router.
        sampling: see there.
        num_tools: tools the request declares; evidence for the router.
    """

    request_id: str
    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    expert: str | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    num_tools: int = 0
