"""API keys: the ring that tells whose key was shown.

The key file is read again whenever its time, size or inode has changed, which one ``stat`` per request
finds out: a revoked key is refused from the next request on. A file that can no longer be read opens to
nobody, because the ring cannot know what was revoked in it.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from lmoe_ray.api.key_file import hash_key, read_key_file
from lmoe_ray.domain.caller import Caller
from lmoe_ray.errors import KeysUnavailable, SettingsError

logger = logging.getLogger(__name__)

#: Keys in plain text, separated by commas; for containers, whose secrets come as variables.
ENVIRONMENT_VARIABLE = "LMOE_API_KEYS"
#: A key somebody made up must at least not be guessable by trying words.
MIN_KEY_CHARS = 16


def hashed_keys(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Hashes of the keys in :data:`ENVIRONMENT_VARIABLE`, none if it is not set.

    Raises:
        SettingsError: a key has fewer than :data:`MIN_KEY_CHARS` characters.
    """
    keys = [key.strip() for key in environ.get(ENVIRONMENT_VARIABLE, "").split(",") if key.strip()]
    for number, key in enumerate(keys, 1):
        if len(key) < MIN_KEY_CHARS:
            problem = f"key {number} has {len(key)} characters, at least {MIN_KEY_CHARS} are needed; try `lmoe keys`"
            raise SettingsError(ENVIRONMENT_VARIABLE, problem)
    return tuple(hash_key(key) for key in keys)


class KeyRing:
    """Every key that opens the API now."""

    def __init__(self, path: Path | None, hashes: Iterable[str] = ()) -> None:
        """``hashes`` are of further keys, which have no limits and are called ``env-1``, ``env-2`` and so on.

        Raises:
            SettingsError: the file is not there or broken.
        """
        self._path = path
        self._fixed = tuple((digest, Caller(f"env-{number}")) for number, digest in enumerate(hashes, 1))
        self._stamp = self._stamp_now()
        self._filed: tuple[tuple[str, Caller], ...] | None = self._read()

    def identify(self, shown: Iterable[str]) -> Caller | None:
        """Whose key is among those shown. Takes the same time for every key, right or wrong.

        Raises:
            KeysUnavailable: it is none of those given beside the file, and the file cannot be read.
        """
        self._reread_if_changed()
        digests = [hash_key(key) for key in shown]
        found = [
            caller
            for known, caller in (*self._fixed, *(self._filed or ()))
            if sum(hmac.compare_digest(known, digest) for digest in digests)
        ]
        if not found and self._filed is None:
            raise KeysUnavailable
        return found[0] if found else None

    def _reread_if_changed(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._filed = self._read()
            logger.info("api keys read again num_keys=%d", len(self._filed))
        except SettingsError as exc:
            self._filed = None
            logger.error("api keys cannot be read, so none is accepted: %s", exc)

    def _read(self) -> tuple[tuple[str, Caller], ...]:
        entries = read_key_file(self._path).keys if self._path else ()
        return tuple((entry.sha256, entry.caller()) for entry in entries)

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            found = None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None
