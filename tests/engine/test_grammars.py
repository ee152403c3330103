"""What an answer may be: grammars, the masks they give, and what happens to tokens taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.domain.tool_dialect import PLAIN, ToolDialect
from lmoe_ray.domain.tools import Tool, ToolUse
from lmoe_ray.engine import grammars as grammars_module
from lmoe_ray.engine import token_masks as token_masks_module
from lmoe_ray.engine import tokenizer as tokenizer_module
from lmoe_ray.errors import InvalidField, UnsupportedValue
from tests.engine.test_call_reader import MARKED

pytestmark = pytest.mark.torch

EOS = 2
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
TOOLS = (Tool("f", "", json.dumps(SCHEMA)), Tool("g"))
CALL_F, CALL_G = '{"function": "f", "params": {"x": 1}}', '{"function": "g", "params": {}}'


@pytest.fixture(scope="module")
def tokenizer(llama: Path) -> Any:
    return tokenizer_module.Tokenizer(llama, PromptFormat.CHAT)


def request_for(use: ToolUse | None = None, **wishes: Any) -> GenerateRequest:
    return GenerateRequest("r", "m", prompt="x", sampling=SamplingParams(**wishes), tools=use)


def compile_for(tokenizer: Any, request: GenerateRequest, dialect: ToolDialect = PLAIN) -> Any:
    grammars = grammars_module.Grammars(tokenizer, 400)
    grammars._dialect = dialect
    return grammars.compile(request)


def accepts(matcher: Any, tokenizer: Any, text: str) -> bool:
    """Whether the answer may be exactly this text."""
    copy, ids = matcher.deep_copy(), tokenizer.encode_plain(text)
    return bool(copy.try_consume_tokens(ids) == len(ids) and copy.is_accepting())


def test_an_answer_without_wishes_is_free(tokenizer: Any) -> None:
    assert compile_for(tokenizer, request_for()) is None
    assert grammars_module.constraint_of(None) is None


def test_choices_are_the_whole_answer_each(tokenizer: Any) -> None:
    matcher = compile_for(tokenizer, request_for(choices=("code", "coder", 'a"\n{\\')))
    assert [accepts(matcher, tokenizer, text) for text in ("code", "coder", 'a"\n{\\', "cod", "codes", "")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_json_keeps_to_its_schema_and_is_laid_out_as_python_does(tokenizer: Any) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "array"}}, "required": ["x"]}
    matcher = compile_for(tokenizer, request_for(json_schema=json.dumps(schema)))
    for value in ({"x": 1}, {"x": -7, "y": []}, {"x": 0, "y": [1, {"a": "é\n"}]}):
        assert accepts(matcher, tokenizer, json.dumps(value, ensure_ascii=False))
    for text in ("{}", '{"x":1}', '{"x": 1.5}', '{ "x": 1}', '{"x": 1} ', '{"x": 1'):
        assert not accepts(matcher, tokenizer, text)


@pytest.mark.parametrize(
    "text", ["hello", "", '{"x": 1}', '{"functional": 1}', "a\nb {", CALL_F, f"{CALL_F}\n{CALL_G}"]
)
def test_with_tools_an_answer_is_any_text_or_calls(tokenizer: Any, text: str) -> None:
    assert accepts(compile_for(tokenizer, request_for(ToolUse(TOOLS))), tokenizer, text)


@pytest.mark.parametrize(
    "text",
    [
        '{"function": "h", "params": {}}',
        '{"function": "f", "params": {}}',
        '{"function": "f", "params": {"x": 1}} and so on',
        f"{CALL_F}{CALL_F}",
        '{"function": "f"}',
    ],
)
def test_what_begins_like_a_call_is_a_valid_one(tokenizer: Any, text: str) -> None:
    assert not accepts(compile_for(tokenizer, request_for(ToolUse(TOOLS))), tokenizer, text)


def test_a_call_may_be_required_named_and_the_only_one(tokenizer: Any) -> None:
    required = compile_for(tokenizer, request_for(ToolUse(TOOLS, must_call=True, max_calls=2)))
    texts = ("hello", CALL_F, f"{CALL_F}\n{CALL_G}", f"{CALL_G}\n{CALL_G}\n{CALL_G}")
    assert [accepts(required, tokenizer, text) for text in texts] == [False, True, True, False]
    named = compile_for(tokenizer, request_for(ToolUse(TOOLS, must_call=True, only="g", max_calls=1)))
    texts = (CALL_F, CALL_G, f"{CALL_G}\n{CALL_G}")
    assert [accepts(named, tokenizer, text) for text in texts] == [False, True, False]


def test_a_marked_call_may_follow_a_text_and_nothing_follows_it(tokenizer: Any) -> None:
    matcher = compile_for(tokenizer, request_for(ToolUse(TOOLS, max_calls=2)), MARKED)
    call = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    texts = (
        "hi",
        "a < b",
        f"hi {call}",
        f"{call}\n{call}",
        f"{call} bye",
        "hi <tool_call> bye",
        f"{call}\n{call}\n{call}",
    )
    assert [accepts(matcher, tokenizer, text) for text in texts] == [True, True, True, True, False, False, False]


def test_a_schema_that_cannot_be_satisfied_or_compiled_is_the_callers_to_change(tokenizer: Any) -> None:
    with pytest.raises(
        InvalidField, match=r"response_format: Unsatisfiable schema: minimum \(5\) is greater"
    ) as caught:
        compile_for(tokenizer, request_for(json_schema='{"type": "integer", "minimum": 5, "maximum": 3}'))
    assert caught.value.param == "response_format"
    with pytest.raises(InvalidField, match="look-ahead"):
        compile_for(tokenizer, request_for(json_schema='{"type": "string", "pattern": "^(?=a)b"}'))
    broken = Tool("bad", "", '{"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}')
    with pytest.raises(
        InvalidField, match="tools: parameters of function 'bad': Pointer '/\\$defs/none' does not exist"
    ):
        compile_for(tokenizer, request_for(ToolUse((*TOOLS, broken))))


def objects_with(num_objects: int, num_properties: int) -> str:
    """The schema of an object of objects."""
    inner = {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(num_properties)}}
    inner["additionalProperties"] = False
    return json.dumps({"type": "object", "properties": {f"o{at}": inner for at in range(num_objects)}})


@pytest.mark.parametrize(("num_objects", "num_properties"), [(1500, 10), (20, 2000)])
def test_a_schema_too_large_to_compile_is_told_so_and_nothing_of_the_compiler(
    tokenizer: Any, num_objects: int, num_properties: int
) -> None:
    schema = objects_with(num_objects, num_properties)
    said = "too large to be enforced; declare fewer properties, alternatives and values, or spread them"
    with pytest.raises(InvalidField, match=f"^response_format: {said} over several requests$"):
        compile_for(tokenizer, request_for(json_schema=schema))
    with pytest.raises(InvalidField, match=f"^tools: parameters of function 'f': {said} over several requests$"):
        compile_for(tokenizer, request_for(ToolUse((Tool("g"), Tool("f", "", schema)))))


def test_functions_that_are_too_large_together_are_told_so(tokenizer: Any) -> None:
    tools = tuple(Tool(f"f{at}", "", objects_with(500, 10)) for at in range(3))
    compile_for(tokenizer, request_for(ToolUse(tools[:1])))
    with pytest.raises(InvalidField, match=r"^tools: too large to be enforced; declare fewer"):
        compile_for(tokenizer, request_for(ToolUse(tools)))


def test_advice_for_the_server_is_not_given_to_the_client(tokenizer: Any) -> None:
    schema = {"oneOf": [{"type": "object", "properties": {name: {}}} for name in "ab"]}
    with pytest.raises(InvalidField, match=r"^response_format: oneOf constraints are not supported\.$"):
        compile_for(tokenizer, request_for(json_schema=json.dumps(schema)))


def test_an_unknown_kind_of_tokenizer_is_told_when_a_constraint_is_asked_for(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "as_json", lambda: "{}", raising=False)
    assert compile_for(tokenizer, request_for()) is None
    with pytest.raises(UnsupportedValue, match="cannot be constrained"):
        compile_for(tokenizer, request_for(json_schema="{}"))


# ── masks ────────────────────────────────────────────────────────────────────────────────────────


def constraint_for(tokenizer: Any, *texts: str) -> Any:
    return grammars_module.constraint_of(compile_for(tokenizer, request_for(choices=texts)))


def allowed(masks: Any, *constraints: Any) -> list[set[int]]:
    return [set((row == 0).nonzero()[:, 0].tolist()) for row in masks.biases(constraints)]


def test_a_mask_allows_just_the_tokens_with_which_the_grammar_can_go_on(tokenizer: Any) -> None:
    masks = token_masks_module.TokenMasks(400, torch.device("cpu"), 1)
    one, other = constraint_for(tokenizer, "hello", "quick"), constraint_for(tokenizer, "x")
    [for_one, for_other] = allowed(masks, one, other)
    spelled = {token_id: tokenizer.token_bytes(token_id) for token_id in range(3, 400)}
    leading = {
        i for i, token in spelled.items() if token and any(text.startswith(token) for text in (b"hello", b"quick"))
    }
    assert for_one == leading
    assert len(leading) > 2
    assert [spelled[token_id] for token_id in for_other] == [b"x"]
    other.catch_up(list(for_other))
    assert allowed(masks, other) == [{EOS}]


def test_a_token_taken_back_may_come_anew_and_differ(tokenizer: Any) -> None:
    masks = token_masks_module.TokenMasks(400, torch.device("cpu"), 1)
    constraint = constraint_for(tokenizer, "ab", "cd")
    a, b, c, d = (tokenizer.encode_plain(letter)[0] for letter in "abcd")
    constraint.catch_up([a])
    assert allowed(masks, constraint) == [{b}]
    constraint.catch_up([])
    constraint.catch_up([c])
    assert allowed(masks, constraint) == [{d}]
    constraint.catch_up([a])
    assert allowed(masks, constraint) == [{b}]
    assert constraint.failure == ""


def test_a_token_outside_the_grammar_is_a_failure_that_says_so(tokenizer: Any) -> None:
    constraint = constraint_for(tokenizer, "ab")
    constraint.catch_up(tokenizer.encode_plain("x"))
    assert "doesn't satisfy the grammar" in constraint.failure
