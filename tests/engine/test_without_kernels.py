"""An engine whose kernels cannot be compiled computes the same with torch's operators, and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine import oracles

pytestmark = pytest.mark.torch


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
