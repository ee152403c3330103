"""What every tier shares: an environment fit for torch and Ray on a small machine, and the tiers themselves.

``pytest -m fast`` runs the tier that needs neither torch nor Ray; it does not even read the files of the
other tiers, because importing torch costs more than all of it.
"""

from __future__ import annotations

import os
import re
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
_HEAVY_FILE = re.compile(rf"pytest\.mark\.({'|'.join(HEAVY)})\b")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The fast tier is asked for by exactly that word; other expressions see every file."""
    if config.option.markexpr != "fast" or collection_path.suffix != ".py":
        return None
    return bool(_HEAVY_FILE.search(collection_path.read_text(encoding="utf-8"))) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the fast tier; leave out ``gpu`` where there is no CUDA device, and ``clients`` unless asked for by name."""
    for item in items:
        if not any(item.get_closest_marker(name) for name in HEAVY):
            item.add_marker("fast")
    unwanted = [] if Path("/dev/nvidia0").exists() else ["gpu"]
    unwanted += [] if "clients" in config.option.markexpr else ["clients"]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in unwanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """Where the built-in base is converted to, once for all runs on this machine."""
    return Path("~/.cache/lmoe_ray").expanduser()
