"""What every tier shares: an environment fit for torch and Ray on a small machine, and no GPU tests without a GPU."""

from __future__ import annotations

import os
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the ``gpu`` tier where there is no CUDA device; say so in the summary."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu and not Path("/dev/nvidia0").exists():
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """Where the built-in base is converted to, once for all runs on this machine."""
    return Path("~/.cache/lmoe_ray").expanduser()
