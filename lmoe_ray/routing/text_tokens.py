"""Texts to token ids, cut at a limit, with the tokenizer file that a fast tokenizer of transformers reads too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lmoe_ray.routing.bert_weights import UnsupportedEncoder
from lmoe_ray.routing.known_words import NUM_ASSUMED, known_share

# Tokenizers read a text to its end before they cut it, so that megabytes would cost seconds. English
# has about 4 characters a token; whitespace in code, the thinnest kind, stays well below 32.
MAX_CHARS_PER_TOKEN = 32

#: Of which the known words are counted: some two hundred words tell as much as all of them.
MAX_COUNTED_CHARS = 1000


def shorten(text: str, max_tokens: int) -> str:
    """The part of a text that can have ``max_tokens`` tokens."""
    return text[: max_tokens * MAX_CHARS_PER_TOKEN]


class TextTokens:
    """The tokenizer of one model.

    Args:
        folder: with ``tokenizer.json``.
        max_tokens: of a text, special tokens included.
        num_ids: that the model has vectors for.

    Raises:
        UnsupportedEncoder: no such file, one that cannot be read, or one of another model.
    """

    def __init__(self, folder: Path, max_tokens: int, num_ids: int) -> None:
        self._max_tokens = max_tokens
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as exc:  # the library raises bare exceptions
            raise UnsupportedEncoder(f"its tokenizer.json cannot be read: {exc}") from exc
        if (found := 1 + max(self.vocabulary.values(), default=-1)) > num_ids:
            raise UnsupportedEncoder(f"its tokenizer.json has {found} tokens, the model {num_ids}")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    @property
    def vocabulary(self) -> dict[str, int]:
        return self._tokenizer.get_vocab()

    def known_share(self, text: str) -> float:
        """With ``NUM_ASSUMED``, of a text's beginning; see :func:`lmoe_ray.routing.known_words.known_share`."""
        return known_share(self._tokenizer, text[:MAX_COUNTED_CHARS], NUM_ASSUMED)

    def count(self, texts: Sequence[str], *, special: bool = True) -> list[int]:
        """Tokens of each text; one above the limit where it has more."""
        short = [shorten(text, self._max_tokens) for text in texts]
        found = self._tokenizer.encode_batch_fast(short, add_special_tokens=special)
        return [len(one.ids) + bool(one.overflowing) for one in found]

    def __call__(self, texts: Sequence[str], *, special: bool = True) -> list[NDArray[np.int32]]:
        """Ids of each text's tokens, with the model's own marks around them if ``special``."""
        short = [shorten(text, self._max_tokens) for text in texts]
        found = self._tokenizer.encode_batch_fast(short, add_special_tokens=special)
        return [np.array(one.ids, dtype=np.int32) for one in found]
