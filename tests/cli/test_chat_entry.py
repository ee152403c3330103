"""Where an entry at the prompt ends, and what it says."""

from __future__ import annotations

import pytest

from lmoe_ray.cli.chat_entry import content_of, is_command, is_whole


@pytest.mark.parametrize(
    "entry", ["", "hello", "/new", '"""one"""', '"""\none\n"""', '/system """a\nb"""', 'why """ here?']
)
def test_an_entry_without_an_open_block_is_whole(entry: str) -> None:
    assert is_whole(entry)


@pytest.mark.parametrize("entry", ['"""', '"""one', '"""one\ntwo', '/system """a', '""" " ""'])
def test_an_open_block_wants_another_line(entry: str) -> None:
    assert not is_whole(entry)


def test_a_block_loses_its_quotes_and_the_line_ends_next_to_them() -> None:
    assert content_of('"""\n  one\n\ntwo\n"""') == "  one\n\ntwo"
    assert content_of('"""one"""') == "one"
    assert content_of(" one ") == "one"
    assert content_of('""""') == '""""'


def test_a_command_is_one_line_or_ends_in_a_block() -> None:
    assert is_command("/set seed 4")
    assert is_command('/system """a\nb"""')
    assert not is_command("/usr/bin\n/usr/lib")
    assert not is_command('"""/new"""')
    assert not is_command("a/b")
