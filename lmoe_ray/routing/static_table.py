"""A table of token vectors on disk and in use.

Kept in 16 bits, and rounded to them before its first use too: a restart must not change vectors.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Table = NDArray[np.float32]


def load_or_make(file: Path, make: Callable[[], Table]) -> Table:
    """The table ``[vocabulary, dim]``, from ``file`` if it is there.

    Args:
        file: of this table and no other; 23 MB.
        make: called if there is none.
    """
    try:
        kept: NDArray[np.float16] = np.load(file, allow_pickle=False)
        return np.asarray(kept, dtype=np.float32)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, EOFError) as exc:
        logger.warning("static table is damaged and made again file=%s problem=%s", file, exc)
    started_s = time.monotonic()
    table = make().astype(np.float16)
    logger.info("static table made tokens=%d duration_s=%.1f", len(table), time.monotonic() - started_s)
    _try_to_save(file, table)
    return np.asarray(table, dtype=np.float32)


def vector_of(table: Table, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Unit vector ``[dim]`` of a text with these tokens; of one without any, the first axis."""
    vector: NDArray[np.float32] = table[ids].sum(axis=0)
    if not vector.any():
        vector[0] = 1
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def _try_to_save(file: Path, table: NDArray[np.float16]) -> None:
    """Beside the target, then renamed: a reader sees all of it or nothing."""
    aside = file.with_name(f".{uuid4().hex}.npy")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(aside, table)
        os.replace(aside, file)
    except OSError as exc:
        logger.warning("static table not kept, the next start makes it again file=%s problem=%s", file, exc)
        with suppress(OSError):
            aside.unlink()
