"""Domain types to wire JSON, key by key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmoe_ray.api.replies import (
    ChatReply,
    Reply,
    TextReply,
    decode_decision,
    encode_decision,
    encode_error,
    encode_experts,
    encode_models,
    to_json,
)
from lmoe_ray.domain.decision import Candidate, Neighbour, RoutingDecision
from lmoe_ray.domain.served import ServedModel
from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.errors import ExpertNotFound, InvalidField
from tests.fakes import MODEL

DECISION = RoutingDecision("demo", "code", "similarity", 0.75, duration_s=0.125)
ANSWER = TokenDelta("hi", (1,), Usage(3, 2), "length")

#: Top-level keys that Open WebUI reads as commands.
TAKEN = {"event", "type", "selected_model_id", "timings", "name", "provider", "pipeline", "connection_type"}


def test_a_whole_chat_answer_is_the_predecessors_plus_openais() -> None:
    assert ChatReply("r1", 7, DECISION, ("tools",)).whole(ANSWER, 1.5) == {
        "id": "chatcmpl-r1",
        "object": "chat.completion",
        "created": 7,
        "model": "demo",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "expert": "code",
        "routing": {"routed_by": "similarity", "confidence": 0.75},
        "routing_duration": 0.125,
        "ignored": ["tools"],
        "duration": 1.5,
    }


def test_a_whole_text_answer_repeats_the_prompt_if_asked() -> None:
    body = TextReply("r1", 7, DECISION, echo="say: ").whole(ANSWER, 1.5)
    assert (body["id"], body["object"]) == ("cmpl-r1", "text_completion")
    assert body["choices"] == [{"index": 0, "text": "say: hi", "logprobs": None, "finish_reason": "length"}]
    assert "ignored" not in body


def test_the_first_chunk_tells_who_answers_and_what_is_ignored_and_no_other_does() -> None:
    reply = ChatReply("r1", 7, DECISION, ("tools",))
    first = reply.first_chunk()
    head = {"id": "chatcmpl-r1", "object": "chat.completion.chunk", "created": 7, "model": "demo"}
    assert first == {
        **head,
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        "expert": "code",
        "routing": {"routed_by": "similarity", "confidence": 0.75},
        "routing_duration": 0.125,
        "ignored": ["tools"],
    }
    assert reply.text_chunk("x") == {
        **head,
        "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
    }
    assert reply.last_chunk("stop", 1.5) == {
        **head,
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "duration": 1.5,
    }
    assert reply.usage_chunk(Usage(3, 2)) == {
        **head,
        "choices": [],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


@pytest.mark.parametrize("shape", [ChatReply, TextReply])
def test_no_key_of_ours_has_a_meaning_elsewhere(shape: type[Reply]) -> None:
    reply = shape("r1", 7, DECISION, ("tools",))
    chunks = [reply.first_chunk(), reply.text_chunk("x"), reply.last_chunk("stop", 1.0), reply.usage_chunk(Usage(1, 1))]
    for body in [reply.whole(ANSWER, 1.0), *chunks, *encode_models((MODEL,))]:
        assert not TAKEN & body.keys()


def test_headers_say_it_too() -> None:
    assert ChatReply("r1", 7, DECISION, ("a", "größe")).headers == {
        "x-lmoe-expert": "code",
        "x-lmoe-confidence": "0.7500",
        "x-lmoe-ignored": "a, gr\\xf6\\xdfe",
    }
    base = RoutingDecision("demo", None, "abstained", 0.25)
    assert ChatReply("r1", 7, base).headers == {"x-lmoe-confidence": "0.2500"}
    assert ChatReply("r1", 7, base).first_chunk()["expert"] is None


def test_json_is_one_line_of_ascii_and_knows_no_nan() -> None:
    assert to_json({"a": "ü\n\u2028"}) == '{"a":"\\u00fc\\n\\u2028"}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": float("nan")})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ExpertNotFound("x", ()), {"type": "invalid_request_error", "param": "expert", "code": "expert_not_found"}),
        (InvalidField("é\n", "bad"), {"type": "invalid_request_error", "param": "\\xe9", "code": "invalid_value"}),
    ],
)
def test_an_error_object_has_four_keys(error: Any, expected: dict[str, Any]) -> None:
    assert encode_error(error) == {"error": {"message": error.message, **expected}}


def test_models_and_experts_are_listed_with_their_base() -> None:
    other = ServedModel("other", created=5)
    assert [(m["id"], m["created"]) for m in encode_models((MODEL, other))][-1] == ("other", 5)
    assert encode_experts((MODEL, other)) == [
        {"name": "code", "model": "demo", "digest": "c0de", "description": "writes code", "licence": "MIT"},
        {"name": "math", "model": "demo", "digest": "3a74", "description": "", "licence": ""},
    ]


def test_a_decision_survives_the_wire() -> None:
    decision = RoutingDecision(
        "demo",
        "code",
        "similarity",
        confidence=0.75,
        candidates=(Candidate("code", 0.75), Candidate("math", 0.25)),
        neighbours=(Neighbour("code", 0.5, "write a loop"),),
        threshold=0.5,
        reason="nearest",
        duration_s=0.125,
    )
    assert decode_decision(json.loads(to_json(encode_decision(decision)))) == decision
