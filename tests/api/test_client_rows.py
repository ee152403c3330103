"""What seven OpenAI clients of 2023 and a dozen of today need on the wire: each request replayed, then each rule."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lmoe_ray.errors import InternalError, PromptTooLong
from tests.api.client_replays import (
    AIDER,
    CHATBOT_UI,
    CHATBOT_UI_COMMAND,
    CHATBOT_UI_VISION,
    CHATWITHME_THIRD_TURN,
    LLAMA_INDEX,
    LLM_CLI,
    MINIMAL,
    OPENAI_CLI,
    OPENAI_CLI_CLIENT,
    REPLAYS,
    Replay,
)
from tests.fakes import CLIENT_ALIASES, MODEL, FakeBackend


@pytest.mark.parametrize("replay", REPLAYS, ids=str)
async def test_each_client_finds_in_the_answer_what_it_reads(serve: Any, replay: Replay) -> None:
    client = serve(FakeBackend(*replay.script), **replay.settings)
    response = await client.request(replay.method, replay.path, json=replay.body, headers=dict(replay.headers))
    assert replay.read(response) == replay.gives


@pytest.mark.parametrize("name", CLIENT_ALIASES)
async def test_row_01_names_that_clients_have_built_in_lead_to_the_base(serve: Any, chat_body: Any, name: str) -> None:
    backend = FakeBackend("Hi")
    response = await serve(backend).post("/v1/chat/completions", json={**chat_body, "model": name})
    assert response.json()["model"] == "demo"
    assert backend.requests[0].model == "demo"


async def test_row_01_or_any_unknown_name_does_if_the_operator_says_so(serve: Any) -> None:
    backend = FakeBackend("Hi")
    strict = await serve(backend).post("/v1/chat/completions", json=CHATBOT_UI_COMMAND)
    assert strict.status_code == 404
    lenient = await serve(backend, unknown_model="default").post("/v1/chat/completions", json=CHATBOT_UI_COMMAND)
    assert lenient.json()["model"] == "demo"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer undefined"},
        {"Authorization": "Bearer sk-test", "api-key": "sk-test", "OpenAI-Organization": ""},
    ],
)
async def test_row_02_any_or_no_credentials_are_accepted(serve: Any, chat_body: Any, headers: dict[str, str]) -> None:
    response = await serve(FakeBackend("Hi")).post("/v1/chat/completions", json=chat_body, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b'{"model":"demo"}', 400),
        ("POST", "/v1/chat/completions", b'{"model":"demo","messages":[]}', 400),
        ("POST", "/v1/chat/completions", b'{"model":"x","messages":[{"role":"user","content":"a"}]}', 404),
        ("POST", "/v1/chat/completions", b" " * 2000, 413),
        ("POST", "/v1/embeddings", b"{}", 400),
        ("POST", "/v1/responses", b"{}", 400),
        ("POST", "/v1/audio/transcriptions", b"", 404),
        ("POST", "/v1/fim/completions", b"{}", 404),
        ("POST", "/", b"", 405),
        ("GET", "/v1/assistants", b"", 404),
        ("GET", "/v1/models/nothing", b"", 404),
        ("GET", "/v1/chat/completions", b"", 405),
        ("DELETE", "/v1/models", b"", 405),
    ],
)
async def test_row_03_every_refusal_has_openais_shape(
    serve: Any, error_of: Any, method: str, path: str, content: bytes, status: int
) -> None:
    client = serve(FakeBackend("Hi"), max_body_bytes=1000)
    response = await client.request(method, path, content=content)
    assert error_of(response)["type"] == "invalid_request_error"
    assert response.status_code == status


async def test_row_03_so_does_a_bug_of_ours_without_its_internals(serve: Any, chat_body: Any, error_of: Any) -> None:
    client = serve(FakeBackend("Hi", routing=ZeroDivisionError("secret")))
    response = await client.post("/v1/chat/completions", json=chat_body)
    assert response.status_code == 500
    assert error_of(response)["message"] == str(InternalError())
    assert "secret" not in response.text


async def test_row_04_a_stream_is_an_event_stream_with_status_200(serve: Any) -> None:
    response = await serve(FakeBackend("Hel", "lo")).post("/v1/chat/completions", json=CHATBOT_UI)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in response.headers


@pytest.mark.parametrize(
    "roles",
    [
        ["user", "user"],
        ["assistant", "user"],
        ["system", "assistant", "user"],
        ["user", "system"],
        ["system"],
        ["assistant"],
        ["user", "assistant"],
        ["developer", "user", "function", "tool"],
    ],
)
async def test_row_05_messages_may_come_in_any_order(serve: Any, roles: list[str]) -> None:
    backend = FakeBackend("Hi")
    messages = [{"role": role, "content": "x"} for role in roles]
    response = await serve(backend).post("/v1/chat/completions", json={"model": "demo", "messages": messages})
    assert response.status_code == 200
    assert len(backend.requests[0].messages) == len(roles)


async def test_row_06_content_is_a_string_and_usage_three_integers(serve: Any, chat_body: Any) -> None:
    body = (await serve(FakeBackend("")).post("/v1/chat/completions", json=chat_body)).json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": ""}
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}


async def test_row_07_other_requests_are_answered_while_one_runs(serve: Any, chat_body: Any) -> None:
    client = serve(FakeBackend(0.1, "Hi"))
    slow = asyncio.create_task(client.post("/v1/chat/completions", json=chat_body))
    second = asyncio.create_task(client.post("/v1/chat/completions", json=chat_body))
    await asyncio.sleep(0.02)
    preflight = {"Origin": "http://a", "Access-Control-Request-Method": "POST"}
    assert (await client.options("/v1/chat/completions", headers=preflight)).status_code == 200
    assert (await client.get("/v1/models")).status_code == 200
    assert not slow.done()
    assert [r.status_code for r in await asyncio.gather(slow, second)] == [200, 200]


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions"])
async def test_row_08_the_version_prefix_may_be_missing(serve: Any, chat_body: Any, path: str) -> None:
    assert (await serve(FakeBackend("Hi")).post(path, json=chat_body)).status_code == 200


async def test_row_08_a_doubled_prefix_is_explained(serve: Any, chat_body: Any, error_of: Any) -> None:
    response = await serve(FakeBackend("Hi")).post("/v1/v1/chat/completions", json=chat_body)
    assert response.status_code == 404
    assert "already ends in /v1" in error_of(response)["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "//v1/chat/completions"])
async def test_row_08_a_slash_too_many_is_refused_not_redirected(serve: Any, error_of: Any, path: str) -> None:
    response = await serve(FakeBackend("Hi")).request("POST", "http://lmoe.test" + path)
    assert response.status_code == 404
    assert error_of(response)["message"] == f"no route POST {path}" + "; it has a doubled slash" * ("//" in path)


async def test_row_09_a_stream_ends_with_done_even_after_an_error(serve: Any, chat_body: Any, events_of: Any) -> None:
    client = serve(FakeBackend("Hel", 0.01, RuntimeError("secret"), "lo"))
    response = await client.post("/v1/chat/completions", json={**chat_body, "stream": True})
    *_, last = events_of(response)
    assert last == {
        "error": {"message": str(InternalError()), "type": "server_error", "param": None, "code": "internal_error"}
    }
    assert response.text.endswith("}}\n\ndata: [DONE]\n\n")


async def test_row_10_no_chunk_is_without_choices_unless_usage_was_asked_for(serve: Any, events_of: Any) -> None:
    client = serve(FakeBackend("Hel", "lo"))
    unasked = events_of(await client.post("/v1/chat/completions", json=CHATBOT_UI))
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in unasked)
    *_, last = events_of(await client.post("/v1/chat/completions", json=LLM_CLI))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": None, "stop": None, "n": 1, "seed": None, "temperature": None, "expert": None},
        {"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "top_p": 1, "user": "u"},
        {"stream_options": None, "store": False, "metadata": None, "tools": [], "functions": None},
        {"tool_choice": "auto", "parallel_tool_calls": True, "response_format": {"type": "text"}},
        {"logprobs": False, "top_logprobs": 0, "service_tier": "auto", "reasoning_effort": None},
    ],
)
async def test_row_11_optional_fields_without_effect_are_accepted_in_silence(
    serve: Any, chat_body: Any, fields: dict[str, Any]
) -> None:
    response = await serve(FakeBackend("Hi")).post("/v1/chat/completions", json={**chat_body, **fields})
    assert response.status_code == 200
    assert "ignored" not in response.json()
    assert "x-lmoe-ignored" not in response.headers


@pytest.mark.parametrize(("stop", "expected"), [("x", ("x",)), (["x", "y"], ("x", "y")), (None, ()), ([], ())])
async def test_row_11_stop_is_a_string_or_a_list(serve: Any, chat_body: Any, stop: Any, expected: Any) -> None:
    backend = FakeBackend("Hi")
    await serve(backend).post("/v1/chat/completions", json={**chat_body, "stop": stop})
    assert backend.requests[0].sampling.stop == expected


async def test_row_12_our_own_message_may_come_back_with_more_in_it(serve: Any) -> None:
    backend = FakeBackend("Hi")
    first = await serve(backend).post("/v1/chat/completions", json=CHATWITHME_THIRD_TURN)
    message = first.json()["choices"][0]["message"]
    assert message.keys() == {"role", "content"}
    echoed = {**message, "expert": "code", "name": "x", "refusal": None, "audio": None}
    body = {"model": "demo", "messages": [{"role": "user", "content": "a"}, echoed, {"role": "user", "content": "b"}]}
    assert (await serve(backend).post("/v1/chat/completions", json=body)).status_code == 200
    assert backend.requests[1].messages[1].content == "Hi"


async def test_row_13_an_event_is_data_space_json_and_two_line_feeds(serve: Any) -> None:
    client = serve(FakeBackend("a\nb", 0.03, "c"), keep_alive_s=0.01)
    raw = (await client.post("/v1/chat/completions", json=LLM_CLI)).content
    assert b"\r" not in raw
    assert raw.endswith(b"\n\ndata: [DONE]\n\n")
    blocks = raw.removesuffix(b"\n\n").split(b"\n\n")
    assert all(b"\n" not in block for block in blocks)
    assert {block.split(b" ")[0] for block in blocks} == {b"data:", b":"}


async def test_row_14_role_first_then_text_then_the_reason_alone(serve: Any, events_of: Any) -> None:
    chunks = events_of(await serve(FakeBackend("Hel", 0.01, "lo")).post("/v1/chat/completions", json=CHATBOT_UI))
    assert [chunk["choices"][0] for chunk in chunks] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None},
        {"index": 0, "delta": {"content": "Hel"}, "finish_reason": None},
        {"index": 0, "delta": {"content": "lo"}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]


async def test_row_15_events_are_ascii_so_no_character_can_be_split(serve: Any, events_of: Any) -> None:
    response = await serve(FakeBackend("Grüße 🦊")).post("/v1/chat/completions", json=CHATBOT_UI)
    assert response.content.isascii()
    assert events_of(response)[1]["choices"][0]["delta"]["content"] == "Grüße 🦊"


async def test_row_16_the_two_older_endpoints_exist(serve: Any) -> None:
    client = serve(FakeBackend("very"))
    davinci = await client.post("/v1/engines/text-davinci-002/completions", json=OPENAI_CLI_CLIENT)
    assert davinci.json()["choices"][0]["text"] == "very"
    assert davinci.json()["model"] == "demo"
    body = (await client.post("/v1/completions", json=OPENAI_CLI)).json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [{"index": 0, "text": "very", "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}


async def test_row_16_and_they_stream(serve: Any, events_of: Any) -> None:
    chunks = events_of(await serve(FakeBackend("ve", 0.01, "ry")).post("/v1/completions", json=LLAMA_INDEX))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["", "ve", "ry", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


async def test_row_17_a_large_max_tokens_is_passed_on_for_the_engine_to_clamp(serve: Any) -> None:
    backend = FakeBackend("Hi")
    assert (await serve(backend).post("/v1/chat/completions", json=MINIMAL)).status_code == 200
    assert backend.requests[0].sampling.max_tokens == 4000


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("POST", "/v1/chat/completions", 400),
        ("GET", "/nowhere", 404),
        ("PUT", "/v1/models", 405),
        ("OPTIONS", "/v1/models", 405),
        ("GET", "/readyz", 500),
    ],
)
async def test_row_18_every_answer_may_be_read_across_origins(serve: Any, method: str, path: str, status: int) -> None:
    client = serve(FakeBackend("Hi", not_ready=ZeroDivisionError()))
    response = await client.request(method, path, headers={"Origin": "http://page.test"})
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == "*"
    assert "x-lmoe-expert" in response.headers["access-control-expose-headers"]


async def test_row_18_so_may_streams(serve: Any) -> None:
    client = serve(FakeBackend("Hi"))
    response = await client.post("/v1/chat/completions", json=CHATBOT_UI, headers={"Origin": "http://page.test"})
    assert response.headers["access-control-allow-origin"] == "*"


async def test_row_18_a_preflight_is_answered_for_a_day(serve: Any) -> None:
    asked = {
        "Origin": "http://page.test",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,user-agent",
        "Access-Control-Request-Private-Network": "true",
    }
    response = await serve(FakeBackend("Hi")).options("/v1/chat/completions", headers=asked)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "authorization,content-type,user-agent"
    assert response.headers["access-control-max-age"] == "86400"
    assert response.headers["access-control-allow-private-network"] == "true"


async def test_row_18_only_the_origins_in_the_settings_are_allowed(serve: Any, error_of: Any) -> None:
    client = serve(FakeBackend("Hi"), cors_origins=("http://ours.test",))
    asked = {"Origin": "http://ours.test", "Access-Control-Request-Method": "POST"}
    allowed = await client.options("/v1/chat/completions", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "http://ours.test"
    refused = await client.options("/v1/chat/completions", headers={**asked, "Origin": "http://other.test"})
    assert error_of(refused)["message"] == "origin: Disallowed CORS origin"
    assert "access-control-allow-origin" not in refused.headers


async def test_row_19_models_lists_bases_experts_and_aliases(serve: Any) -> None:
    body = (await serve(FakeBackend("Hi")).get("/v1/models")).json()
    assert body["object"] == "list"
    assert [entry["id"] for entry in body["data"]] == ["demo", "demo:code", "demo:math", *MODEL.aliases]
    assert body["data"][0] == {
        "id": "demo",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "lmoe_ray",
        "max_model_len": 0,
    }


async def test_row_20_a_message_is_one_line_of_ascii(serve: Any, error_of: Any) -> None:
    body = {"model": "größe\r\nX: y\x00", "messages": [{"role": "user", "content": "x"}]}
    error = error_of(await serve(FakeBackend("Hi")).post("/v1/chat/completions", json=body))
    assert error["message"].isascii()
    assert error["message"].startswith("model 'gr")
    assert "e X: y' does not exist; served: demo, demo:code, " in error["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_row_21_a_long_prompt_has_the_words_clients_look_for(
    serve: Any, chat_body: Any, error_of: Any, stream: bool
) -> None:
    client = serve(FakeBackend(PromptTooLong(5000, 4096)))
    response = await client.post("/v1/chat/completions", json={**chat_body, "stream": stream})
    assert response.status_code == 400
    assert error_of(response) == {
        "message": "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 "
        "tokens. Please reduce the length of the messages. (context_length_exceeded)",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }


async def test_row_22_text_parts_are_joined_and_images_refused(serve: Any, error_of: Any) -> None:
    backend = FakeBackend("Hi")
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    body = {"model": "demo", "messages": [{"role": "user", "content": parts}]}
    assert (await serve(backend).post("/v1/chat/completions", json=body)).status_code == 200
    assert backend.requests[0].messages[0].content == "one\ntwo"
    error = error_of(await serve(backend).post("/v1/chat/completions", json=CHATBOT_UI_VISION))
    assert (error["code"], error["param"]) == ("unsupported_value", "messages[0].content")
    assert "'image_url'" in error["message"]


async def test_row_23_temperature_zero_is_greedy(serve: Any) -> None:
    backend = FakeBackend("Hi")
    await serve(backend).post("/v1/chat/completions", json=AIDER)
    assert backend.requests[0].sampling.temperature == 0.0
