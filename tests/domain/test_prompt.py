"""Prompts: the predecessor's layout to the byte, and any order of roles."""

from __future__ import annotations

import pytest

from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.prompt import PromptFormat, render, render_airoboros


def airoboros(*turns: tuple[str, str]) -> str:
    return render_airoboros([Message(role, content) for role, content in turns])  # type: ignore[arg-type]


def chat(*turns: tuple[str, str]) -> list[tuple[str, str]]:
    """The messages handed to the chat template."""
    seen: list[dict[str, str]] = []

    def apply_template(messages: list[dict[str, str]]) -> str:
        seen.extend(messages)
        return "rendered"

    messages = [Message(role, content) for role, content in turns]  # type: ignore[arg-type]
    assert render(messages, PromptFormat.CHAT, apply_template) == "rendered"
    return [(m["role"], m["content"]) for m in seen]


def predecessor(messages: list[dict[str, str]]) -> str:
    """airoboros.lmoe's own rules for the orders it accepted: default system text, stripped turns, open end."""
    parts = [] if messages[0]["role"] == "system" else ["A chat."]
    for message in messages:
        text = message["content"]
        speaker = {"system": "", "user": "USER: ", "assistant": "ASSISTANT: "}[message["role"]]
        parts.append(text if message["role"] == "system" else speaker + text.strip())
    return "\n".join([*parts, "ASSISTANT: "])


@pytest.mark.parametrize(
    "turns",
    [
        [("user", "hello")],
        [("system", "Be brief."), ("user", "hello")],
        [("system", " spaced \n"), ("user", "  hello\n")],
        [("user", "hello"), ("assistant", " hi "), ("user", "how are you?")],
        [("system", ""), ("user", "a\n\nb"), ("assistant", ""), ("user", "ß")],
    ],
)
def test_an_accepted_order_reads_as_the_predecessor_wrote_it(turns: list[tuple[str, str]]) -> None:
    assert airoboros(*turns) == predecessor([{"role": role, "content": content} for role, content in turns])


def test_the_layout_is_the_one_adapters_were_trained_on() -> None:
    assert airoboros(("user", "hello "), ("assistant", "hi"), ("user", "how are you?")) == (
        "A chat.\nUSER: hello\nASSISTANT: hi\nUSER: how are you?\nASSISTANT: "
    )
    assert airoboros(("system", "Be brief."), ("user", "hello")) == "Be brief.\nUSER: hello\nASSISTANT: "


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([("user", "a"), ("user", "b")], [("user", "a\n\nb")]),
        (
            [("assistant", "a"), ("assistant", "b"), ("user", "c")],
            [("user", ""), ("assistant", "a\n\nb"), ("user", "c")],
        ),
        (
            [("system", "s"), ("assistant", "a"), ("user", "b")],
            [("system", "s"), ("user", ""), ("assistant", "a"), ("user", "b")],
        ),
        ([("system", "s"), ("system", "t"), ("user", "a")], [("system", "s\n\nt"), ("user", "a")]),
        ([("user", "a"), ("system", "s")], [("user", "a\n\ns")]),
        ([("user", "a"), ("assistant", "b"), ("tool", "c")], [("user", "a"), ("assistant", "b"), ("user", "c")]),
        ([("system", "s")], [("system", "s"), ("user", "")]),
        ([("assistant", "a")], [("user", ""), ("assistant", "a")]),
        ([("system", "s"), ("user", "a"), ("assistant", "b")], [("system", "s"), ("user", "a"), ("assistant", "b")]),
    ],
)
def test_other_orders_are_brought_into_the_one_templates_know(
    turns: list[tuple[str, str]], expected: list[tuple[str, str]]
) -> None:
    assert chat(*turns) == expected


def test_a_later_system_turn_does_not_reset_the_conversation() -> None:
    assert airoboros(("system", "s"), ("user", "a"), ("assistant", "b"), ("system", "t"), ("user", "c")) == (
        "s\nUSER: a\nASSISTANT: b\nUSER: t\n\nc\nASSISTANT: "
    )


def test_the_format_decides_who_renders() -> None:
    def never(messages: list[dict[str, str]]) -> str:
        raise AssertionError(messages)

    assert render([Message("user", "a")], PromptFormat.AIROBOROS, never) == "A chat.\nUSER: a\nASSISTANT: "


def test_only_the_airoboros_format_brings_its_own_stops() -> None:
    assert PromptFormat.AIROBOROS.default_stops == ("USER:", "ASSISTANT:", "### Instruction", "### Response")
    assert PromptFormat.CHAT.default_stops == ()
    assert PromptFormat("chat") is PromptFormat.CHAT
