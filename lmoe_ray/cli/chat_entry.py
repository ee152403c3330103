'''What one entry at the prompt means: where it ends, whether it is a command, and the text between ``"""``.'''

from __future__ import annotations

import re

QUOTES = '"""'
#: A block begins the entry, or is a command's argument.
_OPENING = re.compile(rf"\s*(/\w+[ \t]+)?{QUOTES}")


def is_whole(entry: str) -> bool:
    """Whether nothing is missing: a block that was opened is closed at the end of a line."""
    opening = _OPENING.match(entry)
    return opening is None or entry[opening.end() :].rstrip().endswith(QUOTES)


def is_command(entry: str) -> bool:
    """One line that begins with a slash, or such a line that ends in a block. Pasted lines are never a command."""
    return entry.startswith("/") and ("\n" not in entry or _OPENING.match(entry) is not None)


def content_of(entry: str) -> str:
    """The text without the quotes around a block, and without the line ends next to them."""
    text = entry.strip()
    if text.startswith(QUOTES) and text.endswith(QUOTES) and len(text) >= 2 * len(QUOTES):
        text = text[len(QUOTES) : -len(QUOTES)]
        return text.removeprefix("\n").removesuffix("\n")
    return text
