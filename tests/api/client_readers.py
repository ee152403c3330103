"""What each kind of client takes from an answer, read as strictly as it does.

A reader fails where its client would hang, print "null" or lose the text, even if the answer is good JSON.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx

#: Top-level keys of a chunk, and keys of a model's entry, that mean something to Open WebUI.
OPEN_WEBUI_CHUNK_KEYS = {"event", "type", "selected_model_id", "timings"}
OPEN_WEBUI_MODEL_KEYS = {"name", "provider", "pipeline", "connection_type"}


def whole_message(response: httpx.Response) -> str:
    """The text of a chat; some stop with a traceback at ``null``, and some add up ``usage`` without a check."""
    answer = _json_of(response)
    assert all(isinstance(count, int) for count in answer["usage"].values())
    content = answer["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def whole_text(response: httpx.Response) -> str:
    """The text of a completion of the older kind."""
    text = _json_of(response)["choices"][0]["text"]
    assert isinstance(text, str)
    return text


def whole_call(response: httpx.Response) -> tuple[str, Any]:
    """Name and arguments of the one function an answer calls; the message goes back to the server as it is."""
    choice = _json_of(response)["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], call["type"]) == ("tool_calls", "function")
    assert choice["message"]["role"] == "assistant"
    assert call["id"]
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def json_message(response: httpx.Response) -> Any:
    """A chat's text, read as JSON."""
    return json.loads(whole_message(response))


def stream_until_done(response: httpx.Response) -> str:
    """chatbot-ui v1, chatgpt-minimal and PatrikZeros: they wait for ``[DONE]``, and look into every chunk's choice."""
    text = ""
    for data in _events_of(response):
        if data == "[DONE]":
            return text
        text += json.loads(data)["choices"][0]["delta"].get("content", "")
    raise AssertionError("the client waits for ever: there is no [DONE]")


def stream_until_reason(response: httpx.Response) -> str:
    """chatbot-ui of August 2023: it is done at the finish reason, before it looks at that chunk's text."""
    text = ""
    for data in _events_of(response):
        choice = json.loads(data)["choices"][0]
        if choice["finish_reason"] is not None:
            return text
        text += choice["delta"].get("content", "")
    raise AssertionError("the client reads [DONE] as JSON: there is no finish reason")


def stream_of_blocks(response: httpx.Response) -> str:
    """chatgptui/desktop: it cuts at two line feeds and drops, in silence, what does not begin with ``data: ``."""
    _check_stream(response)
    blocks = [block for block in response.text.split("\n\n") if block.startswith("data: ")]
    chunks = [json.loads(block.removeprefix("data: ")) for block in blocks if block != "data: [DONE]"]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def stream_of_chunks(response: httpx.Response) -> str:
    """OpenAI's own libraries: chunks without a choice are passed over."""
    return "".join(
        choice["delta"].get("content") or "" for chunk in _chunks_of(response) for choice in chunk["choices"]
    )


def stream_with_usage(response: httpx.Response) -> tuple[str, int]:
    """Text, and the total of tokens from a last chunk that was asked for."""
    *_, last = _chunks_of(response)
    assert last["choices"] == []
    return stream_of_chunks(response), last["usage"]["total_tokens"]


def stream_of_text(response: httpx.Response) -> str:
    """A streamed completion of the older kind."""
    return "".join(choice["text"] for chunk in _chunks_of(response) for choice in chunk["choices"])


def stream_of_calls(response: httpx.Response) -> tuple[str, Any]:
    """Name and arguments of the one function a stream calls, the arguments in pieces."""
    choices = [choice for chunk in _chunks_of(response) for choice in chunk["choices"]]
    pieces = [piece for choice in choices for piece in choice["delta"].get("tool_calls", ())]
    assert pieces[0]["id"]
    assert {piece["index"] for piece in pieces} == {0}
    assert choices[-1]["finish_reason"] == "tool_calls"
    return pieces[0]["function"]["name"], json.loads("".join(piece["function"]["arguments"] for piece in pieces))


def stream_in_open_webui(response: httpx.Response) -> str:
    """Open WebUI takes some of a chunk's keys for its own."""
    assert not any(chunk.keys() & OPEN_WEBUI_CHUNK_KEYS for chunk in _chunks_of(response))
    return stream_of_chunks(response)


def whole_response(response: httpx.Response) -> str:
    """The text of ``/v1/responses``."""
    answer = _json_of(response)
    assert answer["status"] == "completed"
    return "".join(part["text"] for item in answer["output"] for part in item["content"])


def stream_of_response(response: httpx.Response) -> str:
    """The text of a streamed response, from named events that end with ``response.completed``."""
    events = [json.loads(data) for data in _events_of(response)]
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.completed"
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def vectors(response: httpx.Response) -> list[list[float]]:
    """Embeddings; OpenAI's libraries ask for base64 of little-endian float32."""
    return [_floats(entry["embedding"]) for entry in _json_of(response)["data"]]


def model_names(response: httpx.Response) -> set[str]:
    """The names to choose from."""
    listing = _json_of(response)
    assert listing["object"] == "list"
    assert not any(entry.keys() & OPEN_WEBUI_MODEL_KEYS for entry in listing["data"])
    return {entry["id"] for entry in listing["data"]}


def preflight(response: httpx.Response) -> set[str]:
    """The headers that a page may send from now on; a browser shows nothing of any other answer."""
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    assert "POST" in response.headers["access-control-allow-methods"]
    return {name.strip().lower() for name in response.headers["access-control-allow-headers"].split(",")}


def error_code(response: httpx.Response) -> tuple[int, str]:
    """Status and code of an error that can be shown: one line of text, which chatbot-ui v1 puts into a status line."""
    assert response.status_code != 200
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"].isascii()
    assert error["message"].isprintable()
    return response.status_code, error["code"]


def error_in_a_page(response: httpx.Response) -> tuple[int, str]:
    """The same in a browser, which shows a page nothing of it without leave."""
    assert response.headers["access-control-allow-origin"] == "*"
    return error_code(response)


def _json_of(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def _check_stream(response: httpx.Response) -> None:
    # Several clients decode each network packet alone; only ASCII cannot be cut in two.
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.content.isascii()


def _events_of(response: httpx.Response) -> Iterator[str]:
    """The data of each event, as the standard for server-sent events has it."""
    _check_stream(response)
    for block in response.text.split("\n\n"):
        lines = [line for line in block.split("\n") if line.startswith("data:")]
        if lines:
            yield "\n".join(line.removeprefix("data:").removeprefix(" ") for line in lines)


def _chunks_of(response: httpx.Response) -> list[Any]:
    return [json.loads(data) for data in _events_of(response) if data != "[DONE]"]


def _floats(embedding: str | list[float]) -> list[float]:
    if isinstance(embedding, list):
        return embedding
    packed = base64.b64decode(embedding)
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))
