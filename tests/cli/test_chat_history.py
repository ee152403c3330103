"""The terminal chat never sends more than the model can read, and says what it dropped."""

from __future__ import annotations

from lmoe_ray.cli.chat_history import ChatHistory, estimate
from lmoe_ray.domain.stream import Usage


def history(max_model_len: int = 100, **fields: int) -> ChatHistory:
    return ChatHistory(max_model_len, reserve_tokens=20, **fields)


def test_a_short_conversation_is_sent_whole_and_in_order() -> None:
    chat = history()
    chat.system = "Be kind."
    chat.ask("hello")
    chat.answered("hi", Usage(prompt_tokens=12, completion_tokens=3))
    chat.ask("and you?")

    assert [(m.role, m.content) for m in chat.messages] == [
        ("system", "Be kind."),
        ("user", "hello"),
        ("assistant", "hi"),
        ("user", "and you?"),
    ]
    assert chat.num_dropped == 0


def test_counts_are_the_servers_once_it_has_seen_the_text() -> None:
    chat = history()
    chat.ask("hello")
    chat.answered("hi", Usage(prompt_tokens=30, completion_tokens=5))

    assert chat.num_tokens == 35


def test_the_oldest_exchange_is_dropped_when_the_context_is_full() -> None:
    chat = history(max_model_len=100)
    chat.ask("first")
    chat.answered("one", Usage(40, 20))
    chat.ask("second")
    chat.answered("two", Usage(70, 5))
    chat.ask("third")

    assert [m.content for m in chat.messages] == ["second", "two", "third"]
    assert chat.num_dropped == 2


def test_the_last_question_is_never_dropped() -> None:
    chat = history(max_model_len=30)
    chat.ask("a question that is far longer than thirty tokens can hold, and then some more words on top")

    assert len(chat.messages) == 1
    assert chat.drop_oldest() is False


def test_undo_forgets_the_last_question_with_its_answer_and_tells_it() -> None:
    chat = history()
    chat.ask("hello")
    chat.answered("hi", Usage(12, 3))
    chat.ask("and you?")
    chat.answered("fine", None)

    assert chat.undo() == "and you?"
    assert [m.content for m in chat.messages] == ["hello", "hi"]
    assert chat.undo() == "hello"
    assert chat.undo() is None


def test_what_is_no_longer_sent_is_still_there_to_read() -> None:
    chat = history(max_model_len=100)
    chat.ask("first")
    chat.answered("one", Usage(70, 20), "code")
    chat.ask("second")

    assert [m.content for m in chat.messages] == ["second"]
    assert [(t.message.content, t.expert) for t in chat.turns] == [("first", None), ("one", "code"), ("second", None)]


def test_a_copy_does_not_see_what_comes_later() -> None:
    chat = history()
    before = chat.copy()
    chat.ask("hello")

    assert before.messages == ()


def test_an_estimate_counts_bytes_not_characters() -> None:
    assert estimate("") == 0
    assert estimate("abc") == 5
    assert estimate("日本語") == 7
