"""What a client asks: a conversation or a bare prompt, checked and free of wire details."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.domain.tools import ToolCall, ToolUse

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        content: plain text: parts are joined, ``None`` is empty.
        calls: what an assistant's turn asked for.
        name: of the function whose result a tool's turn tells; may be empty.
        call_id: of the call whose result it is; may be empty.
    """

    role: Role
    content: str
    calls: tuple[ToolCall, ...] = ()
    name: str = ""
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """What a client may change about its routing.

    Attributes:
        threshold: confidence below which the fallback answers; ``None``: the server's.
        is_sticky: read the whole conversation, so that it stays with its expert until the topic turns; else only
            the last message speaks.
    """

    threshold: float | None = None
    is_sticky: bool = True


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What every part of the graph needs to know of one request; crosses processes unchanged.

    Attributes:
        request_id: joins log lines of all processes; also the OpenAI ``id`` after its prefix.
        model: as the client wrote it: a base, ``base:expert``, an expert or an alias.
        messages: the conversation, in any order of roles; empty if ``prompt`` is set.
        prompt: a bare prompt (``/v1/completions``), continued as it stands.
        expert: explicit choice of the client; wins over every router.
        is_for_base: so is this: the client named the base model itself, without an expert.
        sampling: see there.
        num_tools: tools the request declares; evidence for the router.
        tools: the calls its answer may hold; ``None``: it is a text.
        routing: see there.
        allowed_experts: all the caller may use, and all a router may score; ``None``: every expert.
    """

    request_id: str
    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    expert: str | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    num_tools: int = 0
    tools: ToolUse | None = None
    routing: RouteOptions = RouteOptions()
    allowed_experts: tuple[str, ...] | None = None
    is_for_base: bool = False
