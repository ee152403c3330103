"""The thread that steps an engine, and the door to it: arrivals and calls go in, nothing is shared.

It sleeps while there is nothing to do. An exception in a step ends it: every open stream and every
pending call gets an :class:`EngineFailed`, and so does whoever knocks later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

import torch

from lmoe_ray.engine.engine import Engine
from lmoe_ray.engine.mailbox import Mailbox
from lmoe_ray.engine.sequence import Sequence
from lmoe_ray.errors import EngineFailed, Overloaded

logger = logging.getLogger(__name__)

T = TypeVar("T")


class EngineThread:
    """Owns ``engine``: between :meth:`start` and :meth:`close` only this thread may touch it."""

    def __init__(self, engine: Engine, *, max_waiting: int, num_threads: int) -> None:
        self._engine = engine
        self._max_waiting = max_waiting
        self._num_threads = num_threads
        self._wake = threading.Condition()
        self._arrivals: list[tuple[Sequence, Mailbox]] = []
        self._calls: list[tuple[Callable[[], None], Callable[[EngineFailed], None]]] = []
        self._failure: EngineFailed | None = EngineFailed("it was not started")
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="lmoe-engine", daemon=True)

    @property
    def num_arrivals(self) -> int:
        """Sequences the engine has not seen yet."""
        return len(self._arrivals)

    def start(self) -> None:
        self._failure = None
        self._thread.start()

    def close(self) -> None:
        """Stop after the current step; open streams end with :class:`EngineFailed`."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> None:
        """
        Raises:
            EngineFailed: the thread is not running.
        """
        if self._failure is not None:
            raise EngineFailed(self._failure.reason)

    def submit(self, sequences: Iterable[Sequence], mailbox: Mailbox) -> None:
        """Queue the answers to one request: all of them, or none.

        Raises:
            Overloaded: ``max_waiting`` sequences wait already that no free cache row can take.
            EngineFailed: the thread is not running.
        """
        with self._wake:
            self.check()
            queued = self._engine.num_waiting + len(self._arrivals)
            if (num_waiting := queued - self._engine.num_free_rows) >= self._max_waiting:
                raise Overloaded(num_waiting, self._max_waiting)
            self._arrivals.extend((sequence, mailbox) for sequence in sequences)
            self._wake.notify()

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence before the next step; harmless if the thread is gone."""
        with self._wake:
            if self._failure is None:
                self._calls.append((lambda: self._engine.abort(sequence), lambda failure: None))
                self._wake.notify()

    def call(self, function: Callable[[Engine], T]) -> Future[T]:
        """Run a function between two steps; its exception is the caller's, not the thread's.

        Raises:
            EngineFailed: the thread is not running.
        """
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(self._engine))
            except Exception as exc:
                future.set_exception(exc)

        with self._wake:
            self.check()
            self._calls.append((run, lambda failure: _fail(future, failure)))
            self._wake.notify()
        return future

    def _run(self) -> None:
        try:
            torch.set_num_threads(self._num_threads)
            with torch.inference_mode():
                while self._take_orders():
                    if self._engine.has_work:
                        self._engine.step()
            failure = EngineFailed("it was closed")
        except Exception as exc:
            logger.exception("engine thread died")
            failure = EngineFailed(repr(exc))
        self._leave(failure)

    def _take_orders(self) -> bool:
        """Wait for something to do, take in what came; false if the thread shall end."""
        with self._wake:
            self._wake.wait_for(lambda: self._is_closing or self._arrivals or self._calls or self._engine.has_work)
            if self._is_closing:
                return False
            for sequence, mailbox in self._arrivals:
                self._engine.add(sequence, mailbox)
            self._arrivals.clear()
            calls, self._calls = self._calls, []
        for run, _ in calls:
            run()
        return True

    def _leave(self, failure: EngineFailed) -> None:
        with self._wake:
            self._failure = failure
            for sequence, mailbox in self._arrivals:
                self._engine.add(sequence, mailbox)
            self._arrivals.clear()
            calls, self._calls = self._calls, []
        self._engine.fail(failure)
        for _, fail in calls:
            fail(failure)


def _fail(future: Future[T], failure: EngineFailed) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(EngineFailed(failure.reason))
