"""The prompt of ``lmoe chat``: line editing and history by prompt_toolkit, entries of several lines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output

from lmoe_ray.cli.chat_entry import is_whole
from lmoe_ray.cli.chat_store import make_private

_PROMPT = FormattedText([("ansicyan bold", "you"), ("", " › ")])
_CONTINUED = "  … › "


class LineReader:
    """Reads entries from a terminal; ``history_file`` keeps them between runs, ``None`` forgets them."""

    def __init__(
        self,
        commands: Sequence[str],
        history_file: Path | None,
        *,
        terminal_input: Input | None = None,
        terminal_output: Output | None = None,
    ) -> None:
        self._prompt: PromptSession[str] = PromptSession(
            history=_history(history_file),
            multiline=True,
            prompt_continuation=_CONTINUED,
            key_bindings=_bindings(),
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=Condition(lambda: self._prompt.default_buffer.text.startswith("/")),
            enable_history_search=False,
            input=terminal_input,
            # With standard output in a file, the prompt still belongs on the terminal.
            output=terminal_output or create_output(always_prefer_tty=True),
        )

    async def read(self) -> str | None:
        """The next entry; ``None`` after Ctrl-D, or Ctrl-C twice."""
        was_interrupted = False
        while True:
            try:
                entry = await self._prompt.prompt_async(_PROMPT)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if was_interrupted:
                    return None
                was_interrupted = True
                self._prompt.output.write("Ctrl-C once more leaves\n")
                self._prompt.output.flush()
            else:
                return entry


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.char_before_cursor == "\\" and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif is_whole(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @bindings.add("escape", "enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def _history(file: Path | None) -> History:
    """Made here, because prompt_toolkit would let others read it."""
    if file is None:
        return InMemoryHistory()
    make_private(file.parent)
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
    return FileHistory(str(file))
