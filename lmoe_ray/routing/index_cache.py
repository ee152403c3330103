"""Indexes on disk, so that a restart embeds nothing.

An entry is a folder named by a digest of everything that shaped it, and never changes::

    <cache_dir>/routing/<digest>/
    ├── index.faiss      vectors
    └── meta.json        what they are, and the checksum of index.faiss

It is written under another name and renamed, so that a reader sees all of it or nothing, and two
replicas that start together cannot mix their files. A damaged entry is built again.

The demo package's index is shipped in that form too, because embedding its samples would take most of
a first start. Only shipped indexes are read besides our own: a file of vectors from a stranger's package
would be opened by a parser that was not written for hostile input.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import faiss
import numpy as np

from lmoe_ray.routing.expert_index import Encoder, ExpertIndex, Progress, build_index
from lmoe_ray.routing.sample_set import SampleSet

logger = logging.getLogger(__name__)

#: Raise when the files or the meaning of the vectors change.
FORMAT = 1


def load_or_build(
    samples: SampleSet,
    encoder: Encoder,
    cache_dir: Path | None,
    progress: Progress | None = None,
    shipped_dir: Path | None = None,
) -> ExpertIndex:
    """The index of ``samples``, from disk if it is there.

    Args:
        samples: what to index.
        encoder: asked only if neither folder has the index.
        cache_dir: read and written; ``None``: neither.
        progress: called while samples are embedded.
        shipped_dir: read after the cache; ``None``: not.
    """
    digest = samples.digest(FORMAT, encoder.identity, encoder.max_tokens)
    folders = [cache_dir.expanduser() / "routing"] if cache_dir else []
    for folder in [*folders, *([shipped_dir] if shipped_dir else [])]:
        if (index := _load(folder / digest, samples)) is not None:
            return index
    index = _build(samples, encoder, progress)
    for folder in folders:
        _try_to_save(folder / digest, index)
    return index


def save_index(folder: Path, samples: SampleSet, encoder: Encoder, progress: Progress | None = None) -> None:
    """Build an index and put it into ``folder`` to be shipped, in place of whatever is there."""
    shutil.rmtree(folder, ignore_errors=True)
    digest = samples.digest(FORMAT, encoder.identity, encoder.max_tokens)
    _save(folder / digest, build_index(samples, encoder, progress))


def _build(samples: SampleSet, encoder: Encoder, progress: Progress | None) -> ExpertIndex:
    started_s = time.monotonic()
    index = build_index(samples, encoder, progress)
    logger.info("routing index built samples=%d duration_s=%.1f", index.num_samples, time.monotonic() - started_s)
    return index


def _try_to_save(entry: Path, index: ExpertIndex) -> None:
    try:
        _save(entry, index)
    except OSError as exc:
        logger.warning("routing index not cached, the next start embeds again entry=%s problem=%s", entry, exc)


def _load(entry: Path, samples: SampleSet) -> ExpertIndex | None:
    if not entry.exists():
        return None
    try:
        content = (entry / "index.faiss").read_bytes()
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        if meta != _meta(samples, content):
            raise ValueError("its checksum or description does not fit")
    except (OSError, ValueError) as exc:
        logger.warning("cached routing index is damaged and built again entry=%s problem=%s", entry, exc)
        return None
    logger.info("routing index loaded samples=%d entry=%s", len(samples.rows), entry.name)
    return ExpertIndex(samples, faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8)))


def _save(entry: Path, index: ExpertIndex) -> None:
    aside = entry.with_name(f".{entry.name}.{uuid4().hex}")
    aside.mkdir(parents=True)
    try:
        content = faiss.serialize_index(index.flat).tobytes()
        (aside / "index.faiss").write_bytes(content)
        meta = json.dumps(_meta(index.samples, content), indent=1)
        (aside / "meta.json").write_text(meta, encoding="utf-8")
        _put_in_place(aside, entry)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_in_place(aside: Path, entry: Path) -> None:
    """Rename, after moving away what lies there: a damaged entry, or the same one by another replica."""
    if entry.exists():
        old = entry.with_name(f".{entry.name}.{uuid4().hex}")
        os.rename(entry, old)
        shutil.rmtree(old, ignore_errors=True)
    os.rename(aside, entry)


def _meta(samples: SampleSet, content: bytes) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "experts": dict(zip(samples.experts, map(len, samples.texts), strict=True)),
        "num_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
