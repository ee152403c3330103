"""Functions, calls and results in a prompt of plain words."""

from __future__ import annotations

import json

import pytest

from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.prompt import PromptFormat, render_airoboros, spell_out_tools, templated_turns
from lmoe_ray.domain.tool_dialect import PLAIN
from lmoe_ray.domain.tools import CallPiece, Tool, ToolCall, ToolUse, join

WEATHER = Tool(
    "get_weather",
    "The weather\nof a city",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "where\nit is"},
                "day": {"type": ["string", "null"], "enum": ["today", "tomorrow", None]},
                "more": {},
            },
            "required": ["city"],
        }
    ),
)
NOW = Tool("now")
QUESTION = Message("user", "Rain in Bergen?")
CALL = ToolCall("get_weather", '{"city":"Bergen"}', "c1")


def chat(*messages: Message, use: ToolUse | None) -> tuple[Message, ...]:
    return spell_out_tools(messages, use, PromptFormat.CHAT)


def test_a_system_text_ends_with_the_functions_a_line_of_json_each() -> None:
    system, question = chat(Message("system", "Be brief."), QUESTION, use=ToolUse((WEATHER, NOW)))
    assert question == QUESTION
    assert system.content.startswith("Be brief.\n\nYou can call functions. ")
    *_, title, first, second = system.content.splitlines()
    assert title == "Functions:"
    assert json.loads(first)["description"] == "The weather\nof a city"
    assert json.loads(second)["name"] == "now"


def test_without_a_system_text_the_functions_are_it() -> None:
    system, question = chat(QUESTION, use=ToolUse((NOW,)))
    assert (system.role, question) == ("system", QUESTION)
    assert system.content.startswith("You can call functions.")


@pytest.mark.parametrize(
    ("use", "said", "unsaid"),
    [
        (ToolUse((NOW,)), ["If none of them fits", "Several calls"], ["Call now."]),
        (ToolUse((NOW,), must_call=True, max_calls=1), [], ["If none of them fits", "Several calls"]),
        (ToolUse((NOW,), must_call=True, only="now", max_calls=1), ["Call now."], ["If none of them fits"]),
    ],
)
def test_the_prompt_asks_for_no_more_than_the_answer_may_be(use: ToolUse, said: list[str], unsaid: list[str]) -> None:
    text = chat(QUESTION, use=use)[0].content
    assert all(sentence in text for sentence in said)
    assert not any(sentence in text for sentence in unsaid)


def test_airoboros_asks_with_the_last_input_and_lists_the_functions_after_it() -> None:
    messages = (QUESTION, Message("assistant", "No."), Message("user", "And tomorrow?"))
    prompt = render_airoboros(spell_out_tools(messages, ToolUse((WEATHER, NOW)), PromptFormat.AIROBOROS))
    assert prompt.startswith("A chat.\nUSER: Rain in Bergen?\nASSISTANT: No.\nUSER: Act as an agent: ")
    assert prompt.endswith(
        "\n\nInput: And tomorrow?\n\nAvailable functions:\n"
        "get_weather:\n"
        "  description: The weather of a city\n"
        "  params:\n"
        "    city: where it is (string)\n"
        '    day: (string or null, one of "today", "tomorrow", null, optional)\n'
        "    more: (any, optional)\n"
        "now:\n"
        "ASSISTANT: "
    )


def test_airoboros_needs_no_user_to_ask() -> None:
    [question] = spell_out_tools((), ToolUse((NOW,)), PromptFormat.AIROBOROS)
    assert question.role == "user"
    assert "Input: \n" in question.content


def test_calls_and_results_in_the_history_are_told_by_the_functions_name() -> None:
    history = (
        QUESTION,
        Message("assistant", "", (CALL,)),
        Message("tool", "wet", call_id="c1"),
        Message("assistant", "so", (ToolCall("now", "no JSON\nat all"),)),
        Message("tool", "12:00", name="no\nw"),
        Message("tool", "lost"),
    )
    assert chat(*history, use=None) == (
        QUESTION,
        Message("assistant", '{"function": "get_weather", "params": {"city": "Bergen"}}'),
        Message("user", "Result of get_weather: wet"),
        Message("assistant", 'so\n{"function": "now", "params": "no JSON\\nat all"}'),
        Message("user", "Result of no w: 12:00"),
        Message("tool", "lost"),
    )


def test_calls_are_written_as_a_model_would_write_them() -> None:
    assert PLAIN.write([ToolCall("f", "{}"), ToolCall("g", '{"a": 1}')]) == (
        '{"function": "f", "params": {}}\n{"function": "g", "params": {"a": 1}}'
    )


def test_a_template_that_knows_tools_gets_arguments_as_values_and_each_result_as_a_turn() -> None:
    history = (
        QUESTION,
        Message("assistant", "", (CALL, ToolCall("f", "no JSON"))),
        Message("tool", "wet", call_id="c1"),
        Message("tool", "x", name="f"),
        Message("system", "s"),
    )
    turns = templated_turns(history)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool", "user"]
    assert [call["function"]["arguments"] for call in turns[1]["tool_calls"]] == [{"city": "Bergen"}, "no JSON"]
    assert (turns[2]["tool_call_id"], turns[3]["name"]) == ("c1", "f")


def test_pieces_of_a_call_join_and_those_of_two_do_not() -> None:
    pieces = (CallPiece(0, "f", "{"),)
    assert join(pieces, (CallPiece(0, arguments="}"), CallPiece(1, "g"))) == (
        CallPiece(0, "f", "{}"),
        CallPiece(1, "g"),
    )
    with pytest.raises(AssertionError, match="two calls"):
        CallPiece(0, "f") + CallPiece(1)
