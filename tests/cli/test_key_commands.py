"""``lmoe keys`` as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.cli.main import app
from lmoe_ray.domain.caller import Caller, Quota
from lmoe_ray.errors import SettingsError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def keys(path: Path, *arguments: str) -> str:
    """Standard output of a command that succeeds."""
    result = CliRunner().invoke(app, ["keys", *arguments, "--file", str(path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_key_is_all_that_is_printed_and_it_opens(path: Path) -> None:
    printed = keys(path, "create", "alice", "-e", "code", "-e", "math", "--requests-per-minute", "60")

    assert KeyRing(path).identify([printed.removesuffix("\n")]) == Caller("alice", ("code", "math"), Quota(60))


def test_the_list_shows_limits_and_no_hash(path: Path) -> None:
    keys(path, "create", "alice", "--tokens-per-day", "1000")
    keys(path, "create", "bob", "--base-only")
    shown = keys(path, "list")

    assert "alice" in shown
    assert "1000" in shown
    assert "none" in shown
    assert path.read_text().split("sha256: ")[1][:8] not in shown


def test_a_revoked_key_is_gone(path: Path) -> None:
    key = keys(path, "create", "alice").strip()
    keys(path, "revoke", "alice")

    assert KeyRing(path).identify([key]) is None


def test_experts_and_no_experts_contradict_each_other(path: Path) -> None:
    with pytest.raises(SettingsError, match="contradicts --expert"):
        keys(path, "create", "alice", "-e", "code", "--base-only")
    assert not path.exists()
