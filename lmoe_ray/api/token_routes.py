"""Handlers that turn a prompt into its tokens, and tokens into text, as vLLM's server has them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from lmoe_ray.api.backend import Backend, resolved
from lmoe_ray.api.incoming import read_object, request_id_of
from lmoe_ray.api.lenient_body import AnyNumberOf, Lenient, unsupported, validated
from lmoe_ray.api.openai import parse_route
from lmoe_ray.api.replies import Json, to_json
from lmoe_ray.api.sse import while_connected
from lmoe_ray.domain.served import resolve
from lmoe_ray.errors import UnsupportedValue
from lmoe_ray.settings import ApiSettings

#: Above every vocabulary; the model's own bound is told by its replica.
MAX_TOKEN_ID = 2**31 - 1


def _only(neutral: bool) -> AfterValidator:
    def check(value: bool) -> bool:
        if value != neutral:
            raise unsupported("tokens are those of the prompt as it would be computed; leave the field out")
        return value

    return AfterValidator(check)


class TokenizeBody(Lenient):
    """``/tokenize``: beside these, a chat body or a text as ``prompt``; ``model`` may be left out."""

    add_generation_prompt: Annotated[bool, _only(True)] = True
    continue_final_message: Annotated[bool, _only(False)] = False
    return_token_strs: Annotated[bool, _only(False)] = False
    add_special_tokens: Annotated[bool | None, Field(description="true with a prompt, false with messages")] = None


class DetokenizeBody(Lenient):
    """``/detokenize``."""

    model: str = ""
    tokens: AnyNumberOf[Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]]


class TokenRoutes:
    """The endpoints about tokens, over one backend."""

    def __init__(self, backend: Backend, settings: ApiSettings) -> None:
        self._backend, self._settings = backend, settings

    async def tokenize(self, http: Request) -> Response:
        """``POST /tokenize``: the tokens of a prompt, special ones included, and how many there may be."""
        body = await read_object(http, self._settings.max_body_bytes)
        options, models = validated(TokenizeBody, body), self._backend.models()
        request = parse_route(body, request_id_of(http), self._settings.max_messages, models[0].name)
        # A template writes the special tokens itself; before a bare prompt the tokenizer puts its own.
        if options.add_special_tokens not in (None, request.prompt is not None):
            raise UnsupportedValue("add_special_tokens", "no prompt would be computed so; leave it out")
        async with while_connected(http.receive):
            tokenized = await self._backend.tokenize(resolved(request, models, self._settings))
        tokens = list(tokenized.token_ids)
        return _json({"count": len(tokens), "max_model_len": tokenized.max_model_len, "tokens": tokens})

    async def detokenize(self, http: Request) -> Response:
        """``POST /detokenize``: the text that tokens spell, special ones included."""
        body = validated(DetokenizeBody, await read_object(http, self._settings.max_body_bytes))
        models = self._backend.models()
        use_default = self._settings.unknown_model == "default"
        model = resolve(models, body.model or models[0].name, None, use_default=use_default).model.name
        async with while_connected(http.receive):
            return _json({"prompt": await self._backend.detokenize(model, tuple(body.tokens))})


def _json(data: Json) -> Response:
    return Response(to_json(data), media_type="application/json")
