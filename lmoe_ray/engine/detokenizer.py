"""Tokens to text while an answer comes: whole characters only, and the pieces add up."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

#: More tokens than any character has are held back only if the model emits bytes that are no text.
MAX_HELD_TOKENS = 32
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TokenSpeller(Protocol):
    """What of a tokenizer this needs."""

    @property
    def special_ids(self) -> Collection[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_bytes(self, token_id: int) -> bytes: ...


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

    def __init__(self, tokenizer: TokenSpeller) -> None:
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

    def token_bytes(self, token_id: int) -> bytes:
        """What a token spells by itself, be it part of a character."""
        return self._tokenizer.token_bytes(token_id)

    def flush(self) -> str:
        """What was held back; no more tokens will come."""
        return self._show(self._tokenizer.decode(self._window))

    def _show(self, text: str) -> str:
        new = text[self._num_shown_chars :]
        self._window = self._window[self._num_shown_ids :]
        self._num_shown_ids = len(self._window)
        self._num_shown_chars = len(self._tokenizer.decode(self._window))
        return new
