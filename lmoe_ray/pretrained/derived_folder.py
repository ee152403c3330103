"""Folders computed once and kept in a cache: built by one process, complete or absent, checked when used.

::

    absent ──build, write manifest, rename──> whole ──damage found──> absent

The manifest lies inside and is written last. It holds each file's size and SHA-256: sizes are compared at
every start, digests only on request, because that reads every byte. Two processes that want the same
folder meet at a file lock; the second finds the first one's work.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from lmoe_ray.pretrained.whole_folder import whole_folder

MANIFEST = "lmoe_manifest.json"
logger = logging.getLogger(__name__)


def derive(folder: Path, build: Callable[[Path], None], *, verify: bool = False) -> Path:
    """``folder``, built first if it is absent or damaged.

    Args:
        folder: where the result is kept.
        build: fills an empty folder; may take minutes.
        verify: also compare the digests of all files.
    """
    if is_whole(folder, verify=verify):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if is_whole(folder, verify=verify):
            return folder
        _remove_left_overs(folder)
        with whole_folder(folder) as unfinished:
            build(unfinished)
            _write_manifest(unfinished)
    logger.info("model folder built path=%s", folder)
    return folder


def is_whole(folder: Path, *, verify: bool = False) -> bool:
    """Whether every file of the manifest is there with its size, and with its digest if ``verify``."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all(
            (folder / name).stat().st_size == entry["num_bytes"]
            and (not verify or file_digest(folder / name) == entry["sha256"])
            for name, entry in files.items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes, in hex; about one second per GB."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and bytes of the files directly inside a folder: equal content, equal digest."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != MANIFEST:
            digest.update(f"{file.name}\0{file_digest(file)}\n".encode())
    return digest.hexdigest()


def _write_manifest(folder: Path) -> None:
    files = {
        str(file.relative_to(folder)): {"num_bytes": file.stat().st_size, "sha256": file_digest(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")


def _remove_left_overs(folder: Path) -> None:
    """Unfinished folders of builders that were killed. The lock is ours, so nobody is filling them."""
    for left_over in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left_over)
