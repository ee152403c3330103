"""The bytes a single token spells, which may be half a character: what a client is told beside a log-probability."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SENTENCEPIECE_SPACE = "\u2581"


def _byte_of_char() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for what follows the last byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


class TokenBytes:
    """Of one vocabulary: byte-level, or SentencePiece's with spare tokens for single bytes."""

    def __init__(self, backend: Any, added_ids: Collection[int]) -> None:
        """``backend``: of the tokenizers library. ``added_ids``: tokens that are written as they read."""
        self._backend, self._added_ids = backend, frozenset(added_ids)
        decoder = backend.decoder
        self._alphabet = _byte_of_char() if decoder and b'"ByteLevel"' in decoder.__getstate__() else {}

    @property
    def longest(self) -> int:
        """Bytes of the token that has most, at least 1; reads the whole vocabulary."""
        return max((len(self.of(token_id)) for token_id in self._backend.get_vocab().values()), default=1) or 1

    def of(self, token_id: int) -> bytes:
        """Empty for columns of the logits that are no token."""
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._added_ids:
            return str(token).encode()
        if self._alphabet:
            return bytes(self._alphabet[char] for char in token)
        if byte := _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(byte[1])
        return str(token).replace(_SENTENCEPIECE_SPACE, " ").encode()
