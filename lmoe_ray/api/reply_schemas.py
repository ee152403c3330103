"""What successful answers look like, for ``/openapi.json`` and its tests; ``replies.py`` writes them.

Closed on purpose: a key that is on the wire and not here fails the tests, as does one that is missing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from lmoe_ray.domain.decision import RoutedBy

_ROUTED_BY = list(get_args(RoutedBy))
_PROBABILITY = Field(ge=0, le=1)


def maybe(description: str = "") -> Any:
    """Of a key that may be absent, which is not the same as ``null``."""
    return Field(default_factory=lambda: None, description=description or None)


class Described(BaseModel):
    """Only these keys."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ErrorObject(Described):
    message: Annotated[str, Field(description="one line of ASCII that says what to do")]
    type: str
    param: Annotated[str | None, Field(description="the field of the request that is wrong")]
    code: str


class ErrorReply(Described):
    """OpenAI's error object; in a stream it comes as the last event."""

    error: ErrorObject


class Status(Described):
    status: Literal["ok", "ready"]


class ModelCard(Described):
    id: Annotated[str, Field(description="a name that may be asked for as model")]
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: Annotated[int, Field(description="tokens of prompt plus answer")]


class ModelList(Described):
    object: Literal["list"]
    data: list[ModelCard]


class ExpertCard(Described):
    name: str
    model: Annotated[str, Field(description="its base model")]
    digest: Annotated[str, Field(description="identity of its weights")]
    description: str
    licence: str


class ExpertList(Described):
    object: Literal["list"]
    data: list[ExpertCard]


class CandidateReply(Described):
    expert: str
    score: Annotated[float, _PROBABILITY, Field(description="a probability; those of all candidates sum to 1")]
    opinions: Annotated[
        dict[str, float], Field(description="probability that each kind of evidence alone gives it, by its name")
    ]


class NeighbourReply(Described):
    expert: str
    similarity: Annotated[float, Field(description="cosine")]
    text: Annotated[str, Field(description="of the routing sample; empty unless router.show_samples is on")]


class RoutingReply(Described):
    """Who answers, in short."""

    routed_by: Annotated[str, Field(json_schema_extra={"enum": _ROUTED_BY})]
    confidence: Annotated[float, _PROBABILITY]


class DecisionReply(RoutingReply):
    """Who answers, how sure the router is, and why."""

    model: str
    expert: Annotated[str | None, Field(description="null: the base model")]
    threshold: Annotated[float, Field(description="confidence below which the router abstains")]
    margin: Annotated[float, Field(description="by how much the best candidate leads the second; 1 without a second")]
    familiarity: Annotated[float, _PROBABILITY, Field(description="how usual it is beside the routing samples")]
    evidence: Annotated[
        dict[str, float], Field(description="share of each kind of evidence in the scores, by its name")
    ]
    stays: Annotated[
        Annotated[float, _PROBABILITY] | None,
        Field(description="probability that the last message goes on with the conversation; null if unknown"),
    ]
    reason: str
    candidates: Annotated[list[CandidateReply], Field(description="best first; empty for an explicit choice")]
    neighbours: Annotated[list[NeighbourReply], Field(description="nearest routing samples, nearest first")]
    duration: Annotated[float, Field(description="seconds the decision took")]


class UsageReply(Described):
    """Tokens of the prompt, counted once, or once for each of ``experts``; and of all answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TokenLikelihood(Described):
    token: str
    logprob: float
    bytes: list[int]


class PickedToken(TokenLikelihood):
    top_logprobs: list[TokenLikelihood]


class ChatLogprobs(Described):
    content: list[PickedToken]
    refusal: None


class TextLogprobs(Described):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Extensions(Described):
    """Our own keys of an answer."""

    expert: str | None = maybe("who answers, null: the base model; absent where several do")
    routing: DecisionReply | RoutingReply = maybe("in a stream, in its first chunk; all of it with explain: true")
    routing_duration: float = maybe("seconds; in a stream, in its first chunk")
    ignored: list[str] = maybe("fields of the request without effect; absent if there are none")
    duration: float = maybe("seconds; in a stream, in the last chunk of each choice")


class CompletionHead(Extensions):
    """What answers of both kinds begin with, whole or in pieces."""

    id: str
    created: int
    model: str
    usage: UsageReply = maybe("in a stream, only if stream_options ask for it")


class ChoiceHead(Described):
    index: int
    expert: str | None = maybe("only if the request names experts: who gives this answer, null: the base model")
    usage: UsageReply = maybe("only if the request names experts: of this answer; in a stream, with its finish_reason")


class EmbeddingReply(Described):
    object: Literal["embedding"]
    index: int
    embedding: Annotated[list[float] | str, Field(description="or base64 of little-endian float32")]


class EmbeddingUsage(Described):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Described):
    object: Literal["list"]
    data: list[EmbeddingReply]
    model: str
    usage: EmbeddingUsage
    embedder: Annotated[str, Field(description="the model that made the vectors")]


class Tokenized(Described):
    count: int
    max_model_len: Annotated[int, Field(description="tokens of prompt plus answer")]
    tokens: list[int]


class Detokenized(Described):
    prompt: str
