from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from lmoe_ray.routing.embed_queue import Batch, EmbedQueue


class Gate:
    """Embeds a text as its length, one batch at a time and only while the gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(list(texts))
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.opened.wait(10)
        if "bad" in texts:
            raise RuntimeError("a bad text")
        return np.array([[len(text)] for text in texts], dtype=np.float32)

    async def wait_until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


async def test_a_lone_text_is_embedded_at_once() -> None:
    gate = Gate()
    gate.opened.set()
    queue = EmbedQueue(gate.embed, Batch(max_texts=8, max_chars=100))

    assert (await queue.embed_one("four")).tolist() == [4]
    assert (await queue.embed_one("seven!!")).tolist() == [7]
    assert gate.batches == [["four"], ["seven!!"]]
    queue.close()


async def test_what_gathers_during_one_batch_is_the_next() -> None:
    gate = Gate()
    queue = EmbedQueue(gate.embed, Batch(max_texts=3, max_chars=100))
    first = asyncio.create_task(queue.embed_one("a"))
    await gate.wait_until_entered()

    others = [asyncio.create_task(queue.embed_one("b" * n)) for n in range(2, 7)]
    await asyncio.sleep(0)
    gate.opened.set()
    vectors = await asyncio.gather(first, *others)

    assert [vector.tolist() for vector in vectors] == [[1], [2], [3], [4], [5], [6]]
    assert gate.batches == [["a"], ["bb", "bbb", "bbbb"], ["bbbbb", "bbbbbb"]]
    assert len(gate.threads) == 1
    queue.close()


async def test_long_texts_share_no_batch_and_none_is_passed_by() -> None:
    gate = Gate()
    queue = EmbedQueue(gate.embed, Batch(max_texts=8, max_chars=10))
    first = asyncio.create_task(queue.embed_one("a"))
    await gate.wait_until_entered()

    others = [asyncio.create_task(queue.embed_one("b" * n)) for n in (4, 6, 1, 30, 2)]
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(first, *others)

    assert [list(map(len, batch)) for batch in gate.batches] == [[1], [4, 6], [1], [30], [2]]
    queue.close()


async def test_the_event_loop_stays_free_meanwhile() -> None:
    gate = Gate()
    queue = EmbedQueue(gate.embed, Batch(max_texts=3, max_chars=100))
    task = asyncio.create_task(queue.embed_one("a"))
    await gate.wait_until_entered()

    assert not task.done()

    gate.opened.set()
    await task
    queue.close()


async def test_a_failure_reaches_those_in_its_batch_and_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    queue = EmbedQueue(gate.embed, Batch(max_texts=2, max_chars=100))
    first = asyncio.create_task(queue.embed_one("a"))
    await gate.wait_until_entered()
    others = [asyncio.create_task(queue.embed_one(text)) for text in ("bad", "bb", "ccc")]
    await asyncio.sleep(0)
    gate.opened.set()

    with caplog.at_level(logging.ERROR):
        results = await asyncio.gather(first, *others, return_exceptions=True)

    assert [type(result) for result in results] == [np.ndarray, RuntimeError, RuntimeError, np.ndarray]
    assert "embedding failed num_texts=2" in caplog.text
    assert (await queue.embed_one("again")).tolist() == [5]
    queue.close()


async def test_a_client_that_left_is_not_embedded() -> None:
    gate = Gate()
    queue = EmbedQueue(gate.embed, Batch(max_texts=8, max_chars=100))
    first = asyncio.create_task(queue.embed_one("a"))
    await gate.wait_until_entered()
    leaver, stayer = asyncio.create_task(queue.embed_one("bb")), asyncio.create_task(queue.embed_one("ccc"))
    await asyncio.sleep(0)

    leaver.cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(first, stayer)

    assert gate.batches == [["a"], ["ccc"]]
    queue.close()


async def test_if_all_have_left_nothing_is_embedded() -> None:
    gate = Gate()
    queue = EmbedQueue(gate.embed, Batch(max_texts=8, max_chars=100))
    first = asyncio.create_task(queue.embed_one("a"))
    await gate.wait_until_entered()
    leaver = asyncio.create_task(queue.embed_one("bb"))
    await asyncio.sleep(0)

    leaver.cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    await first

    assert (await queue.embed_one("ccc")).tolist() == [3]
    assert gate.batches == [["a"], ["ccc"]]
    queue.close()


@pytest.mark.parametrize("text", ["a", "bad"])
async def test_a_client_that_leaves_in_mid_batch_disturbs_nobody(text: str) -> None:
    gate = Gate()
    queue = EmbedQueue(gate.embed, Batch(max_texts=8, max_chars=100))
    leaver = asyncio.create_task(queue.embed_one(text))
    await gate.wait_until_entered()

    leaver.cancel()
    await asyncio.sleep(0)
    gate.opened.set()

    assert (await queue.embed_one("ccc")).tolist() == [3]
    queue.close()
