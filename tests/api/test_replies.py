"""Domain types to wire JSON, key by key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmoe_ray.api.completion_replies import ChatReply, TextReply
from lmoe_ray.api.decision_reply import decode_decision, encode_decision
from lmoe_ray.api.listings import encode_experts, encode_models
from lmoe_ray.api.replies import Reply, encode_error, to_json
from lmoe_ray.domain.decision import Candidate, Neighbour, RoutingDecision
from lmoe_ray.domain.served import ServedModel
from lmoe_ray.domain.stream import TokenDelta, TokenLogprob, Usage
from lmoe_ray.domain.tools import CallPiece
from lmoe_ray.errors import ExpertNotFound, InvalidField
from tests.fakes import MODEL

DECISION = RoutingDecision("demo", "code", "similarity", 0.75, duration_s=0.125)
ANSWER = TokenDelta("hi", (1,), Usage(3, 2), "length")
PIECE = TokenDelta("x", (1,), Usage(3, 1))
END = TokenDelta("", (), Usage(3, 2), "stop")
#: "é" in two halves, with the likelier beside each; then the token that ended the answer.
LOGPROBS = (
    TokenLogprob(b"\xc3", -0.5, ((b"a", -0.25), (b"\xc3", -0.5))),
    TokenLogprob(b"\xa9x", -1.5),
    TokenLogprob(b"", -0.125),
)
CALLS = (CallPiece(0, "f", '{"a": 1}'), CallPiece(1, "g", "{}"))

#: Top-level keys that Open WebUI reads as commands.
TAKEN = {"event", "type", "selected_model_id", "timings", "name", "provider", "pipeline", "connection_type"}


def test_a_whole_chat_answer_is_the_predecessors_plus_openais() -> None:
    assert ChatReply("r1", 7, DECISION, ("tools",)).whole((ANSWER,), 1.5) == {
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
    body = TextReply("r1", 7, DECISION, echo="say: ").whole((ANSWER,), 1.5)
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
    assert reply.pieces(PIECE) == [
        {**head, "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
    ]
    assert reply.last_chunk(END, 1.5) == {
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
    last = reply.last_chunk(END, 1.0)
    chunks = [reply.first_chunk(), *reply.pieces(PIECE), last, reply.usage_chunk(Usage(1, 1))]
    for body in [reply.whole((ANSWER,), 1.0), *chunks, *encode_models((MODEL,))]:
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
        candidates=(Candidate("code", 0.75, {"samples": 0.5, "words": 1.0}), Candidate("math", 0.25, {"samples": 0.5})),
        neighbours=(Neighbour("code", 0.5, "write a loop"),),
        threshold=0.5,
        familiarity=0.875,
        evidence={"samples": 0.25, "words": 0.75},
        stays=0.75,
        reason="nearest",
        duration_s=0.125,
    )
    assert decode_decision(json.loads(to_json(encode_decision(decision)))) == decision


def test_log_probabilities_of_a_chat_come_token_by_token_with_their_bytes() -> None:
    answer = TokenDelta("éx", (1, 2, 0), Usage(3, 3), "stop", LOGPROBS)
    [choice] = ChatReply("r1", 7, DECISION).whole((answer,), 1.0)["choices"]
    assert choice["logprobs"] == {
        "content": [
            {
                "token": "\ufffd",
                "logprob": -0.5,
                "bytes": [0xC3],
                "top_logprobs": [
                    {"token": "a", "logprob": -0.25, "bytes": [97]},
                    {"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]},
                ],
            },
            {"token": "\ufffdx", "logprob": -1.5, "bytes": [0xA9, 120], "top_logprobs": []},
        ],
        "refusal": None,
    }


def test_log_probabilities_of_a_text_are_lists_side_by_side() -> None:
    answer = TokenDelta("éx", (1, 2, 0), Usage(3, 3), "stop", LOGPROBS)
    reply = TextReply("r1", 7, DECISION)
    expected = {
        "tokens": ["\ufffd", "\ufffdx"],
        "token_logprobs": [-0.5, -1.5],
        "top_logprobs": [{"\ufffd": -0.5, "a": -0.25}, {"\ufffdx": -1.5}],
        "text_offset": [0, 1],
    }
    assert reply.whole((answer,), 1.0)["choices"][0]["logprobs"] == expected
    [chunk] = reply.pieces(answer, offset=5)
    assert chunk["choices"][0]["logprobs"] == {**expected, "text_offset": [5, 6]}


@pytest.mark.parametrize("shape", [ChatReply, TextReply])
def test_log_probabilities_without_text_are_not_lost_and_content_is_never_null(shape: type[Reply]) -> None:
    [chunk] = shape("r1", 7, DECISION).pieces(TokenDelta("", (1,), Usage(3, 1), None, LOGPROBS[:1]))
    choice = chunk["choices"][0]
    assert (choice["delta"]["content"] if "delta" in choice else choice["text"]) == ""
    assert choice["logprobs"]


def test_calls_are_told_whole_with_ids_of_their_own_and_content_that_is_no_null() -> None:
    answer = TokenDelta("", (1,), Usage(3, 2), "tool_calls", (), CALLS, 1)
    [choice] = ChatReply("r1", 7, DECISION).whole((answer,), 1.0)["choices"]
    first, second = choice["message"].pop("tool_calls")
    assert choice == {"index": 1, "message": {"role": "assistant", "content": ""}, "finish_reason": "tool_calls"}
    assert (first["type"], first["function"]) == ("function", {"name": "f", "arguments": '{"a": 1}'})
    assert first["id"].startswith("call_")
    assert first["id"] != second["id"]


def test_a_call_is_streamed_as_its_name_and_then_its_arguments() -> None:
    reply = ChatReply("r1", 7, DECISION)
    pieces = [CallPiece(0, "f"), CallPiece(0, arguments='{"a"'), CallPiece(0, arguments=": 1}")]
    chunks = [chunk for piece in pieces for chunk in reply.pieces(TokenDelta("", (1,), Usage(3, 1), calls=(piece,)))]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    [head] = deltas[0]["tool_calls"]
    assert head == {
        "index": 0,
        "id": head["id"],
        "type": "function",
        "function": {"name": "f", "arguments": ""},
    }
    assert deltas[1:] == [
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    ]
    whole = reply.whole((TokenDelta("", (1,), Usage(3, 1), "tool_calls", calls=CALLS[:1]),), 1.0)
    assert whole["choices"][0]["message"]["tool_calls"][0]["id"] == head["id"]


def test_functions_are_answered_in_the_older_way() -> None:
    reply = ChatReply("r1", 7, DECISION, is_legacy_call=True)
    answer = TokenDelta("", (1,), Usage(3, 2), "tool_calls", (), CALLS[:1])
    assert reply.whole((answer,), 1.0)["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "",
                "function_call": {"name": "f", "arguments": '{"a": 1}'},
            },
            "finish_reason": "function_call",
        }
    ]
    assert [chunk["choices"][0]["delta"] for chunk in reply.pieces(answer)] == [
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": '{"a": 1}'}},
    ]
    assert reply.last_chunk(answer, 1.0)["choices"][0]["finish_reason"] == "function_call"
