"""Rows are checked when they are read, and turns are taken apart as they will be served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmoe_ray.domain.chat import Message
from lmoe_ray.errors import TrainingDataError
from lmoe_ray.training.instruct_rows import InstructRow, read_rows, read_samples, turns_of, write_rows, write_samples

GOOD = {
    "category": "coding",
    "system": None,
    "instruction": "add",
    "response": "1 + 1",
    "source": "s",
    "licence": "MIT",
}


def row(response: str, system: str | None = None) -> InstructRow:
    return InstructRow("coding", " question ", response, system)


def test_rows_survive_writing_and_reading(tmp_path: Path) -> None:
    rows = (InstructRow("a", "naïve\u2028?", "yes\n", "be brief", "s", "MIT"), InstructRow("b", "q", "r"))

    write_rows(tmp_path / "sub" / "rows.jsonl", rows)

    assert read_rows(tmp_path / "sub" / "rows.jsonl") == rows


def test_blank_lines_and_foreign_keys_are_left_behind(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("\n" + json.dumps({**GOOD, "extra": [1]}) + "\n \n")

    assert read_rows(tmp_path / "f") == (InstructRow("coding", "add", "1 + 1", None, "s", "MIT"),)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object"),
        (json.dumps({**GOOD, "category": None}), "category must be text"),
        (json.dumps({**GOOD, "instruction": " "}), "instruction must be text that is not empty"),
        (json.dumps({**GOOD, "response": 3}), "response must be text"),
        (json.dumps({**GOOD, "system": ["x"]}), "system must be text or null, it is list"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + line)

    with pytest.raises(TrainingDataError, match=problem) as caught:
        read_rows(file)

    assert caught.value.place == f"{file}:2"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "f").write_bytes(content)

    with pytest.raises(TrainingDataError, match="cannot be read as UTF-8"):
        read_rows(tmp_path / "f")


def test_a_missing_system_text_reads_a_chat(tmp_path: Path) -> None:
    assert row("r").query == "A chat.  question "
    assert row("r", "Be brief.").query == "Be brief.  question "


def test_samples_are_written_as_a_package_reads_them(tmp_path: Path) -> None:
    write_samples(tmp_path / "routing_data" / "expert_a.jsonl", ["one", "zwölf"])

    lines = (tmp_path / "routing_data" / "expert_a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"instruction": "one"}, {"instruction": "zwölf"}]
    assert read_samples(tmp_path / "routing_data" / "expert_a.jsonl") == ("one", "zwölf")


def test_a_bad_sample_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "f").write_text('{"instruction": "one"}\n\n{"instruction": 2}\n')

    with pytest.raises(TrainingDataError, match="instruction must be text") as caught:
        read_samples(tmp_path / "f")

    assert caught.value.place == f"{tmp_path / 'f'}:3"


def test_a_plain_row_is_one_turn() -> None:
    (turn,) = turns_of(row(" answer "))

    assert turn.messages == (Message("user", "question"),)
    assert turn.response == "answer"


def test_further_turns_inside_the_response_are_turns_of_their_own() -> None:
    turns = turns_of(row("one</s>USER: more\nplease\nASSISTANT: two</s>\nUSER: last ASSISTANT: three</s>", "Be brief."))

    assert [turn.response for turn in turns] == ["one", "two", "three"]
    assert turns[2].messages == (
        Message("system", "Be brief."),
        Message("user", "question"),
        Message("assistant", "one"),
        Message("user", "more\nplease"),
        Message("assistant", "two"),
        Message("user", "last"),
    )
    assert turns[1].messages == turns[2].messages[:4]


def test_markers_without_the_end_token_are_text() -> None:
    (turn,) = turns_of(row("say USER: x ASSISTANT: y"))

    assert turn.response == "say USER: x ASSISTANT: y"
