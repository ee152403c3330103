"""What each path takes and gives: the one table that ``/openapi.json`` is made from.

A path that is served and not here, or here and not served, fails a test. Errors are named by their classes,
whose first lines describe them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from lmoe_ray import errors
from lmoe_ray.api.bodies import ChatBody, TextBody
from lmoe_ray.api.completion_schemas import ChatCompletion, ChatCompletionChunk, TextCompletion, TextCompletionChunk
from lmoe_ray.api.described_bodies import (
    EngineBody,
    EngineEmbeddingBody,
    ResponsesBody,
    RoutedChatBody,
    RoutedInputBody,
    RoutedTextBody,
    TokenizedChatBody,
    TokenizedInputBody,
    TokenizedTextBody,
)
from lmoe_ray.api.embeddings import EmbeddingBody
from lmoe_ray.api.reply_schemas import (
    DecisionReply,
    Detokenized,
    EmbeddingList,
    ExpertList,
    ModelCard,
    ModelList,
    Status,
    Tokenized,
)
from lmoe_ray.api.response_schemas import ResponseEvent, ResponseObject
from lmoe_ray.api.token_routes import DetokenizeBody
from lmoe_ray.errors import LMoEError

Refusals = tuple[type[LMoEError], ...]

#: What any request may meet, and what one with a body may meet besides.
ALWAYS: Refusals = (errors.TooManyHeaders, errors.InternalError)
WITH_KEYS: Refusals = (errors.InvalidApiKey, errors.KeysUnavailable)
WITH_QUOTAS: Refusals = (errors.RateLimited, errors.QuotaUncounted)
WITH_BODY: Refusals = (
    errors.MalformedBody,
    errors.InvalidField,
    errors.UnsupportedValue,
    errors.BodyTimeout,
    errors.BodyTooLarge,
)
ASKED: Refusals = (
    *WITH_BODY,
    errors.ModelNotFound,
    errors.ExpertNotFound,
    errors.Overloaded,
    errors.ReplicaLost,
)
EMBEDDED: Refusals = (*ASKED, errors.PromptTooLong)
GENERATED: Refusals = (
    *EMBEDDED,
    errors.ConstraintFailed,
    errors.GenerationTimeout,
    errors.EngineFailed,
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path.

    Attributes:
        path: without ``/v1``; it exists with it too.
        summary: one line.
        bodies: what the request's body may be, one of them; empty: it has none.
        reply: what success looks like; ``None``: any object.
        event: what each event of its stream looks like; ``None``: it does not stream.
        refusals: beside those every path has.
        is_open: needs no key.
    """

    method: str
    path: str
    summary: str
    reply: type[BaseModel] | None
    bodies: tuple[type[BaseModel], ...] = ()
    event: type[BaseModel] | None = None
    refusals: Refusals = ()
    is_open: bool = False


ENDPOINTS = (
    Endpoint(
        "POST",
        "/chat/completions",
        "Answer a conversation, by the expert the router chooses, the one named, or several side by side",
        ChatCompletion,
        (ChatBody,),
        ChatCompletionChunk,
        GENERATED,
    ),
    Endpoint(
        "POST", "/completions", "Go on with a bare prompt", TextCompletion, (TextBody,), TextCompletionChunk, GENERATED
    ),
    Endpoint(
        "POST",
        "/engines/{model}/completions",
        "The same, with the model in the path",
        TextCompletion,
        (EngineBody,),
        TextCompletionChunk,
        GENERATED,
    ),
    Endpoint(
        "POST",
        "/responses",
        "Answer a conversation in the shape of OpenAI's responses; nothing is kept between requests",
        ResponseObject,
        (ResponsesBody,),
        ResponseEvent,
        GENERATED,
    ),
    Endpoint(
        "POST",
        "/route",
        "Say who would answer a conversation or text, and why; nothing is generated",
        DecisionReply,
        (RoutedChatBody, RoutedTextBody, RoutedInputBody),
        refusals=ASKED,
    ),
    Endpoint("POST", "/embeddings", "Vectors of texts", EmbeddingList, (EmbeddingBody,), refusals=EMBEDDED),
    Endpoint(
        "POST",
        "/engines/{model}/embeddings",
        "The same, with the model in the path",
        EmbeddingList,
        (EngineEmbeddingBody,),
        refusals=EMBEDDED,
    ),
    Endpoint(
        "POST",
        "/tokenize",
        "The tokens of a prompt as it would be computed",
        Tokenized,
        (TokenizedChatBody, TokenizedTextBody, TokenizedInputBody),
        refusals=ASKED,
    ),
    Endpoint("POST", "/detokenize", "The text that tokens spell", Detokenized, (DetokenizeBody,), refusals=ASKED),
    Endpoint("GET", "/models", "Every name that may be asked for as model", ModelList),
    Endpoint("GET", "/models/{id}", "One of them", ModelCard, refusals=(errors.ModelNotFound,)),
    Endpoint("GET", "/experts", "The live experts", ExpertList),
    Endpoint("GET", "/openapi.json", "This document", None),
    Endpoint("GET", "/healthz", "Whether this process answers", Status, is_open=True),
    Endpoint(
        "GET", "/readyz", "Whether every part of the graph answers", Status, refusals=(errors.NotReady,), is_open=True
    ),
)
