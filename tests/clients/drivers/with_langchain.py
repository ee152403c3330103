"""LangChain's OpenAI package."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from scenarios import HELLO, LONG, MODEL, URL, WEATHER, WEATHER_OF, name_of_failure, tell

server: Any = {"base_url": URL, "api_key": "x", "model": MODEL, "temperature": 0, "max_retries": 0}
few = ChatOpenAI(**server, max_tokens=16)
many = ChatOpenAI(**server, max_tokens=120)


class Place(BaseModel):
    """Where to look."""

    city: Literal["Paris", "Rome"]


def chat() -> Any:
    return few.invoke(HELLO).content


def stream() -> str:
    return "".join(str(chunk.content) for chunk in few.stream(HELLO))


def completion() -> str:
    return OpenAI(**server, max_tokens=16).invoke(HELLO)


def tools() -> list[Any]:
    call = many.bind_tools([WEATHER], tool_choice="required").invoke(WEATHER_OF).tool_calls[0]
    return [call["name"], call["args"]]


def tool_result() -> Any:
    called = many.bind_tools([WEATHER], tool_choice="required").invoke(WEATHER_OF)
    result = ToolMessage("sunny", tool_call_id=called.tool_calls[0]["id"])
    return few.bind_tools([WEATHER], tool_choice="none").invoke([HumanMessage(WEATHER_OF), called, result]).content


def structured() -> Any:
    by_schema = many.with_structured_output(Place).invoke(WEATHER_OF)
    by_call = many.with_structured_output(Place, method="function_calling").invoke(WEATHER_OF)
    assert isinstance(by_call, Place)
    return by_schema.model_dump()


def embeddings() -> list[list[float]]:
    embedder = OpenAIEmbeddings(base_url=URL, api_key="x", model=MODEL, check_embedding_ctx_length=False)
    return embedder.embed_documents([HELLO, "x"])


def full_context() -> str:
    return name_of_failure(lambda: few.invoke(LONG))


scenarios = (chat, stream, completion, tools, tool_result, structured, embeddings, full_context)
tell({scenario.__name__: scenario for scenario in scenarios})
