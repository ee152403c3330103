"""Deltas from the engine's thread to a reader's loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.engine.mailbox import Mailbox, deliver
from lmoe_ray.errors import EngineFailed


def delta(text: str) -> TokenDelta:
    return TokenDelta(text, (1,), Usage(1, 1))


async def test_deltas_that_came_between_two_visits_are_merged() -> None:
    mailbox = Mailbox()
    deliver([(mailbox, delta("a")), (mailbox, delta("b"))])
    assert (await mailbox.get()).text == "ab"


async def test_a_reader_waits_for_the_next_delta() -> None:
    mailbox = Mailbox()
    waiting = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    thread = threading.Thread(target=deliver, args=([(mailbox, delta("late"))],))
    thread.start()
    assert (await waiting).text == "late"
    thread.join()


async def test_a_second_visit_waits_again() -> None:
    mailbox = Mailbox()
    deliver([(mailbox, delta("a"))])
    await mailbox.get()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(mailbox.get(), 0.01)


async def test_text_that_came_before_a_failure_is_read_before_it() -> None:
    mailbox = Mailbox()
    deliver([(mailbox, delta("a")), (mailbox, EngineFailed("gone"))])
    assert (await mailbox.get()).text == "a"
    for _ in range(2):
        with pytest.raises(EngineFailed):
            await mailbox.get()


async def test_all_letters_to_one_loop_share_one_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    mailboxes = [Mailbox(), Mailbox()]
    loop = asyncio.get_running_loop()
    calls = []
    original = loop.call_soon_threadsafe
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *args: (calls.append(args), original(*args)))
    deliver([(mailbox, delta("x")) for mailbox in mailboxes])
    assert len(calls) == 1
    assert [(await mailbox.get()).text for mailbox in mailboxes] == ["x", "x"]


async def test_a_reader_whose_loop_is_closed_does_not_keep_others_from_theirs() -> None:
    async def make() -> Mailbox:
        return Mailbox()

    closed = await asyncio.to_thread(asyncio.run, make())
    mine = Mailbox()
    deliver([(closed, delta("lost")), (mine, delta("read"))])
    assert closed.is_abandoned
    assert (await mine.get()).text == "read"
    assert not mine.is_abandoned
