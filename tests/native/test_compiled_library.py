"""Libraries are compiled once for each source and set of macros, and a machine that cannot is told why."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
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


@pytest.fixture
def counting_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's compiler, which notes every call."""
    real, log = shutil.which("c++"), tmp_path / "calls"
    script = tmp_path / "counting-c++"
    script.write_text(f'#!/bin/sh\necho call >> {log}\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return log


def test_a_source_is_compiled_once(source: Path, counting_compiler: Path, tmp_path: Path) -> None:
    for _ in range(3):
        assert load_library(source, tmp_path / "cache", ["ANSWER=42"]).answer() == 42
    assert len(counting_compiler.read_text().split()) == 2  # one call compiles, one links


def test_a_changed_source_is_compiled_anew(source: Path, counting_compiler: Path, tmp_path: Path) -> None:
    load_library(source, tmp_path / "cache", ["ANSWER=42"])
    source.write_text(SOURCE.replace("ANSWER", "ANSWER + 1"))
    assert load_library(source, tmp_path / "cache", ["ANSWER=42"]).answer() == 43


def test_two_that_compile_at_once_wait_for_nobody_and_leave_one_library(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, log, script = shutil.which("c++"), tmp_path / "calls", tmp_path / "patient-c++"
    # Goes on when both have begun, or would never.
    patience = f"n=0; while [ $(wc -l < {log}) -lt 2 ] && [ $n -lt 500 ]; do n=$((n + 1)); sleep 0.01; done"
    script.write_text(f'#!/bin/sh\necho call >> {log}\n{patience}\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with ThreadPoolExecutor(2) as pool:
        libraries = list(pool.map(lambda _: load_library(source, tmp_path / "cache", ["ANSWER=42"]), range(2)))
    assert [library.answer() for library in libraries] == [42, 42]
    assert len(log.read_text().split()) == 4
    assert len(list((tmp_path / "cache").iterdir())) == 1


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
