"""Which share of a text's words the embedder knows: what tells a text it can read from one it cannot.

An encoder trained on English cuts French into pieces that mean nothing to it, and a hand that falls on the keyboard
likewise; the vectors it makes of them lie anywhere, often near something. The tokenizer shows it
beforehand: words it has whole were frequent in what the model learnt from.
"""

from __future__ import annotations

from collections import Counter

from tokenizers import Encoding, Tokenizer

#: Known words that encoders count beside those of a text, so that one name does not decide over a text of three words.
NUM_ASSUMED = 3


def known_share(tokenizer: Tokenizer, text: str, num_assumed: int = 0) -> float:
    """Share of the words of ``text`` that are one known token each, 0 to 1; 0 for a text without words.

    ``num_assumed`` known words are counted beside them.

    Single letters and digits do not count, and other single characters count as unknown: vocabularies have most of
    the world's letters, which says nothing about languages.
    """
    encoding = tokenizer.encode(text, add_special_tokens=False)
    num_tokens = Counter(encoding.word_ids)
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")
    illegible = {word for word, token in zip(encoding.word_ids, encoding.ids, strict=True) if token == unknown}
    words = [
        num_tokens[word] == 1 and word not in illegible and len(spelled) > 1
        for word, spelled in _spelling(encoding, text).items()
        if any(map(str.isalnum, spelled)) and not (len(spelled) == 1 and spelled.isascii())
    ]
    return (sum(words) + num_assumed) / (len(words) + num_assumed) if words else 0.0


def _spelling(encoding: Encoding, text: str) -> dict[int, str]:
    """The words as they stand in the text, by their number."""
    spans: dict[int, tuple[int, int]] = {}
    for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if word is not None:
            spans[word] = (spans.get(word, (start, end))[0], end)
    return {word: text[start:end].strip() for word, (start, end) in spans.items()}
