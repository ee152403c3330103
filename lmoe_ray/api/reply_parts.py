"""Log-probabilities and calls in OpenAI's shapes: each exists in today's way and in the older one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from lmoe_ray.domain.stream import TokenLogprob
from lmoe_ray.domain.tools import CallPiece

Json = dict[str, Any]


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> Json:
    """Today's way. The token that ends an answer has no text and is left out."""
    content = [
        {**_spelled(token.token, token.logprob), "top_logprobs": [_spelled(*pair) for pair in token.top]}
        for token in tokens
        if token.token
    ]
    return {"content": content, "refusal": None}


def _spelled(token: bytes, logprob: float) -> Json:
    return {"token": _text(token), "logprob": logprob, "bytes": list(token)}


def text_logprobs(tokens: Iterable[TokenLogprob], offset: int) -> Json:
    """The older way: lists side by side. ``offset``: characters of the choice's text before the first token."""
    kept = [token for token in tokens if token.token]
    offsets = []
    for token in kept:
        offsets.append(offset)
        offset += len(_text(token.token))
    return {
        "tokens": [_text(token.token) for token in kept],
        "token_logprobs": [token.logprob for token in kept],
        "top_logprobs": [_top_by_text(token) for token in kept],
        "text_offset": offsets,
    }


def _top_by_text(token: TokenLogprob) -> dict[str, float]:
    """The picked token is among them, whether or not it is likely. Of two with the same text the likelier stays."""
    by_text = {_text(token.token): token.logprob}
    for spelled, logprob in token.top:
        text = _text(spelled)
        by_text[text] = max(logprob, by_text.get(text, logprob))
    return by_text


def _text(token: bytes) -> str:
    """Half a character becomes the replacement character; its bytes say what it was."""
    return token.decode(errors="replace")


def call_id(request_id: str, index: int, call: int) -> str:
    """Of a call in answer ``index``: the same whenever it is asked for, and no other call's."""
    return f"call_{hashlib.blake2b(f'{request_id}/{index}/{call}'.encode(), digest_size=12).hexdigest()}"


def whole_calls(pieces: Iterable[CallPiece], request_id: str, index: int) -> list[Json]:
    """``tool_calls`` of a message."""
    return [
        {
            "id": call_id(request_id, index, piece.call),
            "type": "function",
            "function": {"name": piece.name, "arguments": piece.arguments},
        }
        for piece in pieces
    ]


def call_deltas(pieces: Iterable[CallPiece], request_id: str, index: int) -> list[Json]:
    """``delta`` objects: a call is announced with id and name first, then its arguments grow."""
    deltas: list[Json] = []
    for piece in pieces:
        if piece.name:
            head = {"name": piece.name, "arguments": ""}
            spec = {"id": call_id(request_id, index, piece.call), "type": "function", "function": head}
            deltas.append({"tool_calls": [{"index": piece.call, **spec}]})
        if piece.arguments:
            deltas.append({"tool_calls": [{"index": piece.call, "function": {"arguments": piece.arguments}}]})
    return deltas


def legacy_call(pieces: tuple[CallPiece, ...]) -> Json:
    """``function_call`` of a message: there is at most one."""
    return {"name": pieces[0].name, "arguments": pieces[0].arguments}


def legacy_call_deltas(pieces: Iterable[CallPiece]) -> list[Json]:
    deltas: list[Json] = []
    for piece in pieces:
        if piece.name:
            deltas.append({"function_call": {"name": piece.name, "arguments": ""}})
        if piece.arguments:
            deltas.append({"function_call": {"arguments": piece.arguments}})
    return deltas
