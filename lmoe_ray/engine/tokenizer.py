"""Text to tokens and back: prompts in whole, answers token by token.

Text a user wrote cannot end a turn or begin one: control tokens in it are encoded as the plain
characters they consist of. Only a bare prompt (``/v1/completions``), which is one author's whole
text, is encoded with the control tokens it spells.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.prompt import PromptFormat, render, render_airoboros
from lmoe_ray.errors import InvalidField, ModelSourceError, UnsupportedValue

logger = logging.getLogger(__name__)

#: More tokens than any character has are held back only if the model emits bytes that are no text.
MAX_HELD_TOKENS = 32
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer:
    """Of one base model; safe to use from several threads.

    Attributes:
        special_ids: tokens that are no text.
        eos_ids: tokens that end an answer: the model's, the tokenizer's, and the chat template's.
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
        self.special_ids = frozenset(
            token_id for token_id, token in self._tokenizer.added_tokens_decoder.items() if token.special
        )
        self.eos_ids = frozenset(_configured_eos_ids(folder) | self._end_of_turn_ids())
        if prompt_format is PromptFormat.CHAT and not self._tokenizer.chat_template:
            logger.warning("no chat template folder=%s: chat requests will be refused", folder)

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
                ids = list(self._tokenizer.encode(render_airoboros(request.messages), split_special_tokens=True))
            else:
                ids = self._encode_chat(request.messages)
        return ids or [self._start_id()]

    def encode_choice(self, text: str) -> list[int]:
        """Tokens of a text inside an answer."""
        with self._lock:
            return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens, exactly as the tokens spell it."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def detokenizer(self) -> IncrementalDetokenizer:
        """A fresh one for one answer."""
        return IncrementalDetokenizer(self)

    def _encode_chat(self, messages: Sequence[Message]) -> list[int]:
        if not self._tokenizer.chat_template:
            raise UnsupportedValue("messages", "this base model has no chat template; use /v1/completions")
        encoded: list[int] = []

        def apply(turns: list[dict[str, str]]) -> str:
            encoded.extend(
                self._tokenizer.apply_chat_template(
                    turns, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False
                )
            )
            return ""

        try:
            render(messages, PromptFormat.CHAT, apply)
        except (TemplateError, ValueError) as exc:
            raise InvalidField("messages", f"the model's chat template refuses them: {exc}") from exc
        return encoded

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
            text = str(self._tokenizer.apply_chat_template([question, answer], tokenize=False))
        except TemplateError:
            return ids
        tail = self._tokenizer.encode(text.rpartition("answer")[2], add_special_tokens=False)
        end = next((token_id for token_id in tail if token_id in self.special_ids), None)
        return ids if end is None else ids | {int(end)}


class IncrementalDetokenizer:
    """Decodes one answer token by token; the pieces add up to the decoded whole.

    A token's text depends on its neighbours: characters span tokens, and some decoders drop the
    first space. So each token is decoded together with those of the last piece shown, and what is
    new is the difference. Special tokens have no text and take no part. A piece that ends in the
    replacement character may be half a character and waits. Cost per token does not grow with the
    answer.

    The DecodeStream of tokenizers cannot do this: it holds bytes that are no text back for ever, and
    what it holds cannot be had at the end of the answer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._num_shown_ids = 0
        self._num_shown_chars = 0

    def push(self, token_id: int) -> str:
        """Text that is complete with this token; often empty."""
        if token_id in self._tokenizer.special_ids:
            return ""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        if text.endswith(_REPLACEMENT) and len(self._window) - self._num_shown_ids < MAX_HELD_TOKENS:
            return ""
        return self._show(text)

    def flush(self) -> str:
        """What was held back; no more tokens will come."""
        return self._show(self._tokenizer.decode(self._window))

    def _show(self, text: str) -> str:
        new = text[self._num_shown_chars :]
        self._window = self._window[self._num_shown_ids :]
        self._num_shown_ids = len(self._window)
        self._num_shown_chars = len(self._tokenizer.decode(self._window))
        return new


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
