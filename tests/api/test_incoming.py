"""Bytes to a JSON object: what JSON leaves open is closed here."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from lmoe_ray.api import incoming
from lmoe_ray.api.incoming import MAX_KEYS, parse_object, read_object, request_id_of
from lmoe_ray.errors import BodyTooLarge, InvalidField, MalformedBody


def request_of(*pieces: bytes, **headers: str) -> Request:
    """A request whose body comes in these pieces; the client leaves when they run out."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": p, "more_body": True} for p in pieces]
    messages[-1:] = [{**m, "more_body": False} for m in messages[-1:]]

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw}, receive)


async def test_a_body_is_put_together_from_its_pieces() -> None:
    assert await read_object(request_of(b'{"a"', b":1}"), 7) == {"a": 1}


@pytest.mark.parametrize("length", ["8", "9" * 5000])
async def test_a_body_announced_as_too_large_is_refused_unread(length: str) -> None:
    with pytest.raises(BodyTooLarge, match="the limit is 7"):
        await read_object(request_of(content_length=length), 7)


async def test_a_body_that_grows_too_large_is_refused_whatever_was_announced() -> None:
    with pytest.raises(BodyTooLarge, match="at least 8 bytes, the limit is 7"):
        await read_object(request_of(b"1234", b"5678", b"9", content_length="2"), 7)


async def test_a_client_that_leaves_before_its_body_is_complete_is_no_error_of_the_body() -> None:
    with pytest.raises(ClientDisconnect):
        await read_object(request_of(), 7)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a":1} x', "Extra data"),
        (b"[]", "it is an array"),
        (b'"x"', "it is a string"),
        (b"null", "it is null"),
        (b"true", "it is true or false"),
        (b"1", "it is a number"),
        (b'{"a":"\xff"}', "can't decode byte 0xff"),
        (b'{"a":"\xed\xa0\x80"}', "can't decode byte 0xed"),
        (b'{"a":NaN}', "NaN is not a JSON number"),
        (b'{"a":-Infinity}', "-Infinity is not a JSON number"),
        (b'{"a":1e400}', "1e400 is too large a number"),
        (b'{"a":[{"b":-1E+999}]}', r"-1E\+999 is too large a number"),
        (b'{"a":1' + b"0" * 400 + b".0}", r"10+\.\.\. is too large a number"),
        (b'{"a":1,"a":1}', "key 'a' appears twice"),
        (b'{"b":[{"a":1,"a":2}]}', "key 'a' appears twice"),
        (b'{"a":' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_one_clear_json_object_is_refused(body: bytes, problem: str) -> None:
    with pytest.raises(MalformedBody, match=problem) as caught:
        parse_object(body)
    assert caught.value.status == 400


def test_large_and_tiny_numbers_are_read_as_far_as_they_go() -> None:
    assert parse_object(b'{"a":[1e308,-1e-400,2.50]}') == {"a": [1e308, 0, 2.5]}
    assert parse_object(b'{"a":' + b"9" * 400 + b"}") == {"a": 10**400 - 1}


@pytest.mark.parametrize("shape", ['{"a":[%s]}', '{"b":{"c":[%s]}}'])
def test_values_are_counted_wherever_they_stand(monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    monkeypatch.setattr(incoming, "MAX_VALUES", 100)
    most = 100 - shape.count(":")
    parse_object((shape % ",".join(["1"] * most)).encode())

    for value in ("1", "[]", "{}"):
        with pytest.raises(MalformedBody, match="more than 100 values"):
            parse_object((shape % ",".join([value] * (most + 1))).encode())


@pytest.mark.parametrize("shape", ["{%s}", '{"a":[{%s}]}'])
def test_an_object_has_so_many_keys_and_no_more(shape: str) -> None:
    names = [f'"{number}":0' for number in range(MAX_KEYS + 1)]
    parse_object((shape % ",".join(names[1:])).encode())

    with pytest.raises(MalformedBody, match=f"an object has {MAX_KEYS + 1} keys, the limit is {MAX_KEYS}"):
        parse_object((shape % ",".join(names)).encode())


@pytest.mark.parametrize(
    "value", [r'"\ud83e"', r'["x", "\udd8a"]', r'{"y": {"\uD83E": 1}}', r'"\ud83e \udd8a"', r'"\udd8a\ud83e"']
)
def test_half_a_surrogate_pair_is_refused_naming_the_field(value: str) -> None:
    with pytest.raises(InvalidField, match="half a surrogate pair") as caught:
        parse_object(f'{{"good": 1, "bad": {value}}}'.encode())
    assert caught.value.param == "bad"


def test_whole_characters_pass_escaped_or_not() -> None:
    assert parse_object(rb'{"a":"\ud83e\udd8a \\ud83e"}') == {"a": "🦊 \\ud83e"}
    assert parse_object('{"a":"🦊"}'.encode()) == {"a": "🦊"}
    assert parse_object(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize("depth", range(900, 1000, 7))
def test_depth_near_the_stacks_edge_is_parsed_or_refused_and_nothing_else(depth: int) -> None:
    with contextlib.suppress(MalformedBody):
        parse_object(b'{"a":"\\ud83e\\udd8a","b":' + b"[" * depth + b"]" * depth + b"}")


@pytest.mark.parametrize("given", ["abc-DEF_123", "x" * 64])
def test_a_sane_request_id_is_kept(given: str) -> None:
    assert request_id_of(request_of(x_request_id=given)) == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\nb", "a/b", "é"])
def test_any_other_is_replaced_by_a_new_one(given: str) -> None:
    http = request_of(x_request_id=given)
    assert request_id_of(http) != request_id_of(http)
    assert len(request_id_of(http)) == 32
