"""From the engine's thread to a reader's event loop. A mailbox adds, it never replaces.

A slow reader finds everything since its last visit merged into one delta, so no text is lost and
nothing grows. All letters of a step to one loop share one ``call_soon_threadsafe``: that call writes
to a pipe, and one write per sequence would cost more than picking the tokens.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable

from lmoe_ray.domain.stream import TokenDelta, Unread
from lmoe_ray.errors import LMoEError


class Mailbox:
    """One reader's. Create it on the reader's loop; only :func:`deliver` may be called elsewhere.

    Attributes:
        is_abandoned: the reader's loop is closed; nobody will ever read.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_abandoned = False
        self._wake = asyncio.Event()
        self._unread = Unread()
        self._error: LMoEError | None = None

    async def get(self) -> TokenDelta:
        """Everything that came of one answer since it was last read, merged; waits if that is nothing.

        Raises:
            LMoEError: what the engine failed with, after all text that came before it.
        """
        await self._wake.wait()
        if not self._unread:
            assert self._error is not None, "a mailbox woke up empty. This is a bug."
            raise self._error
        delta = self._unread.take()
        if not self._unread and self._error is None:
            self._wake.clear()
        return delta

    def put(self, letter: TokenDelta | LMoEError) -> None:
        """Add a delta, or the error that ends the stream. On the reader's loop only."""
        if isinstance(letter, LMoEError):
            self._error = letter
        else:
            self._unread.add(letter)
        self._wake.set()


Letter = tuple[Mailbox, TokenDelta | LMoEError]


def deliver(letters: Iterable[Letter]) -> None:
    """Bring letters to their mailboxes from another thread, waking each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Letter]] = defaultdict(list)
    for mailbox, letter in letters:
        by_loop[mailbox.loop].append((mailbox, letter))
    for loop, bundle in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, bundle)
        except RuntimeError:  # the loop is closed: its readers are gone, others must still get theirs
            for mailbox, _ in bundle:
                mailbox.is_abandoned = True


def _put_all(bundle: list[Letter]) -> None:
    for mailbox, letter in bundle:
        mailbox.put(letter)
