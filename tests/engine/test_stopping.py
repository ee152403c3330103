"""Stop strings, finish reasons and what may be shown when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lmoe_ray.domain.stream import TokenDelta, TokenLogprob, Usage
from lmoe_ray.domain.tool_dialect import PLAIN
from lmoe_ray.domain.tools import CallPiece
from lmoe_ray.engine.call_reader import CallReader
from lmoe_ray.engine.stopping import Answer, StopStrings

EOS = 0


class Letters:
    """A detokenizer for a language whose token n is the nth letter; 99 is half of the next character."""

    def __init__(self) -> None:
        self._half = ""

    def push(self, token_id: int) -> str:
        if token_id == 99:
            self._half = "?"
            return ""
        self._half = ""
        return chr(ord("a") + token_id - 1)

    def flush(self) -> str:
        half, self._half = self._half, ""
        return half

    def token_bytes(self, token_id: int) -> bytes:
        return chr(ord("a") + token_id - 1).encode()


class Characters:
    """A detokenizer for a language whose tokens are characters."""

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""

    def token_bytes(self, token_id: int) -> bytes:
        return chr(token_id).encode()


def tokens(text: str) -> list[int]:
    return [ord(c) - ord("a") + 1 for c in text]


def make_answer(*, max_new_tokens: int = 100, stops: tuple[str, ...] = (), eos_ids: tuple[int, ...] = (EOS,)) -> Answer:
    return Answer(Letters(), num_prompt_tokens=3, max_new_tokens=max_new_tokens, eos_ids=eos_ids, stops=stops)


def run(answer: Answer, ids: list[int]) -> list[TokenDelta]:
    deltas = []
    for token_id in ids:
        if (delta := answer.push(token_id)) is not None:
            deltas.append(delta)
            if delta.finish_reason is not None:
                break
    return deltas


def total(deltas: list[TokenDelta]) -> TokenDelta:
    whole = deltas[0]
    for delta in deltas[1:]:
        whole = whole + delta
    return whole


def test_text_that_cannot_become_a_stop_string_is_shown_at_once() -> None:
    assert StopStrings(["stop"]).push("hello") == "hello"


def test_the_beginning_of_a_stop_string_waits_until_it_is_none() -> None:
    stops = StopStrings(["USER:"])
    assert stops.push("my US") == "my "
    assert stops.push("A") == "USA"


def test_text_before_a_stop_string_is_shown_and_nothing_after_it() -> None:
    stops = StopStrings(["USER:"])
    assert stops.push("bye\nUSE") == "bye\n"
    assert stops.push("R: more") == ""
    assert stops.matched
    assert stops.flush() == ""


def test_the_stop_string_that_is_complete_first_wins() -> None:
    stops = StopStrings(["abcd", "bc"])
    assert stops.push("abcd") == "a"


def test_of_two_stop_strings_that_end_together_the_longer_cuts() -> None:
    assert StopStrings(["c", "abc"]).push("xabc") == "x"


def test_an_empty_stop_string_is_no_stop_string() -> None:
    stops = StopStrings([""])
    assert stops.push("text") == "text"
    assert not stops.matched


def test_without_stop_strings_nothing_is_held() -> None:
    assert StopStrings([]).push("anything") == "anything"


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5)),
)
def test_the_cut_does_not_depend_on_how_the_text_arrives(text: str, stop_strings: list[str], sizes: list[int]) -> None:
    def cut(pieces: list[str]) -> tuple[str, bool]:
        stops, shown = StopStrings(stop_strings), ""
        for piece in pieces:
            shown += stops.push(piece)
            if stops.matched:
                return shown, True
        return shown + stops.flush(), False

    pieces, rest = [], text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert cut([*pieces, rest]) == cut(list(text))
    assert cut(list(text))[1] == any(stop in text for stop in stop_strings)


def test_an_end_token_finishes_with_reason_stop_and_shows_no_text() -> None:
    whole = total(run(make_answer(), [*tokens("hi"), EOS]))
    assert (whole.text, whole.finish_reason, whole.token_ids) == ("hi", "stop", (*tokens("hi"), EOS))
    assert whole.usage == Usage(3, 3)


def test_an_end_token_is_ordinary_if_it_does_not_count_as_one() -> None:
    deltas = run(make_answer(eos_ids=(), max_new_tokens=2), [EOS, 1])
    assert deltas[-1].finish_reason == "length"


def test_reaching_max_new_tokens_finishes_with_reason_length() -> None:
    deltas = run(make_answer(max_new_tokens=2), tokens("abc"))
    assert [delta.finish_reason for delta in deltas] == [None, "length"]
    assert total(deltas).text == "ab"


def test_a_stop_string_across_tokens_finishes_with_reason_stop_and_is_not_shown() -> None:
    whole = total(run(make_answer(stops=("lo",)), tokens("hello")))
    assert (whole.text, whole.finish_reason) == ("hel", "stop")
    assert whole.token_ids == tuple(tokens("hello"))


def test_a_stop_string_completed_by_the_last_permitted_token_is_a_stop() -> None:
    whole = total(run(make_answer(stops=("lo",), max_new_tokens=5), tokens("hello")))
    assert (whole.text, whole.finish_reason) == ("hel", "stop")


def test_text_held_back_is_shown_when_the_answer_ends_by_length() -> None:
    whole = total(run(make_answer(stops=("lox",), max_new_tokens=5), tokens("hello")))
    assert (whole.text, whole.finish_reason) == ("hello", "length")


def test_text_held_back_is_shown_when_the_model_ends_its_answer() -> None:
    whole = total(run(make_answer(stops=("ab",)), [*tokens("a"), EOS]))
    assert (whole.text, whole.finish_reason) == ("a", "stop")


def test_a_token_whose_text_waits_comes_with_the_delta_that_shows_it() -> None:
    answer = make_answer(stops=("bc",))
    assert answer.push(1).token_ids == (1,)
    assert answer.push(2) is None
    assert answer.push(4) == TokenDelta("bd", (2, 4), Usage(3, 3))


def test_half_a_character_waits_for_its_other_half() -> None:
    answer = make_answer()
    assert answer.push(99) is None
    assert answer.push(1) == TokenDelta("a", (99, 1), Usage(3, 2))


def test_half_a_character_is_shown_as_it_is_when_the_answer_ends() -> None:
    whole = total(run(make_answer(max_new_tokens=2), [1, 99]))
    assert (whole.text, whole.token_ids) == ("a?", (1, 99))


def test_a_stop_string_in_the_flushed_half_character_still_cuts() -> None:
    whole = total(run(make_answer(stops=("a?",)), [1, 99, EOS]))
    assert (whole.text, whole.finish_reason) == ("", "stop")


def test_log_probabilities_travel_with_their_tokens() -> None:
    answer = make_answer(stops=("bc",))
    assert answer.push(2, -0.5) is None
    delta = answer.push(1, -1.5, ((1, -1.5), (3, -2.5)))
    assert delta is not None
    assert delta.logprobs == (
        TokenLogprob(b"b", -0.5),
        TokenLogprob(b"a", -1.5, ((b"a", -1.5), (b"c", -2.5))),
    )


def test_the_token_that_ends_an_answer_has_a_log_probability_and_no_text() -> None:
    delta = make_answer().push(EOS, -0.25)
    assert delta is not None
    assert delta.logprobs == (TokenLogprob(b"", -0.25),)


CALL = '{"function": "f", "params": {"a": "stop"}}'


def say(text: str, *, ends: bool = True, max_new_tokens: int = 1000) -> list[TokenDelta]:
    """An answer that may hold calls, character by character."""
    answer = Answer(
        Characters(),
        num_prompt_tokens=3,
        max_new_tokens=max_new_tokens,
        eos_ids=(EOS,),
        stops=("stop",),
        calls=CallReader(PLAIN),
        index=2,
    )
    return run(answer, [*map(ord, text), *([EOS] if ends else [])])


def test_a_call_is_told_as_a_call_and_no_stop_string_is_found_in_it() -> None:
    deltas = say(CALL)
    whole = total(deltas)
    assert (whole.text, whole.finish_reason, whole.index) == ("", "tool_calls", 2)
    assert whole.calls == (CallPiece(0, "f", '{"a": "stop"}'),)
    assert whole.token_ids == (*map(ord, CALL), EOS)
    assert next(delta.calls for delta in deltas if delta.calls) == (CallPiece(0, "f"),)
    assert len([delta for delta in deltas if delta.calls]) == 1 + len('{"a": "stop"}')


def test_a_text_beside_which_calls_were_possible_still_ends_at_a_stop_string() -> None:
    whole = total(say("so stop here"))
    assert (whole.text, whole.finish_reason, whole.calls) == ("so ", "stop", ())


def test_an_answer_cut_within_a_call_ends_by_length_with_what_there_is_of_it() -> None:
    whole = total(say(CALL, max_new_tokens=len('{"function": "f", "params": {"a": ')))
    assert (whole.text, whole.finish_reason, whole.calls) == ("", "length", (CallPiece(0, "f", '{"a": '),))


def test_an_answer_cut_before_it_is_certain_to_be_a_call_is_a_text() -> None:
    whole = total(say(CALL, max_new_tokens=5))
    assert (whole.text, whole.finish_reason, whole.calls) == ('{"fun', "length", ())
