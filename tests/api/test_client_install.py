"""What the opt-in installer of clients runs, without running it."""

from __future__ import annotations

from pathlib import Path

from tests.clients.catalogue import Client
from tests.clients.install import commands

PAGE = Client("page", "1", "nowhere", ("https://example.org/page", "0" * 40), "git")


def test_a_page_that_brings_its_lock_is_installed_from_it(tmp_path: Path) -> None:
    (tmp_path / "package-lock.json").write_text("{}")

    *_, last = commands(PAGE, tmp_path)

    # Without peers one of the pages does not compile: it names some of its packages only through another's peers.
    assert last[-1] == "ci"
    assert "--legacy-peer-deps" not in last


def test_a_page_without_a_lock_is_resolved_anew(tmp_path: Path) -> None:
    *_, last = commands(PAGE, tmp_path)

    assert "install" in last
    assert "--legacy-peer-deps" in last
