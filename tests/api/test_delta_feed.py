"""Deltas arrive whole, in order and in time, or an error says why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from lmoe_ray.api.delta_feed import DeltaFeed
from lmoe_ray.domain.stream import FinishReason, TokenDelta, Usage
from lmoe_ray.errors import EngineFailed, GenerationTimeout, Overloaded, ReplicaLost


def delta(text: str, number: int, reason: FinishReason | None = None) -> TokenDelta:
    return TokenDelta(text, (number,), Usage(1, number), reason)


class Source:
    """Deltas with waits between them; notes how its generator ended."""

    def __init__(self) -> None:
        self.ended = ""

    async def say(self, *steps: TokenDelta | float | Exception) -> AsyncGenerator[TokenDelta, None]:
        try:
            for step in steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
            self.ended = "by itself"
        except (asyncio.CancelledError, GeneratorExit):
            self.ended = "closed"
            raise


def feed(*steps: TokenDelta | float | Exception, timeout_s: float = 1.0) -> DeltaFeed:
    return DeltaFeed(Source().say(*steps), timeout_s)


async def test_deltas_arrive_one_by_one_when_they_are_slow() -> None:
    async with feed(delta("a", 1), 0.01, delta("b", 2, "stop")) as deltas:
        assert await deltas.get() == delta("a", 1)
        assert await deltas.get() == delta("b", 2, "stop")


async def test_deltas_add_up_while_nobody_reads() -> None:
    async with feed(delta("a", 1), delta("b", 2), delta("c", 3, "stop")) as deltas:
        await asyncio.sleep(0.01)
        assert await deltas.get() == TokenDelta("abc", (1, 2, 3), Usage(1, 3), "stop")


async def test_the_rest_is_the_sum_of_all_that_follows() -> None:
    async with feed(delta("a", 1), 0.01, delta("b", 2), 0.01, delta("c", 3, "length")) as deltas:
        assert await deltas.rest(await deltas.get()) == (TokenDelta("abc", (1, 2, 3), Usage(1, 3), "length"),)
        assert deltas.is_complete


async def test_impatience_loses_nothing() -> None:
    async with feed(0.03, delta("a", 1, "stop")) as deltas:
        assert await deltas.get_within(0.01) is None
        assert await deltas.get_within(1.0) == delta("a", 1, "stop")


async def test_silence_counts_from_the_last_delta_through_all_impatience() -> None:
    async with feed(0.02, delta("a", 1), 10.0, timeout_s=0.05) as deltas:
        assert await deltas.get() == delta("a", 1)
        assert await deltas.get_within(0.02) is None
        begin_s = asyncio.get_running_loop().time()
        with pytest.raises(GenerationTimeout, match=r"within 0\.05 s"):
            await deltas.get_within(0.04)
        assert asyncio.get_running_loop().time() - begin_s < 0.04


async def test_each_delta_starts_the_silence_anew() -> None:
    async with feed(0.06, delta("a", 1), 0.06, delta("b", 2, "stop"), timeout_s=0.1) as deltas:
        [answer] = await deltas.rest(await deltas.get())
        assert answer.text == "ab"


async def test_an_error_comes_after_the_text_before_it() -> None:
    async with feed(delta("a", 1), Overloaded(1, 1)) as deltas:
        await asyncio.sleep(0.01)
        assert await deltas.get() == delta("a", 1)
        with pytest.raises(Overloaded):
            await deltas.get()


async def test_an_answer_without_an_end_is_an_error() -> None:
    async with feed(delta("a", 1)) as deltas:
        await asyncio.sleep(0.01)
        assert await deltas.get() == delta("a", 1)
        with pytest.raises(EngineFailed, match="without a finish reason"):
            await deltas.get()


async def test_an_aborted_answer_is_not_passed_off_as_a_complete_one() -> None:
    async with feed(delta("a", 1, "abort")) as deltas:
        with pytest.raises(ReplicaLost):
            await deltas.get()


async def test_a_complete_answer_may_end_its_generator_by_itself() -> None:
    source = Source()
    async with DeltaFeed(source.say(delta("a", 1, "stop"), 0.02), 1.0) as deltas:
        await deltas.get()
    assert source.ended == "by itself"


async def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmoe_ray.api.delta_feed._GRACE_S", 0.01)
    source = Source()
    async with DeltaFeed(source.say(delta("a", 1, "stop"), 10.0), 1.0) as deltas:
        await deltas.get()
    assert source.ended == "closed"


async def test_leaving_early_closes_the_generator_at_once() -> None:
    source = Source()
    async with DeltaFeed(source.say(delta("a", 1), 10.0), 20.0) as deltas:
        await deltas.get()
    assert source.ended == "closed"


async def test_an_error_nobody_waits_for_is_dropped_with_the_feed() -> None:
    async with feed(Overloaded(1, 1)):
        await asyncio.sleep(0.01)


async def test_several_answers_are_complete_when_the_last_of_them_is() -> None:
    def of(index: int, text: str, reason: FinishReason | None = None) -> TokenDelta:
        return TokenDelta(text, (), Usage(1, 1), reason, index=index)

    steps = (of(1, "x"), of(0, "a"), of(1, "y", "stop"), 0.01, of(0, "b", "length"))
    async with DeltaFeed(Source().say(*steps), 1.0, num_answers=2) as deltas:
        first = await deltas.get()
        assert not deltas.is_complete
        answers = await deltas.rest(first)
    assert [(answer.index, answer.text, answer.finish_reason) for answer in answers] == [
        (0, "ab", "length"),
        (1, "xy", "stop"),
    ]
