"""LlamaIndex's class for servers like OpenAI's.

It reads a function's annotations as they are at run time, so they must not be put off.
"""

from typing import Any, Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from scenarios import HELLO, MODEL, URL, WEATHER_OF, tell

server: Any = {"api_base": URL, "api_key": "x", "model": MODEL, "temperature": 0, "max_retries": 0}
as_it_comes = OpenAILike(**server, max_tokens=16)
chatting = OpenAILike(**server, max_tokens=16, is_chat_model=True)
calling = OpenAILike(**server, max_tokens=120, is_chat_model=True, is_function_calling_model=True)
hello = [ChatMessage(role="user", content=HELLO)]


class Place(BaseModel):
    """Where to look."""

    city: Literal["Paris", "Rome"]


def weather(city: Literal["Paris", "Rome"]) -> str:
    """Of a city."""
    return f"sunny in {city}"


def chat() -> str | None:
    return chatting.chat(hello).message.content


def stream() -> str:
    return "".join(part.delta or "" for part in chatting.stream_chat(hello))


def completion() -> str:
    whole = as_it_comes.complete(HELLO).text
    assert whole == "".join(part.delta or "" for part in as_it_comes.stream_complete(HELLO))
    return whole


def tools() -> list[Any]:
    tool = FunctionTool.from_defaults(weather)
    answer = calling.chat_with_tools([tool], user_msg=WEATHER_OF, tool_required=True)
    call = calling.get_tool_calls_from_response(answer)[0]
    return [call.tool_name, call.tool_kwargs]


def structured() -> Any:
    return calling.structured_predict(Place, PromptTemplate(WEATHER_OF)).model_dump()


scenarios = (chat, stream, completion, tools, structured)
tell({scenario.__name__: scenario for scenario in scenarios})
