"""Handler of embeddings: vectors from the model that the router reads requests with."""

from __future__ import annotations

import base64
import struct
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from lmoe_ray.api.backend import Backend
from lmoe_ray.api.incoming import read_object, request_id_of
from lmoe_ray.api.lenient_body import Lenient, unsupported, validated, wrong
from lmoe_ray.api.openai import without_effect
from lmoe_ray.api.replies import Json, to_json
from lmoe_ray.api.sse import while_connected
from lmoe_ray.domain.embedding import Embeddings, EmbedRequest
from lmoe_ray.domain.served import resolve
from lmoe_ray.errors import one_line
from lmoe_ray.settings import ApiSettings

#: As many as OpenAI takes.
MAX_TEXTS = 2048


def _texts(given: Any) -> Any:
    """One text, or several. Token ids are of a tokenizer that is not here."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise wrong("must be a text or a list of texts, and not empty")
    if all(isinstance(text, int | list) for text in texts):
        hint = "with LangChain set check_embedding_ctx_length=False"
        raise unsupported(f"token ids are not supported, they mean nothing to this model; send texts ({hint})")
    if len(texts) > MAX_TEXTS:
        raise wrong(f"there are {len(texts)} texts, the limit is {MAX_TEXTS}; send them in several requests")
    for at, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise wrong(f"text {at} must be a string that is not empty")
    return texts


_NOT_EMPTY = Annotated[str, Field(min_length=1)]
_TEXTS_SCHEMA = _NOT_EMPTY | Annotated[list[_NOT_EMPTY], Field(min_length=1, max_length=MAX_TEXTS)]


class EmbeddingBody(Lenient):
    """``/v1/embeddings``."""

    model: Annotated[str, Field(min_length=1, description="any served model; all of them share one embedder")]
    input: Annotated[list[str], BeforeValidator(_texts, _TEXTS_SCHEMA)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(ge=1, description="nothing but the embedder's own")] = None
    truncate: Annotated[bool, Field(description="cut texts that are too long, instead of refusing them")] = False


class EmbeddingRoutes:
    """The endpoint that embeds, over one backend."""

    def __init__(self, backend: Backend, settings: ApiSettings) -> None:
        self._backend, self._settings = backend, settings

    async def embed(self, http: Request) -> Response:
        """``POST /v1/embeddings`` and ``POST /v1/engines/{model}/embeddings``."""
        given = await read_object(http, self._settings.max_body_bytes)
        body = validated(EmbeddingBody, {**given, **http.path_params})
        use_default = self._settings.unknown_model == "default"
        model = resolve(self._backend.models(), body.model, None, use_default=use_default).model.name
        request = EmbedRequest(request_id_of(http), tuple(body.input), body.dimensions, body.truncate)
        async with while_connected(http.receive):
            embeddings = await self._backend.embed(request)
        ignored = without_effect(EmbeddingBody, given)
        headers = {"x-lmoe-ignored": one_line(", ".join(ignored))} if ignored else {}
        content = to_json(encode_embeddings(embeddings, model, body.encoding_format))
        return Response(content, headers=headers, media_type="application/json")


def encode_embeddings(embeddings: Embeddings, model: str, encoding: Literal["float", "base64"]) -> Json:
    """``embedder`` is ours: the model that made the vectors, for it need not be the one that was asked."""
    spell = _numbers if encoding == "float" else _base64
    data = [
        {"object": "embedding", "index": index, "embedding": spell(vector)}
        for index, vector in enumerate(embeddings.vectors)
    ]
    usage = {"prompt_tokens": embeddings.num_tokens, "total_tokens": embeddings.num_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage, "embedder": embeddings.embedder}


def _numbers(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def _base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()
