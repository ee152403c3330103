"""Kernels are compiled once, and a machine that cannot is told why and computes without them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.engine import kernel_build
from tests.engine import oracles

pytestmark = pytest.mark.torch

SOURCE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "kernels.cpp"
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
        assert kernel_build.load_library(source, tmp_path / "cache").answer() == 42
    assert len(counting_compiler.read_text().split()) == 2  # one call compiles, one links


def test_a_changed_source_is_compiled_anew(source: Path, counting_compiler: Path, tmp_path: Path) -> None:
    kernel_build.load_library(source, tmp_path / "cache")
    source.write_text(SOURCE.replace("42", "43"))
    assert kernel_build.load_library(source, tmp_path / "cache").answer() == 43


def test_nothing_unfinished_is_left_beside_the_library(source: Path, tmp_path: Path) -> None:
    kernel_build.load_library(source, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".so"]


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
        libraries = list(pool.map(lambda _: kernel_build.load_library(source, tmp_path / "cache"), range(2)))
    assert [library.answer() for library in libraries] == [42, 42]
    assert len(log.read_text().split()) == 4
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_compilers_message_is_shown(source: Path, tmp_path: Path) -> None:
    source.write_text("this is no C++")
    with pytest.raises(kernel_build.KernelsUnavailable, match=r"the compiler failed: .*error"):
        kernel_build.load_library(source, tmp_path / "cache")


def test_a_machine_without_a_compiler_says_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kernel_build.KernelsUnavailable, match="install g"):
        kernel_build.load_library(source, tmp_path / "cache")


def test_a_library_that_does_not_load_is_reported(source: Path, tmp_path: Path) -> None:
    source.write_text('extern "C" int missing(); extern "C" int answer() { return missing(); }\n')
    with pytest.raises(kernel_build.KernelsUnavailable, match="cannot be loaded"):
        kernel_build.load_library(source, tmp_path / "cache")


async def test_an_engine_without_a_compiler_answers_the_same_and_says_so(
    make_engine: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = oracles.prompt_request("the quick brown", ignore_eos=True)
    with_kernels = await oracles.answer(make_engine(), request)
    assert "no compiled kernels" not in caplog.text
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    without = await oracles.answer(make_engine(options={"cache_dir": tmp_path}), request)
    assert without.ids == with_kernels.ids
    assert "no compiled kernels" in caplog.text
