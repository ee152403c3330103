"""LiteLLM's library; its proxy calls the same functions."""

from __future__ import annotations

import json
import os
from typing import Any, Literal

from pydantic import BaseModel
from scenarios import HELLO, LONG, MODEL, URL, WEATHER, WEATHER_OF, name_of_failure, tell

# Prices are otherwise fetched at import.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

server: Any = {"api_base": URL, "api_key": "x", "max_retries": 0}
few: Any = {**server, "model": f"openai/{MODEL}", "temperature": 0, "max_tokens": 16}
many: Any = {**few, "max_tokens": 120}
messages = [{"role": "user", "content": HELLO}]
question = [{"role": "user", "content": WEATHER_OF}]


class Place(BaseModel):
    city: Literal["Paris", "Rome"]


def chat() -> Any:
    return litellm.completion(messages=messages, **few).choices[0].message.content


def stream() -> str:
    chunks = litellm.completion(messages=messages, stream=True, **few)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def completion() -> str:
    asked = {**few, "model": f"text-completion-openai/{MODEL}"}
    return litellm.text_completion(prompt=HELLO, **asked).choices[0].text


def as_its_proxy() -> Any:
    """It leaves ``/v1`` out of the path."""
    asked = {**few, "model": f"litellm_proxy/{MODEL}", "api_base": URL.removesuffix("/v1")}
    return litellm.completion(messages=messages, **asked).choices[0].message.content


def tools() -> list[Any]:
    answer = litellm.completion(messages=question, tools=[WEATHER], tool_choice="required", **many)
    function = answer.choices[0].message.tool_calls[0].function
    return [function.name, json.loads(function.arguments)]


def structured() -> Any:
    answer = litellm.completion(messages=question, response_format=Place, **many)
    return json.loads(answer.choices[0].message.content)


def embeddings() -> list[list[float]]:
    answer = litellm.embedding(model=f"openai/{MODEL}", input=[HELLO, "x"], **server)
    return [entry["embedding"] for entry in answer.data]


def full_context() -> str:
    long = [{"role": "user", "content": LONG}]
    return name_of_failure(lambda: litellm.completion(messages=long, **few))


scenarios = (chat, stream, completion, as_its_proxy, tools, structured, embeddings, full_context)
tell({scenario.__name__: scenario for scenario in scenarios})
