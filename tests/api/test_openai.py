"""Request bodies: what each field becomes, what is refused, and what is reported as ignored."""

from __future__ import annotations

from typing import Any

import pytest

from lmoe_ray.api.openai import Completion, parse_chat, parse_route, parse_text
from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.sampling import MAX_STOP_CHARS, MAX_STOPS, RANGES, SamplingParams
from lmoe_ray.errors import InvalidField, UnsupportedValue

USER = {"role": "user", "content": "hello"}


def chat(*messages: Any, **fields: Any) -> Completion:
    return parse_chat({"model": "demo", "messages": list(messages) or [USER], **fields}, "r1", max_messages=8)


def text(prompt: Any = "hello", **fields: Any) -> Completion:
    return parse_text({"model": "demo", "prompt": prompt, **fields}, "r1")


def sampling(**fields: Any) -> SamplingParams:
    return chat(**fields).generate.sampling


def test_the_least_chat_body_takes_every_default() -> None:
    assert chat() == Completion(
        GenerateRequest("r1", "demo", (Message("user", "hello"),)),
        stream=False,
        include_usage=False,
        echo="",
        ignored=(),
    )


def test_every_sampling_field_arrives() -> None:
    assert sampling(
        max_tokens=7,
        temperature=1,
        top_p=0.5,
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.2,
        presence_penalty=-2,
        frequency_penalty=2,
        logit_bias={"0": -100, "50256": 1.5},
        seed=-1,
        stop="END",
        ignore_eos=True,
    ) == SamplingParams(
        max_tokens=7,
        temperature=1.0,
        top_p=0.5,
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.2,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        logit_bias=((0, -100.0), (50256, 1.5)),
        seed=-1,
        stop=("END",),
        ignore_eos=True,
    )


@pytest.mark.parametrize("name", sorted(RANGES))
def test_the_ends_of_a_range_are_inside_and_one_step_beyond_is_refused(name: str) -> None:
    low, high = RANGES[name]
    assert getattr(sampling(**{name: low}), name) == low
    assert getattr(sampling(**{name: high}), name) == high
    for beyond in (low - 1, high + 1):
        with pytest.raises(InvalidField, match=name) as caught:
            chat(**{name: beyond})
        assert caught.value.param == name
        assert f"(got {beyond}" in str(caught.value)


@pytest.mark.parametrize("name", sorted(RANGES))
@pytest.mark.parametrize("value", [True, "1", [1], {}])
def test_a_number_is_neither_true_nor_a_string(name: str, value: Any) -> None:
    with pytest.raises(InvalidField, match="should be a valid") as caught:
        chat(**{name: value})
    assert caught.value.param == name


def test_the_newer_name_of_max_tokens_wins() -> None:
    assert sampling(max_tokens=5, max_completion_tokens=6).max_tokens == 6
    assert sampling(max_tokens=5, max_completion_tokens=None).max_tokens == 5


def test_max_tokens_of_zero_is_refused_rather_than_read_as_all() -> None:
    with pytest.raises(InvalidField, match=r"max_tokens: .* greater than or equal to 1 \(got 0\)"):
        chat(max_tokens=0)


def test_an_empty_stop_list_switches_the_default_stops_off_and_nothing_else_does() -> None:
    assert not sampling(stop=[]).use_default_stops
    assert sampling(stop=None).use_default_stops
    assert sampling(stop=["END"]).use_default_stops
    assert sampling(stop=[""]) == SamplingParams()
    assert sampling(stop="") == SamplingParams()


@pytest.mark.parametrize(
    ("stop", "problem"),
    [
        (5, "must be a string, a list of strings or null"),
        ([5], "should be a valid string"),
        (["x"] * (MAX_STOPS + 1), "there are 17 strings, the limit is 16"),
        ("x" * (MAX_STOP_CHARS + 1), "more than 256 characters"),
    ],
)
def test_a_stop_outside_its_limits_is_refused(stop: Any, problem: str) -> None:
    with pytest.raises(InvalidField, match=problem) as caught:
        chat(stop=stop)
    assert str(caught.value.param).startswith("stop")


def test_empty_stop_strings_do_not_count() -> None:
    assert len(sampling(stop=["x"] * MAX_STOPS + [""] * 3).stop) == MAX_STOPS


@pytest.mark.parametrize(
    "bias", [{"x": 1}, {"-1": 1}, {"01": 1}, {"5": 101}, {"5": True}, {"5": "1"}, [1], {str(i): 1 for i in range(1025)}]
)
def test_a_logit_bias_that_names_no_token_or_is_too_strong_is_refused(bias: Any) -> None:
    with pytest.raises(InvalidField) as caught:
        chat(logit_bias=bias)
    assert str(caught.value.param).startswith("logit_bias")


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("system", "system"),
        ("developer", "system"),
        ("user", "user"),
        ("assistant", "assistant"),
        ("tool", "tool"),
        ("function", "tool"),
    ],
)
def test_six_roles_become_four(role: str, expected: str) -> None:
    assert chat({"role": role, "content": "x"}).generate.messages == (Message(expected, "x"),)  # type: ignore[arg-type]


def test_an_unknown_role_is_named_with_the_known_ones() -> None:
    with pytest.raises(InvalidField) as caught:
        chat(USER, {"role": "owner", "content": "x"})
    assert caught.value.param == "messages[1].role"
    assert str(caught.value).endswith('must be one of system, developer, user, assistant, tool, function (got "owner")')


@pytest.mark.parametrize(
    ("message", "param", "problem"),
    [
        ("hello", "messages[0]", "must be an object"),
        ({"content": "x"}, "messages[0].role", "is required"),
        ({"role": 5}, "messages[0].role", "should be a valid string"),
        ({"role": "user", "content": 5}, "messages[0].content", "must be a string, a list of parts or null"),
        ({"role": "user", "content": ["x"]}, "messages[0].content", "part 0 must be an object with a 'type'"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content", "part 0 has no text in 'text'"),
        ({"role": "assistant", "tool_calls": "x"}, "messages[0].tool_calls", "must be a list or null"),
    ],
)
def test_a_broken_message_is_named_by_its_place(message: Any, param: str, problem: str) -> None:
    with pytest.raises(InvalidField, match=problem) as caught:
        chat(message)
    assert caught.value.param == param


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video", "{0}"])
def test_a_part_that_is_not_text_is_unsupported(kind: str) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        chat({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind}]})
    assert f"part 1 is of type '{kind}'; only text parts are supported" in str(caught.value)


def test_content_of_null_is_empty_and_an_assistants_calls_are_kept_as_text() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"é":1}'}}
    messages = chat(
        {"role": "user", "content": None},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "assistant", "content": "so:", "function_call": {"name": "f"}},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "tool_calls": []},
    ).generate.messages
    line = '{"id":"c1","type":"function","function":{"name":"f","arguments":"{\\"é\\":1}"}}'
    assert [m.content for m in messages] == ["", f"{line}\n{line}", 'so:\n{"name":"f"}', "no"]


def test_too_many_messages_are_refused_with_both_numbers() -> None:
    with pytest.raises(InvalidField, match="messages: there are 9, the limit is 8"):
        chat(*[USER] * 9)


def test_several_problems_are_counted_and_the_first_is_told() -> None:
    with pytest.raises(InvalidField, match=r"temperature: .*\(got 3\) \(and 1 more\)"):
        chat(temperature=3, top_p=2)


def test_a_long_value_is_not_repeated_because_it_may_be_the_conversation() -> None:
    with pytest.raises(InvalidField) as caught:
        chat(temperature="my secret is that " * 9)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("expert", [None, ""])
def test_an_expert_that_is_null_or_empty_is_absent(expert: Any) -> None:
    assert chat(expert=expert).generate.expert is None
    assert chat(expert="code").generate.expert == "code"


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"top_logprobs": 1},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"function_call": {"name": "f"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {}}}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy"}},
    ],
)
def test_what_would_change_a_chat_answer_and_cannot_be_done_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        chat(**fields)
    assert caught.value.param == next(iter(fields))


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ("x", {"n": 2}),
        ("x", {"best_of": 2}),
        ("x", {"logprobs": 5}),
        ("x", {"suffix": "y"}),
        (["x", "y"], {}),
        ([], {}),
        ([1, 2], {}),
        ([[1, 2]], {}),
    ],
)
def test_what_would_change_a_text_answer_and_cannot_be_done_is_refused(prompt: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        text(prompt, **fields)
    assert caught.value.param == (next(iter(fields)) if fields else "prompt")


def test_fields_without_effect_are_reported_in_their_order() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    completion = chat(
        store=True,
        tools=[tool, tool],
        tool_choice="auto",
        functions=[tool],
        response_format={"type": "json_object"},
        reasoning_effort="low",
        verbosity="high",
        service_tier="flex",
        metadata={"a": "b"},
        user="me",
        temperature=1,
        thinking=None,
        cache=False,
        **{"ma\n\x00gic": 1},
    )
    assert completion.ignored == (
        "store",
        "tools",
        "functions",
        "response_format",
        "reasoning_effort",
        "verbosity",
        "service_tier",
        "metadata",
        "ma gic",
    )
    assert completion.generate.num_tools == 3


def test_a_schema_that_is_not_strict_is_reported_not_refused() -> None:
    assert chat(response_format={"type": "json_schema", "json_schema": {"schema": {}}}).ignored == ("response_format",)


def test_only_so_many_ignored_fields_are_repeated() -> None:
    assert len(chat(**{f"x{i}": 1 for i in range(100)}).ignored) == 32


def test_a_prompt_is_a_string_or_a_list_of_one() -> None:
    assert text(["hello"]).generate == text("hello").generate == GenerateRequest("r1", "demo", prompt="hello")


@pytest.mark.parametrize("prompt", [None, "", 5, {}])
def test_a_prompt_without_text_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidField, match="prompt: "):
        text(prompt)


def test_echo_repeats_the_prompt() -> None:
    assert text(echo=True).echo == "hello"
    assert text(echo=False).echo == ""


def test_the_model_in_the_path_wins_and_without_one_the_body_must_name_it() -> None:
    assert parse_text({"model": "demo", "prompt": "x"}, "r1", "davinci").generate.model == "davinci"
    with pytest.raises(InvalidField, match="model: is required"):
        parse_text({"prompt": "x", "model": None}, "r1")


def test_a_route_body_is_a_chat_or_a_text_and_needs_no_model() -> None:
    def route(**body: Any) -> GenerateRequest:
        return parse_route(body, "r1", 8, "demo")

    assert route(messages=[USER]) == chat().generate
    assert route(prompt="hello") == route(input="hello") == route(input="hello", messages=None) == text().generate
    assert route(prompt="hello", model="other", expert="code").expert == "code"
    with pytest.raises(InvalidField, match="messages: is required, or a text as 'prompt'"):
        route(model="demo")


def test_calls_nested_to_the_edge_of_the_stack_are_refused_not_fatal() -> None:
    call: Any = "x"
    for _ in range(100_000):
        call = [call]
    with pytest.raises(InvalidField, match="tool_calls: is nested too deeply"):
        chat({"role": "assistant", "tool_calls": [call]})
