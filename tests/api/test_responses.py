"""``/v1/responses``: what is asked of the graph, what is answered whole, and which events tell the same in a stream."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import httpx
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from lmoe_ray.api.response_bodies import parse_response
from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.stream import TokenDelta, TokenLogprob, Usage
from lmoe_ray.domain.tools import CallPiece, ToolCall
from lmoe_ray.errors import ConstraintFailed, InvalidField, Overloaded, PromptTooLong
from tests.fakes import FakeBackend

ASK = {"model": "demo", "input": "hello there"}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
SCHEMA = {"type": "json_schema", "name": "s"}
EVENT = TypeAdapter[Any](ResponseStreamEvent)
USAGE = Usage(2, 3)


def generate(**fields: Any) -> GenerateRequest:
    return parse_response({**ASK, **fields}, "id", 100).completion.generate


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Read strictly: each event is named by its type, numbered, and one OpenAI's client knows."""
    assert response.headers["content-type"].startswith("text/event-stream")
    events = []
    for number, block in enumerate(response.text.removesuffix("\n\n").split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        EVENT.validate_python(event)
        events.append(event)
    return events


def test_a_text_and_instructions_are_two_messages() -> None:
    request = generate(instructions="Be brief.", max_output_tokens=7, temperature=0, top_p=0.5, seed=3, expert="code")

    assert request.messages == (Message("system", "Be brief."), Message("user", "hello there"))
    assert (request.sampling.max_tokens, request.sampling.temperature, request.sampling.top_p) == (7, 0, 0.5)
    assert (request.sampling.seed, request.expert) == (3, "code")


def test_items_are_the_messages_of_a_chat() -> None:
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": t} for t in "ab"]},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]},
        {**call, "call_id": "1", "id": "fc_1", "status": "completed"},
        {**call, "call_id": "2"},
        {"type": "function_call_output", "call_id": "1", "output": "sun"},
        {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "rain"}]},
    ]  # fmt: skip

    assert generate(input=items).messages == (
        Message("system", "Be brief."),
        Message("user", "a\nb"),
        Message("assistant", "I look.", (ToolCall("f", "{}", "1"), ToolCall("f", "{}", "2"))),
        Message("tool", "sun", call_id="1"),
        Message("tool", "rain", call_id="2"),
    )


def test_functions_stand_flat() -> None:
    request = generate(tools=[TOOL], tool_choice={"type": "function", "name": "f"}, parallel_tool_calls=False)

    assert request.tools is not None
    assert (request.tools.tools[0].name, request.tools.only, request.tools.max_calls) == ("f", "f", 1)
    assert json.loads(request.tools.tools[0].parameters)["properties"] == {"a": {"type": "integer"}}


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "name": "s", "strict": True, "schema": {"enum": [1]}}, {"enum": [1]}),
    ],
)
def test_the_format_of_the_text_is_the_schema_of_the_answer(wanted: Any, schema: Any) -> None:
    text = generate(text={"format": wanted}).sampling.json_schema

    assert (json.loads(text) if text else None) == schema


def test_logprobs_are_asked_for_by_include() -> None:
    sampling = generate(include=["message.output_text.logprobs"], top_logprobs=2).sampling

    assert (sampling.logprobs, sampling.top_logprobs) == (True, 2)
    assert not generate().sampling.logprobs


def test_what_has_no_effect_is_told_and_what_asks_for_nothing_is_not() -> None:
    fields = {"store": True, "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"], "shoes": 2}
    quiet = {
        "truncation": "disabled",
        "user": "u",
        "metadata": {"a": "b"},
        "stream_options": {},
        "service_tier": "auto",
    }
    completion = parse_response({**ASK, **fields, **quiet, "text": {"verbosity": "low"}}, "id", 100).completion

    assert set(completion.ignored) == {"store", "reasoning", "include", "shoes", "verbosity"}
    assert parse_response({**ASK, "store": False}, "id", 100).completion.ignored == ()


def test_options_of_the_stream_are_read_though_they_change_nothing() -> None:
    for options in ([None], {"include_usage": 1}):
        with pytest.raises(InvalidField) as caught:
            generate(stream_options=options)
        assert str(caught.value.param).startswith("stream_options")
    assert generate(stream_options={"include_obfuscation": False}) == generate()


def test_a_keyword_without_effect_is_told_by_its_place_in_the_response() -> None:
    odd = {"type": "object", "properties": {"a": {"type": "string", "contentEncoding": "base64"}}}
    completion = parse_response({**ASK, "tools": [{**TOOL, "parameters": odd}]}, "id", 100).completion

    assert completion.ignored == ("tools[0].parameters.properties.a.contentEncoding",)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": []}, "input", "invalid_value"),
        ({"input": 5}, "input", "invalid_value"),
        ({"input": None}, "input", "invalid_value"),
        ({"input": ["x"]}, "input[0]", "invalid_value"),
        ({"input": [{"content": "x"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"role": "user", "content": "x"}] * 101}, "input", "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content", "unsupported_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content", "unsupported_value"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "unsupported_value"),
        ({"input": [{"type": {"a": 1}}]}, "input[0].type", "unsupported_value"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "invalid_value"),
        ({"input": [{"type": "function_call_output", "call_id": "1"}]}, "input[0].output", "invalid_value"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_value"),
        ({"conversation": {"id": "x"}}, "conversation", "unsupported_value"),
        ({"prompt": {"id": "x"}}, "prompt", "unsupported_value"),
        ({"background": True}, "background", "unsupported_value"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"messages": []}, "messages", "unsupported_value"),
        ({"experts": ["code", "math"]}, "experts", "unsupported_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name", "invalid_value"),
        ({"tools": [{**TOOL, "parameters": {"type": "array"}}]}, "tools[0].parameters.type", "invalid_value"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice", "unsupported_value"),
        ({"text": {"format": SCHEMA}}, "text.format.schema", "invalid_value"),
        ({"text": {"format": {**SCHEMA, "schema": {"type": 1}}}}, "text.format.schema.type", "invalid_value"),
        ({"text": {"format": {"type": "json_object"}}, "tools": [TOOL]}, "text.format", "unsupported_value"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_value"),
        ({"metadata": {"a" * 65: ""}}, None, "invalid_value"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused_in_the_names_of_this_api(
    serve: Any, error_of: Any, fields: dict[str, Any], param: str | None, code: str
) -> None:
    response = await serve(FakeBackend("x"), max_messages=100).post("/v1/responses", json={**ASK, **fields})
    error = error_of(response)

    assert (response.status_code, error["code"]) == (400, code)
    assert param is None or error["param"] == param


async def test_a_text_is_answered_as_a_message(serve: Any) -> None:
    backend = FakeBackend("Hel", "lo")
    fields = {"instructions": "Be brief.", "metadata": {"a": "b"}, "store": True, "user": "u", "temperature": 0.5}
    response = await serve(backend).post("/v1/responses", json={**ASK, **fields})
    told = response.json()
    [item] = told["output"]

    Response.model_validate(told)
    assert (told["object"], told["status"], told["error"], told["incomplete_details"]) == (
        "response",
        "completed",
        None,
        None,
    )
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]
    assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"], told["usage"]["total_tokens"]) == (4, 2, 6)
    assert {name: told[name] for name in ("instructions", "metadata", "user", "temperature")} == {
        name: fields[name] for name in ("instructions", "metadata", "user", "temperature")
    }
    assert (told["store"], told["ignored"], response.headers["x-lmoe-ignored"]) == (False, ["store"], "store")
    assert (told["expert"], told["routing"]["routed_by"]) == ("code", "similarity")
    assert told["id"] == f"resp_{backend.requests[0].request_id}"


async def test_an_answer_that_was_cut_off_is_incomplete(serve: Any) -> None:
    client = serve(FakeBackend("Hel", "lo"))
    told = (await client.post("/v1/responses", json={**ASK, "max_output_tokens": 1})).json()
    events = events_of(await client.post("/v1/responses", json={**ASK, "max_output_tokens": 1, "stream": True}))

    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert told["output"][0]["status"] == "incomplete"
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["output"] == [{**told["output"][0], "id": events[-1]["response"]["output"][0]["id"]}]


CALLS = (
    TokenDelta("I look. ", (1,), USAGE),
    TokenDelta("", (1,), USAGE, calls=(CallPiece(0, "f", '{"a'),)),
    TokenDelta("", (2,), USAGE, calls=(CallPiece(0, arguments='": 1}'), CallPiece(1, "f"))),
    TokenDelta("", (3,), USAGE, "tool_calls", calls=(CallPiece(1, "", "{}"),)),
)


async def test_calls_are_items_after_the_text(serve: Any) -> None:
    told = (await serve(FakeBackend(*CALLS)).post("/v1/responses", json={**ASK, "tools": [TOOL]})).json()
    message, *calls = told["output"]

    Response.model_validate(told)
    assert message["content"][0]["text"] == "I look. "
    assert [(c["type"], c["name"], c["arguments"], c["status"]) for c in calls] == [
        ("function_call", "f", '{"a": 1}', "completed"),
        ("function_call", "f", "{}", "completed"),
    ]
    assert len({c["call_id"] for c in calls} | {c["id"] for c in calls}) == 4
    assert told["tools"][0] | TOOL == told["tools"][0]


async def test_calls_without_text_have_no_message(serve: Any) -> None:
    told = (await serve(FakeBackend(*CALLS[1:])).post("/v1/responses", json={**ASK, "tools": [TOOL]})).json()

    assert [item["type"] for item in told["output"]] == ["function_call", "function_call"]


async def test_events_tell_each_item_from_beginning_to_end(serve: Any) -> None:
    body = {**ASK, "tools": [TOOL], "stream": True}
    response = await serve(FakeBackend(*CALLS)).post("/v1/responses", json=body, headers={"x-request-id": "same"})
    events = events_of(response)
    whole = await serve(FakeBackend(*CALLS)).post(
        "/v1/responses", json={**body, "stream": False}, headers={"x-request-id": "same"}
    )
    told = events[-1]["response"]

    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert [kind.removeprefix("response.") for kind, _ in groupby(event["type"] for event in events)] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *call,
        *call,
        "completed",
    ]
    assert told["output"] == whole.json()["output"]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == told["output"]
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [0, 1, 2]
    assert (told["expert"], response.headers["x-lmoe-expert"]) == ("code", "code")


async def test_an_answer_without_text_is_an_empty_message(serve: Any) -> None:
    backend = FakeBackend(TokenDelta("", (1,), USAGE, "stop"))
    told = (await serve(backend).post("/v1/responses", json=ASK)).json()
    events = events_of(await serve(backend).post("/v1/responses", json={**ASK, "stream": True}))

    assert told["output"][0]["content"][0]["text"] == ""
    assert [event["type"] for event in events if "item" in event] == [
        "response.output_item.added",
        "response.output_item.done",
    ]


async def test_logprobs_come_with_the_text(serve: Any) -> None:
    likely = TokenLogprob(b"Hi", -0.5, ((b"Hi", -0.5), (b"Ho", -1.0)))
    backend = FakeBackend(
        TokenDelta("Hi", (1,), USAGE, None, (likely,)), TokenDelta("", (2,), USAGE, "stop", (TokenLogprob(b"", -1.0),))
    )
    body = {**ASK, "include": ["message.output_text.logprobs"]}
    told = (await serve(backend).post("/v1/responses", json=body)).json()
    events = events_of(await serve(backend).post("/v1/responses", json={**body, "stream": True}))
    expected = [{
        "token": "Hi", "logprob": -0.5, "bytes": [72, 105],
        "top_logprobs": [
            {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]},
            {"token": "Ho", "logprob": -1.0, "bytes": [72, 111]},
        ],
    }]  # fmt: skip

    assert told["output"][0]["content"][0]["logprobs"] == expected
    assert [event["logprobs"] for event in events if "logprobs" in event] == [expected, expected]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (PromptTooLong(9, 8), 400, "input"),
        (InvalidField("messages", "no"), 400, "input"),
        (Overloaded(9, 8), 429, None),
    ],
)
async def test_an_error_before_the_first_token_has_its_status(
    serve: Any, error_of: Any, stream: bool, error: Exception, status: int, param: str | None
) -> None:
    response = await serve(FakeBackend(error)).post("/v1/responses", json={**ASK, "stream": stream})

    assert (response.status_code, error_of(response)["param"]) == (status, param)


@pytest.mark.parametrize(
    ("error", "code", "told_as"),
    [
        (Overloaded(9, 8), "overloaded", "rate_limit_exceeded"),
        (ConstraintFailed("x"), "constraint_failed", "invalid_prompt"),
        (KeyError("secret"), "internal_error", "server_error"),
    ],
)
async def test_an_error_in_mid_stream_fails_the_response(serve: Any, error: Exception, code: str, told_as: str) -> None:
    backend = FakeBackend("Hel", 0.01, error, "lo")
    events = events_of(await serve(backend).post("/v1/responses", json={**ASK, "stream": True}))
    failed, last = events[-2:]

    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["code"] == told_as
    assert failed["response"]["output"][0]["content"][0]["text"] == "Hel"
    assert (last["type"], last["code"]) == ("error", code)
    assert "secret" not in str(events)


async def test_a_silent_stream_is_kept_alive(serve: Any) -> None:
    response = await serve(FakeBackend("Hel", 0.05, "lo"), keep_alive_s=0.01).post(
        "/v1/responses", json={**ASK, "stream": True}
    )

    assert ": still working\n\n" in response.text
    assert '"text":"Hello"' in response.text
