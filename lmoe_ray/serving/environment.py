"""What Ray must find in the environment before it starts; its flags are read once, at import, everywhere."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from tempfile import gettempdir

#: Set on every Ray process of a cluster, wherever it is started from.
SERVE_ENVIRONMENT = {
    # HAProxy in front and gRPC between replicas: a request costs a quarter of the CPU (see README, numbers).
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # That option keeps a thousand log records back, and loses them when a replica ends.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # `uv run` would make Ray build a second virtual environment for its workers.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # A spinning OpenMP team is ten times slower beside any other busy process.
    "OMP_WAIT_POLICY": "passive",
}


def prepare_environment(port: int, environ: MutableMapping[str, str] = os.environ) -> None:
    """Fill in what is not set, for a graph on this machine that listens on ``port``.

    HAProxy's files and its side ports are derived from the port, so that two graphs on one machine
    do not overwrite each other's.
    """
    folder = Path(gettempdir()) / f"lmoe-haproxy-{port}"
    local = {
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # Serve kills a proxy that is not up within 5 s, and starts it over: a busy laptop never gets there.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # Ray starts its workers at nice 15, so that any busy program beside them starves every stream.
        "RAY_worker_niceness": "0",
        # Thirty seconds by default, which Ctrl-C would wait for even when no stream is open.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
    }
    for key, value in {**SERVE_ENVIRONMENT, **local}.items():
        environ.setdefault(key, value)
