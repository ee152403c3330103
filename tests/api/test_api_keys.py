"""Whose key it is, and when a change of the file begins to count."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lmoe_ray.api.api_keys import KeyRing, hashed_keys
from lmoe_ray.api.key_file import create_key, hash_key, revoke_key
from lmoe_ray.domain.caller import Caller
from lmoe_ray.errors import KeysUnavailable, SettingsError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_a_key_opens_and_a_wrong_one_or_none_does_not(path: Path) -> None:
    key = create_key(path, "alice")
    ring = KeyRing(path)

    assert ring.identify([key]) == Caller("alice")
    for shown in ([], [""], [key[:-1]], [key + "x"], [key.upper()], ["\udce9\x00"], [hash_key(key)]):
        assert ring.identify(shown) is None


def test_one_right_key_among_several_shown_opens(path: Path) -> None:
    key = create_key(path, "alice")

    assert KeyRing(path).identify(["undefined", key]) == Caller("alice")


def test_a_new_key_opens_and_a_revoked_one_does_not_without_a_restart(path: Path) -> None:
    alice = create_key(path, "alice")
    ring = KeyRing(path)
    bob = create_key(path, "bob")
    assert ring.identify([bob]) == Caller("bob")

    revoke_key(path, "alice")
    assert ring.identify([alice]) is None
    assert ring.identify([bob]) == Caller("bob")


def test_the_file_is_read_only_when_it_has_changed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "lmoe_ray")
    key = create_key(path, "alice")
    ring = KeyRing(path)
    for _ in range(3):
        ring.identify([key])
    assert caplog.messages == []

    os.utime(path, (1, 1))
    for _ in range(3):
        ring.identify([key])
    assert caplog.messages == ["api keys read again num_keys=1"]


@pytest.mark.parametrize("broken", [None, "keys: ["])
def test_a_file_that_can_no_longer_be_read_opens_to_nobody_until_it_can(
    path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    key = create_key(path, "alice")
    ring = KeyRing(path, [hash_key("from-the-environment")])
    good = path.read_text()
    path.unlink() if broken is None else path.write_text(broken)

    for _ in range(2):
        with pytest.raises(KeysUnavailable):
            ring.identify([key])
    assert ring.identify(["from-the-environment"]) == Caller("env-1")
    assert caplog.text.count("none is accepted") == 1

    path.write_text(good)
    assert ring.identify([key]) == Caller("alice")


def test_a_file_that_is_not_there_at_the_start_is_refused(path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        KeyRing(path)


def test_keys_of_the_environment_are_hashed_at_once() -> None:
    hashes = hashed_keys({"LMOE_API_KEYS": " first-key-of-two ,second-key-of-two,"})

    assert hashes == (hash_key("first-key-of-two"), hash_key("second-key-of-two"))
    assert KeyRing(None, hashes).identify(["second-key-of-two"]) == Caller("env-2")
    assert hashed_keys({}) == hashed_keys({"LMOE_API_KEYS": ""}) == ()


def test_a_key_that_could_be_guessed_is_refused_without_repeating_it() -> None:
    with pytest.raises(SettingsError, match="LMOE_API_KEYS: key 2 has 6 characters, at least 16") as refused:
        hashed_keys({"LMOE_API_KEYS": "first-key-of-two,s3cret"[:23]})
    assert "s3cret" not in str(refused.value)
