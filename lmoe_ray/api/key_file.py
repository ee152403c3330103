"""The file of API keys: names, hashes and limits, never a key.

A key is 256 random bits, so one round of SHA-256 hides it as well as a slow hash would.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Self

import yaml
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmoe_ray.domain.caller import Caller, Quota
from lmoe_ray.errors import SettingsError, one_line
from lmoe_ray.settings import Name, PositiveInt

_PREFIX = "lmoe-"
_HEADER = "# Hashes of API keys, made by `lmoe keys`; a key itself cannot be read from here.\n"


class KeyEntry(BaseModel):
    """One key of the file; what it may use is as in :class:`~lmoe_ray.domain.caller.Caller`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: date | None = None
    experts: tuple[str, ...] | None = None
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    tokens_per_day: PositiveInt | None = None

    def caller(self) -> Caller:
        quota = Quota(self.requests_per_minute, self.tokens_per_minute, self.tokens_per_day)
        return Caller(self.name, self.experts, quota)


class KeyFile(BaseModel):
    """The file's content."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    keys: tuple[KeyEntry, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [entry.name for entry in self.keys]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names must differ; repeated: {', '.join(repeated)}")
        return self


def hash_key(key: str) -> str:
    """What is kept of a key, 64 hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_key_file(path: Path) -> KeyFile:
    """Read and check a key file.

    Raises:
        SettingsError: it cannot be read, or its first mistake; what stands there is not repeated.
    """
    try:
        return KeyFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise SettingsError(str(path), f"cannot be read: {exc.strerror}; `lmoe keys create` makes it") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise SettingsError(str(path), f"is not YAML: {type(exc).__name__}") from exc
    except ValidationError as exc:
        raise _first_mistake(exc, str(path)) from exc


def create_key(path: Path, name: str, **limits: tuple[str, ...] | int | None) -> str:
    """Make a key and add its hash to the file, which is created if need be; the key is told only here.

    Raises:
        SettingsError: the name is taken or not a name, a limit is not positive, or the file is broken.
    """
    key = _PREFIX + secrets.token_urlsafe(32)
    entry = {"name": name, "sha256": hash_key(key), "created": datetime.now(UTC).date(), **limits}
    with _locked(path):
        known = read_key_file(path).model_dump()["keys"] if path.exists() else ()
        try:
            _write(path, KeyFile.model_validate({"keys": (*known, entry)}))
        except ValidationError as exc:
            raise _first_mistake(exc, str(path)) from exc
    return key


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of the file.

    Raises:
        SettingsError: there is no key of that name, or the file cannot be read.
    """
    with _locked(path):
        entries = read_key_file(path).keys
        kept = tuple(entry for entry in entries if entry.name != name)
        if len(kept) == len(entries):
            known = ", ".join(entry.name for entry in entries) or "none"
            raise SettingsError(str(path), f"has no key {one_line(name, 40)!r}; it has: {known}")
        _write(path, KeyFile(keys=kept))


def _first_mistake(exc: ValidationError, place: str) -> SettingsError:
    first = exc.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in (place, *first["loc"]))
    return SettingsError(where, one_line(first["msg"].removeprefix("Value error, ")))


def _locked(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


def _write(path: Path, content: KeyFile) -> None:
    """Replace the file whole, so that no reader sees half of it; owner and mode stay what they were."""
    data = yaml.safe_dump(content.model_dump(mode="json", exclude_none=True), sort_keys=False)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(_HEADER + data)
        if path.exists():
            before = path.stat()
            os.fchmod(file.fileno(), before.st_mode)
            os.fchown(file.fileno(), before.st_uid, before.st_gid)
    Path(temporary).replace(path)
