"""The error tree: complete, drawn as it is, fit for a status line, and able to cross processes."""

from __future__ import annotations

import inspect
import json
import pickle

import pytest

from lmoe_ray import errors
from lmoe_ray.errors import LMoEError, one_line

EXAMPLES: list[LMoEError] = [
    errors.LMoEError("something"),
    errors.SetupError("something"),
    errors.SettingsError("args.models", "is required"),
    errors.StaleCalibration("0123456789abcdef" * 2, "fedcba9876543210" * 2),
    errors.ModelSourceError("hub/größe", "is not there"),
    errors.PackageError("/p/lmoe.yaml", "is not YAML"),
    errors.PickleRefused("/p/adapters/code/adapter_model.bin"),
    errors.BaseMismatch("code", "was made for another base"),
    errors.AdapterInert("code", "changes nothing"),
    errors.TrainingDataError("data.jsonl:7", "has no instruction"),
    errors.PeerFailed("openvino", "ended"),
    errors.RequestError("something"),
    errors.MalformedBody("Expecting value"),
    errors.InvalidField("temperature", "must be\r\nsmaller"),
    errors.UnsupportedValue("n", "only 1 is supported"),
    errors.ConstraintFailed("step_max_items limit"),
    errors.PromptTooLong(5000, 4096),
    errors.InvalidApiKey(True),
    errors.BodyTimeout(60.0),
    errors.BodyTooLarge(9, 8),
    errors.TooManyHeaders(101, 100),
    errors.ModelNotFound("größe", ("demo", "demo:code")),
    errors.ExpertNotFound("law", ()),
    errors.RouteNotFound("POST", "/v1/v1/chat/completions"),
    errors.MethodNotAllowed("GET", "/v1/chat/completions"),
    errors.CapacityError("something"),
    errors.Overloaded(257, 256),
    errors.RateLimited("alice", 60, "requests", "minute", 12.5),
    errors.KeysUnavailable(),
    errors.QuotaUncounted(),
    errors.NotReady("pool small"),
    errors.ReplicaLost("pool small"),
    errors.GenerationTimeout(300.0),
    errors.EngineFailed("out of\nmemory"),
    errors.InternalError(),
    errors.ConversationUnusable("chat.json", "has no messages"),
    errors.ClientError("something"),
    errors.ServerUnreachable("http://localhost:8000", "connection refused"),
    errors.ServerRefused(429, "overloaded", "the queue is full"),
    errors.ReplyUnreadable("an event holds 'x'"),
]
each_error = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


def declared() -> set[type[LMoEError]]:
    return {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, LMoEError)}


def drawing() -> dict[str, str]:
    """Every name in the module's drawing, with the name it hangs from."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = line.lstrip(" │├└─").split(" ")[0]
        if line.startswith("    ") and name:
            depth = (len(line) - len(line.lstrip(" │├└─"))) // 4 - 1
            path[depth:] = [name]
            parents[name] = path[depth - 1] if depth else ""
    return parents


def test_every_error_has_an_example() -> None:
    assert declared() == {type(error) for error in EXAMPLES}


def test_the_drawing_is_the_tree() -> None:
    tree = {kind.__name__: kind.__base__.__name__ for kind in declared() if kind.__base__ is not None}
    assert drawing() == {**tree, "LMoEError": ""}


@each_error
def test_an_error_survives_pickling_with_all_it_knows(error: LMoEError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@each_error
def test_a_message_is_one_line_of_printable_ascii_and_says_something(error: LMoEError) -> None:
    assert error.message.isascii()
    assert error.message.isprintable()
    assert 8 < len(error.message) <= 400


@each_error
def test_status_type_and_code_tell_the_same_story(error: LMoEError) -> None:
    match error:
        case errors.RequestError():
            assert 400 <= error.status < 500
            assert error.status != 429
            assert error.type == "invalid_request_error"
            assert error.retry_after_s is None
        case errors.CapacityError():
            assert error.status in (408, 429, 503)
            assert error.type == ("rate_limit_error" if error.status == 429 else "server_error")
            assert error.retry_after_s is not None
            assert error.retry_after_s > 0
        case _:
            assert (error.status, error.type) == (500, "server_error")
    assert error.code.isidentifier()
    assert error.code.islower()


def test_codes_of_errors_a_client_can_meet_differ() -> None:
    leaves = [
        kind.code
        for kind in declared()
        if issubclass(kind, errors.RequestError | errors.CapacityError) and kind not in (errors.CapacityError,)
    ]
    assert sorted(leaves) == sorted(set(leaves))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.PickleRefused("code"), "code: weights are a pickle"),
        (errors.StaleCalibration("c0ffee", "decaf"), "on the routing index c0ffee, "),
        (errors.Overloaded(257, 256), "257 requests are waiting, the limit is 256"),
        (errors.BodyTooLarge(9, 8), "at least 9 bytes, the limit is 8"),
        (errors.ExpertNotFound("law", ()), "this model has: none"),
        (errors.ModelNotFound("x", ("a", "b")), "served: a, b"),
        (errors.RateLimited("alice", 60, "requests", "minute", 12.4), "'alice' has used its 60 requests per minute"),
        (errors.TooManyHeaders(101, 100), "has 101 headers, the limit is 100"),
        (errors.InvalidApiKey(True), "Incorrect API key"),
        (errors.InvalidApiKey(False), "No API key"),
        (errors.RouteNotFound("POST", "/v1/v1/models"), "the base URL already ends in /v1, drop one"),
        (errors.GenerationTimeout(0.5), "no token came within 0.5 s"),
        (errors.EngineFailed("out of\nmemory"), "(out of memory)"),
        (errors.ServerRefused(429, "overloaded", "full"), "full (HTTP 429, overloaded)"),
    ],
)
def test_a_message_names_value_and_bound(error: LMoEError, words: str) -> None:
    assert words in error.message


def test_a_route_without_the_prefix_twice_has_no_hint() -> None:
    assert errors.RouteNotFound("GET", "/v1/x").message == "no route GET /v1/x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\n  b\tc", "a b c"),
        ("größe", "gr\\xf6\\xdfe"),
        ("\ud800", "\\ud800"),
        ("a\x00\x7fb", "ab"),
        (["x"], "['x']"),
        ("x" * 9, "x" * 9),
        ("x" * 11, "xxxxxxx..."),
    ],
)
def test_one_line_is_fit_for_a_header(text: object, expected: str) -> None:
    assert one_line(text, 10 if "x" in str(text) else 400) == expected
    json.dumps(one_line(text)).encode("ascii")


def test_of_a_long_text_only_the_beginning_is_looked_at() -> None:
    text = "a\n" * 10 + " " * 10_000_000 + "the end"

    assert one_line(text, 40) == "a a a a a a a a a a..."
