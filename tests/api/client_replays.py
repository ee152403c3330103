"""Requests that real clients send, and what each has to find in the answer.

The requests were recorded from the clients named, or, for Open WebUI and LibreChat, read in their source.
Texts are shortened; every field, header and path is as it was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.domain.tools import CallPiece
from lmoe_ray.errors import PromptTooLong
from tests.api import client_readers as reads
from tests.fakes import Step

Json = dict[str, Any]
CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
ENGINE = "/v1/engines/text-davinci-002/completions"
RESPONSES, EMBEDDINGS = "/v1/responses", "/v1/embeddings"

BEARER = {"Authorization": "Bearer sk-test"}
PAGE = {**BEARER, "Origin": "https://page.test"}
OPENAI_PYTHON = {
    **BEARER,
    "User-Agent": "OpenAI/Python 3.54.0",
    "x-stainless-lang": "python",
    "x-stainless-async": "false",
}
OPENAI_NODE = {**BEARER, "Accept": "application/json", "User-Agent": "OpenAI/JS 6.49.0", "x-stainless-lang": "js"}

#: What the graph says unless a replay has its own script, and the same put together.
GREETING = "Grüße 🦊"
HELLO: tuple[Step, ...] = ("Grü", "ße 🦊")
PARIS: tuple[Step, ...] = ('{"city": ', '"Paris"}')
CALL: tuple[Step, ...] = (
    TokenDelta("", (1,), Usage(4, 1), calls=(CallPiece(0, "weather", '{"city": '),)),
    TokenDelta("", (2,), Usage(4, 2), "tool_calls", calls=(CallPiece(0, arguments='"Paris"}'),)),
)
TOO_LONG: tuple[Step, ...] = (PromptTooLong(5000, 4096),)

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": CITY}}
STRICT_WEATHER = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
CITY_FORMAT = {"type": "json_schema", "json_schema": {"name": "Place", "schema": CITY, "strict": True}}


@dataclass(frozen=True, slots=True)
class Replay:
    """One request of one client.

    Attributes:
        client: as :data:`tests.clients.catalogue.CLIENTS` calls it.
        does: what its user did.
        body: ``None`` sends none.
        read: the client's way of reading the answer; raises where the client would fail.
        gives: what it must make of it.
        script: what the graph says.
        settings: API settings that the client needs.
    """

    client: str
    does: str
    read: Callable[[httpx.Response], Any]
    gives: Any
    body: Json | None = None
    path: str = CHAT
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=lambda: BEARER)
    script: tuple[Step, ...] = HELLO
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.client}: {self.does}"


def chat(*roles_and_texts: str, model: str = "demo", **fields: Any) -> Json:
    """A chat body of roles and texts in turn."""
    turns = zip(roles_and_texts[::2], roles_and_texts[1::2], strict=True)
    return {"model": model, "messages": [{"role": role, "content": text} for role, text in turns], **fields}


def listing(client: str, headers: Mapping[str, str] = BEARER, names: frozenset[str] = frozenset({"demo"})) -> Replay:
    return Replay(client, "lists models", _has(names), True, path=MODELS, method="GET", headers=headers)


def _has(names: frozenset[str]) -> Callable[[httpx.Response], bool]:
    return lambda response: names <= reads.model_names(response)


GPT = "gpt-3.5-turbo"
TURNS = ("system", "You are a helpful assistant.", "user", "hello there")
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
STREAM_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
#: Chromium asks before a page may send these; openai-node 3 also sets its own name, which other browsers list.
ASKED = {
    "Origin": "https://page.test",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}

CHATBOT_UI = chat(*TURNS, model=GPT, max_tokens=1000, temperature=1, stream=True)
CHATBOT_UI_AUGUST = {**CHATBOT_UI, "temperature": 0.5}
CHATBOT_UI_V2 = chat(*TURNS, model=GPT, temperature=0.5, max_tokens=None, stream=True)
CHATBOT_UI_VISION: Json = {
    "model": "gpt-4",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, IMAGE]}],
    "temperature": 0.5,
    "max_tokens": 4096,
    "stream": True,
}
CHATBOT_UI_COMMAND = chat("user", "hello there", model="gpt-4-1106-preview", temperature=0, max_tokens=4096)
CHATBOT_UI_RESULT: Json = {
    "model": "demo",
    "messages": [
        {"role": "user", "content": "Is it sunny?"},
        {"role": "assistant", "content": None, "tool_calls": [CALLED]},
        {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": '{"sunny": true}'},
    ],
    "tools": [WEATHER],
    "stream": True,
}
CHATBOT_UI_HEADERS = {**OPENAI_NODE, "User-Agent": "OpenAI/JS 4.24.7", "openai-organization": ""}
MINIMAL = chat(
    *TURNS,
    model=GPT,
    frequency_penalty=0,
    max_tokens=4000,
    presence_penalty=0,
    stream=True,
    temperature=0.7,
    top_p=0.95,
)
MINIMAL_AGAIN = {**MINIMAL, "messages": [*MINIMAL["messages"], {"role": "user", "content": "hello?"}]}
MINIMAL_HEADERS = {**BEARER, "api-key": "sk-test"}
CHATWITHME_THIRD_TURN: Json = {
    "model": GPT,
    "messages": [
        {"content": "hello", "role": "user"},
        {
            "role": "assistant",
            "content": "hi",
            "refusal": None,
            "tool_calls": None,
            "function_call": None,
            "annotations": [],
        },
        {"content": "how are you?", "role": "user"},
    ],
}
DESKTOP_TERMINAL = chat("user", "list files", "system", "$ ls", model=GPT, stream=True)
PATRIK_TITLE = chat("user", "hello", "user", "summarize my previous request in max 4 words.", model=GPT)
PATRIK_TRIMMED = chat(*TURNS[:2], "assistant", "hi", "user", "hello", model=GPT, stream=True)
OPENAI_CLI_CLIENT: Json = {"prompt": "hello", "max_tokens": 1024, "n": 1, "stop": None, "temperature": 0.5}
OPENAI_CLI: Json = {"prompt": "Are cats fast?\n", "model": "text-davinci-003", "max_tokens": 1000, "temperature": 0.1}
OPENAI_CLI_GIT = chat(*TURNS[:2], "user", "Are cats fast?\n", model="gpt-4o-mini", max_tokens=500, temperature=0.23)
AGENT_TURN: Json = {**CHATBOT_UI_RESULT, "stream": False, "parallel_tool_calls": False}
LLAMA_INDEX: Json = {"model": "demo", "prompt": "hello", "stream": True, "temperature": 0.1}
LLM_CLI = chat("user", "hi", **STREAM_USAGE)
AIDER = chat("system", "x", *["user", "x", "assistant", "x"] * 4, "user", "x", stream=True, temperature=0)
NINE_TOOLS = [{"type": "function", "function": {"name": f"f{i}", "parameters": CITY}} for i in range(9)]
PARTS: Json = {"model": "demo", "messages": [{"role": "user", "content": [{"type": "text", "text": "hello there"}]}]}

CHATBOT_UI_REPLAYS = (
    listing("chatbot-ui v1", {**BEARER, "Content-Type": "application/json"}, frozenset({GPT, "gpt-4"})),
    Replay("chatbot-ui v1", "chats", reads.stream_until_done, GREETING, CHATBOT_UI),
    Replay("chatbot-ui v1", "chats in August 2023", reads.stream_until_reason, GREETING, CHATBOT_UI_AUGUST),
    Replay(
        "chatbot-ui v1",
        "chats without a key",
        reads.stream_until_done,
        GREETING,
        CHATBOT_UI,
        headers={"Authorization": "Bearer undefined"},
    ),
    Replay(
        "chatbot-ui v1",
        "chats in a context that is full",
        reads.error_code,
        (400, "context_length_exceeded"),
        CHATBOT_UI,
        script=TOO_LONG,
    ),
    Replay(
        "chatbot-ui v2",
        "chats with a model of one's own",
        reads.stream_of_chunks,
        GREETING,
        chat(*TURNS, temperature=0.5, stream=True),
        headers=CHATBOT_UI_HEADERS,
    ),
    Replay(
        "chatbot-ui v2",
        "chats with a built-in model",
        reads.stream_of_chunks,
        GREETING,
        CHATBOT_UI_V2,
        headers=CHATBOT_UI_HEADERS,
    ),
    Replay(
        "chatbot-ui v2",
        "shows a picture",
        reads.error_code,
        (400, "unsupported_value"),
        CHATBOT_UI_VISION,
        headers=CHATBOT_UI_HEADERS,
    ),
    Replay(
        "chatbot-ui v2",
        "uses a tool",
        reads.whole_call,
        ("weather", {"city": "Paris"}),
        chat(*TURNS, tools=[WEATHER]),
        headers=CHATBOT_UI_HEADERS,
        script=CALL,
    ),
    Replay(
        "chatbot-ui v2",
        "tells a tool's result",
        reads.stream_of_chunks,
        GREETING,
        CHATBOT_UI_RESULT,
        headers=CHATBOT_UI_HEADERS,
    ),
    Replay(
        "chatbot-ui v2",
        "runs a command",
        reads.whole_message,
        GREETING,
        CHATBOT_UI_COMMAND,
        headers=CHATBOT_UI_HEADERS,
        settings={"unknown_model": "default"},
    ),
)

CLIENTS_OF_2023 = (
    *CHATBOT_UI_REPLAYS,
    Replay("chatgpt-minimal", "chats", reads.stream_until_done, GREETING, MINIMAL, headers=MINIMAL_HEADERS),
    Replay(
        "chatgpt-minimal",
        "asks again after a turn that failed",
        reads.stream_until_done,
        GREETING,
        MINIMAL_AGAIN,
        headers=MINIMAL_HEADERS,
    ),
    Replay(
        "chatwithme.chat",
        "asks the browser's leave",
        reads.preflight,
        {"authorization", "content-type"},
        method="OPTIONS",
        headers=ASKED,
    ),
    Replay("chatwithme.chat", "chats", reads.whole_message, GREETING, chat("user", "hello", model=GPT), headers=PAGE),
    Replay("chatwithme.chat", "goes on", reads.whole_message, GREETING, CHATWITHME_THIRD_TURN, headers=PAGE),
    Replay(
        "chatwithme.chat",
        "is refused",
        reads.error_in_a_page,
        (400, "context_length_exceeded"),
        CHATWITHME_THIRD_TURN,
        headers=PAGE,
        script=TOO_LONG,
    ),
    Replay("chatgptui/desktop", "chats", reads.stream_of_blocks, GREETING, chat(*TURNS, model=GPT, stream=True)),
    Replay(
        "chatgptui/desktop",
        "finds a title",
        reads.stream_of_blocks,
        GREETING,
        chat("user", "a title for: hello", model=GPT, stream=True),
    ),
    Replay("chatgptui/desktop", "explains a command's output", reads.stream_of_blocks, GREETING, DESKTOP_TERMINAL),
    Replay(
        "PatrikZeros",
        "asks the browser's leave",
        reads.preflight,
        {"authorization", "content-type", "user-agent"},
        method="OPTIONS",
        headers={**ASKED, "Access-Control-Request-Headers": "authorization,content-type,user-agent"},
    ),
    Replay(
        "PatrikZeros",
        "chats",
        reads.stream_until_done,
        GREETING,
        chat(*TURNS, model=GPT, stream=True),
        headers=PAGE,
    ),
    Replay("PatrikZeros", "chats at one go", reads.whole_message, GREETING, chat(*TURNS, model=GPT), headers=PAGE),
    Replay("PatrikZeros", "finds a title", reads.whole_message, GREETING, PATRIK_TITLE, headers=PAGE),
    Replay("PatrikZeros", "drops the oldest turn", reads.stream_until_done, GREETING, PATRIK_TRIMMED, headers=PAGE),
    Replay(
        "PatrikZeros",
        "fills the context",
        reads.error_in_a_page,
        (400, "context_length_exceeded"),
        PATRIK_TRIMMED,
        headers=PAGE,
        script=TOO_LONG,
    ),
    Replay("openai-cli-client", "asks", reads.whole_text, GREETING, OPENAI_CLI_CLIENT, ENGINE),
    Replay(
        "openai-cli-client",
        "goes on",
        reads.whole_text,
        GREETING,
        {**OPENAI_CLI_CLIENT, "prompt": "hello Hello and then"},
        ENGINE,
    ),
    Replay("openai-cli 0.0.3", "asks", reads.whole_text, GREETING, OPENAI_CLI, COMPLETIONS),
    Replay("openai-cli git", "asks", reads.whole_message, GREETING, OPENAI_CLI_GIT),
)


def _of_openai(client: str, headers: Mapping[str, str]) -> tuple[Replay, ...]:
    """OpenAI's own libraries, which send the same in every language."""
    asked = {"model": "demo", "input": "hello there"}
    call = chat(*TURNS, tools=[STRICT_WEATHER], tool_choice="required", stream=True)
    return (
        listing(client, headers),
        Replay(client, "chats", reads.whole_message, GREETING, chat(*TURNS), headers=headers),
        Replay(client, "streams", reads.stream_of_chunks, GREETING, chat(*TURNS, stream=True), headers=headers),
        Replay(
            client, "calls", reads.stream_of_calls, ("weather", {"city": "Paris"}), call, headers=headers, script=CALL
        ),
        Replay(
            client,
            "parses",
            reads.json_message,
            {"city": "Paris"},
            chat(*TURNS, response_format=CITY_FORMAT),
            headers=headers,
            script=PARIS,
        ),
        Replay(client, "responds", reads.whole_response, GREETING, asked, RESPONSES, headers=headers),
        Replay(
            client,
            "streams a response",
            reads.stream_of_response,
            GREETING,
            {**asked, "stream": True},
            RESPONSES,
            headers=headers,
        ),
        Replay(
            client,
            "embeds",
            reads.vectors,
            [[2.0, 0.0], [1.0, 0.0]],
            {"model": "demo", "input": ["hello there", "x"], "encoding_format": "base64"},
            EMBEDDINGS,
            headers=headers,
        ),
        Replay(
            client,
            "misspells a model",
            reads.error_code,
            (404, "model_not_found"),
            chat(*TURNS, model="dmeo"),
            headers=headers,
        ),
    )


LIBRARIES = (
    *_of_openai("openai-python", OPENAI_PYTHON),
    *_of_openai("openai npm", OPENAI_NODE),
    Replay(
        "LangChain Python",
        "invokes",
        reads.whole_message,
        GREETING,
        chat(*TURNS, stream=False, max_completion_tokens=64),
    ),
    Replay("LangChain Python", "streams", reads.stream_of_chunks, GREETING, chat(*TURNS, stream=True)),
    Replay(
        "LangChain Python",
        "structures an answer",
        reads.json_message,
        {"city": "Paris"},
        chat(*TURNS, stream=False, response_format=CITY_FORMAT),
        script=PARIS,
    ),
    Replay(
        "LangChain Python",
        "structures an answer by a call",
        reads.whole_call,
        ("weather", {"city": "Paris"}),
        chat(
            *TURNS,
            stream=False,
            tools=[WEATHER],
            tool_choice={"type": "function", "function": {"name": "weather"}},
            parallel_tool_calls=False,
        ),
        script=CALL,
    ),
    Replay("LangChain Python", "tells a tool's result", reads.whole_message, GREETING, AGENT_TURN),
    Replay("LangChain Python", "sends parts", reads.whole_message, GREETING, {**PARTS, "stream": False}),
    Replay(
        "LangChain Python",
        "fills the context",
        reads.error_code,
        (400, "context_length_exceeded"),
        chat(*TURNS, stream=False),
        script=TOO_LONG,
    ),
    Replay(
        "LangChain JS",
        "streams",
        reads.stream_with_usage,
        (GREETING, 4),
        chat("user", "hello there", **STREAM_USAGE, frequency_penalty=0, presence_penalty=0, user="u"),
        headers=OPENAI_NODE,
    ),
    Replay(
        "LlamaIndex OpenAILike",
        "chats",
        reads.whole_message,
        GREETING,
        chat(*TURNS, stream=False, temperature=0.1),
        headers=OPENAI_PYTHON,
    ),
    Replay(
        "LlamaIndex OpenAILike",
        "completes",
        reads.whole_text,
        GREETING,
        {**LLAMA_INDEX, "stream": False},
        COMPLETIONS,
    ),
    Replay("LlamaIndex OpenAILike", "streams", reads.stream_of_text, GREETING, LLAMA_INDEX, COMPLETIONS),
    Replay("LiteLLM", "chats", reads.whole_message, GREETING, chat(*TURNS), headers=OPENAI_PYTHON),
    Replay("LiteLLM", "streams", reads.stream_with_usage, (GREETING, 9), chat(*TURNS, **STREAM_USAGE)),
    Replay("LiteLLM", "takes us for its proxy", reads.whole_message, GREETING, chat(*TURNS), "/chat/completions"),
    Replay("LiteLLM", "completes", reads.whole_text, GREETING, {"model": "demo", "prompt": "hello"}, COMPLETIONS),
    Replay(
        "LiteLLM",
        "fills the context",
        reads.error_code,
        (400, "context_length_exceeded"),
        chat(*TURNS),
        script=TOO_LONG,
    ),
    Replay("AI SDK", "generates", reads.whole_message, GREETING, chat(*TURNS)),
    Replay("AI SDK", "streams", reads.stream_of_chunks, GREETING, chat(*TURNS, stream=True)),
    Replay(
        "AI SDK",
        "responds",
        reads.whole_response,
        GREETING,
        {"model": "demo", "input": [{"role": "user", "content": [{"type": "input_text", "text": "hello there"}]}]},
        RESPONSES,
    ),
)

DUMMY_KEY = {"Authorization": "Bearer DUMMY_KEY"}
PROGRAMS = (
    Replay("llm", "asks", reads.stream_with_usage, (GREETING, 3), LLM_CLI, headers=DUMMY_KEY),
    Replay(
        "llm",
        "completes",
        reads.stream_of_text,
        GREETING,
        {"model": "demo", "prompt": "hello there", **STREAM_USAGE},
        COMPLETIONS,
        headers=DUMMY_KEY,
    ),
    Replay(
        "llm",
        "asks for a schema",
        reads.stream_of_chunks,
        '{"city": "Paris"}',
        {**LLM_CLI, "response_format": {"type": "json_schema", "json_schema": {"name": "output", "schema": CITY}}},
        headers=DUMMY_KEY,
        script=PARIS,
    ),
    Replay(
        "llm",
        "uses a tool",
        reads.stream_of_calls,
        ("weather", {"city": "Paris"}),
        {**LLM_CLI, "tools": [WEATHER]},
        headers=DUMMY_KEY,
        script=CALL,
    ),
    Replay("aider", "edits", reads.stream_of_chunks, GREETING, AIDER, headers=OPENAI_PYTHON),
    listing("Continue", {**BEARER, "x-api-key": "sk-test"}),
    Replay("Continue", "chats", reads.stream_with_usage, (GREETING, 3), {**LLM_CLI, "tools": NINE_TOOLS}),
    Replay(
        "Continue",
        "completes code",
        reads.stream_of_text,
        GREETING,
        {**LLAMA_INDEX, "prompt": "def f", "max_tokens": 64, "stop": ["\n\n"]},
        COMPLETIONS,
        headers={**BEARER, "x-api-key": "sk-test"},
    ),
    listing("Open WebUI", {}),
    Replay("Open WebUI", "chats", reads.stream_in_open_webui, GREETING, chat(*TURNS, stream=True)),
    Replay(
        "Open WebUI", "finds a title", reads.whole_message, GREETING, {**PARTS, "max_tokens": 1000, "stream": False}
    ),
    listing("LibreChat"),
    Replay(
        "LibreChat",
        "chats",
        reads.stream_with_usage,
        (GREETING, 9),
        chat(*TURNS, **STREAM_USAGE, user="65f0c0ffee", top_p=1, presence_penalty=0, frequency_penalty=0),
        headers=OPENAI_NODE,
    ),
    Replay("LibreChat", "finds a title", reads.whole_message, GREETING, chat("user", "a title for: hello")),
)

REPLAYS = (*CLIENTS_OF_2023, *LIBRARIES, *PROGRAMS)
