"""The prompt: what keys make one entry, and lines that are still there in the next run."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from lmoe_ray.cli.chat_input import LineReader

ENTER, UP, CTRL_C, CTRL_D, TAB = "\r", "\x1b[A", "\x03", "\x04", "\t"


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe:
        yield pipe


async def typed(keys: PipeInput, text: str, history_file: Path | None = None) -> str | None:
    keys.send_text(text)
    reader = LineReader(["/expert", "/help"], history_file, terminal_input=keys, terminal_output=DummyOutput())
    return await reader.read()


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("hello\r", "hello"),
        ('"""\rone\r\rtwo\r"""\r', '"""\none\n\ntwo\n"""'),
        ("one\\\rtwo\r", "one\ntwo"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("\x1b[200~one\ntwo\\\nthree\x1b[201~\r", "one\ntwo\\\nthree"),
        ("helo\x1b[Dl\r", "hello"),
        ("hello\x03again\r", "again"),
        (CTRL_D, None),
        (CTRL_C + CTRL_C, None),
    ],
    ids=["line", "block", "backslash", "alt-enter", "paste", "arrow", "ctrl-c once", "ctrl-d", "ctrl-c twice"],
)
async def test_keys_make_an_entry(keys: PipeInput, text: str, entry: str | None) -> None:
    assert await typed(keys, text) == entry


async def test_the_last_entries_come_back_with_the_arrow_key_also_in_the_next_run(
    keys: PipeInput, tmp_path: Path
) -> None:
    file = tmp_path / "state" / "chat_lines"
    await typed(keys, "one\r", file)
    await typed(keys, '"""two\rthree"""\r', file)

    assert await typed(keys, UP + ENTER, file) == '"""two\nthree"""'
    # The block has two lines, so the first arrow moves within it.
    assert await typed(keys, UP + UP + UP + ENTER, file) == "one"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_without_a_file_nothing_is_remembered(keys: PipeInput) -> None:
    await typed(keys, "one\r")

    assert await typed(keys, UP + "two\r") == "two"
