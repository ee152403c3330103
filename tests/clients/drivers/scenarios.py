"""What each driver asks of its client: the same few things, told as one JSON object on standard output.

A driver runs in its client's own environment, as ``python with_CLIENT.py BASE_URL MODEL``: nothing here may
need more than the standard library and what a client brings with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

URL, MODEL = sys.argv[1:3]
HELLO = "hello there"
#: More than any context we serve in tests.
LONG = "word " * 6000
WEATHER_OF = "What is the weather in Paris?"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": CITY}}


def tell(scenarios: Mapping[str, Callable[[], Any]]) -> None:
    """Run each, and print what came of it; a failure is told as one."""
    told: dict[str, Any] = {}
    for name, run in scenarios.items():
        try:
            told[name] = run()
        except Exception as error:
            told[name] = {"failed": f"{type(error).__name__}: {error}"[:1000]}
    json.dump(told, sys.stdout)


def name_of_failure(run: Callable[[], Any]) -> str:
    """The class of the error that a client makes of our answer."""
    try:
        run()
    except Exception as error:
        return type(error).__name__
    return "none"
