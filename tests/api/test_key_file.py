"""The file of keys: no key can be read from it, and no reader sees half of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmoe_ray.api.key_file import create_key, hash_key, read_key_file, revoke_key
from lmoe_ray.domain.caller import Caller, Quota
from lmoe_ray.errors import SettingsError

HASH = "a" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "keys.yaml"


def test_a_new_key_is_long_and_only_its_hash_is_kept(path: Path) -> None:
    key = create_key(path, "alice")

    assert key.startswith("lmoe-")
    assert len(key) == 48
    assert key not in path.read_text()
    assert read_key_file(path).keys[0].sha256 == hash_key(key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_a_key_may_use_is_kept_and_the_rest_is_without_limit(path: Path) -> None:
    create_key(path, "alice", experts=("code", "demo:math"), tokens_per_day=9)
    create_key(path, "bob", experts=())
    alice, bob = [entry.caller() for entry in read_key_file(path).keys]

    assert alice == Caller("alice", ("code", "demo:math"), Quota(tokens_per_day=9))
    assert bob == Caller("bob", ())


def test_a_revoked_key_is_gone_and_the_others_stay(path: Path) -> None:
    for name in ("alice", "bob"):
        create_key(path, name)
    revoke_key(path, "alice")

    assert [entry.name for entry in read_key_file(path).keys] == ["bob"]
    with pytest.raises(SettingsError, match="has no key 'alice'; it has: bob"):
        revoke_key(path, "alice")


def test_a_name_is_given_once(path: Path) -> None:
    create_key(path, "alice")
    before = path.read_text()

    with pytest.raises(SettingsError, match="names must differ; repeated: alice"):
        create_key(path, "alice")
    assert path.read_text() == before


def test_owner_and_mode_of_the_file_stay_what_they_were(path: Path) -> None:
    create_key(path, "alice")
    path.chmod(0o640)
    before = path.stat()
    create_key(path, "bob")
    after = path.stat()

    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert {name for name in os.listdir(path.parent) if not name.endswith(".lock")} == {"keys.yaml"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "should be a valid dictionary"),
        ({}, "keys: Field required"),
        ({"keys": [{"name": "a", "sha256": "lmoe-my-secret"}]}, "keys.0.sha256"),
        ({"keys": [{"name": "a b", "sha256": HASH}]}, "keys.0.name"),
        ({"keys": [{"name": "a", "sha256": HASH, "token_per_day": 1}]}, "keys.0.token_per_day: Extra inputs"),
        ({"keys": [{"name": "a", "sha256": HASH, "tokens_per_day": 0}]}, "keys.0.tokens_per_day"),
        ({"keys": [{"name": "a", "sha256": HASH}] * 2}, "names must differ"),
    ],
)
def test_a_mistake_is_named_and_what_stands_there_is_not_repeated(path: Path, content: Any, problem: str) -> None:
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(content))

    with pytest.raises(SettingsError) as refused:
        read_key_file(path)
    assert problem in str(refused.value)
    assert "my-secret" not in str(refused.value)


def test_a_missing_file_and_broken_yaml_say_what_to_do(path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read.*`lmoe keys create` makes it"):
        read_key_file(path)
    path.parent.mkdir()
    path.write_text("keys: [")
    with pytest.raises(SettingsError, match="is not YAML"):
        read_key_file(path)
