"""Compiles our C++ on this machine, once per source, compiler and processor; the result is a shared library.

Torch's own extension loader does the same with a lock file, which a killed process leaves behind for
all later ones to wait on. Here whoever comes first compiles beside the target and renames: two at
once do the work twice and nobody waits.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
TIMEOUT_S = 120


class LibraryUnavailable(Exception):
    """This machine cannot compile or load the library; the same is computed by torch's own operators."""


def load_library(source: Path, cache_dir: Path, macros: Sequence[str] = ()) -> ctypes.CDLL:
    """Compile ``source`` if need be, and load it. Torch must be imported: OpenMP's symbols are found in its runtime.

    Args:
        source: one C++ file.
        cache_dir: where compiled libraries are kept; made if it does not exist.
        macros: ``NAME=value``, as with the compiler's option ``-D``.

    Raises:
        LibraryUnavailable: no compiler, one that fails, a folder we cannot write, or a library that does not load.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise LibraryUnavailable("no C++ compiler was found; install g++ or clang, or set CXX")
    flags = (*FLAGS, *(f"-D{macro}" for macro in macros))
    target = cache_dir / f"{source.stem}-{_identity(source, compiler, flags)}.so"
    try:
        if not target.is_file():
            _compile((compiler, *flags), source, target)
        return ctypes.CDLL(str(target))
    except OSError as exc:
        raise LibraryUnavailable(f"{target} cannot be written or loaded: {exc}") from exc


def _identity(source: Path, compiler: str, flags: Sequence[str]) -> str:
    """One folder may serve machines with different processors."""
    capabilities = json.dumps(torch.cpu.get_capabilities(), sort_keys=True, default=str)
    parts = (source.read_text(encoding="utf-8"), compiler, *flags, platform.machine(), capabilities)
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _compile(command: Sequence[str], source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        compiled, linked = Path(folder, "library.o"), Path(folder, "library.so")
        # Linking is a step of its own, because with -fopenmp it would bring a second OpenMP runtime.
        _run(*command, "-c", str(source), "-o", str(compiled))
        _run(command[0], "-shared", str(compiled), "-o", str(linked))
        linked.replace(target)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as exc:
        raise LibraryUnavailable(f"the compiler did not end: {exc}") from exc
    except subprocess.CalledProcessError as exc:
        raise LibraryUnavailable(f"the compiler failed: {exc.stderr.strip()[-400:]}") from exc
