"""Request bodies: what each field becomes, what is refused, and what is reported as ignored."""

from __future__ import annotations

from typing import Any

import pytest

from lmoe_ray.api.openai import Completion, parse_chat, parse_route, parse_text
from lmoe_ray.domain.chat import GenerateRequest, Message, RouteOptions
from lmoe_ray.domain.sampling import MAX_STOP_CHARS, MAX_STOPS, RANGES, SamplingParams
from lmoe_ray.domain.tools import ToolCall
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
        assert f"(got {int(beyond) if beyond == int(beyond) else beyond}" in str(caught.value)


@pytest.mark.parametrize("name", sorted(RANGES))
@pytest.mark.parametrize("value", [True, "1", [1], {}])
def test_a_number_is_neither_true_nor_a_string(name: str, value: Any) -> None:
    with pytest.raises(InvalidField, match="should be a valid") as caught:
        chat(**{name: value})
    assert caught.value.param == name


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert sampling(n=2.0, top_k=5.0, seed=-3.0, max_tokens=7.0) == sampling(n=2, top_k=5, seed=-3, max_tokens=7)
    for name, value in [("n", 1.5), ("top_k", 1e308), ("n", float("inf"))]:
        with pytest.raises(InvalidField, match=name):
            chat(**{name: value})


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


def test_content_of_null_is_empty_and_calls_and_results_are_kept_in_either_way() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"é":1}'}}
    messages = chat(
        {"role": "user", "content": None},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "assistant", "content": "so:", "function_call": {"name": "f", "arguments": {"a": 1}}},
        {"role": "function", "name": "f", "content": "rain"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "tool_calls": []},
    ).generate.messages
    kept = ToolCall("f", '{"é":1}', "c1")
    assert messages == (
        Message("user", ""),
        Message("assistant", "", (kept, kept)),
        Message("tool", "sunny", call_id="c1"),
        Message("assistant", "so:", (ToolCall("f", '{"a": 1}'),)),
        Message("tool", "rain", name="f"),
        Message("assistant", "no"),
    )


def test_log_probabilities_are_asked_for_in_either_way() -> None:
    def asked(params: SamplingParams) -> tuple[bool, int]:
        return params.logprobs, params.top_logprobs

    assert asked(sampling()) == asked(sampling(logprobs=0)) == asked(sampling(logprobs=False)) == (False, 0)
    assert asked(sampling(logprobs=True)) == (True, 0)
    assert asked(sampling(logprobs=True, top_logprobs=20)) == (True, 20)
    assert asked(text().generate.sampling) == (False, 0)
    assert asked(text(logprobs=0).generate.sampling) == (True, 0)
    assert asked(text(logprobs=5).generate.sampling) == (True, 5)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
    ],
)
def test_log_probabilities_outside_their_limits_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        chat(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("count", [6, -1, True])
def test_a_text_counts_its_likeliest_tokens_up_to_five(count: Any) -> None:
    with pytest.raises(InvalidField, match="logprobs"):
        text(logprobs=count)


def test_the_best_of_as_many_as_are_wanted_are_all() -> None:
    assert text(n=3, best_of=3).generate.sampling.n == 3


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
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
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
        ("x", {"best_of": 2}),
        ("x", {"logprobs": 5, "echo": True}),
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
        tools=[tool],
        tool_choice="auto",
        parallel_tool_calls=True,
        response_format={"type": "text"},
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
        "reasoning_effort",
        "verbosity",
        "service_tier",
        "metadata",
        "ma gic",
    )
    assert completion.generate.num_tools == 1


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
        call = {"a": call}
    with pytest.raises(InvalidField, match="arguments: is nested too deeply"):
        chat({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": call}}]})


# ── our own fields ───────────────────────────────────────────────────────────────────────────────


def test_wishes_about_routing_arrive_from_chats_texts_and_routes_alike() -> None:
    wishes = {"threshold": 0.25, "allowed_experts": ["code", "math", "code"], "sticky": False}
    body = {"model": "demo", "messages": [USER], "route": wishes}
    for request in (chat(route=wishes).generate, text(route=wishes).generate, parse_route(body, "r1", 8, "demo")):
        assert request.routing == RouteOptions(0.25, is_sticky=False)
        assert request.allowed_experts == ("code", "math")
    assert chat(route={}).generate == chat(route=None).generate == chat().generate


@pytest.mark.parametrize(
    ("wishes", "param", "problem"),
    [
        ({"threshold": 1.01}, "route.threshold", "less than or equal to 1"),
        ({"threshold": True}, "route.threshold", "valid number"),
        ({"allowed_experts": []}, "route.allowed_experts", "at least 1"),
        ({"allowed_experts": "code"}, "route.allowed_experts", "valid list"),
        ({"allowed_experts": [1]}, "route.allowed_experts[0]", "valid string"),
        ({"allowed_experts": ["x"] * 257}, "route.allowed_experts", "at most 256"),
        ({"sticky": "yes"}, "route.sticky", "valid boolean"),
        ({"treshold": 0.5}, "route.treshold", "is no known option here; remove it"),
        ([], "route", "must be an object"),
    ],
)
def test_a_wish_that_cannot_be_read_is_named_by_its_place(wishes: Any, param: str, problem: str) -> None:
    with pytest.raises(InvalidField, match=problem) as caught:
        chat(route=wishes)
    assert caught.value.param == param


def test_to_explain_is_asked_for_by_true() -> None:
    assert chat(explain=True).is_explained
    assert not chat(explain=None).is_explained
    with pytest.raises(InvalidField, match="explain: "):
        chat(explain="yes")
