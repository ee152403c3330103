"""The thread's life: idle, failing, closed."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray import settings as settings_module
from lmoe_ray.domain.package import LMoEPackage
from lmoe_ray.engine import async_engine
from lmoe_ray.errors import EngineFailed
from tests.engine import oracles
from tests.engine.test_sequence import make_sequence

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

LONG = {"max_tokens": 450, "ignore_eos": True}


def break_after(engine: Any, num_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the forward pass fail once ``num_steps`` have been computed."""
    runner, done = engine._engine._runner, []
    original = runner.run

    def run(*args: Any) -> Any:
        if len(done) >= num_steps:
            raise RuntimeError("device lost")
        done.append(1)
        return original(*args)

    monkeypatch.setattr(runner, "run", run)


async def test_a_failed_step_ends_every_stream_after_the_text_it_has(
    make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(max_num_seqs=2)
    break_after(engine, 5, monkeypatch)
    # Half a character would be held back until its other half is there.
    whole_character = ((engine._tokenizer.encode_plain("x")[0], 100.0),)

    async def count(name: str) -> tuple[int, str]:
        num_tokens = 0
        try:
            async for delta in engine.generate(oracles.prompt_request(name, logit_bias=whole_character, **LONG)):
                num_tokens = delta.usage.completion_tokens
        except EngineFailed as exc:
            return num_tokens, str(exc)
        return num_tokens, "no failure"

    gate, is_held = threading.Event(), threading.Event()
    engine._thread.call(lambda inner: (is_held.set(), gate.wait(10)))
    await asyncio.to_thread(is_held.wait, 10)
    reading = asyncio.gather(*(count(name) for name in "abc"))
    await asyncio.sleep(0.05)
    gate.set()
    outcomes = await reading
    assert sorted(num_tokens for num_tokens, _ in outcomes) == [0, 5, 5]
    assert all("device lost" in problem for _, problem in outcomes)
    assert "engine thread died" in caplog.text
    assert "Traceback" in caplog.text


async def test_a_dead_engine_says_so_to_everyone(
    package: LMoEPackage, make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    break_after(engine, 0, monkeypatch)
    request = oracles.prompt_request("x")
    with pytest.raises(EngineFailed):
        await oracles.answer(engine, request)
    for attempt in (oracles.answer(engine, request), engine.load_adapter(package.experts[0])):
        with pytest.raises(EngineFailed, match="device lost"):
            await attempt
    with pytest.raises(EngineFailed):
        engine.check_health()
    engine.close()


async def test_closing_ends_open_streams(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    deltas = engine.generate(oracles.prompt_request("x", **LONG))
    await anext(deltas)
    gate = threading.Event()
    engine._thread.call(lambda inner: gate.wait(10))
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    await asyncio.sleep(0.05)
    gate.set()
    await closing
    with pytest.raises(EngineFailed, match="closed"):
        async for _ in deltas:
            pass


def test_an_engine_that_was_not_started_is_not_healthy(llama: Path) -> None:
    engine = async_engine.AsyncEngine(llama, settings_module.EngineSettings(device="cpu", max_model_len=64))
    with pytest.raises(EngineFailed, match="not started"):
        engine.check_health()
    engine.close()


async def test_an_idle_engine_uses_no_cpu(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    await oracles.answer(engine, oracles.prompt_request("x"))
    before = time.process_time()
    await asyncio.sleep(0.3)
    assert time.process_time() - before < 0.1
    assert engine.stats().num_running == 0


async def test_an_exception_in_a_call_is_the_callers(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    future = engine._thread.call(lambda inner: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wrap_future(future)
    engine.check_health()


async def test_a_cancelled_call_is_not_run(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    gate, ran = threading.Event(), []
    first = engine._thread.call(lambda inner: gate.wait(10))
    second = engine._thread.call(ran.append)
    assert second.cancel()
    gate.set()
    assert await asyncio.wrap_future(first)
    assert await asyncio.wrap_future(engine._thread.call(lambda inner: "alive")) == "alive"
    assert ran == []


async def test_calls_that_wait_when_the_engine_closes_fail(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    gate = threading.Event()
    engine._thread.call(lambda inner: gate.wait(10))
    await asyncio.sleep(0.05)
    waiting, cancelled = engine._thread.call(lambda inner: 1), engine._thread.call(lambda inner: 2)
    cancelled.cancel()
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    await asyncio.sleep(0.05)
    gate.set()
    await closing
    with pytest.raises(EngineFailed, match="closed"):
        await asyncio.wrap_future(waiting)


async def test_a_request_that_arrives_while_the_engine_closes_fails(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    gate = threading.Event()
    engine._thread.call(lambda inner: gate.wait(10))
    reading = asyncio.create_task(oracles.answer(engine, oracles.prompt_request("x")))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    await asyncio.sleep(0.05)
    gate.set()
    await closing
    with pytest.raises(EngineFailed, match="closed"):
        await reading


async def test_a_reader_may_leave_a_sequence_that_has_just_finished(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    finished = make_sequence()
    await asyncio.wrap_future(engine._thread.call(lambda inner: inner.abort(finished)))
    engine.check_health()
    assert engine.stats().num_free_rows == 8


def test_readers_whose_loop_has_ended_do_not_hold_rows(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()

    async def leave_without_closing() -> Any:
        deltas = engine.generate(oracles.prompt_request("x", **LONG))
        await anext(deltas)
        return deltas

    loop = asyncio.new_event_loop()
    deltas = loop.run_until_complete(leave_without_closing())
    loop.close()
    deadline = time.monotonic() + 10
    while engine.stats().num_running and time.monotonic() < deadline:
        time.sleep(0.005)
    assert engine.stats().num_free_rows == 8
    engine.check_health()
    del deltas


async def test_one_line_is_logged_per_sequence_and_no_text(
    make_engine: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    with caplog.at_level(logging.INFO, logger="lmoe_ray"):
        await oracles.answer(engine, oracles.prompt_request("secret words", request_id="r7", **LONG))
        engine.close()
    lines = [record.getMessage() for record in caplog.records if "sequence finished" in record.getMessage()]
    assert len(lines) == 1
    assert "request_id=r7 adapter=base" in lines[0]
    assert "reason=length" in lines[0]
    assert "secret" not in caplog.text
