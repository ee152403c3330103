"""Which share of a text's words the embedder knows: what tells a text it can read from one it cannot.

An encoder trained on English cuts French into pieces that mean nothing to it, and a hand that falls on the keyboard
likewise; the vectors it makes of them lie anywhere, often near something. The tokenizer shows it
beforehand: words it has whole were frequent in what the model learnt from.

Names are nobody's vocabulary, and requests about code, mathematics or addresses are full of them. They are told by what
they touch (``foo(``, ``\\frac{``, ``a_b``) or by their spelling (``getName``, ``x86``), and left out.
"""

from __future__ import annotations

import re
from collections import Counter

from tokenizers import Encoding, Tokenizer

#: Known words that encoders count beside those of a text, so that one name does not decide over a text of three words.
NUM_ASSUMED = 3

# Signs that touch names, and no word of a sentence.
_BEFORE_NAMES = frozenset("_.)]}\\=<>$#@^*+|~/&%`")
_AFTER_NAMES = frozenset("_([{\\=<>$#@^*+|~/&%`")
# They end a sentence as well, unless the next word follows at once.
_WITHIN_NAMES = re.compile(r"[.:][\w/]")
_INNER_CAPITAL = re.compile(r"[a-z][A-Z]")


def known_share(tokenizer: Tokenizer, text: str, num_assumed: int = 0) -> float:
    """Share of the words of ``text`` that are one known token each, 0 to 1; 0 for a text without words.

    Names count only where there is nothing else. ``num_assumed`` known words are counted beside the words.

    Single letters and digits do not count, and other single characters count as unknown: vocabularies have most of
    the world's letters, which says nothing about languages.
    """
    encoding = tokenizer.encode(text, add_special_tokens=False)
    num_tokens = Counter(encoding.word_ids)
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")
    illegible = {word for word, token in zip(encoding.word_ids, encoding.ids, strict=True) if token == unknown}
    words: list[bool] = []
    names: list[bool] = []
    for word, span in _spans(encoding).items():
        start, end = _trimmed(text, *span)
        spelled = text[start:end]
        if any(map(str.isalnum, spelled)) and not (len(spelled) == 1 and spelled.isascii()):
            is_known = num_tokens[word] == 1 and word not in illegible and len(spelled) > 1
            (names if _is_name(text, start, end) else words).append(is_known)
    counted = words or names
    return (sum(counted) + num_assumed) / (len(counted) + num_assumed) if counted else 0.0


def _is_name(text: str, start: int, end: int) -> bool:
    """Whether ``text[start:end]`` looks like an identifier, a variable or a part of an address."""
    spelled = text[start:end]
    return (
        text[max(start - 1, 0) : start] in _BEFORE_NAMES
        or text[end : end + 1] in _AFTER_NAMES
        or _WITHIN_NAMES.match(text, end) is not None
        or _INNER_CAPITAL.search(spelled) is not None
        or (any(map(str.isdigit, spelled)) and not spelled.isdigit())
    )


def _spans(encoding: Encoding) -> dict[int, tuple[int, int]]:
    """Where each word, by its number, stands in the text."""
    spans: dict[int, tuple[int, int]] = {}
    for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if word is not None:
            spans[word] = (spans.get(word, (start, end))[0], end)
    return spans


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Without the spaces that some tokenizers count to a word."""
    spelled = text[start:end]
    return end - len(spelled.lstrip()), start + len(spelled.rstrip())
