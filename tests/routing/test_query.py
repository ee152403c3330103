from __future__ import annotations

import pytest

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.routing.query import Query, read_query, sample_text
from tests.routing.experts import ask


def read(request: GenerateRequest) -> str:
    return read_query(request).within(1000)


def test_only_the_last_question_is_read_and_never_an_answer() -> None:
    request = ask("Write a poem about the sea.", ("assistant", "O waves of blue!"), "Now sort this list in Python.")

    assert read(request) == "Now sort this list in Python."


def test_no_markers_of_the_prompt_format_reach_the_router() -> None:
    text = read(ask(("system", "A chat."), "Sort this list.", ("assistant", "Sorted."), "Now reverse it, would you?"))

    assert "USER:" not in text
    assert "ASSISTANT:" not in text
    assert "A chat." not in text


def test_system_text_comes_before_the_question() -> None:
    request = ask(("system", "You translate English into Latin."), "The farmer loves the poet.")

    assert read(request) == "You translate English into Latin.\nThe farmer loves the poet."


@pytest.mark.parametrize(
    "system",
    [
        "A chat.",
        "You are a helpful assistant.",
        "You are an AI assistant that helps people find information.",
        "You are ChatGPT, a large language model trained by OpenAI. Follow the user's instructions carefully. "
        "Respond using markdown.",
        "Assistant is a large language model trained by OpenAI.",
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    ],
)
def test_what_clients_send_unasked_is_dropped(system: str) -> None:
    assert read(ask(("system", system), "Why is the sky blue?")) == "Why is the sky blue?"


@pytest.mark.parametrize(
    "system", ["You are a helpful coding assistant.", "Answer in French.", "You are a pirate.", "你是一个助手。"]
)
def test_a_system_text_that_tells_something_stays(system: str) -> None:
    assert read(ask(("system", system), "Why is the sky blue?")) == f"{system}\nWhy is the sky blue?"


def test_an_empty_sentence_is_dropped_from_a_telling_system_text() -> None:
    request = ask(("system", "You are a helpful assistant. You write sonnets."), "About the moon, please.")

    assert read(request) == "You write sonnets.\nAbout the moon, please."


def test_system_turns_in_mid_conversation_are_not_system_text() -> None:
    request = ask(("system", "You write sonnets."), "List my files, please.", ("system", "main.py setup.py"))

    assert read(request) == "You write sonnets.\nList my files, please."


def test_a_short_message_is_read_with_the_one_before() -> None:
    request = ask("Write a poem about the sea.", ("assistant", "O waves!"), "go on")

    assert read(request) == "Write a poem about the sea.\ngo on"


def test_several_short_messages_reach_back_to_one_that_says_something() -> None:
    request = ask("Fix this Python function.", "Write a poem about the sea.", "go on", ("assistant", "..."), "more!")

    assert read(request) == "Write a poem about the sea.\ngo on\nmore!"


def test_a_short_message_with_none_before_stands_alone() -> None:
    assert read(ask("thanks")) == "thanks"


def test_a_message_of_four_words_is_long_enough() -> None:
    assert read(ask("Write a poem about the sea.", "Now sort this list")) == "Now sort this list"


def test_chinese_characters_count_as_words() -> None:
    assert read(ask("Write a poem about the sea.", "天空为什么是蓝色的")) == "天空为什么是蓝色的"
    assert read(ask("Write a poem about the sea.", "继续")) == "Write a poem about the sea.\n继续"


def test_empty_messages_are_passed_over() -> None:
    assert read(ask("Write a poem about the sea.", "  ")) == "Write a poem about the sea."


def test_answers_of_tools_are_not_questions() -> None:
    assert read(ask("What is the weather in Bergen?", ("tool", '{"rain": true}'))) == "What is the weather in Bergen?"


def test_a_conversation_without_words_has_an_empty_query() -> None:
    assert read(ask(("system", "A chat."), ("assistant", "How can I help you today?"))) == ""
    assert read(ask()) == ""


def test_a_bare_prompt_is_the_query() -> None:
    assert read(GenerateRequest("r", "demo", prompt="Once upon a time ")) == "Once upon a time"


def test_a_sample_loses_the_default_system_text_and_nothing_else() -> None:
    assert sample_text("A chat. Write a loop.\n") == "Write a loop."
    assert sample_text("A chat between two friends: go.") == "A chat between two friends: go."


def test_a_sample_and_the_request_it_was_made_from_are_the_same_text() -> None:
    assert sample_text("A chat. Write a loop in Rust.") == read(ask(("system", "A chat."), "Write a loop in Rust."))


def test_a_long_system_text_leaves_the_message_its_half() -> None:
    assert Query("s" * 100, "m" * 80).within(20) == "s" * 10 + "\n" + "m" * 80
    assert Query("s" * 100, "mmmm").within(20) == "s" * 16 + "\nmmmm"
    assert Query("sss", "mmmm").within(20) == "sss\nmmmm"


def test_a_conversation_is_seen_twice_and_the_last_message_comes_first() -> None:
    turns = ("a poem about rain", ("assistant", "Rain!"), "what is 2 + 2 here")
    query = read_query(ask(("system", "Speak French."), *turns))

    assert query.views(1000) == (
        "Speak French.\nwhat is 2 + 2 here",
        "Speak French.\nwhat is 2 + 2 here\na poem about rain",
    )


def test_a_turn_is_the_last_message_what_was_said_before_and_all_of_it() -> None:
    turns = ("a poem about rain", ("assistant", "Rain!"), " darker ", "  ", ("assistant", "RAIN!"), "and in French?")
    query = read_query(ask(("system", "Speak French."), *turns))

    assert query.turn is not None
    assert query.turn.message == "and in French?"
    assert query.turn.earlier == ("a poem about rain", "darker")
    assert query.turn.texts() == (
        "and in French?",
        "darker\na poem about rain",
        "and in French?\na poem about rain\ndarker",
    )
    before = read_query(ask("a poem about rain", ("assistant", "Rain!"), "darker"))
    assert before.turn is not None
    assert before.turn.whole == query.turn.texts()[1]


@pytest.mark.parametrize("length", [1, 200])
def test_without_a_system_text_only_what_was_said_before_is_read_besides_the_views(length: int) -> None:
    query = read_query(
        ask("a poem about rain " * length, ("assistant", "Rain!"), "now sort this list of mine " * length)
    )

    assert query.turn is not None
    assert set(query.turn.texts()) - set(query.views(768)) == {("a poem about rain " * length).strip()}


def test_a_single_message_is_no_turn() -> None:
    assert read_query(ask("a poem about rain", ("user", " "))).turn is None


def test_a_single_message_is_seen_once_and_nothing_not_at_all() -> None:
    assert read_query(ask("a poem about rain")).views(1000) == ("a poem about rain",)
    assert read_query(ask(("assistant", "Hello!"))).views(1000) == ()
