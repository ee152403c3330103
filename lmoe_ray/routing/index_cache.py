"""Indexes on disk, so that a restart embeds nothing.

An entry is a folder named by a digest of everything that shaped it, and never changes::

    <cache_dir>/routing/<digest>/
    ├── index.faiss      vectors
    ├── familiarity.npz  what is usual
    ├── heads.npz        what was fitted on the samples; not there with fewer than two experts to tell apart
    ├── calibration.npz  how right the heads are on samples held out; likewise
    └── meta.json        what they are, and the checksum of the other files

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
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import faiss
import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.expert_index import Encoder, ExpertIndex, Progress, build_index
from lmoe_ray.routing.familiarity import texts_to_read
from lmoe_ray.routing.fit_process import MIN_SAMPLES, FitProcess, ReadTexts
from lmoe_ray.routing.fitted_index import FittedIndex, fit_index, fitted_from
from lmoe_ray.routing.known_vectors import KnownVectors
from lmoe_ray.routing.sample_set import SampleSet
from lmoe_ray.routing.task_head import features_version

logger = logging.getLogger(__name__)

#: Raise when the files change, or what is fitted comes out differently: weights of evidence, folds, the prior curve,
#: which words are known.
FORMAT = 4


def load_or_build(
    samples: SampleSet,
    encoder: Encoder,
    cache_dir: Path | None,
    progress: Progress | None = None,
    shipped_dir: Path | None = None,
) -> FittedIndex:
    """The index of ``samples``, from disk if it is there.

    Args:
        samples: what to index.
        encoder: asked only if neither folder has the index.
        cache_dir: read and written; ``None``: neither.
        progress: called while samples are embedded.
        shipped_dir: read before the cache; ``None``: not.
    """
    if (found := _find(samples, encoder, cache_dir, shipped_dir)) is not None:
        return found
    fitted = build_fitted(samples, encoder, progress)
    _try_to_save(cache_dir, fitted)
    return fitted


def rebuild(
    samples: SampleSet, encoder: Encoder, cache_dir: Path | None, shipped_dir: Path | None, former: FittedIndex | None
) -> Iterator[FittedIndex]:
    """The index of samples that changed while ``former`` is in use; of the same encoder.

    Texts that are known are not embedded again. Many samples are fitted in another process, and then there are two
    indexes: at first one with the former's calibration, which routes as well and measures its confidence on the samples
    as they were, then one with its own. The arguments are those of :func:`load_or_build`.

    Raises:
        OSError, EOFError: the other process could not be started, or died.
    """
    if (found := _find(samples, encoder, cache_dir, shipped_dir)) is not None:
        yield found
        return
    known = KnownVectors(encoder, former.index) if former else encoder
    if len(samples.rows) < MIN_SAMPLES:
        fitted = build_fitted(samples, known)
    else:
        with FitProcess(samples) as process:
            index = build_index(samples, known)
            digest = digest_of(samples, encoder)
            first = fitted_from(
                index, digest, process.fit(index.vectors, ReadTexts.by(encoder, texts_to_read(samples.rows)))
            )
            yield replace(first, calibration=former.calibration if former and first.heads else None)
            fitted = fitted_from(index, digest, process.calibrate())
    _try_to_save(cache_dir, fitted)
    yield fitted


def save_shipped(folder: Path, fitted: FittedIndex) -> None:
    """Put an index into ``folder`` to be shipped, in place of whatever is there."""
    shutil.rmtree(folder, ignore_errors=True)
    _save(folder / fitted.digest, fitted)


def digest_of(samples: SampleSet, encoder: Encoder) -> str:
    """Of everything that shapes an entry."""
    return samples.digest(FORMAT, features_version(), encoder.identity, encoder.space, encoder.max_tokens)


def build_fitted(samples: SampleSet, encoder: Encoder, progress: Progress | None = None) -> FittedIndex:
    """Embed the samples, and fit what is fitted on them."""
    started_s = time.monotonic()
    index = build_index(samples, encoder, progress)
    logger.info("routing index built samples=%d embedded_s=%.1f", index.num_samples, time.monotonic() - started_s)
    return fit_index(index, digest_of(samples, encoder), encoder)


def _find(samples: SampleSet, encoder: Encoder, cache_dir: Path | None, shipped_dir: Path | None) -> FittedIndex | None:
    digest = digest_of(samples, encoder)
    # The shipped one first: its confidence was measured on strangers' prompts, which nobody else has.
    for folder in (shipped_dir, _folder_of(cache_dir)):
        if folder is not None and (fitted := _load(folder / digest, samples, digest)) is not None:
            return fitted
    return None


def _folder_of(cache_dir: Path | None) -> Path | None:
    return None if cache_dir is None else cache_dir.expanduser() / "routing"


def _try_to_save(cache_dir: Path | None, fitted: FittedIndex) -> None:
    if (folder := _folder_of(cache_dir)) is None:
        return
    try:
        _save(folder / fitted.digest, fitted)
    except OSError as exc:
        logger.warning(
            "routing index not cached, the next start embeds again entry=%s problem=%s", folder / fitted.digest, exc
        )


def _load(entry: Path, samples: SampleSet, digest: str) -> FittedIndex | None:
    if not entry.exists():
        return None
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        files = {name: (entry / name).read_bytes() for name in meta["files"]}
        if meta != _meta(samples, files):
            raise ValueError("its checksum or description does not fit")
        fitted = _unpack(samples, digest, files)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        logger.warning("cached routing index is damaged and built again entry=%s problem=%s", entry, exc)
        return None
    logger.info("routing index loaded samples=%d entry=%s", len(samples.rows), entry.name)
    return fitted


def _save(entry: Path, fitted: FittedIndex) -> None:
    aside = entry.with_name(f".{entry.name}.{uuid4().hex}")
    aside.mkdir(parents=True)
    try:
        files = _pack(fitted)
        for name, content in files.items():
            (aside / name).write_bytes(content)
        meta = json.dumps(_meta(fitted.index.samples, files), indent=1)
        (aside / "meta.json").write_text(meta, encoding="utf-8")
        _put_in_place(aside, entry)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _pack(fitted: FittedIndex) -> dict[str, bytes]:
    files = {"index.faiss": faiss.serialize_index(fitted.index.faiss_index).tobytes()}
    for name, arrays in fitted.arrays().items():
        content = BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        files[f"{name}.npz"] = content.getvalue()
    return files


def _unpack(samples: SampleSet, digest: str, files: dict[str, bytes]) -> FittedIndex:
    index = ExpertIndex(samples, faiss.deserialize_index(np.frombuffer(files["index.faiss"], dtype=np.uint8)))
    parts = {name.removesuffix(".npz"): _read_npz(files[name]) for name in files if name.endswith(".npz")}
    return fitted_from(index, digest, parts)


def _read_npz(content: bytes) -> dict[str, NDArray[np.generic]]:
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _put_in_place(aside: Path, entry: Path) -> None:
    """Rename, after moving away what lies there: a damaged entry, or the same one by another replica."""
    if entry.exists():
        old = entry.with_name(f".{entry.name}.{uuid4().hex}")
        os.rename(entry, old)
        shutil.rmtree(old, ignore_errors=True)
    os.rename(aside, entry)


def _meta(samples: SampleSet, files: dict[str, bytes]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "experts": dict(zip(samples.experts, map(len, samples.texts), strict=True)),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    }
