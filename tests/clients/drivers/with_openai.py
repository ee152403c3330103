"""OpenAI's own library."""

from __future__ import annotations

import json
from typing import Any, Literal

from openai import OpenAI
from pydantic import BaseModel
from scenarios import HELLO, LONG, MODEL, URL, WEATHER, WEATHER_OF, name_of_failure, tell

client = OpenAI(base_url=URL, api_key="x", max_retries=0)
messages: Any = [{"role": "user", "content": HELLO}]
question: Any = [{"role": "user", "content": WEATHER_OF}]
few: Any = {"model": MODEL, "temperature": 0, "max_tokens": 16}
many: Any = {**few, "max_tokens": 120}


class Place(BaseModel):
    city: Literal["Paris", "Rome"]


def chat() -> str | None:
    return client.chat.completions.create(messages=messages, **few).choices[0].message.content


def stream() -> str:
    chunks = client.chat.completions.create(messages=messages, stream=True, **few)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def completion() -> str:
    return client.completions.create(prompt=HELLO, **few).choices[0].text


def tools() -> list[Any]:
    answer = client.chat.completions.create(messages=question, tools=[WEATHER], tool_choice="required", **many)
    function = answer.choices[0].message.tool_calls[0].function
    return [function.name, json.loads(function.arguments)]


def structured() -> Any:
    answer = client.chat.completions.parse(messages=question, response_format=Place, **many)
    return answer.choices[0].message.parsed.model_dump()


def response() -> str:
    asked = {"model": MODEL, "input": HELLO, "temperature": 0, "max_output_tokens": 16}
    events = list(client.responses.create(stream=True, **asked))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == client.responses.create(**asked).output_text
    return text


def embeddings() -> list[list[float]]:
    return [entry.embedding for entry in client.embeddings.create(model=MODEL, input=[HELLO, "x"]).data]


def models() -> list[str]:
    return [model.id for model in client.models.list()]


def full_context() -> str:
    long: Any = [{"role": "user", "content": LONG}]
    return name_of_failure(lambda: client.chat.completions.create(messages=long, **few))


scenarios = (chat, stream, completion, tools, structured, response, embeddings, models, full_context)
tell({scenario.__name__: scenario for scenario in scenarios})
