"""``lmoe chat`` as a program: one question, a pipe, or a terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lmoe_ray.api.http_app import build_app
from lmoe_ray.cli.chat_command import state_folder
from lmoe_ray.cli.main import app
from lmoe_ray.errors import ConversationUnusable, ServerRefused
from lmoe_ray.settings import ApiSettings
from tests.cli.chat_room import said, wait_until
from tests.fakes import MODEL, FakeBackend
from tests.real_server import listening_in_a_thread

Run = Callable[..., Result]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend("# It", " is\x1b[31m 42", models=(dataclasses.replace(MODEL, max_model_len=1000),))


@pytest.fixture
def url(backend: FakeBackend) -> Iterator[str]:
    with listening_in_a_thread(build_app(backend, ApiSettings())) as address:
        yield address


@pytest.fixture
def chat(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("LMOE_URL", url)
    return lambda *arguments, typed="": CliRunner().invoke(app, ["chat", *arguments], input=typed)


def test_one_question_is_answered_on_standard_output_and_nothing_else_is(chat: Run) -> None:
    result = chat("the answer?")

    assert (result.exit_code, result.stdout) == (0, "# It is[31m 42\n")


def test_a_question_may_come_through_a_pipe(chat: Run, backend: FakeBackend) -> None:
    assert chat(typed="the\nanswer?\n").exit_code == 0
    assert said(backend) == ["the\nanswer?"]


def test_what_comes_through_a_pipe_stands_before_the_question(chat: Run, backend: FakeBackend) -> None:
    chat("Which is larger?", "--system", "Be brief.", typed="1\n2\n")

    assert said(backend) == ["Be brief.", "1\n2\n\nWhich is larger?"]


def test_without_any_question_it_says_what_to_write(chat: Run) -> None:
    result = chat()

    assert result.exit_code == 2
    assert "there is no question" in result.stderr


def test_a_refusal_is_an_error(chat: Run) -> None:
    assert isinstance(chat("hello", "--expert", "poet").exception, ServerRefused)


def test_continue_takes_up_the_last_conversation_with_its_expert(chat: Run, backend: FakeBackend) -> None:
    chat("one", "--expert", "math", "--temperature", "0.5")
    chat("two", "--continue")

    assert said(backend) == ["one", "# It is\x1b[31m 42", "two"]
    assert backend.requests[-1].expert == "math"
    assert backend.requests[-1].sampling.temperature == 0.5


def test_no_keep_leaves_nothing_to_continue(chat: Run, tmp_path: Path) -> None:
    chat("one", "--no-keep")

    assert list(tmp_path.iterdir()) == []
    assert isinstance(chat("two", "--continue").exception, ConversationUnusable)


def test_the_state_folder_is_where_the_user_keeps_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/not/valid")
    monkeypatch.setenv("HOME", "/home/ada")

    assert state_folder() == Path("/home/ada/.local/state/lmoe_ray")


class Terminal:
    """The program in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (30, 100))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lmoe_ray", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(self._ours, False)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for_prompt_after(self, text: str, times: int = 1) -> None:
        """What is typed before the prompt is there would be edited by the terminal itself."""
        wait_until(lambda: self.read().count(text) == times and "you ›" in self.read().rpartition(text)[2])

    def exit_status(self) -> int:
        wait_until(lambda: bool(self.read()) and self._process.poll() is not None)
        return self._process.wait()

    def close(self) -> None:
        os.close(self._ours)
        self._process.kill()
        self._process.wait()

    def read(self) -> str:
        # Nothing yet, or the other side is closed.
        with contextlib.suppress(OSError):
            self.shown += os.read(self._ours, 65536).decode(errors="replace")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown)


@pytest.mark.slow
def test_on_a_terminal_it_talks_until_the_user_leaves(chat: Run, url: str, backend: FakeBackend) -> None:
    with contextlib.closing(Terminal("chat", "--url", url)) as terminal:
        terminal.wait_for_prompt_after("/help lists the commands")
        terminal.type("the answer?\r")
        terminal.wait_for_prompt_after("similarity 0.75")
        terminal.type("\x1b[A\x7f!\r")
        terminal.wait_for_prompt_after("similarity 0.75", 2)
        terminal.type("\x04")

        assert terminal.exit_status() == 0
        assert said(backend)[-1] == "the answer!"
        assert "\x1b[31m 42" not in terminal.shown
