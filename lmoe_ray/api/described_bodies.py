"""Bodies of paths that fill a field in, or read one body by another: what they take, as ``/openapi.json`` tells it.

They only describe. A field that is ``None`` here is refused there.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from lmoe_ray.api.bodies import ChatBody, CompletionBody, Prompt, TextBody
from lmoe_ray.api.embeddings import EmbeddingBody
from lmoe_ray.api.response_bodies import ResponseBody
from lmoe_ray.api.token_routes import TokenizeBody

_Default = Annotated[str, Field(min_length=1, default_factory=str, description="default: the first base model")]
#: The one in the path is asked, whatever the body says.
_PassedOver = Annotated[Any, WithJsonSchema({"description": "the model in the path wins"})]


class EngineBody(TextBody):
    """``/v1/engines/{model}/completions``."""

    model: _PassedOver = None


class EngineEmbeddingBody(EmbeddingBody):
    """``/v1/engines/{model}/embeddings``."""

    model: _PassedOver = None


class ResponsesBody(ResponseBody, CompletionBody):
    """``/v1/responses``: its own fields, and those it shares with ``/v1/chat/completions``."""

    parallel_tool_calls: bool = True
    max_tokens: None = None
    max_completion_tokens: None = None
    experts: None = None


class RoutedChatBody(ChatBody):
    """A conversation, asked about and not answered."""

    model: _Default
    experts: None = None


class RoutedTextBody(TextBody):
    """A text as ``prompt``, asked about and not continued."""

    model: _Default
    experts: None = None


class RoutedInputBody(RoutedTextBody):
    """A text as ``input``, asked about and not continued."""

    prompt: Annotated[Any, WithJsonSchema({"description": "input wins"})] = None
    input: Prompt


class TokenizedChatBody(TokenizeBody, RoutedChatBody):
    """The tokens of a conversation's prompt."""


class TokenizedTextBody(TokenizeBody, RoutedTextBody):
    """The tokens of a text as ``prompt``."""


class TokenizedInputBody(TokenizeBody, RoutedInputBody):
    """The tokens of a text as ``input``."""
