"""A folder that appears complete or not at all: it is filled beside its place and renamed into it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes ``target``'s place, on an error it is removed.

    An older ``target`` is moved aside first and deleted last, so it is never mixed with the new one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fresh, old = unfinished / "new", unfinished / "old"
        fresh.mkdir()
        yield fresh
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    finally:
        shutil.rmtree(unfinished)


def may_replace(target: Path, marker: str) -> bool:
    """Whether nothing of the user's is lost: ``target`` is absent, empty, or an older result with ``marker`` in it."""
    if not target.exists():
        return True
    return target.is_dir() and ((target / marker).exists() or not any(target.iterdir()))
