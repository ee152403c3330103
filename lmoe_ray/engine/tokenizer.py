"""Text to tokens and back: prompts in whole, answers token by token.

Text a user wrote cannot end a turn or begin one: control tokens in it are encoded as the plain
characters they consist of. Only a bare prompt (``/v1/completions``), which is one author's whole
text, is encoded with the control tokens it spells.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.prompt import (
    PromptFormat,
    Turns,
    plain_turns,
    render_airoboros,
    spell_out_tools,
    templated_tools,
    templated_turns,
)
from lmoe_ray.domain.tool_dialect import PLAIN
from lmoe_ray.engine.detokenizer import IncrementalDetokenizer
from lmoe_ray.engine.template_tools import find_dialect
from lmoe_ray.engine.token_bytes import TokenBytes
from lmoe_ray.errors import InvalidField, ModelSourceError, UnsupportedValue

logger = logging.getLogger(__name__)


class Tokenizer:
    """Of one base model; safe to use from several threads.

    Attributes:
        special_ids: tokens that are no text.
        longest_token: bytes that a token spells at most.
        eos_ids: tokens that end an answer: the model's, the tokenizer's, and the chat template's.
        dialect: how calls of functions are written.
    """

    def __init__(self, folder: Path, prompt_format: PromptFormat) -> None:
        """
        Raises:
            ModelSourceError: no tokenizer there, or one without tokenizer.json.
        """
        self._prompt_format = prompt_format
        # transformers' tokenizers keep state between calls (padding, truncation, special tokens).
        self._lock = threading.Lock()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as exc:
            raise ModelSourceError(str(folder), f"the tokenizer cannot be read: {exc}") from exc
        if not self._tokenizer.is_fast:
            raise ModelSourceError(str(folder), "has no tokenizer.json; convert its tokenizer to a fast one")
        self._backend = self._tokenizer.backend_tokenizer
        self._token_bytes = TokenBytes(self._backend, self._tokenizer.added_tokens_decoder)
        self.longest_token = self._token_bytes.longest
        self.special_ids = frozenset(
            token_id for token_id, token in self._tokenizer.added_tokens_decoder.items() if token.special
        )
        self.eos_ids = frozenset(_configured_eos_ids(folder) | self._end_of_turn_ids())
        if prompt_format is PromptFormat.CHAT and not self._tokenizer.chat_template:
            logger.warning("no chat template folder=%s: chat requests will be refused", folder)
        self.dialect = PLAIN
        if prompt_format is PromptFormat.CHAT and self._tokenizer.chat_template:
            self.dialect = find_dialect(self._render_text, self._is_plain) or PLAIN

    def encode_request(self, request: GenerateRequest) -> list[int]:
        """The prompt's tokens, at least one.

        Raises:
            InvalidField: the chat template refuses the messages, or the prompt is empty.
            UnsupportedValue: the model has no chat template.
        """
        with self._lock:
            if request.prompt is not None:
                ids = list(self._tokenizer.encode(request.prompt))
            elif self._prompt_format is PromptFormat.AIROBOROS:
                messages = spell_out_tools(request.messages, request.tools, self._prompt_format)
                ids = list(self._tokenizer.encode(render_airoboros(messages), split_special_tokens=True))
            else:
                ids = self._encode_chat(request)
        return ids or [self._start_id()]

    def encode_plain(self, text: str) -> list[int]:
        """Tokens of a text inside an answer."""
        with self._lock:
            return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def as_json(self) -> str:
        """The whole tokenizer, as tokenizer.json has it."""
        with self._lock:
            return str(self._backend.to_str())

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens, exactly as the tokens spell it."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def spell(self, ids: Sequence[int]) -> str:
        """Text with special tokens.

        Raises:
            InvalidField: the model has no such token.
        """
        for at, token_id in enumerate(ids):
            if self._backend.id_to_token(token_id) is None:
                raise InvalidField(f"tokens[{at}]", f"this model has no token {token_id}")
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def token_bytes(self, token_id: int) -> bytes:
        """What a token spells by itself, be it part of a character."""
        return self._token_bytes.of(token_id)

    def detokenizer(self) -> IncrementalDetokenizer:
        """A fresh one for one answer."""
        return IncrementalDetokenizer(self)

    def _encode_chat(self, request: GenerateRequest) -> list[int]:
        if not self._tokenizer.chat_template:
            raise UnsupportedValue("messages", "this base model has no chat template; use /v1/completions")
        try:
            if self.dialect.is_templated:
                tools = None if request.tools is None else templated_tools(request.tools)
                self._refuse_control_keys(tools)
                return self._encode_turns(templated_turns(request.messages), tools)
            messages = spell_out_tools(request.messages, request.tools, PromptFormat.CHAT)
            return self._encode_turns(plain_turns(messages))
        except (TemplateError, ValueError) as exc:
            raise InvalidField("messages", f"the model's chat template refuses them: {exc}") from exc

    def _encode_turns(self, turns: Turns, tools: Turns | None = None) -> list[int]:
        ids: list[int] = self._tokenizer.apply_chat_template(
            turns, tools=tools, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False
        )
        return ids

    def _render_text(self, turns: Turns, tools: Turns | None = None) -> str:
        return str(self._tokenizer.apply_chat_template(turns, tools=tools, tokenize=False))

    def _is_plain(self, text: str) -> bool:
        return self.decode(self._tokenizer.encode(text, add_special_tokens=False)) == text

    def _refuse_control_keys(self, tools: Any) -> None:
        """Templates sanitise values, not keys: a parameter's name must not act as a control token."""
        keys = "\n".join(_keys_of(tools))
        for token in self._tokenizer.added_tokens_encoder:
            if token.strip() and token in keys:
                raise InvalidField("tools", f"a parameter's name holds {token!r}, which this model reads as a command")

    def _start_id(self) -> int:
        for token_id in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        raise InvalidField("prompt", "is empty, and this model has no token to begin a text with")

    def _end_of_turn_ids(self) -> set[int]:
        """The tokenizer's own end, and what the chat template writes right after an answer."""
        own = self._tokenizer.eos_token_id
        ids = set() if own is None else {int(own)}
        if self._prompt_format is not PromptFormat.CHAT or not self._tokenizer.chat_template:
            return ids
        question, answer = {"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}
        try:
            text = self._render_text([question, answer])
        except TemplateError:
            return ids
        tail = self._tokenizer.encode(text.rpartition("answer")[2], add_special_tokens=False)
        end = next((token_id for token_id in tail if token_id in self.special_ids), None)
        return ids if end is None else ids | {int(end)}


def _keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _keys_of(inner)


def _configured_eos_ids(folder: Path) -> set[int]:
    """End tokens that generation_config.json and config.json name."""
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            named = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        except (ValueError, AttributeError) as exc:
            raise ModelSourceError(str(folder), f"{name} cannot be read: {exc!r}") from exc
        ids.update(named if isinstance(named, list) else [] if named is None else [named])
    return ids
