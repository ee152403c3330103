"""What ``lmoe bench structured`` asks for: ten schemas of the kinds clients send, each about many subjects.

Every string has a longest length. A schema without one is kept just as well, but a small model may then repeat
itself until ``max_tokens`` cuts the answer, and half of an object is no JSON.
"""

from __future__ import annotations

from itertools import islice, product
from typing import Any

Schema = dict[str, Any]


def _object(**properties: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Schema, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


_TEXT: Schema = {"type": "string", "maxLength": 300}
_EMAIL: Schema = {"type": "string", "format": "email", "maxLength": 40}
_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 40}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 1000}

#: What to ask about a subject, and the schema of the answer.
_KINDS: tuple[tuple[str, Schema], ...] = (
    ("Describe a person who knows all about {}.", _object(name=_NAME, age=_COUNT, email=_EMAIL)),
    ("Plan a day about {}.", _object(date={"type": "string", "format": "date"}, steps=_list(_NAME, 4))),
    ("Is this a good thing: {}?", _object(verdict={"enum": ["yes", "no", "unsure"]}, why=_TEXT)),
    ("Name books about {}.", _object(books=_list(_object(title=_NAME, year=_COUNT), 3))),
    ("Rate {} from one to five.", _object(stars={"type": "integer", "minimum": 1, "maximum": 5}, comment=_TEXT)),
    ("Write a shopping list for {}.", _list(_object(item=_NAME, amount=_COUNT, is_urgent={"type": "boolean"}), 3)),
    (
        "Give a code and a price for {}.",
        _object(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}, price=_COUNT),
    ),
    ("What is {} a kind of?", _object(kind=_NAME, parent={"anyOf": [_NAME, {"type": "null"}]})),
    (
        "Draw a small tree of ideas about {}.",
        {
            **_object(root={"$ref": "#/$defs/idea"}),
            "$defs": {
                "idea": _object(idea=_NAME, parts={"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 3}),
                "leaf": _object(idea=_NAME),
            },
        },
    ),
    (
        "Say something of {} as a fact or as an opinion.",
        {
            "anyOf": [
                _object(type={"const": "fact"}, text=_TEXT, source=_NAME),
                _object(type={"const": "opinion"}, text=_TEXT, holder=_NAME),
            ]
        },
    ),
)
_SUBJECTS = (
    "sailing",
    "rye bread",
    "chess",
    "old bridges",
    "rain",
    "tax forms",
    "owls",
    "jazz",
    "glaciers",
    "first aid",
)
_MANNERS = ("", " Be brief.", " Be precise.", " Think of children.", " Think of experts.")

#: An answer that never ends by itself, so that equally many tokens are decoded with and without it.
ENDLESS: Schema = {"type": "array", "items": _object(thing=_NAME, why=_NAME, amount=_COUNT), "minItems": 1000}


def tasks(number: int) -> list[tuple[str, Schema]]:
    """``number`` prompts with their schemas, at most 500, all different."""
    every = product(_MANNERS, _SUBJECTS, _KINDS)
    return [(text.format(subject) + manner, schema) for manner, subject, (text, schema) in islice(every, number)]
