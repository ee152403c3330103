"""What every tier shares: an environment fit for torch and Ray on a small machine, and the tiers themselves.

``pytest -m fast`` runs the tier that needs neither torch nor Ray and is over in seconds; it does not even import
the files of the other tiers, because importing torch costs more than all of it.
"""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from pathlib import Path

import pytest

# Read when torch and Ray are first imported, so set before any test module is.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")

HEAVY = ("torch", "model", "ray", "gpu", "browser", "fuzz")
# Single tests that are slow may stand among fast ones; all the others' files import what the fast tier does not need.
_NOT_FAST = re.compile(rf"pytest\.mark\.({'|'.join(HEAVY)}|clients)\b|^pytestmark = pytest\.mark\.slow\b", re.M)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The fast tier is asked for by exactly that word; other expressions see every file.

    A folder without any file of it is left out as a whole, or its ``conftest.py`` would be imported.
    """
    if config.option.markexpr != "fast":
        return None
    if collection_path.is_dir():
        tests = [*collection_path.rglob("test_*.py")]
        return bool(tests and all(_is_heavy(test) for test in tests)) or None
    return (collection_path.suffix == ".py" and _is_heavy(collection_path)) or None


@cache
def _is_heavy(file: Path) -> bool:
    return bool(_NOT_FAST.search(file.read_text(encoding="utf-8")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the fast tier; leave out ``gpu`` where there is no CUDA device, and ``clients`` unless asked for by name."""
    for item in items:
        if not any(item.get_closest_marker(name) for name in (*HEAVY, "slow")):
            item.add_marker("fast")
    unwanted = [] if Path("/dev/nvidia0").exists() else ["gpu"]
    unwanted += [] if "clients" in config.option.markexpr else ["clients"]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in unwanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish(session: pytest.Session) -> None:
    """The fast tier stays what it is called, also when a ``conftest.py`` or a module learns to import more."""
    if session.config.option.markexpr == "fast" and (loaded := {"torch", "ray"} & sys.modules.keys()):
        raise pytest.UsageError(f"a test of the fast tier imports {' and '.join(sorted(loaded))}")


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """Where the built-in base is converted to, once for all runs on this machine."""
    return Path("~/.cache/lmoe_ray").expanduser()
