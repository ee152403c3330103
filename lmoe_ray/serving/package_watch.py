"""Notice that a package's folder has changed: routing samples, descriptions, experts that came or went.

A folder is looked at again and again, because packages lie on network drives, in containers and on laptops, and
only looking works on all of them. A change counts once the folder has stood still for one look, so that half-written
files are left alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

_PATTERNS = ("lmoe.yaml", "routing_data/*.jsonl", "adapters/*/adapter_*", "adapters/*/description.txt")

State = frozenset[tuple[str, int, int]]


class PackageWatch:
    """Calls ``changed`` in a thread of its own, one call at a time; what it raises is logged, and looking goes on.

    Args:
        folder: of the package; it may vanish and come back.
        interval_s: between two looks.
        changed: called once for each change.
    """

    def __init__(self, folder: Path, interval_s: float, changed: Callable[[], None]) -> None:
        self._folder, self._interval_s, self._changed = folder, interval_s, changed
        self._stopped = threading.Event()
        self._handled = self._last = _state_of(folder)
        # A daemon: nothing is lost when the process ends in the middle of a look.
        threading.Thread(target=self._run, name=f"watch-{folder.name}", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self._look()

    def _look(self) -> None:
        before, self._last = self._last, _state_of(self._folder)
        if self._last == self._handled or self._last != before:
            return
        self._handled = self._last
        try:
            self._changed()
        except Exception:
            logger.exception("package changed and cannot be used, so the former one stays folder=%s", self._folder)


def _state_of(folder: Path) -> State:
    """Names, times and sizes of the files that matter."""
    found = set()
    for pattern in _PATTERNS:
        for file in folder.glob(pattern):
            try:
                status = file.stat()
            except OSError:  # It went between the two calls; the next look sees what became of it.
                continue
            found.add((str(file.relative_to(folder)), status.st_mtime_ns, status.st_size))
    return frozenset(found)
