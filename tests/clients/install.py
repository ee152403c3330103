"""Puts other people's clients into a folder outside the repository, each into an environment of its own.

::

    python -m tests.clients.install FOLDER [CLIENT ...]
    LMOE_CLIENTS=FOLDER pytest -m clients tests/clients

Needs uv for clients in Python, npm for those in JavaScript, and git for those that are no packages. One that cannot
be installed is named, and its tests skip. Nothing that was installed by this is under the licence of this project.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.clients.catalogue import CLIENTS, Client

TIMEOUT_S = 900
#: No scripts of strangers.
NPM = ("npm", "--ignore-scripts", "--no-audit", "--no-fund")
#: Where nothing says what was resolved: no browser for each test framework.
NPM_INSTALL = (*NPM, "--legacy-peer-deps", "install", "--no-package-lock")


def commands(client: Client, folder: Path) -> Iterator[tuple[str, ...]]:
    """What installs ``client`` into ``folder``, which exists; the commands run in it."""
    if client.manager == "pip":
        yield ("uv", "venv", "--quiet", "--clear", "--python", sys.executable, ".venv")
        yield ("uv", "pip", "install", "--quiet", "--python", ".venv", *client.requirements)
    elif client.manager == "npm":
        (folder / "package.json").write_text('{"private": true}')
        yield (*NPM_INSTALL, "--no-save", *client.requirements)
    elif client.manager == "git":
        repository, commit, *packages = client.requirements
        yield ("git", "init", "--quiet")
        yield ("git", "fetch", "--quiet", "--depth=1", repository, commit)
        yield ("git", "checkout", "--quiet", "--force", "FETCH_HEAD")
        if packages:
            yield ("uv", "venv", "--quiet", "--clear", "--python", sys.executable, ".venv")
            yield ("uv", "pip", "install", "--quiet", "--python", ".venv", *packages)
        elif (folder / "package-lock.json").exists():  # what its authors ran, with packages that only peers ask for
            yield (*NPM, "ci")
        else:
            yield NPM_INSTALL


def install(client: Client, folder: Path) -> str:
    """Returns what went wrong, or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for command in commands(client, folder):
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            return done.stderr.strip()[-500:] or f"{command[0]} ended with {done.returncode}"
    (folder / "installed").write_text(client.version)
    return ""


def main(root: Path, names: list[str]) -> int:
    """Returns how many could not be installed."""
    wanted = [client for client in CLIENTS if client.manager and (not names or client.name in names)]
    problems = {client.name: install(client, root / client.slug) for client in wanted}
    for name, problem in problems.items():
        sys.stdout.write(f"{name}: {problem or 'installed'}\n")
    return sum(map(bool, problems.values()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
