"""Libraries are compiled once for each source and set of macros, and a machine that cannot is told why."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmoe_ray.native.compiled_library import LibraryUnavailable, load_library

pytestmark = pytest.mark.torch

SOURCE = 'extern "C" int answer() { return ANSWER; }\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answers.cpp"
    path.write_text(SOURCE)
    return path


def test_macros_make_another_library_and_nothing_unfinished_stays(source: Path, tmp_path: Path) -> None:
    answers = [load_library(source, tmp_path / "cache", [f"ANSWER={n}"]).answer() for n in (41, 42, 41)]

    assert answers == [41, 42, 41]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".so", ".so"]


def test_a_source_that_does_not_compile_is_told_in_the_compilers_words(source: Path, tmp_path: Path) -> None:
    with pytest.raises(LibraryUnavailable, match="ANSWER"):
        load_library(source, tmp_path / "cache")


def test_a_folder_that_cannot_be_made_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(LibraryUnavailable, match=r"file/answers-.* cannot be written or loaded"):
        load_library(source, tmp_path / "file", ["ANSWER=42"])


def test_a_library_that_does_not_load_is_named(source: Path, tmp_path: Path) -> None:
    load_library(source, tmp_path / "cache", ["ANSWER=42"])
    (library,) = (tmp_path / "cache").iterdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / library.name).write_text("no library")

    with pytest.raises(LibraryUnavailable, match="cannot be written or loaded"):
        load_library(source, tmp_path / "damaged", ["ANSWER=42"])


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "written or loaded"), ("false", "failed")])
def test_a_compiler_that_does_not_work_is_no_crash(
    compiler: str, reason: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)

    with pytest.raises(LibraryUnavailable, match=reason):
        load_library(source, tmp_path / "cache")


def test_without_a_compiler_the_way_out_is_told(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(LibraryUnavailable, match="install g"):
        load_library(source, tmp_path / "cache")
